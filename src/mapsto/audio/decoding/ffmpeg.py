"""Decoding by FFmpeg, through the package PyAV: formats that libsndfile does not read, and the sound of videos."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mapsto.audio.decoding.containers.extent import describe_lengths
from mapsto.audio.decoding.containers.ogg import MIN_START
from mapsto.audio.decoding.facts import MixedPart, SoundInfo
from mapsto.audio.decoding.libsndfile import INSTALL_SOUND
from mapsto.audio.decoding.limits import require_length, require_limits
from mapsto.audio.decoding.mixing import Mixer, Samples, mix_again
from mapsto.audio.decoding.resampling import join_recordings
from mapsto.errors import UsageError
from mapsto.media.cells import Unreadable

# Demuxers of FFmpeg that read one file: no playlists, which name other files, and no devices.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,ogg,asf,flv,aac,amr,ac3,eac3,caf,w64,wav,aiff,au,tta,wv,ape"
)

# Demuxers whose files state no length, so that the one that FFmpeg gives is an estimate, or of which it computes a wrong one.
ESTIMATED = {"aac", "amr", "ac3", "eac3", "mpeg", "mpegts", "avi", "flv", "aiff", "w64"}

# Of these, demuxers of files whose header states a length that programs often write wrong.
UNCERTAIN = {"avi", "flv"}

# The names of codecs in MP4 whose samples are encrypted.
ENCRYPTED = ("drms", "enca")

# The share and the seconds by which the length of a track may be shorter than declared, since programs round it.
MAX_MISSING_SHARE, MAX_MISSING_SECONDS = 0.02, 0.15

# The length of a track as Matroska's tag DURATION states it: hours, minutes, seconds.
DURATION = re.compile(r"(\d{1,4}):(\d{2}):(\d{2}(?:\.\d+)?)", re.ASCII)

# The most changes of rate or channels in a file.
MAX_SEGMENTS = 1000

# NumPy's type and the full scale of each format of samples of FFmpeg; those that end in "p" have a plane for each channel.
SAMPLE_FORMATS = {
    "u8": ("u1", 2.0**7),
    "s16": ("i2", 2.0**15),
    "s32": ("i4", 2.0**31),
    "s64": ("i8", 2.0**63),
    "flt": ("f4", 1.0),
    "dbl": ("f8", 1.0),
}


@dataclass
class Segment:
    """Consecutive frames of a track in one rate in Hz and number of channels, mixed to one."""

    rate: int
    mixer: Mixer

    @property
    def seconds(self) -> float:
        """Return the length of the segment."""
        return self.mixer.num_samples / self.rate


class Timeline:
    """The times that the frames of a track state, by which lost parts are noticed.

    start: the time of the first frame; end: that behind the last one; both None if none is stated.
    missing: seconds that the times within leave out.
    """

    def __init__(self) -> None:
        self.start: float | None = None
        self.end: float | None = None
        self.missing = 0.0

    def add(self, frame: Any) -> None:
        """Add a frame of PyAV."""
        if frame.pts is None or frame.time_base is None:
            return
        start = float(frame.pts * frame.time_base)
        self.start = start if self.start is None else self.start
        if self.end is not None and start - self.end > MAX_MISSING_SECONDS:
            self.missing += start - self.end
        self.end = max(start, self.end or start) + frame.samples / frame.sample_rate


def decode_stream(
    stream: Any, names: str, max_held: int, channels: Sequence[int | None] = ()
) -> tuple[Samples | None, SoundInfo]:
    """Return the samples (n,) of the sound of a file mixed to one channel, and its facts.

    stream: the opened file. names: the formats that are read, in words.
    max_held: the most samples that are returned; None is returned for more, and the facts then have the parts to read again.
    channels: for each segment of the file the only channel to take, or None; segments differ in rate or channels.
    Raises Unreadable if the file holds no sound, is damaged or exceeds a limit, and any error of the decoder;
    UsageError without PyAV.
    """
    av = _load_pyav()
    with _open(stream, names) as container:
        track = _find_track(container)
        segments, timeline = list[Segment](), Timeline()
        try:
            for frame in container.decode(track):
                timeline.add(frame)
                _add_frame(segments, frame, channels)
                if sum(segment.mixer.num_samples for segment in segments) > max_held:
                    for segment in segments:
                        segment.mixer.drop()
        except av.FFmpegError as error:
            lengths = _describe(_total(segments), _declared(container, track, True))
            reason = error.strerror or type(error).__name__
            raise Unreadable(f"it is cut off or damaged: about {lengths} could be decoded ({reason})") from error
        seconds = _total(segments)
        if not seconds:
            raise Unreadable("it holds no samples")
        declared = _declared(container, track)
        # A part of a longer recording begins later, and its length is counted from the beginning of the whole.
        _require_complete(seconds, declared, declared - (timeline.start or 0.0))
        remarks = _remarks(container, track, seconds, timeline)
    mixtures = [segment.mixer.finish() for segment in segments]
    if any(mixture.channel is not None for mixture in mixtures):
        return decode_stream(stream, names, max_held, [mixture.channel for mixture in mixtures])
    decoder = f"libavcodec {'.'.join(map(str, av.library_versions['libavcodec']))}"
    recordings = []
    for segment, mixture in zip(segments, mixtures, strict=True):
        part = MixedPart(segment.rate, segment.mixer.channel, mixture.num_active)
        parts = (part,) if mixture.samples is None else ()
        info = SoundInfo(segment.seconds, segment.rate, segment.mixer.num_channels, decoder, mixture.remarks, parts)
        recordings.append((mixture.samples, info))
    samples, info = join_recordings(recordings)
    return samples, replace(info, remarks=(*remarks, *info.remarks))


def read_again(stream: Any, names: str, parts: Sequence[MixedPart]) -> Iterator[tuple[int, Samples]]:
    """Yield (number of the part, samples (n,)) of each block of a file that was decoded before. parts: how they were mixed."""
    with _open(stream, names) as container:
        number, shape = -1, (0, 0)
        for frame in container.decode(_find_track(container)):
            block = _samples(frame)
            if (frame.sample_rate, block.shape[1]) != shape:
                number, shape = number + 1, (frame.sample_rate, block.shape[1])
            yield number, mix_again(block, parts[number])


def _total(segments: Sequence[Segment]) -> float:
    """Return the length of segments in seconds."""
    return sum(segment.seconds for segment in segments)


def _remarks(container: Any, track: Any, seconds: float, timeline: Timeline) -> list[str]:
    """Return remarks about a decoded track: parts that its time stamps leave out, a length that is too short, other tracks.

    seconds: the decoded length.
    """
    remarks = []
    if timeline.start is not None and timeline.start >= MIN_START and not container.streams.video:
        remarks.append(f"it is a part of a longer stream, from about {timeline.start:.1f} s on")
    if UNCERTAIN & set(container.format.name.split(",")) and track.duration:
        declared = float(track.duration * track.time_base)
        if declared - seconds > max(MAX_MISSING_SECONDS, MAX_MISSING_SHARE * declared):
            remarks.append(f"{describe_lengths(seconds, declared)} that its header declares could be decoded")
    if timeline.missing:
        lengths = describe_lengths(seconds, seconds + timeline.missing)
        remarks.append(f"by its time stamps {lengths} are there: parts within it are missing")
    indices = [stream.index for stream in container.streams.audio]
    if len(indices) > 1:
        number = indices.index(track.index) + 1
        remarks.append(f"it has {len(indices):,} tracks of sound, of which number {number} is read")
    return remarks


def measure(stream: Any) -> tuple[float, float]:
    """Return (seconds of sound that can be decoded, seconds that the header declares or 0) of a damaged file.

    stream: the opened file.
    """
    av = _load_pyav()
    seconds = declared = 0.0
    with suppress(Unreadable, av.FFmpegError), _open(stream, "") as container:
        track = _find_track(container)
        declared = _declared(container, track, of_file=True)
        for packet in container.demux(track):
            with suppress(av.FFmpegError):
                for frame in packet.decode():
                    seconds += frame.samples / frame.sample_rate
    return seconds, declared


def _load_pyav() -> Any:
    """Import and return PyAV. Raises UsageError if it is not installed."""
    try:
        import av
    except ImportError as error:
        raise UsageError(INSTALL_SOUND) from error
    return av


def _open(stream: Any, names: str) -> Any:
    """Return the container of PyAV that reads a stream. names: the formats that are read.

    Raises Unreadable if it is no file of a known format.
    """
    av = _load_pyav()
    stream.seek(0)
    options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "none"}
    try:
        return av.open(stream, options=options, metadata_errors="replace")
    except av.FFmpegError as error:
        raise Unreadable(f"this is no sound of a known format ({names}), or its header is damaged") from error


def _find_track(container: Any) -> Any:
    """Return the track of sound to decode. Raises Unreadable if there is none, or if its codec is not known."""
    track = container.streams.best("audio")
    if track is None:
        raise Unreadable("the video has no sound" if container.streams.video else "the file holds no sound")
    if track.codec_context is None:
        raise Unreadable("its sound has a codec that is not known")
    if track.codec_context.codec_tag in ENCRYPTED:
        raise Unreadable("its sound is encrypted (DRM)")
    return track


def _add_frame(segments: list[Segment], frame: Any, channels: Sequence[int | None]) -> None:
    """Add a frame of PyAV to the last segment, or to a new one. Raises Unreadable for a limit."""
    samples = _samples(frame)
    rate, num_channels = frame.sample_rate, samples.shape[1]
    last = segments[-1] if segments else None
    if last is None or (rate, num_channels) != (last.rate, last.mixer.num_channels):
        require_limits(rate, num_channels)
        if len(segments) == MAX_SEGMENTS:
            raise Unreadable(f"its rate or its number of channels changes more than {MAX_SEGMENTS:,} times")
        channel = channels[len(segments)] if len(segments) < len(channels) else None
        last = Segment(rate, Mixer(num_channels, channel))
        segments.append(last)
    last.mixer.add(samples)
    require_length(round(_total(segments) * rate), rate)


def _samples(frame: Any) -> NDArray[np.float32]:
    """Return the samples (n, c) of a frame of PyAV in ±1."""
    name, channels = frame.format.name, frame.layout.nb_channels
    dtype, scale = SAMPLE_FORMATS[name.removesuffix("p")]
    if frame.format.is_planar:
        # AudioFrame.to_ndarray of PyAV reads one plane too many where there are eight channels, and crashes.
        planes = [np.frombuffer(plane, dtype, frame.samples) for plane in frame.planes[:channels]]
        values = np.stack(planes, axis=1)
    else:
        values = np.frombuffer(frame.planes[0], dtype, frame.samples * channels).reshape(-1, channels)
    offset = 128.0 if dtype == "u1" else 0.0
    if scale == 1.0:
        return np.ascontiguousarray(values, np.float32)
    return ((values - offset) / scale).astype(np.float32)


def _declared(container: Any, track: Any, of_file: bool = False) -> float:
    """Return the length of a track in seconds that the file declares; 0 if it does not.

    of_file: return the length of the file where that of the track is not declared.
    """
    is_estimated = bool(ESTIMATED & set(container.format.name.split(",")))
    if track.duration and not is_estimated:
        return float(track.duration * track.time_base)
    if match := DURATION.fullmatch(track.metadata.get("DURATION", "").strip()):
        return 3600.0 * int(match[1]) + 60.0 * int(match[2]) + float(match[3])
    return float(container.duration or 0) / 1e6 if of_file and not is_estimated else 0.0


def _require_complete(seconds: float, declared: float, expected: float) -> None:
    """Raise Unreadable if less could be decoded than expected by the declared length of a track. All in seconds."""
    if expected - seconds > max(MAX_MISSING_SECONDS, MAX_MISSING_SHARE * expected):
        lengths = describe_lengths(seconds, declared)
        raise Unreadable(f"it is cut off or damaged: {lengths} that its header declares could be decoded")


def _describe(seconds: float, declared: float) -> str:
    """Return the decoded length in words, with the declared one where it is longer. Both in seconds."""
    return describe_lengths(seconds, declared) if declared > seconds else f"{seconds:.2f} s"
