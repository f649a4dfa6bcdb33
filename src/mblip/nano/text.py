"""Text pretraining of the nano language model: names, lists, counting and yes/no, with words in place of a picture.

A scene is described cell by cell in some language, ``fox, -, red apple, -,``, followed by the prompt that alignment
uses after a picture. The model learns the words of every language and to follow the prompts, and never sees an image.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import MT5Config, MT5ForConditionalGeneration, PreTrainedTokenizerFast

from mblip.errors import InputError
from mblip.languages import LANGUAGES, YES_NO
from mblip.mixture.templates import load_templates
from mblip.nano.plugin import TEMPLATES
from mblip.nano.recipe_kinds import PhaseSection, TextRecipe
from mblip.nano.scenes import CELLS, NOTHING, Scene, sample_scene
from mblip.nano.words import Lexicon, load_lexicon
from mblip.training.logs import OnLog
from mblip.training.loop import Batch, LoopConfig, ParameterGroup, fit

# The prompts of the mix; their fixed words are single pieces.
PROMPTS = {task: template.prompt for task, template in load_templates((str(TEMPLATES),)).english()}
PLACE_SPREAD = 2.0  # standard deviation of the relative position biases at the start
OWN_WORD = 8.0  # initial logit of attention from a word to the same word
OWN_SHARE = 0.5  # share of questions in the language of the scene's description
SPECIAL = ["<pad>", "</s>", "<unk>", "<image>"]


class TextWorld:
    """Draws (source, target) pairs of text."""

    def __init__(self, languages: tuple[str, ...]) -> None:
        self.lexicon: Lexicon = load_lexicon()
        self.languages = languages or self.lexicon.languages
        self.answering = tuple(code for code in self.languages if code in YES_NO)
        # An object can be described in any language that names it; ku names few.
        self.named = {c: [x for x in self.lexicon.concepts if self.lexicon.name(x, c)] for c in self.languages}

    def draw(self, rng: np.random.Generator, task: str, phase: PhaseSection) -> tuple[str, str]:
        """One pair of a task, with the scene in English for the phase's share of pairs."""
        spoken = phase.languages or self.languages
        answering = phase.languages or self.answering
        pool = answering if task in ("presence", "matching", "question_generation") else spoken
        language = pool[int(rng.integers(len(pool)))]
        source = "en" if rng.random() < phase.english_share else spoken[int(rng.integers(len(spoken)))]
        if task in ("count", "presence", "matching") and rng.random() < OWN_SHARE:
            source = language  # comparing is learnt first with equal words
        concepts = self._shared(source, language)
        counting = task in ("count", "count_all")
        side_by_side = task in ("left", "right")
        most = {"naming": 1, "question_generation": 1, "caption": 3}.get(task, CELLS)
        count = 2 if side_by_side else int(rng.integers(1, min(most, phase.max_objects) + 1))
        shown = sample_scene(rng, count, concepts, repeat=0.6 if counting else 0.0)
        if side_by_side:
            row = 2 * int(rng.integers(2))
            shown = Scene(tuple((concept, row + i) for i, concept in enumerate(shown.concepts)), shown.variation)
        scene = shown.concepts
        fields: dict[str, str] = {"language": LANGUAGES[language].name}
        answer = ""
        if task in ("naming", "caption"):
            answer = ", ".join(self._name(concept, language) for concept in scene)
        elif task == "cells":
            answer = ", ".join(self._cells(shown, language))
        elif task == "count_all":
            answer = str(count)
        elif task == "count":
            asked = (
                scene[int(rng.integers(count))] if rng.random() < 0.9 else concepts[int(rng.integers(len(concepts)))]
            )
            fields["question"], answer = self._name(asked, language), str(scene.count(asked))
        elif task in ("left", "right"):
            answer = self._name(scene[0 if task == "left" else -1], language)
        elif task == "question_generation":
            fields["answer"] = YES_NO[language][0]
            answer = self._name(scene[0], language) + "?"
        else:
            truth = rng.random() < 0.5
            claim = list(scene)
            place = int(rng.integers(count))
            if not truth:
                claim[place] = _other(rng, concepts, scene)
            answer = YES_NO[language][0 if truth else 1]
            fields["question"] = self._name(claim[place], language)
            fields["caption"] = ", ".join(self._name(concept, language) for concept in claim)
        return f"{self._tell(shown, source)} {PROMPTS[task].format(**fields)}", answer

    def _tell(self, scene: Scene, language: str) -> str:
        """The text for a picture: every cell in reading order, with a comma after each.

        With fixed positions, the model learns in hundreds of steps what a list is. With names alone, at varying
        positions, it did not learn it in two thousand.
        """
        return " ".join(f"{name}," for name in self._cells(scene, language))

    def _cells(self, scene: Scene, language: str) -> list[str]:
        return [cell if cell == NOTHING else self._name(cell, language) for cell in scene.cells]

    @cache  # noqa: B019 - one world exists as long as its run
    def _shared(self, source: str, language: str) -> list[str]:
        own = set(self.named[source])
        return [concept for concept in self.named[language] if concept in own]

    def _name(self, concept: str, language: str) -> str:
        name = self.lexicon.name(concept, language)
        if name is None:
            raise KeyError(f"{concept} has no name in {language}")
        return name


def _other(rng: np.random.Generator, concepts: list[str], scene: tuple[str, ...]) -> str:
    while (concept := concepts[int(rng.integers(len(concepts)))]) in scene:
        continue
    return concept


def build_tokenizer(world: TextWorld, vocabulary: str, pieces: int) -> PreTrainedTokenizerFast:
    """A Unigram tokeniser with byte fallback over the words of a world and the prompts.

    With ``names`` every name is one piece, a shortcut; with ``subword`` names consist of ordinary pieces trained on
    them. Nothing is unknown in either: text without a piece falls back to bytes.
    """
    names = sorted({world.lexicon.name(c, code) or "" for code in world.languages for c in world.named[code]})
    prompts = [piece for prompt in PROMPTS.values() for piece in _fixed(prompt)]
    answers = [word for code in world.answering for word in YES_NO[code]] + [str(n) for n in range(10)] + [NOTHING]
    languages = [LANGUAGES[code].name for code in world.languages]
    whole = [*prompts, *languages, *answers, *(names if vocabulary == "names" else [])]
    table = [(token, 0.0) for token in SPECIAL]
    table += [(f"<0x{byte:02X}>", -30.0) for byte in range(256)]
    seen = {token for token, _ in table}
    if vocabulary == "subword":
        for piece, score in _train_unigram(names, pieces):
            if piece not in seen:
                seen.add(piece)
                table.append((piece, score))
    for text in [*whole, *[mark for mark in ",?:"]]:
        piece = text if text in ",?:" else "▁" + text.replace(" ", "▁")
        if piece not in seen:
            seen.add(piece)
            table.append((piece, -5.0))
    tokenizer = Tokenizer(models.Unigram(table, unk_id=2, byte_fallback=True))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Fuse(), decoders.Replace("▁", " "), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )  # fmt: skip


def _fixed(prompt: str) -> list[str]:
    """The words of a prompt between its fields and punctuation."""
    text = prompt
    for gap in ("{language}", "{question}", "{caption}", "{answer}", ",", "?", ":"):
        text = text.replace(gap, "|")
    return [part.strip() for part in text.split("|") if part.strip()]


def _train_unigram(names: list[str], pieces: int) -> list[tuple[str, float]]:
    from tokenizers import trainers

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    trainer = trainers.UnigramTrainer(vocab_size=pieces, show_progress=False, max_piece_length=12)
    tokenizer.train_from_iterator(names, trainer)
    state = json.loads(tokenizer.to_str())
    return [(piece, score) for piece, score in state["model"]["vocab"] if not piece.startswith("<")]


def build_language_model(
    recipe: TextRecipe, world: TextWorld, tokenizer: PreTrainedTokenizerFast
) -> MT5ForConditionalGeneration:
    """An untrained mT5 of the recipe's shape, with an output head separate from the input embedding as in mT0."""
    config = MT5Config(
        vocab_size=len(tokenizer), d_model=recipe.width, d_kv=recipe.width // recipe.heads, d_ff=recipe.feed_forward,
        num_layers=recipe.encoder_layers, num_decoder_layers=recipe.decoder_layers, num_heads=recipe.heads,
        relative_attention_num_buckets=64, relative_attention_max_distance=64, dropout_rate=0.0,
        pad_token_id=0, eos_token_id=1, decoder_start_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    model = MT5ForConditionalGeneration(config)
    # transformers ties the head of a model built from a config, whatever the config says.
    model.lm_head = nn.Linear(recipe.width, len(tokenizer), bias=False)
    model.config.tie_word_embeddings = False
    generator = torch.Generator().manual_seed(recipe.seed)
    with torch.no_grad():
        # At the rates of the other weights, a bias needs a thousand steps until it separates neighbouring positions,
        # and no order is learnt before that.
        for name, bias in model.named_parameters():
            if "relative_attention_bias" in name:
                # Only every second head; the others compare words.
                bias[:, ::2].normal_(0, PLACE_SPREAD, generator=generator)
        # The other heads start with keys equal to queries, so that they attend to equal words. Without this, the model
        # needs thousands of steps to learn whether a word is among the given ones.
        width = model.config.d_kv
        spread = (OWN_WORD / (width * model.config.d_model)) ** 0.5
        for block in model.encoder.block:
            attention = block.layer[0].SelfAttention
            for head in range(1, model.config.num_heads, 2):
                rows = slice(head * width, (head + 1) * width)
                attention.q.weight[rows].normal_(0, spread, generator=generator)
                attention.k.weight[rows] = attention.q.weight[rows]
        for table in (model.shared.weight, model.lm_head.weight):
            table.normal_(0, 0.3, generator=generator)
            if recipe.aligned_words:
                _align_words(table, world, tokenizer, generator)
    return model


def _align_words(
    table: Tensor, world: TextWorld, tokenizer: PreTrainedTokenizerFast, generator: torch.Generator
) -> None:
    """Initialise each name's piece by its concept's vector plus its language's, like dictionary-aligned word vectors.

    From independent random vectors, the same model needs many times the steps to learn which of 26,000 names are
    translations of each other. A name that several languages share starts at the mean.
    """
    concepts = torch.randn(len(world.lexicon.concepts), table.shape[1], generator=generator) * 0.25
    languages = torch.randn(len(world.languages), table.shape[1], generator=generator) * 0.2
    truths = torch.randn(2, table.shape[1], generator=generator) * 0.25
    vectors: dict[int, list[Tensor]] = {}
    for j, code in enumerate(world.languages):
        for i, concept in enumerate(world.lexicon.concepts):
            name = world.lexicon.name(concept, code)
            ids = tokenizer(name, add_special_tokens=False)["input_ids"] if name else []
            if len(ids) == 1:
                vectors.setdefault(ids[0], []).append(concepts[i] + languages[j])
        for i, word in enumerate(YES_NO.get(code, ())):
            ids = tokenizer(word, add_special_tokens=False)["input_ids"]
            if len(ids) == 1:
                vectors.setdefault(ids[0], []).append(truths[i] + languages[j])
    for index, found in vectors.items():
        table[index] = torch.stack(found).mean(0)


def train_text(recipe: TextRecipe, directory: Path, on_log: OnLog) -> dict[str, Any]:
    """Train a language model, save it (stock layout) in ``directory/model``, and return the last log row."""
    unknown = [code for code in recipe.languages if code not in load_lexicon().languages]
    if unknown:
        raise InputError(f"field 'languages': the lexicon has no names in {unknown[0]!r}")
    torch.manual_seed(recipe.seed)
    world = TextWorld(recipe.languages)
    tokenizer = build_tokenizer(world, recipe.vocabulary, recipe.pieces)
    model = build_language_model(recipe, world, tokenizer)

    def batches(step: int) -> list[Batch]:
        phase = _phase(recipe, step)
        rng = np.random.default_rng([recipe.seed, step])
        tasks, weights = list(phase.tasks), np.array(list(phase.tasks.values()))
        chosen = rng.choice(len(tasks), size=recipe.batch, p=weights / weights.sum())
        # Short and long texts are in separate batches, because one matching question would pad five hundred names to
        # its length.
        pairs = sorted((world.draw(rng, tasks[i], phase) for i in chosen), key=lambda pair: pair[0].count(" "))
        half = len(pairs) // 2
        micro_batches = [encode_pairs(tokenizer, part) for part in (pairs[:half], pairs[half:])]
        if phase.candidates:
            for batch in micro_batches:
                sample_candidates(batch, rng, len(tokenizer), phase.candidates)
        return micro_batches

    words = [(name, p) for name, p in model.named_parameters() if p.shape[0] == len(tokenizer)]
    body = [(name, p) for name, p in model.named_parameters() if p.shape[0] != len(tokenizer)]
    steps = sum(phase.steps for phase in recipe.phases)
    row = fit(LoopConfig(
        model=model, groups=[ParameterGroup("body", body, recipe.lr), ParameterGroup("words", words, recipe.word_lr)],
        batches=batches, loss=text_loss, steps=steps, seed=recipe.seed, directory=directory, warmup=recipe.warmup_steps,
        floor=recipe.min_lr_share, stop=recipe.stop, weight_decay=0.0, checkpoint_every=recipe.checkpoint_every,
        log_every=recipe.log_every, on_log=on_log,
    ))  # fmt: skip
    model.to(torch.float16).save_pretrained(directory / "model")
    tokenizer.save_pretrained(directory / "model")
    return row


def _phase(recipe: TextRecipe, step: int) -> PhaseSection:
    for phase in recipe.phases:
        if step < phase.steps:
            return phase
        step -= phase.steps
    return recipe.phases[-1]


def encode_pairs(tokenizer: PreTrainedTokenizerFast, pairs: list[tuple[str, str]]) -> Batch:
    """Pad pairs of source and target text: input_ids, attention_mask [texts, tokens], labels [texts, tokens]."""
    source = tokenizer([s for s, _ in pairs], padding=True, return_tensors="pt")
    target = tokenizer([t for _, t in pairs], padding=True, return_tensors="pt")
    labels = target["input_ids"].masked_fill(target["attention_mask"] == 0, -100)
    return {"input_ids": source["input_ids"], "attention_mask": source["attention_mask"], "labels": labels}


def sample_candidates(batch: Batch, rng: np.random.Generator, vocabulary: int, count: int) -> None:
    """Add ``candidates`` to a batch, the vocabulary entries of its softmax, and renumber the labels by them.

    Candidates are all target pieces of the batch and a uniform sample of the others: the head is most of a step's cost,
    and a sample ranks as well while words are being learnt. The last phase of a recipe uses the complete vocabulary.
    """
    labels = batch["labels"].numpy()
    wanted = labels[labels != -100]
    candidates = np.unique(np.concatenate([wanted, rng.integers(vocabulary, size=count)]))
    batch["candidates"] = torch.from_numpy(candidates)
    batch["targets"] = torch.from_numpy(np.searchsorted(candidates, wanted))


def text_loss(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Cross-entropy summed over the target tokens, with logits only for these tokens (and candidates)."""
    labels = batch["labels"]
    core: Any = model
    states = core.encoder(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    hidden = core.decoder(
        input_ids=core._shift_right(labels), encoder_hidden_states=states,
        encoder_attention_mask=batch["attention_mask"],
    ).last_hidden_state  # fmt: skip
    wanted = labels != -100
    head = core.lm_head.weight
    targets = labels[wanted]
    if "candidates" in batch:
        head, targets = head[batch["candidates"]], batch["targets"]
    logits = hidden[wanted] @ head.T
    loss = nn.functional.cross_entropy(logits, targets, reduction="sum")
    right = (logits.argmax(-1) == targets).float().mean()
    return {"loss_sum": loss, "tokens": wanted.sum(), "token_accuracy": right}
