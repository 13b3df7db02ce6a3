"""Text as an answer that is generated token by token: translations, summaries, dialogue, answers in words.

The target's head predicts each token of the answer from the hidden state of the token before it, and at the end a token that
ends the answer.
Legend of shapes: n answers, m tokens of answers, v vocabulary.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mapsto.errors import DataError, shorten
from mapsto.metrics import generated_text, intervals
from mapsto.metrics.intervals import Score
from mapsto.model.layers import TransformConfig
from mapsto.model.vocabulary_head import cross_entropy
from mapsto.sequence.batch import Answer
from mapsto.sequence.piece import Ints, Piece, Role
from mapsto.task.capabilities import Comparable, Confident
from mapsto.task.generation import Generated, GeneratedAnswer
from mapsto.task.readout import Continued
from mapsto.task.source import Learning, Source
from mapsto.task.target import Metric, State
from mapsto.text.masked_text import VocabularyTarget
from mapsto.text.pairs.metric_tokens import BLEU_TOKENIZERS, choose_bleu_tokenizer, tokenize_words
from mapsto.text.pairs.unsupported import find_unsupported, share, unsupported_counts

# An answer may have this many times the tokens of the longest training answer, and at least SHORTEST_LIMIT.
LIMIT_FACTOR, SHORTEST_LIMIT = 1.5, 32

# Shares of what an answer adds to its source are shown where the true answers themselves add less than this share.
MAX_TRUE_SHARE = 0.2

# The share of each label that is spread over the whole vocabulary (Szegedy et al. 2016), as usual in translation.
SMOOTHING = 0.1


def mean_probability(answer: GeneratedAnswer) -> float:
    """Return the geometric mean of the probabilities of an answer's tokens, the end token included."""
    return math.exp(answer.log_probability / (len(answer.tokens) + answer.is_ended or 1))


class GeneratedTextTarget(VocabularyTarget, Generated, Comparable, Confident):
    """A target that generates a text.

    transform: arguments of TransformConfig, the settings of a layer before the output weights; None for no layer.
    opening: ids of the tokens that begin every answer; None for the token that also begins a source, such as [CLS].
    banned: ids of the tokens that no answer has; None for all special tokens but the last one of a text.
    longest: maximum number of tokens of an answer; `learn` computes it.
    """

    readout = Continued()
    hub_tasks: ClassVar[Mapping[str, str]] = {"text": "text2text-generation"}
    primary_metric = "sentence_chrf"
    unbounded_metrics = ("bleu", "chrf")
    constant_rule = "always the commonest answer"

    def __init__(
        self,
        transform: dict[str, Any] | None = None,
        opening: Sequence[int] | None = None,
        banned: Sequence[int] | None = None,
        longest: int = 0,
    ) -> None:
        super().__init__(transform)
        self.settings = opening, banned
        self.longest = longest

    def bind(self, sources: Mapping[str, Source], transform: TransformConfig | None) -> None:
        """Store the text source of the arrow and `transform`; set the tokens that begin and end an answer by its tokenizer."""
        super().bind(sources, transform)
        tokenizer, (opening, banned) = self.source.tokenizer, self.settings
        self.opening = tokenizer.opening[:1] if opening is None else tuple(opening)
        self.end = tokenizer.end_id
        self.banned = tuple(set(tokenizer.special_ids) - {self.end}) if banned is None else tuple(banned)

    @property
    def learning(self) -> Learning:
        """Return the default length, learning rate and batch of a fit with new weights (see benchmarks/translating.py)."""
        return Learning(min_epochs=3, max_epochs=20, steps=4000, batch=128)

    def learn(self, answers: Sequence[str], balance: bool = False) -> None:
        """Learn the maximum number of tokens of an answer. Raises DataError if all answers are equal."""
        if len(set(answers)) == 1:
            raise DataError(f"all {len(answers)} answers are {shorten(answers[0])!r}; there is nothing to learn")
        longest = max(map(len, self.source.tokenizer.encode_ids(answers)), default=0)
        self.longest = max(self.longest, SHORTEST_LIMIT, round(LIMIT_FACTOR * longest))

    def answer_piece(self, tokens: Ints) -> Piece:
        """Return the piece of an answer with these tokens behind the opening ones; they are read causally."""
        ids = np.concatenate([np.asarray(self.opening, np.int64), np.asarray(tokens, np.int64)])
        special = np.arange(len(ids)) < len(self.opening)
        return Piece(self.kind, ids, np.arange(len(ids))[:, None], special, role=Role.CAUSAL)

    def encode(self, answer: str, pieces: Sequence[Piece]) -> Answer:
        """Return the tokens of a true answer and the token that ends it, each predicted at the token before it."""
        (tokens,) = self.source.tokenizer.encode_ids([answer])
        values = np.append(tokens.astype(np.int64), self.end)
        return Answer(values, np.arange(len(values)) + len(self.opening) - 1, self.answer_piece(tokens))

    def questions(self, pieces: Sequence[Piece]) -> Answer:
        """Return an answer without values that requests the prediction of the first token of the answer."""
        return Answer(
            np.zeros(1, np.int64), np.array([len(self.opening) - 1]), self.answer_piece(np.zeros(0, np.int64))
        )

    def to_value(self, tokens: Sequence[int]) -> str:
        """Return the text that token ids stand for."""
        return self.source.tokenizer.decode(np.asarray(tokens, np.int64)).strip()

    def loss(self, output: Tensor, values: Tensor) -> Tensor:
        """Return the cross-entropy of logits (m, v) against token ids (m,) with label smoothing, summed over tokens."""
        return cross_entropy(output, values, SMOOTHING)

    def validation_error(self, output: Tensor, values: Tensor) -> Tensor:
        """Return the cross-entropy of logits (m, v) against token ids (m,), summed over tokens, without label smoothing."""
        return cross_entropy(output, values)

    def decode(self, output: Tensor) -> list[dict[str, Any]]:
        """Return {"text", "probability", "log_probability", "ended"} for each answer.

        "probability" is that of a token on average, the geometric mean over the answer's tokens; "log_probability" is that of the
        whole answer, in nats; "ended" is "end", or "limit" if the answer reached the maximum number of tokens.
        output: (n, …), from `pack`.
        """
        return [
            {
                self.kind: self.to_value(answer.tokens),
                "probability": mean_probability(answer),
                "log_probability": answer.log_probability,
                "ended": "end" if answer.is_ended else "limit",
            }
            for answer in self.unpack(output)
        ]

    def confidence(self, output: Tensor) -> NDArray[np.float64]:
        """Return the probability of a token on average for each answer, (n,). output: (n, …), from `pack`."""
        return np.array([mean_probability(answer) for answer in self.unpack(output)], np.float64)

    def correctness(self, output: Tensor, answers: Sequence[str]) -> NDArray[np.float32]:
        """Return the chrF2 score of each answer on its own, (n,), from 0 to 1. output: (n, …), from `pack`."""
        return self.per_item_metric(output, answers)

    def notes(self, answers: Sequence[str]) -> list[str]:
        """Return no warnings: any answer can be generated."""
        return []

    def describe_metrics(self, answers: Sequence[str]) -> str:
        """Return the settings of BLEU and chrF for these true answers, as sacrebleu writes them."""
        tokenizer = choose_bleu_tokenizer(answers)
        return f"BLEU {generated_text.bleu_signature(tokenizer)}; chrF2 {generated_text.CHRF_SIGNATURE} (as sacrebleu)"

    def source_metrics(self, output: Tensor, answers: Sequence[str], sources: Sequence[str]) -> dict[str, Metric]:
        """Return the shares of numbers, names and word n-grams of the answers that their sources do not hold, by name.

        What most true answers add too, such as all n-grams of a translation, is left out.
        output: (n, …), from `pack`. sources: the values that the model read in each row, as text.
        """
        columns = [
            unsupported_counts([find_unsupported(*row) for row in zip(sources, texts, strict=True)])
            for texts in (answers, self._texts(output))
        ]
        return {
            f"unsupported_{name}": (share, *columns[1][name])
            for name, true_counts in columns[0].items()
            if share(*true_counts) < MAX_TRUE_SHARE and true_counts[1].any()
        }

    def _texts(self, output: Tensor) -> list[str]:
        """Return the text of each answer. output: (n, …), from `pack`."""
        return [self.to_value(answer.tokens) for answer in self.unpack(output)]

    def metrics(self, output: Tensor, answers: Sequence[str]) -> dict[str, Metric]:
        """Return mean chrF2 of the answers (0 to 1), BLEU and chrF2 of the corpus (0 to 100), ROUGE-L, exact matches (0 to 1).

        output: (n, …), from `pack`.
        """
        texts = self._texts(output)
        tokenize = BLEU_TOKENIZERS[choose_bleu_tokenizer(answers)]
        words = [list(map(tokenize_words, column)) for column in (texts, answers)]
        bleu_counts = generated_text.bleu_statistics(list(map(tokenize, texts)), list(map(tokenize, answers)))
        return {
            self.primary_metric: (intervals.mean_score, self.per_item_metric(output, answers).astype(np.float64)),
            "bleu": (generated_text.bleu, bleu_counts),
            "chrf": (generated_text.chrf, generated_text.chrf_statistics(texts, answers)),
            "rouge_l": (intervals.mean_score, generated_text.rouge_l(*words)),
            "exact_match": (intervals.mean_score, generated_text.exact_match(texts, answers)),
        }

    def per_item_metric(self, output: Tensor, answers: Sequence[str]) -> NDArray[np.float32]:
        """Return the chrF2 score of each answer on its own, (n,), from 0 to 1. output: (n, …), from `pack`."""
        counts = generated_text.chrf_statistics(self._texts(output), answers)
        return (generated_text.chrf_of_rows(counts) / 100).astype(np.float32)

    def baseline(self, answers: Sequence[str]) -> dict[str, Score]:
        """Return the share of answers that equal the commonest one."""
        ((commonest, _),) = Counter(answer.strip() for answer in answers).most_common(1)
        is_right = np.array([answer.strip() == commonest for answer in answers], np.float32)
        return {"exact_match": intervals.with_interval(intervals.mean_score, is_right)}

    def state(self) -> State:
        """Return the constructor's arguments."""
        return {
            **super().state(),
            "opening": list(self.opening),
            "banned": sorted(self.banned),
            "longest": self.longest,
        }
