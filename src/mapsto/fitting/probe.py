"""Probe."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from mapsto.data.examples import Examples
from mapsto.evaluation.evaluate import scoring_examples
from mapsto.fitting.setup import Work
from mapsto.inference.forward import evidence, over
from mapsto.model.mapping import Mapping
from mapsto.task.capabilities import Classes, LinearProbe


def frozen(mapping: Mapping, examples: Examples, device: torch.device) -> NDArray[np.float32]:
    """The vectors (n, d) that pooled heads read, in one pass over the rows."""
    mapping.eval()
    plain = examples.without_augmentation()
    vectors: NDArray[np.float32] = np.zeros((len(plain), mapping.config.pooled_width), np.float32)
    listed = (plain.example(row, 0, 0.0) for row in range(len(plain)))
    for batch, hidden in over(mapping, listed, device):
        vectors[batch.rows] = mapping.summary(hidden, batch).float().cpu().numpy()
    return vectors


def probe(
    mapping: Mapping,
    examples: Examples,
    device: torch.device,
    seed: int,
    unlearnt: NDArray[np.float32] | None = None,
) -> None:
    """Set the pooled heads to the best linear ones on the frozen vectors. unlearnt: the vectors from before they were learnt from
    the same answers; by them it is chosen how sure the heads may be."""
    vectors = frozen(mapping, examples, device)
    for port, target in enumerate(mapping.targets):
        told = enumerate(examples.answers.encoded if examples.answers is not None else ())
        known = [(row, answer) for row, answers in told if (answer := answers[port]) is not None]
        if not isinstance(target, LinearProbe) or not known:
            continue
        rows, values = [row for row, _ in known], np.array([answer.values for _, answer in known])
        fitted = target.probe(vectors[rows], values, seed, None if unlearnt is None else unlearnt[rows])
        with torch.no_grad():
            for parameter, best in zip(mapping.heads[port].parameters(), fitted, strict=True):
                parameter.copy_(best)


def _calibrated(work: Work, say: Callable[[str], None]) -> list[float]:
    """Heads as sure as they are right on the held-out rows, where there are enough: by what each was divided."""
    if work.watched is None or work.pretraining or not work.mapping.targets:
        return []
    mapping = work.mapping.eval()
    found = []
    for port, said in evidence(mapping, scoring_examples(work.watched), work.device).items():
        target = mapping.targets[port]
        if not isinstance(target, Classes):
            continue
        temperature = target.calibrate(mapping.heads[port], said.shown, said.values)
        if temperature is not None:
            say(f"confidence set by {len(said.values):,} held-out rows: logits divided by {temperature:.2f}")
            found.append(round(temperature, 4))
    return found
