"""A self-contained HTML page for reports, the same frame for all: a verdict, the figure behind it, a picture, and folded details.

The first screen has the verdict in one sentence, one large figure, one picture, and answers to the reader's questions. Everything
else is in sections that are folded and that a contents list opens. The page loads no other file. It supports light and dark mode,
phones, print, keyboards and screen readers; without scripts all of it can still be read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mapsto import files
from mapsto.report.chart import standalone_svg
from mapsto.report.colours import DARK, LIGHT


@dataclass(frozen=True)
class PageTable:
    """A table of a report's page. The first cell of each row is a row header.

    columns: the column headers.
    text_columns: indices of the columns with running text, which are aligned as text and not as numbers.
    filter_columns: indices of the columns by whose values readers can filter the rows.
    has_search: whether readers can search the rows, and filter them.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    text_columns: Sequence[int] = ()
    filter_columns: Sequence[int] = ()
    has_search: bool = False


@dataclass(frozen=True)
class Section:
    """A section of a report's page.

    text: paragraphs.
    figure: SVG or other HTML, inserted unescaped; None for a section without a figure.
    caption: description of the figure.
    file: name of the SVG file to which the figure is also written; empty for a figure that is on the page alone.
    code: a shell command for readers to copy; None for no command.
    anchor: the name by which links lead to the section; empty for one that no link names.
    is_open: whether the section is unfolded when the page is opened.
    """

    title: str
    text: Sequence[str] = ()
    figure: str | None = None
    caption: str = ""
    file: str = ""
    tables: Sequence[PageTable] = ()
    code: str | None = None
    anchor: str = ""
    is_open: bool = False


@dataclass(frozen=True)
class KeyFigure:
    """The figure behind a verdict. value: such as "90.2 %". label: what it is, with its interval and number of items."""

    value: str
    label: str


@dataclass(frozen=True)
class Picture:
    """The picture of the first screen. content: SVG or other HTML, inserted unescaped. caption: what it shows."""

    content: str
    caption: str = ""


@dataclass(frozen=True)
class Page:
    """The HTML page of a report.

    subtitle: one line that says which data the page is about.
    verdicts: the result in one sentence, or in one for each target.
    warnings: sentences on what makes the results doubtful, shown above everything else.
    answers: (question, answer) pairs of the first screen, such as ("Where does it fail?", …).
    """

    title: str
    subtitle: str
    verdicts: Sequence[str]
    sections: Sequence[Section]
    figures: Sequence[KeyFigure] = ()
    picture: Picture | None = None
    warnings: Sequence[str] = ()
    answers: Sequence[tuple[str, Any]] = field(default=())

    def html(self) -> str:
        """Return the page as HTML. All text is escaped, except text marked by `trusted_html`."""
        from jinja2 import Environment, PackageLoader  # only pages need it

        # Escaping is on for every template variable: inputs are the user's text.
        environment = Environment(loader=PackageLoader("mapsto.report", ""), autoescape=True, trim_blocks=True)
        fields = {**vars(self), "sections": [_template_fields(*pair) for pair in enumerate(self.sections, 1)]}
        # A percent sign at the start of a line would be read alone.
        fields["verdicts"] = [line.replace(" %", "\u00a0%") for line in self.verdicts]
        fields["answers"] = [(question, answer.replace(" %", "\u00a0%")) for question, answer in self.answers]
        if self.picture is not None:
            fields["picture"] = {"content": trusted_html(self.picture.content), "caption": self.picture.caption}
        return environment.get_template("page.html.j2").render(page=fields, light=LIGHT, dark=DARK)

    def write(self, path: Path) -> None:
        """Write the page as an HTML file, atomically. Raises RunError if the file cannot be written."""
        # Damaged texts may have characters that UTF-8 cannot encode.
        files.write_atomic(path, self.html().encode("utf-8", "replace"))

    def write_figures(self, folder: Path) -> None:
        """Write the figures of sections that name an SVG file to an existing folder. Raises RunError if that fails."""
        for section in self.sections:
            if section.figure is not None and section.file:
                files.write_atomic(folder / section.file, standalone_svg(section.figure).encode())


def trusted_html(html: str) -> Any:
    """Mark HTML as safe, so that the page does not escape it. The caller must have escaped any user text in the HTML."""
    from markupsafe import Markup

    return Markup(html)


def link(anchor: str, text: str, values: Sequence[tuple[str, str]] = ()) -> Any:
    """Return a link to a section as HTML; on the way the script of the page filters the table of that section.

    anchor: of the section. text: of the link. values: (column, value) pairs by which the rows are filtered.
    """
    from json import dumps

    from markupsafe import Markup

    filters = Markup(" data-set='{}'").format(dumps(dict(values), ensure_ascii=False)) if values else ""
    return Markup('<a href="#{}"{}>{}</a>').format(anchor, filters, text)


def _template_fields(section_number: int, section: Section) -> dict[str, Any]:
    """Return the fields of a section by name for the Jinja template. The figure is marked as HTML that is not escaped."""
    figure = None if section.figure is None else trusted_html(section.figure)
    return {**vars(section), "figure": figure, "anchor": section.anchor or f"s{section_number}"}
