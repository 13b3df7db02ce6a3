"""The folder that keeps an index: its vectors, the graph of very many vectors, and beside each the facts that it depends on.

The facts are fingerprints of the texts and of the model, so a changed table or model is noticed. They are written last: a folder
that has them is complete.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mapsto import files
from mapsto.errors import CheckpointError, UsageError
from mapsto.inference.index.vector_graph import CANDIDATES, ApproximateIndex, VectorGraph, graph_settings
from mapsto.inference.index.vector_index import VectorIndex

Say = Callable[[str], None]

# The files in the folder: the vectors and the graph, each with a file of facts.
FACTS_FILE, VECTORS_FILE = "index.json", "vectors.safetensors"
GRAPH_FACTS_FILE, GRAPH_FILE = "graph.json", "graph.usearch"
FORMAT = 1
# Why an index is outdated, by the fact that differs.
REASONS = {
    "texts": "the texts have changed",
    "column": "another column is searched",
    "model": "the model is another",
    "usearch": "usearch has another version",
}


def open_index(folder: Path, facts: dict[str, Any], say: Say) -> VectorIndex | None:
    """Return the index in a folder; None if there is none, or if it is of other texts or of another model, which is said.

    Raises UsageError if the folder holds other files, CheckpointError if the index is damaged.
    """
    if not folder.exists():
        return None
    if not (folder / FACTS_FILE).exists():
        names = {path.name for path in folder.iterdir() if not files.is_temporary(path.name)}
        if names - {VECTORS_FILE, GRAPH_FACTS_FILE, GRAPH_FILE}:
            raise UsageError(f"{folder} holds other files and no index; name another folder")
        return None
    # No other command replaces one of the two files in between.
    with files.locked_folder(folder):
        recorded = files.read_sealed(folder / FACTS_FILE)
        if _is_outdated(f"the index in {folder} is made again", recorded, facts, say):
            return None
        index = VectorIndex.open(folder / VECTORS_FILE)
    if list(index.vectors.shape) != recorded.get("shape"):
        raise CheckpointError(f"{folder / VECTORS_FILE} is damaged: delete {folder} to make the index again")
    return index


def save_index(folder: Path, index: VectorIndex, facts: dict[str, Any]) -> None:
    """Write an index to a folder, and delete the graph of earlier vectors there."""
    with files.replacing_files(folder, last=FACTS_FILE) as staging:
        index.save(staging / VECTORS_FILE)
        files.write_atomic(staging / FACTS_FILE, files.seal({**facts, "shape": list(index.vectors.shape)}))
    with files.explaining_write_errors(folder), files.locked_folder(folder):
        for name in (GRAPH_FACTS_FILE, GRAPH_FILE):
            (folder / name).unlink(missing_ok=True)


def open_graph(folder: Path, facts: dict[str, Any], index: VectorIndex, say: Say) -> ApproximateIndex | None:
    """Return an index with its graph in its folder; None if there is no graph, or if it is of other vectors, which is said.

    Raises CheckpointError if the graph is damaged, ImportError if usearch (the extra [index]) is not installed.
    """
    if not (folder / GRAPH_FACTS_FILE).exists():
        return None
    with files.locked_folder(folder):
        recorded = files.read_sealed(folder / GRAPH_FACTS_FILE)
        expected = {**facts, **graph_settings(), "shape": list(index.vectors.shape)}
        if _is_outdated(f"the approximate index in {folder} is not used", recorded, expected, say):
            return None
        candidates, recall = recorded.get("candidates"), recorded.get("recall")
        try:
            if candidates not in CANDIDATES or not isinstance(recall, float):
                raise CheckpointError(f"{folder / GRAPH_FACTS_FILE} is damaged: it does not tell the recall of a graph")
            graph = VectorGraph.open(folder / GRAPH_FILE, str(recorded.get("graph")), index.rounded)
        except CheckpointError as error:
            raise CheckpointError(f"{error}; delete {folder / GRAPH_FACTS_FILE} to make it again") from error
    return ApproximateIndex(index, graph, candidates, recall)


def save_graph(folder: Path, approximate: ApproximateIndex, facts: dict[str, Any]) -> None:
    """Write the graph of an index beside it. Raises RunError if the disk is full."""
    with files.replacing_files(folder, last=GRAPH_FACTS_FILE) as staging:
        record = {
            **facts,
            **graph_settings(),
            "shape": list(approximate.index.vectors.shape),
            "candidates": approximate.candidates,
            "recall": approximate.recall,
            "graph": approximate.graph.save(staging / GRAPH_FILE),
        }
        files.write_atomic(staging / GRAPH_FACTS_FILE, files.seal(record))


def _is_outdated(consequence: str, recorded: dict[str, Any], facts: dict[str, Any], say: Say) -> bool:
    """Return whether recorded facts differ from the facts of now; if so, say the consequence and its reason."""
    differing = [fact for fact in facts if recorded.get(fact) != facts[fact]]
    if differing:
        reason = ", ".join(REASONS[fact] for fact in differing if fact in REASONS) or "it was made otherwise"
        say(f"note: {consequence}: {reason}")
    return bool(differing)
