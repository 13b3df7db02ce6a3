"""Transcripts that belong to another recording, found by a model that writes what is said.

A text is far likelier with its own recording than with another one. Where it is not, the model hears none of it: the pair is
suspected. Each row costs two passes of the model, and a suspect two more, with further recordings.
Legend of shapes: n rows, m tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mapsto.data.rows import Rows
from mapsto.errors import DataError, Finding, UsageError
from mapsto.model.mapping import Mapping
from mapsto.sequence.batch import Example
from mapsto.sequence.packing import make_batches
from mapsto.task.source_capabilities import Spoken
from mapsto.task.target_capabilities import Transcribed

# A text is suspected if its own recording makes it likelier by less than this share of what it does for a row in the middle.
MAX_GAIN_SHARE = 0.1
# The gain of a row in the middle, in nats a character, below which a model hears too little to judge.
MIN_GAIN = 0.1
# Further recordings with which a suspected text is compared.
NUM_FURTHER = 2
# Rows among which one with another text is looked for.
MAX_LOOKED_AT = 50

REASON = "it is no likelier with its own recording than with another one: it may belong to another recording"


@dataclass(frozen=True)
class Listening:
    """The rows that a model listened to.

    findings: those whose text may belong to another recording. num_judged: how many rows were judged.
    num_long: how many were not, since the model reads less at once. gain: that of the row in the middle, in nats a character.
    """

    findings: list[Finding]
    num_judged: int
    num_long: int
    gain: float

    def describe(self) -> str:
        """Return what the model listened to, in words."""
        long = f"; {self.num_long:,} longer than it reads at once are not judged" if self.num_long else ""
        if self.gain < MIN_GAIN:
            return f"the start hears too little of these recordings to judge their texts{long}"
        return (
            f"listened to {self.num_judged:,} recordings; {len(self.findings):,} texts may belong to another one{long}"
        )


def find_misplaced(
    mapping: Mapping, rows: Rows, device: torch.device, report: Callable[[int], None] = lambda count: None
) -> Listening:
    """Return the rows whose text may belong to another recording, by the losses of a model.

    rows: readable rows of recordings with texts. report: called with the number of rows that were listened to.
    Raises UsageError for a model that does not write what is said.
    """
    source = mapping.sources.get(rows.arrow.sources[0].kind)
    is_spoken = isinstance(source, Spoken) and len(rows.arrow.sources) == 1 and len(mapping.targets) == 1
    if not is_spoken or not isinstance(mapping.targets[0], Transcribed):
        raise UsageError(
            f"listening needs a start that writes what is said in a recording, and this is {mapping.arrow}"
        )
    listener = _Listener(mapping, rows, device)
    texts = rows.targets[0]
    judged = [row for row in range(len(rows)) if str(texts[row]).strip() and not listener.is_long(row)]
    num_long = sum(map(listener.is_long, range(len(rows))))
    if len(set(map(str, (texts[row] for row in judged)))) < 2:
        return Listening([], len(judged), num_long, 0.0)
    others = _other_rows(judged, texts)
    gains = np.empty(len(judged))
    for place, row in enumerate(judged):
        gains[place] = listener.loss(int(others[0, place]), row) - listener.loss(row, row)
        report(place + 1)
    middle = float(np.median(gains))
    findings = []
    for place in np.flatnonzero(gains < MAX_GAIN_SHARE * middle).tolist() if middle >= MIN_GAIN else ():
        row = judged[place]
        own = listener.loss(row, row)
        further = [listener.loss(other, row) - own for other in others[1:, place].tolist()]
        if np.mean([gains[place], *further]) < MAX_GAIN_SHARE * middle:
            text = str(texts[row])
            findings.append(Finding(*rows.origin(row), rows.arrow.targets[0].column, text, REASON))
    return Listening(findings, len(judged), num_long, middle)


class _Listener:
    """Computes the losses of texts with recordings."""

    def __init__(self, mapping: Mapping, rows: Rows, device: torch.device) -> None:
        self.mapping, self.rows, self.device = mapping, rows, device
        self.source, self.target = mapping.sources[rows.arrow.sources[0].kind], mapping.targets[0]

    def is_long(self, row: int) -> bool:
        """Return whether a recording is longer than the model reads at once."""
        assert isinstance(self.source, Spoken)
        seconds = self.rows.sources[0][row].info.seconds
        return bool(seconds > self.mapping.config.max_tokens * self.source.token_seconds)

    def loss(self, sound: int, text: int) -> float:
        """Return the loss of a row's text with the recording of another, in nats a character; inf if this is too short for it."""
        answer = self.rows.targets[0][text]
        (piece,) = self.source.encode([self.rows.sources[0][sound]], 0)
        try:
            encoded = self.target.encode(answer, (piece,))
        except DataError:
            return math.inf
        example = Example((piece,), (encoded,), 0)
        (batch,) = make_batches([example], len(example))
        batch = batch.to(self.device)
        with torch.inference_mode():
            output = self.mapping.read(self.mapping.hidden(batch), batch, 0).float()
            loss = self.target.validation_error(output, torch.from_numpy(encoded.values).to(output.device))
        return float(loss) / max(1, len(str(answer)))


def _other_rows(rows: Sequence[int], texts: Sequence[Any]) -> NDArray[np.int64]:
    """Return for each of n rows 1 + NUM_FURTHER others, (1 + NUM_FURTHER, n), the same at each call.

    They have another text where there is one: a repeated sentence is said in several recordings.
    """
    order = np.random.default_rng(0).permutation(len(rows))
    ordered = [rows[place] for place in order.tolist()]
    others = np.empty((1 + NUM_FURTHER, len(rows)), np.int64)
    for rank, place in enumerate(order.tolist()):
        following = (*ordered[rank + 1 :], *ordered[:rank])
        different = [row for row in following[:MAX_LOOKED_AT] if texts[row] != texts[rows[place]]]
        others[:, place] = ([*different, *following] * (1 + NUM_FURTHER))[: 1 + NUM_FURTHER]
    return others
