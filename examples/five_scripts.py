"""Caption nano scenes in five scripts and draw the captions beside them: ``docs/images/five_scripts.png``.

    make quickstart
    python examples/five_scripts.py runs/quickstart/multilingual-1 --to five_scripts.png

The scenes are the first four that the seeds give; none is chosen by its captions. The model sees them at 64 pixels, as in
training; the drawing shows them larger. Drawing takes Playwright and Chromium, which shapes Arabic and Devanagari; without
``--to`` the captions are only printed and neither is needed.
"""

from __future__ import annotations

import argparse
import base64
import html
import io
import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image

import mblip
from mblip.errors import MblipError
from mblip.languages import find_language
from mblip.nano.scenes import render, sample_scene
from mblip.nano.words import load_lexicon

LANGUAGES = ("en", "ru", "ar", "hi", "ja")  # Latin, Cyrillic, Arabic, Devanagari, Japanese
SCENES = 4
STYLE = """
body { margin: 0; background: #fff; color: #1d2429; font: 19px "Noto Sans", "Noto Sans CJK JP", "DejaVu Sans", sans-serif }
table { border-collapse: collapse }
th, td { padding: 9px 18px; text-align: start; border-bottom: 1px solid #dde3e7 }
tr:last-child td { border-bottom: 0 }
th { color: #5b6972; font-size: 15px; font-weight: 600 }
img { display: block; border-radius: 6px }
"""


def main() -> None:
    """Caption the scenes, print the captions and draw them where that was asked for."""
    parser = argparse.ArgumentParser(description="Caption nano scenes in five scripts.")
    parser.add_argument("model", help="a trained nano run, such as runs/quickstart/multilingual-1")
    parser.add_argument("--to", type=Path, help="the PNG to draw")
    arguments = parser.parse_args()
    if arguments.to and (arguments.to.suffix.lower() != ".png" or not arguments.to.parent.is_dir()):
        parser.error(f"--to {arguments.to}: name a .png file in an existing folder")

    concepts = sorted(load_lexicon().concepts)
    scenes = [sample_scene(np.random.default_rng(number), 1 + number % 2, concepts) for number in range(SCENES)]
    captions = mblip.load_model(arguments.model).caption([render(scene) for scene in scenes], list(LANGUAGES))
    for number, row in enumerate(captions, 1):
        print(number, *row, sep="\t")
    if arguments.to:
        draw(page([render(scene, 256) for scene in scenes], captions), arguments.to)


def page(pictures: list[Image.Image], captions: list[list[str]]) -> str:
    """An HTML table: a row a picture, a column a language."""
    head = "".join(f"<th>{find_language(code).name}</th>" for code in LANGUAGES)
    rows = []
    for picture, texts in zip(pictures, captions, strict=True):
        data = io.BytesIO()
        picture.save(data, "PNG")
        source = base64.b64encode(data.getvalue()).decode()
        cells = "".join(
            f'<td lang="{c}" dir="auto">{html.escape(t)}</td>' for c, t in zip(LANGUAGES, texts, strict=True)
        )
        rows.append(f'<tr><td><img width="104" height="104" src="data:image/png;base64,{source}"></td>{cells}</tr>')
    return f'<meta charset="utf-8"><style>{STYLE}</style><table><tr><th></th>{head}</tr>{"".join(rows)}</table>'


def draw(text: str, path: Path) -> None:
    """Let Chromium draw the table, and keep it in few colours so that the file is small."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium") or shutil.which("google-chrome"))
        tab = browser.new_page(device_scale_factor=2)
        tab.set_content(text)
        drawn = tab.locator("table").screenshot()
        browser.close()
    Image.open(io.BytesIO(drawn)).convert("RGB").quantize(256).save(path, optimize=True)


if __name__ == "__main__":
    try:
        main()
    except MblipError as error:
        sys.exit(str(error))
