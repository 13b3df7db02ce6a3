"""colour: "#ff8800". As a source it is three tokens, one per channel; as a target three numbers, scored by closeness."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from mapsto.errors import BadCell
from mapsto.kinds.vector import Vector
from mapsto.sequence.corruption import choose_hidden
from mapsto.sequence.piece import Alignment, Piece
from mapsto.task.source import Source
from mapsto.task.source_capabilities import Explainable
from mapsto.task.target_capabilities import Comparable

HEX, CHANNELS, MASK = re.compile("#[0-9a-fA-F]{6}"), ("red", "green", "blue"), 3 * 8


class ColourCells:
    kind = "colour"
    samples = staticmethod(lambda: ["#ff8800", "#000000", "#12AB34", "#ffffff"])
    fits = staticmethod(lambda cells: any(cells) and all(cell is None or HEX.fullmatch(str(cell)) for cell in cells))

    @staticmethod
    def read(cell: object) -> tuple[float, ...]:
        if HEX.fullmatch(str(cell)):
            return tuple(float(int(str(cell)[i : i + 2], 16)) for i in (1, 3, 5))
        raise BadCell("a colour is written as #rrggbb")


class ColourSource(ColourCells, Source, Explainable):
    fingerprint = "colour"
    new = open = classmethod(lambda cls, *arguments, **options: cls())  # it learns and stores nothing

    def encode(self, values: Sequence[Any], place: int, aligned: bool = False) -> list[Piece]:
        alignment = Alignment(np.array([[[1, 3]], [[3, 5]], [[5, 7]]])) if aligned else None
        order, tokens = np.arange(3), [np.array(value, np.int64) // 32 + 8 * np.arange(3) for value in values]
        return [Piece("colour", ids, order[:, None], np.zeros(3, np.bool_), alignment, order) for ids in tokens]

    def embedder(self, width: int) -> nn.Module:
        return nn.Embedding(MASK + 1, width)  # one vector per channel and level, and one for a hidden channel

    def mask(self, piece: Piece, corruption: Any, rng: np.random.Generator, progress: float) -> tuple[Piece, Any]:
        hidden = choose_hidden(corruption, piece, rng, progress)
        return replace(piece, tokens=np.where(np.isin(np.arange(3), hidden), MASK, piece.tokens)), hidden

    def token_names(self, piece: Piece) -> list[str]:
        return [(*CHANNELS, "hidden")[token // 8] for token in piece.tokens]

    def remove_tokens(self, piece: Piece, tokens: Any) -> Piece:
        return piece.select(np.setdiff1d(np.arange(len(piece)), tokens))

    def blank(self, piece: Piece) -> Piece:
        return replace(piece, tokens=np.full_like(piece.tokens, MASK))

    excerpt = staticmethod(lambda value, region: CHANNELS[int(region[0][0]) // 2])


class ColourTarget(ColourCells, Vector, Comparable):
    primary_metric = "closeness"

    def brief(self, answer: Any) -> str:
        return answer if isinstance(answer, str) else "#" + "".join(f"{int(level):02x}" for level in answer)

    def decode(self, output: Tensor) -> list[dict[str, Any]]:
        return [{"colour": self.brief(levels)} for levels in np.clip(self._to_numbers(output).round(), 0, 255)]

    def metrics(self, output: Tensor, answers: Sequence[Any]) -> dict[str, Any]:
        return {"closeness": (np.mean, self.per_item_metric(output, answers))}

    def per_item_metric(self, output: Tensor, answers: Sequence[Any]) -> Any:
        return 1 - np.abs(self._to_numbers(output) - np.array(answers)).mean(1).astype(np.float32) / 255


source = ColourSource
target = ColourTarget
