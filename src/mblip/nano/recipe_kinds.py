"""Recipes of the nano bases: a language model from text, and a vision encoder from scenes."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from mblip.languages import LanguageCode
from mblip.settings import Identity, Recipe, Section


class PhaseSection(Section):
    """A phase of text pretraining: a number of steps on tasks drawn with these weights."""

    identity: ClassVar[Identity] = Identity.of("steps tasks max_objects languages english_share candidates")

    steps: int
    tasks: dict[str, float]
    max_objects: int = Field(default=1, ge=1, le=4)
    languages: tuple[LanguageCode, ...] = Field(
        default=(), description="languages of the prompts and words; empty for the recipe's"
    )
    english_share: float = Field(default=0.3, description="share of texts that describe the picture in English words")
    candidates: int = Field(
        default=0, description="number of sampled pieces in the softmax; 0 for the complete vocabulary"
    )


class TextRecipe(Recipe):
    """``mblip train``: a tiny multilingual encoder-decoder LM, trained on text only (the nano stand-in for mT0)."""

    identity: ClassVar[Identity] = Identity.of(
        "seed kind languages vocabulary aligned_words pieces width encoder_layers decoder_layers feed_forward heads "
        "phases stop batch lr word_lr min_lr_share warmup_steps",
        free="title paper more_languages checkpoint_every log_every",
    )

    trained_by: ClassVar[str] = "mblip.nano.text:train_text"

    kind: Literal["text"] = "text"
    languages: tuple[LanguageCode, ...] = Field(
        default=(), description="by any name or code; empty for every language with names"
    )
    vocabulary: Literal["names", "subword"] = "names"
    aligned_words: bool = Field(default=True, description="start names at dictionary-aligned vectors")
    pieces: int = Field(default=8000, description="size of a subword vocabulary")
    width: int = 128
    encoder_layers: int = 2
    decoder_layers: int = 2
    feed_forward: int = 256
    heads: int = 4
    phases: tuple[PhaseSection, ...]
    stop: int | None = Field(default=None, description="end at this step, before the phases and their schedule end")
    batch: int = 512
    lr: float = 3e-3
    word_lr: float = Field(default=3e-3, description="learning rate of the input embedding and the output head")
    min_lr_share: float = 0.05
    warmup_steps: int = 100
    checkpoint_every: int = 500
    log_every: int = 50


class VisionRecipe(Recipe):
    """``mblip train``: a tiny ViT and Q-Former by classifying each cell of a scene (for EVA-CLIP and BLIP-2's stage 1)."""

    identity: ClassVar[Identity] = Identity.of(
        "seed kind width layers feed_forward heads patch queries qformer_width qformer_heads qformer_layers steps "
        "batch lr warmup_steps",
        free="title paper more_languages checkpoint_every log_every",
    )

    trained_by: ClassVar[str] = "mblip.nano.vision:train_vision"

    kind: Literal["vision"] = "vision"
    width: int = 128
    layers: int = 4
    feed_forward: int = 512
    heads: int = 4
    patch: int = 16
    queries: int = Field(default=8, description="queries of the Q-Former, a multiple of a scene's four cells")
    qformer_width: int = Field(
        default=320,
        description="more than the number of concepts, so that a linear projection can map each to any word",
    )
    qformer_heads: int = 5
    qformer_layers: int = 2
    steps: int = 2500
    batch: int = 64
    lr: float = 1e-3
    warmup_steps: int = 100
    checkpoint_every: int = 500
    log_every: int = 50
