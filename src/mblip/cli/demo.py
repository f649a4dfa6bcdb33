"""``mblip demo``: a page to try a model on."""

from __future__ import annotations

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(demo)


def demo(
    model: Annotated[str, typer.Option(help="Run directory, checkpoint directory or Hub id.")] = "",
    host: Annotated[str, typer.Option(help="Address to listen on; only this machine by default.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for any free one.")] = 7860,
    quantization: Annotated[str, typer.Option(help="Of the language model: auto, none, int8 or nf4.")] = "auto",
) -> None:
    """Open a page in the browser to try a model on. The API of mblip serve is under /v1."""
    from mblip.inference.choosing import choose_model

    chosen = choose_model(model)
    from mblip.inference.choosing import open_model
    from mblip.inference.demo import mount_demo
    from mblip.inference.server import Settings, create_app
    from mblip.inference.server.running import listen, run

    listening = listen(host, port)  # a port that is taken is told before a model is loaded
    vlm, settings = open_model(chosen, quantization), Settings()
    app = mount_demo(create_app(vlm, chosen, settings), vlm, chosen, settings.max_bytes)
    run(app, listening, lambda address: print(f"open {address} in a browser", flush=True))
