"""mapsto.json, the manifest of a saved model: read with its seal, and checked to have all its parts, each of its type."""

from __future__ import annotations

import math
from collections.abc import Mapping as Dict
from pathlib import Path
from types import NoneType
from typing import Any

from mapsto import files
from mapsto.errors import CheckpointError

# The format of mapsto.json.
FORMAT = 1

MANIFEST_FILE = "mapsto.json"

# The type of each part; those of OPTIONAL may be missing, in folders of earlier versions.
PARTS: dict[str, type | tuple[type, ...]] = {
    "arrow": str,
    "length": (int, type(None)),
    "targets": list,
    "row_filters": list,
    "provenance": dict,
    "scores": dict,
    "files": dict,
}
OPTIONAL = ("length", "row_filters")
ENTRIES: dict[str, dict[str, type]] = {
    "targets": {"kind": str, "state": dict},
    "row_filters": {"arrow": str, "data": str, "rows": int},
}
# A score without an interval has no limits.
LIMIT = (int, float, NoneType)
SCORE: dict[str, type | tuple[type, ...]] = {"value": (int, float), "low": LIMIT, "high": LIMIT, "n": int}

# Scores of a cross-validation, where a metric such as R² may have no value in a fold.
FOLDS: dict[str, type | tuple[type, ...]] = {"scores": dict, "by_fold": list, "rows": int}


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the content of a folder's mapsto.json; None if it has none.

    Raises CheckpointError if the file is damaged or of another format, or if a part is missing or of another type.
    """
    path = folder / MANIFEST_FILE
    if not path.exists():
        return None
    manifest = files.read_sealed(path, files.MAX_CONFIG_BYTES)
    if manifest.get("format") != FORMAT:
        raise CheckpointError(f"{path} has format {manifest.get('format')!r}; this version reads {FORMAT}")
    _require_parts(
        path, "", manifest, {name: PARTS[name] for name in PARTS if name in manifest or name not in OPTIONAL}
    )
    for name, parts in ENTRIES.items():
        for number, entry in enumerate(manifest.get(name, ())):
            _require_parts(path, f"{name}, entry {number + 1}, ", entry, parts)
    for name, score in manifest["scores"].items():
        _require_parts(path, f"scores, {name}, ", score, SCORE)
    if (folds := manifest["provenance"].get("folds")) is not None:
        _require_folds(path, folds)
    for name, digest in manifest["files"].items():
        if not isinstance(digest, str):
            raise CheckpointError(f"{path} has no SHA-256 of {name}")
    length = manifest.get("length")
    if length is not None and length < 1:
        raise CheckpointError(f"{path} has the length {length}; it is at least 1")
    for name in ("targets", "scores"):
        _require_finite(path, name, manifest[name])
    return manifest


def _require_parts(path: Path, stem: str, record: Any, parts: Dict[str, type | tuple[type, ...]]) -> None:
    """Raise CheckpointError if `record` lacks one of `parts`, or has one of another type. stem: where the record stands."""
    if not isinstance(record, dict):
        raise CheckpointError(f"{path}: {stem.rstrip(', ') or 'it'} is no object, but {record!r:.60}")
    for name, kind in parts.items():
        if name not in record:
            raise CheckpointError(
                f"{path} lacks {stem}{name}: it was changed since it was saved; save or fetch it again"
            )
        # True is an int to Python, but no number here.
        if not isinstance(record[name], kind) or isinstance(record[name], bool):
            raise CheckpointError(f"{path}: {stem}{name} is of another type than was saved: {record[name]!r:.60}")


def _require_folds(path: Path, folds: Any) -> None:
    """Raise CheckpointError unless `folds` is what `FoldScores.to_json` returns."""
    stem = "provenance, folds, "
    _require_parts(path, stem, folds, FOLDS)
    for name, score in folds["scores"].items():
        _require_parts(path, f"{stem}{name}, ", score, {**SCORE, "value": LIMIT})
        for number, values in enumerate(folds["by_fold"], 1):
            _require_parts(path, f"{stem}fold {number}, ", values, {name: LIMIT})
    if len(folds["by_fold"]) < 2:
        raise CheckpointError(f"{path}: {stem}by_fold has fewer than two folds")


def _require_finite(path: Path, place: str, record: Any) -> None:
    """Raise CheckpointError if a number in `record`, which stands at `place` in the file, is not finite."""
    if isinstance(record, float) and not math.isfinite(record):
        raise CheckpointError(f"{path}: {place} holds {record}, which is no finite number")
    entries = record.items() if isinstance(record, dict) else enumerate(record) if isinstance(record, list) else ()
    for name, entry in entries:
        _require_finite(path, f"{place}, {name}", entry)
