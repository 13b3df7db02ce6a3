"""Text as an answer that is generated token by token: translations, summaries, dialogue, answers in words.

The target's head predicts each token of the answer from the hidden state of the token before it, and at the end a token that
ends the answer.
Legend of shapes: n answers, m tokens of answers, v vocabulary.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mapsto.errors import DataError, UsageError, shorten
from mapsto.model.layers import TransformConfig
from mapsto.model.vocabulary_head import cross_entropy
from mapsto.sequence.batch import Answer
from mapsto.sequence.piece import Ints, Piece, Role
from mapsto.task.generation import Decoding, GeneratedAnswer
from mapsto.task.generation_rules import ENGLISH, LANGUAGES, NO_TIMES, TASKS, GenerationRules, choose_token, read_rules
from mapsto.task.readout import Continued
from mapsto.task.source import Learning, Source
from mapsto.task.source_capabilities import Spoken
from mapsto.task.target import Metric, State
from mapsto.task.target_capabilities import Attributable
from mapsto.task.transcription import Transcriber
from mapsto.text.masked_text import Vocabulary, VocabularyTarget
from mapsto.text.pairs.unsupported import Unsupported, find_unsupported, share, unsupported_counts
from mapsto.text.text_scores import ScoredTexts
from mapsto.text.transcripts.words import find_words

# The reason why an answer ended that was stopped at the maximum number of tokens.
LIMIT = "limit"
# An answer may have this many times the tokens of the longest training answer, and at least SHORTEST_LIMIT.
LIMIT_FACTOR, SHORTEST_LIMIT = 1.5, 32
# That of an answer to a sound: the tokens that a published recognizer writes for 30 seconds.
SPOKEN_LIMIT = 448
# That of a published model whose folder states none.
PUBLISHED_LIMIT = 256

# The setting of a recognizer of speech (Whisper) that names heads of cross-attention.
ALIGNMENT_HEADS = "alignment_heads"

# Seconds between two tokens of times.
TIME_STEP = 0.02

# Answers that are compared with what the vocabulary makes of them.
NUM_CHECKED = 1000

# Shares of what an answer adds to its source are shown where the true answers themselves add less than this share.
MAX_TRUE_SHARE = 0.2
# Columns of an answer in a tensor, before the code points of its text: log-probability, number of tokens with the end token, and
# whether the end token ended it (1) or not (0).
NUM_FACTS = 3
# Fills the columns after the last character of an answer.
NO_CHARACTER = -1


@dataclass(frozen=True)
class GeneratedText:
    """A text, and how it was generated: its log-probability in nats, its number of tokens, and whether the end token ended it."""

    text: str
    log_probability: float
    num_tokens: int
    is_ended: bool

    @property
    def mean_probability(self) -> float:
        """The geometric mean of the probabilities of the tokens, the end token included."""
        return math.exp(self.log_probability / max(1, self.num_tokens))


def _pack(answers: Sequence[GeneratedText]) -> Tensor:
    """Return texts in one tensor (n, NUM_FACTS + characters of the longest), as numbers that need no vocabulary."""
    longest = max((len(answer.text) for answer in answers), default=0)
    packed = torch.full((len(answers), NUM_FACTS + longest), float(NO_CHARACTER), dtype=torch.float64)
    for row, answer in zip(packed, answers, strict=True):
        characters = list(map(ord, answer.text))
        facts = [answer.log_probability, answer.num_tokens, answer.is_ended]
        row[: NUM_FACTS + len(characters)] = torch.tensor([*facts, *characters], dtype=torch.float64)
    return packed


def _unpack(packed: Tensor) -> list[GeneratedText]:
    """Return the texts of which `_pack` made a tensor."""
    answers = []
    for log_probability, num_tokens, is_ended, *characters in packed.tolist():
        text = "".join(chr(int(code)) for code in characters if code != NO_CHARACTER)
        answers.append(GeneratedText(text, log_probability, int(num_tokens), bool(is_ended)))
    return answers


def _supported_kinds(answers: Sequence[str], sources: Sequence[str]) -> list[str]:
    """Return those of "numbers", "names" and "ngrams" of which most in the true answers stand in their sources too."""
    counts = unsupported_counts([find_unsupported(*row) for row in zip(sources, answers, strict=True)])
    return [kind for kind, pair in counts.items() if share(*pair) < MAX_TRUE_SHARE and pair[1].any()]


class GeneratedTextTarget(VocabularyTarget, ScoredTexts, Transcriber, Attributable):
    """A target that generates a text.

    transform: arguments of TransformConfig, the settings of a layer before the output weights; None for no layer.
    opening: ids of the tokens that begin every answer; None for the token that also begins a source, such as [CLS].
    ends: ids of the tokens that end an answer; None for the one that ends every text.
    banned: ids of the tokens that no answer has; None for all special tokens but the last one of a text.
    longest: maximum number of tokens of an answer; `learn` computes it.
    """

    readout = Continued()
    hub_tasks: ClassVar[Mapping[str, str]] = {"text": "text2text-generation"}
    score_unit = "log-probability"

    def __init__(
        self,
        transform: dict[str, Any] | None = None,
        opening: Sequence[int] | None = None,
        ends: Sequence[int] | None = None,
        banned: Sequence[int] | None = None,
        longest: int = 0,
    ) -> None:
        super().__init__(transform)
        self.settings = opening, ends, banned
        self.longest = longest
        # The target of a baseline has no vocabulary, and only scores texts.
        self.is_bound = False

    def bind(self, sources: Mapping[str, Source], transform: TransformConfig | None) -> None:
        """Store the text source of the arrow and `transform`; set the tokens that begin and end an answer by its tokenizer."""
        super().bind(sources, transform)
        self.is_spoken = any(isinstance(source, Spoken) for source in sources.values())
        self.rules = read_rules(self.source.generation, self.source.vocabulary)
        tokenizer, (opening, ends, banned) = self.source.tokenizer, self.settings
        turn_end = self.source.turn_end
        ends = (tokenizer.end_id if turn_end is None else turn_end,) if ends is None else ends
        # A chat model ends its turns by the token of its template, which its folder may not name among the end tokens.
        self.ends, self.is_bound = tuple(dict.fromkeys((*([] if turn_end is None else [turn_end]), *ends))), True
        # Without a token behind every text, as in decoder-only models, the end token also separates a source from its answer.
        separator = tokenizer.opening[:1] if tokenizer.closing else self.ends[:1]
        self.opening = separator if opening is None else tuple(opening)
        if opening is not None:
            # It has the tokens that begin a transcript, such as its language.
            self.rules = replace(self.rules, beginning=())
        self.banned = tuple(set(tokenizer.special_ids) - {*self.ends}) if banned is None else tuple(banned)

    @property
    def joins_windows(self) -> bool:
        """Return whether a source is a sound, of which each window is transcribed."""
        return self.is_spoken

    @classmethod
    def of_published(cls, source: Source, answer_start: int | None) -> Self:
        """Return the target of a published model; its end tokens and longest answer are those of generation_config.json."""
        settings = cast(Vocabulary, source).generation or {}
        ends = settings.get("eos_token_id")
        ends = [ends] if isinstance(ends, int) else ends
        limit = settings.get("max_new_tokens")
        if answer_start is not None and limit is None and isinstance(settings.get("max_length"), int):
            # This one counts the token that begins an answer, but for recognizers of speech (Whisper).
            limit = settings["max_length"] - (NO_TIMES not in settings)
        longest = limit if isinstance(limit, int) and limit > 0 else PUBLISHED_LIMIT
        # An encoder–decoder is told the tokens that begin its answers by `begin_with`.
        return cls(opening=[] if answer_start is None else None, ends=ends or None, banned=[], longest=longest)

    def begin_with(self, tokens: Sequence[int]) -> None:
        """Let every answer begin with these tokens, unless the target was opened with other ones.

        Behind the token of an encoder–decoder stands the one that its generation_config.json forces, such as a language, or
        those that begin a transcript if there is no choice among them.
        """
        if self.settings[0] is not None:
            return
        forced, beginning = self.rules.forced_bos_token_id, self.rules.beginning
        self.opening = (*tokens, *([] if forced is None or not tokens else [forced]))
        if tokens and all(len(choices) == 1 for choices in beginning):
            self.begin_transcripts([choices[0] for choices in beginning])

    def begin_transcripts(self, tokens: Sequence[int]) -> None:
        """Let every answer begin with these tokens too, such as those of a language and a task, without a choice."""
        self.opening, self.rules = (*self.opening, *tokens), replace(self.rules, beginning=())
        # Kept when the target is bound again.
        self.settings = (self.opening, *self.settings[1:])

    def with_decoding(self, decoding: Decoding) -> Self:
        """Return a target whose answers begin with a language and a task, and say when each phrase is said, if asked to.

        Raises UsageError for a language or a task that the model does not know, and for a model without such a choice.
        """
        target = copy.copy(self)
        if decoding.language is not None or decoding.task is not None:
            target.rules = self._narrow_rules(decoding.language, decoding.task)
            if all(len(choices) == 1 for choices in target.rules.beginning):
                target.begin_transcripts([choices[0] for choices in target.rules.beginning])
        if target.has_languages and (decoding.answers is not None or decoding.schema is not None):
            raise UsageError("a recognizer of several languages takes --answers and --schema with --language")
        if decoding.times:
            target._write_times()
        return target

    def _narrow_rules(self, language: str | None, task: str | None) -> GenerationRules:
        """Return the rules by which answers begin only with this language and task; None for any, and for what is said."""
        if not self.has_languages:
            raise UsageError("this model knows one language and task, so --language and --task have nothing to choose")
        languages, tasks, *rest = self.rules.beginning
        if language is not None:
            languages = (choose_token(self.source.generation, LANGUAGES, language),)
        if task is not None:
            tasks = (choose_token(self.source.generation, TASKS, task),)
        return replace(self.rules, beginning=(languages, tasks, *rest))

    def _write_times(self) -> None:
        """Let answers say when each phrase is said. Raises UsageError for a model that does not write times."""
        no_times = (self.source.generation or {}).get(NO_TIMES)
        if no_times is None or not self.is_spoken:
            raise UsageError(
                "--times is for recognizers of speech that write times (Whisper, or a text read along a sound)"
            )
        self.opening = tuple(token for token in self.opening if token != no_times)
        beginning = tuple(tokens for tokens in self.rules.beginning if tokens != (no_times,))
        self.rules = replace(self.rules, beginning=beginning, first_time=no_times + 1)

    def beginnings(self, language: int, task: str | None) -> list[tuple[int, ...]]:
        """Return the sequences of tokens with which answers in a language may begin, one for each task.

        language: its token. task: the only task; None for all.
        """
        _, _, *rest = self.rules.beginning
        settings = self.source.generation or {}
        tasks, is_english = settings[TASKS], settings[LANGUAGES].get(ENGLISH) == language
        # Of English, the English is what is said.
        ids = [tasks[task or "transcribe"]] if task is not None or is_english else tasks.values()
        return [(language, token, *(choices[0] for choices in rest)) for token in ids]

    def phrases(self, answer: GeneratedAnswer) -> list[dict[str, Any]]:
        """Return {"start", "end", "text"} for each phrase of an answer with times, in seconds. answer: with its windows."""
        first = int((self.source.generation or {})[NO_TIMES]) + 1
        phrases: list[dict[str, Any]] = []
        for begin, tokens in answer.windows:
            start = end = 0.0
            words: list[int] = []
            # A phrase that the limit of tokens cut has no end of its own.
            for token in [*tokens, first - 1]:
                end = (token - first) * TIME_STEP if token >= first else end
                if token >= first - 1 and words:
                    text = self.to_value(words)
                    phrases += [
                        {"start": round(begin + start, 2), "end": round(begin + max(start, end), 2), "text": text}
                    ]
                    words = []
                if token >= first:
                    start = end
                elif token != first - 1:
                    words.append(token)
        return [phrase for phrase in phrases if any(map(str.isalnum, phrase["text"]))]

    def alignment_heads(self, layers: int, heads: int) -> list[tuple[int, int]]:
        """Return (layer, head) of the heads that attend to the moment of the token that they write; see `Transcriber`."""
        setting = (self.source.generation or {}).get(ALIGNMENT_HEADS)
        try:
            pairs = [(int(layer), int(head)) for layer, head in setting or ()]
        except (TypeError, ValueError):
            pairs = []
        if pairs and all(0 <= layer < layers and 0 <= head < heads for layer, head in pairs):
            return pairs
        return [(layer, head) for layer in range(layers // 2, layers) for head in range(heads)]

    def words(self, answer: GeneratedAnswer) -> list[dict[str, Any]]:
        """Return {"start", "end", "text"} for each word of an answer, in seconds; see `Transcriber`."""
        first, count = int((self.source.generation or {})[NO_TIMES]) + 1, 0
        words: list[dict[str, Any]] = []
        for begin, tokens in answer.windows:
            ends = (begin, *answer.token_ends[count : count + len(tokens)])
            count += len(tokens)
            words += find_words(self.source.tokenizer, tokens, ends, min(first - 1, self.source.tokenizer.size))
        return words

    def describe_beginning(self) -> str:
        """Return the language and the task with which every answer begins, in words."""
        settings = self.source.generation or {}
        names = [
            f"{noun} {name.strip('<|>')}"
            for noun, key in (("language", LANGUAGES), ("task", TASKS))
            for name, token in settings.get(key, {}).items()
            if token in self.opening
        ]
        return ", ".join(names)

    @property
    def learning(self) -> Learning:
        """Return the default length, learning rate and batch of a fit with new weights (see benchmarks/translating.py)."""
        return Learning(min_epochs=3, max_epochs=40, steps=3000, batch=64)

    def learn(self, answers: Sequence[str], balance: bool = False) -> None:
        """Learn the maximum number of tokens of an answer. Raises DataError if all answers are equal."""
        if len(set(answers)) == 1:
            raise DataError(f"all {len(answers)} answers are {shorten(answers[0])!r}; there is nothing to learn")
        if not self.is_bound:
            return
        longest = max(map(len, self.source.tokenizer.encode_literally(answers)), default=0)
        self.longest = max(self.longest, SHORTEST_LIMIT, round(LIMIT_FACTOR * longest))
        if self.is_spoken and not self.shares_room:
            # A long recording is read in windows with more words than a short one that was learnt from.
            self.longest = max(self.longest, SPOKEN_LIMIT)

    def answer_piece(self, tokens: Ints) -> Piece:
        """Return the piece of an answer with these tokens behind the opening ones; they are read causally."""
        ids = np.concatenate([np.asarray(self.opening, np.int64), np.asarray(tokens, np.int64)])
        special = np.arange(len(ids)) < len(self.opening)
        return Piece(self.kind, ids, np.arange(len(ids))[:, None], special, role=Role.CAUSAL)

    def encode(self, answer: str, pieces: Sequence[Piece]) -> Answer:
        """Return the tokens of a true answer and the token that ends it, each predicted at the token before it."""
        (tokens,) = self.source.tokenizer.encode_literally([answer])
        return self.encode_generated(GeneratedAnswer(tuple(tokens.tolist()), 0.0, True))

    def encode_generated(self, answer: GeneratedAnswer) -> Answer:
        """Return the tokens of an answer, and its end token if it ended, each predicted at the token before it."""
        values = np.array([*answer.tokens, *self.ends[: int(answer.is_ended)]], np.int64)
        places = np.arange(len(values)) + len(self.opening) - 1
        return Answer(values, places, self.answer_piece(np.array(answer.tokens, np.int64)))

    def questions(self, pieces: Sequence[Piece]) -> Answer:
        """Return an answer without values that requests the prediction of the first token of the answer."""
        return Answer(
            np.zeros(1, np.int64), np.array([len(self.opening) - 1]), self.answer_piece(np.zeros(0, np.int64))
        )

    def log_probabilities(self, output: Tensor, values: Tensor) -> Tensor:
        """Return the log-probabilities (m,) of tokens in nats. output: (m, v), logits. values: (m,), token ids."""
        is_banned = torch.zeros(output.shape[-1], dtype=torch.bool, device=output.device)
        is_banned[list(self.banned)] = True
        log_probabilities = output.float().masked_fill(is_banned, -torch.inf).log_softmax(-1)
        return log_probabilities.gather(1, values[:, None])[:, 0]

    def answer_score(self, output: Tensor, reference: Tensor) -> Tensor:
        """Return the log-probability (n,) of fixed answers, or of some of their tokens, in nats.

        output: (n, k), the log-probabilities of the tokens of each answer, padded with 0.
        reference: (n, k'), 1 for each token that counts, else 0; k and k' differ by padding.
        """
        length = min(output.shape[1], reference.shape[1])
        return (output[:, :length] * reference[:, :length]).sum(1)

    def to_value(self, tokens: Sequence[int]) -> str:
        """Return the text that token ids stand for."""
        # Published tables often have more rows than there are tokens; such a row stands for nothing. Times are no text, although
        # some vocabularies do not mark their tokens as special.
        tokenizer = self.source.tokenizer
        limit = tokenizer.size if self.rules.first_time is None else min(tokenizer.size, self.rules.first_time)
        return tokenizer.decode([token for token in tokens if token < limit]).strip()

    def loss(self, output: Tensor, values: Tensor) -> Tensor:
        """Return the cross-entropy of logits (m, v) against token ids (m,) with label smoothing, summed over tokens."""
        return cross_entropy(output, values, self.label_smoothing)

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
                self.kind: answer.text,
                "probability": answer.mean_probability,
                "log_probability": answer.log_probability,
                "ended": "end" if answer.is_ended else LIMIT,
            }
            for answer in _unpack(output)
        ]

    def confidence(self, output: Tensor) -> NDArray[np.float64]:
        """Return the probability of a token on average for each answer, (n,). output: (n, …), from `pack`."""
        return np.array([answer.mean_probability for answer in _unpack(output)], np.float64)

    def notes(self, answers: Sequence[str]) -> list[str]:
        """Return a warning if the vocabulary does not give some answers back, such as one that folds case."""
        if not self.is_bound:
            return []
        sample = [answer for answer in answers[:NUM_CHECKED] if (self._reconstruct(answer)) != " ".join(answer.split())]
        if not sample:
            return []
        share = 100 * len(sample) / len(answers[:NUM_CHECKED])
        return [
            f"the vocabulary cannot write {share:.0f} % of the answers as they are: {shorten(sample[0])!r} becomes "
            f"{shorten(self._reconstruct(sample[0]))!r}"
        ]

    def _reconstruct(self, answer: str) -> str:
        """Return an answer as the vocabulary writes it, with single spaces."""
        (tokens,) = self.source.tokenizer.encode_literally([answer])
        return " ".join(self.to_value(tokens.tolist()).split())

    def source_metrics(self, output: Tensor, answers: Sequence[str], sources: Sequence[str]) -> dict[str, Metric]:
        """Return the shares of numbers, names and word n-grams of the answers that their sources do not hold, by name.

        What most true answers add too, such as all n-grams of a translation, is left out.
        output: (n, …), from `pack`. sources: the values that the model read in each row, as text.
        """
        if self.is_spoken:
            return {}
        rows = self._unsupported(output, sources)
        counts = unsupported_counts(rows)
        return {f"unsupported_{kind}": (share, *counts[kind]) for kind in _supported_kinds(answers, sources)}

    def unsupported_parts(
        self, output: Tensor, answers: Sequence[str], sources: Sequence[str]
    ) -> list[tuple[str, ...]]:
        """Return for each answer its numbers and names that its source does not hold.

        What most true answers add too, such as the nouns of a German translation, is left out.
        output: (n, …), from `pack`. sources: the values that the model read in each row, as text.
        """
        if self.is_spoken:
            return [()] * len(sources)
        kinds = [kind for kind in ("numbers", "names") if kind in _supported_kinds(answers, sources)]
        rows = self._unsupported(output, sources)
        return [tuple(part for kind in kinds for part in getattr(row, kind)) for row in rows]

    def _unsupported(self, output: Tensor, sources: Sequence[str]) -> list[Unsupported]:
        """Return what each generated answer adds to its source."""
        return [find_unsupported(*row) for row in zip(sources, self.texts(output), strict=True)]

    def num_unended(self, output: Tensor) -> int:
        """Return how many answers reached the maximum number of tokens before they ended. output: (n, …), from `pack`."""
        return sum(not answer.is_ended for answer in _unpack(output))

    def pack(self, answers: Sequence[GeneratedAnswer]) -> Tensor:
        """Return answers in one tensor, (n, NUM_FACTS + characters of the longest)."""
        return _pack(
            [
                GeneratedText(
                    self.to_value(answer.tokens),
                    answer.log_probability,
                    len(answer.tokens) - len(self.rules.beginning) + answer.is_ended,
                    answer.is_ended,
                )
                for answer in answers
            ]
        )

    def pack_values(self, values: Sequence[str]) -> Tensor:
        """Return texts that were not generated in the form of outputs, with a probability of 1."""
        return _pack([GeneratedText(text, 0.0, 0, True) for text in values])

    def texts(self, output: Tensor) -> list[str]:
        """Return the text of each answer. output: (n, …), from `pack`."""
        return [answer.text for answer in _unpack(output)]

    def state(self) -> State:
        """Return the constructor's arguments."""
        bound = [list(self.opening), list(self.ends), sorted(self.banned)] if self.is_bound else self.settings
        opening, ends, banned = bound
        return {**super().state(), "opening": opening, "ends": ends, "banned": banned, "longest": self.longest}
