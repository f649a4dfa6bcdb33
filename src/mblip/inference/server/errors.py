"""Refusals in OpenAI's form."""

from __future__ import annotations

from typing import Any

from fastapi.responses import JSONResponse

CLIENT_GONE = 499  # nobody reads it; nginx's number, for the metrics


def problem(message: str, code: str | None, param: str | None = None, kind: str = "invalid_request_error") -> Any:
    """What is wrong, as OpenAI's clients read it."""
    return {"message": message, "type": kind, "param": param, "code": code}


def error_response(
    status: int, message: str, code: str | None = None, param: str | None = None, headers: dict[str, str] | None = None
) -> JSONResponse:
    """An answer that says what is wrong."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    # A message may quote half a character, which JSON can spell but UTF-8 cannot.
    shown = message.encode("utf-8", "replace").decode()
    return JSONResponse({"error": problem(shown, code, param, kind)}, status, headers)
