"""Captions near to an image: embeddings by any CLIP or SigLIP of transformers, or from elsewhere, and faiss."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mblip.corpora.matching import caption_rows
from mblip.devices import choose_device
from mblip.errors import InputError
from mblip.progress import Progress, silent
from mblip.storage import ImageStore, UnreadableImage, atomic_write, open_images

Vectors = NDArray[np.float32]
_ROWS_PER_FILE = 4096
_EXTRA = 64  # neighbours asked for beyond the last rank, as some will say the same as the image's own caption


def find_neighbours(
    images: Vectors,
    texts: Vectors,
    captions: Sequence[str],
    ranks: Sequence[int],
    index: str = "Flat",
    original: bool = False,
) -> NDArray[np.int32]:
    """The captions at some ranks of nearness to each image, leaving out those that equal its own.

    Near is what has a small angle.

    Args:
        images: [captions, width], in any scale.
        texts: [captions, width].
        captions: The texts, of which the first belongs to the first image, and so on.
        ranks: 1 is the nearest.
        index: faiss's name of an index, such as ``Flat`` (exact) or ``IVF4096,Flat`` (for millions).
        original: As the original does: near is what is at a small distance, the vectors being as long as the model makes
            them, and every caption counts, an image's own and those that are there several times too.

    Returns:
        [captions, ranks] numbers of captions; -1 where there are not so many, or an image's embedding is all zeros.

    Raises:
        InputError: The embeddings do not fit each other, or faiss is missing or refuses the index.
    """
    try:
        import faiss
    except ImportError as error:
        raise InputError("matching needs faiss; pip install 'mblip[translate]'") from error
    if images.shape != texts.shape or len(images) != len(captions):
        raise InputError(
            f"embeddings {images.shape} and {texts.shape} do not fit {len(captions)} captions and each other"
        )
    # The same caption of many images stands once in the index, so that every neighbour is another text.
    first: dict[str, int] = {}
    kind = np.array([first.setdefault(caption, number) for number, caption in enumerate(captions)])
    distinct = np.arange(len(captions)) if original else np.fromiter(first.values(), np.int64)
    scaled = _as_they_are if original else _normalised
    try:
        metric = faiss.METRIC_L2 if original else faiss.METRIC_INNER_PRODUCT
        search = faiss.index_factory(images.shape[1], index, metric)
    except RuntimeError as error:
        raise InputError(f"faiss knows no index {index!r}; try Flat") from error
    vectors = scaled(texts[distinct])
    if not search.is_trained:
        search.train(vectors)
    search.add(vectors)
    found = np.full((len(images), len(ranks)), -1, np.int32)
    wanted = min(max(ranks) + _EXTRA, len(distinct))
    for start in range(0, len(images), _ROWS_PER_FILE):
        part = slice(start, start + _ROWS_PER_FILE)
        _, near = search.search(scaled(images[part]), wanted)
        for row, numbers in enumerate(near, start=start):
            if not images[row].any():  # it was not there, so nothing is near to it
                continue
            others = [
                int(distinct[number])
                for number in numbers
                if number >= 0 and (original or distinct[number] != kind[row])
            ]
            for column, rank in enumerate(ranks):
                if rank <= len(others):
                    found[row, column] = others[rank - 1]
    return found


def match_captions(
    captions: Path,
    to: Path,
    *,
    ranks: str = "3,10,30,100,300",
    model: str = "",
    store: str = "",
    vectors: tuple[Path | None, Path | None] = (None, None),
    start: int = 0,
    count: int = 0,
    index: str = "Flat",
    original: bool = False,
    progress: Progress = silent,
) -> NDArray[np.int32]:
    """Find the neighbours of a range of captions and write them for the reader ``matching``.

    Args:
        captions: Folder of caption examples.
        to: The ``.npy`` file.
        ranks: Separated by commas.
        model: Checkpoint to embed with, unless ``vectors`` are given.
        store: Image store, for ``model``.
        vectors: Embeddings of the images and of the captions from elsewhere, in the order of the range.
        start: First caption.
        count: How many; 0 for all that follow.
        index: See :func:`find_neighbours`.
        original: See there too.
        progress: Is told how far it is.

    Raises:
        InputError: See the functions here.
    """
    numbers = [int(rank) if rank.strip().isdecimal() else 0 for rank in ranks.split(",")]
    if min(numbers) < 1:
        raise InputError(f"ranks must be whole numbers from 1 separated by commas, not {ranks!r}")
    rows = caption_rows(captions, start, count)
    if vectors[0] and vectors[1]:
        images, texts = load_vectors(vectors[0]), load_vectors(vectors[1])
    elif model and store:
        images, texts = embed(model, rows, open_images(store), to.with_suffix(".embeddings"), progress=progress)
    else:
        raise InputError("name a model and an image store, or the embeddings of both images and texts")
    found = find_neighbours(images, texts, [caption for _, caption in rows], numbers, index, original)
    with atomic_write(to) as file:
        np.save(file, found)
    return found


def embed(
    model: str,
    rows: Sequence[tuple[str, str]],
    store: ImageStore,
    folder: Path,
    *,
    device: str = "auto",
    batch: int = 64,
    progress: Progress = silent,
) -> tuple[Vectors, Vectors]:
    """Embed images and captions; finished pieces of a stopped run are read back.

    Args:
        model: A CLIP or SigLIP checkpoint, Hub id or folder.
        rows: Image key and caption.
        store: Where the images are.
        folder: Gets ``images-00000.npy``, ``texts-00000.npy``, ...
        device: ``cpu``, ``cuda`` or whichever is there.
        batch: Images at a time.
        progress: Is told how far it is.

    Returns:
        [rows, width] each; zeros for an image that is missing or damaged, as some of the web's always are.

    Raises:
        InputError: No such checkpoint, or no image that can be read.
    """
    encoder = _Encoder(model, device)

    def images(part: Sequence[tuple[str, str]]) -> Vectors:
        pictures = [_picture(store, key, encoder.size) for key, _ in part]
        blank = Image.new("RGB", (encoder.size, encoder.size))  # holds the place; its embedding is never used
        vectors = encoder.images([picture or blank for picture in pictures])
        vectors[[picture is None for picture in pictures]] = 0
        return vectors

    def texts(part: Sequence[tuple[str, str]]) -> Vectors:
        return encoder.texts([caption for _, caption in part])

    steps = {"images": images, "texts": texts}
    vectors = [np.concatenate(list(_embed(name, step, rows, folder, batch, progress))) for name, step in steps.items()]
    if not vectors[0].any():
        raise InputError(
            f"none of the {len(rows):,} images can be read, the first being {rows[0][0]!r}; name their store"
        )
    return vectors[0], vectors[1]


def _picture(store: ImageStore, key: str, size: int) -> Image.Image | None:
    try:
        return store.get(key, at_least=size)
    except UnreadableImage:
        return None


def load_vectors(path: Path) -> Vectors:
    """Embeddings computed elsewhere, [rows, width] in a ``.npy`` file.

    Raises:
        InputError: Not readable, or not a matrix of numbers.
    """
    try:
        vectors = np.load(path)
        if vectors.ndim != 2 or not np.issubdtype(vectors.dtype, np.floating):
            raise InputError(f"{path} must hold a matrix of floats, not {vectors.dtype} {vectors.shape}")
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not a readable .npy file: {error}") from error
    floats: Vectors = vectors.astype(np.float32)
    return floats


def _embed(
    name: str,
    step: Callable[[Sequence[tuple[str, str]]], Vectors],
    rows: Sequence[tuple[str, str]],
    folder: Path,
    batch: int,
    progress: Progress,
) -> Iterator[Vectors]:
    for number, start in enumerate(range(0, len(rows), _ROWS_PER_FILE)):
        path = folder / f"{name}-{number:05d}.npy"
        part = rows[start : start + _ROWS_PER_FILE]
        if not path.exists():
            vectors = np.concatenate([step(part[at : at + batch]) for at in range(0, len(part), batch)])
            with atomic_write(path) as file:
                np.save(file, vectors)
        vectors = load_vectors(path)
        if len(vectors) != len(part):
            raise InputError(f"{path} holds {len(vectors)} embeddings of another list; delete {folder}")
        yield vectors
        progress(f"embedding {name}", start + len(part), len(rows))


class _Encoder:
    def __init__(self, model: str, device: str) -> None:
        import torch
        from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

        try:
            self._model: Any = AutoModel.from_pretrained(model, dtype=torch.float32)
            self._tokenizer: Any = AutoTokenizer.from_pretrained(model)
            self._processor: Any = AutoImageProcessor.from_pretrained(model, backend="pil")
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{model} is no CLIP or SigLIP checkpoint: {str(error).splitlines()[0]}") from error
        if not hasattr(self._model, "get_image_features"):
            raise InputError(f"{model} is a {self._model.config.model_type} model; take a CLIP or SigLIP checkpoint")
        self._device = choose_device(device)
        self._model.to(self._device).eval()
        self.size: int = self._model.config.vision_config.image_size
        self._length: int = self._model.config.text_config.max_position_embeddings

    def images(self, pictures: list[Any]) -> Vectors:
        inputs = self._processor(images=pictures, return_tensors="pt")
        return self._features(self._model.get_image_features, pixel_values=inputs["pixel_values"])

    def texts(self, texts: list[str]) -> Vectors:
        # SigLIP was trained on texts padded to the full length, without a mask; CLIP masks its padding.
        siglip = "siglip" in self._model.config.model_type
        inputs = self._tokenizer(
            texts,
            padding="max_length" if siglip else True,
            truncation=True,
            max_length=self._length,
            return_tensors="pt",
        )
        mask = {} if siglip else {"attention_mask": inputs["attention_mask"]}
        return self._features(self._model.get_text_features, input_ids=inputs["input_ids"], **mask)

    def _features(self, method: Any, **inputs: Any) -> Vectors:
        import torch

        with torch.inference_mode():
            output = method(**{name: value.to(self._device) for name, value in inputs.items()})
        vectors: Vectors = getattr(output, "pooler_output", output).float().cpu().numpy()
        return vectors


def _as_they_are(vectors: Vectors) -> Vectors:
    return np.ascontiguousarray(vectors, np.float32)


def _normalised(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.ascontiguousarray(vectors / np.maximum(lengths, 1e-12), np.float32)
