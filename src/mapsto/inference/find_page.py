"""The HTML page of `mapsto find`: for each query the most similar texts, with the words that they share with it marked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from mapsto.errors import places, shorten
from mapsto.inference.find import Finder, Match
from mapsto.report.bars import Bar, interval_bars
from mapsto.report.page import KeyFigure, Page, PageTable, Picture, Section, trusted_html
from mapsto.text import cells
from mapsto.text.pairs.common_words import Rarity, find_common_words

# Queries on the page, and characters of a text and of a query in a title.
MAX_QUERIES, MAX_CHARACTERS, MAX_TITLE = 50, 2000, 60
# Values in the picture.
MAX_BARS = 5
# Texts of the table by which it is counted how rare a word is.
MAX_COUNTED = 5000


def find_page(finder: Finder, queries: Sequence[str], matches: Sequence[Sequence[Match]], model: str) -> Page:
    """Return the page of the texts that were found for some queries. matches: of each query. model: its folder or hub name."""
    rarity = _count_words(finder) if finder.reads_text else None
    sections = [_section(finder, *pair, rarity) for pair in zip(queries[:MAX_QUERIES], matches, strict=False)]
    unit = "texts" if finder.reads_text else "values" if finder.groups is None else "groups of rows"
    subtitle = f"among {len(finder.candidates):,} different {unit} of {finder.table.name}"
    # The first query is what was looked for.
    sections = [replace(section, is_open=index == 0) for index, section in enumerate(sections)]
    return Page(
        f"What is most similar, by {Path(model).name}?",
        subtitle,
        [_verdict(queries, matches)],
        sections,
        figures=_key_figures(queries, matches),
        picture=_picture(finder, queries, matches),
        answers=[("What does the cosine say?", _legend(len(queries), finder.reads_text))],
    )


def _verdict(queries: Sequence[str], matches: Sequence[Sequence[Match]]) -> str:
    """Return the sentence on the cosines of the best values."""
    scores = [match.score for matches_of_query in matches for match in matches_of_query[:1]]
    if len(queries) == 1:
        lead = ""
        if len(matches[0]) > 1:
            lead = f", {matches[0][0].score - matches[0][1].score:.3f} above the next"
        return f"The most similar one to “{shorten(queries[0], MAX_TITLE)}” has a cosine of {scores[0]:.3f}{lead}."
    return f"For {len(queries):,} queries the cosine of the most similar one is {min(scores):.3f} to {max(scores):.3f}."


def _key_figures(queries: Sequence[str], matches: Sequence[Sequence[Match]]) -> list[KeyFigure]:
    """Return the figure behind the verdict: the cosine of the best value, of several queries the median."""
    scores = [match.score for matches_of_query in matches for match in matches_of_query[:1]]
    label = (
        "cosine of the most similar one" if len(queries) == 1 else f"median cosine of the best, {len(scores):,} queries"
    )
    return [KeyFigure(f"{median(scores):.3f}", label)]


def _picture(finder: Finder, queries: Sequence[str], matches: Sequence[Sequence[Match]]) -> Picture:
    """Return the cosines of what was found for the first query, the best first."""
    bars = [
        Bar(
            _name(finder, match),
            match.score,
            math.nan,
            math.nan,
            f"{match.score:.3f}",
            index == 0,
        )
        for index, match in enumerate(matches[0][:MAX_BARS])
    ]
    content = interval_bars(bars, "cosines of the most similar values", "", (-1.0, 1.0))
    return Picture(content, f"The cosines with “{shorten(queries[0], MAX_TITLE)}”.")


def _name(finder: Finder, match: Match) -> str:
    """Return a match in a few words: its text or group, or the place of its row for values such as pictures."""
    if finder.reads_text or finder.groups is not None:
        return shorten(finder.text(match), MAX_TITLE)
    return places([finder.table.origin(match.row)])[0]


def _legend(num_queries: int, reads_text: bool) -> str:
    """Return what the cosines say, and in texts the marked words."""
    text = "The cosine says how similar the model finds query and value, from −1 to 1."
    if reads_text:
        text = (
            "The cosine says how similar the model finds query and text, from −1 to 1. Words that a text shares with the query "
            "are marked, darker the rarer they are in the table; the model finds texts without a common word too."
        )
    if num_queries > MAX_QUERIES:
        text += f" The first {MAX_QUERIES} of {num_queries:,} queries are here; --out with a table has all of them."
    return text


def _count_words(finder: Finder) -> Rarity:
    """Return the rarity of words among the searched texts, or among a regular sample of them."""
    rows = [equal[0] for equal in finder.candidates]
    step = -(-len(rows) // MAX_COUNTED)
    return Rarity([finder.rows.sources[0][row] for row in rows[::step]])


def _section(finder: Finder, query: str, matches: Sequence[Match], rarity: Rarity | None) -> Section:
    """Return the section of one query: its words, and a table of the texts that were found."""
    origins = places([finder.table.origin(match.row) for match in matches])
    rows = []
    for match, origin in zip(matches, origins, strict=True):
        equal = f" and {match.count - 1:,} more" if match.count > 1 else ""
        shown = finder.show(match) if rarity is None else _mark(query, finder.text(match), rarity)
        rows.append([origin + equal, trusted_html(shown), f"{match.score:.4f}"])
    title = shorten(query, MAX_TITLE)
    text = [] if title == query else [query[:MAX_CHARACTERS]]
    return Section(title, text, tables=[PageTable("The most similar texts", ["row", "passage", "cosine"], rows, (1,))])


def _mark(query: str, text: str, rarity: Rarity) -> str:
    """Return a text as HTML with the words that the query has too marked. Long texts are cut with "…"."""
    start = text[:MAX_CHARACTERS]
    words = find_common_words(query, start, rarity)
    marked = cells.highlight(start, [((word.start, word.end),) for word in words], [word.rarity for word in words])
    return marked + "…" * (len(text) > len(start))
