"""The body of a request: read within limits of size and time, and parsed as JSON or as a form with files."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from mapsto.serve.refusals import ClientGone, Refusal
from mapsto.serve.service import Service

JSON_TYPES = ("application/json", "")
# What `curl -d` says of any body; it is read as JSON all the same.
CURL_TYPE = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data"
# The types of entries of a body, in words.
TYPE_NAMES = {
    str: "a text",
    float: "a number",
    int: "a whole number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}
# A larger body is parsed by a thread, so that other requests go on.
LARGE_BODY = 2**18


def content_type(request: Request) -> str:
    """Return the type of a body, in lower case and without parameters; "" if the request does not say it."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_body(request: Request, service: Service) -> bytes:
    """Return the bytes of a body.

    Raises Refusal for one that is too large, compressed, or not there within the time of the request; and, before it is read,
    if the service has no room for the request.
    """
    service.require_room()
    limit = service.settings.max_body
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refusal(415, "the body is compressed; send it as it is")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise _too_large(limit)
    seconds = service.seconds_of(request)
    try:
        async with asyncio.timeout(seconds):
            return await _collect(request, limit)
    except TimeoutError as error:
        raise Refusal(408, f"the body did not come within the {seconds:g} s of the request") from error
    except ClientDisconnect as error:
        raise ClientGone from error


async def _collect(request: Request, limit: int) -> bytes:
    """Return the bytes of a body. Raises Refusal once they are more than `limit`."""
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        chunks.append(chunk)
    return b"".join(chunks)


def _too_large(limit: int) -> Refusal:
    return Refusal(413, f"the body has more than the {limit:,} bytes that one request may have (--max-body)")


async def read_json(request: Request, service: Service) -> Any:
    """Return the JSON value of a body. Raises Refusal for a body that is none."""
    kind = content_type(request)
    if kind not in (*JSON_TYPES, CURL_TYPE) and not kind.endswith("+json"):
        raise Refusal(415, f"the body is JSON (application/json), not {kind[:60]}")
    body = await read_body(request, service)
    return await asyncio.to_thread(parse_json, body) if len(body) > LARGE_BODY else parse_json(body)


def parse_json(body: bytes) -> Any:
    """Return the JSON value of a body. Raises Refusal for a body that is none."""
    try:
        return json.loads(body)
    except RecursionError as error:
        raise Refusal(400, "the body is no JSON that is read here: it is nested too deeply") from error
    except ValueError as error:
        reason = str(error) if isinstance(error, json.JSONDecodeError) else "it is no UTF-8"
        raise Refusal(400, f"the body is no JSON: {reason}") from error


async def read_object(request: Request, service: Service) -> dict[str, Any]:
    """Return the JSON object of a body. Raises Refusal for a body that is none."""
    content = await read_json(request, service)
    if not isinstance(content, dict):
        raise Refusal(422, "the body is a JSON object")
    return content


async def read_form(request: Request, service: Service) -> dict[str, Any]:
    """Return the fields of a form by name: texts, and files as bytes. Raises Refusal for a form that cannot be read."""
    body = await read_body(request, service)

    async def chunks() -> AsyncIterator[bytes]:
        yield body

    parser = MultiPartParser(request.headers, chunks(), max_files=64, max_fields=64, max_part_size=len(body) + 1)  # type: ignore[arg-type]
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        raise Refusal(400, f"the form cannot be read: {getattr(error, 'message', error)}") from error
    fields: dict[str, Any] = {}
    for name, value in form.multi_items():
        fields[name] = await value.read() if isinstance(value, UploadFile) else value
    await form.close()
    return fields


def field(content: dict[str, Any], name: str, kind: type, default: Any = None) -> Any:
    """Return an entry of a JSON object, or `default` where it is missing or null. Raises Refusal if it is of another type."""
    value = content.get(name)
    if value is None:
        return default
    allowed = (int, float) if kind is float else (kind,)
    if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
        raise Refusal(422, f"{name!r} is {TYPE_NAMES[kind]}")
    return value
