from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

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


def test_axes_are_round_equal_curves_are_one_and_all_lies_inside(tmp_path: Path) -> None:
    rows = [
        {"step": step, "loss": 2.49 - step / 250, "lr_projection": 9.96e-4, "lr_qformer": 3e-4, "lr_queries": 3e-4}
        for step in range(25, 501, 25)
    ]
    root = drawn(tmp_path / "a <run> & more", rows, [{"step": 100, "loss": 2.7}, {"step": 500, "loss": 1.0}])
    shown = texts(root)
    assert [title for title in shown if " " in title] == [
        "loss (nats a token)", "step 0", "learning rate", "step 0", "qformer, queries",
    ]  # fmt: skip
    assert {"0", "1", "2", "3", "0.00025", "0.001", "200", "400", "training", "validation", "projection"} < set(shown)
    lines = list(root.iter(f"{SVG}polyline"))
    assert len(lines) == 4
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    points = [tuple(map(float, pair.split(","))) for line in lines for pair in line.attrib["points"].split()]
    assert len(points) == 3 * 20 + 2 and all(0 < x < width and 0 < y < height for x, y in points)
    assert root.find(f"{SVG}title").text == "Curves of a <run> & more over its steps"  # type: ignore[union-attr]


def test_a_single_step_is_a_point_and_what_is_not_finite_is_left_out(tmp_path: Path) -> None:
    root = drawn(tmp_path, [{"step": 1, "loss": 0.5, "grad_norm": float("nan")}])
    assert "gradient norm" not in texts(root)
    [point] = root.iter(f"{SVG}circle")
    assert float(point.attrib["cx"]) > 0
    (tmp_path / "none").mkdir()
    draw_curves(tmp_path / "none")
    assert not (tmp_path / "none/curves.svg").exists()
