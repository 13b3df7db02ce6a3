"""Text as an answer in tokens of a vocabulary: the hidden tokens of `~text`.

In masked language modelling (BERT, Devlin et al. 2019) some tokens are hidden, and a head predicts them, with the token
embeddings as output weights.
Legend of shapes: m tokens, d width, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar, Protocol, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mapsto.errors import UsageError
from mapsto.metrics import intervals
from mapsto.model.layers import TransformConfig
from mapsto.model.vocabulary_head import VocabularyHead, cross_entropy
from mapsto.sequence.batch import Answer
from mapsto.sequence.corruption import FILLS_NOTHING, Corruption
from mapsto.sequence.piece import Ints, Piece
from mapsto.task.readout import PerToken, ask_at
from mapsto.task.source import Source
from mapsto.task.target import Metric, State, Target
from mapsto.task.target_capabilities import Reconstruction
from mapsto.text import cells
from mapsto.text.tokenizer import Tokenizer


class Vocabulary(Protocol):
    """The part of a source of texts that targets use.

    tokenizer: its tokenizer. vocabulary: the number of rows of its embedding table.
    generation: content of the generation_config.json of a published model; None for no such file.
    turn_end: id of the token that ends an answer in the chat template of a published model; None if it has none.
    """

    tokenizer: Tokenizer
    vocabulary: int
    generation: Mapping[str, Any] | None

    @property
    def turn_end(self) -> int | None: ...


class VocabularyTarget(Target):
    """A target whose answers are tokens of the vocabulary of the arrow's text source.

    transform: arguments of TransformConfig, the settings of a layer before the output weights; None for no layer.
    """

    kind = "text"
    head_name = "vocabulary_head"
    source: Vocabulary

    def __init__(self, transform: dict[str, Any] | None = None) -> None:
        self.transform = None if transform is None else TransformConfig(**transform)

    def bind(self, sources: Mapping[str, Source], transform: TransformConfig | None) -> None:
        """Store the text source of the arrow, and `transform`.

        transform: the model family's settings of the layer before the output weights.
        Raises UsageError if the arrow reads no text, and so has no vocabulary.
        """
        if self.kind not in sources:
            raise UsageError(
                f"a {self.kind} answer takes its vocabulary from a {self.kind} source, and this arrow has none"
            )
        self.source, self.transform = cast(Vocabulary, sources[self.kind]), transform

    samples = staticmethod(cells.samples)
    fits = staticmethod(cells.fits)
    read = staticmethod(cells.read)

    def head(self, width: int, embedder: nn.Module | None) -> nn.Module:
        """Return a module from hidden states (m, d) to logits (m, v): a dense layer with activation and norm, then a linear map.

        Its output weights are the token embeddings of `embedder`, unless the family has output weights of its own.
        """
        assert isinstance(embedder, nn.Embedding)
        return VocabularyHead(width, self.transform, embedder)

    def loss(self, output: Tensor, values: Tensor) -> Tensor:
        """Return the summed cross-entropy of logits (m, v) against token ids (m,)."""
        return cross_entropy(output, values)

    def state(self) -> State:
        """Return the constructor's arguments, such as the settings of the layer before the output weights."""
        return {"transform": None if self.transform is None else asdict(self.transform)}


class MaskedTextTarget(VocabularyTarget, Reconstruction):
    """A target that predicts the hidden tokens of `~text`, each from the hidden state at its position.

    If the model also learns causal modelling, each is predicted from the position before (`Corruption.ahead`).
    transform: arguments of TransformConfig, the settings of a layer before the output weights; None for no layer.
    corruption: arguments of Corruption, the settings by which tokens are hidden.
    """

    readout = PerToken()
    hub_tasks: ClassVar[Mapping[str, str]] = {"~text": "fill-mask", "~text (causal)": "text-generation"}

    def __init__(self, transform: dict[str, Any] | None = None, corruption: dict[str, Any] | None = None) -> None:
        super().__init__(transform)
        self.corruption = Corruption(**(corruption or {}))

    def learn(self, answers: Sequence[str], balance: bool = False) -> None:
        """Learn nothing, since the vocabulary belongs to the source."""

    def complete(self, value: str, piece: Piece, hidden: Ints, output: Tensor) -> str:
        """Return the text `value` with each hidden token replaced by the likeliest token; all other characters stay as they are.

        piece: the piece of `value`, with its alignment. hidden: (h,), indices of the hidden tokens. output: (h, v), their logits.
        """
        assert piece.alignment is not None
        predictions = dict(zip(hidden.tolist(), output.argmax(dim=-1).tolist(), strict=True))
        parts, position = [], 0
        for token in np.flatnonzero(~piece.special).tolist():
            start, end = piece.alignment.regions[token, 0].tolist()
            text = value[start:end]
            if token in predictions:
                # WordPiece marks a token inside a word by ##.
                predicted = self.source.tokenizer.decode([predictions[token]]).strip().removeprefix("##")
                text = text[: len(text) - len(text.lstrip())] + predicted  # the space before the token stays
            parts += [value[position:start], text]
            position = end
        return "".join([*parts, value[position:]])

    def encode(self, answer: str, pieces: Sequence[Piece]) -> Answer:
        """Raise UsageError: a whole text cannot be predicted, only hidden tokens of a `~text` source."""
        raise UsageError(f"{self.kind!r} restores hidden tokens here; a whole text is generated without `~`")

    def questions(self, pieces: Sequence[Piece]) -> Answer | None:
        """Return an answer without values that names the tokens at which to predict: the mask tokens in the user's text.

        None if the text contains no mask token, and for a causal model, which cannot see the text after one.
        """
        if self.corruption.causal == 1:
            return None
        is_mask = np.concatenate([piece.tokens for piece in pieces]) == self.source.tokenizer.mask_id
        return ask_at(np.flatnonzero(is_mask) - self.corruption.ahead)

    @property
    def nothing_hidden(self) -> str:
        """Return the error message for a text without hidden tokens. It explains to the user how to hide tokens."""
        if self.corruption.causal == 1:
            return FILLS_NOTHING
        mask = self.source.tokenizer.token(self.source.tokenizer.mask_id)
        return f"nothing is hidden: write {mask} for each token to put back, or say which share to hide (--hide 0.3)"

    def evidence(self, output: Tensor, values: Tensor) -> Tensor:
        """Return for each hidden token its loss, and 1 if it was predicted correctly, else 0, as columns of (m, 2).

        `metrics` needs only these. The logits (m, v) of all batches together would not fit in memory.
        """
        losses = F.cross_entropy(output.float(), values, reduction="none")
        return torch.stack([losses, (output.argmax(dim=-1) == values).float()], dim=1)

    def decode(self, output: Tensor) -> list[dict[str, Any]]:
        """Return {"token", "probability"} for each hidden token: the likeliest token as text, and its probability."""
        best = torch.softmax(output.float(), dim=-1).max(dim=-1)
        return [
            {"token": self.source.tokenizer.decode([token]), "probability": probability}
            for token, probability in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    def metrics(self, output: Tensor, answers: Sequence[Any]) -> dict[str, Metric]:
        """Return "masked_loss", the hidden tokens' mean loss in nats, and "token_accuracy", the share predicted correctly.

        output: (m, 2), from `evidence`. answers: not used.
        """
        losses, is_correct = output.double().numpy().T
        return {"masked_loss": (np.mean, losses), "token_accuracy": (intervals.mean_score, is_correct)}

    def baseline(self, answers: Sequence[Any]) -> dict[str, Metric]:
        """Return the mean loss in nats ("masked_loss") of a unigram model: each token's probability is its share of `answers`.

        answers: the true ids of the hidden tokens.
        """
        ids = np.asarray(answers, np.int64)
        # These frequencies are those of the scored tokens, so no other constant prediction has a lower loss.
        frequency = np.bincount(ids, minlength=self.source.vocabulary) / max(1, len(ids))
        return {"masked_loss": (np.mean, -np.log(frequency[ids]))}

    def state(self) -> State:
        """Return the constructor's arguments: settings of the layer before the output weights, and of the corruption."""
        return {**super().state(), "corruption": asdict(self.corruption)}
