"""An OpenAI-compatible server for vision-LLMs of both kinds, encoder-decoder and decoder-only."""

from mblip.inference.server.app import Settings, create_app

__all__ = ["Settings", "create_app"]
