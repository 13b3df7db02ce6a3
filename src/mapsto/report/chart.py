"""Charts of a page: inline SVG in the page's colours. Matplotlib draws with placeholder colours, replaced by CSS variables."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mapsto.errors import UsageError, printable
from mapsto.report.colours import INK, LIGHT, LINE, QUIET, VARIABLES

INSTALL_MATPLOTLIB = "reports need the package matplotlib: pip install 'mapsto[report]'"

# Line styles: after the eighth line the colours repeat with the next style.
DASHES = ("solid", "dashed", "dotted", "dashdot")

WORD_JOINER = "\u2060"  # has no width
WIDTH, HEIGHT = 5.2, 3.5  # inches; 10 points at this size can be read on a phone
LEGEND_LINE_HEIGHT = 0.2  # inches
MAX_NAME_IN_TWO_COLUMNS = 30  # characters; longer names get a legend of one column


@dataclass
class Chart:
    """A chart that is being drawn.

    axes: the matplotlib axes to draw on.
    svg: the rendered figure; empty until the `with` block of `draw_chart` ends.
    """

    axes: Any
    svg: str = ""

    def add_legend(self) -> None:
        """Add a legend of all labelled lines below the axes, and make the figure taller by the legend's height."""
        # Lines without a label are named _child0 and so on; other names that begin with _ would be left out of the legend.
        handles = [line for line in self.axes.get_lines() if not re.fullmatch(r"_child\d+", line.get_label())]
        names = [re.sub("^_", f"{WORD_JOINER}_", line.get_label()) for line in handles]
        num_columns = 2 if max(map(len, names)) <= MAX_NAME_IN_TWO_COLUMNS else 1
        figure = self.axes.figure
        figure.set_figheight(HEIGHT + LEGEND_LINE_HEIGHT * -(-len(names) // num_columns))
        figure.legend(handles, names, fontsize=9, loc="outside lower left", ncols=num_columns)


@contextmanager
def draw_chart(label: str) -> Iterator[Chart]:
    """Yield an empty chart to draw on; when the `with` block ends, render it to `Chart.svg` in the page's colours.

    label: the description of the figure that a screen reader reads out.
    Raises UsageError if matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise UsageError(INSTALL_MATPLOTLIB) from error
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    style: Any = {
        # A fixed salt gives the same SVG for the same data; "none" keeps text as text, so that it can be read out.
        "svg.fonttype": "none", "svg.hashsalt": "mapsto", "font.family": "sans-serif", "font.size": 10,
        "text.color": INK, "axes.edgecolor": QUIET, "axes.labelcolor": INK, "xtick.color": QUIET, "ytick.color": QUIET,
        "grid.color": LINE, "axes.grid": True, "axes.spines.top": False, "axes.spines.right": False,
        "text.parse_math": False,
        "legend.frameon": False, "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none",
    }  # fmt: skip
    with matplotlib.rc_context():
        # The settings of the package itself, not those of a matplotlibrc in the working directory or the home.
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(style)
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        chart = Chart(figure.subplots())
        yield chart
        # Names of classes and models are texts of others: control characters would break the SVG.
        for text in figure.findobj(Text):
            text.set_text(printable(text.get_text()))
        buffer = io.StringIO()
        with warnings.catch_warnings():
            # Matplotlib only measures the text; the browser draws it, and has the font.
            warnings.filterwarnings("ignore", "Glyph .* missing")
            # Without the date, the same data gives the same file.
            figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    chart.svg = _apply_theme(buffer.getvalue(), label)


def _apply_theme(svg: str, label: str) -> str:
    """Return an SVG from matplotlib adapted to the page: placeholder colours become CSS variables, and text the page's font.

    label: the description of the figure for screen readers, which is added.
    """
    from markupsafe import escape

    # Inline SVG takes no XML declaration, and its metadata only makes the page larger.
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    for colour, name in VARIABLES.items():
        svg = svg.replace(colour, f"var({name})")
    # Matplotlib names the fonts that it has; the page uses those of the reader.
    svg = re.sub(r"font: ([^;\"]*)'sans-serif'[^;\"]*", r"font: \1sans-serif", svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1)


def standalone_svg(svg: str) -> str:
    """Return a page's inline SVG as the text of an SVG file, with CSS variables replaced by colours of the light theme."""
    for name, colour in LIGHT.items():
        svg = svg.replace(f"var({name})", colour)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + svg
