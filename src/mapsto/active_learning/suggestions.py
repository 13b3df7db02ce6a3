"""Active learning: choose the rows to label next.

While few rows are labelled, a model's uncertainty is unreliable, and choosing the most uncertain rows does worse than
choosing at random. Then the rows are clustered (mini-batch k-means on their vectors), and the most typical row of each
cluster without a label is chosen (TypiClust, Hacohen et al. 2022). With more labels the rows with the smallest
margin between the two most probable answers are chosen, spread over clusters (diverse mini-batch active learning,
Zhdanov 2019). A generated text is uncertain where the mean probability of its tokens is low, and an answer in a passage where its
own probability is. The cost is one forward pass over the pool of unlabelled rows, and for generated texts their generation.
Legend of shapes: p rows of the pool, k labelled rows, d width.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mapsto import files
from mapsto.active_learning.place_map import PlaceMap, map_rows
from mapsto.data import sampling
from mapsto.data.encoding import encode_to_answer
from mapsto.data.rows import Rows, load_rows, require_any_readable
from mapsto.data.table import Table, write_rows
from mapsto.data.writers import TextStyle, require_writable
from mapsto.errors import DataError, UsageError, free_name
from mapsto.inference.forward import RowReader, port_reader, question_examples, read_rows
from mapsto.inference.generation import generate_rows
from mapsto.inference.predictor import Predictor
from mapsto.metrics.intervals import Floats
from mapsto.model.mapping import Mapping
from mapsto.report.results import SHOWN_ROWS, ResultTable, Tabular
from mapsto.sequence.batch import Batch
from mapsto.sequence.piece import Ints, Piece
from mapsto.task.generation import Generated
from mapsto.task.target import Target
from mapsto.task.target_capabilities import (
    Classes,
    Composed,
    Confident,
    Extracted,
    Free,
    LinearProbe,
    has_exclusive_classes,
    located_port,
)

Vectors = NDArray[np.float32]

# The reasons for suggesting a row.
TYPICAL, UNCERTAIN = "typical", "uncertain"

# The least numbers of labels, in total and per class, at which uncertainty beats typicality (benchmarks/suggesting.py).
ENOUGH_LABELS, ENOUGH_PER_CLASS = 64, 4

# Limits of the cost: rows of the pool, clusters, and nearest neighbours that a row's typicality is measured with.
MAX_POOL, MAX_CLUSTERS, NUM_NEIGHBOURS = 50_000, 300, 20
# scikit-learn accepts only seeds below this.
SKLEARN_SEEDS = 2**32
# The number of most uncertain rows that are clustered for each row to suggest.
CANDIDATES_PER_ROW = 10


@dataclass(frozen=True)
class Suggestion:
    """One row of a pool that is suggested for labelling, with the reason and the model's present answer and confidence."""

    # The row's index in the pool.
    row: int
    # TYPICAL or UNCERTAIN.
    reason: str
    # The model's current answer and its confidence from 0 to 1 (of a generated text the mean probability of a token); None for
    # a model whose answers are neither classes nor texts.
    answer: Any
    confidence: float | None


@dataclass(frozen=True, repr=False)
class Suggestions(Tabular):
    """The rows of a pool that are suggested for labelling, with methods to write them to a file."""

    pool: Table
    # The column to write the labels in, and the first column that the model reads.
    column: str
    source_column: str
    suggestions: list[Suggestion]
    # The number of distinct unlabelled rows that the suggestions were chosen from, and the number of unreadable rows.
    num_candidates: int
    num_unreadable: int
    # The type that Label Studio gives the model's answers: choices, labels (spans of the source column) or textarea.
    annotation: str = "choices"
    # The mean confidence of the model's answers to all these rows; NaN for a model without such answers.
    mean_confidence: float = math.nan
    # Where the suggested rows lie among all rows; None for too few rows.
    map: PlaceMap | None = None

    @property
    def columns(self) -> list[str]:
        """Return the columns of the table to fill in; behind the one of the labels stands that of the model's texts, if any."""
        drafts = [self.draft_column] if self.annotation == "textarea" else []
        return list(dict.fromkeys([*self.pool.columns, self.column, *drafts]))

    @property
    def draft_column(self) -> str:
        """Return the column of the texts that the model generates, for a person to correct."""
        return free_name(f"{self.column}_draft", self.pool.columns)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield each suggested row as {column: cell}, with None in the column of the labels, and a generated text as a draft."""
        for suggestion in self.suggestions:
            cells = {name: self.pool.column(name)[suggestion.row] for name in self.pool.columns}
            cells[self.column] = None
            if self.annotation == "textarea":
                cells[self.draft_column] = suggestion.answer
            yield cells

    def table(self) -> ResultTable:
        """Return the first suggestions: the cells of the row, why it is suggested, and the model's present answer."""
        records = self.records()
        columns = list(records[0]) if records else []
        rows = [list(record.values()) for record in records[:SHOWN_ROWS]]
        title = f"{len(records):,} of {self.num_candidates:,} rows without a label"
        return ResultTable(columns, rows, title, total=len(records))

    def records(self) -> list[dict[str, Any]]:
        """Return a row for each suggestion: its cells, why it is suggested, the model's present answer and its confidence."""
        return [
            {name: self.pool.column(name)[suggestion.row] for name in self.pool.columns}
            | {"reason": suggestion.reason, "answer": suggestion.answer, "confidence": suggestion.confidence}
            for suggestion in self.suggestions
        ]

    def tasks(self) -> list[dict[str, Any]]:
        """Return the suggested rows as JSON tasks of Label Studio; the model's answers, if classes or texts, are predictions."""
        tasks = []
        for suggestion, cells in zip(self.suggestions, self.rows(), strict=True):
            del cells[self.column]
            cells.pop(self.draft_column, None)
            task: dict[str, Any] = {"data": cells}
            if suggestion.answer is not None:
                place = {"from_name": self.column, "to_name": self.source_column}
                results = [{**place, **value} for value in annotations_of(suggestion.answer, self.annotation)]
                task["predictions"] = [{"score": suggestion.confidence, "result": results}]
            tasks.append(task)
        return tasks

    def write(self, path: Path, csv_safe: bool = False) -> int:
        """Write the suggested rows as a table to label, or to a .json file as Label Studio tasks; return their number.

        csv_safe: whether csv is written so that a spreadsheet computes nothing.
        Raises UsageError for a file that exists already or cannot be of this format, RunError if it cannot be written.
        """
        require_new(path)
        if path.suffix == ".json":
            # default=str: a parquet pool may hold dates, which JSON writes as text.
            content = json.dumps(self.tasks(), ensure_ascii=False, indent=1, default=str)
            files.write_atomic(path, content.encode())
            return len(self.suggestions)
        return write_rows(path, self.columns, list(self.rows()), TextStyle(csv_safe=csv_safe))


@dataclass(frozen=True)
class Pool:
    """The table of rows to choose from, and the labelled rows that the model was fitted to (`labelled`).

    Callers that do not have these labelled rows give their number instead (`num_labels`). Rows of the table that are labelled,
    or equal a labelled row, are not suggested.
    """

    # The rows to choose from; rows with a filled label cell are not suggested.
    table: Table
    # Further labelled rows; a row of the pool that equals one of them is not suggested.
    labelled: Table | None = None
    # The number of labelled rows that the model was fitted to, for a caller that does not have them.
    num_labels: int = 0


def require_new(path: Path) -> None:
    """Raise UsageError if suggestions cannot be written to `path`, or if the file exists, since it may contain labels."""
    if path.suffix != ".json":
        require_writable(path)
    elif not path.parent.is_dir():
        raise UsageError(f"there is no folder {path.parent}")
    if path.exists():
        raise UsageError(f"{path} exists already and may hold answers; name another file")


def annotations_of(answer: Any, annotation: str) -> list[dict[str, Any]]:
    """Return the type and value of each annotation that an answer is in Label Studio: one of each span, else one of all.

    annotation: their type, see `Suggestions`.
    """
    answers = answer if isinstance(answer, list) else [answer]
    if annotation == "labels":
        spans = [{"start": span["start"], "end": span["end"], "labels": [span["label"]]} for span in answers]
        return [{"type": "labels", "value": span} for span in spans]
    return [{"type": annotation, "value": {"text" if annotation == "textarea" else annotation: answers}}]


def suggest(predictor: Predictor, pool: Pool, count: int, seed: int = 0) -> Suggestions:
    """Choose up to `count` rows of a pool to label next.

    These are uncertain rows if the model's answers are classes or texts, and at least ENOUGH_LABELS rows, and
    ENOUGH_PER_CLASS per class, have labels; else typical rows.
    seed: for clustering and for sampling a pool of more than MAX_POOL rows.
    Raises UsageError for a count below 1, DataError if no unlabelled row can be read.
    """
    if count < 1:
        raise UsageError(f"--n must be above 0, not {count}")
    mapping = predictor.mapping
    ports = [index for index, port in enumerate(mapping.arrow.targets) if port.restores is None]
    # Among several targets, one whose answer is exactly one class comes first: its margins are the most informative.
    port = min(ports, key=lambda index: not has_exclusive_classes(mapping.targets[index]), default=None)
    target = None if port is None else mapping.targets[port]
    column = "label" if port is None else mapping.arrow.targets[port].column or mapping.arrow.targets[port].kind
    rows, num_unreadable = _candidates(mapping, pool, column, seed)
    labelled = None if pool.labelled is None else load_rows(mapping.arrow, pool.labelled, answers=False)
    is_read = isinstance(target, LinearProbe | Composed | Free)
    vectors, outputs = _vectors_and_outputs(predictor, rows, port if is_read else None)
    labelled_vectors = np.zeros((0, vectors.shape[1]), np.float32)
    if labelled is not None:
        labelled_vectors, _ = _vectors_and_outputs(predictor, labelled, None)
    # The user gives the labelled rows or only their number.
    answers, uncertainty = _present_answers(target, outputs, rows, max(pool.num_labels, len(labelled_vectors)))
    reason = TYPICAL if uncertainty is None else UNCERTAIN
    selected = choose_rows(vectors, labelled_vectors, uncertainty, min(count, len(rows)), seed)
    suggestions = [
        Suggestion(int(rows.indices[row]), reason, *(answers[row] if answers else (None, None)))
        for row in selected.tolist()
    ]
    source_kinds = [port.kind for port in rows.arrow.sources]
    source_column = rows.arrow.sources[located_port(target, source_kinds) if isinstance(target, Composed) else 0].column
    assert source_column is not None
    num_unreadable += len(pool.table.rejected)
    is_text = isinstance(target, Free) or _is_excerpt(target)
    annotation = "textarea" if is_text else "labels" if isinstance(target, Extracted) else "choices"
    mean_confidence = float(np.mean([confidence for _, confidence in answers])) if answers else math.nan
    return Suggestions(
        pool.table,
        column,
        source_column,
        suggestions,
        len(rows),
        num_unreadable,
        annotation,
        mean_confidence,
        map_rows(vectors, selected, seed),
    )


def _present_answers(
    target: Target | None, outputs: Tensor | None, rows: Rows, num_labels: int
) -> tuple[list[tuple[Any, float]], Floats | None]:
    """Return the model's (answer, confidence) for each row of the pool, and the uncertainty (p,) of the answers.

    There are no answers if they are neither classes nor texts. The uncertainty is None if there are none, or too few labels.
    outputs: (p, …), those of the target. rows: of the pool. num_labels: number of labelled rows that the model was fitted to.
    """
    if outputs is None or not isinstance(target, Classes | Free | Extracted) or not isinstance(target, Confident):
        return [], None
    confidence = target.confidence(outputs)
    decoded = target.decode(outputs)
    if _is_excerpt(target):
        passages = rows.sources[located_port(target, [port.kind for port in rows.arrow.sources])]
        for answer, passage in zip(decoded, passages, strict=True):
            target.add_excerpts(answer, passage)
    values = [answer[target.kind] for answer in decoded]
    num_enough = max(ENOUGH_LABELS, ENOUGH_PER_CLASS * len(target.classes) if isinstance(target, Classes) else 0)
    uncertainty = answer_uncertainty(target, outputs, confidence) if num_labels >= num_enough else None
    return list(zip(values, confidence.tolist(), strict=True)), uncertainty


def _is_excerpt(target: Target | None) -> TypeGuard[Extracted]:
    """Return whether an answer is a part of a source value without a class, which is shown as its text."""
    return isinstance(target, Extracted) and not isinstance(target, Classes)


def answer_uncertainty(target: Target, outputs: Tensor, confidence: Floats) -> Floats:
    """Return the uncertainty of a target's answers, (p,).

    It is `margin_uncertainty` if each answer is exactly one class, else 1 − confidence.
    outputs: (p, …), of the target's head. confidence: (p,), of the target's answers.
    """
    if not has_exclusive_classes(target):
        return 1 - confidence
    return margin_uncertainty(torch.softmax(outputs.double(), dim=-1).numpy())


def margin_uncertainty(probabilities: Floats) -> Floats:
    """Return 1 − (highest − second highest probability) of each row, (p,), from probabilities (p, classes)."""
    ranked = np.sort(probabilities, axis=1)
    uncertainty: Floats = 1 - (ranked[:, -1] - ranked[:, -2])
    return uncertainty


def choose_rows(vectors: Vectors, labelled: Vectors, uncertainty: Floats | None, count: int, seed: int) -> Ints:
    """Return the indices of `count` rows of the pool: uncertain ones spread over clusters, or typical ones.

    vectors: (p, d), of the rows of the pool. labelled: (k, d), vectors of the labelled rows, used only for typical rows.
    uncertainty: (p,), of the model's answers; None to choose typical rows.
    """
    if uncertainty is None:
        return _choose_typical(vectors, labelled, count, seed)
    return _choose_uncertain(vectors, uncertainty, count, seed)


def _cluster(vectors: Vectors, count: int, seed: int, weights: Floats | None = None) -> tuple[Ints, Vectors]:
    """Cluster vectors by mini-batch k-means; return the cluster index of each row (p,), and the centres (count, d).

    count: number of clusters. weights: (p,), the weight of each row; None weighs all rows equally.
    """
    from sklearn.cluster import MiniBatchKMeans  # takes a second to import

    k_means = MiniBatchKMeans(count, n_init=1, random_state=seed % SKLEARN_SEEDS, batch_size=1024)
    k_means.fit(vectors, sample_weight=weights)
    return k_means.labels_, k_means.cluster_centers_


def _choose_typical(vectors: Vectors, labelled: Vectors, count: int, seed: int) -> Ints:
    """Return the indices of `count` rows of the pool that are typical of their clusters (TypiClust).

    Rows are chosen one by one: the most typical row, not yet chosen, of the cluster with the fewest labelled and chosen rows. Of
    several such clusters the largest is taken.
    vectors: (p, d), of the rows of the pool. labelled: (k, d), of the labelled rows.
    """
    # Unit vectors, so that Euclidean k-means clusters by cosine similarity.
    unit, labelled_unit = _normalize(vectors), _normalize(labelled)
    num_clusters = min(len(labelled_unit) + count, MAX_CLUSTERS, len(unit))
    clusters, centres = _cluster(unit, num_clusters, seed)
    sizes = np.bincount(clusters, minlength=num_clusters)
    # The centre nearest to x maximises x·c − |c|²/2, because |x − c|² = |x|² − 2 (x·c − |c|²/2).
    labelled_clusters = (labelled_unit @ centres.T - (centres**2).sum(1) / 2).argmax(1)
    num_taken = np.bincount(labelled_clusters, minlength=num_clusters)
    members = {cluster: list(np.flatnonzero(clusters == cluster)) for cluster in range(num_clusters) if sizes[cluster]}
    rows: list[int] = []
    while len(rows) < count:
        cluster = min(members, key=lambda cluster: (num_taken[cluster], -sizes[cluster]))
        rows.append(int(members[cluster].pop(_most_typical(unit[members[cluster]]))))
        num_taken[cluster] += 1
        if not members[cluster]:
            del members[cluster]
    return np.array(rows, np.int64)


def _most_typical(unit: Vectors) -> int:
    """Return the index of the row with the highest mean cosine similarity to its nearest neighbours.

    unit: unit vectors (m, d) of the rows of one cluster. Only its first MAX_CLUSTERS · NUM_NEIGHBOURS rows are
        compared, to bound the cost.
    """
    rows = unit[: MAX_CLUSTERS * NUM_NEIGHBOURS]
    similarity = rows @ rows.T
    # One more than NUM_NEIGHBOURS, as each row is its own nearest neighbour.
    num_nearest = min(NUM_NEIGHBOURS + 1, len(rows))
    return int(np.partition(similarity, len(rows) - num_nearest, axis=1)[:, -num_nearest:].mean(axis=1).argmax())


def _choose_uncertain(vectors: Vectors, uncertainty: Floats, count: int, seed: int) -> Ints:
    """Return the indices of `count` uncertain rows of the pool that are spread over clusters.

    The CANDIDATES_PER_ROW · count most uncertain rows are clustered into `count` clusters, weighted by uncertainty, and the row
    nearest to each centre is chosen.
    vectors: (p, d), of the rows of the pool. uncertainty: (p,), of the model's answers.
    """
    candidates = np.argsort(-uncertainty, kind="stable")[: CANDIDATES_PER_ROW * count]
    unit = _normalize(vectors[candidates])
    # The small constant is added because k-means refuses weights that are all 0.
    clusters, centres = _cluster(unit, count, seed, uncertainty[candidates] + np.finfo(np.float64).eps)
    rows = []
    for cluster in range(count):
        members = np.flatnonzero(clusters == cluster)
        if len(members):
            rows.append(int(members[((unit[members] - centres[cluster]) ** 2).sum(1).argmin()]))
    # Clusters may be empty; the most uncertain of the other rows make up the number.
    rest = [row for row in range(len(candidates)) if row not in set(rows)]
    return candidates[np.array(rows + rest[: count - len(rows)], np.int64)]


def _normalize(vectors: Vectors) -> Vectors:
    """Return the vectors (n, d) scaled to unit norm."""
    unit: Vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    return unit


def _candidates(mapping: Mapping, pool: Pool, column: str, seed: int) -> tuple[Rows, int]:
    """Return (candidate rows, number of unreadable rows) of a pool.

    Candidates are distinct, readable and unlabelled; if more than MAX_POOL are, a random sample of them.
    column: the column of the labels. Raises DataError if there is no candidate.
    """
    rows = load_rows(mapping.arrow, pool.table, answers=False)
    require_any_readable(rows)
    num_unreadable = len(pool.table) - len(rows)
    if column in pool.table.columns:
        labels = pool.table.column(column)
        unlabelled = [index for index, row in enumerate(rows.indices.tolist()) if labels[row] is None]
        rows = rows.select(np.array(unlabelled, np.int64))
    # A duplicate is suggested once, and never if an equal row has a label: another label of it would teach little.
    seen_keys = set()
    if pool.labelled is not None:
        seen_keys = set(_keys(mapping, load_rows(mapping.arrow, pool.labelled, answers=False)))
    indices = []
    for index, key in enumerate(_keys(mapping, rows)):
        if key not in seen_keys:
            seen_keys.add(key)
            indices.append(index)
    if not indices:
        raise DataError("every row of the pool that can be read has a label already")
    selected = np.array(indices, np.int64)
    if len(selected) > MAX_POOL:
        selected = np.sort(selected[sampling.permute_rows(seed, 0, len(selected))[:MAX_POOL]])
    return rows.select(selected), num_unreadable


def _keys(mapping: Mapping, rows: Rows) -> list[tuple[str, ...]]:
    """Return for each row a tuple with the key of each source value; rows with equal values have equal tuples."""
    keys = [mapping.sources[port.kind].key for port in mapping.arrow.sources]
    return [
        tuple(key(value) for key, value in zip(keys, values, strict=True)) for values in zip(*rows.sources, strict=True)
    ]


def _vectors_and_outputs(predictor: Predictor, rows: Rows, port: int | None) -> tuple[Vectors, Tensor | None]:
    """Return (vectors (n, d), outputs (n, …) of the target at `port`) of n rows from one forward pass.

    The outputs are None if `port` is None; generated answers are packed as `Generated.pack` does. Rows with more tokens than the
    model reads are cut, or read in windows if a target composes its answer of those of windows.
    """
    mapping = predictor.mapping
    encoded = encode_to_answer(rows, mapping.sources, mapping.targets, mapping.config.max_tokens)

    def read_vectors(hidden: Tensor, batch: Batch, pieces: Sequence[Sequence[Piece]]) -> Tensor:
        """Return the vector of each example of a batch, (n, d)."""
        return mapping.sentence_vectors(hidden, batch).float().cpu()

    is_generated = port is not None and isinstance(mapping.targets[port], Generated)
    readers = [RowReader(read_vectors), *([] if port is None or is_generated else [port_reader(mapping, port)])]
    results = read_rows(mapping, question_examples(mapping, encoded), len(rows), readers, predictor.device)
    if port is not None and is_generated:
        results.append(generate_rows(mapping, question_examples(mapping, encoded), len(rows), port, predictor.device))
    return results[0].numpy(), None if port is None else results[1]
