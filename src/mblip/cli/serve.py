"""``mblip serve``: a model behind an OpenAI-compatible API."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[str, typer.Option(help="Run directory, checkpoint directory or Hub id.")]
Host = Annotated[str, typer.Option(help="Address to listen on; only this machine by default.")]
Quantization = Annotated[str, typer.Option(help="Of the language model: auto, none, int8 or nf4.")]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(serve)


def serve(
    model: Model = "",
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for any free one.")] = 8000,
    api_keys: Annotated[Path | None, typer.Option(help="File with the keys that clients may show, one a line.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts that are generated together.")] = 32,
    wait_ms: Annotated[float, typer.Option(min=0, help="What a request waits for company at most.")] = 10,
    queue: Annotated[int, typer.Option(min=1, help="Texts that may wait; beyond them clients get 429.")] = 256,
    max_mb: Annotated[int, typer.Option(min=1, help="Largest request, and largest fetched picture.")] = 20,
    remote_images: Annotated[
        bool, typer.Option("--remote-images", help="Fetch pictures from public http(s) addresses.")
    ] = False,
    quantization: Quantization = "auto",
    compile_model: Annotated[
        bool, typer.Option("--compile", help="torch.compile the vision model: a minute before the first answer.")
    ] = False,
) -> None:
    """Serve a model as OpenAI's chat API. It stops on Ctrl-C or SIGTERM, when all that was begun is answered."""
    from mblip.inference.choosing import choose_model, read_keys

    chosen, keys = choose_model(model), read_keys(api_keys)
    from mblip.inference.choosing import open_model
    from mblip.inference.server import Settings, create_app
    from mblip.inference.server.running import listen, run

    listening = listen(host, port)  # a port that is taken is told before a model is loaded
    vlm = open_model(chosen, quantization, compile_model)
    settings = Settings(batch_size, wait_ms / 1000, queue, 1024, max_mb << 20, remote_images, keys)
    run(create_app(vlm, chosen, settings), listening, lambda address: _greet(address, host, bool(keys), vlm.precision))


def _greet(address: str, host: str, guarded: bool, precision: str) -> None:
    print(f"listening on {address}/v1", flush=True)
    print(f"the language model computes in {precision} (--quantization)", flush=True)
    if not guarded and host not in ("127.0.0.1", "::1", "localhost"):
        print("anyone who can reach this address can use it: --api-keys FILE asks for a key", flush=True)
