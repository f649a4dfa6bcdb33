"""The demo page in a real browser: upload, captions in three scripts, a question, a broken file; nothing from outside."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests import checkpoints
from tests.serving import png, serving

WIDE, PHONE = (1280, 900), (390, 844)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, chromium: str) -> Iterator[str]:
    from mblip.inference.demo import mount_demo
    from mblip.inference.predictor import load_model
    from mblip.inference.server import Settings, create_app

    # A run of the quickstart answers in real words; without one the page is the same.
    name = os.environ.get("MBLIP_DEMO_MODEL") or checkpoints.blip2(tmp_path_factory.mktemp("tiny"), "mt5")
    model, settings = load_model(name), Settings()
    app = mount_demo(create_app(model, "tiny", settings), model, "tiny", settings.max_bytes)
    with serving(app) as found:
        yield found


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_caption_ask_and_a_broken_file(address: str, browser: Any, size: tuple[int, int], tmp_path: Path) -> None:
    page = browser.new_page(viewport={"width": size[0], "height": size[1]})
    page.set_default_timeout(120_000)
    outside, problems = [], []
    page.on("request", lambda request: outside.append(request.url) if not _is_inside(request.url, address) else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(address)
    page.get_by_role("button", name="Caption").wait_for()

    (tmp_path / "photo.png").write_bytes(png(1, 64))
    page.locator("input[type=file]").first.set_input_files(tmp_path / "photo.png")
    page.locator(".image-frame img, [data-testid='image'] img, img.svelte-image").first.wait_for()
    page.get_by_role("button", name="Caption").click()
    page.locator("#captions article").nth(2).wait_for()
    cards = page.locator("#captions article")
    assert [cards.nth(i).get_attribute("lang") for i in range(3)] == ["sw", "ar", "ja"]
    assert [cards.nth(i).get_attribute("dir") for i in range(3)] == ["ltr", "rtl", "ltr"]
    assert "العربية" in cards.nth(1).inner_text()
    assert cards.nth(1).evaluate("card => getComputedStyle(card.querySelector('p')).direction") == "rtl"
    if size == WIDE:
        assert cards.nth(0).bounding_box()["y"] == cards.nth(1).bounding_box()["y"]

    page.get_by_label("Question", exact=True).fill("¿Qué hay en la mesa?")
    page.get_by_role("button", name="Ask").click()
    page.locator("#answer article").wait_for()
    assert page.locator("#answer article").get_attribute("lang") == "es"
    folder = os.environ.get("MBLIP_SCREENSHOTS")
    if folder:
        page.screenshot(path=Path(folder) / f"demo-{size[0]}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]

    (tmp_path / "broken.png").write_text("not a picture")
    page.get_by_role("button", name=re.compile("clear|remove", re.IGNORECASE)).first.click()
    page.locator("input[type=file]").first.set_input_files(tmp_path / "broken.png")
    page.wait_for_timeout(1000)
    assert page.locator("#captions article, #answer article").count() == 0
    page.get_by_role("button", name="Caption").click()
    error = page.get_by_text("The picture cannot be used")
    error.wait_for()
    assert "/tmp" not in error.inner_text()
    page.close()
    assert outside == []
    assert problems == []


@pytest.mark.parametrize(("name", "kind"), [
    ("photo.tif", "TIFF"), ("photo.jp2", "JPEG2000"), ("photo.tga", "TGA"), ("photo.heic", "HEIF"), ("photo.png", "TIFF"),
    ("photo.webp", "WEBP"), ("IMG_1.HEIC", "HEIF"), ("photo.qoi", "QOI"),
])  # fmt: skip
def test_every_picture_is_drawn_beside_its_caption(
    address: str, browser: Any, name: str, kind: str, tmp_path: Path
) -> None:
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    with Image.open(io.BytesIO(png(1, 64))) as picture:
        picture.convert("RGB").resize((96, 64)).save(tmp_path / name, kind)
    page = browser.new_page()
    page.set_default_timeout(120_000)
    page.goto(address)
    page.get_by_role("button", name="Caption").wait_for()
    page.locator("input[type=file]").first.set_input_files(tmp_path / name)
    shown = page.locator(".image-frame img, [data-testid='image'] img, img.svelte-image").first
    shown.wait_for()
    assert shown.evaluate("image => image.decode().then(() => [image.naturalWidth, image.naturalHeight])") == [96, 64]
    page.get_by_role("button", name="Caption").click()
    page.locator("#captions article").nth(2).wait_for()
    page.close()


def test_a_dropped_picture_without_a_type_is_taken(address: str, browser: Any) -> None:
    page = browser.new_page()
    page.set_default_timeout(60_000)
    page.goto(address)
    page.get_by_role("button", name="Caption").wait_for()
    page.evaluate(
        """bytes => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([new Uint8Array(bytes)], "PHOTO.PNG", {type: ""}));
          const target = document.querySelector("input[type=file]").closest("button, [role=button]") ??
            document.querySelector("input[type=file]").parentElement;
          target.dispatchEvent(new DragEvent("drop", {dataTransfer: transfer, bubbles: true, cancelable: true}));
        }""",
        list(png(1, 64)),
    )
    shown = page.locator(".image-frame img, [data-testid='image'] img, img.svelte-image").first
    shown.wait_for()
    assert shown.evaluate("image => image.decode().then(() => image.naturalWidth)") == 64
    page.close()


def test_every_language_is_found_by_its_own_name(address: str, browser: Any) -> None:
    page = browser.new_page()
    page.set_default_timeout(120_000)
    page.goto(address)
    box = page.get_by_label("Caption in")
    box.click()
    box.fill("Türk")
    page.get_by_role("option", name="Türkçe · Turkish").click()
    box.fill("swah")
    assert page.get_by_text("Kiswahili").count() >= 1
    page.close()


def _is_inside(url: str, address: str) -> bool:
    return url.startswith((address, "data:", "blob:"))
