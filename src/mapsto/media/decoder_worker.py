"""The loop of a child process that decodes files with PyAV for decoder_process.py.

A request is one line of JSON: {"path": file or null, "size": number of bytes of the file that follow the line, "limit": seconds
that the request may take, and entries of its medium}.
An answer is one line of JSON, which may be followed by bytes. For a file that cannot be read it is {"fault": reason}.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any

# The most characters of the reason in an answer, which is one line of limited length.
MAX_REASON = 500

# Answers a request about an opened file: the dict of the JSON line, and the bytes that follow it.
Decoder = Callable[[Any, Mapping[str, Any]], tuple[dict[str, Any], bytes]]


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
        content = requests.read(request["size"])
        if hasattr(signal, "alarm"):
            signal.alarm(request["limit"])  # ends this process even where its parent is gone
        try:
            with open(request["path"], "rb") if request["path"] else io.BytesIO(content) as stream:
                header, content = decode(stream, request)
        except Fault as fault:
            header, content = {"fault": str(fault)[:MAX_REASON]}, b""
        except Exception as error:  # decoders raise errors of every type for damaged files
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            header, content = {"fault": f"the {noun} is damaged: {reason}"[:MAX_REASON]}, b""
        answers.write(json.dumps(header).encode() + b"\n" + content)
        answers.flush()
        if hasattr(signal, "alarm"):
            signal.alarm(0)
