"""The child process that decodes compressed sounds for sound_io.py.

The answer to a request (media/decoder_worker.py) is {"samples": number, "rate", "channels", "decoder", "remarks"}, followed by
the samples of one channel as 32-bit floats.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mapsto.audio.decoding import formats
from mapsto.errors import UsageError
from mapsto.media import decoder_worker
from mapsto.media.cells import Unreadable
from mapsto.media.decoder_worker import Fault


def serve() -> None:
    """Answer the requests on standard input one after the other, until standard input is closed."""
    # libsndfile reads "._" in the working directory as the resource fork of any stream, and then takes MP3 for damaged.
    os.chdir(Path(__file__).parent)
    with suppress(ImportError):  # files that only FFmpeg reads are then reported one by one
        import av

        av.logging.set_level(None)
    decoder_worker.serve(_answer, "sound")


def _answer(stream: Any, request: Mapping[str, Any]) -> tuple[dict[str, Any], memoryview]:
    """Return the answer to a request: the dict of its JSON line, and the bytes of the samples. stream: the opened file.

    Raises Fault if the stream holds no sound that can be decoded.
    """
    try:
        samples, info = formats.decode_compressed(stream)
    except (Unreadable, UsageError) as error:
        raise Fault(str(error)) from error
    header = {
        "samples": len(samples),
        "rate": info.rate,
        "channels": info.channels,
        "decoder": info.decoder,
        "remarks": info.remarks,
    }
    return header, samples.data.cast("B")
