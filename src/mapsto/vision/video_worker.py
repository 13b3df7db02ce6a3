"""What runs in the process that decodes videos: PyAV, and nothing of ours that could be harmed. See videos.py.

A request is a line of JSON: {"path", or "size" of the bytes that follow; "times": seconds at which frames are wanted, or null;
"limit": seconds that this may take}. An answer too: {"frames", "height", "width", "seconds"}, or {"shape"} and then the bytes of
the frames wanted; or {"fault"}.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

import av
import numpy as np

# Demuxers of FFmpeg that read one file of video: no playlists, which name other files, and no devices.
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,ogg,asf,flv"


KNOWN = "MP4, MOV, Matroska, WebM, AVI, MPEG, Ogg, ASF, FLV"


MOST_PIXELS, MOST_FRAMES = 10_000_000, 100_000  # of a frame; of a file


WHOLE = 0.75  # the share of the length that a file tells which must be there; its sound may be somewhat longer


QUARTER = 90


class Fault(ValueError):
    """What keeps a file from being a video."""


def serve() -> None:
    """Answer requests until there are none."""
    av.logging.set_level(None)
    requests = sys.stdin.buffer
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no answer
    for line in requests:
        asked = json.loads(line)
        content = requests.read(asked["size"])
        if hasattr(signal, "alarm"):
            signal.alarm(asked["limit"])  # ends us also where nobody is left to do it
        try:
            with open(asked["path"], "rb") if asked["path"] else io.BytesIO(content) as stream:
                said, content = _answer(stream, asked["times"])
        except Fault as fault:
            said, content = {"fault": str(fault)}, b""
        except (av.FFmpegError, OSError, ValueError) as error:
            said, content = {"fault": f"the video is damaged: {getattr(error, 'strerror', None) or error}"}, b""
        answers.write(json.dumps(said).encode() + b"\n" + content)
        answers.flush()
        if hasattr(signal, "alarm"):
            signal.alarm(0)


def _answer(stream: Any, times: list[float] | None) -> tuple[dict[str, Any], bytes]:
    options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "none"}
    try:
        opened = av.open(stream, options=options)
    except av.FFmpegError as error:
        raise Fault(f"this is no video of a known format ({KNOWN})") from error
    with opened as container:
        track = container.streams.best("video")
        if track is None:
            raise Fault("the file holds no video")
        frames = _frames(container, track)
        return _facts(frames) if times is None else _shown(frames, times)


def _frames(container: Any, track: Any) -> Iterator[tuple[float, float, Any]]:
    """When each frame is first and no longer shown, in seconds from the first one, and the frame. Raises Fault."""
    _require_small(track.codec_context)
    track.codec_context.options = {"max_pixels": str(MOST_PIXELS)}  # where it grows later
    track.thread_type = "AUTO"
    rate = float(track.average_rate or track.guessed_rate or 1)
    begin: float | None = None
    end = 0.0
    for count, frame in enumerate(container.decode(track)):
        if count == MOST_FRAMES:
            raise Fault(f"more than the {MOST_FRAMES:,} frames that are read")
        _require_small(frame)
        if frame.is_corrupt:
            raise Fault(f"the video is damaged at frame {count}")
        begin = (frame.time or 0.0) if begin is None else begin
        at = end if frame.time is None else frame.time - begin
        lasting = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else 1 / rate
        end = max(end, at + lasting)
        yield at, end, frame
    told = float(track.duration * track.time_base) if track.duration else (container.duration or 0) / av.time_base
    if end < WHOLE * told:
        raise Fault(f"the video is damaged: it ends after {end:.1f} of {told:.1f} s")


def _require_small(shown: Any) -> None:
    if shown.width * shown.height > MOST_PIXELS:
        raise Fault(f"{shown.width:,} × {shown.height:,} pixels are more than the {MOST_PIXELS:,} that are read")


def _facts(frames: Iterator[tuple[float, float, Any]]) -> tuple[dict[str, Any], bytes]:
    count, seconds, first = 0, 0.0, None
    for _, end, frame in frames:
        count, seconds, first = count + 1, end, first or frame
    if first is None:
        raise Fault("the file holds no frame of video")
    turned = first.rotation % (2 * QUARTER) != 0
    height, width = (first.width, first.height) if turned else (first.height, first.width)
    return {"frames": count, "height": height, "width": width, "seconds": round(seconds, 6)}, b""


def _shown(frames: Iterator[tuple[float, float, Any]], times: list[float]) -> tuple[dict[str, Any], bytes]:
    """The frames that are seen at `times`, which rise; of the last one what stays on."""
    found: list[Any] = []
    seen = None
    for at, _, frame in frames:
        while seen is not None and len(found) < len(times) and times[len(found)] < at:
            found.append(_pixels(seen))
        seen = frame
        if len(found) == len(times):
            break
    if seen is None:
        raise Fault("the file holds no frame of video")
    found += [_pixels(seen)] * (len(times) - len(found))
    if len({pixels.shape for pixels in found}) > 1:
        raise Fault("its frames change their size")
    pixels = np.stack(found)
    return {"shape": pixels.shape}, pixels.tobytes()


def _pixels(frame: Any) -> Any:
    """(h, w, 3) of bytes, turned as it is to be shown."""
    return np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / QUARTER))
