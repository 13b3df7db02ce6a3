"""Sounds on pages: a spectrogram with axes and shaded seconds, and a player.

A spectrogram has time from left to right and log-mel bands from low to high, each pixel the mean energy of some frames.
Legend of shapes: m frames, b bands, h rows, w columns of pixels.
"""

from __future__ import annotations

import base64
import html
import itertools
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mapsto.audio.log_mel import HOP, RATE, band_edges, log_mel
from mapsto.audio.sound_io import encode_wav, resample
from mapsto.audio.sound_value import Sound
from mapsto.task.source_capabilities import FAINTEST_SHADE

# Pixels of the widest and of the narrowest spectrogram, which is as wide as a player, its height on a page, and pixels for a
# second between them.
MAX_WIDTH, MIN_WIDTH, HEIGHT, PIXELS_PER_SECOND = 640, 300, 80, 100

# A player has the first seconds of a sound alone, in the rate of telephones, so that pages stay small.
PLAYED_SECONDS, PLAYED_RATE = 15, 8000

# The colours of a spectrogram from quiet to loud: dark blue, purple, orange, pale yellow.
STOPS = np.array([[12, 12, 40], [110, 30, 110], [240, 130, 40], [255, 250, 200]], np.float64)
# Those of a spectrogram below shaded seconds, and the opacity of the strongest shade.
GREY_STOPS = np.array([[30, 30, 30], [245, 245, 245]], np.float64)
SHADE_STRENGTH = 0.6
# Pixels beside and below a spectrogram for its axes, and the frequencies that are named, in Hz.
MARGIN, SHOWN_HERTZ = 26, (1000, 2000, 4000)


def excerpt(value: Sound, region: Any) -> str:
    """Return the seconds of a region in words, such as "0.40–0.52 s"."""
    ((begin, end),) = region
    return f"{begin:.2f}–{end:.2f} s"


def highlight(value: Sound, regions: Sequence[Any], shades: Sequence[float]) -> str:
    """Return the sound as HTML: its spectrogram with axes of time and frequency, and a player.

    With regions the spectrogram is grey, and the regions are shaded over it.
    regions: ((begin, end),) of each region, in seconds.
    shades: one number for each region, from −1 (speaks against the answer) to 1 (speaks for it).
    """
    samples, seconds = value.decode(RATE), max(value.info.seconds, 1 / RATE)
    width = int(np.clip(seconds * PIXELS_PER_SECOND, MIN_WIDTH, MAX_WIDTH))
    stops = GREY_STOPS if regions else STOPS
    picture = base64.b64encode(encode_png(draw_spectrogram(samples, width, stops))).decode()
    strips = [
        f'<rect x="{MARGIN + width * begin / seconds:.1f}" width="{max(1.0, width * (end - begin) / seconds):.1f}" '
        f'height="{HEIGHT}" shape-rendering="crispEdges" '
        f'fill="rgba(var(--{"lowers" if shade < 0 else "raises"}), {SHADE_STRENGTH * abs(shade):.2f})"/>'
        for ((begin, end),), shade in zip(regions, shades, strict=True)
        if abs(shade) >= FAINTEST_SHADE
    ]
    caption = html.escape(f"the spectrogram of {value}, {seconds:.2f} s from left to right, 0 to 8 kHz from below")
    svg = (
        f'<svg role="img" aria-label="{caption}" width="{MARGIN + width}" viewBox="0 0 {MARGIN + width} {HEIGHT + MARGIN}">'
        f'<image href="data:image/png;base64,{picture}" x="{MARGIN}" width="{width}" height="{HEIGHT}" '
        f'preserveAspectRatio="none"/>{"".join(strips)}{_draw_axes(width, seconds)}</svg>'
    )
    played = encode_wav(resample(samples[: PLAYED_SECONDS * RATE], RATE, PLAYED_RATE), PLAYED_RATE)
    player = f'<audio controls preload="none" src="data:audio/wav;base64,{base64.b64encode(played).decode()}"></audio>'
    return f'<span class="sound" title="{html.escape(str(value))}">{svg}<br>{player}</span>'


def _draw_axes(width: int, seconds: float) -> str:
    """Return the SVG of the axes of a spectrogram: some frequencies in kHz on the left, seconds below.

    width: of the spectrogram in pixels. seconds: its duration.
    """
    bands = band_edges()[1:-1]
    labels = [
        f'<text x="{MARGIN - 3}" y="{HEIGHT - np.interp(hertz, bands, np.linspace(0, HEIGHT, len(bands))):.1f}" '
        f'text-anchor="end" dominant-baseline="middle">{hertz / 1000:g}</text>'
        for hertz in SHOWN_HERTZ
    ]
    # Three times, so that the label of the last one stays inside of the picture.
    times = (("start", 0.0), ("middle", seconds / 2), ("end", seconds))
    labels += [
        f'<text x="{MARGIN + width * time / seconds:.1f}" y="{HEIGHT + 13}" text-anchor="{anchor}">{time:.2f} s</text>'
        for anchor, time in times
    ]
    labels.append(f'<text x="{MARGIN - 3}" y="{HEIGHT + 13}" text-anchor="end">kHz</text>')
    return f'<g font-size="11" fill="var(--quiet)">{"".join(labels)}</g>'


def draw_spectrogram(samples: NDArray[np.float32], width: int, stops: NDArray[np.float64] = STOPS) -> NDArray[np.uint8]:
    """Return the spectrogram of samples at RATE as pixels (b, w, 3), the lowest band in the last row.

    stops: the colours (s, 3) from quiet to loud.
    """
    frames = log_mel(samples, max(1, -(-len(samples) // HOP)))
    # Each column is the mean of its frames; where there are fewer frames than columns, frames are repeated.
    edges = np.linspace(0, len(frames), width + 1).astype(np.int64)
    columns = [frames[begin : max(begin + 1, end)].mean(0) for begin, end in itertools.pairwise(edges)]
    energy = np.stack(columns)[:, ::-1].T
    low, high = float(energy.min()), float(energy.max())
    places = (energy - low) / max(high - low, 1e-6) * (len(stops) - 1)
    numbers = np.arange(len(stops))
    return np.stack([np.interp(places, numbers, stops[:, channel]) for channel in range(3)], axis=-1).astype(np.uint8)


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """Return pixels (h, w, 3) as a PNG (ISO/IEC 15948): 8 bits a channel, rows without filters, deflated."""
    height, width, _ = pixels.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows.tobytes(), 6)),
        (b"IEND", b""),
    ]
    parts = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
