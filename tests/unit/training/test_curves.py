from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest

from mblip.training.curves import draw_curves

SVG = "{http://www.w3.org/2000/svg}"


def drawn(
    folder: Path, rows: Sequence[dict[str, float]], checked: Sequence[dict[str, float]] = ()
) -> ElementTree.Element:
    folder.mkdir(parents=True, exist_ok=True)
    for name, found in (("metrics", rows), ("validation", checked)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    draw_curves(folder)
    return ElementTree.parse(folder / "curves.svg").getroot()


def texts(root: ElementTree.Element) -> list[str]:
    return [node.text or "" for node in root.iter(f"{SVG}text")]


def lines(root: ElementTree.Element) -> dict[str, list[tuple[float, float]]]:
    """The points of every curve, by the name of its group."""
    found = {}
    for group in root.iter(f"{SVG}g"):
        name, path = group.attrib.get("id", ""), group.find(f"{SVG}path")
        if name.startswith(("Loss", "Gradient", "Learning", "Texts")) and path is not None:
            numbers = [float(text) for text in re.findall(r"-?[\d.]+", path.attrib["d"])]
            found[name] = list(zip(numbers[::2], numbers[1::2], strict=True))
    return found


def test_axes_are_round_equal_curves_are_one_and_all_lies_inside(tmp_path: Path) -> None:
    rows = [
        {"step": step, "loss": 2.49 - step / 250, "lr_projection": 9.96e-4, "lr_qformer": 3e-4, "lr_queries": 3e-4}
        for step in range(25, 501, 25)
    ]
    root = drawn(tmp_path / "a <run> & more", rows, [{"step": 100, "loss": 2.7}, {"step": 500, "loss": 1.0}])
    shown = texts(root)
    assert [title for title in shown if " " in title] == [
        "Loss (nats per token)", "Learning rate", "qformer, queries",
    ]  # fmt: skip
    assert {"0", "1", "2", "0.00025", "0.001", "200", "400", "training", "validation", "projection"} < set(shown)
    curves = lines(root)
    assert {name: len(points) for name, points in curves.items()} == {
        "Loss-nats-per-token-training": 20, "Loss-nats-per-token-validation": 2, "Learning-rate-projection": 20,
        "Learning-rate-qformer-queries": 20,
    }  # fmt: skip
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    assert all(0 < x < width and 0 < y < height for points in curves.values() for x, y in points)
    loss = [y for _, y in curves["Loss-nats-per-token-training"]]
    assert loss == sorted(loss)  # it falls: y grows downwards
    assert root.find(f"{SVG}title").text == "Curves of a <run> & more over its steps"  # type: ignore[union-attr]


def test_curves_are_told_in_words_follow_the_readers_colours_and_fetch_nothing(tmp_path: Path) -> None:
    rows = [{"step": step, "loss": 3.0 - step / 10, "lr_<b>": 1e-3} for step in (1, 10)]
    root = drawn(tmp_path / "run", rows)
    said = root.find(f"{SVG}desc").text or ""  # type: ignore[union-attr]
    assert (
        root.attrib["role"] == "img" and "Loss (nats per token), training: from 2.9 at step 1 to 2 at step 10" in said
    )
    written = (tmp_path / "run/curves.svg").read_text(encoding="utf-8")
    assert "CanvasText" in written and "color-scheme: light dark" in written and "#123456" not in written
    assert not re.search(r"href=\"(?!#)|url\((?!#)|<script|<image", written)
    draw_curves(tmp_path / "run")
    assert (tmp_path / "run/curves.svg").read_text(encoding="utf-8") == written


def test_a_single_step_is_a_point_and_what_is_not_finite_is_left_out(tmp_path: Path) -> None:
    root = drawn(tmp_path, [{"step": 1, "loss": 0.5, "grad_norm": float("nan")}])
    assert "Gradient norm" not in texts(root)
    [group] = [group for group in root.iter(f"{SVG}g") if group.attrib.get("id", "").startswith("Loss")]
    assert list(group.iter(f"{SVG}use"))  # the marker
    (tmp_path / "none").mkdir()
    draw_curves(tmp_path / "none")
    assert not (tmp_path / "none/curves.svg").exists()


@pytest.mark.filterwarnings("error::UserWarning", "error::RuntimeWarning")  # not those of what others left behind
def test_curves_below_zero_and_of_many_parts_are_drawn(tmp_path: Path) -> None:
    rates = {f"lr_part{number}": number * 1e-6 for number in range(9)}
    root = drawn(tmp_path, [{"step": step, "loss": -step / 3, **rates} for step in (1, 2, 3)])
    assert len(lines(root)) == 10 and any(text.startswith(("-", "\N{MINUS SIGN}")) for text in texts(root))
