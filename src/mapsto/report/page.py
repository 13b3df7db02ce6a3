"""A self-contained HTML page for reports: a headline in words, then sections of prose, figures and tables.

The page loads no other file. It supports light and dark mode, phones, print, keyboards and screen readers. Figures are inline
SVG in the page's colours: matplotlib draws with placeholder colours, which are then replaced by CSS variables.
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
from mapsto.errors import UsageError, printable

INSTALL_MATPLOTLIB = "reports need the package matplotlib: pip install 'mapsto[report]'"

# Placeholder colours that matplotlib writes: text, axes, grid, and the lines of a chart.
INK, QUIET, LINE = "#010101", "#020202", "#030303"
SERIES = tuple(f"#0404{i:02x}" for i in range(8))

# The page's colours by CSS variable, in light and in dark. --for and --against are red, green, blue, of highlighted
# parts.
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

# Line styles: after the eighth line the colours repeat with the next style.
DASHES = ("solid", "dashed", "dotted", "dashdot")

WORD_JOINER = "\u2060"  # has no width
WIDTH, HEIGHT = 5.2, 3.5  # inches; 10 points at this size can be read on a phone
LEGEND_LINE_HEIGHT = 0.2  # inches
MAX_NAME_IN_TWO_COLUMNS = 30  # characters; longer names get a legend of one column


@dataclass(frozen=True)
class PageTable:
    """A table of a report's page. The first cell of each row is a row header.

    columns: the column headers.
    text_columns: indices of the columns with running text, which are aligned as text and not as numbers.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    text_columns: Sequence[int] = ()


@dataclass(frozen=True)
class Section:
    """A section of a report's page.

    text: paragraphs.
    figure: SVG, inserted unescaped; None for a section without a figure.
    caption: description of the figure.
    file: name of the SVG file to which the figure is also written.
    code: a shell command for readers to copy; None for no command.
    """

    title: str
    text: Sequence[str] = ()
    figure: str | None = None
    caption: str = ""
    file: str = ""
    tables: Sequence[PageTable] = ()
    code: str | None = None


@dataclass(frozen=True)
class Page:
    """The HTML page of a report.

    subtitle: one line that says which data the page is about.
    headline: the result in a few sentences.
    """

    title: str
    subtitle: str
    headline: Sequence[str]
    sections: Sequence[Section]

    def html(self) -> str:
        """Return the page as HTML. All text is escaped, except text marked by `trusted_html`."""
        from jinja2 import Environment, PackageLoader  # only pages need it

        # Escaping is on for every template variable: inputs are the user's text.
        environment = Environment(loader=PackageLoader("mapsto.report", ""), autoescape=True, trim_blocks=True)
        sections = [_template_fields(section) for section in self.sections]
        page = {"title": self.title, "subtitle": self.subtitle, "headline": self.headline, "sections": sections}
        return environment.get_template("page.html.j2").render(page=page, light=LIGHT, dark=DARK)

    def write(self, path: Path) -> None:
        """Write the page as an HTML file, atomically. Raises RunError if the file cannot be written."""
        # Damaged texts may have characters that UTF-8 cannot encode.
        files.write_atomic(path, self.html().encode("utf-8", "replace"))

    def write_figures(self, folder: Path) -> None:
        """Write the figure of every section to its SVG file in an existing folder. Raises RunError if that fails."""
        for section in self.sections:
            if section.figure is not None:
                files.write_atomic(folder / section.file, standalone_svg(section.figure).encode())


def trusted_html(html: str) -> Any:
    """Mark HTML as safe, so that the page does not escape it. The caller must have escaped any user text in the HTML."""
    from markupsafe import Markup

    return Markup(html)


def _template_fields(section: Section) -> dict[str, Any]:
    """Return the fields of a section by name for the Jinja template. The figure is marked as HTML that is not escaped."""
    return {**vars(section), "figure": None if section.figure is None else trusted_html(section.figure)}


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
