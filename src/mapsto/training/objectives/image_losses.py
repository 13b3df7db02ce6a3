"""pictured: pictures that are made are judged as a whole, beside or instead of pixel by pixel.

Legend of shapes: n pictures, h × w pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from mapsto.errors import UsageError
from mapsto.model.mapping import Mapping
from mapsto.sequence.batch import Batch, PackedAnswers
from mapsto.training.objectives import Objective
from mapsto.vision.image_targets import PictureTarget


class Judge(Protocol):
    """Says how far pictures are from what they should be."""

    def __call__(self, mapping: Mapping, said: Tensor, truth: Tensor, source: Tensor) -> Tensor:
        """The loss summed over pictures (n, 3, h, w) from 0 to 1: what is said, what is true, and what was read."""
        ...

    def finish(self, mapping: Mapping) -> None:
        """Take out of the mapping what only its training needed."""
        ...


class Pictured(Objective):
    """The loss of every target port, and of the pictures of one what each judge says. plain: whether these are also compared
    pixel by pixel with what is true; else held-out rows, which are, choose nothing."""

    def __init__(self, mapping: Mapping, judges: Sequence[Judge], plain: bool) -> None:
        self.port, self.judges, self.plain = picture_port(mapping), judges, plain
        self.watches = plain
        self.ports = len(mapping.targets)

    def terms(self, mapping: Mapping) -> int:
        """The ports, then the judges."""
        return self.ports + len(self.judges)

    def losses(self, mapping: Mapping, batch: Batch) -> list[tuple[int, Tensor]]:
        """Of every port that has answers, and of every judge."""
        hidden = mapping.hidden(batch)
        found = []
        for port, readout in enumerate(batch.answers):
            if readout is None:
                continue
            output, target = mapping.read(hidden, batch, port), mapping.targets[port]
            if self.plain or port != self.port:
                found.append((port, target.loss(output, readout.values)))
            if port == self.port:
                assert isinstance(target, PictureTarget)
                for shown in target.drawn(output, readout.values, _tokens(batch, readout, target.lies_in)):
                    found += [(self.ports + at, judge(mapping, *shown)) for at, judge in enumerate(self.judges)]
        return found

    def counts(self, batch: Batch) -> dict[int, int]:
        """Answers, and pictures."""
        return super().counts(batch) | {self.ports + at: len(batch.starts) for at in range(len(self.judges))}

    def finish(self, mapping: Mapping) -> None:
        """Let the judges go."""
        for judge in self.judges:
            judge.finish(mapping)


def picture_port(mapping: Mapping) -> int:
    """The one target port that makes pictures. Raises UsageError."""
    ports = [port for port, target in enumerate(mapping.targets) if isinstance(target, PictureTarget)]
    if len(ports) != 1:
        raise UsageError(f"--style and --adversarial are for arrows that make one picture, not {mapping.arrow}")
    return ports[0]


def _tokens(batch: Batch, readout: PackedAnswers, kind: str) -> Tensor:
    """The tokens (m, …) of a kind that stand where a port is read."""
    assert readout.at is not None
    of_place = torch.zeros(batch.segments.numel(), dtype=torch.long, device=readout.at.device)
    of_place[batch.slots[kind]] = torch.arange(len(batch.slots[kind]), device=readout.at.device)
    return batch.tokens[kind][of_place[readout.at]]
