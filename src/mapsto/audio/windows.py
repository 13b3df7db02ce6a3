"""Windows of long sounds: where a sound is cut that a model cannot read at once.

A cut inside a word loses it or doubles it. So a window ends where the sound is quietest in its second half, which is a pause
if there is one. A window of 30 seconds is then 15 to 30 seconds long.
Legend of shapes: t tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# Tokens over which loudness is averaged: about 0.3 seconds, longer than the closure of a consonant.
SMOOTHED = 15


def choose_cuts(loudness: NDArray[np.float32], length: int) -> Sequence[int]:
    """Return the edges 0, …, t of windows of at most `length` tokens. loudness: that of each token, (t,)."""
    smooth = np.convolve(loudness, np.ones(SMOOTHED) / SMOOTHED, "same")
    edges = [0]
    while len(loudness) - edges[-1] > length:
        begin, end = edges[-1] + max(1, length // 2), edges[-1] + length
        # The last one of several places that are equally quiet.
        edges.append(end - int(smooth[begin : end + 1][::-1].argmin()))
    return [*edges, len(loudness)]
