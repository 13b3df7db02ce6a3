"""A mapping whose network is an exported graph: it reads and answers like any other, but has no weights in torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mapsto.errors import UsageError
from mapsto.model.mapping import Mapping
from mapsto.pretrained.exported.interface import (
    FAMILIARITY,
    HIDDEN,
    VECTOR,
    batch_inputs,
    head_names,
    to_arrays,
    to_tensors,
)
from mapsto.pretrained.exported.session import Session
from mapsto.sequence.batch import Batch


class States(Tensor):
    """Hidden states (r, l, d) that carry the other outputs of the graph, which computed all of them in one run."""

    outputs: dict[str, Tensor]
    # Operations on the states return plain tensors.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]


class SessionMapping(Mapping):
    """A mapping that computes by a session of an exported graph, on the CPU.

    skeleton: the mapping whose graph it is, with weights on the meta device. session: computes the graph.
    path: the exported file, for messages.
    """

    has_weights = False

    def __init__(self, skeleton: Mapping, session: Session, path: Path) -> None:
        with torch.device("meta"):
            super().__init__(skeleton.arrow, skeleton.config, skeleton.sources, skeleton.targets, False)
        self.session, self.path = session, path
        self.fit_record, self.familiarity = skeleton.fit_record, skeleton.familiarity
        self.trained_with, self.row_filters = skeleton.trained_with, skeleton.row_filters
        self.eval()

    def device_for(self, name: str) -> torch.device:
        """Return the CPU. Raises UsageError for the name of another device."""
        if name not in ("auto", "cpu"):
            raise UsageError(f"{self.path} computes on the CPU, not on {name}: leave --device out")
        return torch.device("cpu")

    def for_prediction(self, device: torch.device, precision: str) -> Mapping:
        """Return the mapping itself, which predicts in the precision of its file. Raises UsageError for another precision."""
        if precision not in ("auto", "fp32"):
            raise UsageError(f"{self.path} computes in its own precision, not in {precision}: leave --precision out")
        return self

    def hidden(self, batch: Batch, embedded: Tensor | None = None) -> Tensor:
        if embedded is not None:
            self.require_weights("compute from embeddings")
        outputs = to_tensors(self.session.run(to_arrays(batch_inputs(self, batch))))
        states = outputs[HIDDEN].as_subclass(States)
        states.outputs = outputs
        return states

    def read(self, hidden: Tensor, batch: Batch, port: int) -> Tensor:
        output = _outputs(hidden)[head_names(self)[port]]
        answers = batch.answers[port] if batch.answers else None
        if answers is None or not self.targets[port].readout.pooled:
            return output
        return output[answers.examples]

    def sentence_vectors(self, hidden: Tensor, batch: Batch) -> Tensor:
        return _outputs(hidden)[VECTOR]

    def source_vectors(self, hidden: Tensor, batch: Batch) -> Tensor:
        return _outputs(hidden)[FAMILIARITY]

    def pool(self, hidden: Tensor, batch: Batch, pooling: str | None = None) -> Tensor:
        if pooling is None:
            self.require_weights("pool")
        return self._pool(hidden.as_subclass(Tensor), batch, pooling or self.config.pooling)

    def embed(self, batch: Batch) -> Tensor:
        self.require_weights("compute embeddings of tokens")
        raise AssertionError

    def require_weights(self, purpose: str) -> None:
        raise UsageError(
            f"{self.path} is an exported file, which predicts, embeds and evaluates; to {purpose}, use the folder that it was "
            "exported from"
        )

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Mapping:
        # Moves and conversions of weights come before whatever needs them.
        self.require_weights("explain, train or convert")
        raise AssertionError


def _outputs(hidden: Tensor) -> dict[str, Tensor]:
    """Return the outputs of the run that computed these hidden states."""
    assert isinstance(hidden, States)
    return hidden.outputs
