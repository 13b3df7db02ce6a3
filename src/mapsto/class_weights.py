"""Weights of classes in the loss (`--class-weights`): read from a text such as "spam=5,ham=1", from JSON, or from a file."""

from __future__ import annotations

import json
import math
from pathlib import Path

from mapsto.errors import UsageError, shorten

# The value of --class-weights that weighs every class by the inverse of its share of the rows.
BALANCED = "balanced"
# Said where a class of `--class-weights` is unknown or has no number, which a mark in its name may be the reason of.
WEIGHTS_FILE_HINT = (
    "a fraction has a point, as 1.5, and a class with = , or ; in its name goes into a file with lines as spam,5"
)


def parse_class_weights(text: str) -> dict[str, float] | None:
    """Return the weights by class name in a text such as "spam=5,ham=1" or a JSON object; None for another text.

    Raises UsageError for a weight that is no number above 0, and for a class that is named twice.
    """
    if text.lstrip().startswith("{"):
        try:
            pairs = list(json.loads(text, object_pairs_hook=list))
        except (ValueError, TypeError) as error:
            raise UsageError(f"--class-weights: no JSON object of weights by class: {error}") from error
    elif "=" in text:
        pairs = [(name.strip(), weight) for name, _, weight in (part.rpartition("=") for part in text.split(","))]
    else:
        return None
    weights: dict[str, float] = {}
    for name, value in pairs:
        try:
            weight = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            weight = math.nan
        if not name or not 0 < weight < math.inf:
            fault = f"the weight of {name!r} is a number above 0, not {value!r}" if name else f"{value!r} has no class"
            raise UsageError(f"--class-weights: {fault}; write spam=5,ham=1; {WEIGHTS_FILE_HINT}")
        if name in weights:
            raise UsageError(f"--class-weights: {name!r} is there twice")
        weights[name] = weight
    return weights


def read_class_weights(text: str | None) -> dict[str, float] | None:
    """Return the weights of classes by name that `--class-weights` gives, inline or in a file; None for "balanced" or without.

    Raises UsageError for a file that cannot be read as weights.
    """
    if text is None or text == BALANCED:
        return None
    if (inline := parse_class_weights(text)) is not None:
        return inline
    path = Path(text).expanduser()
    try:
        content = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--class-weights: cannot read the file {shorten(text)!r}: {error}") from error
    lines = [line for line in content.splitlines() if line.strip()]
    inline = parse_class_weights(content if content.lstrip().startswith("{") else json.dumps(_pairs(lines, path)))
    assert inline is not None
    return inline


def _pairs(lines: list[str], path: Path) -> dict[str, float]:
    """Return the weights of lines `name,weight` by name; a first line whose second cell is no number is a header."""
    weights: dict[str, float] = {}
    for number, line in enumerate(lines, 1):
        name, comma, cell = line.rpartition(",")
        try:
            weight = float(cell) if comma else math.nan
        except ValueError:
            weight = math.nan
            if comma and number == 1:
                continue
        if not math.isfinite(weight):
            raise UsageError(f"--class-weights: {path}:{number}: a line is a class, a comma and its weight, as spam,5")
        weights[name.strip().strip('"')] = weight
    return weights
