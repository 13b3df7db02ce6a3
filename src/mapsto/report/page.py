"""One self-contained HTML page: a headline in words, then sections of prose, figures and tables.

It loads nothing, and can be read in light and dark, on a phone, on paper, by keyboard and by screen reader. Figures are SVG
whose colours are those of the page.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mapsto import files
from mapsto.errors import UsageError

INSTALL = "reports need the package matplotlib: pip install 'mapsto[report]'"


# Colours of the page by name, and the stand-ins for them that matplotlib writes.
INK, QUIET, LINE = "#010101", "#020202", "#030303"


SERIES = tuple(f"#0404{i:02x}" for i in range(8))


LIGHT = {
    "--paper": "#fff", "--ink": "#1b1f24", "--quiet": "#59636e", "--line": "#d4d9df", "--soft": "#f3f5f7", "--accent": "#0a58ca",
    "--c0": "#59636e", "--c1": "#c2410c", "--c2": "#0a58ca", "--c3": "#15803d", "--c4": "#8b2fc9", "--c5": "#a16207",
    "--c6": "#be185d", "--c7": "#0e7490", "--for": "21, 128, 61", "--against": "190, 24, 93",
}  # fmt: skip


DARK = {
    "--paper": "#14171b", "--ink": "#e8eaed", "--quiet": "#a3adb8", "--line": "#3a424b", "--soft": "#1e2329",
    "--accent": "#7db2ff", "--c0": "#a3adb8", "--c1": "#ff9a5c", "--c2": "#7db2ff", "--c3": "#6fd08c", "--c4": "#d3a1ff",
    "--c5": "#e6c35c", "--c6": "#ff8fc0", "--c7": "#6fd3e6", "--for": "74, 180, 110", "--against": "240, 90, 150",
}  # fmt: skip


VARIABLES = {INK: "--ink", QUIET: "--quiet", LINE: "--line", **{colour: f"--c{i}" for i, colour in enumerate(SERIES)}}


DASHES = ("solid", "dashed", "dotted", "dashdot")


WIDTH, HEIGHT = 5.2, 3.5  # inches: what is 10 points there can be read on a phone


LEGEND_LINE, LONGEST_IN_A_ROW = 0.2, 30  # inches; letters of names of which two stand side by side


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
    sections: Sequence[Section]

    def html(self) -> str:
        """The page. Text of the user's is escaped."""
        from jinja2 import Environment, PackageLoader  # only pages need it

        known = Environment(loader=PackageLoader("mapsto.report", ""), autoescape=True, trim_blocks=True)
        sections = [_marked(section) for section in self.sections]
        page = {"title": self.title, "about": self.about, "headline": self.headline, "sections": sections}
        return known.get_template("page.html.j2").render(page=page, light=LIGHT, dark=DARK)

    def write(self, path: Path) -> None:
        """The page as a file that is whole or not there. Raises RunError, and UsageError where figures need matplotlib."""
        files.write_atomic(path, self.html().encode("utf-8", "replace"))

    def write_figures(self, folder: Path) -> None:
        """Every figure as an SVG of its own, in a folder that is there. Raises RunError."""
        for section in self.sections:
            if section.figure is not None:
                files.write_atomic(folder / section.file, plain_svg(section.figure).encode())


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

    def legend(self) -> None:
        """Name what is drawn, below it."""
        handles, names = self.axes.get_legend_handles_labels()
        columns = 2 if max(map(len, names)) <= LONGEST_IN_A_ROW else 1
        figure = self.axes.figure
        figure.set_figheight(HEIGHT + LEGEND_LINE * -(-len(names) // columns))
        figure.legend(handles, names, fontsize=9, loc="outside lower left", ncols=columns)


@contextmanager
def drawing(label: str) -> Iterator[Drawing]:
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
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        drawn = Drawing(figure.subplots())
        yield drawn
        written = io.StringIO()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")  # the browser has the font; here it is only measured
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
    for name, colour in LIGHT.items():
        svg = svg.replace(f"var({name})", colour)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + svg
