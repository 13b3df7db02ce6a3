"""The routes of the page: the next row, answers, skips, undoing, guesses, files of rows, and exports."""

from __future__ import annotations

import asyncio
import mimetypes
import re
import tempfile
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from mapsto.errors import MapstoError, RunError
from mapsto.report.colours import DARK, LIGHT
from mapsto.serve.app import RouteEntry
from mapsto.serve.body import field, read_object
from mapsto.serve.labelling.exports import COCO_FILE, export
from mapsto.serve.labelling.pictures import render_picture
from mapsto.serve.labelling.questions import short_arrow
from mapsto.serve.labelling.service import LabelService
from mapsto.serve.labelling.session import Visitor
from mapsto.serve.refusals import Refusal
from mapsto.serve.replies import reply
from mapsto.serve.routes.page import BYTES, SAFE_MEDIA
from mapsto.vision.image_io import BOX_COLOURS

SCRIPTS = ("label.js", "requests.js", "elements.js", "choices.js", "spans.js", "rectangles.js", "curve.js")
ID = re.compile(r"[\w-]{8,64}", re.ASCII)
MAX_PERSON_CHARACTERS = 60
JSON = "application/json"
EXPORTS = {"labels.csv": "text/csv", "labels.jsonl": "application/jsonl", "tasks.json": JSON, COCO_FILE: JSON}


def service_of(request: Request) -> LabelService:
    """Return the service of a request."""
    service: LabelService = request.app.state.service
    return service


@cache
def _template(name: str, escapes: bool) -> Any:
    environment = Environment(
        loader=PackageLoader("mapsto.serve.labelling", "page"), autoescape=escapes, trim_blocks=True
    )
    return environment.get_template(name)


async def page(request: Request) -> Response:
    """Show the page on which people label."""
    service = service_of(request)
    question = service.session.pool.question
    text = _template("label.html.j2", True).render(
        arrow=short_arrow(question.arrow),
        column=question.column,
        control=question.control,
        person=service.default_person,
    )
    return Response(text, media_type="text/html; charset=utf-8")


async def part(request: Request) -> Response:
    """Return a part of the page: a script or its style."""
    name = request.path_params["name"]
    if name == "label.css":
        text = _template("label.css.j2", False).render(light=LIGHT, dark=DARK, boxes=BOX_COLOURS)
        return Response(text, media_type="text/css; charset=utf-8")
    if name not in SCRIPTS:
        raise Refusal(404, f"the page has no part {name[:40]!r}")
    script = files("mapsto.serve.labelling").joinpath("page", name).read_text(encoding="utf-8")
    return Response(script, media_type="text/javascript; charset=utf-8")


async def next_row(request: Request) -> Response:
    """Return the next row for a page; "holding" is the key of the row that it shows."""
    visitor, content = await _read(request)
    return _next(service_of(request), visitor, field(content, "holding", str))


async def answer(request: Request) -> Response:
    """Write an answer to a row, and return the next row once the answer is on the disk."""
    visitor, content = await _read(request)
    service, key, action = service_of(request), _key(content), _id(content)
    saw_guess = field(content, "saw_guess", bool, False)
    await _write(service.session.answer, visitor, key, action, content.get("answer"), saw_guess)
    service.learner.wake()
    return _next(service, visitor)


async def skip(request: Request) -> Response:
    """Put a row behind all others, and return the next row."""
    visitor, content = await _read(request)
    service = service_of(request)
    await _write(service.session.skip, visitor, _key(content), _id(content))
    return _next(service, visitor)


async def undo(request: Request) -> Response:
    """Take an answer or a skip back, and return its row with the answer that it had."""
    visitor, content = await _read(request)
    service, key = service_of(request), _key(content)
    cell = await _write(service.session.undo, visitor, _id(content), key)
    service.learner.wake()
    return _next(service, visitor, key, cell)


async def guess(request: Request) -> Response:
    """Return the model's answer to a row, which a page asks for only when a person does."""
    service = service_of(request)
    index = service.session.pool.places.get(request.path_params["key"])
    if index is None:
        raise Refusal(404, "the pool has no such row; load the page again")
    try:
        result = await asyncio.to_thread(service.learner.guess, index)
    except MapstoError as error:
        raise Refusal(422, str(error)) from error
    if result is None:
        raise Refusal(404, "there is no model yet that could guess")
    return reply(result)


async def state(request: Request) -> Response:
    """Return the numbers of rows and the learning curve."""
    return reply(_state(service_of(request)))


async def media(request: Request) -> Response:
    """Return the file of a row's source, such as its picture or sound."""
    pool = service_of(request).session.pool
    index, port = pool.places.get(request.path_params["key"]), request.path_params["port"]
    if index is None or not port.isdecimal() or int(port) >= len(pool.rows.arrow.sources):
        raise Refusal(404, "the pool has no such row; load the page again")
    file = pool.media(index, int(port))
    if file is None:
        raise Refusal(404, "this column holds no file")
    kind = mimetypes.guess_type(file.name)[0] or ""
    if not file.is_file():
        raise Refusal(404, f"the file {file.name} is not there any more")
    if pool.question.control == "rectangles" and int(port) == pool.question.place_port:
        try:
            content = await asyncio.to_thread(render_picture, file)
        except (OSError, MapstoError) as error:
            raise Refusal(404, f"the file {file.name} cannot be read any more: {error}") from error
        if content is not None:
            return Response(content, media_type="image/jpeg")
    return FileResponse(file, media_type=kind if SAFE_MEDIA.fullmatch(kind) else BYTES)


async def exported(request: Request) -> Response:
    """Return all answers as csv, jsonl or tasks of Label Studio."""
    name, service = request.path_params["name"], service_of(request)
    if name not in EXPORTS:
        raise Refusal(404, f"there is no export {name[:40]!r}; there are: {', '.join(EXPORTS)}")

    def write() -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            export(path, service.session.file, service.session.pool.question, service.csv_safe)
            content: bytes = path.read_bytes()
            return content

    if name == COCO_FILE and service.session.pool.question.control != "rectangles":
        raise Refusal(404, "only boxes are exported as COCO's annotations")

    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(await asyncio.to_thread(write), headers=headers, media_type=EXPORTS[name])


ROUTES = [
    RouteEntry("GET", "/", page, tag="page"),
    RouteEntry("GET", "/page/{name}", part, tag="page"),
    RouteEntry("GET", "/state", state),
    RouteEntry("GET", "/guess/{key}", guess),
    RouteEntry("GET", "/media/{key}/{port}", media),
    RouteEntry("GET", "/export/{name}", exported),
    RouteEntry("POST", "/next", next_row, None, {"page": "page-0001", "person": "ann"}),
    RouteEntry(
        "POST", "/answer", answer, None, {"page": "page-0001", "person": "ann", "key": "…", "id": "…", "answer": "…"}
    ),
    RouteEntry("POST", "/skip", skip, None, {"page": "page-0001", "person": "ann", "key": "…", "id": "…"}),
    RouteEntry("POST", "/undo", undo, None, {"page": "page-0001", "person": "ann", "key": "…", "id": "…"}),
]


async def _write(action: Callable[..., Any], *arguments: Any) -> Any:
    """Run an action of the session in a thread. Raises Refusal with a status to try again for a disk that takes nothing."""
    try:
        return await asyncio.to_thread(action, *arguments)
    except RunError as error:
        raise Refusal(503, str(error), {"Retry-After": "1"}) from error


async def _read(request: Request) -> tuple[Visitor, dict[str, Any]]:
    """Return (visitor, body) of a request. Raises Refusal for a body without a name."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refusal(415, "the body is JSON (application/json)")
    content = await read_object(request, service_of(request))
    person = " ".join((field(content, "person", str) or "").split())
    if not person or len(person) > MAX_PERSON_CHARACTERS:
        raise Refusal(422, f"your name has 1 to {MAX_PERSON_CHARACTERS} characters")
    identifier = field(content, "page", str) or ""
    if not ID.fullmatch(identifier):
        raise Refusal(422, "'page' is an id of 8 to 64 letters and digits")
    return Visitor(identifier, person), content


def _key(content: dict[str, Any]) -> str:
    return field(content, "key", str) or ""


def _id(content: dict[str, Any]) -> str:
    """Return the id of an action. Raises Refusal for one that is none."""
    identifier = field(content, "id", str) or ""
    if not ID.fullmatch(identifier):
        raise Refusal(422, "'id' is an id of 8 to 64 letters and digits, new for each answer")
    return identifier


def _next(service: LabelService, visitor: Visitor, holding: str | None = None, cell: Any = None) -> Response:
    """Return the response with the next row for a visitor. cell: the answer that the row had, which was taken back."""
    session = service.session
    index = session.next(visitor, holding)
    row = None
    if index is not None:
        row = {"key": session.pool.keys[index], "sources": session.pool.describe(index)}
        if cell is not None and row["key"] == holding:
            row["answer"] = cell
    return reply({"row": row, "last": session.last_action(visitor.person), **_state(service)})


def _state(service: LabelService) -> dict[str, Any]:
    session = service.session
    return {
        "names": list(session.pool.question.names),
        "counts": session.count(),
        "learner": service.learner.describe(),
    }
