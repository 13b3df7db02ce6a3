"""The routes of mapsto's own form: rows by column name in, an answer for each row out."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from mapsto.serve.replies import reply
from mapsto.serve.routes.requests import model_name, read_rows, read_settings, service_of


async def predict(request: Request) -> Response:
    """Answer every row; a row that cannot be answered has {"error": reason} in its place."""
    return await _answer(request, "predict")


async def embed(request: Request) -> Response:
    """Return the vector of every row."""
    return await _answer(request, "embed")


async def explain(request: Request) -> Response:
    """Answer every row, with the weights of the parts that decided the answer."""
    return await _answer(request, "explain")


async def _answer(request: Request, operation: str) -> Response:
    rows, content = await read_rows(request)
    result = await service_of(request).answer(
        request, operation, model_name(request, content), rows, read_settings(content)
    )
    return reply({"model": result.model.name, "answers": result.answers})


async def models(request: Request) -> Response:
    """List the models: arrow, columns, operations, and whether each is in memory."""
    entries = service_of(request).models.entries.values()
    return reply({"models": [{**(entry.facts or {}), "in_memory": entry.model is not None} for entry in entries]})


async def openai_models(request: Request) -> Response:
    """List the models as OpenAI does."""
    names = service_of(request).models.entries
    return reply({"object": "list", "data": [{"id": name, "object": "model", "owned_by": "mapsto"} for name in names]})
