"""Captions and answers for people: a model with the prompts of its training and the paper's decoding settings."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import torch
from PIL import Image
from transformers import LogitsProcessorList

from mblip.errors import InputError, counted
from mblip.inference.language_id import language_of
from mblip.inference.loops import NoLoops
from mblip.inference.prompts import Prompts, prompts_from, templates_of_run
from mblip.inference.trained_languages import parse_languages, warn_of_languages
from mblip.languages import Language, find_language
from mblip.models.generation import answer_prompts
from mblip.models.load import load_vision_llm
from mblip.models.locate import locate
from mblip.models.quantize import Quantization
from mblip.models.scoring import score_candidates
from mblip.models.vision_llm import VisionLLM
from mblip.processing.images import Picture
from mblip.processing.prompts import check_text

_log = logging.getLogger(__name__)

# The paper's settings for free generation.
GENERATION: dict[str, Any] = {"num_beams": 5, "repetition_penalty": 1.5, "max_new_tokens": 50}

MAX_PROMPT_TOKENS = 1024
"""Tokens of the longest question that is read; training reads 128. Memory grows with the square of the length."""


def for_people(generation: Mapping[str, Any], defaults: Mapping[str, Any] = GENERATION) -> dict[str, Any]:
    """Options of ``generate`` for texts that people read: the defaults, and no loops, unless overridden."""
    return {**defaults, "logits_processor": LogitsProcessorList([NoLoops()]), **generation}


class Predictor:
    """A model that captions pictures and answers questions about them, in a requested language.

    Attributes:
        vlm: The vision-language model, for training, scoring and export.
        templates: Names of the template files that it was trained on.
    """

    def __init__(self, vlm: VisionLLM, templates: Sequence[str]) -> None:
        self.vlm = vlm.eval()
        self.templates = tuple(templates)
        self._warned: set[str] = set()

    def __repr__(self) -> str:
        """A summary in one line."""
        return f"{type(self).__name__}({self.vlm!r})"

    @cached_property
    def prompts(self) -> Prompts:
        """The model's prompts.

        Raises:
            InputError: A template file that it was trained on is missing.
        """
        trained = getattr(self.vlm.model.config, "trained_prompts", None) or {}
        return prompts_from(self.templates, trained.get("prompts", ()) if trained.get("complete") else ())

    def count_tokens(self, prompt: str) -> int:
        """Number of tokens of a prompt for people's questions, without those of its pictures.

        Raises:
            InputError: The prompt is longer than :data:`MAX_PROMPT_TOKENS`, which attention could not hold in memory,
                contains the image token, or is not a text.
        """
        check_text(prompt)
        tokens = int(self.vlm.layout.prompts([prompt], [0])["input_ids"].shape[1])
        if tokens > MAX_PROMPT_TOKENS:
            raise InputError(f"the prompt has {tokens} tokens; at most {MAX_PROMPT_TOKENS} are read")
        return tokens

    @property
    def trained_languages(self) -> frozenset[str] | None:
        """The mC4 codes of the languages that the model was trained to write; None if the checkpoint does not say."""
        return parse_languages(getattr(self.vlm.model.config, "trained_languages", None))

    def _warn_of(self, languages: Iterable[Language]) -> None:
        """Log a warning, once for each language, about those that the model was not trained to write."""
        asked = dict.fromkeys(language.code for language in languages if language.code not in self._warned)
        self._warned.update(asked)
        if warning := warn_of_languages(self.trained_languages, asked):
            _log.warning(warning)

    @property
    def precision(self) -> str:
        """The precision of the language model: ``int8``, ``nf4`` or a type such as ``float32``."""
        packed = {"Int8Linear": "int8", "Linear8bitLt": "int8", "Linear4bit": "nf4"}
        kinds = {type(module).__name__ for module in self.vlm.language_model.modules()}
        dtype = self.vlm.llm.dtype
        return next((packed[kind] for kind in packed if kind in kinds), str(dtype).removeprefix("torch."))

    def shrink(self, image: Image.Image) -> Image.Image:
        """Resize an image to the model's input size, if that is fixed, so that it takes 0.15 MB instead of many.

        The image is resized as the image processor would do it.
        """
        processor = self.vlm.processor.image_processor
        size = dict(processor.size or {})
        if not processor.do_resize or set(size) != {"height", "width"}:
            return image
        return image.resize((size["width"], size["height"]), processor.resample)

    def generate(
        self, images: Sequence[Picture | Sequence[Picture]], prompts: Sequence[str], **generation: Any
    ) -> list[str]:
        """Answer each prompt about its image (or list of images), in batches; prompts and settings are used as given.

        Args:
            images: One picture, or a list of pictures, for each prompt: paths, bytes, PIL images or arrays.
            prompts: One text for each of them.
            **generation: Options of transformers' ``generate``; by default greedy, and at most 50 tokens.

        Returns:
            The answers alone, without special tokens.

        Raises:
            InputError: The numbers of images and prompts differ, or a picture cannot be read.
        """
        return answer_prompts(self.vlm, images, prompts, **generation)

    def score_candidates(self, images: Picture | Sequence[Picture], prompt: str, answers: Sequence[str]) -> list[float]:
        """Log-probability (natural, summed over the tokens and the end token) of each answer to a prompt about images.

        Args:
            images: A picture, or a list of pictures, which may be empty.
            prompt: The text, used as given.
            answers: A list of texts.

        Returns:
            One number for each answer.

        Raises:
            InputError: A picture cannot be read, the prompt or an answer is not a text, or the prompt is longer than
                :data:`MAX_PROMPT_TOKENS`.
        """
        self.count_tokens(prompt)
        return score_candidates(self.vlm, images, prompt, answers)

    @overload
    def caption(self, images: Picture, language: str = ..., **generation: Any) -> str: ...
    @overload
    def caption(self, images: Picture, language: Sequence[str], **generation: Any) -> list[str]: ...
    @overload
    def caption(self, images: Sequence[Picture], language: str = ..., **generation: Any) -> list[str]: ...
    @overload
    def caption(self, images: Sequence[Picture], language: Sequence[str], **generation: Any) -> list[list[str]]: ...
    def caption(
        self, images: Picture | Sequence[Picture], language: str | Sequence[str] = "en", **generation: Any
    ) -> str | list[str] | list[list[str]]:
        """Caption a picture briefly.

        Each picture is encoded once for all languages.

        Args:
            images: A path, the bytes of a file, a PIL image or an array [height, width, channels], or a list of these.
            language: A language by code, English name or own name, or a list of these.
            **generation: Options of transformers' ``generate``, which replace the defaults of 5 beams, a repetition
                penalty of 1.5 and at most 50 tokens.

        Returns:
            A text; a list if a list was given; for two lists [images][languages].

        Raises:
            InputError: A picture cannot be read, or a language is unknown.
        """
        languages = [find_language(name) for name in _listed(language)]
        names = [found.name for found in languages]
        self._warn_of(languages)
        pairs = [(picture, name) for picture in _listed(images) for name in names]
        texts = answer_prompts(
            self.vlm,
            [picture for picture, _ in pairs],
            [self.prompts.for_caption(name) for _, name in pairs],
            **for_people(generation),
        )
        if isinstance(language, str):
            return texts if _is_list(images) else texts[0]
        if not _is_list(images):
            return texts
        return [texts[start : start + len(names)] for start in range(0, len(texts), len(names))]

    @overload
    def answer(self, images: Picture, question: str, language: str | None = ..., **generation: Any) -> str: ...
    @overload
    def answer(
        self,
        images: Picture | Sequence[Picture],
        question: str | Sequence[str],
        language: str | None = ...,
        **generation: Any,
    ) -> list[str]: ...
    def answer(
        self,
        images: Picture | Sequence[Picture],
        question: str | Sequence[str],
        language: str | None = None,
        **generation: Any,
    ) -> str | list[str]:
        """Answer a question about a picture in a few words.

        Args:
            images: As in :meth:`caption`.
            question: A text, or a list. One picture may have several questions, and one question several pictures; two
                lists are paired.
            language: Language of the answer, by code or name; None for the language of each question. A question that
                is a prompt of the model's training, such as ``Name the object in Swahili:``, names its language itself.
            **generation: As in :meth:`caption`.

        Returns:
            A text; a list if a list was given.

        Raises:
            InputError: A picture cannot be read, the language is unknown or unclear from a question, a question is
                empty or too long, or the lists differ in length.
        """
        pictures, questions = _listed(images), _listed(question)
        if not _is_list(images):
            pictures = pictures * len(questions)
        if isinstance(question, str):
            questions = questions * len(pictures)
        if len(pictures) != len(questions):
            raise InputError(
                f"{counted(len(questions), 'question')} for {counted(len(pictures), 'picture')}: give one question for each"
            )
        for text in questions:
            check_text(text)
            if not text.strip():
                raise InputError("the question is empty: write a text")
        asked = [self._asked(text, language) for text in questions]
        self._warn_of(found for _, found in asked if found)
        prompts = [prompt for prompt, _ in asked]
        for prompt in set(prompts):
            self.count_tokens(prompt)
        texts = answer_prompts(self.vlm, pictures, prompts, **for_people(generation))
        return texts if _is_list(images) or not isinstance(question, str) else texts[0]

    def _asked(self, question: str, language: str | None) -> tuple[str, Language | None]:
        """The prompt for a question and the language of its answer: the given one, or the question's own.

        Raises:
            InputError: The language is unknown, or unclear from the question.
        """
        prompt, named = self.prompts.match(question)
        if prompt:
            return prompt, named
        found = find_language(language or language_of(question))
        return self.prompts.for_question(question, found.name), found


def load_model(
    name: str | Path,
    *,
    quantization: Quantization | None = None,
    dtype: torch.dtype | str | None = None,
    device_map: Any = None,
    merge: bool = False,
) -> Predictor:
    """Load a vision-LLM for captions and answers: a run, a stock checkpoint, or one in mBLIP's layout of 2023.

    Args:
        name: Hub id, folder or ``nano:NAME``.
        quantization: ``int8`` or ``nf4``, for the language model only.
        dtype: Type of the vision and language model; None keeps the type that they were saved in.
        device_map: A device, or a map as Accelerate's ``dispatch_model`` takes it.
        merge: Merge a run's last adapter too, instead of leaving it attached.

    Raises:
        InputError: The checkpoint is missing, no vision-LLM, incomplete, damaged, or needs code that comes with it; or
            the device or the quantization is unknown.
    """
    vlm = load_vision_llm(name, quantization=quantization, dtype=dtype, device_map=device_map, merge=merge)
    return Predictor(vlm, getattr(vlm.model.config, "prompt_templates", None) or templates_of_run(locate(name)))


def _is_list(value: Any) -> bool:
    # An array with four dimensions is a batch of pictures.
    return isinstance(value, list | tuple) or getattr(value, "ndim", 0) == 4


def _listed(value: Any) -> list[Any]:
    return list(value) if _is_list(value) else [value]
