"""The model: a stock BLIP-2 container around any language model, with one forward and one generate.

What the stock class lacks is added around it, never inside: images are encoded once for all their texts, a text may
have several images, logits are made for supervised tokens alone, and candidates are scored without generating.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import ExitStack
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Blip2ForConditionalGeneration, Blip2Processor

from mblip.errors import InputError
from mblip.models.beams import read_once
from mblip.models.generation import Generator, Request, evaluating
from mblip.models.loss import loss_sum, squashed_logits, token_losses
from mblip.models.origin import Origin
from mblip.models.packing import packed_states, packs_alike
from mblip.models.tokens import end_token
from mblip.processing.images import Picture, open_picture
from mblip.processing.text import IGNORED, TextLayout

Batch = dict[str, Tensor]
# What `generate` stops at where nothing is said: the paper's longest caption.
DEFAULT_NEW_TOKENS = 50


class VisionLLM(nn.Module):
    """A vision-language model.

    Attributes:
        model: The stock container, which everything is saved from.
        processor: Its stock processor: image processor and tokeniser.
        origin: The checkpoints it was made from, which a run directory names.
    """

    def __init__(self, model: Blip2ForConditionalGeneration, processor: Blip2Processor) -> None:
        super().__init__()
        self.model = model
        self.processor = processor
        self.origin: Origin | None = None

    def __repr__(self) -> str:
        """One line instead of every layer; those are those of ``model``."""
        size = sum(parameter.numel() for parameter in self.parameters()) / 1e6
        dtype = str(self.model.get_input_embeddings().weight.dtype).removeprefix("torch.")
        name = type(self.language_model).__name__
        shown = f"{name}, {size:,.1f} M parameters, {self.num_query_tokens} image tokens, {dtype} on {self.device}"
        return f"{type(self).__name__}({shown})"

    @property
    def tokenizer(self) -> Any:
        """The language model's tokeniser."""
        return self.processor.tokenizer

    @property
    def language_model(self) -> Any:
        """The language model inside the container."""
        return self.model.language_model

    @property
    def num_query_tokens(self) -> int:
        """Image tokens that one image takes in a prompt."""
        return int(self.model.config.num_query_tokens)

    @property
    def width(self) -> int:
        """Of the language model's embeddings."""
        return int(self.model.get_input_embeddings().embedding_dim)

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether the language model has an encoder (mT0) or is a decoder alone (BLOOMZ)."""
        return bool(self.language_model.config.is_encoder_decoder)

    @property
    def device(self) -> torch.device:
        """Where the inputs go."""
        device: torch.device = self.model.query_tokens.device
        return device

    @cached_property
    def layout(self) -> TextLayout:
        """How this model's prompts and answers become tokens."""
        image_token = int(self.model.config.image_token_index)
        end = end_token(self.language_model, self.tokenizer)
        return TextLayout(self.tokenizer, image_token, end, self.num_query_tokens, self.is_encoder_decoder)

    def pixels(self, images: Sequence[Picture]) -> Tensor:
        """Pictures (paths, bytes, PIL images or arrays) as the vision model wants them [images, 3, H, W]."""
        opened = [open_picture(image) for image in images]
        values: Tensor = self.processor.image_processor(opened, return_tensors="pt")["pixel_values"]
        return values.to(self.device)

    def encode(self, images: Sequence[Picture]) -> Tensor:
        """What the language model sees of each picture [images, queries, width], without gradients.

        Raises:
            UnreadableImage: A picture cannot be read.
        """
        with torch.no_grad(), evaluating(self):
            return self.encode_images(self.pixels(images))

    def encode_images(self, pixel_values: Tensor) -> Tensor:
        """What the language model sees of each image: [images, 3, H, W] -> [images, queries, language model width]."""
        projection = self.model.language_projection
        projected: Tensor = projection(self.query_states(pixel_values).to(projection.weight.dtype))
        return projected

    def query_states(self, pixel_values: Tensor) -> Tensor:
        """What the Q-Former makes of each image: [images, 3, H, W] -> [images, queries, Q-Former width]."""
        model = self.model
        vision_dtype = model.vision_model.embeddings.class_embedding.dtype
        patches = model.vision_model(pixel_values=pixel_values.to(vision_dtype)).last_hidden_state
        queries = model.query_tokens.expand(len(patches), -1, -1)
        seen: Tensor = model.qformer(query_embeds=queries, encoder_hidden_states=patches).last_hidden_state
        return seen

    def embed(self, input_ids: Tensor, image_features: Tensor, image_index: Tensor) -> Tensor:
        """Word embeddings with the images' features in place of the placeholders.

        Args:
            input_ids: [texts, tokens].
            image_features: [images, queries, width].
            image_index: [texts, images of a text], rows of ``image_features``; -1 where a text has fewer.

        Returns:
            [texts, tokens, width].

        Raises:
            InputError: A row has more or fewer placeholders than its images have queries. The stock class would fill
                the rows with one another's images. Or a token has no embedding.
        """
        placeholders = input_ids == self.model.config.image_token_index
        used = image_index >= 0
        found, expected = placeholders.sum(1), used.sum(1) * image_features.shape[1]
        if not torch.equal(found, expected):
            row = int((found != expected).nonzero()[0])
            raise InputError(
                f"text {row} of the batch has {int(found[row])} image tokens where its {int(used[row].sum())} images "
                f"take {int(expected[row])}; build the batch with the model's layout"
            )
        table = self.model.get_input_embeddings()
        if int(input_ids.max()) >= table.num_embeddings:
            raise InputError(
                f"the tokeniser gives the id {int(input_ids.max())}, but the language model has {table.num_embeddings} "
                "embeddings; take the tokeniser that belongs to it"
            )
        embedded: Tensor = table(input_ids)
        wanted = image_features[image_index[used]].flatten(0, 1).to(embedded.dtype)
        positions = placeholders.flatten().nonzero().squeeze(1)
        return embedded.flatten(0, 1).index_copy(0, positions, wanted).view_as(embedded)

    def forward(self, batch: Batch, per_text: bool = False) -> dict[str, Tensor]:
        """The loss of a batch; each image is encoded once for all its texts.

        Args:
            batch: ``pixel_values`` [images, 3, H, W] (or ``image_features`` [images, queries, width]), ``image_index``
                [texts, images of a text], ``input_ids`` and ``attention_mask`` [texts, tokens], and ``labels``: for an
                encoder-decoder [texts, answer tokens], else aligned with ``input_ids``; -100 is not supervised.
            per_text: Also give each text's own loss; there are no gradients then.

        Returns:
            ``loss`` (mean over supervised tokens), ``loss_sum`` and ``tokens``; with ``per_text`` also
            ``text_loss_sum`` and ``text_tokens`` [texts]. Losses are in nats and fp32.
        """
        hidden, labels = self.predicting_states(batch)
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
        states, targets, _ = self._supervised(hidden, labels)
        head = self.language_model.get_output_embeddings()
        total = loss_sum(states, head.weight, head.bias, targets, self._softcap)
        tokens = torch.tensor(len(targets), device=targets.device)
        return {"loss": total / tokens, "loss_sum": total, "tokens": tokens}

    def logits(self, batch: Batch) -> Tensor:
        """Logits of the supervised tokens of a batch [tokens, vocabulary], without gradients; for small batches."""
        with torch.no_grad(), evaluating(self):
            states, _, _ = self._supervised(*self.predicting_states(batch))
            head = self.language_model.get_output_embeddings()
            return squashed_logits(states.to(head.weight.dtype), head.weight, head.bias, self._softcap)

    def predicting_states(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """What the output head would see [texts, tokens, width], and what each of these states should predict."""
        features = batch.get("image_features")
        if features is None:
            features = self.encode_images(batch["pixel_values"])
        embedded = self.embed(batch["input_ids"], features, batch["image_index"])
        hidden = packed_states(self, embedded, batch) if self.packs else None
        if hidden is None:
            hidden = self.states_apart(embedded, batch)
        labels = batch["labels"]
        return (hidden, labels) if self.is_encoder_decoder else (hidden[:, :-1], labels[:, 1:])

    def states_apart(self, embedded: Tensor, batch: Batch) -> Tensor:
        """What the output head would see, read in a row for each text: [texts, tokens, width], or of answer tokens."""
        mask = batch["attention_mask"]
        if self.is_encoder_decoder:
            return self.decoder_states(batch["labels"], inputs_embeds=embedded, attention_mask=mask)
        return self.causal_states(embedded, mask)

    def text_losses(self, hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Summed losses (nats, fp32, without gradients) and supervised tokens of each text [texts].

        Args:
            hidden: What the output head would see [texts, tokens, width].
            labels: What each of these states should predict [texts, tokens]; -100 is not counted.
        """
        states, targets, owner = self._supervised(hidden, labels)
        head = self.language_model.get_output_embeddings()
        losses = token_losses(states, head.weight, head.bias, targets, self._softcap)
        return losses.new_zeros(len(labels)).index_add_(0, owner, losses), (labels != IGNORED).sum(1)

    def _supervised(self, hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """States [tokens, width], targets and owning texts [tokens] of the supervised positions alone."""
        positions = (labels != IGNORED).flatten().nonzero().squeeze(1)
        states = hidden.flatten(0, 1).index_select(0, positions) * self._logit_scale
        owner = torch.div(positions, labels.shape[1], rounding_mode="floor")
        return states, labels.flatten().index_select(0, positions), owner

    def decoder_states(self, labels: Tensor, **source: Any) -> Tensor:
        """Encoder-decoder: the states before the output head [texts, answer tokens, width], the answer fed in."""
        return self.states(decoder_input_ids=self.decoder_inputs(labels), **source)

    def decoder_inputs(self, labels: Tensor) -> Tensor:
        """Encoder-decoder: what the decoder is given where it should predict these labels [texts, answer tokens]."""
        start = torch.full_like(labels[:, :1], self.language_model.config.decoder_start_token_id)
        shifted = torch.cat([start, labels[:, :-1]], dim=1)
        return shifted.masked_fill(shifted == IGNORED, self.layout.pad_token_id)

    def causal_states(self, embedded: Tensor, attention_mask: Tensor, cache: Any = None) -> Tensor:
        """Decoder-only: the states before the output head [texts, tokens, width].

        Args:
            embedded: [texts, tokens, width].
            attention_mask: [texts, tokens], with those in the cache.
            cache: Keys and values of the tokens before; those of these tokens are added.
        """
        inputs: dict[str, Any] = {"inputs_embeds": embedded, "attention_mask": attention_mask}
        if cache is not None:
            inputs |= {"past_key_values": cache, "use_cache": True}
        if self.takes_positions:
            inputs["position_ids"] = (attention_mask.cumsum(1) - 1).clamp_(min=0)[:, -embedded.shape[1] :]
        return self.states(**inputs)

    def states(self, **inputs: Any) -> Tensor:
        """What the output head would see; the head itself is run on no token."""
        caught: list[Tensor] = []

        def catch(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            caught.append(arguments[0])
            return (arguments[0][:, :0],)

        handle = self.language_model.get_output_embeddings().register_forward_pre_hook(catch)
        try:
            self.language_model(**{"use_cache": False, **inputs})
        finally:
            handle.remove()
        return caught[0]

    @cached_property
    def takes_positions(self) -> bool:
        """Whether the language model can be told the place of each token."""
        return "position_ids" in inspect.signature(self.language_model.forward).parameters

    @cached_property
    def packs(self) -> bool:
        """Whether the texts of a batch are read side by side in packed rows (see :mod:`mblip.models.packing`)."""
        return packs_alike(self)

    @cached_property
    def _softcap(self) -> float | None:
        return getattr(self.language_model.config.get_text_config(), "final_logit_softcapping", None)

    @cached_property
    def _logit_scale(self) -> float:
        """What the model multiplies its logits with after the head (Cohere), or divides them by (Granite)."""
        config = self.language_model.config.get_text_config()
        return float(getattr(config, "logit_scale", None) or 1.0) / float(
            getattr(config, "logits_scaling", None) or 1.0
        )

    def generate_ids(
        self, prompts: Sequence[str], image_features: Tensor, image_index: Tensor, **generation: Any
    ) -> Tensor:
        """Answers as token ids [texts, tokens], without the prompt, from images encoded before.

        Args:
            prompts: The texts.
            image_features: [images, queries, width].
            image_index: [texts, images of a text], see :meth:`embed`.
            **generation: What transformers' ``generate`` takes; 50 new tokens where no length is given.

        Raises:
            InputError: More than one answer a prompt is asked for.
        """
        if generation.get("num_return_sequences", 1) != 1:
            raise InputError("num_return_sequences gives several answers a prompt: repeat the prompt instead")
        counts = (image_index >= 0).sum(1).tolist()
        batch = {name: value.to(self.device) for name, value in self.layout.prompts(prompts, counts).items()}
        if not {"max_new_tokens", "max_length"} & generation.keys():
            generation["max_new_tokens"] = DEFAULT_NEW_TOKENS
        generation.setdefault("pad_token_id", self.layout.pad_token_id)
        with torch.no_grad(), evaluating(self), ExitStack() as stack:
            embedded = self.embed(batch["input_ids"], image_features, image_index)
            mask = batch["attention_mask"]
            inputs: dict[str, Any] = {"inputs_embeds": embedded, "attention_mask": mask}
            beams = generation.get("num_beams", 1)
            if self.is_encoder_decoder and beams > 1:
                inputs = stack.enter_context(read_once(self.language_model, embedded, mask, beams))
            if not self.is_encoder_decoder:
                # As the stock class does; some penalties count the prompt. The padding, which may be the end token,
                # must not count: it reads as one more image token there.
                inputs["input_ids"] = batch["input_ids"].masked_fill(mask == 0, self.layout.image_token_id)
            ids: Tensor = self.language_model.generate(**inputs, **generation)
        return ids if self.is_encoder_decoder else ids[:, batch["input_ids"].shape[1] :]

    def generate(
        self, images: Sequence[Picture | Sequence[Picture]], prompts: Sequence[str], **generation: Any
    ) -> list[str]:
        """Answer each prompt about its image (or list of images): the answers alone, without special tokens.

        Batches are formed inside, and a picture object that stands several times is encoded once.

        Args:
            images: One picture, or a list of pictures, for each prompt: paths, bytes, PIL images or arrays.
            prompts: As many texts.
            **generation: What transformers' ``generate`` takes, such as ``num_beams=5``.

        Raises:
            InputError: The lengths differ, or a picture cannot be read.
        """
        if len(images) != len(prompts):
            raise InputError(f"{len(prompts)} prompts for {len(images)} images: give one image (or list) for each")
        if not prompts:
            return []
        keys: dict[int, Picture] = {}
        requests = []
        for number, (entry, prompt) in enumerate(zip(images, prompts, strict=True)):
            group: list[Any] = list(entry) if isinstance(entry, list | tuple) else [entry]
            keys.update((id(picture), picture) for picture in group)
            requests.append(Request(str(number), tuple(str(id(picture)) for picture in group), prompt))
        return Generator(self, lambda key: keys[int(key)], **generation).texts(requests)

    def decode(self, ids: Tensor) -> list[str]:
        """Token ids [texts, tokens] to stripped texts."""
        return [text.strip() for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]

    def score_candidates(self, images: Picture | Sequence[Picture], prompt: str, answers: Sequence[str]) -> list[float]:
        """Log-probability (natural, summed over the tokens and the end token) of each answer to a prompt.

        Images and prompt are read once for all answers.

        Raises:
            InputError: A picture cannot be read.
        """
        group: list[Any] = list(images) if isinstance(images, list | tuple) else [images]
        request = Request("", tuple(str(number) for number in range(len(group))), prompt)
        return next(Generator(self, lambda key: group[int(key)]).candidates([request], answers))[1]
