"""The target of the hidden patches of images and videos: their pixels are predicted by a linear head.

As SimMIM (Xie et al. 2022) and MAE (He et al. 2022); pixels are in the order of MAE's heads, row, column, colour, where tokens
hold them channel by channel.
Legend of shapes: m hidden patches, f bytes of a patch, p pixels to its side, h rows, w columns of pixels.
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
from mapsto.vision.patch_source import PatchSource, PixelScale
from mapsto.vision.pixels import Pixels

# Added to the variance of a patch (MAE), and to the deviation of a patch's colour (VideoMAE), before dividing by it.
VARIANCE_EPSILON, DEVIATION_EPSILON = 1e-6, 1e-6


class MaskedPatches(Reconstruction):
    """The target of the hidden patches behind `~`: their pixels, in the `scale` of the source."""

    readout: ClassVar[PerToken] = PerToken()
    head_name = "patch_head"
    source: PatchSource
    scale: PixelScale

    def __init__(self, corruption: dict[str, Any] | None = None) -> None:
        self.corruption = Corruption(**(corruption or {}))

    def bind(self, sources: Mapping[str, Source], transform: Any) -> None:
        """Take the patches and the scale of pixels from the source of this kind. Raises UsageError where there is none."""
        source = sources.get(self.kind)
        if not isinstance(source, PatchSource):
            raise UsageError(
                f"`{self.kind}` as an answer needs `{self.kind}` among the sources; one made of other kinds is not here yet"
            )
        source.require_parts()
        self.source, self.scale = source, source.scale

    def learn(self, answers: Sequence[Any], balance: bool = False) -> None:
        """Do nothing: the pixels are the source's."""

    def complete(self, value: Any, piece: Piece, hidden: Ints, output: Tensor) -> Pixels:
        """Return the pixels (…, h, w, 3) of the value as it is read, with predictions in the hidden patches.

        Where patches are standardised by themselves, the model does not predict their mean and deviation; those of the true
        patch are used.
        """
        tokens = piece.tokens.copy()
        first = self.source.header_bytes
        if self.scale.group is not None:
            mean, deviation = self._statistics(self._to_scale(torch.from_numpy(piece.tokens[hidden, first:])))
            output = output.float().cpu() * deviation + mean
        tokens[hidden, first:] = self._to_bytes(output).numpy()
        return self.source.to_pixels(replace(piece, tokens=tokens))

    def encode(self, answer: Any, pieces: Sequence[Piece]) -> Answer:
        """Raise UsageError: nothing but hidden patches can be answered."""
        raise UsageError(f"`{self.kind}` as an answer puts back what `~{self.kind}` hides, and tells none of its own")

    def questions(self, pieces: Sequence[Piece]) -> Answer | None:
        """Ask for the hidden patches."""
        return ask_at(np.flatnonzero(np.concatenate([piece.tokens[:, 0] for piece in pieces]) == HIDDEN))

    def head(self, width: int, embedder: nn.Module | None) -> nn.Module:
        """Return a linear map to the pixels of a patch (SimMIM)."""
        return new_head(width, 3 * math.prod(self.source.block))

    def _truth(self, tokens: Tensor) -> Tensor:
        """Return the true pixels (m, f) of tokens in the scale of predictions, in fp32."""
        pixels = self._to_scale(tokens[:, self.source.header_bytes :])
        if self.scale.group is None:
            return pixels
        mean, deviation = self._statistics(pixels)
        return (pixels - mean) / deviation

    def _to_scale(self, pixels: Tensor) -> Tensor:
        """Return the bytes of patches (m, f), channel by channel, in the scale of all pixels, colour by colour."""
        shift, divisor = (part.to(pixels.device) for part in self._shift_and_divisor(self.scale.standardised))
        by_colour = pixels.view(len(pixels), 3, -1).transpose(1, 2)
        return ((by_colour.float() / 255 - shift) / divisor).flatten(1)

    def _shift_and_divisor(self, standardised: bool) -> tuple[Tensor, Tensor]:
        """Return what is subtracted from pixels from 0 to 1, and what they are then divided by, (3,) each."""
        shift, divisor = (self.source.mean, self.source.std) if standardised else ([0.0] * 3, [1.0] * 3)
        return torch.tensor(shift), torch.tensor(divisor)

    def _statistics(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and deviation of each patch, (m, 1), or of each colour of a patch, (m, f)."""
        if self.scale.group == "patch":
            return pixels.mean(-1, keepdim=True), (pixels.var(-1, keepdim=True) + VARIANCE_EPSILON).sqrt()
        colours = pixels.view(len(pixels), -1, 3)
        mean, deviation = colours.mean(1, keepdim=True), colours.std(1, keepdim=True) + DEVIATION_EPSILON
        return mean.expand_as(colours).flatten(1), deviation.expand_as(colours).flatten(1)

    def loss(self, output: Tensor, values: Tensor) -> Tensor:
        """Return the mean squared error over the pixels of each patch, summed over patches."""
        return ((output.float() - self._truth(values)) ** 2).mean(-1).sum()

    def evidence(self, output: Tensor, values: Tensor) -> Tensor:
        """Return (m, 2): the error of each patch, and the error of the mean colour."""
        truth = self._truth(values)
        predictions = (output.float(), self._mean_colour(truth))
        return torch.stack([((predicted - truth) ** 2).mean(-1) for predicted in predictions], dim=1)

    def _mean_colour(self, truth: Tensor) -> Tensor:
        """Return the mean colour in the shape (m, f) of patches."""
        if self.scale.is_centred:
            return torch.zeros_like(truth)
        return torch.tensor(self.source.mean, device=truth.device).repeat(truth.shape[1] // 3).expand_as(truth)

    def decode(self, output: Tensor) -> list[dict[str, Any]]:
        """Return the pixels (…, p, p, 3) of each patch, from 0 to 255.

        The mean and deviation of all pixels stand in for those of the patch, which the model does not predict.
        """
        return [{"pixels": patch.tolist()} for patch in self._pixels(output, self.scale.is_centred)]

    def _pixels(self, output: Tensor, standardised: bool) -> Tensor:
        """Return outputs (m, f) as pixels (m, …, p, p, 3) of bytes."""
        shift, divisor = self._shift_and_divisor(standardised)
        pixels = output.float().cpu().view(-1, *self.source.block, 3) * divisor + shift
        return (255 * pixels).round().clamp(0, 255).byte()

    def _to_bytes(self, output: Tensor) -> Tensor:
        """Return the bytes (m, f), channel by channel, of pixels in the model's scale: the inverse of `_to_scale`."""
        return self._pixels(output, self.scale.standardised).movedim(-1, 1).flatten(1)

    def metrics(self, output: Tensor, answers: Sequence[Any]) -> dict[str, Metric]:
        """Return the error of the hidden patches, and the share of their variance that is explained."""
        errors, baseline_errors = output.double().numpy().T
        return {"patch_loss": (np.mean, errors), "explained": (_explained_share, errors, baseline_errors)}

    def baseline(self, answers: Sequence[Any]) -> dict[str, Score]:
        """Return the scores of the mean colour everywhere."""
        return {"explained": Score(0.0, 0.0, 0.0, len(answers))}

    def state(self) -> State:
        """Return how patches were hidden; the rest is the source's."""
        return {"corruption": asdict(self.corruption)}


def _explained_share(errors: NDArray[np.float64], baseline_errors: NDArray[np.float64]) -> float:
    return float(1 - errors.mean() / max(baseline_errors.mean(), 1e-12))
