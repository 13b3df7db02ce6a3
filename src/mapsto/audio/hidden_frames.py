"""The target of the hidden tokens of sounds: a linear head predicts their random codes (BEST-RQ, Chiu et al. 2022).

Legend of shapes: m hidden tokens, f numbers of a token's frames, c codes, d width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar, Protocol, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mapsto.audio import sound_value
from mapsto.audio.frame_embedding import HIDDEN_ENTRY
from mapsto.audio.random_codes import NUM_CODES, find_codes
from mapsto.errors import UsageError
from mapsto.metrics import intervals
from mapsto.model.layers import new_head
from mapsto.model.vocabulary_head import cross_entropy
from mapsto.sequence.batch import Answer
from mapsto.sequence.corruption import Corruption
from mapsto.sequence.piece import Ints, Piece
from mapsto.task.readout import PerToken, ask_at
from mapsto.task.source import Source
from mapsto.task.target import Metric, State
from mapsto.task.target_capabilities import Reconstruction


class FrameFeatures(Protocol):
    """The part of a source of sounds that this target uses."""

    def features(self, tokens: Tensor) -> Tensor: ...


class HiddenFrames(Reconstruction):
    """The target of the tokens that `~sound` hides: it predicts the code of each.

    corruption: keyword arguments of Corruption, which says how tokens are hidden.
    """

    kind = "sound"
    readout: ClassVar[PerToken] = PerToken()
    head_name = "code_head"
    source: FrameFeatures

    samples = staticmethod(sound_value.sample_sounds)
    fits = staticmethod(sound_value.fits_sounds)
    read = staticmethod(sound_value.read_sound)

    def __init__(self, corruption: dict[str, Any] | None = None) -> None:
        self.corruption = Corruption(**(corruption or {}))

    def bind(self, sources: Mapping[str, Source], transform: Any) -> None:
        """Take the frames of a token, and their mean and deviation, from the arrow's source of sounds.

        Raises UsageError if the arrow has none.
        """
        if self.kind not in sources:
            raise UsageError(f"`{self.kind}` as an answer needs `~{self.kind}` among the sources")
        self.source = cast(FrameFeatures, sources[self.kind])

    def learn(self, answers: Sequence[Any], balance: bool = False) -> None:
        """Learn nothing, since the mean and deviation of frames belong to the source."""

    def complete(self, value: Any, piece: Piece, hidden: Ints, output: Tensor) -> Any:
        """Raise UsageError: a code stands for many sounds, so that none can be put in its place."""
        raise UsageError("hidden parts of a sound are not filled in: the model predicts codes, which are no sound")

    def encode(self, answer: Any, pieces: Sequence[Piece]) -> Answer:
        """Raise UsageError: the answer is always the hidden part of the source, so a column cannot hold answers."""
        raise UsageError(f"`{self.kind}` as an answer puts back what `~{self.kind}` hides, and tells none of its own")

    def questions(self, pieces: Sequence[Piece]) -> Answer | None:
        """Return an Answer that names the hidden tokens without values, so that the head predicts them; None without any."""
        return ask_at(np.flatnonzero(np.concatenate([piece.tokens[:, HIDDEN_ENTRY] for piece in pieces])))

    def head(self, width: int, embedder: nn.Module | None) -> nn.Module:
        """Return a linear map from hidden states (m, d) to logits of codes (m, c)."""
        return new_head(width, NUM_CODES)

    def codes(self, tokens: Tensor) -> Tensor:
        """Return the codes (m,) of true tokens."""
        return find_codes(self.source.features(tokens))

    def loss(self, output: Tensor, values: Tensor) -> Tensor:
        """Return the summed cross-entropy of logits (m, c) against the codes of true tokens, `values`."""
        return cross_entropy(output, self.codes(values))

    def evidence(self, output: Tensor, values: Tensor) -> Tensor:
        """Return (m, 3): of each hidden token the loss, whether the likeliest code is right (1 or 0), and the true code."""
        codes = self.codes(values)
        losses = F.cross_entropy(output.float(), codes, reduction="none")
        return torch.stack([losses, (output.argmax(dim=-1) == codes).float(), codes.float()], dim=1)

    def decode(self, output: Tensor) -> list[dict[str, Any]]:
        """Return {"code", "probability"} for each hidden token: the likeliest code and its probability."""
        best = torch.softmax(output.float(), dim=-1).max(dim=-1)
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [{"code": code, "probability": probability} for code, probability in pairs]

    def metrics(self, output: Tensor, answers: Sequence[Any]) -> dict[str, Metric]:
        """Return "masked_loss", the mean loss in nats, "code_accuracy", and "codes_used", how many codes are in even use.

        The last is the exponential of the entropy of the true codes: near 1 if the codes have collapsed.
        output: (m, 3), from `evidence`. answers: not used.
        """
        losses, is_correct, codes = output.double().numpy().T
        return {
            "masked_loss": (np.mean, losses),
            "code_accuracy": (intervals.mean_score, is_correct),
            "codes_used": (_perplexity, codes),
        }

    def baseline(self, answers: Sequence[Any]) -> dict[str, Metric]:
        """Return nothing: which codes are frequent is known only where tokens are hidden."""
        return {}

    def state(self) -> State:
        """Return the settings of the corruption by which tokens were hidden. All other settings belong to the source."""
        return {"corruption": asdict(self.corruption)}


def _perplexity(codes: np.typing.NDArray[np.float64]) -> float:
    """Return the exponential of the entropy of the distribution of codes (m,)."""
    _, counts = np.unique(codes, return_counts=True)
    shares = counts / counts.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))
