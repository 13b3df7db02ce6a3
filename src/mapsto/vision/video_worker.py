"""The child process that decodes videos with PyAV for video_io.py.

A request (media/decoder_worker.py) has the entry "times": seconds of the frames to return, or null.
If "times" is null, the answer is {"frames", "height", "width", "seconds"}; else {"shape"}, followed by the bytes of the frames.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator, Mapping
from typing import Any

import av
import numpy as np

from mapsto.media import decoder_worker
from mapsto.media.decoder_worker import Fault

# Demuxers of FFmpeg that read one file of video: no playlists, which name other files, and no devices.
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,ogg,asf,flv"

CONTAINER_NAMES = "MP4, MOV, Matroska, WebM, AVI, MPEG, Ogg, ASF, FLV"

# The most pixels of a frame, and frames of a file.
MAX_PIXELS, MAX_FRAMES = 10_000_000, 100_000

# The least share of a track's declared length that must be there, which some programs round up.
MIN_COMPLETE = 0.75

# The length of a track as Matroska's tag DURATION states it: hours, minutes, seconds.
DURATION = re.compile(r"(\d{1,4}):(\d{2}):(\d{2}(?:\.\d+)?)", re.ASCII)

# Degrees of the rotations that files declare, and how far a rotation may be from one of them.
QUARTER_TURN, TOLERANCE = 90, 5

# The display matrix: nine numbers, of which the first two of each row of three are 16.16.
MATRIX = struct.Struct("=9i")

# Start and end of a frame in seconds from the first one, and PyAV's frame.
TimedFrame = tuple[float, float, Any]


def serve() -> None:
    """Answer the requests on standard input one after the other, until standard input is closed."""
    av.logging.set_level(None)
    decoder_worker.serve(_answer, "video")


def _answer(stream: Any, request: Mapping[str, Any]) -> tuple[dict[str, Any], bytes]:
    """Return the answer to a request: the dict of its JSON line, and the bytes that follow the line.

    stream: the opened video. request: its "times" are the seconds of the frames to return; None to describe the video.
    Raises Fault if the stream holds no video of a known format, or if the video is damaged or too large.
    """
    times = request["times"]
    options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "none"}
    try:
        file = av.open(stream, options=options, metadata_errors="replace")
    except av.FFmpegError as error:
        raise Fault(f"this is no video of a known format ({CONTAINER_NAMES})") from error
    with file as container:
        track = container.streams.best("video")
        if track is None:
            raise Fault("the file holds no video")
        frames = _decode(container, track)
        return _describe(frames) if times is None else _select(frames, times)


def _decode(container: Any, track: Any) -> Iterator[TimedFrame]:
    """Yield (start, end, frame) for every frame of a video track, in seconds from the first frame.

    Raises Fault if the video is damaged or too large.
    """
    _require_small(track.codec_context)
    track.codec_context.options = {"max_pixels": str(MAX_PIXELS)}  # for files whose frames grow later
    # Not frames in threads of their own: of these, damage is found at one reading and not at the next.
    track.thread_type = "SLICE"
    rate = float(track.average_rate or track.guessed_rate or 1)
    # Files may start at any time, and may leave out times and durations of frames.
    first_time: float | None = None
    end = 0.0
    for count, frame in enumerate(container.decode(track)):
        if count == MAX_FRAMES:
            raise Fault(f"more than the {MAX_FRAMES:,} frames that are read")
        _require_small(frame)
        if frame.is_corrupt:
            raise Fault(f"the video is damaged at frame {count}")
        first_time = (frame.time or 0.0) if first_time is None else first_time
        start = end if frame.time is None else frame.time - first_time
        duration = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else 1 / rate
        end = max(end, start + duration)
        yield start, end, frame
    declared = _declared_seconds(track)
    if end < MIN_COMPLETE * declared:
        raise Fault(f"the video is damaged: it ends after {end:.1f} of {declared:.1f} s")


def _declared_seconds(track: Any) -> float:
    """Return the length of a track as its file declares it; 0 if it does not.

    The length of the whole file says nothing about the track, since the sound may be longer.
    """
    if track.duration:
        return float(track.duration * track.time_base)
    match = DURATION.fullmatch(track.metadata.get("DURATION", "").strip())
    return 3600.0 * int(match[1]) + 60.0 * int(match[2]) + float(match[3]) if match else 0.0


def _require_small(sized: Any) -> None:
    """Raise Fault if a frame or codec context has more than MAX_PIXELS pixels."""
    if sized.width * sized.height > MAX_PIXELS:
        raise Fault(f"{sized.width:,} × {sized.height:,} pixels are more than the {MAX_PIXELS:,} that are read")


def _describe(frames: Iterator[TimedFrame]) -> tuple[dict[str, Any], bytes]:
    """Return the answer that describes a video: its number of frames, height, width and seconds as a dict, and no bytes.

    Raises Fault if there is no frame, or if the frames differ in size.
    """
    count, seconds, shape = 0, 0.0, None
    for _, end, frame in frames:
        # Converted once, so that a video that is described can also be decoded.
        shape = shape or (_pixels(frame).shape, frame.height, frame.width)
        if shape[1:] != (frame.height, frame.width):
            raise Fault("its frames change their size")
        count, seconds = count + 1, end
    if shape is None:
        raise Fault("the file holds no frame of video")
    height, width, _ = shape[0]
    return {"frames": count, "height": height, "width": width, "seconds": round(seconds, 6)}, b""


def _select(frames: Iterator[TimedFrame], times: list[float]) -> tuple[dict[str, Any], bytes]:
    """Return the answer with the frames shown at `times`: its shape as a dict, and the bytes of the frames.

    times: rising seconds. For times after the end of the video, its last frame is repeated.
    Raises Fault if there is no frame, or if the selected frames differ in size.
    """
    selected: list[Any] = []
    previous = None
    for start, _, frame in frames:
        # A frame is shown until the next one starts.
        while previous is not None and len(selected) < len(times) and times[len(selected)] < start:
            selected.append(_pixels(previous))
        previous = frame
        if len(selected) == len(times):
            break
    if previous is None:
        raise Fault("the file holds no frame of video")
    selected += [_pixels(previous)] * (len(times) - len(selected))
    if len({pixels.shape for pixels in selected}) > 1:
        raise Fault("its frames change their size")
    pixels = np.stack(selected)
    return {"shape": pixels.shape}, pixels.tobytes()


def _pixels(frame: Any) -> Any:
    """Return the pixels (h, w, 3) of a frame in bytes, rotated and mirrored as the file declares."""
    quarters, is_mirrored = _turn(frame)
    pixels = np.rot90(frame.to_ndarray(format="rgb24"), quarters)
    return pixels[:, ::-1] if is_mirrored else pixels


def _turn(frame: Any) -> tuple[int, bool]:
    """Return how a frame is to be shown: by how many quarters it is rotated to the left, and whether it is mirrored thereafter.

    The frame's display matrix maps column and row of a stored pixel to those of the shown one: x = a·column + c·row,
    y = b·column + d·row. A negative determinant mirrors. A matrix that is none of the eight turns is ignored.
    """
    data = next((item for item in frame.side_data if item.type.name == "DISPLAYMATRIX"), None)
    if data is None or len(bytes(data)) < MATRIX.size:
        return 0, False
    a, b, _, c, d, *_ = MATRIX.unpack_from(bytes(data))
    is_mirrored = a * d - b * c < 0
    # A mirrored image is a rotated one whose columns run backwards.
    a, c = (-a, -c) if is_mirrored else (a, c)
    angle = math.degrees(math.atan2(-b, a))
    quarters = round(angle / QUARTER_TURN)
    # The second column of a rotation is the first one, a quarter further.
    is_turn = all(
        abs(math.remainder(direction - QUARTER_TURN * quarters, 360)) <= TOLERANCE
        for direction in (angle, math.degrees(math.atan2(c, d)))
    )
    return (quarters % 4, is_mirrored) if is_turn and (a or b) and (c or d) else (0, False)
