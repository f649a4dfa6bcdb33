"""Find captions near an image with faiss, by embeddings from any CLIP or SigLIP of transformers, or from files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mblip.corpora.matching import caption_rows
from mblip.devices import choose_device
from mblip.errors import InputError, check_readable
from mblip.progress import Progress, silent
from mblip.storage import ImageStore, UnreadableImage, atomic_write, open_images
from mblip.storage.folders import check_files

Vectors = NDArray[np.float32]
_ROWS_PER_FILE = 4096
_EXTRA = 64  # neighbours to search beyond the last rank, because some equal the image's own caption


def find_neighbours(
    images: Vectors,
    texts: Vectors,
    captions: Sequence[str],
    ranks: Sequence[int],
    index: str = "Flat",
    original: bool = False,
) -> NDArray[np.int32]:
    """The captions at some ranks of nearness to each image, without those that equal its own.

    Nearness is measured by the angle.

    Args:
        images: [captions, width], in any scale.
        texts: [captions, width].
        captions: The captions; the first belongs to the first image, and so on.
        ranks: Ranks of nearness; 1 is the nearest.
        index: Name of a faiss index, such as ``Flat`` (exact) or ``IVF4096,Flat`` (for millions).
        original: As in the original: nearness is the distance between unnormalised vectors, and every caption counts,
            including an image's own and repeated ones.

    Returns:
        Numbers of captions [captions, ranks]; -1 if there are too few, or if an image's embedding is all zeros.

    Raises:
        InputError: The embeddings do not fit each other, or faiss is missing or refuses the index.
    """
    try:
        import faiss
    except ImportError as error:
        raise InputError("matching needs faiss; pip install 'mblip[translate]'") from error
    if images.shape != texts.shape or len(images) != len(captions):
        raise InputError(
            f"embeddings {images.shape} and {texts.shape} do not match {len(captions)} captions and each other"
        )
    # Equal captions are in the index once, so that every neighbour is another text.
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
            if not images[row].any():  # the image was missing, so it has no neighbours
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
        ranks: Ranks separated by commas.
        model: Checkpoint for the embeddings, unless ``vectors`` are given.
        store: Image store, for ``model``.
        vectors: Files with embeddings of the images and captions, in the order of the range.
        start: Index of the first caption.
        count: Number of captions; 0 for all that follow.
        index: See :func:`find_neighbours`.
        original: See :func:`find_neighbours`.
        progress: Called with the progress.

    Raises:
        InputError: As in the other functions of this module.
    """
    numbers = [int(rank) if rank.strip().isdecimal() else 0 for rank in ranks.split(",")]
    if min(numbers) < 1:
        raise InputError(f"ranks must be integers from 1 separated by commas, not {ranks!r}")
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
    """Embed images and captions; finished pieces of a stopped run are reused.

    Args:
        model: A CLIP or SigLIP checkpoint, Hub id or folder.
        rows: Image keys and captions.
        store: The store of the images.
        folder: Folder for ``images-00000.npy``, ``texts-00000.npy``, ...
        device: ``cpu``, ``cuda``, or ``auto`` for what is available.
        batch: Number of images at a time.
        progress: Called with the progress.

    Returns:
        Embeddings of images and captions, [rows, width] each; zeros for an image that is missing or damaged, as some
        images from the web always are.

    Raises:
        InputError: There is no such checkpoint, or no image can be read.
    """
    encoder = _Encoder(model, device)

    def images(part: Sequence[tuple[str, str]]) -> Vectors:
        pictures = [_picture(store, key, encoder.size) for key, _ in part]
        blank = Image.new("RGB", (encoder.size, encoder.size))  # placeholder, whose embedding is never used
        vectors = encoder.images([picture or blank for picture in pictures])
        vectors[[picture is None for picture in pictures]] = 0
        return vectors

    def texts(part: Sequence[tuple[str, str]]) -> Vectors:
        return encoder.texts([caption for _, caption in part])

    steps = {"images": images, "texts": texts}
    vectors = [np.concatenate(list(_embed(name, step, rows, folder, batch, progress))) for name, step in steps.items()]
    if not vectors[0].any():
        raise InputError(f"none of the {len(rows):,} images can be read, such as {rows[0][0]!r}; name their store")
    return vectors[0], vectors[1]


def _picture(store: ImageStore, key: str, size: int) -> Image.Image | None:
    try:
        return store.get(key, at_least=size)
    except UnreadableImage:
        return None


def load_vectors(path: Path) -> Vectors:
    """Read embeddings [rows, width] from a ``.npy`` file.

    Raises:
        InputError: The file is not readable, or not a matrix of numbers.
    """
    try:
        vectors = np.load(path)
        if vectors.ndim != 2 or not np.issubdtype(vectors.dtype, np.floating):
            raise InputError(f"{path} must be a matrix of floats, not {vectors.dtype} {vectors.shape}")
    except (OSError, ValueError) as error:
        check_readable(path)
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
            raise InputError(f"{path} holds {len(vectors)} embeddings of other examples; delete {folder}")
        yield vectors
        progress(f"embedding {name}", start + len(part), len(rows))


class _Encoder:
    def __init__(self, model: str, device: str) -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer

        # See mblip.models.containers.pixels about the module.
        from transformers.models.auto.image_processing_auto import AutoImageProcessor

        try:
            self._model: Any = AutoModel.from_pretrained(model, dtype=torch.float32)
            self._tokenizer: Any = AutoTokenizer.from_pretrained(model)
            self._processor: Any = AutoImageProcessor.from_pretrained(model, backend="pil")
        except (OSError, ValueError, KeyError) as error:
            check_files(model)
            raise InputError(f"{model} is not a CLIP or SigLIP checkpoint: {str(error).splitlines()[0]}") from error
        if not hasattr(self._model, "get_image_features"):
            raise InputError(f"{model} is a {self._model.config.model_type} model; use a CLIP or SigLIP checkpoint")
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
