"""Weights are written for whoever may read the other files, and a full disk is told in a sentence."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests import checkpoints, gguf_files

from mblip.errors import InputError, ResourceError
from mblip.models import build_model
from mblip.models.checkpoint import save_tensors
from mblip.models.export import export
from mblip.models.gguf import convert_gguf
from mblip.models.lora import add_lora
from mblip.models.runs import save_run
from mblip.models.vision_llm import VisionLLM


@contextmanager
def no_file_over(size: int) -> Iterator[None]:
    """As on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.fixture
def vlm(tmp_path: Path) -> VisionLLM:
    vlm = build_model(checkpoints.blip2(tmp_path / "eyes", "mt5"), checkpoints.llm(tmp_path / "llm", "mt5"))
    add_lora(vlm, 2, 4, 0.0)
    return vlm


def modes(folder: Path) -> set[int]:
    return {path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()}


def test_others_may_read_a_run_and_an_export(vlm: VisionLLM, tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    usual = {(tmp_path / "plain").stat().st_mode & 0o777}
    save_run(vlm, tmp_path / "run", {"vision"})
    assert modes(tmp_path / "run") == usual
    export(vlm, tmp_path / "stock")
    assert modes(tmp_path / "stock") == usual


def test_a_full_disk_while_a_run_is_saved_names_the_file(vlm: VisionLLM, tmp_path: Path) -> None:
    with (
        no_file_over(4000),
        pytest.raises(ResourceError, match=r"^cannot write .*run/bridge\.safetensors: File too large;"),
    ):
        save_run(vlm, tmp_path / "run")
    assert not list((tmp_path / "run").iterdir())
    with (
        no_file_over(4000),
        pytest.raises(ResourceError, match=r"^cannot write .*adapter_model\.safetensors: File too l"),
    ):
        vlm.container.model.qformer = vlm.container.model.language_projection = torch.nn.Identity()
        save_run(vlm, tmp_path / "run")
    assert not (tmp_path / "run/mblip.json").exists()


def test_a_full_disk_leaves_no_part_of_an_export(vlm: VisionLLM, tmp_path: Path) -> None:
    with no_file_over(4000), pytest.raises(ResourceError, match=r"^cannot write .*stock: File too large; "):
        export(vlm, tmp_path / "stock")
    assert not [path for path in tmp_path.iterdir() if "stock" in path.name]


@pytest.mark.parametrize("most", [1000, 60_000])  # the tokeniser does not fit, or the weights do not
def test_a_full_disk_leaves_no_part_of_a_converted_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = gguf_files.write_gguf(gguf_files.llama(tmp_path / "whole"), tmp_path / "tiny.gguf")
    with (
        no_file_over(most),
        pytest.raises(ResourceError, match=r"^cannot write .*cache/mblip/gguf/.*: File too large; "),
    ):
        convert_gguf(file)
    assert not list((tmp_path / "cache/mblip/gguf").glob("*/*"))
    assert modes(convert_gguf(file)) == modes(tmp_path / "whole") - {0o600}


def test_a_folder_in_the_place_of_weights_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").mkdir()
    with pytest.raises(InputError, match=r"^cannot write .*a\.safetensors: Is a directory; it is a folder"):
        save_tensors({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    save_tensors({"a": torch.zeros(2, 2).T}, tmp_path / "b.safetensors")
    assert load_file(tmp_path / "b.safetensors")["a"].shape == (2, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]
