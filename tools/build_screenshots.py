"""Take the screenshots of docs/images from a finished quickstart, with playwright and an installed Chromium.

python tools/build_screenshots.py runs/quickstart
"""

from __future__ import annotations

import html
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

IMAGES = Path(__file__).parents[1] / "docs" / "images"
LANGUAGES = "en,sw,de,ja,ar,hi"
_TERMINAL = """<meta charset="utf-8"><style>body{margin:0;background:#fff}
pre{font:15px/1.45 "DejaVu Sans Mono","Noto Sans Mono","Noto Sans CJK JP",monospace;color:#1d2429;background:#f6f8f9;
border:1px solid #c9d1d6;border-radius:8px;padding:1rem 1.2rem;margin:8px;tab-size:4}b{color:#00796b}</style><pre>"""


def mblip(*words: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "mblip", *words], cwd=cwd, check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout


def terminal(run: Path, folder: Path) -> str:
    """A page with two commands and what they print."""
    shown = []
    for command in (
        "examples --to pictures",
        "caption pictures --language sw,de,ja,ar,hi --model runs/quickstart/multilingual-1",
    ):
        printed = mblip(*command.replace("runs/quickstart/multilingual-1", str(run)).split(), cwd=folder)
        shown.append(f"<b>$ mblip {command}</b>\n{html.escape(printed)}")
    return _TERMINAL + "".join(shown) + "</pre>"


def demo(browser: Any, run: Path) -> None:
    """The page of ``mblip demo`` with an example that was captioned."""
    command = [sys.executable, "-m", "mblip", "demo", "--port", "0", "--model", str(run)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout
    address = server.stdout.readline().split()[1]
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(120_000)
    page.goto(address)
    page.locator("#examples img").nth(1).click()
    page.locator("[data-testid='image'] img, .image-frame img").first.wait_for()
    page.get_by_role("button", name="Caption").click()
    page.locator("#captions article").nth(2).wait_for()
    page.screenshot(path=IMAGES / "demo.png")
    server.terminate()
    server.wait()


def main(quickstart: Path) -> None:
    """Write terminal.png, report.png and demo.png."""
    runs = [(quickstart / name).resolve() for name in ("multilingual-1", "english_only-1")]
    with tempfile.TemporaryDirectory() as made, sync_playwright() as playwright:
        folder = Path(made)
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        (folder / "terminal.html").write_text(terminal(runs[0], folder), encoding="utf-8")
        page = browser.new_page(viewport={"width": 860, "height": 300})
        page.goto((folder / "terminal.html").as_uri())
        page.locator("pre").screenshot(path=IMAGES / "terminal.png")
        for run in runs:
            mblip(
                "eval",
                str(run),
                "--suite",
                "scenes",
                "--languages",
                LANGUAGES,
                "--limit",
                "200",
                "--to",
                f"{run.name}-eval",
                cwd=folder,
            )
        mblip("report", *(f"{run.name}-eval" for run in runs), "--to", "compared", cwd=folder)
        page = browser.new_page(viewport={"width": 1280, "height": 1300})
        page.goto((folder / "compared/report.html").as_uri())
        page.screenshot(path=IMAGES / "report.png")
        demo(browser, runs[0])
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
