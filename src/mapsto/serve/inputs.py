"""The rows of a request as cells of a table: JSON by column name, and files as base64, in a form, or below a folder."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mapsto.errors import BadCell, CheckpointError, near, shorten
from mapsto.files import open_regular
from mapsto.serve.refusals import Refusal
from mapsto.serve.served_model import is_file_backed
from mapsto.task.arrow import Port
from mapsto.text.pairs.dialogues import Prompt, is_dialogue, read_dialogue

DATA_URL = re.compile(r"data:[\w.+-]*/?[\w.+-]*(;[\w.+=-]+)*;base64,", re.ASCII)
# A text of fewer characters is no file in base64; with a dot it is a name.
MIN_BASE64 = 24
BASE64 = re.compile(r"[A-Za-z0-9+/_\s-]+={0,2}\s*", re.ASCII)
# A text has about so many bytes of UTF-8 for each token, in English and in Chinese; a file as many tokens as this.
BYTES_PER_TOKEN, TOKENS_PER_FILE = 3, 256


@dataclass(frozen=True)
class InputRows:
    """The rows of a request that can be given to the model, and the errors of the columns_there.

    columns: the cells of the good rows, by column. costs: the estimated tokens of each good row.
    errors: for each row of the request the reason why it cannot be read, or None for a good one.
    """

    columns: dict[str, list[Any]]
    costs: list[int]
    errors: list[str | None]


@dataclass(frozen=True)
class CellReader:
    """A reader of cells. files: the folder below which files may be named; max_bytes: the largest of them."""

    files: Path | None
    max_bytes: int

    def read(self, rows: Sequence[Any], ports: Sequence[tuple[str, Port]], is_prompted: bool) -> InputRows:
        """Return the rows of a request with the cells that the model reads.

        rows: objects by column name; for a single column also the bare values. ports: the columns, each with its source.
        is_prompted: whether lists of messages are read as prompts.
        """
        names = [name for name, _ in ports]
        columns: dict[str, list[Any]] = {name: [] for name in names}
        costs: list[int] = []
        errors: list[str | None] = []
        for row in rows:
            try:
                cells = self._row(row, ports, is_prompted)
            except BadCell as error:
                errors.append(str(error))
                continue
            errors.append(None)
            costs.append(sum(map(estimate_tokens, cells)))
            for name, cell in zip(names, cells, strict=True):
                columns[name].append(cell)
        return InputRows(columns, costs, errors)

    def _row(self, row: Any, ports: Sequence[tuple[str, Port]], is_prompted: bool) -> list[Any]:
        """Return the cells of one row, in the order of the model's columns. Raises BadCell for a row that lacks one."""
        names = [name for name, _ in ports]
        if not isinstance(row, Mapping) or (len(names) == 1 and names[0] not in row and _is_file_cell(row)):
            if len(names) != 1:
                raise BadCell(f"a row is an object with the columns {', '.join(names)}, not {_kind_of(row)}")
            row = {names[0]: row}
        cells = []
        for name, port in ports:
            if name not in row:
                columns_there = ", ".join(map(repr, row)) or "none"
                raise BadCell(
                    f"{name}: the row has no such column{near(name, map(str, row))}; it has {shorten(columns_there)}"
                )
            cell = row[name]
            if is_file_backed(port):
                cell = self._file(cell, name)
            elif is_prompted and is_dialogue(cell):
                cell = _prompt(cell)
            cells.append(cell)
        return cells

    def _file(self, cell: Any, column: str) -> Any:
        """Return the bytes of a file: sent as base64 or as bytes, or named below the folder `files`.

        Raises BadCell for a file that cannot be read, and for an address on the network, which is never fetched.
        """
        if isinstance(cell, bytes) or cell is None:
            return cell
        if isinstance(cell, Mapping):
            if isinstance(content := cell.get("base64"), str):
                return _decode(content, column)
            cell = cell.get("path")
        if not isinstance(cell, str):
            raise BadCell(f'{column}: a file is {{"base64": "…"}} or {{"path": "…"}}, not {_kind_of(cell)}')
        if cell.startswith("data:"):
            head = DATA_URL.match(cell)
            if head is None:
                raise BadCell(f"{column}: a data URL is data:TYPE;base64,…")
            return _decode(cell[head.end() :], column)
        if len(cell) >= MIN_BASE64 and BASE64.fullmatch(cell):
            return _decode(cell, column)
        return self._read_below(cell.strip(), column)

    def _read_below(self, name: str, column: str) -> bytes:
        """Return the bytes of a file below the folder `files`. Raises BadCell for any other place."""
        if "://" in name:
            raise BadCell(f"{column}: nothing is fetched from the network; send the file as base64")
        if self.files is None:
            raise BadCell(f"{column}: send the file as base64; names of files are for servers with --files DIR")
        folder = self.files.resolve()
        try:
            path = (folder / name).resolve()
            if not name or "\0" in name or Path(name).is_absolute() or not path.is_relative_to(folder):
                raise BadCell(f"{column}: {shorten(name)!r} is not below the folder of --files")
            with open_regular(path, self.max_bytes) as file:
                return file.read()
        except CheckpointError as error:
            raise BadCell(f"{column}: {str(error).replace(str(folder), '--files')}") from error
        except (OSError, ValueError) as error:
            if isinstance(error, BadCell):
                raise
            raise BadCell(f"{column}: there is no file {shorten(name)!r} below the folder of --files") from error


def _prompt(cell: Any) -> Prompt:
    """Return a list of messages as the prompt of an answer. Raises BadCell for turns that cannot be used."""
    dialogue = read_dialogue(cell)
    if dialogue.faults:
        raise BadCell(dialogue.faults[0])
    if not dialogue.is_question:
        raise BadCell("the last message is not the user's, so there is nothing to answer")
    return Prompt.of(dialogue.turns)


def _is_file_cell(row: Mapping[str, Any]) -> bool:
    """Return whether an object is itself a file, and not a row of columns."""
    return len(row) == 1 and next(iter(row)) in ("base64", "path")


def _decode(content: str, column: str) -> bytes:
    """Return the bytes that base64 stands for, in its usual alphabet or that of URLs. Raises BadCell if it is none."""
    compact = "".join(content.split()).replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return base64.b64decode(compact + "=" * (-len(compact) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadCell(f"{column}: this is no base64") from error


def _kind_of(value: Any) -> str:
    """Return what a JSON value is, in words."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def estimate_tokens(cell: Any) -> int:
    """Return about how many tokens a cell has, at least 1, without encoding it."""
    if isinstance(cell, bytes):
        return TOKENS_PER_FILE
    return 2 + len(cell.encode(errors="ignore")) // BYTES_PER_TOKEN if isinstance(cell, str) else 1


def require_rows(rows: Any, max_rows: int) -> list[Any]:
    """Return the rows of a request. Raises Refusal if they are no list, none or too many."""
    if not isinstance(rows, list):
        raise Refusal(422, f"rows are a list, not {_kind_of(rows)}")
    if not rows:
        raise Refusal(422, "the request has no rows")
    if len(rows) > max_rows:
        raise Refusal(413, f"{len(rows):,} rows are more than the {max_rows:,} that one request may have (--max-rows)")
    return rows
