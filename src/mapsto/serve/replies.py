"""Responses of the service as JSON, for answers and for errors."""

from __future__ import annotations

import json
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from mapsto.serve.refusals import Refusal

# The paths whose clients read errors in OpenAI's form.
OPENAI_PATHS = ("/v1/",)


def encode_json(content: Any) -> bytes:
    """Return a JSON value as UTF-8; halves of characters, which UTF-8 cannot hold, become question marks."""
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def reply(content: Any, status: int = 200) -> Response:
    """Return a response with a JSON value."""
    return Response(encode_json(content), status, media_type="application/json")


def reply_refusal(request: Request, error: Exception) -> Response:
    """Return the response for a Refusal: its status, and its message as {"error": …}, for OpenAI's clients as an object."""
    assert isinstance(error, Refusal)
    described: Any = error.message
    if request.url.path.startswith(OPENAI_PATHS):
        described = {"message": error.message, "type": "invalid_request_error", "code": error.status}
    response = reply({"error": described, **error.content}, error.status)
    response.headers.update(error.headers)
    return response


def reply_http_error(request: Request, error: Exception) -> Response:
    """Return the response for a path or a method that there is not."""
    status = getattr(error, "status_code", 500)
    reasons = {
        404: f"there is nothing at {request.url.path[:80]}; /docs lists what there is",
        405: f"{request.method} is not allowed here",
    }
    response = reply({"error": reasons.get(status, str(getattr(error, "detail", "error")))}, status)
    response.headers.update(getattr(error, "headers", None) or {})
    return response


def reply_fault(request: Request, error: Exception) -> Response:
    """Return the response for a fault of the service, which says nothing of its inside; the log has the rest."""
    return reply({"error": f"the service failed; its log says why, under the id {request.state.id}"}, 500)
