"""Finding the texts that belong to a query among those of a table, by the cosine of their vectors.

The texts are embedded once. The index is kept in a folder, together with fingerprints of the texts and of the model, so that a
second search starts at once and a changed table or model is noticed. Equal texts are one candidate. The search is exact for up to
a million different texts; above that it is approximate where a graph of them is worth building (`vector_graph`).
"""

from __future__ import annotations

import hashlib
import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mapsto import __version__, kinds
from mapsto.data.grouping.row_groups import RowGroups, find_groups, group_nouns
from mapsto.data.rows import Rows, load_rows, require_any_readable, row_keys
from mapsto.data.table import Table
from mapsto.errors import BadCell, Finding, UsageError, free_name, shorten
from mapsto.inference.embedder import bind_side, embed
from mapsto.inference.index.index_files import FORMAT, Say, open_graph, open_index, save_graph, save_index
from mapsto.inference.index.vector_graph import ApproximateIndex, is_worth_building, suits_graph
from mapsto.inference.index.vector_index import VectorIndex, unit
from mapsto.model.mapping import Mapping
from mapsto.task.arrow import Arrow
from mapsto.task.source import Source
from mapsto.task.source_capabilities import Tokenized

# The ending of the folder beside a table.
SUFFIX = ".index"


@dataclass(frozen=True)
class Match:
    """A text that was found: its cosine with the query, its row in the table, and the number of rows with an equal text."""

    score: float
    row: int
    count: int


@dataclass(frozen=True)
class SearchSettings:
    """The settings of a search.

    folder: keeps the index; None keeps it in memory. column: the column to search; None for the arrow's or the only one.
    size: of shortened vectors; None for the whole. keeps_graph: builds the graph of very many vectors for few queries too,
    since it is kept in the folder for later ones. group: the column of values that are one candidate, such as the recordings of a
    speaker, "none" for no such column, or None to find it for kinds that come in groups.
    """

    folder: Path | None = None
    column: str | None = None
    size: int | None = None
    keeps_graph: bool = False
    group: str | None = None


class Finder:
    """A model with an index of the texts of a table.

    rows: the readable rows. candidates: for each vector of the index the rows with its text. facts: what the index depends on.
    faults: findings about rows that cannot be read and are not searched. say: prints a line.
    """

    def __init__(
        self,
        mapping: Mapping,
        device: torch.device,
        rows: Rows,
        index: VectorIndex,
        settings: SearchSettings,
        facts: dict[str, Any],
        say: Say,
    ) -> None:
        self.mapping, self.device, self.rows, self.index, self.settings = mapping, device, rows, index, settings
        self._facts, self._say = facts, say
        self._approximate: ApproximateIndex | None = None
        self.faults = require_any_readable(rows)
        self.groups = find_owners(rows, mapping.arrow, settings.group)
        self.candidates = list(_rows_by_candidate(rows, self.groups).values())
        self.has_files = len({file for file, _ in rows.table.origins}) > 1

    @property
    def table(self) -> Table:
        """The table that is searched."""
        return self.rows.table

    def text(self, match: Match) -> str:
        """Return the text of a match, or the name of a group, such as the speaker."""
        if self.groups is not None:
            cell = self.table.column(self.groups.columns[0])[match.row]
            if cell is not None:
                return str(cell)
        text: str = self.table.column(self.rows.arrow.sources[0].column or "")[match.row]
        return text

    @property
    def reads_text(self) -> bool:
        """Return whether candidates are texts, whose words can be marked."""
        return self.groups is None and issubclass(self._kind, Tokenized)

    @property
    def _kind(self) -> type[Source]:
        """The kind of the values that are searched."""
        return kinds.source(self.rows.arrow.sources[0].kind)

    def show(self, match: Match) -> str:
        """Return a match as HTML: the name of a group, if it is one, and the value of its first row."""
        row = int(np.flatnonzero(self.rows.indices == match.row)[0])
        name = "" if self.groups is None else f"<strong>{html.escape(self.text(match))}</strong> "
        return name + self._kind.show(self.rows.sources[0][row])

    def describe(self, match: Match, names: Sequence[str] = ()) -> dict[str, Any]:
        """Return the cosine of a match, the place of its row, and the cells of the row, by column.

        "row" is the number of the row in its file, as in messages (rows of a Python object are counted from 1), "file" its file,
        for a table of several files. A column of the same name as an entry, or as one of `names`, gets the prefix "found_".
        """
        file, number = self.table.origin(match.row)
        answer: dict[str, Any] = {"score": match.score, "row": number}
        if self.groups is not None:
            answer["count"] = match.count
        if self.has_files:
            answer["file"] = file
        reserved = {*answer, *names}
        for name in self.table.columns:
            cell = self.table.column(name)[match.row]
            answer[free_name(f"found_{name}", self.table.columns) if name in reserved else name] = cell
        return answer

    def find(self, queries: Sequence[str], top: int, exact: bool = False) -> list[list[Match]]:
        """Return for each query the `top` most similar texts, the best first.

        exact: compares all texts, however many they are.
        Raises UsageError for an unreadable query, CheckpointError if the kept graph is damaged.
        """
        if top < 1:
            raise UsageError(f"--top must be above 0, not {top}")
        vectors = unit(torch.from_numpy(embed(self.mapping, queries, self.device, side=0)), self.settings.size)
        matches = []
        index = self._choose_index(len(queries), top, exact)
        for scores, numbers in zip(*index.search(vectors, top), strict=True):
            rows = [self.candidates[number] for number in numbers.tolist()]
            matches.append(
                [
                    Match(score, int(self.rows.indices[equal[0]]), len(equal))
                    for score, equal in zip(scores.tolist(), rows, strict=True)
                ]
            )
        return matches

    def _choose_index(self, num_queries: int, top: int, exact: bool) -> VectorIndex | ApproximateIndex:
        """Return the index to search: the approximate one if there are very many vectors and their graph is worth it."""
        if exact or not suits_graph(len(self.index), top):
            return self.index
        if self._approximate is None:
            try:
                self._approximate = self._open_or_build_graph(num_queries)
            except ImportError:
                self._say(
                    f"note: all {len(self.index):,} texts are compared; an approximate index is faster and needs the package: "
                    "pip install 'mapsto[index]'"
                )
            if self._approximate is None:
                return self.index
            self._say(
                f"note: the search among {len(self.index):,} texts is approximate and gives {self._approximate.recall:.1%} of "
                "the best ones, measured on a sample; --exact (in Python exact=True) compares all"
            )
        return self._approximate

    def _open_or_build_graph(self, num_queries: int) -> ApproximateIndex | None:
        """Return the index with its kept graph, or with a new one if it is worth building, else None.

        Raises ImportError if usearch is not installed.
        """
        folder = self.settings.folder
        approximate = None if folder is None else open_graph(folder, self._facts, self.index, self._say)
        if approximate is None and is_worth_building(num_queries, self.settings.keeps_graph):
            approximate = ApproximateIndex.build(self.index, self._say)
            if folder is not None:
                save_graph(folder, approximate, self._facts)
                self._say(f"the approximate index is kept in {folder}")
        return approximate


def make_finder(
    mapping: Mapping,
    device: torch.device,
    table: Table,
    settings: SearchSettings,
    say: Say = lambda text: None,
) -> Finder:
    """Return a finder among the texts of a table, with the kept index if that is of these texts and this model.

    Otherwise the texts are embedded, and the index is written to the folder if there is one.
    say: prints a line.
    Raises UsageError for a column that is missing or ambiguous, for a size that the model was not trained with, and for a folder
    that holds other files; DataError if no row can be read.
    """
    width, size, folder = mapping.config.transformer.width, settings.size, settings.folder
    if size is not None and not 0 < size <= width:
        raise UsageError(f"--size is a number of the model's {width} numbers in a vector, not {size}")
    if size is not None:
        _check_size(mapping, size, say)
    arrow = bind_side(mapping.arrow, table, (1, 0), settings.column)
    rows = load_rows(arrow, table)
    require_any_readable(rows)
    facts = {
        "format": FORMAT,
        "mapsto": __version__,
        "column": str(arrow),
        "texts": table.fingerprint,
        "model": fingerprint(mapping),
        "size": size,
    }
    groups = find_owners(rows, mapping.arrow, settings.group)
    facts["group"] = None if groups is None else list(groups.columns)
    index = None if folder is None else open_index(folder, facts, say)
    if index is None:
        texts = [rows.sources[0][equal[0]] for equal in _rows_by_text(rows).values()]
        say(f"embedding {len(texts):,} different {rows.arrow.sources[0].kind}s")
        cut_texts: list[int] = []
        vectors = embed(mapping, texts, device, side=1, on_cut=cut_texts.append)
        if cut_texts:
            say(f"note: {len(cut_texts):,} values are longer than the model takes and were cut")
        index = VectorIndex(_average(rows, groups, unit(torch.from_numpy(vectors), size)))
        if folder is not None:
            save_index(folder, index, facts)
            say(f"the index is kept in {folder}")
    return Finder(mapping, device, rows, index, settings, facts, say)


def _check_size(mapping: Mapping, size: int, say: Say) -> None:
    """Raise UsageError for a size of vectors that the model was not trained with; say so if it is not known.

    A model that was fitted without `--sizes` can be searched by any: its first numbers are a vector too, if a worse one.
    """
    width, record = mapping.config.transformer.width, mapping.fit_record
    sizes = () if record is None else record.options.vector_sizes
    if size == width or size in sizes:
        return
    if sizes:
        listing = ", ".join(map(str, sizes))
        raise UsageError(f"--size {size} is none of the sizes that the model was trained with (--sizes): {listing}")
    reason = "it is not known whether the model was" if record is None else "the model was not"
    say(f"note: {reason} trained for vectors of {size} numbers (--sizes); all {width} may find better")


def find_owners(rows: Rows, arrow: Arrow, group: str | None = None) -> RowGroups | None:
    """Return the groups of rows that are one candidate of a search, such as the recordings of a speaker; None for single rows.

    They are those of `--group`; else, for kinds that come in groups, those of the label that a matching arrow learnt from, or of
    the most important column that is found by its name, such as "speaker".
    """
    nouns = group_nouns(arrow)
    labels = [port.column for port in arrow.targets if arrow.is_grouped and port.column in rows.table.columns]
    if group is None and nouns and labels:
        group = labels[0]
    rules = find_groups(rows, group)
    return next((rule for rule in rules if rule.is_explicit or rule.noun == nouns[0]), None)


def _rows_by_candidate(rows: Rows, groups: RowGroups | None) -> dict[Any, list[int]]:
    """Return the indices of the rows of each candidate: of one group, or with one text; in the order of first occurrence."""
    if groups is None:
        return dict(_rows_by_text(rows))
    members: dict[Any, list[int]] = {}
    for row, number in enumerate(groups.numbers.tolist()):
        members.setdefault(number, []).append(row)
    return members


def _average(rows: Rows, groups: RowGroups | None, vectors: Tensor) -> Tensor:
    """Return the vector of each candidate, (c, d), of length 1: the mean of the vectors of a group's different values.

    vectors: of the different values, in the order of first occurrence, of length 1.
    """
    if groups is None:
        return vectors
    number_of_row = {row: number for number, equal in enumerate(_rows_by_text(rows).values()) for row in equal}
    means = [
        vectors[sorted({number_of_row[row] for row in members})].mean(0)
        for members in _rows_by_candidate(rows, groups).values()
    ]
    return unit(torch.stack(means), None)


def _rows_by_text(rows: Rows) -> dict[str | None, list[int]]:
    """Return the indices of the rows with each distinct text, in the order of first occurrence."""
    groups: dict[str | None, list[int]] = {}
    for row, key in enumerate(row_keys(rows)):
        groups.setdefault(key, []).append(row)
    return groups


def fingerprint(mapping: Mapping) -> str:
    """Return the SHA-256 of everything that a model's vectors depend on: weights, tokenizer, pooling, prompts and precision."""
    digest = hashlib.sha256()
    for name, parameter in sorted(mapping.named_parameters()):
        digest.update(name.encode())
        digest.update(parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    facts = [
        {kind: source.fingerprint for kind, source in mapping.sources.items()},
        repr(mapping.config),
        str(mapping.precision),
    ]
    digest.update(json.dumps(facts).encode())
    return digest.hexdigest()


def index_folder(path: Path) -> Path:
    """Return the folder in which the index of a table is kept by default: beside the table."""
    return path.with_name(path.name + SUFFIX)


def read_queries(mapping: Mapping, table: Table, column: str | None = None) -> tuple[list[str], list[Finding]]:
    """Return the queries of a table, and findings about rows that cannot be read.

    column: the column of the queries; None for the arrow's or the only one.
    Raises UsageError for a column that is missing or ambiguous, DataError if no row can be read.
    """
    rows = load_rows(bind_side(mapping.arrow, table, (0,), column), table)
    return rows.sources[0], require_any_readable(rows)


def split_readable(mapping: Mapping, queries: Sequence[Any]) -> tuple[list[Any], list[str]]:
    """Return the queries that can be read, and why each of the others cannot.

    Raises UsageError if none can be read.
    """
    source = mapping.sources[mapping.arrow.sources[0].kind]
    readable, reasons = [], []
    for query in queries:
        try:
            source.read(query)
            readable.append(query)
        except BadCell as fault:
            reasons.append(f"the query {shorten(str(query))!r}: {fault}")
    if not readable:
        raise UsageError(f"no query can be read; {reasons[0]}")
    return readable, reasons
