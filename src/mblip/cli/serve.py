"""``mblip serve``: serve a model behind an OpenAI-compatible API."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from mblip.inference.predictor import Predictor

Model = Annotated[
    str,
    typer.Option(help="Run, checkpoint folder or Hub id; by default the published mT0-XL, if it is on this machine."),
]
Host = Annotated[str, typer.Option(help="Address to listen on; only this machine by default.")]
Quantization = Annotated[str, typer.Option(help="Quantization of the language model: auto, none, int8 or nf4.")]
Name = Annotated[str, typer.Option(help="Name of the model for clients; by default the last part of --model.")]
Keys = Annotated[Path | None, typer.Option(help="File with the valid keys of clients, one per line.")]
Queue = Annotated[int, typer.Option(min=1, help="Maximum number of waiting texts; beyond it, clients get status 429.")]
MaxMb = Annotated[int, typer.Option(min=1, help="Largest request, and largest fetched picture, in MB.")]
Hosts = Annotated[
    list[str] | None,
    typer.Option(help="Host names that requests may use, besides localhost and --host; * for any."),
]
Origins = Annotated[
    list[str] | None,
    typer.Option(help="Origins whose web pages may use the server, such as https://a.example; * for any."),
]
Header = Annotated[float, typer.Option(min=0.1, help="Seconds for the headers of a request to arrive.")]
Body = Annotated[
    float,
    typer.Option(min=0.1, help="Seconds for the body of a request to arrive, and for the client to read an answer."),
]
Idle = Annotated[float, typer.Option(min=0.1, help="Seconds after which a connection without a request is closed.")]
Drain = Annotated[float, typer.Option(min=0, help="Seconds that open requests may still take after SIGTERM.")]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(serve)


def serve(
    model: Model = "",
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for any free one.")] = 8000,
    served_model_name: Name = "",
    api_keys: Keys = None,
    allowed_hosts: Hosts = None,
    allowed_origins: Origins = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Number of texts that are generated together.")] = 32,
    wait_ms: Annotated[
        float,
        typer.Option(min=0, help="Maximum time in milliseconds that a request waits for others to join its batch."),
    ] = 10,
    queue: Queue = 256,
    max_mb: MaxMb = 20,
    remote_images: Annotated[
        bool, typer.Option("--remote-images", help="Fetch pictures from public http(s) addresses.")
    ] = False,
    header_seconds: Header = 10,
    body_seconds: Body = 120,
    idle_seconds: Idle = 30,
    drain_seconds: Drain = 60,
    quantization: Quantization = "auto",
    compile_model: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="Compile the vision model with torch.compile; the first answer then takes a minute or more.",
        ),
    ] = False,
) -> None:
    """Serve a model through OpenAI's chat API. On Ctrl-C or SIGTERM it answers open requests, then stops."""
    from mblip.inference.resolve import choose_model, read_keys, served_name

    chosen, keys = choose_model(model), read_keys(api_keys)
    from mblip.inference.resolve import open_model
    from mblip.inference.server import Limits, Settings, create_app, listed_hosts, listed_origins
    from mblip.inference.server.server import listen, run

    settings = Settings(
        batch_size, wait_ms / 1000, queue, 1024, max_mb << 20, remote_images, keys, host,
        listed_hosts(allowed_hosts or ()), listed_origins(allowed_origins or ()),
    )  # fmt: skip
    listening = listen(host, port)  # before the model is loaded, to report a port in use at once
    print(f"loading {chosen}", file=sys.stderr, flush=True)  # minutes, for a large model
    vlm = open_model(chosen, quantization, compile_model)
    app = create_app(vlm, served_model_name or served_name(chosen), settings)
    limits = Limits(header_seconds, body_seconds, idle_seconds, drain_seconds)
    run(app, listening, lambda address: _greet(address, host, bool(keys), vlm), limits)


def _greet(address: str, host: str, guarded: bool, model: Predictor) -> None:
    print(f"listening on {address}/v1", flush=True)
    print(f"the language model computes in {model.precision} (--quantization)", flush=True)
    if model.trained_languages:
        from mblip.inference.trained_languages import describe_languages

        print(f"the model was trained to write {describe_languages(model.trained_languages)}", flush=True)
    warn(host, guarded)


def warn(host: str, guarded: bool) -> None:
    """Print who can use a server that is open to others."""
    if not guarded and host not in ("127.0.0.1", "::1", "localhost"):
        print("anyone who can reach this address can use it: --api-keys FILE asks for a key", flush=True)
    if host in ("0.0.0.0", "::"):
        print(
            "it answers requests to this machine's addresses; --allowed-hosts NAME adds the names that clients use",
            flush=True,
        )
