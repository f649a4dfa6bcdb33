"""A real server on a free port of this machine, and what tests send to it."""

from __future__ import annotations

import base64
import contextlib
import io
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from mblip.inference.server import Limits
from mblip.inference.server.server import listen, server_of

NAME = "tiny"


@contextlib.contextmanager
def serving(app: Any, limits: Limits | None = None) -> Iterator[str]:
    """Run an application in a thread; gives its address."""
    bound = listen("127.0.0.1", 0)
    server = server_of(app, limits or Limits(drain=5))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    while not server.started and thread.is_alive():
        thread.join(0.02)
    try:
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def png(seed: int = 0, side: int = 30) -> bytes:
    rng = np.random.default_rng(seed)
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def data_url(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def chat(prompt: str, *pictures: bytes, **fields: Any) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": data_url(data)}} for data in pictures]
    message = {"role": "user", "content": [*parts, {"type": "text", "text": prompt}]}
    return {"model": NAME, "messages": [message], "max_tokens": 8, **fields}
