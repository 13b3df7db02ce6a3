"""The routes of generated text: mapsto's own, and that of OpenAI's chat completions. Both stream by server-sent events."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from mapsto.data.table import Table
from mapsto.inference.generation import TextPart
from mapsto.inference.table_engine import is_stopped
from mapsto.serve.body import field, read_object
from mapsto.serve.inputs import estimate_tokens
from mapsto.serve.refusals import Refusal
from mapsto.serve.replies import encode_json, reply
from mapsto.serve.routes.requests import able_model, model_name, read_decoding, require_entries, service_of
from mapsto.serve.served_model import GENERATE_PASSES, ServedModel, Settings
from mapsto.task.generation import Decoding
from mapsto.task.source_capabilities import Tokenized

EVENT_STREAM = "text/event-stream"
FORM = 'the body is {"row": {"COLUMN": VALUE, …}}, with "stream": true for parts while they are written'


async def generate(request: Request) -> Response:
    """Write the text that answers one row; with "stream": true part by part, as server-sent events."""
    service = service_of(request)
    content = await read_object(request, service)
    if "row" not in content:
        raise Refusal(422, FORM)
    require_entries(content, "row", "decoding", "stream")
    decoding = read_decoding(field(content, "decoding", dict))
    name = model_name(request, content)
    if not field(content, "stream", bool, False):
        await able_model(request, name, "generate")
        result = await service.answer(request, "predict", name, [content["row"]], Settings(decoding=decoding))
        return reply({"model": result.model.name, "answer": result.answers[0]})
    model = await able_model(request, name, "generate")
    parts = await begin_stream(request, model, content["row"], decoding)

    async def events() -> AsyncIterator[bytes]:
        texts, answer = [], None
        async for part in parts:
            texts.append(part)
            answer = answer_of(part)
            yield event({"text": part})
        # A transcript of several windows has no end of its own.
        answer = answer or {model.arrow.targets[0].kind: "".join(texts)}
        yield event({"done": True, "model": model.name, "answer": answer})

    return StreamingResponse(guarded(events()), media_type=EVENT_STREAM)


def event(content: Any) -> bytes:
    """Return a JSON value as a server-sent event."""
    return b"data: " + encode_json(content) + b"\n\n"


def answer_of(part: str) -> dict[str, Any] | None:
    """Return the whole answer that comes with the last part of a streamed text; None with other parts."""
    return part.answer if isinstance(part, TextPart) else None


async def guarded(events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield events; a refusal after the first ones, such as a deadline, ends them with an event that says so."""
    try:
        async for content in events:
            yield content
    except Refusal as error:
        yield event({"error": error.message})


async def begin_stream(request: Request, model: ServedModel, row: Any, decoding: Decoding | None) -> AsyncIterator[str]:
    """Return the iterator over the parts of the text that answers a row, after the first part is there.

    Raises Refusal for a row that cannot be read, before any response is sent.
    """
    service = service_of(request)
    inputs = service.reader.read([row], model.ports, model.arrow.is_prompted)
    if inputs.errors[0] is not None:
        raise Refusal(422, inputs.errors[0])
    table = Table(inputs.columns, [("the request", 1)], [])

    def begin() -> Iterator[str]:
        return next(model.predictor.with_settings(0.0, 0.0, decoding).stream(table))

    parts = service.stream(request, begin, inputs.costs[0] * GENERATE_PASSES)
    first = await anext(parts, "")

    async def rest() -> AsyncIterator[str]:
        yield first
        async for part in parts:
            yield part

    return rest()


async def chat(request: Request) -> Response:
    """Answer a dialogue as OpenAI's chat completions do: {"messages": [{"role", "content"}, …]}."""
    service = service_of(request)
    content = await read_object(request, service)
    name = model_name(request, content)
    model = await able_model(request, name, "chat")
    column = model.ports[0][0]
    row = {column: field(content, "messages", list, [])}
    if not row[column]:
        raise Refusal(422, "'messages' is a list with at least one message")
    decoding = chat_decoding(content)
    facts = {
        "id": f"chatcmpl-{secrets.token_hex(12)}",
        "created": int(time.time()),
        "model": model.name,
    }
    # What is drawn at random is certain only at its end, so it is streamed as one part.
    if field(content, "stream", bool, False) and (decoding is None or not decoding.samples):
        parts = await begin_stream(request, model, row, decoding)
        return StreamingResponse(guarded(chat_events(parts, facts)), media_type=EVENT_STREAM)
    result = await service.answer(request, "predict", name, [row], Settings(decoding=decoding))
    text = str(result.answers[0][model.arrow.targets[0].kind])
    if field(content, "stream", bool, False):
        whole = TextPart(text)
        whole.answer = result.answers[0]
        return StreamingResponse(guarded(chat_events(one_part(whole), facts)), media_type=EVENT_STREAM)
    reason = end_reason(result.answers[0])
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reason}
    num_written = count_tokens(model, text)
    usage = {
        "prompt_tokens": result.num_tokens,
        "completion_tokens": num_written,
        "total_tokens": result.num_tokens + num_written,
    }
    return reply({**facts, "object": "chat.completion", "choices": [choice], "usage": usage})


def end_reason(answer: dict[str, Any] | None) -> str:
    """Return why an answer ended, in OpenAI's words."""
    return "length" if answer is not None and is_stopped(answer) else "stop"


async def one_part(text: str) -> AsyncIterator[str]:
    """Yield a text that is complete already."""
    yield text


async def chat_events(parts: AsyncIterator[str], facts: dict[str, Any]) -> AsyncIterator[bytes]:
    """Yield the events of a streamed chat completion. facts: the entries that all of them have."""

    def chunk(delta: dict[str, str], reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return event({**facts, "object": "chat.completion.chunk", "choices": [choice]})

    yield chunk({"role": "assistant", "content": ""})
    answer = None
    async for part in parts:
        answer = answer_of(part)
        yield chunk({"content": part})
    yield chunk({}, end_reason(answer))
    yield b"data: [DONE]\n\n"


def chat_decoding(content: dict[str, Any]) -> Decoding | None:
    """Return the settings of decoding of a chat completion. Raises Refusal for what is not supported."""
    for name in ("stop", "tools", "functions", "logprobs"):
        if content.get(name):
            raise Refusal(422, f"{name!r} is not supported")
    if field(content, "n", int, 1) != 1:
        raise Refusal(422, "'n' is not supported: one answer is written")
    values: dict[str, Any] = {}
    longest = field(content, "max_completion_tokens", int) or field(content, "max_tokens", int)
    if longest is not None:
        values["longest"] = longest
    # Without a temperature the likeliest token is taken, which is what most ask a small model for.
    if temperature := field(content, "temperature", float, 0.0):
        seed = field(content, "seed", int, secrets.randbelow(2**31))
        values |= {"samples": 1, "temperature": float(temperature), "seed": seed}
        values["top_p"] = float(field(content, "top_p", float, 1.0))
    form = field(content, "response_format", dict, {})
    if form.get("type") == "json_schema":
        values["schema"] = (form.get("json_schema") or {}).get("schema")
    elif form.get("type") == "json_object":
        raise Refusal(422, "'response_format' is text or json_schema, which says what the JSON is")
    return read_decoding(values)


def count_tokens(model: ServedModel, text: str) -> int:
    """Return the number of tokens of a generated text."""
    source = model.predictor.mapping.sources.get(model.arrow.targets[0].kind)
    return len(source.flatten([text]).tokens) if isinstance(source, Tokenized) else estimate_tokens(text)
