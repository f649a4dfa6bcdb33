"""Error responses in OpenAI's format."""

from __future__ import annotations

from typing import Any

from fastapi.responses import JSONResponse

CLIENT_GONE = 499  # nginx's number, for the metrics; no client reads it


def problem(message: str, code: str | None, param: str | None = None, kind: str = "invalid_request_error") -> Any:
    """An error object that OpenAI's clients understand."""
    return {"message": message, "type": kind, "param": param, "code": code}


def error_response(
    status: int, message: str, code: str | None = None, param: str | None = None, headers: dict[str, str] | None = None
) -> JSONResponse:
    """A response with an error."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    # A message may quote half of a surrogate pair, which JSON can escape but UTF-8 cannot encode.
    shown = message.encode("utf-8", "replace").decode()
    return JSONResponse({"error": problem(shown, code, param, kind)}, status, headers)
