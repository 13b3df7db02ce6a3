"""A chart of a dot and an interval for each of several models, as HTML: its names wrap, so that it can be read on a phone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from mapsto.metrics.intervals import Score

# Steps between round numbers, one of which is an end of the axis.
STEPS = (1, 2, 5, 10)


@dataclass(frozen=True)
class Bar:
    """One model's dot and interval.

    value, low, high: the score and its interval; NaN for limits that it has not. text: the score as text.
    is_best: whether it is the model that the page recommends or is about.
    """

    name: str
    value: float
    low: float
    high: float
    text: str
    is_best: bool = False

    @classmethod
    def of_score(cls, name: str, score: Score, is_best: bool = False) -> Bar:
        """Return the bar, in percent, of a score whose highest value is 1."""
        interval = "" if math.isnan(score.low) else f" ({score.interval_percent})"
        value, low, high = (100 * number for number in (score.value, score.low, score.high))
        return cls(name, value, low, high, f"{value:.1f} %{interval}", is_best)


def interval_bars(bars: Sequence[Bar], label: str, unit: str = " %", limits: tuple[float, float] = (0.0, 100.0)) -> str:
    """Return the bars as HTML, with an axis from and to round numbers. Names and texts are escaped.

    label: the description that a screen reader reads out. unit: that of the values on the axis.
    limits: the lowest and the highest possible value, beyond which the axis does not go.
    """
    numbers = [number for bar in bars for number in (bar.value, bar.low, bar.high) if math.isfinite(number)]
    low, high = _axis_limits(min(numbers), max(numbers), limits)

    def place(value: float) -> float:
        return min(100.0, max(0.0, 100 * (value - low) / (high - low)))

    rows = []
    for bar in bars:
        best = " best" if bar.is_best else ""
        marks = f'<span class="dot" style="left:{place(bar.value):.2f}%"></span>'
        if math.isfinite(bar.low) and math.isfinite(bar.high):
            start, right = place(bar.low), place(bar.high)
            marks = f'<span class="range" style="left:{start:.2f}%;width:{right - start:.2f}%"></span>{marks}'
        rows.append(
            f'<span class="name{best}">{escape(bar.name)}</span><span class="value{best}">{escape(bar.text)}</span>'
            f'<span class="track{best}">{marks}</span>'
        )
    axis = f'<span class="axis"><span>{low:,.10g}{escape(unit)}</span><span>{high:,.10g}{escape(unit)}</span></span>'
    return f'<div class="bars" role="group" aria-label="{escape(label)}">\n' + "\n".join([*rows, axis]) + "</div>"


def _axis_limits(lowest: float, highest: float, limits: tuple[float, float]) -> tuple[float, float]:
    """Return the ends of the axis: round numbers around the values, inside of `limits`."""
    # Equal values get an axis of their own size around them.
    extent = highest - lowest or abs(highest) or 1.0
    power = 10.0 ** math.floor(math.log10(extent / 4))
    step = next(factor * power for factor in STEPS if factor * power >= extent / 4)
    low, high = step * math.floor(lowest / step - 0.2), step * math.ceil(highest / step + 0.2)
    return max(low, limits[0]), min(high, limits[1])
