"""`mapsto predict --hide` and `--mask`: hide parts of values and let a pretrained model fill them in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mapsto import kinds
from mapsto.cli.output import print_note, print_status, print_text, read_table_with_notes
from mapsto.cli.prediction.answers import InputRows, require_folder
from mapsto.data.rows import load_rows, require_any_readable
from mapsto.data.table import Table, write_rows
from mapsto.data.writers import require_writable
from mapsto.errors import UsageError
from mapsto.inference.output_files import write_file
from mapsto.inference.predictor import Predictor
from mapsto.task.capabilities import FileBacked, require
from mapsto.task.target_capabilities import Reconstruction


def fill_in(
    predictor: Predictor,
    inputs: InputRows,
    out: Path | None,
    hide: float | None,
    mask: Path | None,
    overwrite: bool,
) -> None:
    """Hide parts of each input value, let the model fill them in, and write the completed values.

    out: for images or videos the folder for one file per row; for other kinds a table file, or None to print.
    hide: the share of tokens to hide at random; None with a mask.
    mask: an image file whose pixels that are not black mark what to hide in every value, or a folder with such a file for each
        value; None with `hide`.
    overwrite: whether files in the folder with other content are replaced.
    """
    if hide is not None and mask is not None:
        raise UsageError("give --hide (a share, anywhere) or --mask (what it marks), not both")
    port = predictor.arrow.sources[0]
    folder = require_folder(out) if issubclass(kinds.source(port.kind), FileBacked) else None
    if folder is None and out is not None:
        require_writable(out)
    table = read_table_with_notes(inputs.source(predictor.arrow), inputs.text_format)
    rows = load_rows(predictor.arrow.body, table)
    faults = require_any_readable(rows)
    masks = None if mask is None else _find_masks(mask, port.kind, rows.sources[0])
    row_indices = rows.indices.tolist()
    values = predictor.complete(rows.sources[0], hide or 0.0, mask=masks, rows=row_indices)
    values_by_row = dict(zip(row_indices, values, strict=True))
    if folder is not None:
        target = predictor.mapping.targets[0]
        assert isinstance(target, Reconstruction)
        _write_files(target, table, values_by_row, folder, overwrite)
    else:
        # Unreadable rows keep their place, empty.
        column = [values_by_row.get(row) if isinstance(row, int) else None for row in table.in_order()]
        if out is None:
            print_text("\n".join(value or "" for value in column))
        else:
            write_rows(out, [port.kind], [{port.kind: value} for value in column])
    for fault in faults:
        print_note(fault)
    if num_unreadable := len(table) + len(table.rejected) - len(rows):
        print_note(f"{num_unreadable:,} rows could not be filled in")


def _write_files(
    target: Reconstruction, table: Table, values_by_row: Mapping[int, Any], folder: Path, overwrite: bool
) -> None:
    """Write the completed value of each row to a file of its own in `folder`.

    target: the target that converts a value to the content of a file.
    values_by_row: the completed values by row index; rows without one are skipped.
    overwrite: as for `write_file`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number, row in enumerate(table.in_order(), 1):
        if isinstance(row, int) and row in values_by_row and (content := target.file(values_by_row[row])) is not None:
            write_file(folder, table.origin(row), number, *content, overwrite)
    print_status(f"wrote {len(values_by_row):,} files to {folder}")


def _find_masks(path: Path, kind: str, values: Sequence[Any]) -> list[str]:
    """Return the mask file for each value: `path` itself, or the file in the folder `path` with the value's name.

    Suffixes may differ between a value and its mask. kind: the kind of the values. values: names of image or video files.
    Raises UsageError if the path does not exist, or if a value has no mask.
    """
    if path.is_file():
        return [str(path)] * len(values)
    if not path.is_dir():
        raise UsageError(f"--mask {path}: there is no such file or folder")
    suffixes = require(kinds.source(kind), FileBacked, "masked by a picture").suffixes
    # The endings may differ: photo.jpg may have the mask photo.png.
    masks = {file.stem: str(file) for file in sorted(path.iterdir()) if file.suffix.lower() in suffixes}
    if missing := [str(value) for value in values if Path(str(value)).stem not in masks]:
        rest = f", and for {len(missing) - 1} others" if len(missing) > 1 else ""
        raise UsageError(f"--mask {path}: there is no mask for {missing[0]}{rest}")
    return [masks[Path(str(value)).stem] for value in values]
