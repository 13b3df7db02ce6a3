"""The record of the rows that a saved model was fitted to and tested on: their files, known by their content, and the split.

A saved model holds no rows. The record finds them again, as long as their file is where it was and has not changed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping as Dict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mapsto.options import Options

# The options that decide how a training file is read and which of its rows are held out, and the sizes of vectors.
RECORDED_OPTIONS = (
    "encoding",
    "delimiter",
    "bad_rows",
    "most_skipped",
    "unlabelled",
    "hold_out",
    "group",
    "time",
    "seed",
    "sizes",
)


@dataclass(frozen=True)
class FitRecord:
    """The facts of a fit from which its training rows can be read again.

    file: the training file or folder; None if the rows came from a Python object or the version did not record it.
    fingerprint: SHA-256 of the rows, see `mapsto.data.rows.fingerprint_rows`.
    options: the options of the fit with which the file was read and its rows were split, and `sizes`; all others are defaults.
    seconds: duration of the training.
    test_file, test_fingerprint: the file of the test rows, and the hash of their table; None without such a file.
    """

    file: Path | None
    fingerprint: str
    options: Options
    seconds: float
    test_file: Path | None = None
    test_fingerprint: str | None = None

    @classmethod
    def from_provenance(cls, provenance: Dict[str, Any], folder: Path) -> FitRecord | None:
        """Return the record of the fit that saved a model in `folder`; None if the model was not saved by a fit.

        provenance: the entry "provenance" of mapsto.json.
        """
        if not {"data", "options", "seconds"} <= set(provenance):
            return None
        options = {name: provenance["options"][name] for name in RECORDED_OPTIONS if name in provenance["options"]}
        file, test_file = (
            (folder / provenance[name]).resolve() if name in provenance else None for name in ("data_file", "test_file")
        )
        test_data = provenance.get("test_data")
        return cls(file, provenance["data"], Options(**options), provenance["seconds"], test_file, test_data)

    def to_provenance(self, folder: Path) -> dict[str, Any]:
        """Return the facts from which `from_provenance` makes the same record for a model in `folder`."""
        facts = {"data": self.fingerprint, "seconds": self.seconds}
        options = {name: getattr(self.options, name) for name in RECORDED_OPTIONS}
        file = {} if self.file is None else {"data_file": relative_path(self.file, folder)}
        test = {}
        if self.test_file is not None and self.test_fingerprint is not None:
            test = {"test_file": relative_path(self.test_file, folder), "test_data": self.test_fingerprint}
        return {**facts, "options": options, **file, **test}


def relative_path(path: Path, folder: Path) -> str:
    """Return the path from a folder to a file, which holds when a project is moved and names no folders above both.

    On another drive of Windows it is the path itself.
    """
    try:
        return Path(os.path.relpath(path, folder.resolve())).as_posix()
    except ValueError:
        return path.as_posix()
