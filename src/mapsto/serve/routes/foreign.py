"""The routes of hosts of models: Hugging Face's payload on `/`, SageMaker's `/invocations` and `/ping`."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from mapsto.serve.body import content_type, field, read_body, read_form, read_json
from mapsto.serve.refusals import Refusal
from mapsto.serve.replies import encode_json, reply
from mapsto.serve.routes import health
from mapsto.serve.routes.requests import model_name, read_decoding, service_of
from mapsto.serve.served_model import ServedModel, Settings

CSV, JSON_LINES = "text/csv", ("application/jsonlines", "application/x-ndjson", "application/jsonl")
# Keys under which the hosts of models have their rows.
ROW_KEYS = ("rows", "instances", "inputs", "dataframe_records")
# The key under which MLflow has a table as names of columns and lists of cells.
FRAME = "dataframe_split"
# The settings of Hugging Face's pipelines that say how many classes are wanted.
MOST_CLASSES = ("top_k", "topk")
# Names that Hugging Face's payload has for settings of decoding.
DECODING_NAMES = {"max_new_tokens": "longest", "num_beams": "beams", "temperature": "temperature", "top_p": "top_p"}


async def ping(request: Request) -> Response:
    """Say whether requests are taken, as SageMaker asks it."""
    return await health.ready(request)


async def huggingface(request: Request) -> Response:
    """Answer Hugging Face's payload: {"inputs": value or list, "parameters": {…}}."""
    service = service_of(request)
    content = await read_json(request, service)
    if not isinstance(content, dict) or "inputs" not in content:
        raise Refusal(422, 'the body is {"inputs": "…"}; rows by column name go to /predict')
    inputs = content["inputs"]
    rows = inputs if isinstance(inputs, list) else [inputs]
    model = await service.models.get(model_name(request, content))
    operation = "predict" if model.abilities["predict"] else "embed"
    parameters = field(content, "parameters", dict, {})
    decoding = {DECODING_NAMES[name]: value for name, value in parameters.items() if name in DECODING_NAMES}
    if not parameters.get("do_sample"):
        decoding.pop("temperature", None)
        decoding.pop("top_p", None)
    elif decoding:
        decoding["samples"] = 1
    settings = Settings(decoding=read_decoding(decoding if model.abilities["generate"] else None))
    result = await service.answer(request, operation, model.name, rows, settings)
    most = next((field(parameters, name, int) for name in MOST_CLASSES if parameters.get(name) is not None), None)
    if most is not None and most < 1:
        raise Refusal(422, f"'{MOST_CLASSES[0]}' is a whole number above 0")
    answers = [describe_answer(answer, model, most) for answer in result.answers]
    return reply(answers if isinstance(inputs, list) else answers[0])


def describe_answer(answer: dict[str, Any], model: ServedModel, most: int | None = None) -> Any:
    """Return an answer in Hugging Face's form: classes with scores, a vector, or a text; any other as it is.

    most: the largest number of classes, the likeliest first; None for all.
    """
    if "scores" in answer and isinstance(answer["scores"], dict):
        ranked = sorted(answer["scores"].items(), key=lambda entry: -entry[1])
        return [{"label": name, "score": value} for name, value in ranked[:most]]
    if "vector" in answer:
        return answer["vector"]
    if model.abilities["generate"] and "error" not in answer:
        return {"generated_text": answer[model.arrow.targets[0].kind]}
    return answer


async def invocations(request: Request) -> Response:
    """Answer rows as SageMaker and MLflow send them: JSON, lines of JSON, csv with a header, or a form."""
    service = service_of(request)
    rows: Any
    kind = content_type(request)
    model = await service.models.get(request.query_params.get("model"))
    if kind == CSV:
        rows = read_csv(await read_body(request, service))
    elif kind in JSON_LINES:
        rows = read_lines(await read_body(request, service))
    elif kind == "multipart/form-data":
        rows = [await read_form(request, service)]
    else:
        content = await read_json(request, service)
        if isinstance(content, dict) and FRAME in content:
            rows = read_frame(content[FRAME])
        elif isinstance(content, dict):
            rows = next((content[key] for key in ROW_KEYS if key in content), content)
        else:
            rows = content
        rows = rows if isinstance(rows, list) else [rows]
    operation = "predict" if model.abilities["predict"] else "embed"
    result = await service.answer(request, operation, model.name, rows)
    if kind in JSON_LINES:
        return Response(b"\n".join(map(encode_json, result.answers)) + b"\n", media_type=kind)
    return reply({"predictions": result.answers})


def read_frame(frame: Any) -> list[dict[str, Any]]:
    """Return the rows of a table {"columns": […], "data": [[…], …]}. Raises Refusal for one that cannot be read."""
    columns, data = (frame.get("columns"), frame.get("data")) if isinstance(frame, dict) else (None, None)
    if not isinstance(columns, list) or not isinstance(data, list):
        raise Refusal(422, f'"{FRAME}" is {{"columns": [names], "data": [[cells of a row], …]}}')
    for number, cells in enumerate(data):
        if not isinstance(cells, list) or len(cells) != len(columns):
            raise Refusal(
                422, f'"{FRAME}": row {number} (counted from 0) has no cell for each of the {len(columns)} columns'
            )
    return [dict(zip(map(str, columns), cells, strict=True)) for cells in data]


def read_csv(body: bytes) -> list[dict[str, Any]]:
    """Return the rows of a csv file with a header. Raises Refusal for one that cannot be read."""
    try:
        rows = list(csv.DictReader(io.StringIO(body.decode("utf-8-sig")), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise Refusal(400, f"the body is no csv in UTF-8: {error}") from error
    return [{name: cell for name, cell in row.items() if name is not None} for row in rows]


def read_lines(body: bytes) -> list[Any]:
    """Return the rows of a file with a JSON value on each line. Raises Refusal for one that cannot be read."""
    rows = []
    for number, line in enumerate(body.splitlines(), 1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except (ValueError, RecursionError) as error:
                raise Refusal(400, f"line {number} is no JSON") from error
    return rows
