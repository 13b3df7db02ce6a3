"""Decoding by libsndfile, through the package soundfile."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mapsto.audio.decoding.containers.extent import Extent, ExtentStream, describe_lengths
from mapsto.audio.decoding.facts import MixedPart, SoundInfo
from mapsto.audio.decoding.limits import BLOCK_SAMPLES, require_length, require_limits
from mapsto.audio.decoding.mixing import Mixer, Samples, mix_again
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


def _blocks(stream: Any, extent: Extent) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield (rate in Hz, samples (n, c)) of each block of a recording. Raises Unreadable for rates and channels beyond limits."""
    with load_soundfile().SoundFile(ExtentStream(stream, extent)) as file:
        # soundfile seeks after each read of a seekable file, after which a decoder of MP3 lacks the bits of earlier frames.
        file.seekable = lambda: False
        require_limits(file.samplerate, file.channels)
        while len(block := file.read(BLOCK_SAMPLES // file.channels, "float32", always_2d=True)):
            yield file.samplerate, block


def read_again(stream: Any, extent: Extent, part: MixedPart) -> Iterator[Samples]:
    """Yield the blocks of samples (n,) of a recording that was decoded before. part: how it was mixed."""
    original = extent.original if part.by_own_header else None
    for _, block in _blocks(stream, original or extent):
        yield mix_again(block, part)


def decode_extent(
    stream: Any, extent: Extent, max_held: int, channel: int | None = None, by_own_header: bool = False
) -> tuple[Samples | None, SoundInfo]:
    """Return the samples (n,) of a recording mixed to one channel, and its facts.

    stream: the opened file. extent: the bytes of it that hold the recording. channel: the only channel to take, if not None.
    max_held: the most samples that are returned; None is returned for more, and the facts then have the part to read again.
    by_own_header: whether the extent is the `original` of another.
    Raises Unreadable if the file is damaged, exceeds a limit or has another length than the extent states, and any error of the
    decoder; UsageError without the package soundfile.
    """
    soundfile = load_soundfile()
    mixer, rate = None, 1
    try:
        for rate, block in _blocks(stream, extent):
            mixer = mixer or Mixer(block.shape[1], channel)
            mixer.add(block)
            require_length(mixer.num_samples, rate)
            if mixer.num_samples > max_held:
                mixer.drop()
    except soundfile.LibsndfileError as error:
        if extent.original is not None:
            return decode_extent(stream, extent.original, max_held, channel, True)
        raise Unreadable(_explain(error, extent, mixer.num_samples / rate if mixer else 0.0)) from error
    if mixer is None or not mixer.num_samples:
        raise Unreadable("it holds no samples")
    seconds = mixer.num_samples / rate
    remarks = (*extent.remarks, *extent.compare(seconds))
    mixture = mixer.finish()
    if mixture.channel is not None:
        return decode_extent(stream, extent, max_held, mixture.channel, by_own_header)
    decoder = f"libsndfile {soundfile.__libsndfile_version__}"
    part = MixedPart(rate, channel, mixture.num_active, by_own_header)
    parts = (part,) if mixture.samples is None else ()
    remarks = (*remarks, *mixture.remarks)
    return mixture.samples, SoundInfo(seconds, rate, mixer.num_channels, decoder, remarks, parts)


def _explain(error: Any, extent: Extent, seconds: float) -> str:
    """Return the message for an error of libsndfile, with both lengths where they are known. seconds: the decoded length."""
    reason = str(error.error_string).removeprefix("Error : ").rstrip(".")
    lengths = describe_lengths(seconds, extent.seconds) if extent.seconds else f"{seconds:.2f} s"
    return f"it is cut off or damaged: about {lengths} could be decoded ({reason})"
