"""One self-contained HTML page: a headline in words, then sections of prose, figures and tables.

It loads nothing, and can be read in light and dark, on a phone, on paper, by keyboard and by screen reader. Figures are SVG
whose colours are those of the page.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from mapsto.errors import UsageError

INSTALL = "reports need the package matplotlib: pip install 'mapsto[report]'"
# Colours of the page by name, and the stand-ins for them that matplotlib writes.
INK, QUIET, LINE = "#010101", "#020202", "#030303"
SERIES = tuple(f"#0404{i:02x}" for i in range(8))
VARIABLES = {INK: "--ink", QUIET: "--quiet", LINE: "--line", **{colour: f"--c{i}" for i, colour in enumerate(SERIES)}}
DASHES = ("solid", "dashed", "dotted", "dashdot")


@dataclass(frozen=True)
class Table:
    """Cells as they are shown; the first of each row names it. texts: which columns hold running text."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    texts: Sequence[int] = ()


@dataclass(frozen=True)
class Section:
    """A part of the page. figure: an SVG, already safe, described by `caption`; `file` is its name as a file."""

    title: str
    text: Sequence[str] = ()
    figure: str | None = None
    caption: str = ""
    file: str = ""
    tables: Sequence[Table] = ()
    code: str | None = None


@dataclass(frozen=True)
class Page:
    """A whole page; `about` says in a line what it is over."""

    title: str
    about: str
    headline: Sequence[str]
    sections: Sequence[Section] = field(default_factory=list)

    def html(self) -> str:
        """The page. Text of the user's is escaped."""
        from jinja2 import Environment, PackageLoader  # torch brings it

        known = Environment(loader=PackageLoader("mapsto", ""), autoescape=True, trim_blocks=True)
        sections = [_marked(section) for section in self.sections]
        return known.get_template("page.html.j2").render(
            page={"title": self.title, "about": self.about, "headline": self.headline, "sections": sections}
        )


def safe(html: str) -> Any:
    """HTML whose text is escaped already, as a cell."""
    from markupsafe import Markup

    return Markup(html)


def _marked(section: Section) -> dict[str, Any]:
    return {**vars(section), "figure": None if section.figure is None else safe(section.figure)}


@dataclass
class Drawing:
    """Axes to draw on; afterwards `svg` is the figure."""

    axes: Any
    svg: str = ""


@contextmanager
def drawing(label: str, width: float = 8.0, height: float = 4.2) -> Iterator[Drawing]:
    """A figure in the colours of the page; `label` is what a screen reader says of it. Raises UsageError without matplotlib."""
    try:
        import matplotlib
    except ImportError as error:
        raise UsageError(INSTALL) from error
    from matplotlib.figure import Figure

    style: Any = {
        "svg.fonttype": "none", "svg.hashsalt": "mapsto", "font.family": "sans-serif", "font.size": 10,
        "text.color": INK, "axes.edgecolor": QUIET, "axes.labelcolor": INK, "xtick.color": QUIET, "ytick.color": QUIET,
        "grid.color": LINE, "axes.grid": True, "axes.spines.top": False, "axes.spines.right": False,
        "legend.frameon": False, "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none",
    }  # fmt: skip
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(width, height), layout="constrained")
        drawn = Drawing(figure.subplots())
        yield drawn
        written = io.StringIO()
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    drawn.svg = _themed(written.getvalue(), label)


def _themed(svg: str, label: str) -> str:
    from markupsafe import escape

    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    for colour, name in VARIABLES.items():
        svg = svg.replace(colour, f"var({name})")
    svg = re.sub(r"font: ([^;\"]*)'sans-serif'[^;\"]*", r"font: \1sans-serif", svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1)


def plain_svg(svg: str) -> str:
    """The same figure as a file of its own, in the colours of paper."""
    colours = {"--ink": "#1b1f24", "--quiet": "#59636e", "--line": "#d4d9df"}
    series = ("#59636e", "#c2410c", "#0a58ca", "#15803d", "#8b2fc9", "#a16207", "#be185d", "#0e7490")
    colours |= {f"--c{i}": colour for i, colour in enumerate(series)}
    for name, colour in colours.items():
        svg = svg.replace(f"var({name})", colour)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + svg
