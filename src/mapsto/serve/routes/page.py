"""The page on which a person tries the models, and the list of routes. Nothing in them is loaded from elsewhere."""

from __future__ import annotations

import json
import mimetypes
import re
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from mapsto import kinds
from mapsto.report.colours import DARK, LIGHT
from mapsto.serve.refusals import Refusal
from mapsto.serve.replies import reply
from mapsto.serve.routes.requests import service_of

SCRIPTS = ("page.js", "answers.js", "code.js", "elements.js", "fields.js", "examples.js", "capture.js", "recorder.js")
# The routes that are listed first.
FIRST_GROUP = "mapsto"
HTML = "text/html; charset=utf-8"
# A browser may show or play these; anything else is sent as bytes, which it saves.
SAFE_MEDIA, BYTES = re.compile(r"(image/(?!svg)|audio/|video/)[\w.+-]+", re.ASCII), "application/octet-stream"


@cache
def render(name: str, **values: Any) -> str:
    """Return a template of the page with its values, whose texts are escaped."""
    environment = Environment(loader=PackageLoader("mapsto.serve", "page"), autoescape=True, trim_blocks=True)
    return environment.get_template(name).render(**values)


async def page(request: Request) -> Response:
    """Show the page on which a person tries the models."""
    facts = service_of(request).models.first.facts or {}
    return Response(render("page.html.j2", title=facts.get("name"), arrow=facts.get("arrow")), media_type=HTML)


async def part(request: Request) -> Response:
    """Return a part of the page: a script, its style, or the description of the models."""
    name = request.path_params["name"]
    if name in SCRIPTS:
        script = files("mapsto.serve").joinpath("page", name).read_text(encoding="utf-8")
        return Response(script, media_type="text/javascript; charset=utf-8")
    if name == "page.css":
        return Response(render_style(), media_type="text/css; charset=utf-8")
    if name == "models.json":
        return reply(describe_form(request))
    raise Refusal(404, f"the page has no part {name[:40]!r}")


@cache
def render_style() -> str:
    """Return the style of the page, in the colours of the reports."""
    environment = Environment(loader=PackageLoader("mapsto.serve", "page"), autoescape=False)
    return environment.get_template("page.css.j2").render(light=LIGHT, dark=DARK)


def describe_form(request: Request) -> dict[str, Any]:
    """Return what the form needs: the models, the suffixes of the files that a column takes, and whether there is a key."""
    service, media = service_of(request), kinds.media()
    models = []
    for entry in service.models.entries.values():
        facts = entry.facts or {}
        columns = [{**column, "suffixes": media.get(column["kind"])} for column in facts["columns"]]
        models.append({**facts, "columns": columns})
    return {"models": models, "has_key": service.settings.key is not None}


async def examples(request: Request) -> Response:
    """Return the test rows of a model that fill the form; they are read from their file when a page first asks."""
    service = service_of(request)
    model = await service.models.get(request.path_params["model"])
    return reply((await service.examples.get(model)).describe())


async def example_file(request: Request) -> Response:
    """Return the file of a test row, such as its picture or sound."""
    service, place = service_of(request), request.path_params
    model = await service.models.get(place["model"])
    examples = (await service.examples.get(model)).rows
    numbered = {
        (str(row), str(number)): file
        for row, example in enumerate(examples)
        for number, file in enumerate(example.files.values())
    }
    file = numbered.get((place["row"], place["file"]))
    if file is None or not file.is_file():
        raise Refusal(404, "there is no such file of a test row")
    kind = mimetypes.guess_type(file.name)[0] or ""
    return FileResponse(file, media_type=kind if SAFE_MEDIA.fullmatch(kind) else BYTES)


async def docs(request: Request) -> Response:
    """Show the routes with examples, as openapi.json describes them."""
    description = request.app.openapi()
    groups: dict[str, list[dict[str, Any]]] = {FIRST_GROUP: []}
    refusals: dict[str, str] = {}
    for path, methods in description["paths"].items():
        for method, route in methods.items():
            media = route.get("requestBody", {}).get("content", {}).get("application/json", {})
            example = json.dumps(media["example"], ensure_ascii=False) if "example" in media else None
            entry = {"method": method.upper(), "path": path, "summary": route["description"], "example": example}
            groups.setdefault(route["tags"][0], []).append(entry)
            refusals |= {
                status: response["description"] for status, response in route["responses"].items() if status >= "400"
            }
    has_key = service_of(request).settings.key is not None
    environment = Environment(loader=PackageLoader("mapsto.serve", "page"), autoescape=True, trim_blocks=True)
    text = environment.get_template("docs.html.j2").render(groups=groups, refusals=refusals, has_key=has_key)
    return Response(text, media_type=HTML)
