"""Find the likeliest legal sequence of word tags (Viterbi 1967), and the labelled spans of words that it stands for.

Classes are named as published taggers name them: O, B-PER, I-PER, also E-, S-, L- and U-; a name without such a prefix is that
of a word by itself, such as a part of speech. Which class may follow which is derived from the names alone.
Legend of shapes: w words, c classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mapsto.text.tagging.word_tags import OUTSIDE, split_prefix

Floats = NDArray[np.float64]
# Our letter for each prefix: B begins, I goes on, E ends a span, S is a span of one word, O is outside of all.
PREFIXES = {"B": "B", "I": "I", "M": "I", "E": "E", "L": "E", "S": "S", "U": "S", "W": "S"}


@dataclass(frozen=True)
class TagClasses:
    """The classes of words and the rules of their sequence. names: of the classes, in the order of the outputs."""

    names: tuple[str, ...]

    @cached_property
    def parts(self) -> list[tuple[str, str]]:
        """Return (one of O, B, I, E, S; label) for each class."""
        labelled = [name for name in self.names if name not in OUTSIDE]
        num_prefixed = sum(split_prefix(name) is not None for name in labelled)
        # Of names of parts of speech, one may look as if it had a prefix.
        are_prefixed = num_prefixed > len(labelled) / 2
        parts = []
        for name in self.names:
            prefix, label = (split_prefix(name) if are_prefixed else None) or ("S", name)
            parts.append(("O", "") if name in OUTSIDE else (PREFIXES[prefix], label))
        return parts

    @cached_property
    def labels(self) -> list[str]:
        """Return the labels of spans, sorted, each once."""
        return sorted({label for _, label in self.parts if label})

    @cached_property
    def allowed(self) -> NDArray[np.bool_]:
        """Return whether class j may follow class i, (c + 2, c + 2). The last two indices stand for the start and the end."""
        starts = {label for prefix, label in self.parts if prefix in "BS" and label}
        ends = {label for prefix, label in self.parts if prefix in "ES" and label}
        edge = [("O", ""), ("O", "")]
        allowed = np.ones((len(self.names) + 2, len(self.names) + 2), np.bool_)
        for i, (first, first_label) in enumerate([*self.parts, *edge]):
            for j, (second, second_label) in enumerate([*self.parts, *edge]):
                goes_on = first in "BI" and first_label == second_label
                # I and E go on with a span, but where a label has no B, I begins one too (IOB1).
                if second in "IE" and second_label in starts and not goes_on:
                    allowed[i, j] = False
                # Where spans end with E, one that was begun must end.
                if first in "BI" and first_label in ends and not (goes_on and second in "IE"):
                    allowed[i, j] = False
        return allowed

    def best_path(self, log_probabilities: Floats) -> NDArray[np.int64]:
        """Return the class of each word, (w,), in the legal sequence of the highest probability. log_probabilities: (w, c)."""
        num_words, num_classes = log_probabilities.shape
        likeliest: NDArray[np.int64] = log_probabilities.argmax(axis=1)
        path = [num_classes, *likeliest.tolist(), num_classes + 1]
        if self.allowed[path[:-1], path[1:]].all():
            return likeliest
        # Illegal steps cost more than any sequence of words can.
        penalty = np.where(self.allowed, 0.0, -1e9)
        scores = log_probabilities[0] + penalty[num_classes, :num_classes]
        came_from = np.zeros((num_words, num_classes), np.int64)
        for word in range(1, num_words):
            reached = scores[:, None] + penalty[:num_classes, :num_classes]
            came_from[word] = reached.argmax(axis=0)
            scores = reached.max(axis=0) + log_probabilities[word]
        best = int((scores + penalty[:num_classes, num_classes + 1]).argmax())
        classes = [best]
        for word in range(num_words - 1, 0, -1):
            best = int(came_from[word, best])
            classes.append(best)
        return np.array(classes[::-1], np.int64)

    def spans(self, path: NDArray[np.int64]) -> list[tuple[int, int, int]]:
        """Return (first word, last word, index in `labels`) of each span of a legal sequence of classes (w,)."""
        spans: list[tuple[int, int, int]] = []
        last_prefix, last_label = "O", ""
        for word, index in enumerate(path.tolist()):
            prefix, label = self.parts[index]
            if prefix in "IE" and last_prefix in "BI" and last_label == label:
                first, _, number = spans[-1]
                spans[-1] = first, word, number
            elif prefix != "O":
                spans.append((word, word, self.labels.index(label)))
            last_prefix, last_label = prefix, label
        return spans

    def continues(self, index: int) -> list[int]:
        """Return the classes by which the next word would go on with the span of class `index`."""
        _, label = self.parts[index]
        return [j for j, (prefix, class_label) in enumerate(self.parts) if prefix in "IE" and class_label == label]
