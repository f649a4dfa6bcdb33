"""An OpenAI-compatible server for vision-LLMs of both kinds, encoder-decoder and decoder-only."""

from mblip.inference.server.app import Settings, create_app
from mblip.inference.server.connections import Limits
from mblip.inference.server.guard import listed_hosts, listed_origins

__all__ = ["Limits", "Settings", "create_app", "listed_hosts", "listed_origins"]
