"""The open inference protocol `/v2`, which KServe, Triton and Seldon speak: tensors by the names of columns."""

from __future__ import annotations

import json
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from mapsto import __version__
from mapsto.serve.body import field, read_object
from mapsto.serve.refusals import Refusal
from mapsto.serve.replies import reply
from mapsto.serve.routes import health
from mapsto.serve.routes.requests import service_of
from mapsto.serve.served_model import ServedModel, is_file_backed

live, ready = health.live, health.ready
# The types of Python by the types of a tensor that answers have.
NUMBER_TYPES = {bool: "BOOL", int: "INT64", float: "FP64"}


async def server(request: Request) -> Response:
    """Describe the server."""
    return reply({"name": "mapsto", "version": __version__, "extensions": []})


async def model_ready(request: Request) -> Response:
    """Say whether a model takes requests; one that is not in memory is opened at its first request."""
    service = service_of(request)
    entry = service.models.entry(request.path_params["name"])
    is_ready = service.is_ready and not service.is_draining
    return reply({"name": entry.name, "ready": is_ready}, 200 if is_ready else 503)


async def describe(request: Request) -> Response:
    """Describe a model: a tensor for each column that it reads; what it answers is known with the answers."""
    model = await service_of(request).models.get(request.path_params["name"])
    inputs = [{"name": column, "datatype": "BYTES", "shape": [-1]} for column, _ in model.ports]
    return reply({"name": model.name, "platform": "mapsto", "versions": [], "inputs": inputs, "outputs": []})


async def infer(request: Request) -> Response:
    """Answer the rows whose columns are tensors: {"inputs": [{"name", "shape": [n], "datatype": "BYTES", "data": […]}]}."""
    service = service_of(request)
    content = await read_object(request, service)
    model = await service.models.get(request.path_params["name"])
    operation = "predict" if model.abilities["predict"] else "embed"
    result = await service.answer(
        request, operation, model.name, read_tensors(field(content, "inputs", list, []), model)
    )
    reasons = [answer["error"] for answer in result.answers if "error" in answer]
    if reasons:  # a tensor has no place for the error of a row
        raise Refusal(422, f"{len(reasons)} rows cannot be answered; the first: {reasons[0]}")
    described: dict[str, Any] = {"model_name": model.name, "outputs": write_tensors(result.answers)}
    if isinstance(content.get("id"), str):
        described["id"] = content["id"]
    return reply(described)


def read_tensors(tensors: list[Any], model: ServedModel) -> list[dict[str, Any]]:
    """Return the rows whose columns are tensors. Raises Refusal for tensors of different lengths, or without a name or data."""
    columns: dict[str, list[Any]] = {}
    for tensor in tensors:
        data, name = (tensor.get("data"), tensor.get("name")) if isinstance(tensor, dict) else (None, None)
        if not isinstance(data, list) or not isinstance(name, str):
            raise Refusal(422, 'each of "inputs" has "name", "shape", "datatype" and "data", a list')
        # A column of n rows may come as (n, 1).
        columns[name] = [cell[0] if isinstance(cell, list) and len(cell) == 1 else cell for cell in data]
    lengths = {name: len(cells) for name, cells in columns.items()}
    if not columns or len(set(lengths.values())) != 1:
        raise Refusal(422, f'"inputs" are tensors of one length, one for each column; these have {lengths or "none"}')
    # The single column of a model may have any name.
    ports = model.ports
    if len(ports) == len(columns) == 1 and not is_file_backed(ports[0][1]):
        columns = {ports[0][0]: next(iter(columns.values()))}
    return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]


def write_tensors(answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a tensor for each field of the answers: numbers, vectors (n, d), texts, and all else as JSON in texts."""
    names = dict.fromkeys(name for answer in answers for name in answer)
    return [_write_tensor(name, [answer.get(name) for answer in answers]) for name in names]


def _write_tensor(name: str, values: list[Any]) -> dict[str, Any]:
    """Return the tensor of one field of the answers."""
    vectors = [value for value in values if isinstance(value, list) and all(isinstance(n, float) for n in value)]
    widths = {len(vector) for vector in vectors}
    if len(vectors) == len(values) and len(widths) == 1 and widths != {0}:
        data = [number for vector in vectors for number in vector]
        return {"name": name, "shape": [len(values), *widths], "datatype": "FP32", "data": data}
    types = {type(value) for value in values}
    datatype = NUMBER_TYPES.get(types.pop()) if len(types) == 1 else None
    if datatype is None:
        values = [value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for value in values]
    return {"name": name, "shape": [len(values)], "datatype": datatype or "BYTES", "data": values}
