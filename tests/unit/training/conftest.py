from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from mblip.config import DataRecipe, TrainRecipe, load_recipe
from mblip.mixture import build_mix


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs end without the picture of their curves, which takes as long as the few steps that they train.

    ``test_curves.py`` draws by itself, and ``test_recipes.py`` draws at the end of a run.
    """
    monkeypatch.setattr("mblip.training.run.draw_curves", lambda directory: None)


@pytest.fixture(scope="session")
def mix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "mix"
    build_mix(load_recipe(DataRecipe, "data/nano_scenes", ("sources.scenes.options.scenes=200",)), folder)
    return folder


@pytest.fixture(scope="session")
def aligning(mix: Path) -> Callable[..., TrainRecipe]:
    """The nano alignment in a few small steps."""

    def make(*overrides: str) -> TrainRecipe:
        small = (f"data.mix={mix}", "optim.steps=4", "optim.global_batch=24", "optim.micro_batch=12", "log_every=1")
        return load_recipe(
            TrainRecipe, "nano/align", (*small, "tracker=none", "model.fit_words=[]", "parts.llm=frozen", *overrides)
        )

    return make


@pytest.fixture
def in_processes() -> Callable[[int, Callable[[], object]], list[int]]:
    """Run a function in so many processes that torch.distributed joins, as a launcher would; their exit codes."""

    def run(count: int, work: Callable[[], object]) -> list[int]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]

        def enter(rank: int) -> None:
            from accelerate.state import AcceleratorState

            os.environ.update(
                RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count), LOCAL_WORLD_SIZE=str(count),
                MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
            )  # fmt: skip
            AcceleratorState._reset_state(reset_partial_state=True)  # what the parent knew: one process
            work()

        # Forked: what the parent has imported and read need not be read again.
        started = [multiprocessing.get_context("fork").Process(target=enter, args=(rank,)) for rank in range(count)]
        for process in started:
            process.start()
        for process in started:
            process.join(120)
        for process in started:
            process.kill()  # no effect on those that have ended
            process.join()
        return [process.exitcode or 0 for process in started]

    return run
