"""Helpers of all routes: the service of a request, the rows in its body, and the settings of its answers."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from starlette.requests import Request

from mapsto.errors import UsageError, near
from mapsto.serve.body import MULTIPART, content_type, field, read_form, read_json
from mapsto.serve.refusals import Refusal
from mapsto.serve.served_model import ServedModel, Settings
from mapsto.serve.service import Service
from mapsto.task.generation import Decoding

FORM = 'the body is {"rows": [{"COLUMN": VALUE, …}, …]}; GET /models lists the columns'


def service_of(request: Request) -> Service:
    """Return the service that answers a request."""
    service: Service = request.app.state.service
    return service


async def read_rows(request: Request) -> tuple[Any, dict[str, Any]]:
    """Return (rows, other entries of the body) of a request.

    The body is {"rows": […], …}, or the list of rows alone, or a form with one row, whose files are parts.
    """
    service = service_of(request)
    if content_type(request) == MULTIPART:
        return [await read_form(request, service)], {}
    content = await read_json(request, service)
    if isinstance(content, list):
        return content, {}
    if not isinstance(content, dict) or "rows" not in content:
        raise Refusal(422, FORM)
    return content["rows"], content


def model_name(request: Request, content: dict[str, Any]) -> str | None:
    """Return the name of the model that a request names in its body, or else in its address; None for none."""
    return field(content, "model", str) or request.query_params.get("model")


def require_entries(content: dict[str, Any], *names: str) -> None:
    """Raise Refusal for an entry of a body beside "model" that a route does not know: it would change nothing."""
    known = ("model", *names)
    for name in content:
        if name not in known:
            raise Refusal(422, f"there is no entry {name!r}{near(name, known)}; there are: {', '.join(known)}")


def read_settings(content: dict[str, Any]) -> Settings:
    """Return the settings of answers in a body. Raises Refusal for a wrong one, and for one that does not exist."""
    require_entries(content, "rows", "min_confidence", "reject", "decoding", "pooling", "method")
    return Settings(
        field(content, "min_confidence", float, 0.0),
        field(content, "reject", float, 0.0),
        read_decoding(field(content, "decoding", dict)),
        field(content, "pooling", str),
        field(content, "method", str, Settings.method),
    )


def read_decoding(values: dict[str, Any] | None) -> Decoding | None:
    """Return settings of decoding from their values by name; None for none. Raises Refusal for a wrong one."""
    if not values:
        return None
    names = {entry.name for entry in fields(Decoding)}
    for name in values:
        if name not in names:
            raise Refusal(422, f"there is no setting of decoding {name!r}{near(name, names)}")
    try:
        return Decoding(**values)
    except UsageError as error:
        raise Refusal(422, str(error)) from error


async def able_model(request: Request, name: str | None, operation: str) -> ServedModel:
    """Return the model of a request. Raises Refusal if there is none of the name, or if it cannot do the operation."""
    service = service_of(request)
    service.require_room()
    model = await service.models.get(name)
    try:
        model.require(operation)
    except UsageError as error:
        raise Refusal(422, str(error)) from error
    return model
