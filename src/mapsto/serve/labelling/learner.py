"""The learner of a session: a thread that embeds the pool once, and fits a probe to the answers after every few of them.

The vectors are those of the starting model, frozen; without one they are classical features, such as TF-IDF. After each fit the
remaining rows are put in the order of `mapsto suggest`: typical ones while labels are few, then uncertain ones spread over
clusters.
"""

from __future__ import annotations

import importlib
import logging
import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from mapsto import kinds
from mapsto.active_learning import suggestions as active_learning
from mapsto.api import Model
from mapsto.errors import DataError, MapstoError, UsageError
from mapsto.inference.embedder import embed
from mapsto.serve.labelling.curve import Probe, fit_probe, forecast, measure
from mapsto.serve.labelling.pool import LabelPool
from mapsto.serve.labelling.session import Session
from mapsto.task.source_capabilities import Describable
from mapsto.task.target_capabilities import Classes, Confident, LinearProbe

# Rows that are put in order at once; further ones follow in the order that they had.
ROWS_AHEAD = 100
# With many labels a fit takes longer and changes less: it waits for this share of new ones.
NEW_SHARE = 0.1
# Rows that are embedded between two looks at whether the session ends.
ROWS_PER_CHUNK = 64
# Numbers in a vector that stands for sparse features where rows are clustered.
NUM_PROJECTED = 128

logger = logging.getLogger("mapsto.serve")


@dataclass
class Progress:
    """The state of the learner for the page. note: in words; "" if there is nothing to say. seconds: of the last fit."""

    note: str = "the model is being prepared"
    num_fitted: int = 0
    seconds: float = 0.0


class Learner:
    """The learner of a session. start: a model with vectors of the pool's values; None for classical features.

    labels_per_fit: the number of new answers after which the probe is fitted again. seed: for clustering and folds.
    start must be able to read the rows, see `require_reader`.
    """

    def __init__(self, session: Session, start: Model | None, labels_per_fit: int, seed: int = 0) -> None:
        self.session, self.start_model, self.labels_per_fit, self.seed = session, start, labels_per_fit, seed
        self.pool: LabelPool = session.pool
        self.progress = Progress()
        self.probe: Probe | None = None
        self._outputs: Tensor | None = None
        self._last_forecast: tuple[int, dict[str, Any] | None] = (0, None)
        self._features: Any = None
        self._vectors: Any = None
        self._wake, self._is_ended = threading.Event(), False
        # One thread at a time runs the starting model.
        self._model_lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="learner", daemon=True)
        kind = self.pool.question.kind
        self.has_probe = issubclass(kind, LinearProbe)
        if start is not None:
            self._answers_question = [target.kind for target in start.mapping.targets] == [kind.kind] and (
                [port.kind for port in start.mapping.arrow.sources]
                == [port.kind for port in self.pool.rows.arrow.sources]
            )
            for target in start.mapping.targets:
                if target.kind == kind.kind and isinstance(target, Classes):
                    self.pool.question.add_names(target.known_names)
        else:
            self._answers_question = False

    def begin(self) -> None:
        """Start the thread."""
        self._thread.start()

    def end(self) -> None:
        """End the thread, which finishes its present step."""
        self._is_ended = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(10)

    def wake(self) -> None:
        """Say that there are new answers."""
        self._wake.set()

    def guess(self, index: int) -> dict[str, Any] | None:
        """Return the model's answer to a row: {"answer", "confidence"}; None if there is no model yet."""
        outputs, probe = self._outputs, self.probe
        kind = self.pool.question.kind.kind
        if probe is not None and outputs is not None:
            output = outputs[index : index + 1]
            (answer,) = probe.target.decode(output)
            assert isinstance(probe.target, Confident)
            return {"answer": answer[kind], "confidence": float(probe.target.confidence(output)[0])}
        if self.start_model is None or not self._answers_question:
            return None
        with self._model_lock:
            answer = self.start_model(*self.pool.sources(index))
        return {"answer": answer[kind], "confidence": answer.get("probability")}

    @property
    def can_guess(self) -> bool:
        """Return whether there is a model that answers rows."""
        return self._outputs is not None or self._answers_question

    def describe(self) -> dict[str, Any]:
        """Return what the page shows of the learner: the curve, the forecast, and a note."""
        points = self.session.file.points
        return {
            "points": points[-200:],
            "forecast": self._forecast(len(points)),
            "note": self.progress.note,
            "fits": self.has_probe,
            "can_guess": self.can_guess,
            "num_fitted": self.progress.num_fitted,
            "seconds": round(self.progress.seconds, 2),
        }

    def _forecast(self, num_points: int) -> dict[str, Any] | None:
        """Return the forecast from the first points of the curve; it is computed once for each new point."""
        if self._last_forecast[0] != num_points:
            self._last_forecast = (num_points, forecast(self.session.file.points[:num_points]))
        return self._last_forecast[1]

    def _run(self) -> None:
        """Embed the pool, then fit whenever there are enough new answers, until the session ends."""
        try:
            if not self.has_probe and self.start_model is None:
                self.progress.note = ""
                return
            self._prepare()
            while not self._is_ended:
                self.step()
                self._wake.wait()
                self._wake.clear()
        except MapstoError as error:
            self.progress.note = f"no model is fitted: {error}"
        except Exception:
            self.progress.note = "no model is fitted, as its thread failed; labels are kept all the same"
            logger.exception("the learner failed")

    def _prepare(self) -> None:
        """Set the features of the pool's rows, and with a starting model the first order."""
        importlib.import_module("sklearn.linear_model")  # takes a second or more, which the first fit would wait for
        if self.start_model is None:
            self.progress.note = "features of the rows are being computed"
            self._features = _classical_features(self.pool)
            self._vectors = _project(self._features, self.seed)
        else:
            self._features = self._vectors = self._embed(self.start_model)
        if not self._is_ended:
            self.progress.note = ""
            if not self.session.answers():
                self._put_in_order(None)

    def _embed(self, start: Model) -> Any:
        """Return the vectors (n, d) of the rows; those of several sources stand side by side."""
        mapping, device = start.predictor.mapping, start.predictor.device
        parts = []
        for column in self.pool.rows.sources:
            chunks = []
            for first in range(0, len(column), ROWS_PER_CHUNK):
                if self._is_ended:
                    return None
                with self._model_lock:
                    chunks.append(embed(mapping, column[first : first + ROWS_PER_CHUNK], device))
                self.progress.note = (
                    f"the model has read {first:,} of {len(column):,} rows; until then they come in random order"
                )
            parts.append(np.concatenate(chunks))
        return np.concatenate(parts, axis=1)

    def step(self) -> None:
        """Fit the probe if there are enough new answers; order the remaining rows, and measure a point of the curve."""
        if self._is_ended:
            return
        answers = self.session.answers()
        num_new = abs(len(answers) - self.progress.num_fitted)
        if not self.has_probe or num_new < max(self.labels_per_fit, NEW_SHARE * self.progress.num_fitted):
            return
        start_time = time.perf_counter()
        rows, values = np.array([row for row, _ in answers]), [value for _, value in answers]
        try:
            self.probe = fit_probe(self.pool.question.kind, self._features[rows], values, self.seed)
        except DataError as error:
            self.progress.num_fitted = len(answers)
            self.progress.note = f"no model yet: {error}"
            return
        self._outputs = self.probe.outputs(self._features)
        self.progress.note, self.progress.num_fitted = "", len(answers)
        self.progress.seconds = time.perf_counter() - start_time
        self._put_in_order(self._uncertainty(len(answers)))
        random_rows = self.session.random_rows()
        is_random = [row in random_rows for row in rows.tolist()]
        point = measure(self.pool.question.kind, self._features[rows], values, is_random, self.seed)
        if point is not None and not self._is_ended:
            self.session.file.add_point(point)

    def _uncertainty(self, num_labels: int) -> Any:
        """Return the uncertainty (n,) of the probe's answers; None while labels are too few for it to say anything."""
        assert self.probe is not None and self._outputs is not None
        target = self.probe.target
        if not isinstance(target, Classes):
            return None
        if num_labels < max(active_learning.ENOUGH_LABELS, active_learning.ENOUGH_PER_CLASS * len(target.classes)):
            return None
        return active_learning.answer_uncertainty(target, self._outputs, target.confidence(self._outputs))

    def _put_in_order(self, uncertainty: Any) -> None:
        """Put the most useful open rows first: uncertain ones, or typical ones where there is a starting model."""
        rows = np.array(self.session.open_rows(), np.int64)
        if (uncertainty is None and self.start_model is None) or len(rows) < 2:
            return
        labelled = self._vectors[np.array([row for row, _ in self.session.answers()], np.int64)]
        selection = active_learning.choose_rows(
            self._vectors[rows],
            labelled,
            None if uncertainty is None else uncertainty[rows],
            min(ROWS_AHEAD, len(rows)),
            self.seed + self.progress.num_fitted,
        )
        self.session.set_order(rows[selection].tolist())


def require_reader(start: Model, pool: LabelPool) -> None:
    """Raise UsageError unless the starting model can embed every source of the rows."""
    mapping = start.mapping
    if mapping.config.is_linear:
        raise UsageError("--start is a linear model, which has no vectors; leave it out, and TF-IDF is used")
    needed = {port.kind for port in pool.rows.arrow.sources}
    if (len(mapping.arrow.sources) != 1 and not mapping.arrow.symmetric) or needed != {mapping.arrow.sources[0].kind}:
        reads = ", ".join(port.kind for port in mapping.arrow.sources)
        raise UsageError(f"--start reads {reads}, and the rows are {', '.join(sorted(needed))}: it cannot embed them")


def _classical_features(pool: LabelPool) -> Any:
    """Return classical features (n, f) of the rows, sparse or dense. Raises UsageError for a kind that has none."""
    columns = []
    for port, values in zip(pool.rows.arrow.sources, pool.rows.sources, strict=True):
        kind = kinds.source(port.kind)
        if not issubclass(kind, Describable):
            raise UsageError(f"{port.kind} has no classical features: give a starting model (--start)")
        columns.append(kind.fit_features(values)(values))
    if len(columns) == 1:
        return columns[0].tocsr() if hasattr(columns[0], "tocsr") else columns[0]
    from scipy.sparse import csr_matrix, hstack, issparse

    if any(map(issparse, columns)):
        return hstack([csr_matrix(column) for column in columns]).tocsr()
    return np.concatenate(columns, axis=1)


def _project(features: Any, seed: int) -> Any:
    """Return sparse features as dense vectors (n, d) by a random projection, which keeps distances; dense ones as they are."""
    if isinstance(features, np.ndarray):
        return features.astype(np.float32)
    from sklearn.random_projection import SparseRandomProjection

    projection = SparseRandomProjection(
        NUM_PROJECTED, dense_output=True, random_state=seed % active_learning.SKLEARN_SEEDS
    )
    return np.asarray(projection.fit_transform(features), np.float32)
