"""A tiny model with random weights, also behind a server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests import checkpoints
from tests.serving import NAME, serving

from mblip.inference.predictor import Predictor, load_model
from mblip.inference.server import Settings, create_app


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return load_model(checkpoints.blip2(tmp_path_factory.mktemp("tiny"), "mt5"))


@pytest.fixture(scope="session")
def server(tiny: Predictor) -> Iterator[str]:
    with serving(create_app(tiny, NAME, Settings(wait=0.05, max_bytes=4 << 20))) as address:
        yield address
