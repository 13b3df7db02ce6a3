"""Reconstruction: hide a part of each value and let the model fill it in (`mapsto predict --hide`, `--mask`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from mapsto.errors import BadCell, UsageError
from mapsto.inference.forward import token_outputs
from mapsto.model.mapping import Mapping
from mapsto.sequence.batch import Answer, Example
from mapsto.sequence.corruption import FILLS_NOTHING, Corruption, make_generator
from mapsto.sequence.piece import Ints, Piece
from mapsto.task.capabilities import require
from mapsto.task.source import Source
from mapsto.task.source_capabilities import Spatial
from mapsto.task.target_capabilities import Reconstruction


def reconstruct(
    mapping: Mapping,
    values: Sequence[Any],
    share: float,
    device: torch.device,
    seed: int = 0,
    masks: Sequence[object] | None = None,
    rows: Sequence[int] | None = None,
) -> Iterator[Any]:
    """Yield each value with a part of it hidden and filled in by the model: texts, or pixels (h, w, 3).

    values: values in the form that `source.encode` takes, as `read_value` returns them.
    share: the share of the tokens to hide; their choice is a function of (seed, row).
    masks: one mask per value, the region to hide; `share` is then ignored.
    rows: row numbers of the values, which seed the random choice; by default 0, 1, …

    Raises UsageError for a mapping that was not trained to fill in its one source, and for unusable masks.
    """
    source, target = mapping.sources[mapping.arrow.sources[0].kind], mapping.targets[0] if mapping.targets else None
    if len(mapping.arrow.sources) != 1 or not mapping.arrow.corrupted or not isinstance(target, Reconstruction):
        raise UsageError(
            f"--hide and --mask are for mappings that put back what is hidden, such as '~text -> text', not {mapping.arrow}"
        )
    if target.corruption.causal == 1:
        raise UsageError(FILLS_NOTHING)
    if masks is None and not 0 < share < 1:
        raise UsageError(f"--hide is a share between 0 and 1, not {share}")
    # The training setting `ahead` must be kept, since it says at which token the answer to a hidden token is read. The
    # rate and shape of hidden parts are free.
    corruption = Corruption(share, share, ahead=target.corruption.ahead)
    max_tokens = mapping.config.max_tokens
    pieces = [
        piece if len(piece) <= max_tokens else source.cut(piece, max_tokens)
        for piece in source.encode(values, 0, aligned=True)
    ]
    examples, hidden_tokens = [], []
    for index, piece in enumerate(pieces):
        if masks is None:
            row = index if rows is None else rows[index]
            corrupted, hidden = source.mask(piece, corruption, make_generator(seed, row, 0), 0.0)
        else:
            corrupted, hidden = _mask_region(source, piece, values[index], masks[index])
        hidden_tokens.append(hidden)
        # The labels of a question are placeholders: only the outputs are used.
        question = Answer(np.zeros(len(hidden), np.int64), hidden - corruption.ahead)
        examples.append(Example((corrupted,), (question, *([None] * (len(mapping.targets) - 1))), index))
    outputs = dict(token_outputs(mapping, examples, 0, device))
    for index, (value, piece, hidden) in enumerate(zip(values, pieces, hidden_tokens, strict=True)):
        # A value in which nothing is hidden has no outputs.
        yield target.complete(value, piece, hidden, outputs.get(index, torch.zeros(0)))


def _mask_region(source: Source, piece: Piece, value: Any, mask: object) -> tuple[Piece, Ints]:
    """Return (piece with the tokens of the masked region hidden, indices of these tokens).

    value: the value that `piece` encodes. mask: the region to hide in it, such as an image that is not black there.
    Raises UsageError for a mask that does not fit the value.
    """
    try:
        return require(source, Spatial, "masked by a picture").mask_region(piece, value, mask)
    except BadCell as bad:
        raise UsageError(f"the mask for {value} cannot be used: {bad}") from bad
