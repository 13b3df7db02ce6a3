"""The loop of a child process that decodes files with PyAV for decoder_process.py.

A request is one line of JSON: {"path": file or null, "size": number of bytes of the file that follow the line, "limit": seconds
that the request may take, and entries of its medium}.
An answer is one line of JSON, which may be followed by bytes. For a file that cannot be read it is {"fault": reason}.
Blocks of bytes have their number of bytes in front of each (BLOCK_SIZE) and 0 behind the last; a fault that comes between them
is FAULT in place of a number, followed by the line {"fault": reason}. Each block may take the time of a request.
"""

from __future__ import annotations

import io
import json
import os
import signal
import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

# The most characters of the reason in an answer, which is one line of limited length.
MAX_REASON = 500

# The number of bytes of a block, and what stands there before a fault.
BLOCK_SIZE, FAULT = struct.Struct("<I"), 0xFFFFFFFF

# The bytes that follow the line of an answer, or an iterator over blocks of them.
Content = bytes | memoryview | Iterator[memoryview]

# Answers a request about an opened file: the dict of the JSON line, and the bytes that follow it.
Decoder = Callable[[Any, Mapping[str, Any]], tuple[dict[str, Any], Content]]


class Fault(ValueError):
    """The error for a file that cannot be read as its medium; the message says why."""


def serve(decode: Decoder, noun: str) -> None:
    """Answer the requests on standard input one after the other, until standard input is closed.

    decode: answers a request, or raises Fault. noun: the medium in messages, such as "video".
    """
    requests = sys.stdin.buffer
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints must not mix with answers
    for line in requests:
        request = json.loads(line)
        received = requests.read(request["size"])
        is_streaming = False
        _set_alarm(request["limit"])
        try:
            with open(request["path"], "rb") if request["path"] else io.BytesIO(received) as stream:
                header, content = decode(stream, request)
                if is_streaming := isinstance(content, Iterator):
                    answers.write(json.dumps(header).encode() + b"\n")
                    _write_blocks(answers, content, request["limit"])
        except Exception as error:  # decoders raise errors of every type for damaged files
            header, content = {"fault": _explain(error, noun)}, b""
            if is_streaming:
                answers.write(BLOCK_SIZE.pack(FAULT))
                answers.write(json.dumps(header).encode() + b"\n")
        if not isinstance(content, Iterator) and not is_streaming:
            answers.write(json.dumps(header).encode() + b"\n")
            answers.write(content)
        answers.flush()
        _set_alarm(0)


def _write_blocks(answers: Any, blocks: Iterator[memoryview], limit: int) -> None:
    """Write blocks of bytes with their sizes, and the end. limit: seconds that each may take, beside those of its reader."""
    for block in blocks:
        _set_alarm(0)
        if len(block):
            answers.write(BLOCK_SIZE.pack(len(block)))
            answers.write(block)
            answers.flush()
        _set_alarm(limit)
    answers.write(BLOCK_SIZE.pack(0))


def _set_alarm(limit: int) -> None:
    """End this process after `limit` seconds, even where its parent is gone; 0 for never. Does nothing on Windows."""
    if hasattr(signal, "alarm"):
        signal.alarm(limit)


def _explain(error: Exception, noun: str) -> str:
    """Return why a file cannot be read. noun: its medium."""
    if isinstance(error, Fault):
        return str(error)[:MAX_REASON]
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return f"the {noun} is damaged: {reason}"[:MAX_REASON]
