"""The method (paper, section 3.1): images become tokens that a language model reads before each prompt.

This is the plain path, from top to bottom: encode images once, put them before their texts, compute the loss of the
answers or generate them. The speed-ups in :mod:`mblip.models.speedups` are optional; each is called beside the line
that it replaces.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from mblip.errors import InputError, counted
from mblip.models.containers import container_of, finite
from mblip.models.generation_options import leaves_cache, penalise_every_answer_token, spell_out
from mblip.models.head import place_output_head
from mblip.models.language_model import CausalLanguageModel, LanguageModel, Seq2SeqLanguageModel, eval_mode
from mblip.models.origin import Origin
from mblip.models.speedups import packed_rows, shared_beams, shared_prefix
from mblip.models.tokens import end_token, end_tokens, listed
from mblip.processing.framing import ChatFrame, Frame, PlainFrame
from mblip.processing.images import Picture, open_picture
from mblip.processing.prompts import check_text
from mblip.processing.text import IGNORED, TextLayout

Batch = dict[str, Tensor]
# Default length of generation: the paper's longest caption.
DEFAULT_NEW_TOKENS = 50


class VisionLLM(nn.Module):
    """A vision-language model.

    Args:
        model: The stock model that holds vision encoder, bridge and language model; this is what is saved.
        processor: Its stock processor (image processor and tokeniser).

    Attributes:
        container: The parts of the model.
        llm: The language model.
        speedups: Names of the speed-ups that are on, see :func:`mblip.models.speedups.speed_up`.
        origin: Base checkpoints and adapters, as a run directory records them.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        super().__init__()
        self.model = model
        self.processor = processor
        self.container = container_of(model)
        place_output_head(self.container.language_model)
        self.llm: LanguageModel = LanguageModel.of(self.container.language_model)
        self.speedups: frozenset[str] = frozenset()
        self.origin: Origin | None = None

    def __repr__(self) -> str:
        """A summary in one line; ``print(model.model)`` shows every layer."""
        size = sum(parameter.numel() for parameter in self.parameters()) / 1e6
        dtype = str(self.llm.dtype).removeprefix("torch.")
        name, tokens = type(self.language_model).__name__, self.container.tokens_per_image
        shown = f"{name}, {size:,.1f} M parameters, {tokens} image tokens, {dtype} on {self.device}"
        return f"{type(self).__name__}({shown})"

    @property
    def tokenizer(self) -> Any:
        """The language model's tokeniser."""
        return self.processor.tokenizer

    @property
    def language_model(self) -> Any:
        """The language model inside the container, a class of transformers."""
        return self.llm.model

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether the language model has an encoder (mT0) or is decoder-only (BLOOMZ)."""
        return self.llm.is_encoder_decoder

    @property
    def device(self) -> torch.device:
        """The device that inputs are moved to."""
        return self.container.device

    @property
    def layout(self) -> TextLayout:
        """The layout that turns prompts and answers into tokens, with the chat template if :attr:`chats` is true."""
        return self.layout_for(None)

    @property
    def chats(self) -> bool:
        """Whether prompts use the language model's chat template by default.

        They do as in training (``chat_prompts`` in the configuration); if that is not recorded, they do if there is a
        template.
        """
        said: bool | None = getattr(self.model.config, "chat_prompts", None)
        has_template = self.container.images_in_text and bool(self.chat_template)
        return has_template if said is None else said and has_template

    @property
    def chat_template(self) -> str | None:
        """The chat template, in Jinja; None if there is none."""
        template: str | None = getattr(self.processor, "chat_template", None)
        return template

    def layout_for(self, chat: bool | None) -> TextLayout:
        """The layout with or without the chat template; None follows :attr:`chats`.

        Raises:
            InputError: A chat template is requested, but there is none, or it does not show images.
        """
        chosen = self.chats if chat is None else chat
        if chosen and not (self.container.images_in_text and self.chat_template):
            where = (
                "this model has no chat template" if self.container.images_in_text else "BLIP-2 takes no chat template"
            )
            raise InputError(f"chat=True: {where}; leave it out, or set chat=False")
        return self._with_template if chosen else self._without_template

    @cached_property
    def _with_template(self) -> TextLayout:
        assert self.chat_template is not None
        return self._layout(ChatFrame(self.tokenizer, self.chat_template, self._image_token))

    @cached_property
    def _without_template(self) -> TextLayout:
        return self._layout(PlainFrame(self._image_token) if self.container.images_in_text else None)

    @property
    def _image_token(self) -> str:
        return str(self.tokenizer.convert_ids_to_tokens(self.container.image_token_id))

    def ends_for(self, chat: bool | None) -> list[int]:
        """The ids that end an answer: the language model's, and that of the chat template if prompts use it."""
        known = listed(self.language_model.generation_config.eos_token_id) or end_tokens(self.language_model)
        return [*known, *({self.layout_for(chat).end_token_id} - set(known))]

    def _layout(self, frame: Frame | None) -> TextLayout:
        image_token, tokens = self.container.image_token_id, self.container.tokens_per_image
        end = end_token(self.language_model, self.tokenizer)
        separator = getattr(self.model.config, "answer_separator", None)
        first = getattr(self.model.config, "start_token", None) == "first"
        return TextLayout(self.tokenizer, image_token, end, tokens, self.is_encoder_decoder, separator, frame, first)

    # Images

    def pixels(self, images: Sequence[Picture]) -> Tensor:
        """Preprocess pictures (paths, bytes, PIL images or arrays) for the vision model [images, 3, H, W]."""
        opened = [open_picture(image) for image in images]
        values: Tensor = self.processor.image_processor(opened, return_tensors="pt")["pixel_values"]
        return values.to(self.device)

    def encode(self, images: Sequence[Picture]) -> Tensor:
        """Image features of pictures for the language model [images, tokens, width], without gradients.

        Raises:
            InputError: A picture cannot be read, or its features are not finite.
        """
        with torch.no_grad(), eval_mode(self):
            if not images:
                return self._no_features()
            return finite(self.encode_images(self.pixels(images)))

    def encode_images(self, pixel_values: Tensor) -> Tensor:
        """Image features for the language model: [images, 3, H, W] -> [images, tokens, width]."""
        return self.container.encode_images(pixel_values)

    def _features(self, batch: Batch) -> Tensor:
        """Image features of a batch for the language model, given or computed."""
        if "image_features" in batch:
            return batch["image_features"]
        if "vision_states" in batch:  # see mblip.training.features
            return self.container.encode_states(batch["vision_states"])
        return self.encode_images(batch["pixel_values"]) if len(batch["pixel_values"]) else self._no_features()

    def _no_features(self) -> Tensor:
        """Features for a batch of texts without images [0, image tokens, width].

        They depend on every trainable weight outside the language model, so that its gradient is zero and not missing:
        with several processes, each waits for the gradient of every weight in every batch.
        """
        own = {id(parameter) for parameter in self.language_model.parameters()}
        others = [p for p in self.model.parameters() if p.requires_grad and id(p) not in own]
        nothing = sum((parameter.flatten()[:0].sum() for parameter in others), torch.zeros((), device=self.device))
        width = self.llm.hidden_size
        return nothing * torch.zeros(0, self.container.tokens_per_image, width, device=self.device)

    # Images before words

    def embed(self, input_ids: Tensor, image_features: Tensor, image_index: Tensor) -> Tensor:
        """Word embeddings with the images' features in place of the placeholders [texts, tokens, width].

        Args:
            input_ids: [texts, tokens].
            image_features: [images, image tokens, width].
            image_index: [texts, images of a text], rows of ``image_features``; -1 pads texts with fewer images.

        Raises:
            InputError: A row has more or fewer placeholders than its images take, so that rows would be filled with
                each other's images; or a token has no embedding.
        """
        placeholders = input_ids == self.container.image_token_id
        used = image_index >= 0
        found, expected = placeholders.sum(1), used.sum(1) * image_features.shape[1]
        if not torch.equal(found, expected):
            row = int((found != expected).nonzero()[0])
            raise InputError(
                f"text {row} of the batch has {int(found[row])} image tokens, but its {int(used[row].sum())} images "
                f"take {int(expected[row])}; build the batch with the model's layout"
            )
        table = self.llm.embeddings
        if int(input_ids.max()) >= table.num_embeddings:
            raise InputError(
                f"the tokeniser gives the id {int(input_ids.max())}, but the language model has {table.num_embeddings} "
                "embeddings; use the tokeniser that belongs to it"
            )
        embedded: Tensor = table(input_ids)
        wanted = image_features[image_index[used]].flatten(0, 1).to(embedded.dtype)
        positions = placeholders.flatten().nonzero().squeeze(1)
        return embedded.flatten(0, 1).index_copy(0, positions, wanted).view_as(embedded)

    # The loss of the answers

    def forward(self, batch: Batch, per_text: bool = False) -> dict[str, Tensor]:
        """The loss of a batch; each image is encoded once for all its texts.

        Args:
            batch: ``pixel_values`` [images, 3, H, W] (or the container's ``vision_states`` of them, or ``image_features``
                [images, tokens, width]), ``image_index`` [texts, images of a text], ``input_ids`` and ``attention_mask``
                [texts, tokens], and ``labels``: for an encoder-decoder [texts, answer tokens], else aligned with
                ``input_ids``; -100 is not supervised.
            per_text: Also return each text's own loss; there are no gradients then.

        Returns:
            ``loss`` (mean over supervised tokens), ``loss_sum`` and ``tokens``; with ``per_text`` also
            ``text_loss_sum`` and ``text_tokens`` [texts]. Losses are in nats and fp32.
        """
        hidden, labels = self.hidden_states_and_labels(batch)
        if per_text:
            sums, counts = self.text_losses(hidden, labels)
            total, tokens = sums.sum(), counts.sum()
            return {
                "loss": total / tokens,
                "loss_sum": total,
                "tokens": tokens,
                "text_loss_sum": sums,
                "text_tokens": counts,
            }
        states, targets, _ = supervised(hidden, labels)
        total = self.llm.loss_sum(states, targets)
        tokens = torch.tensor(len(targets), device=targets.device)
        return {"loss": total / tokens, "loss_sum": total, "tokens": tokens}

    def logits(self, batch: Batch) -> Tensor:
        """Logits of the supervised tokens of a small batch [tokens, vocabulary], without gradients."""
        with torch.no_grad(), eval_mode(self):
            states, _, _ = supervised(*self.hidden_states_and_labels(batch))
            return self.llm.logits(states)

    def hidden_states_and_labels(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The states that the output head reads [texts, tokens, width], and the label of each [texts, tokens]."""
        embedded = self.embed(batch["input_ids"], self._features(batch), batch["image_index"])
        hidden = None
        if "packed_rows" in self.speedups:  # returns None if one row per text is as cheap
            hidden = packed_rows.hidden_states(self.llm, embedded, batch, self.layout)
        if hidden is None:
            hidden = self.hidden_states(embedded, batch)
        labels = batch["labels"]
        return (hidden, labels) if self.is_encoder_decoder else (hidden[:, :-1], labels[:, 1:])

    def hidden_states(self, embedded: Tensor, batch: Batch) -> Tensor:
        """The states that the output head reads, one row per text.

        An encoder-decoder reads the prompt and predicts the answer [texts, answer tokens, width]; a decoder-only model
        reads both in one row [texts, tokens, width].
        """
        mask, labels = batch["attention_mask"], batch["labels"]
        if isinstance(self.llm, Seq2SeqLanguageModel):
            given = self.llm.decoder_input_ids(labels, self.layout.pad_token_id)
            return self.llm.hidden_states(given, self.llm.encode(embedded, mask), mask)
        assert isinstance(self.llm, CausalLanguageModel)
        return self.llm.hidden_states(embedded, mask)

    def text_losses(self, hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Summed losses (nats, fp32, without gradients) and number of supervised tokens of each text [texts].

        Args:
            hidden: The states that the output head reads [texts, tokens, width].
            labels: The label of each state [texts, tokens]; -100 is not counted.
        """
        states, targets, owner = supervised(hidden, labels)
        losses = self.llm.token_losses(states, targets)
        return losses.new_zeros(len(labels)).index_add_(0, owner, losses), (labels != IGNORED).sum(1)

    # Answers

    def generate(
        self, images: Sequence[Picture | Sequence[Picture]], prompts: Sequence[str], **generation: Any
    ) -> list[str]:
        """Answer each prompt about its image (or list of images), all in one batch.

        For more prompts than fit the memory at once, use :class:`~mblip.models.generation.Generator`.

        Args:
            images: One picture, or a list of pictures, for each prompt: paths, bytes, PIL images or arrays.
            prompts: One text for each of them.
            **generation: Options of transformers' ``generate``, such as ``num_beams=5``, and ``chat``, see
                :meth:`generate_ids`.

        Returns:
            The answers alone, without special tokens.

        Raises:
            InputError: The numbers of images and prompts differ, or a picture cannot be read.
        """
        check_prompts(images, prompts)
        if not prompts:
            return []
        groups: list[list[Any]] = [list(entry) if isinstance(entry, list | tuple) else [entry] for entry in images]
        pictures = {id(picture): picture for group in groups for picture in group}  # each is encoded once
        row = {key: number for number, key in enumerate(pictures)}
        width = max(map(len, groups))
        index = [[row[id(picture)] for picture in group] + [-1] * (width - len(group)) for group in groups]
        features = self.encode(list(pictures.values()))
        image_index = torch.tensor(index, dtype=torch.long, device=self.device).view(len(prompts), width)
        return self.decode(self.generate_ids(prompts, features, image_index, **generation))

    def generate_ids(
        self,
        prompts: Sequence[str],
        image_features: Tensor,
        image_index: Tensor,
        *,
        image_keys: Sequence[Hashable] | None = None,
        prefixes: shared_prefix.Prefixes | None = None,
        **generation: Any,
    ) -> Tensor:
        """Generate answers from encoded images, as token ids [texts, tokens] without the prompt.

        Args:
            prompts: The texts.
            image_features: [images, tokens, width].
            image_index: [texts, images of a text], see :meth:`embed`.
            image_keys: With ``prefixes``, a key for the images of each text, unique over all calls.
            prefixes: Keys and values of images from earlier calls (:mod:`mblip.models.speedups.shared_prefix`).
            **generation: Options of transformers' ``generate``; the default length is 50 new tokens. Penalties
                (``repetition_penalty``, ``no_repeat_ngram_size``) count the answer's tokens only. ``chat=False`` leaves
                the language model's chat template out, ``chat=True`` uses it; see :attr:`chats`.

        Raises:
            InputError: An option gives something other than one answer per prompt, or needs the prompt as words.
        """
        generation = spell_out(generation)
        chat = generation.pop("chat", None)
        layout = self.layout_for(chat)
        counts = (image_index >= 0).sum(1).tolist()
        batch = {name: value.to(self.device) for name, value in layout.prompts(prompts, counts).items()}
        generation.setdefault("eos_token_id", self.ends_for(chat))
        if generation.get("stop_strings"):
            generation.setdefault("tokenizer", self.tokenizer)
        if not {"max_new_tokens", "max_length"} & generation.keys():
            generation["max_new_tokens"] = DEFAULT_NEW_TOKENS
        generation.setdefault("pad_token_id", layout.pad_token_id)
        with torch.no_grad(), eval_mode(self):
            mask = batch["attention_mask"]
            embedded = self.embed(batch["input_ids"], image_features, image_index)
            inputs: dict[str, Any] = {"inputs_embeds": embedded, "attention_mask": mask}
            beams = generation.get("num_beams") or 1
            shares = "shared_beams" in self.speedups and beams > 1 and leaves_cache(generation)
            if shares:
                inputs = shared_beams.inputs(self.llm, embedded, mask, beams)
            elif "shared_prefix" in self.speedups:
                seen = image_keys or [tuple(row) for row in image_index.tolist()]
                heads = shared_prefix.heads_of(batch["input_ids"], mask, layout.image_token_id, seen)
                if shared_prefix.is_worth_it(self.llm, heads, mask, prefixes, generation):
                    inputs = shared_prefix.inputs(self.llm, embedded, mask, heads, beams, prefixes)
            # The prompt's ids are not passed, so that penalties count only the answer, as in the original. The stock
            # class passes them to a decoder-only model and penalises the prompt's words too (docs/differences.md).
            if not self.is_encoder_decoder:
                generation = penalise_every_answer_token(generation, self.language_model.generation_config)
            ids: Tensor = self.language_model.generate(**inputs, **generation)
            if shares:
                shared_beams.warn_if_unused(self.llm, inputs)
        return ids

    def decode(self, ids: Tensor) -> list[str]:
        """Decode token ids [texts, tokens] to stripped texts."""
        return [text.strip() for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]


def check_prompts(images: Sequence[Any], prompts: Sequence[str]) -> None:
    """Check that there is an image (or a list of images) for each prompt, and that prompts are texts.

    Raises:
        InputError: There is not, or one is no text.
    """
    if isinstance(prompts, str | bytes) or isinstance(images, str | bytes):
        raise InputError("prompts and images are lists: write ['...'] for one of them")
    if len(images) != len(prompts):
        raise InputError(
            f"{counted(len(prompts), 'prompt')} for {counted(len(images), 'image')}: give one image (or list) for each"
        )
    for prompt in prompts:
        check_text(prompt)


def supervised(hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states [tokens, width], targets [tokens] and text indices [tokens] of the supervised positions."""
    positions = (labels != IGNORED).flatten().nonzero().squeeze(1)
    states = hidden.flatten(0, 1).index_select(0, positions)
    owner = torch.div(positions, labels.shape[1], rounding_mode="floor")
    return states, labels.flatten().index_select(0, positions), owner
