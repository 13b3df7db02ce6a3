"""The route of spoken texts, in the form of OpenAI."""

from __future__ import annotations

import base64

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from mapsto.serve.body import field, read_object
from mapsto.serve.refusals import Refusal
from mapsto.serve.routes.requests import able_model, model_name, require_entries, service_of

# Formats of a recording, with their media types.
FORMATS = {"wav": "audio/wav", "flac": "audio/flac", "mp3": "audio/mpeg", "opus": "audio/ogg"}


async def speech(request: Request) -> Response:
    """Speak a text as OpenAI does: {"input", "response_format"}; the answer is a file, by default WAV. "voice" is not used."""
    service = service_of(request)
    content = await read_object(request, service)
    require_entries(content, "input", "voice", "response_format", "speed", "stream_format")
    text = field(content, "input", str)
    if not text:
        raise Refusal(422, "'input' is the text to speak")
    form = field(content, "response_format", str, "wav")
    if form not in FORMATS:
        raise Refusal(422, f"'response_format' is one of {', '.join(FORMATS)}")
    if field(content, "stream_format", str, "audio") != "audio":
        raise Refusal(422, "'stream_format' is audio: a recording is sent as a whole")
    if field(content, "speed", float, 1.0) != 1.0:
        raise Refusal(422, "'speed' is 1: a voice speaks as fast as its recordings")
    model = await able_model(request, model_name(request, content), "speak")
    result = await service.answer(request, "predict", model.name, [text])
    (answer,) = result.answers
    if "error" in answer:
        raise Refusal(422, answer["error"])
    recording = base64.b64decode(answer[model.arrow.targets[0].kind]["base64"])
    if form != "wav":
        recording = await run_in_threadpool(_convert, recording, form)
    return Response(recording, media_type=FORMATS[form])


def _convert(recording: bytes, form: str) -> bytes:
    """Return a recording in another of the FORMATS."""
    from mapsto.audio.sound_io import decode_sound, encode_sound  # needs the extra [sound]

    samples, info = decode_sound(None, recording)
    return encode_sound(samples, info.rate, form)
