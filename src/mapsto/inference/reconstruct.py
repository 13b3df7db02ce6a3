"""Reconstruct."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from mapsto.errors import BadCell, UsageError
from mapsto.inference.forward import told_by
from mapsto.model.mapping import Mapping
from mapsto.sequence.batch import Answer, Example
from mapsto.sequence.corruption import READS_ON, Corruption, generator
from mapsto.sequence.piece import Ints, Piece
from mapsto.task.capabilities import Reconstruction, Spatial, require
from mapsto.task.source import Source


def completed(
    mapping: Mapping,
    values: Sequence[Any],
    share: float,
    device: torch.device,
    seed: int = 0,
    masks: Sequence[object] | None = None,
    rows: Sequence[int] | None = None,
) -> Iterator[Any]:
    """Each value, already read, with a `share` of it hidden, a function of (seed, row), or what its mask marks; and put back.
    rows: the number of each, by default its place.

    Raises UsageError for a mapping that does not put back what `~` hides of its one source.
    """
    source, target = mapping.sources[mapping.arrow.sources[0].kind], mapping.targets[0] if mapping.targets else None
    if len(mapping.arrow.sources) != 1 or not mapping.arrow.corrupted or not isinstance(target, Reconstruction):
        raise UsageError(
            f"--hide and --mask are for mappings that put back what is hidden, such as '~text -> text', not {mapping.arrow}"
        )
    if target.corruption.causal == 1:
        raise UsageError(READS_ON)
    if masks is None and not 0 < share < 1:
        raise UsageError(f"--hide is a share between 0 and 1, not {share}")
    corruption = Corruption(share, share, ahead=target.corruption.ahead)
    longest = mapping.config.max_tokens
    pieces = [
        piece if len(piece) <= longest else source.cut(piece, longest)
        for piece in source.encode(values, 0, aligned=True)
    ]
    examples, chosen = [], []
    for row, piece in enumerate(pieces):
        if masks is None:
            shown, hidden = source.mask(piece, corruption, generator(seed, row if rows is None else rows[row], 0), 0.0)
        else:
            shown, hidden = _covered(source, piece, values[row], masks[row])
        chosen.append(hidden)
        asked = Answer(np.zeros(len(hidden), np.int64), hidden - corruption.ahead)
        examples.append(Example((shown,), (asked, *([None] * (len(mapping.targets) - 1))), row))
    said = dict(told_by(mapping, examples, 0, device))
    for row, (value, piece, hidden) in enumerate(zip(values, pieces, chosen, strict=True)):
        yield target.complete(value, piece, hidden, said.get(row, torch.zeros(0)))


def _covered(source: Source, piece: Piece, value: Any, mask: object) -> tuple[Piece, Ints]:
    try:
        return require(source, Spatial, "masked by a picture").mask_region(piece, value, mask)
    except BadCell as bad:
        raise UsageError(f"the mask for {value} cannot be used: {bad}") from bad
