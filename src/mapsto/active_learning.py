"""Which rows to label next: typical ones of every kind there is while labels are few, then those the model doubts.

While there are few labels a model's doubts say little, and rows chosen by them teach less than random ones; so the rows
are grouped, and the most typical row of each group that has no label yet is taken (TypiClust, Hacohen et al. 2022). Later
the rows with the smallest margin between the two likeliest answers are taken, spread over what they are about
(as in Zhdanov 2019). Legend of shapes: p rows of the pool, k rows with labels, d width.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mapsto import files
from mapsto.data import sampling
from mapsto.data.encoding import encode_rows
from mapsto.data.rows import Rows, bind_to, load_rows, require_any_readable
from mapsto.data.table import Table, write_rows
from mapsto.data.writers import require_writable
from mapsto.errors import DataError, UsageError
from mapsto.inference.forward import forward_batches, question_examples
from mapsto.inference.predictor import Predictor
from mapsto.metrics.intervals import Floats
from mapsto.model.linear_probe import SKLEARN_SEEDS
from mapsto.model.mapping import Mapping
from mapsto.sequence.piece import Ints
from mapsto.task.capabilities import Classes, LinearProbe, has_exclusive_classes
from mapsto.task.target import Target

Vectors = NDArray[np.float32]


TYPICAL, DOUBTED = "typical", "doubted"


# Labels from which doubts are worth more than typical rows (benchmarks/suggesting.py), and the same for each class.
ENOUGH_LABELS, ENOUGH_A_CLASS = 64, 4


MOST_POOL, MOST_GROUPS, NEIGHBOURS, DOUBTFUL = 50_000, 300, 20, 10


@dataclass(frozen=True)
class Suggestion:
    """A row worth a label: its number in the pool, why, and what the model would say now, where it says something."""

    row: int
    why: str
    answer: Any
    confidence: float | None


@dataclass(frozen=True)
class Suggestions:
    """Rows to label next, the most wanted first, from a table; `column` is where their answers go, `read` the first one that is
    read.

    looked_at: how many different rows without a label they were chosen from. unreadable: rows that cannot be read.
    """

    pool: Table
    column: str
    read: str
    found: list[Suggestion]
    looked_at: int
    unreadable: int

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows as they are, with an empty cell for the answer: a table to fill in and to fit."""
        for suggestion in self.found:
            cells = {name: self.pool.column(name)[suggestion.row] for name in self.pool.columns}
            yield {**cells, self.column: None}

    def tasks(self) -> list[dict[str, Any]]:
        """The rows as tasks of Label Studio, with the model's answer as a prediction."""
        found = []
        for suggestion, cells in zip(self.found, self.rows(), strict=True):
            del cells[self.column]
            task: dict[str, Any] = {"data": cells}
            if suggestion.answer is not None:
                names = suggestion.answer if isinstance(suggestion.answer, list) else [suggestion.answer]
                chosen = {"choices": names}
                result = {"from_name": self.column, "to_name": self.read, "type": "choices", "value": chosen}
                task["predictions"] = [{"score": suggestion.confidence, "result": [result]}]
            found.append(task)
        return found

    def write(self, path: Path) -> int:
        """A table to fill in, or with the ending .json tasks of Label Studio; how many rows. Raises UsageError, RunError."""
        require_new(path)
        if path.suffix == ".json":
            # Parquet holds dates, which JSON has as text.
            told = json.dumps(self.tasks(), ensure_ascii=False, indent=1, default=str)
            files.write_atomic(path, told.encode())
            return len(self.found)
        columns = list(dict.fromkeys([*self.pool.columns, self.column]))
        return write_rows(path, columns, list(self.rows()))


def require_new(path: Path) -> None:
    """Raises UsageError for a name or a folder that takes no rows, and for a file that is there: it may hold answers."""
    if path.suffix != ".json":
        require_writable(path)
    elif not path.parent.is_dir():
        raise UsageError(f"there is no folder {path.parent}")
    if path.exists():
        raise UsageError(f"{path} is there already, and may hold answers; name another file")


def suggest(
    mapping: Mapping,
    pool: Table,
    count: int,
    labelled: Table | None = None,
    known: int = 0,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
) -> Suggestions:
    """`count` rows of `pool` to label next; those whose cell for the answer is filled have a label. labelled: more rows with
    labels, which are not asked for again. known: how many rows the model was fitted to, where they are not given.

    Raises UsageError, and DataError where the pool holds no row without a label.
    """
    if count < 1:
        raise UsageError(f"--n must be above 0, not {count}")
    predictor = Predictor(mapping, device, precision)
    asked = [at for at, port in enumerate(mapping.arrow.targets) if port.restores is None]
    port = min(
        asked, key=lambda at: not has_exclusive_classes(mapping.targets[at]), default=None
    )  # of several, one of a few names
    target = None if port is None else mapping.targets[port]
    column = "label" if port is None else mapping.arrow.targets[port].column or mapping.arrow.targets[port].kind
    rows, faults = _different(predictor.mapping, pool, column, labelled, seed)
    given = None if labelled is None else _read(predictor.mapping, labelled)
    vectors, outputs = _seen(predictor, rows, port if isinstance(target, LinearProbe) else None)
    others = np.zeros((0, vectors.shape[1]), np.float32) if given is None else _seen(predictor, given, None)[0]
    said: list[dict[str, Any]] = [{}] * len(rows)
    sure = doubts = None
    if isinstance(target, Classes) and outputs is not None:
        sure = target.confidence(outputs)
        said = target.decode(outputs)
        if max(known, len(others)) >= max(ENOUGH_LABELS, ENOUGH_A_CLASS * len(target.classes)):
            doubts = _doubts(target, outputs, sure)
    why = TYPICAL if doubts is None else DOUBTED
    found = [
        Suggestion(int(rows.indices[at]), why, None, None)
        if target is None or sure is None
        else Suggestion(int(rows.indices[at]), why, said[at][target.kind], float(sure[at]))
        for at in choose(vectors, others, doubts, min(count, len(rows)), seed).tolist()
    ]
    read = bind_to(mapping.arrow, pool, answers=False).sources[0].column
    assert read is not None
    return Suggestions(pool, column, read, found, len(rows), len(pool.rejected) + faults)


def _doubts(target: Target, outputs: Tensor, sure: Floats) -> Floats:
    """How much a target doubts its answers, (p,): by the margin where one name is answered, else by how sure it is of all."""
    return doubt(torch.softmax(outputs.double(), dim=-1).numpy()) if has_exclusive_classes(target) else 1 - sure


def choose(vectors: Vectors, labelled: Vectors, doubts: Floats | None, count: int, seed: int) -> Ints:
    """`count` of the rows with these vectors (p, d): by their doubts (p,), or where those are None typical ones, beside rows with
    labels (k, d)."""
    return _typical(vectors, labelled, count, seed) if doubts is None else _doubted(vectors, doubts, count, seed)


def doubt(probabilities: Floats) -> Floats:
    """1 − the margin between the two likeliest answers, (p,)."""
    best = np.sort(probabilities, axis=1)
    found: Floats = 1 - (best[:, -1] - best[:, -2])
    return found


def _groups(vectors: Vectors, count: int, seed: int, weights: Floats | None = None) -> tuple[Ints, Vectors]:
    """The group of each row, and their middles."""
    from sklearn.cluster import MiniBatchKMeans  # a second to import

    fitted = MiniBatchKMeans(count, n_init=1, random_state=seed % SKLEARN_SEEDS, batch_size=1024).fit(
        vectors, sample_weight=weights
    )
    return fitted.labels_, fitted.cluster_centers_


def _typical(vectors: Vectors, labelled: Vectors, count: int, seed: int) -> Ints:
    """The most typical row of each group without a label, the largest groups first; of groups with labels where that is all."""
    unit, known = _unit(vectors), _unit(labelled)
    wanted = min(len(known) + count, MOST_GROUPS, len(unit))
    groups, middles = _groups(unit, wanted, seed)
    sizes = np.bincount(groups, minlength=wanted)
    taken = np.bincount((known @ middles.T - (middles**2).sum(1) / 2).argmax(1), minlength=wanted)
    left = {group: list(np.flatnonzero(groups == group)) for group in range(wanted) if sizes[group]}
    found: list[int] = []
    while len(found) < count:
        group = min(left, key=lambda group: (taken[group], -sizes[group]))
        found.append(int(left[group].pop(_middle_of(unit[left[group]]))))
        taken[group] += 1
        if not left[group]:
            del left[group]
    return np.array(found, np.int64)


def _middle_of(unit: Vectors) -> int:
    """The row that its nearest neighbours are most like."""
    rows = unit[: MOST_GROUPS * NEIGHBOURS]
    like = rows @ rows.T
    near = min(NEIGHBOURS + 1, len(rows))
    return int(np.partition(like, len(rows) - near, axis=1)[:, -near:].mean(axis=1).argmax())


def _doubted(vectors: Vectors, doubts: Floats, count: int, seed: int) -> Ints:
    """Of ten times as many of the most doubted rows, those in the middle of as many groups as rows are wanted."""
    doubted = np.argsort(-doubts, kind="stable")[: DOUBTFUL * count]
    unit = _unit(vectors[doubted])
    groups, middles = _groups(unit, count, seed, doubts[doubted] + np.finfo(np.float64).eps)
    found = []
    for group in range(count):
        inside = np.flatnonzero(groups == group)
        if len(inside):
            found.append(int(inside[((unit[inside] - middles[group]) ** 2).sum(1).argmin()]))
    chosen = set(found)
    found += [at for at in range(len(doubted)) if at not in chosen][: count - len(found)]  # groups may be empty
    return doubted[np.array(found, np.int64)]


def _unit(vectors: Vectors) -> Vectors:
    found: Vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    return found


def _read(mapping: Mapping, table: Table) -> Rows:
    return load_rows(mapping.arrow, table, answers=False)


def _different(mapping: Mapping, pool: Table, column: str, labelled: Table | None, seed: int) -> tuple[Rows, int]:
    """The rows of the pool that can be read, have no label and are not among those with labels, each once; at most MOST_POOL.

    Also how many cannot be read. Raises DataError where no row is left.
    """
    rows = _read(mapping, pool)
    require_any_readable(rows)
    faults = len(pool) - len(rows)
    if column in pool.columns:
        answers = pool.column(column)
        rows = rows.select(
            np.array([at for at, row in enumerate(rows.indices.tolist()) if answers[row] is None], np.int64)
        )
    seen = set() if labelled is None else set(_keys(mapping, _read(mapping, labelled)))
    kept = []
    for at, key in enumerate(_keys(mapping, rows)):
        if key not in seen:
            seen.add(key)
            kept.append(at)
    if not kept:
        raise DataError("every row of the pool that can be read has a label already")
    chosen = np.array(kept, np.int64)
    if len(chosen) > MOST_POOL:
        chosen = np.sort(chosen[sampling.permutation(seed, 0, len(chosen))[:MOST_POOL]])
    return rows.select(chosen), faults


def _keys(mapping: Mapping, rows: Rows) -> list[tuple[str, ...]]:
    keys = [mapping.sources[port.kind].key for port in mapping.arrow.sources]
    return [
        tuple(key(value) for key, value in zip(keys, values, strict=True)) for values in zip(*rows.sources, strict=True)
    ]


def _seen(predictor: Predictor, rows: Rows, port: int | None) -> tuple[Vectors, Tensor | None]:
    """Of every row one vector, (n, d), and what target `port` says of it, (n, …), in one pass; a row that is too long is cut."""
    mapping = predictor.mapping
    encoded = encode_rows(rows, mapping.sources, mapping.config.max_tokens, "cut")
    vectors = outputs = None
    for batch, hidden in forward_batches(mapping, question_examples(mapping, encoded), predictor.device):
        of = torch.from_numpy(batch.rows)
        part = mapping.sentence_vectors(hidden, batch).float().cpu()
        vectors = part.new_zeros(len(rows), part.shape[1]) if vectors is None else vectors
        vectors[of] = part
        if port is not None:
            said = mapping.read(hidden, batch, port).float().cpu()
            outputs = said.new_zeros(len(rows), *said.shape[1:]) if outputs is None else outputs
            outputs[of] = said
    assert vectors is not None
    return vectors.numpy(), outputs
