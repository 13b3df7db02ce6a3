"""Decoding by libsndfile, through the package soundfile."""

from __future__ import annotations

from typing import Any

from mapsto.audio.decoding.containers.extent import Extent, ExtentStream, describe_lengths
from mapsto.audio.decoding.facts import SoundInfo
from mapsto.audio.decoding.limits import BLOCK_SAMPLES, require_length, require_limits
from mapsto.audio.decoding.mixing import Mixer, Samples
from mapsto.errors import UsageError
from mapsto.media.cells import Unreadable

INSTALL_SOUND = "sounds need the packages soundfile, soxr and PyAV: pip install 'mapsto[sound]'"


def load_soundfile() -> Any:
    """Import and return the package soundfile. Raises UsageError if it is not installed."""
    try:
        import soundfile
    except (ImportError, OSError) as error:  # an OSError is that of a missing libsndfile
        raise UsageError(INSTALL_SOUND) from error
    return soundfile


def decode_extent(stream: Any, extent: Extent, channel: int | None = None) -> tuple[Samples, SoundInfo]:
    """Return the samples (n,) of a recording mixed to one channel, and its facts.

    stream: the opened file. extent: the bytes of it that hold the recording. channel: the only channel to take, if not None.
    Raises Unreadable if the file is damaged, exceeds a limit or has another length than the extent states, and any error of the
    decoder; UsageError without the package soundfile.
    """
    soundfile = load_soundfile()
    mixer, rate = None, 1
    try:
        with soundfile.SoundFile(ExtentStream(stream, extent)) as file:
            # soundfile seeks after each read of a seekable file, after which a decoder of MP3 lacks the bits of earlier frames.
            file.seekable = lambda: False
            rate, channels = file.samplerate, file.channels
            require_limits(rate, channels)
            mixer = Mixer(channels, channel)
            while len(block := file.read(BLOCK_SAMPLES // channels, "float32", always_2d=True)):
                mixer.add(block)
                require_length(mixer.num_samples, rate)
    except soundfile.LibsndfileError as error:
        if extent.original is not None:
            return decode_extent(stream, extent.original, channel)
        raise Unreadable(_explain(error, extent, mixer.num_samples / rate if mixer else 0.0)) from error
    if mixer is None or not mixer.num_samples:
        raise Unreadable("it holds no samples")
    seconds = mixer.num_samples / rate
    remarks = (*extent.remarks, *extent.compare(seconds))
    mixture = mixer.finish()
    if mixture.channel is not None:
        return decode_extent(stream, extent, mixture.channel)
    decoder = f"libsndfile {soundfile.__libsndfile_version__}"
    return mixture.samples, SoundInfo(seconds, rate, mixer.num_channels, decoder, (*remarks, *mixture.remarks))


def _explain(error: Any, extent: Extent, seconds: float) -> str:
    """Return the message for an error of libsndfile, with both lengths where they are known. seconds: the decoded length."""
    reason = str(error.error_string).removeprefix("Error : ").rstrip(".")
    lengths = describe_lengths(seconds, extent.seconds) if extent.seconds else f"{seconds:.2f} s"
    return f"it is cut off or damaged: about {lengths} could be decoded ({reason})"
