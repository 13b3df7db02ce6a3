"""Decoding by FFmpeg, through the package PyAV: formats that libsndfile does not read, and the sound of videos."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mapsto.audio.decoding.containers.extent import describe_lengths
from mapsto.audio.decoding.facts import SoundInfo
from mapsto.audio.decoding.libsndfile import INSTALL_SOUND
from mapsto.audio.decoding.limits import require_length, require_limits
from mapsto.audio.decoding.mixing import Mixer, Samples
from mapsto.errors import UsageError
from mapsto.media.cells import Unreadable

# Demuxers of FFmpeg that read one file: no playlists, which name other files, and no devices.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,ogg,asf,flv,aac,amr,ac3,eac3,caf,w64,wav,aiff,au,tta,wv,ape"
)

# Demuxers whose files state no length, so that the one that FFmpeg gives is an estimate.
ESTIMATED = {"aac", "amr", "ac3", "eac3", "mpeg", "mpegts", "avi", "flv"}

# The share and the seconds by which the length of a track may be shorter than declared, since programs round it.
MAX_MISSING_SHARE, MAX_MISSING_SECONDS = 0.02, 0.15

# The length of a track as Matroska's tag DURATION states it: hours, minutes, seconds.
DURATION = re.compile(r"(\d{1,4}):(\d{2}):(\d{2}(?:\.\d+)?)", re.ASCII)

# Full scale of the integer formats of FFmpeg's samples, by NumPy's type.
FULL_SCALES = {"int16": 2.0**15, "int32": 2.0**31, "int64": 2.0**63, "uint8": 2.0**7}


def decode_stream(stream: Any, names: str, channel: int | None = None) -> tuple[Samples, SoundInfo]:
    """Return the samples (n,) of the sound of a file mixed to one channel, and its facts.

    stream: the opened file. names: the formats that are read, in words. channel: the only channel to take, if not None.
    Raises Unreadable if the file holds no sound, is damaged or exceeds a limit, and any error of the decoder;
    UsageError without PyAV.
    """
    try:
        import av
    except ImportError as error:
        raise UsageError(INSTALL_SOUND) from error
    stream.seek(0)
    options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "none"}
    try:
        file = av.open(stream, options=options, metadata_errors="replace")
    except av.FFmpegError as error:
        raise Unreadable(f"this is no sound of a known format ({names}), or its header is damaged") from error
    with file as container:
        track = container.streams.best("audio")
        if track is None:
            raise Unreadable("the video has no sound" if container.streams.video else "the file holds no sound")
        if track.codec_context is None:
            raise Unreadable("its sound has a codec that is not known")
        mixer, rate = _decode(container, track, channel)
        if mixer is None:
            raise Unreadable("it holds no samples")
        _require_complete(container, track, mixer.num_samples / rate)
    mixture = mixer.finish()
    if mixture.channel is not None:
        return decode_stream(stream, names, mixture.channel)
    version = ".".join(map(str, av.library_versions["libavcodec"]))
    info = SoundInfo(mixer.num_samples / rate, rate, mixer.num_channels, f"libavcodec {version}", mixture.remarks)
    return mixture.samples, info


def _decode(container: Any, track: Any, channel: int | None) -> tuple[Mixer | None, int]:
    """Return a Mixer with all samples of a track, and their rate in Hz; None if there are none.

    channel: the only channel to take, if not None. Raises Unreadable if the rate or the channels change, or for a limit.
    """
    mixer, rate = None, 0
    for frame in container.decode(track):
        samples = _samples(frame)
        if mixer is None:
            rate = frame.sample_rate
            require_limits(rate, samples.shape[1])
            mixer = Mixer(samples.shape[1], channel)
        if (frame.sample_rate, samples.shape[1]) != (rate, mixer.num_channels):
            raise Unreadable("its rate or its number of channels changes")
        mixer.add(samples)
        require_length(mixer.num_samples, rate)
    return (mixer, rate) if mixer is not None and mixer.num_samples else (None, 0)


def _samples(frame: Any) -> NDArray[np.float32]:
    """Return the samples (n, c) of a frame of PyAV in ±1."""
    values = frame.to_ndarray()
    channels = frame.layout.nb_channels
    # Planar frames are (c, n), packed ones (1, n · c).
    values = values.T if frame.format.is_planar else values.reshape(-1, channels)
    if values.dtype.kind == "f":
        return np.ascontiguousarray(values, np.float32)
    offset = 128.0 if values.dtype.kind == "u" else 0.0
    scaled: NDArray[np.float32] = ((values - offset) / FULL_SCALES[values.dtype.name]).astype(np.float32)
    return scaled


def _require_complete(container: Any, track: Any, seconds: float) -> None:
    """Raise Unreadable if less than the declared length of a track could be decoded. seconds: the decoded length."""
    declared = 0.0
    if track.duration and not ESTIMATED & set(container.format.name.split(",")):
        declared = float(track.duration * track.time_base)
    elif match := DURATION.fullmatch(track.metadata.get("DURATION", "").strip()):
        declared = 3600.0 * int(match[1]) + 60.0 * int(match[2]) + float(match[3])
    if declared - seconds > max(MAX_MISSING_SECONDS, MAX_MISSING_SHARE * declared):
        lengths = describe_lengths(seconds, declared)
        raise Unreadable(f"it is cut off or damaged: {lengths} that its header declares could be decoded")
