"""``mblip demo``: a page to try a model."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from mblip.cli.serve import (
    Body,
    Drain,
    Header,
    Host,
    Hosts,
    Idle,
    Keys,
    MaxMb,
    Model,
    Name,
    Origins,
    Quantization,
    Queue,
    warn,
)


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(demo)


def demo(
    model: Model = "",
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for any free one.")] = 7860,
    served_model_name: Name = "",
    api_keys: Keys = None,
    allowed_hosts: Hosts = None,
    allowed_origins: Origins = None,
    queue: Queue = 256,
    max_mb: MaxMb = 20,
    header_seconds: Header = 10,
    body_seconds: Body = 120,
    idle_seconds: Idle = 30,
    drain_seconds: Drain = 60,
    quantization: Quantization = "auto",
    example: Annotated[
        list[Path] | None, typer.Option(help="A picture to offer as an example on the page; may be repeated.")
    ] = None,
) -> None:
    """Serve a web page to try a model. The API of mblip serve is under /v1."""
    from mblip.inference.resolve import choose_model, read_keys, served_name

    chosen, keys = choose_model(model), read_keys(api_keys)
    from mblip.inference.demo import mount_demo
    from mblip.inference.resolve import open_model
    from mblip.inference.server import Limits, Settings, create_app, listed_hosts, listed_origins
    from mblip.inference.server.server import listen, run

    settings = Settings(
        queue=queue, max_bytes=max_mb << 20, keys=keys, host=host, hosts=listed_hosts(allowed_hosts or ()),
        origins=listed_origins(allowed_origins or ()),
    )  # fmt: skip
    listening = listen(host, port)  # before the model is loaded, to report a port in use at once
    print(f"loading {chosen}", file=sys.stderr, flush=True)
    vlm, name = open_model(chosen, quantization), served_model_name or served_name(chosen)
    # Until the server handles signals: exit normally, so that the folder for uploads is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    app = mount_demo(create_app(vlm, name, settings), vlm, name, settings.max_bytes, example or ())
    limits = Limits(header_seconds, body_seconds, idle_seconds, drain_seconds)
    run(app, listening, lambda address: _greet(address, host, bool(keys)), limits)


def _greet(address: str, host: str, guarded: bool) -> None:
    print(f"open {address} in a browser", flush=True)
    if guarded:
        print("it asks for a user name, which may be anything, and a password, which is one of the keys", flush=True)
    warn(host, guarded)
