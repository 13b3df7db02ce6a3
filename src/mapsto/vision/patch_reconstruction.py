"""The target of the hidden patches of images and videos: a linear head predicts their pixels (SimMIM, MAE).

The papers are Xie et al. (2022) and He et al. (2022). Predictions have MAE's order, pixel by pixel with the three colours
together, whereas tokens hold first all red, then all green, then all blue values.
Legend of shapes: m hidden patches, f bytes of a patch, p pixels to its side, h rows, w columns of pixels, d width.
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
from mapsto.model.layers import new_head
from mapsto.sequence.batch import Answer
from mapsto.sequence.corruption import Corruption
from mapsto.sequence.piece import Ints, Piece
from mapsto.task.readout import PerToken, ask_at
from mapsto.task.source import Source
from mapsto.task.target import Metric, State
from mapsto.task.target_capabilities import Reconstruction
from mapsto.vision.patch_embedding import HIDDEN
from mapsto.vision.patch_source import PatchSource, PixelScale
from mapsto.vision.pixels import Pixels

# Against division by zero: added to a patch's variance (MAE), and to the deviation of a patch's colour (VideoMAE).
VARIANCE_EPSILON, DEVIATION_EPSILON = 1e-6, 1e-6


class MaskedPatches(Reconstruction):
    """The target of the patches that `~` hides: a linear head predicts their pixels, in the scale that the source gives.

    corruption: keyword arguments of Corruption, which says how patches are hidden.
    """

    readout: ClassVar[PerToken] = PerToken()
    head_name = "patch_head"
    source: PatchSource
    scale: PixelScale

    def __init__(self, corruption: dict[str, Any] | None = None) -> None:
        self.corruption = Corruption(**(corruption or {}))

    def bind(self, sources: Mapping[str, Source], transform: Any) -> None:
        """Take the patch size, and the scale in which pixels are predicted, from the arrow's source of the same kind.

        Raises UsageError if the arrow has no such source, or if a convolutional network reads its values whole.
        """
        source = sources.get(self.kind)
        if not isinstance(source, PatchSource):
            raise UsageError(
                f"`{self.kind}` as an answer needs `{self.kind}` among the sources; one made of other kinds is not here yet"
            )
        source.require_parts()
        self.source, self.scale = source, source.scale

    def learn(self, answers: Sequence[Any], balance: bool = False) -> None:
        """Do nothing: the mean and deviation of pixels, all that the head needs, belong to the source."""

    def complete(self, value: Any, piece: Piece, hidden: Ints, output: Tensor) -> Pixels:
        """Return the pixels (…, h, w, 3) of the value as resized for the model, with predictions in the hidden patches.

        Models that standardise each patch by its own mean and deviation do not predict these two; those of the true patch are
        used. hidden: (m,), indices of the hidden patches in `piece`. output: (m, f), the head's predictions for them.
        """
        tokens = piece.tokens.copy()
        first = self.source.header_bytes
        if self.scale.group is not None:
            mean, deviation = self._statistics(self._to_scale(torch.from_numpy(piece.tokens[hidden, first:])))
            output = output.float().cpu() * deviation + mean
        tokens[hidden, first:] = self._to_bytes(output).numpy()
        return self.source.to_pixels(replace(piece, tokens=tokens))

    def encode(self, answer: Any, pieces: Sequence[Piece]) -> Answer:
        """Raise UsageError: the answer is always the hidden patches of the source, so a column cannot hold answers."""
        raise UsageError(f"`{self.kind}` as an answer puts back what `~{self.kind}` hides, and tells none of its own")

    def questions(self, pieces: Sequence[Piece]) -> Answer | None:
        """Return an Answer that names the hidden tokens without values, so that the head predicts them; None without any."""
        return ask_at(np.flatnonzero(np.concatenate([piece.tokens[:, 0] for piece in pieces]) == HIDDEN))

    def head(self, width: int, embedder: nn.Module | None) -> nn.Module:
        """Return a linear map from hidden states (m, d) to the pixels of patches (m, f), as in SimMIM."""
        return new_head(width, 3 * math.prod(self.source.block))

    def _truth(self, tokens: Tensor) -> Tensor:
        """Return the pixels (m, f) of true patches in fp32, in the scale in which the head predicts them.

        tokens: the tokens of the true patches.
        """
        pixels = self._to_scale(tokens[:, self.source.header_bytes :])
        if self.scale.group is None:
            return pixels
        mean, deviation = self._statistics(pixels)
        return (pixels - mean) / deviation

    def _to_scale(self, pixels: Tensor) -> Tensor:
        """Return patches (m, f) of bytes, channel by channel, as floats (m, f), pixel by pixel.

        Pixels are standardised by the source's mean and deviation if `scale.standardised`, else from 0 to 1.
        """
        shift, divisor = (part.to(pixels.device) for part in self._shift_and_divisor(self.scale.standardised))
        by_colour = pixels.view(len(pixels), 3, -1).transpose(1, 2)
        return ((by_colour.float() / 255 - shift) / divisor).flatten(1)

    def _shift_and_divisor(self, standardised: bool) -> tuple[Tensor, Tensor]:
        """Return shift (3,) and divisor (3,), by colour: a pixel from 0 to 1 is scaled to (pixel − shift) / divisor.

        standardised: whether to return the source's mean and deviation; if not, shift 0 and divisor 1 are returned.
        """
        shift, divisor = (self.source.mean, self.source.std) if standardised else ([0.0] * 3, [1.0] * 3)
        return torch.tensor(shift), torch.tensor(divisor)

    def _statistics(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and deviation of each patch, (m, 1) each, or of each colour in each patch, (m, f) each, by `scale.group`.

        pixels: (m, f), pixel by pixel. The three values of a patch's colours are repeated for each of its pixels.
        """
        if self.scale.group == "patch":
            return pixels.mean(-1, keepdim=True), (pixels.var(-1, keepdim=True) + VARIANCE_EPSILON).sqrt()
        colours = pixels.view(len(pixels), -1, 3)
        mean, deviation = colours.mean(1, keepdim=True), colours.std(1, keepdim=True) + DEVIATION_EPSILON
        return mean.expand_as(colours).flatten(1), deviation.expand_as(colours).flatten(1)

    def loss(self, output: Tensor, values: Tensor) -> Tensor:
        """Return the squared error of predicted pixels, averaged over the pixels of each patch and summed over patches.

        output: (m, f). values: tokens of the true patches.
        """
        return ((output.float() - self._truth(values)) ** 2).mean(-1).sum()

    def evidence(self, output: Tensor, values: Tensor) -> Tensor:
        """Return two mean squared errors of each hidden patch, (m, 2): of its prediction, and of the source's mean colour.

        output: (m, f), predictions. values: tokens of the true patches.
        """
        truth = self._truth(values)
        predictions = (output.float(), self._mean_colour(truth))
        return torch.stack([((predicted - truth) ** 2).mean(-1) for predicted in predictions], dim=1)

    def _mean_colour(self, truth: Tensor) -> Tensor:
        """Return m patches (m, f) in the mean colour of the source's pixels, in the scale in which the head predicts.

        truth: (m, f), true patches, for their shape.
        """
        if self.scale.is_centred:
            return torch.zeros_like(truth)
        return torch.tensor(self.source.mean, device=truth.device).repeat(truth.shape[1] // 3).expand_as(truth)

    def decode(self, output: Tensor) -> list[dict[str, Any]]:
        """Return {"pixels": (…, p, p, 3)} for each patch, from 0 to 255.

        Models that standardise each patch by its own mean and deviation do not predict these two; the source's mean and
        deviation of all pixels are used instead.
        """
        return [{"pixels": patch.tolist()} for patch in self._pixels(output, self.scale.is_centred)]

    def _pixels(self, output: Tensor, standardised: bool) -> Tensor:
        """Return outputs (m, f) as pixels (m, …, p, p, 3) of bytes.

        standardised: whether outputs are standardised by the source's mean and deviation; if not, they are from 0 to 1.
        """
        shift, divisor = self._shift_and_divisor(standardised)
        pixels = output.float().cpu().view(-1, *self.source.block, 3) * divisor + shift
        return (255 * pixels).round().clamp(0, 255).byte()

    def _to_bytes(self, output: Tensor) -> Tensor:
        """Return outputs (m, f) as patches (m, f) of bytes, channel by channel: the inverse of `_to_scale`."""
        return self._pixels(output, self.scale.standardised).movedim(-1, 1).flatten(1)

    def metrics(self, output: Tensor, answers: Sequence[Any]) -> dict[str, Metric]:
        """Return "patch_loss", the mean squared error of predictions, and "explained", 1 − its ratio to that of the mean colour.

        output: (m, 2), from `evidence`: the two errors of each hidden patch.
        """
        errors, baseline_errors = output.double().numpy().T
        return {"patch_loss": (np.mean, errors), "explained": (_explained_share, errors, baseline_errors)}

    def baseline(self, answers: Sequence[Any]) -> dict[str, Metric]:
        """Return the score of always predicting the source's mean colour: "explained" is 0 by its definition."""
        return {"explained": (np.mean, np.zeros(len(answers)))}

    def state(self) -> State:
        """Return the settings of the corruption by which patches were hidden. All other settings belong to the source."""
        return {"corruption": asdict(self.corruption)}


def _explained_share(errors: NDArray[np.float64], baseline_errors: NDArray[np.float64]) -> float:
    """Return 1 − mean error / mean error of predicting the mean colour, an R² over pixels.

    errors, baseline_errors: (m,) each, from `MaskedPatches.evidence`.
    """
    return float(1 - errors.mean() / max(baseline_errors.mean(), 1e-12))
