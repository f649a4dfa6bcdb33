"""What the demo lets in, and what it keeps to itself."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from PIL import Image
from tests import checkpoints
from tests.serving import NAME, chat, png, serving
from tests.unit.inference.raid import Raid
from tests.unit.inference.siege import FIELDS

from mblip.errors import InputError
from mblip.inference.predictor import Predictor
from mblip.inference.server import Limits, Settings, create_app
from mblip.inference.uploads import Uploads
from mblip.nano.demo_pictures import draw
from mblip.nano.notice import SEES

QUICK = Limits(header=1, body=1.5, idle=1, drain=5)


@pytest.fixture(scope="module")
def demo(tiny: Predictor, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    from mblip.inference.demo import mount_demo

    settings, examples = Settings(wait=0, max_bytes=1 << 20), draw(tmp_path_factory.mktemp("examples"))
    app = mount_demo(create_app(tiny, NAME, settings), tiny, NAME, settings.max_bytes, examples)
    with serving(app, QUICK) as address:
        yield address


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    file = tmp_path / "note.txt"
    file.write_text("only here 8c21f0")
    return file


def inside() -> list[str]:
    """Beginnings of paths that no client is to see."""
    return [
        os.environ.get("GRADIO_TEMP_DIR", "/tmp/gradio"),
        sys.prefix,
        str(Path(__file__).parents[3]),
        "/tmp/mblip-demo",
    ]


def call(address: str, function: str, data: list[Any], **options: Any) -> tuple[int, str]:
    """Call a function of the page as a program does."""
    reply = httpx.post(f"{address}/gradio_api/call/{function}", json={"data": data}, timeout=60, **options)
    if reply.status_code != 200:
        return reply.status_code, reply.text
    event = reply.json()["event_id"]
    return 200, httpx.get(f"{address}/gradio_api/call/{function}/{event}", timeout=60, **options).text


def uploaded(address: str, data: bytes, **options: Any) -> dict[str, Any]:
    (path,) = httpx.post(f"{address}/gradio_api/upload", files={"files": ("a.png", data)}, **options).json()
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


def test_uploads_and_examples_work(demo: str) -> None:
    status, text = call(demo, "caption", [uploaded(demo, png()), ["sw", "de"], 1, 0, 1.5, 4])
    assert status == 200
    assert text.count("<article") == 2
    config = httpx.get(f"{demo}/config").json()
    (samples,) = [part["props"]["samples"] for part in config["components"] if part["type"] == "dataset"]
    assert len(samples) == 4
    for (sample,) in samples:
        assert sample["path"].startswith("uploads/")
        shown = httpx.get(f"{demo}/gradio_api/file={sample['path']}")
        assert shown.headers["content-type"] == "image/png"
        assert "<article" in call(demo, "ask", [sample, "what is it?", "en", 1, 0, 1.5, 4])[1]
    loaded = httpx.post(
        f"{demo}/gradio_api/run/predict", json={"data": [2], "fn_index": 0, "session_hash": "a1", "trigger_id": 5}
    ).json()
    assert "<article" in call(demo, "caption", [loaded["data"][0]["value"], ["sw"], 1, 0, 1.5, 4])[1]


def in_format(name: str, mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    with Image.open(io.BytesIO(png())) as picture:
        picture.convert(mode).resize((60, 40)).save(file, name)
    return file.getvalue()


@pytest.mark.parametrize(("name", "mode"), [
    ("TIFF", "RGB"), ("TIFF", "CMYK"), ("TIFF", "I;16"), ("JPEG2000", "RGB"), ("PPM", "RGB"), ("TGA", "RGB"), ("ICO", "RGBA"),
    ("HEIF", "RGB"),
])  # fmt: skip
def test_a_picture_that_browsers_cannot_draw_has_a_preview(demo: str, name: str, mode: str) -> None:
    if name == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    sent = in_format(name, mode)
    picture = uploaded(demo, sent)  # named a.png, as some programs do
    shown = httpx.get(f"{demo}/gradio_api/file={picture['path']}")
    assert shown.headers["content-type"] == "image/jpeg" and "content-disposition" not in shown.headers
    assert shown.headers["x-content-type-options"] == "nosniff"
    drawn = Image.open(io.BytesIO(shown.content))
    assert drawn.format == "JPEG" and drawn.width / drawn.height == pytest.approx(1.5, abs=0.05)
    assert "<article" in call(demo, "caption", [picture, ["sw"], 1, 0, 1.5, 4])[1]  # made from the file as it was sent


@pytest.mark.parametrize("name", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "AVIF"])
def test_a_picture_that_browsers_draw_is_shown_as_it_was_sent(demo: str, name: str) -> None:
    sent = in_format(name)
    shown = httpx.get(f"{demo}/gradio_api/file={uploaded(demo, sent)['path']}")
    assert shown.headers["content-type"] == f"image/{name.lower()}" and shown.content == sent


def test_a_preview_is_small(demo: str) -> None:
    large = io.BytesIO()
    Image.new("RGB", (3000, 200), "green").save(large, "TIFF", compression="tiff_lzw")
    shown = httpx.get(f"{demo}/gradio_api/file={uploaded(demo, large.getvalue())['path']}")
    assert Image.open(io.BytesIO(shown.content)).size == (1280, 85)


@pytest.mark.parametrize("data", [b"<html><script>alert(1)</script></html>", in_format("TIFF")[:200], b""])
def test_what_is_no_picture_is_only_downloaded(demo: str, data: bytes) -> None:
    shown = httpx.get(f"{demo}/gradio_api/file={uploaded(demo, data)['path']}")  # named a.png
    assert shown.headers["content-type"] == "application/octet-stream" and shown.content == data
    assert shown.headers["content-disposition"] == "attachment"


def test_the_page_says_what_a_model_sees_and_offers_pictures_that_it_knows(
    tiny: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mblip.inference.demo import mount_demo
    from mblip.inference.predictor import load_model

    monkeypatch.setenv("GRADIO_TEMP_DIR", "")  # the other page's folder is named again afterwards
    for model, sees, samples in ((tiny, "such as photographs", 0), (load_model("nano:nano-blip2-en"), SEES, 4)):
        app = mount_demo(create_app(model, NAME, Settings()), model, NAME, 1 << 20)
        with serving(app) as address:
            config = httpx.get(f"{address}/config").json()
            # Somebody was answered before the first visitor came.
            assert re.search(r"mblip_batch_size_count [1-9]", httpx.get(f"{address}/metrics").text)
        page = next(part["props"]["value"] for part in config["components"] if part["type"] == "markdown")
        assert sees in page and NAME in page
        offered = [part["props"]["samples"] for part in config["components"] if part["type"] == "dataset"]
        assert sum(map(len, offered)) == samples
        assert ("one of the examples" in page) == bool(samples)


def test_the_page_names_a_base_without_the_folders_of_this_machine(tiny: Predictor, demo: str) -> None:
    assert tiny.vlm.origin is not None
    (base,) = tiny.vlm.origin.bases.values()
    assert Path(base.id).is_absolute()
    shown = httpx.get(f"{demo}/config").text
    assert f"It was made from `{Path(base.id).name}`" in shown
    assert base.id not in shown


def test_an_example_that_is_no_picture_is_refused(
    tiny: Predictor, secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mblip.inference.demo import mount_demo

    monkeypatch.setenv("GRADIO_TEMP_DIR", "")

    for path in (secret, secret.parent / "none.png"):
        with pytest.raises(InputError, match=rf"the example .*{path.name} cannot be read as a picture"):
            mount_demo(create_app(tiny, NAME, Settings()), tiny, NAME, 1 << 20, [path])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4)  # Pillow's error of a bomb is none of its others
    (secret.parent / "bomb.png").write_bytes(png(3))
    with pytest.raises(InputError, match=r"the example .*bomb.png cannot be read as a picture"):
        mount_demo(create_app(tiny, NAME, Settings()), tiny, NAME, 1 << 20, [secret.parent / "bomb.png"])


def test_gradios_own_client_works(demo: str, tmp_path: Path) -> None:
    import gradio_client

    (tmp_path / "a photo.png").write_bytes(png(3))
    client = gradio_client.Client(demo, verbose=False, analytics_enabled=False)
    picture = gradio_client.handle_file(str(tmp_path / "a photo.png"))
    answer = client.predict(picture, ["sw", "ja"], 1, 0, 1.5, 4, api_name="/caption")
    assert answer.count("<article") == 2
    client.close()


def test_a_file_that_nobody_uploaded_is_refused(demo: str, secret: Path) -> None:
    file = {"path": str(secret), "meta": {"_type": "gradio.FileData"}}
    copies = set(Path(os.environ["GRADIO_TEMP_DIR"]).rglob("*"))
    for function, data in FIELDS.items():
        for slot in range(len(data)):
            status, text = call(demo, function, [*data[:slot], file, *data[slot + 1 :]])
            assert status == 400, (function, slot)
            assert secret.read_text() not in text
    assert httpx.get(f"{demo}/gradio_api/file={secret}").status_code == 404
    assert set(Path(os.environ["GRADIO_TEMP_DIR"]).rglob("*")) == copies


def test_uploads_lie_in_a_private_folder_and_go_with_the_server(tiny: Predictor) -> None:
    from mblip.inference.demo import mount_demo

    before = os.environ.get("GRADIO_TEMP_DIR")
    with serving(mount_demo(create_app(tiny, NAME, Settings()), tiny, NAME, 1 << 20)) as address:
        folder = Path(os.environ["GRADIO_TEMP_DIR"])
        uploaded(address, png())
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert any(path.read_bytes() == png() for path in folder.rglob("a.png"))
    assert not folder.exists()
    if before:
        os.environ["GRADIO_TEMP_DIR"] = before  # that of the other demo of this file


def test_old_uploads_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uploads = Uploads(tmp_path, 10)
    names = [uploads.add("../../x y.png", b"0123456789") for _ in range(70)]
    assert len(set(names)) == 70
    assert all(re.fullmatch(r"uploads/[0-9a-f]{32}/x_y\.png", name) for name in names)
    assert [uploads.find(name) is None for name in names] == [True] * 6 + [False] * 64
    assert sum(path.is_file() for path in tmp_path.rglob("*")) == 64
    later = SimpleNamespace(monotonic=lambda: time.monotonic() + 3601)
    monkeypatch.setattr("mblip.inference.uploads.time", later)  # not for the servers that run beside
    uploads.add("y", b"")
    assert sum(path.is_file() for path in tmp_path.rglob("*")) == 1
    others: list[Any] = [
        "",
        None,
        7,
        [],
        {},
        "uploads",
        names[0],
        str(tmp_path),
        names[-1].replace("uploads", "uploads/."),
    ]
    for name in others:
        assert uploads.find(name) is None


def test_limits_hold_for_the_page_too(tiny: Predictor, demo: str) -> None:
    status, text = call(demo, "ask", [uploaded(demo, png()), "x " * 3000, "en", 1, 0, 1.5, 4])
    assert (status, "at most 1024" in text) == (200, True)
    assert call(demo, "ask", [uploaded(demo, png()), "x" * 40_000, "en", 1, 0, 1.5, 4])[0] == 400
    big = httpx.post(f"{demo}/gradio_api/upload", files={"files": ("a.png", b"x" * (2 << 20))})
    assert big.status_code == 413
    from mblip.inference.demo import mount_demo

    before = os.environ["GRADIO_TEMP_DIR"]
    app = create_app(tiny, NAME, Settings(queue=2))
    with serving(mount_demo(app, tiny, NAME, 1 << 20)) as address:
        status, text = call(address, "caption", [uploaded(address, png()), ["sw", "de", "ja"], 1, 0, 1.5, 4])
    assert "all places in the queue are taken" in text.lower()
    os.environ["GRADIO_TEMP_DIR"] = before


def test_keys_guard_the_page(tiny: Predictor) -> None:
    from mblip.inference.demo import mount_demo

    before = os.environ["GRADIO_TEMP_DIR"]
    app = mount_demo(create_app(tiny, NAME, Settings(keys=("s3cret:key",))), tiny, NAME, 1 << 20)
    with serving(app) as address:
        for path in ("/", "/config", "/gradio_api/info", "/gradio_api/file=x", "/assets/x.js", "/v1/models"):
            asked = httpx.get(f"{address}{path}")
            assert asked.status_code == 401, path
            assert asked.headers["www-authenticate"].startswith("Basic")
        assert httpx.post(f"{address}/gradio_api/upload", files={"files": ("a", png())}).status_code == 401
        for auth, status in (
            (("me", "s3cret:key"), 200),
            (("", "s3cret:key"), 200),
            (("s3cret:key", ""), 401),
            (("x", "y"), 401),
        ):
            assert httpx.get(f"{address}/config", auth=auth).status_code == status
        me: Any = {"auth": ("me", "s3cret:key")}
        assert "<article" in call(address, "caption", [uploaded(address, png(), **me), ["sw"], 1, 0, 1.5, 4], **me)[1]
    os.environ["GRADIO_TEMP_DIR"] = before


def test_a_short_siege(demo: str, secret: Path, capfd: pytest.CaptureFixture[str]) -> None:
    siege = Raid(demo, secret, inside())
    siege.lay(every=9)
    assert siege.found == []
    assert siege.tried >= 100
    assert httpx.post(f"{demo}/v1/chat/completions", json=chat("x", png()), timeout=60).status_code == 200
    said = "".join(capfd.readouterr())
    assert "Traceback" not in said, said[-3000:]


@pytest.mark.slow
def test_a_siege(tmp_path: Path, secret: Path) -> None:
    """The whole of it, against ``mblip demo`` itself: 0 leaks, 0 tracebacks, 0 answers of 500 or more."""
    model = checkpoints.blip2(tmp_path / "tiny", "mt5")
    command = [sys.executable, "-m", "mblip", "demo", "--model", str(model), "--port", "0", "--max-mb", "1"]
    command += ["--header-seconds", "1", "--body-seconds", "2", "--idle-seconds", "2", "--drain-seconds", "5"]
    folders = set(Path("/tmp").glob("mblip-demo-*"))
    with (
        (tmp_path / "err").open("wb") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        assert process.stdout
        address = re.search(r"http://\S+", process.stdout.readline())
        assert address
        (folder,) = set(Path("/tmp").glob("mblip-demo-*")) - folders
        siege = Raid(address[0], secret, [*inside(), str(tmp_path)])
        siege.lay()
        working = call(address[0], "caption", [uploaded(address[0], png()), ["sw"], 1, 0, 1.5, 4])[1]
        metrics = httpx.get(f"{address[0]}/metrics").text
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    said = (tmp_path / "err").read_text(errors="replace")
    sys.stdout.write(json.dumps({"requests": siege.tried, "found": siege.found, "log lines": len(said.splitlines())}))
    assert siege.found == []
    assert siege.tried >= 300
    assert "Traceback" not in said, said[-3000:]
    assert "<article" in working
    assert not folder.exists()
    counted = dict(re.findall(r'mblip_requests_total\{status="(\d+)"\} (\d+)', metrics))
    assert {"400", "403", "404", "408", "499"} <= set(counted)
    assert not [status for status in counted if status >= "500"]
