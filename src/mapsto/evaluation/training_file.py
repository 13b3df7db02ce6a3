"""The linear baseline beside a saved model, fitted to the model's training file, read again.

A saved model holds no rows, but the place of its training file and a hash of the rows. The baseline is fitted to exactly the
rows of the fit: without those that the fit held out, and only if the hash agrees.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from mapsto.data.files import listed_files
from mapsto.data.rows import Rows, fingerprint_rows, load_rows, require_readable, set_aside_unlabelled
from mapsto.data.split import split_rows
from mapsto.data.table import read_table
from mapsto.errors import DataError, MapstoError
from mapsto.evaluation.linear_baseline import (
    NO_LINEAR_MODEL,
    BaselineComparison,
    compare_with_linear_model,
    has_linear_baseline,
)
from mapsto.model.fit_record import FitRecord
from mapsto.model.mapping import Mapping
from mapsto.task.arrow import Arrow


def compare_with_training_file(
    mapping: Mapping,
    rows: Rows,
    outputs: Tensor,
    group: str | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> BaselineComparison | str | None:
    """Return the scores of a saved model's first target beside those of the linear baseline, or a sentence on why there are none.

    None for models that no fit has saved, and for those without a linear baseline.
    rows: the rows to score. outputs: (n, …), those of the first target for these rows. group: `--group`, as for `evaluate`.
    say: prints what is being fitted, before it takes its time.
    """
    record = mapping.fit_record
    if record is None or not has_linear_baseline(mapping):
        return None
    try:
        training = read_training_rows(mapping.arrow, record)
    except DataError as error:
        return f"{NO_LINEAR_MODEL}: {error}"
    options = replace(record.options, group=group)
    say(f"fitting the simple baseline to the {len(training):,} training rows, to compare with")
    return compare_with_linear_model(mapping, training, rows, lambda: outputs, record.seconds, options)


def read_training_rows(arrow: Arrow, record: FitRecord) -> Rows:
    """Return the rows that a saved model was trained on, without the held-out rows, from its training file.

    Raises DataError, with the reason in a few words, if the file is not there or no longer holds the rows of the fit.
    """
    return _read_split(arrow, record)[0]


def read_held_out_rows(arrow: Arrow, record: FitRecord, max_rows: int | None = None) -> Rows:
    """Return the rows of a saved model's training file that its fit held out; none if it held out none.

    max_rows: the most rows of the file that are read; None for no limit.
    Raises DataError as `read_training_rows`, and for a file with more rows.
    """
    return _read_split(arrow, record, max_rows)[1]


def read_test_rows(arrow: Arrow, record: FitRecord, max_rows: int) -> Rows:
    """Return the rows that a saved model was tested on when it was fitted, from their file.

    Rows of that file which were also in training were left out of the test; a file that has such rows is not read.
    Raises DataError, with the reason in a few words, if there is no such file, if it no longer holds these rows alone, or if it
    has more than `max_rows`.
    """
    if record.test_file is None:
        raise DataError("the fit had no file of test rows")
    file = _find_file(record.test_file)
    if file is None:
        raise DataError(f"its test file {record.test_file.name} is not where it was")
    try:
        table = set_aside_unlabelled(arrow, read_table(file, record.options.text_format), record.options.unlabelled)[0]
        if table.fingerprint != record.test_fingerprint:
            raise DataError("it has changed since the fit, or has rows that were also in training")
        _require_few(len(table), max_rows)
        return load_rows(arrow, table).readable()
    except MapstoError as error:
        raise DataError(f"its test file {file.name} cannot be used: {error}") from error


def _require_few(num_rows: int, max_rows: int | None) -> None:
    """Raise DataError for more rows than are read."""
    if max_rows is not None and num_rows > max_rows:
        raise DataError(f"it has {num_rows:,} rows, and at most {max_rows:,} are read")


def _read_split(arrow: Arrow, record: FitRecord, max_rows: int | None = None) -> tuple[Rows, Rows]:
    """Return the training rows and the held-out rows of a saved model. Raises DataError as `read_held_out_rows`."""
    if record.file is None:
        raise DataError("the model does not name the file of its training rows")
    name, options = record.file.name, record.options
    file = _find_file(record.file)
    if file is None:
        raise DataError(f"its training file {name} is not where it was")
    try:
        table = read_table(file, options.text_format)
        _require_few(len(table), max_rows)
        rows = load_rows(arrow, set_aside_unlabelled(arrow, table, options.unlabelled)[0])
        require_readable(rows, options.row_policy)
    # The list of everything that is wrong with the file has no place beside scores.
    except MapstoError as error:
        raise DataError(f"its training file {name} can no longer be read") from error
    if fingerprint_rows(rows) != record.fingerprint:
        raise DataError(f"its training file {name} has changed since the fit")
    return split_rows(rows, options)


def _find_file(file: Path) -> Path | None:
    """Return where a training file is: in its place, or beside it gzipped or unpacked since; None if it is gone."""
    zipped = file.with_name(f"{file.name}.gz")
    unpacked = file.with_suffix("") if file.suffix.lower() == ".gz" else zipped
    return next((path for path in (file, zipped, unpacked) if path.exists() or listed_files(path)), None)
