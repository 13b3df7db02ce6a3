"""The hidden patches of pictures and videos, put back.

Legend of shapes: m patches that were hidden, f bytes of a patch, p pixels to its side, h rows, w columns of pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mapsto.errors import UsageError
from mapsto.metrics.intervals import Score
from mapsto.model.layers import new_head
from mapsto.sequence.batch import Answer
from mapsto.sequence.corruption import Corruption
from mapsto.sequence.piece import Ints, Piece
from mapsto.task.capabilities import Reconstruction
from mapsto.task.readout import PerToken, ask_at
from mapsto.task.source import Source
from mapsto.task.target import Metric, State
from mapsto.vision.patch_embedding import HIDDEN
from mapsto.vision.patch_source import PatchedSource, PixelScale
from mapsto.vision.pixels import Pixels

LEAST_VARIANCE = 1e-6  # of a patch (MAE)


LEAST_DEVIATION = 1e-6  # of a colour of one (VideoMAE)


class PatchedTarget(Reconstruction):
    """The hidden patches behind `~`, read where they were hidden: their pixels, as the `scale` of the source says. In the order
    of MAE's heads: row, column, colour."""

    readout: ClassVar[PerToken] = PerToken()
    head_name = "patch_head"
    source: PatchedSource
    scale: PixelScale

    def __init__(self, corruption: dict[str, Any] | None = None) -> None:
        self.corruption = Corruption(**(corruption or {}))

    def bind(self, sources: Mapping[str, Source], transform: Any) -> None:
        """Take patches and the range of pixels from the source of this kind. Raises UsageError where there is none."""
        source = sources.get(self.kind)
        if not isinstance(source, PatchedSource):
            raise UsageError(
                f"`{self.kind}` as an answer needs `{self.kind}` among the sources; one made of other kinds is not here yet"
            )
        source.require_parts()
        self.source, self.scale = source, source.scale

    def learn(self, answers: Sequence[Any], balance: bool = False) -> None:
        """Nothing: the pixels are the source's."""

    def complete(self, value: Any, piece: Piece, hidden: Ints, output: Tensor) -> Pixels:
        """The pixels (…, h, w, 3) of the value in the size in which it is read. Where these are part of its scale, each patch has
        its own mean and deviation, which the model does not tell."""
        tokens = piece.tokens.copy()
        if self.scale.own is not None:
            mean, deviation = self._own(self._seen(torch.from_numpy(piece.tokens[hidden, self.source.places :])))
            output = output.float().cpu() * deviation + mean
        tokens[hidden, self.source.places :] = self._bytes(output).numpy()
        return self.source.joined(replace(piece, tokens=tokens))

    def encode(self, answer: Any, pieces: Sequence[Piece]) -> Answer:
        """Nothing can be told but what was hidden."""
        raise UsageError(f"`{self.kind}` as an answer puts back what `~{self.kind}` hides, and tells none of its own")

    def questions(self, pieces: Sequence[Piece]) -> Answer | None:
        """Ask for the patches that are hidden."""
        return ask_at(np.flatnonzero(np.concatenate([piece.tokens[:, 0] for piece in pieces]) == HIDDEN))

    def head(self, width: int, embedder: nn.Module | None) -> nn.Module:
        """A linear map to the pixels of a patch (SimMIM, Xie et al. 2022)."""
        return new_head(width, 3 * math.prod(self.source.block))

    def _wanted(self, values: Tensor) -> Tensor:
        """(m, f) in fp32, of token rows."""
        seen = self._seen(values[:, self.source.places :])
        if self.scale.own is None:
            return seen
        mean, deviation = self._own(seen)
        return (seen - mean) / deviation

    def _seen(self, pixels: Tensor) -> Tensor:
        """Bytes of patches (m, f), channel by channel, as the model tells them, colour by colour."""
        shift, by = (part.to(pixels.device) for part in self._range(self.scale.ranged))
        coloured = pixels.view(len(pixels), 3, -1).transpose(1, 2)
        return ((coloured.float() / 255 - shift) / by).flatten(1)

    def _range(self, ranged: bool) -> tuple[Tensor, Tensor]:
        """What is taken from pixels from 0 to 1, and what they are then divided by, (3,) each."""
        shift, by = (self.source.mean, self.source.std) if ranged else ([0.0] * 3, [1.0] * 3)
        return torch.tensor(shift), torch.tensor(by)

    def _own(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of each patch, (m, 1), or of the colours of its pixels, (m, f)."""
        if self.scale.own == "patch":
            return seen.mean(-1, keepdim=True), (seen.var(-1, keepdim=True) + LEAST_VARIANCE).sqrt()
        coloured = seen.view(len(seen), -1, 3)
        mean, deviation = coloured.mean(1, keepdim=True), coloured.std(1, keepdim=True) + LEAST_DEVIATION
        return mean.expand_as(coloured).flatten(1), deviation.expand_as(coloured).flatten(1)

    def loss(self, output: Tensor, values: Tensor) -> Tensor:
        """The mean squared error over the pixels of each patch, summed over patches."""
        return ((output.float() - self._wanted(values)) ** 2).mean(-1).sum()

    def evidence(self, output: Tensor, values: Tensor) -> Tensor:
        """(m, 2): the error of each patch, and that of the mean colour."""
        wanted = self._wanted(values)
        return torch.stack([((said - wanted) ** 2).mean(-1) for said in (output.float(), self._blind(wanted))], dim=1)

    def _blind(self, wanted: Tensor) -> Tensor:
        """The mean colour in the place of each wanted patch, (m, f)."""
        if self.scale.centred:
            return torch.zeros_like(wanted)
        return torch.tensor(self.source.mean, device=wanted.device).repeat(wanted.shape[1] // 3).expand_as(wanted)

    def decode(self, output: Tensor) -> list[dict[str, Any]]:
        """The pixels (…, p, p, 3) of each patch, from 0 to 255; those of all stand in for a mean and deviation of its own."""
        return [{"pixels": patch.tolist()} for patch in self._pixels(output, self.scale.centred)]

    def _pixels(self, output: Tensor, ranged: bool) -> Tensor:
        """(m, …, p, p, 3) of bytes."""
        shift, by = self._range(ranged)
        pixels = output.float().cpu().view(-1, *self.source.block, 3) * by + shift
        return (255 * pixels).round().clamp(0, 255).byte()

    def _bytes(self, output: Tensor) -> Tensor:
        """The inverse of `_seen`: (m, f) of bytes, channel by channel."""
        return self._pixels(output, self.scale.ranged).movedim(-1, 1).flatten(1)

    def metrics(self, output: Tensor, answers: Sequence[Any]) -> dict[str, Metric]:
        """The error of the hidden patches, and the share of their variance that is explained."""
        errors, blind = output.double().numpy().T
        return {"patch_loss": (np.mean, errors), "explained": (_explained, errors, blind)}

    def baseline(self, answers: Sequence[Any]) -> dict[str, Score]:
        """The mean colour everywhere."""
        return {"explained": Score(0.0, 0.0, 0.0, len(answers))}

    def state(self) -> State:
        """How patches were hidden; the rest is the source's."""
        return {"corruption": asdict(self.corruption)}


def _explained(errors: NDArray[np.float64], blind: NDArray[np.float64]) -> float:
    return float(1 - errors.mean() / max(blind.mean(), 1e-12))
