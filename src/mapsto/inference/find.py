"""Finding the texts that belong to a query among those of a table, by the cosine of their vectors.

The texts are embedded once. The index is kept in a folder, together with fingerprints of the texts and of the model, so that a
second search starts at once and a changed table or model is noticed. Equal texts are one candidate.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mapsto import __version__, files
from mapsto.data.rows import Rows, load_rows, require_any_readable, row_keys
from mapsto.data.table import Table
from mapsto.errors import CheckpointError, Finding, UsageError, free_name
from mapsto.inference.embedder import bind_side, embed
from mapsto.inference.vector_index import VectorIndex, unit
from mapsto.model.mapping import Mapping

# The files in the folder of an index, and the format of the first.
FACTS_FILE, VECTORS_FILE = "index.json", "vectors.safetensors"
FORMAT = 1
# The ending of the folder beside a table.
SUFFIX = ".index"

Say = Callable[[str], None]


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
    size: of shortened vectors; None for the whole.
    """

    folder: Path | None = None
    column: str | None = None
    size: int | None = None


class Finder:
    """A model with an index of the texts of a table.

    rows: the readable rows. candidates: for each vector of the index the rows with its text.
    faults: findings about rows that cannot be read and are not searched.
    """

    def __init__(
        self, mapping: Mapping, device: torch.device, rows: Rows, index: VectorIndex, settings: SearchSettings
    ) -> None:
        self.mapping, self.device, self.rows, self.index, self.settings = mapping, device, rows, index, settings
        self.faults = require_any_readable(rows)
        self.candidates = list(_rows_by_text(rows).values())
        self.has_files = len({file for file, _ in rows.table.origins}) > 1

    @property
    def table(self) -> Table:
        """The table that is searched."""
        return self.rows.table

    def text(self, match: Match) -> str:
        """Return the text of a match."""
        text: str = self.table.column(self.rows.arrow.sources[0].column or "")[match.row]
        return text

    def describe(self, match: Match, names: Sequence[str] = ()) -> dict[str, Any]:
        """Return the cosine of a match, the place of its row, and the cells of the row, by column.

        "row" is the number of the row in its file, as in messages (rows of a Python object are counted from 1), "file" its file,
        for a table of several files. A column of the same name as an entry, or as one of `names`, gets the prefix "found_".
        """
        file, number = self.table.origin(match.row)
        answer: dict[str, Any] = {"score": match.score, "row": number}
        if self.has_files:
            answer["file"] = file
        reserved = {*answer, *names}
        for name in self.table.columns:
            cell = self.table.column(name)[match.row]
            answer[free_name(f"found_{name}", self.table.columns) if name in reserved else name] = cell
        return answer

    def find(self, queries: Sequence[str], top: int) -> list[list[Match]]:
        """Return for each query the `top` most similar texts, the best first. Raises UsageError for an unreadable query."""
        if top < 1:
            raise UsageError(f"--top must be above 0, not {top}")
        vectors = unit(torch.from_numpy(embed(self.mapping, queries, self.device, side=0)), self.settings.size)
        matches = []
        for scores, numbers in zip(*self.index.search(vectors, top), strict=True):
            rows = [self.candidates[number] for number in numbers.tolist()]
            matches.append(
                [
                    Match(score, int(self.rows.indices[equal[0]]), len(equal))
                    for score, equal in zip(scores.tolist(), rows, strict=True)
                ]
            )
        return matches


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
    index = None if folder is None else _open_index(folder, facts, say)
    if index is None:
        texts = [rows.sources[0][equal[0]] for equal in _rows_by_text(rows).values()]
        say(f"embedding {len(texts):,} different texts")
        cut_texts: list[int] = []
        vectors = embed(mapping, texts, device, side=1, on_cut=cut_texts.append)
        if cut_texts:
            say(f"note: {len(cut_texts):,} texts are longer than the model takes and were cut")
        index = VectorIndex(unit(torch.from_numpy(vectors), size))
        if folder is not None:
            _save_index(folder, index, facts)
            say(f"the index is kept in {folder}")
    return Finder(mapping, device, rows, index, settings)


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


def _rows_by_text(rows: Rows) -> dict[str | None, list[int]]:
    """Return the indices of the rows with each distinct text, in the order of first occurrence."""
    groups: dict[str | None, list[int]] = {}
    for row, key in enumerate(row_keys(rows)):
        groups.setdefault(key, []).append(row)
    return groups


def _open_index(folder: Path, facts: dict[str, Any], say: Say) -> VectorIndex | None:
    """Return the index in a folder; None if there is none, or if it is of other texts or of another model, which is said.

    Raises UsageError if the folder holds other files, CheckpointError if the index is damaged.
    """
    if not folder.exists():
        return None
    if not (folder / FACTS_FILE).exists():
        names = {path.name for path in folder.iterdir() if not files.is_temporary(path.name)}
        if names - {VECTORS_FILE}:
            raise UsageError(f"{folder} holds other files and no index; name another folder")
        return None
    # No other command replaces one of the two files in between.
    with files.locked_folder(folder):
        recorded = files.read_sealed(folder / FACTS_FILE)
        differing = [name for name in facts if recorded.get(name) != facts[name]]
        index = None if differing else VectorIndex.open(folder / VECTORS_FILE)
    reasons = {
        "texts": "the texts have changed",
        "column": "another column is searched",
        "model": "the model is another",
    }
    if index is None:
        reason = ", ".join(reasons[name] for name in differing if name in reasons) or "it was made otherwise"
        say(f"note: the index in {folder} is made again: {reason}")
        return None
    if list(index.vectors.shape) != recorded.get("shape"):
        raise CheckpointError(f"{folder / VECTORS_FILE} is damaged: delete {folder} to make the index again")
    return index


def _save_index(folder: Path, index: VectorIndex, facts: dict[str, Any]) -> None:
    """Write an index to a folder. The facts are written last, so a folder that has them is complete."""
    with files.replacing_files(folder, last=FACTS_FILE) as staging:
        index.save(staging / VECTORS_FILE)
        files.write_atomic(staging / FACTS_FILE, files.seal({**facts, "shape": list(index.vectors.shape)}))


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
