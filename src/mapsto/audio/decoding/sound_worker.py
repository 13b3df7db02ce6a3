"""The child process that decodes compressed sounds for sound_io.py.

The answer to a request (media/decoder_worker.py) is {"samples": number, "rate", "channels", "decoder", "remarks", "parts"},
followed by the samples of one channel as 32-bit floats, if they are no more than the entry "held" of the request.
To a request with "parts", of a recording that was checked before, it is {}, followed by blocks of its samples.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import astuple
from pathlib import Path
from typing import Any

from mapsto.audio.decoding import formats
from mapsto.audio.decoding.facts import MixedPart
from mapsto.errors import UsageError
from mapsto.media import decoder_worker
from mapsto.media.cells import Unreadable
from mapsto.media.decoder_worker import Content, Fault


def serve() -> None:
    """Answer the requests on standard input one after the other, until standard input is closed."""
    # libsndfile reads "._" in the working directory as the resource fork of any stream, and then takes MP3 for damaged.
    os.chdir(Path(__file__).parent)
    with suppress(ImportError):  # files that only FFmpeg reads are then reported one by one
        import av

        av.logging.set_level(None)
    decoder_worker.serve(_answer, "sound")


def _answer(stream: Any, request: Mapping[str, Any]) -> tuple[dict[str, Any], Content]:
    """Return the answer to a request: the dict of its JSON line, and the bytes of the samples. stream: the opened file.

    Raises Fault if the stream holds no sound that can be decoded.
    """
    if "parts" in request:
        return {}, _blocks(stream, request)
    try:
        samples, info = formats.decode_compressed(stream, request["held"])
    except (Unreadable, UsageError) as error:
        raise Fault(str(error)) from error
    header = {
        "samples": 0 if samples is None else len(samples),
        "seconds": info.seconds,
        "rate": info.rate,
        "channels": info.channels,
        "decoder": info.decoder,
        "remarks": info.remarks,
        "parts": [astuple(part) for part in info.parts],
    }
    return header, b"" if samples is None else samples.data.cast("B")


def _blocks(stream: Any, request: Mapping[str, Any]) -> Iterator[memoryview]:
    """Yield the bytes of the samples of a recording in blocks, as the answer to a request with "parts" and "rate"."""
    parts = [MixedPart(*part) for part in request["parts"]]
    for samples in formats.read_again(stream, parts, request["rate"]):
        yield samples.data.cast("B")
