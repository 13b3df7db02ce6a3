"""Searches for the answers of a generating model: which token follows, given the probabilities of all tokens.

A search knows the tokens of every answer that is being generated, and when an answer has ended; it knows no model. A
constraint limits the tokens among which it chooses. It changes no probability: those of an answer's tokens are the model's
own, so that a search finds the likeliest of the allowed answers, and an answer that is unlike the model's has a low one.
Legend of shapes: b answers, n examples, k answers of an example, v vocabulary.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from mapsto.inference.decoding.constraints import Constraint
from mapsto.sequence.corruption import make_generator
from mapsto.task.generation import Decoding, GeneratedAnswer
from mapsto.task.generation_rules import GenerationRules

# Separates the random numbers of the samples of a row; no answer has so many tokens.
MOST_STEPS = 2**20

# An answer whose last tokens, so many at least, are the same few, at least four times, is a loop, such as "ha, ha, ha, …".
LOOP_LENGTH, MIN_REPEATS = 24, 4

# The answers of complete examples, by the index of the example.
Answers = dict[int, list[GeneratedAnswer]]
# Next token of each answer (b,), the answer that each continues (b,) or None, and the answers of complete examples.
Step = tuple[Tensor, Tensor | None, Answers]


@dataclass(frozen=True)
class Choice:
    """The tokens that a step has chosen.

    tokens: (b,), the next token of each answer.
    parents: (b,), the answer that each answer continues; None if each continues itself.
    survivors: indices of the answers that go on; None if all do. completed: (row, answers) of the examples that are complete.
    """

    tokens: Tensor
    parents: Tensor | None
    survivors: Tensor | None
    completed: list[tuple[int, list[GeneratedAnswer]]]


@dataclass(frozen=True)
class SearchRules:
    """The rules of a model's generation_config.json in a search.

    rules: the rules. ends: the tokens that end an answer. num_forced: number of forced tokens that begin every answer and
    count as tokens of it. stops_loops: whether an answer ends that repeats its last tokens again and again.
    """

    rules: GenerationRules = GenerationRules()
    ends: tuple[int, ...] = ()
    num_forced: int = 0
    stops_loops: bool = False

    def apply(
        self, scores: Tensor, context: Sequence[int], source: Sequence[int], answer: Sequence[int], is_last: bool
    ) -> set[int]:
        """Change in place the scores of the next token of one answer as the rules say, and return the tokens that are banned.

        scores: (v,), logits or log-probabilities. context, source, answer: as for `GenerationRules.banned_after`.
        is_last: whether the answer reaches its maximum length with this token.
        """
        rules = self.rules
        if len(answer) < len(rules.beginning):
            allowed = list(rules.beginning[len(answer)])
            values = scores[allowed]
            scores.fill_(-torch.inf)
            scores[allowed] = values
            return set()
        if rules.repetition_penalty != 1 and context:
            repeated = torch.tensor(sorted(set(context)), device=scores.device)
            values = scores[repeated]
            scores[repeated] = torch.where(
                values < 0, values * rules.repetition_penalty, values / rules.repetition_penalty
            )
        if is_last and rules.forced_eos_token_id:
            scores.fill_(-torch.inf)
            # Certain, since no other token is possible.
            scores[list(rules.forced_eos_token_id)] = 0.0
            is_first = len(answer) == len(rules.beginning)
            return {*rules.suppress_tokens, *(rules.begin_suppress_tokens if is_first else ())}
        banned = rules.banned_after(context, source, answer, self.num_forced, self.ends)
        if rules.first_time is None:
            return banned
        scores[list(banned)] = -torch.inf
        self._apply_times(scores, answer[len(rules.beginning) :], rules.first_time)
        return set()

    def _apply_times(self, scores: Tensor, answer: Sequence[int], first: int) -> None:
        """Change the scores so that each phrase of a transcript stands between its times, which never fall (Radford et al. 2022).

        scores: (v,). answer: the tokens of the transcript so far. first: id of the token for the time 0.
        """
        last_is_time, former_is_time = (len(answer) >= place and answer[-place] >= first for place in (1, 2))
        # The token that says that no times are written.
        scores[first - 1] = -torch.inf
        if not answer:
            scores[:first] = -torch.inf
            scores[first + self.rules.max_initial_timestamp_index + 1 :] = -torch.inf
        elif last_is_time and (former_is_time or len(answer) == 1):
            scores[first:] = -torch.inf
        elif last_is_time:
            # A phrase has ended: the next one begins, or the transcript ends.
            ends = list(self.ends)
            values = scores[ends]
            scores[:first] = -torch.inf
            scores[ends] = values
        times = [token for token in answer if token >= first]
        if times:
            # The next phrase may begin when the last one ends, but a phrase takes some time.
            scores[first : times[-1] + (not last_is_time or former_is_time)] = -torch.inf
        # Where a time is likelier than any one word, it is taken.
        if scores[first:].logsumexp(0) > scores[:first].max():
            scores[:first] = -torch.inf


@dataclass
class _Draft:
    """An answer that is not complete: its tokens so far, and the sum of their log-probabilities."""

    tokens: list[int] = field(default_factory=list)
    log_probability: float = 0.0

    def finish(self, is_ended: bool) -> GeneratedAnswer:
        return GeneratedAnswer(tuple(self.tokens), self.log_probability, is_ended)

    @property
    def is_loop(self) -> bool:
        """Return whether the last LOOP_LENGTH tokens or more repeat the same few tokens."""
        tokens = self.tokens
        for size in range(1, LOOP_LENGTH // MIN_REPEATS + 1):
            # The last token alone rules most sizes out.
            is_candidate = len(tokens) >= LOOP_LENGTH + size and tokens[-1] == tokens[-1 - size]
            if is_candidate and tokens[-LOOP_LENGTH:] == tokens[-LOOP_LENGTH - size : -size]:
                return True
        return False


class Search(ABC):
    """The answers that are being generated, `width` of them for each example, in the order of the examples.

    ends: the tokens that end an answer. constraint: the tokens that an answer can have; None for all.
    rules: the rules of the model's generation_config.json; None for none.
    """

    width: int = 1
    # Whether rules change the log-probabilities of tokens; else their logits. The same in `transformers`.
    is_probabilistic: bool = False

    def __init__(
        self, ends: Collection[int], constraint: Constraint | None = None, rules: SearchRules | None = None
    ) -> None:
        self.ends, self.constraint, self.rules = frozenset(ends), constraint, rules or SearchRules()
        self.rows: list[int] = []
        self.limits: list[int] = []
        self.model_logits = torch.zeros(0)
        # For each example the tokens that the writing stack read before the answer, and those that an encoder read.
        self.contexts: list[tuple[list[int], list[int]]] = []
        # For each example its `width` answers so far.
        self.drafts: list[list[_Draft]] = []

    @property
    def num_examples(self) -> int:
        """Return the number of examples whose answers are being generated."""
        return len(self.rows)

    def admit(
        self,
        rows: Sequence[int],
        limits: Sequence[int],
        contexts: Sequence[tuple[list[int], list[int]]] | None = None,
    ) -> None:
        """Add examples.

        rows: their row numbers. limits: the largest number of tokens of the answer of each.
        contexts: for each the tokens before its answer, and those that an encoder read; needed if there are rules.
        """
        self.rows += rows
        self.limits += limits
        self.contexts += contexts or [([], [])] * len(rows)
        self._add(len(rows))

    def _add(self, count: int) -> None:
        """Begin the answers of `count` further examples."""
        self.drafts += [[_Draft() for _ in range(self.width)] for _ in range(count)]

    def beginning(self, example: int) -> list[int]:
        """Return the tokens so far of the first answer of an example."""
        return self.drafts[example][0].tokens

    def choose(self, logits: Tensor) -> Choice:
        """Choose the next token of every answer, and take out the examples that are complete.

        logits: (b, v); those of tokens that the constraint forbids are set to -inf.
        """
        normalizer = logits.logsumexp(dim=-1)
        # Rules change copies.
        self.model_logits = logits
        if self.rules.rules.changes_logits:
            logits = self._apply_rules(logits, normalizer)
        if self.constraint is not None:
            beginnings = (draft.tokens for drafts in self.drafts for draft in drafts)
            masks = np.stack([self.constraint.mask(tokens) for tokens in beginnings])
            logits.masked_fill_(torch.from_numpy(~masks).to(logits.device), -torch.inf)
        tokens, parents, answers = self._choose(logits, normalizer)
        completed = [(self.rows[example], answers[example]) for example in answers]
        survivors = self._keep([i for i in range(self.num_examples) if i not in answers]) if answers else None
        return Choice(tokens, parents, survivors, completed)

    def _apply_rules(self, logits: Tensor, normalizer: Tensor) -> Tensor:
        """Return the logits (b, v), changed as the rules say. normalizer: (b,), of `_choose`."""
        shift = normalizer[:, None] if self.is_probabilistic else 0.0
        scores = logits - shift
        banned: list[tuple[int, int]] = []
        for row, draft in enumerate(draft for drafts in self.drafts for draft in drafts):
            prompt, source = self.contexts[row // self.width]
            is_last = len(draft.tokens) + 1 >= self.limits[row // self.width]
            tokens = self.rules.apply(scores[row], [*prompt, *draft.tokens], source, draft.tokens, is_last)
            banned += ((row, token) for token in tokens)
        if banned:
            # All at once, as a step for each answer would take longer than the rules.
            rows, columns = torch.tensor(banned, device=scores.device).T
            scores[rows, columns] = -torch.inf
        return scores + shift

    def _is_cut(self, example: int, draft: _Draft) -> bool:
        """Return whether the next token ends an answer only because it is the last one that the limit allows."""
        return bool(self.rules.rules.forced_eos_token_id) and len(draft.tokens) + 1 >= self.limits[example]

    def _is_forced(self, draft: _Draft) -> bool:
        """Return whether the next token is one of those that begin an answer, such as its language, and not of its text."""
        return len(draft.tokens) < len(self.rules.rules.beginning)

    def _log_probabilities(self, tokens: Tensor, normalizer: Tensor) -> Tensor:
        """Return the model's own log-probabilities (b,) of tokens (b,), which no rule changes. normalizer: (b,)."""
        return self.model_logits.gather(1, tokens[:, None])[:, 0] - normalizer

    @abstractmethod
    def _choose(self, logits: Tensor, normalizer: Tensor) -> Step:
        """Choose the next token of every answer; return tokens and parents as in Choice, and the answers of complete examples.

        logits: (b, v), -inf for tokens that are not allowed.
        normalizer: (b,); a logit minus this is the logarithm of the token's probability.
        """

    def _keep(self, examples: Sequence[int]) -> Tensor:
        """Keep the examples at these indices; return the indices of their answers."""
        self.rows, self.limits = ([values[i] for i in examples] for values in (self.rows, self.limits))
        self.contexts = [self.contexts[example] for example in examples]
        self.drafts = [self.drafts[example] for example in examples]
        first = torch.tensor(examples, dtype=torch.long)[:, None] * self.width
        return (first + torch.arange(self.width)).flatten()


class Greedy(Search):
    """A search that takes the likeliest token at every step."""

    def _choose(self, logits: Tensor, normalizer: Tensor) -> Step:
        tokens = logits.argmax(dim=-1)
        log_probabilities = self._log_probabilities(tokens, normalizer)
        answers: Answers = {}
        steps = zip(self.drafts, tokens.tolist(), log_probabilities.tolist(), strict=True)
        for example, ((draft,), token, log_probability) in enumerate(steps):
            is_cut = self._is_cut(example, draft)
            draft.log_probability += 0.0 if is_cut or self._is_forced(draft) else log_probability
            if token not in self.ends:
                draft.tokens.append(token)
            if token in self.ends or len(draft.tokens) >= self.limits[example]:
                answers[example] = [draft.finish(token in self.ends and not is_cut)]
            elif self.rules.stops_loops and draft.is_loop:
                answers[example] = [replace(draft.finish(False), is_loop=True)]
        return tokens, None, answers


class Sampling(Search):
    """A search that draws `samples` answers of each example at random, from the likeliest tokens.

    The random numbers are a function of the seed, the row, the sample and the step.
    """

    def __init__(
        self,
        decoding: Decoding,
        ends: Collection[int],
        constraint: Constraint | None = None,
        rules: SearchRules | None = None,
    ) -> None:
        super().__init__(ends, constraint, rules)
        self.decoding, self.width = decoding, decoding.samples
        # For each example its complete samples, by their number.
        self.samples: list[dict[int, GeneratedAnswer]] = []

    def _add(self, count: int) -> None:
        super()._add(count)
        self.samples += [{} for _ in range(count)]

    def _keep(self, examples: Sequence[int]) -> Tensor:
        self.samples = [self.samples[example] for example in examples]
        return super()._keep(examples)

    def _choose(self, logits: Tensor, normalizer: Tensor) -> Step:
        sampled_tokens = self._draw(logits)
        tokens = sampled_tokens.tolist()
        token_scores = self._log_probabilities(sampled_tokens, normalizer).tolist()
        answers: Answers = {}
        for example, drafts in enumerate(self.drafts):
            for sample, draft in enumerate(drafts):
                if sample in self.samples[example]:
                    continue
                token = tokens[example * self.width + sample]
                is_cut = self._is_cut(example, draft)
                is_counted = not (is_cut or self._is_forced(draft))
                draft.log_probability += token_scores[example * self.width + sample] if is_counted else 0.0
                if token not in self.ends:
                    draft.tokens.append(token)
                if token in self.ends or len(draft.tokens) >= self.limits[example]:
                    self.samples[example][sample] = draft.finish(token in self.ends and not is_cut)
            if len(self.samples[example]) == self.width:
                answers[example] = [self.samples[example][sample] for sample in range(self.width)]
        return sampled_tokens, None, answers

    def _draw(self, logits: Tensor) -> Tensor:
        """Draw the next token of each answer, (b,), from its likeliest tokens, at the temperature of the settings."""
        scaled = (logits / self.decoding.temperature).double().softmax(dim=-1)
        probabilities, tokens = scaled.sort(dim=-1, descending=True, stable=True)
        cumulated = probabilities.cumsum(dim=-1)
        # The token with which the sum reaches top_p is the last one that is kept.
        is_kept = cumulated - probabilities < self.decoding.top_p
        cumulated = (probabilities * is_kept).cumsum(dim=-1)
        numbers = [
            make_generator(self.decoding.seed, row, sample * MOST_STEPS + len(draft.tokens)).random()
            for row, drafts in zip(self.rows, self.drafts, strict=True)
            for sample, draft in enumerate(drafts)
        ]
        heights = torch.tensor(numbers, dtype=torch.float64, device=logits.device) * cumulated[:, -1]
        places = torch.searchsorted(cumulated, heights[:, None], right=True)
        # Rounding must not lead behind the last token that is kept.
        last = (cumulated < cumulated[:, -1:]).sum(dim=-1, keepdim=True)
        return tokens.gather(1, torch.minimum(places, last))[:, 0]


class BeamSearch(Search):
    """A search that keeps the `beams` likeliest beginnings of each example's answer at every step.

    An answer's score is its log-probability divided by its number of tokens, the end token included, to the power of
    `length_penalty` (Wu et al. 2016, in the simpler form that most libraries use). An example is complete when it has as many
    answers as beams and no beginning can still score higher.
    """

    is_probabilistic = True

    def __init__(
        self,
        decoding: Decoding,
        ends: Collection[int],
        constraint: Constraint | None = None,
        rules: SearchRules | None = None,
    ) -> None:
        super().__init__(ends, constraint, rules)
        published = self.rules.rules
        self.width, self.early_stopping = decoding.beams, published.early_stopping
        self.penalty = published.length_penalty if decoding.length_penalty is None else decoding.length_penalty
        # For each example its ended answers with their scores, the best first, at most as many as beams.
        self.ended: list[list[tuple[float, GeneratedAnswer]]] = []

    def _add(self, count: int) -> None:
        # All beams begin alike, so that only the first one counts at the first step.
        self.drafts += [
            [_Draft([], 0.0 if beam == 0 else -torch.inf) for beam in range(self.width)] for _ in range(count)
        ]
        self.ended += [[] for _ in range(count)]

    def _keep(self, examples: Sequence[int]) -> Tensor:
        self.ended = [self.ended[example] for example in examples]
        return super()._keep(examples)

    def _choose(self, logits: Tensor, normalizer: Tensor) -> Step:
        num_tokens = logits.shape[-1]
        sums = [[draft.log_probability for draft in drafts] for drafts in self.drafts]
        scores = (logits - normalizer[:, None]).view(self.num_examples, self.width, num_tokens)
        scores = scores + torch.tensor(sums, device=logits.device)[:, :, None]
        # So many candidates that enough of them do not end their answer.
        num_candidates = min((1 + len(self.ends)) * self.width, self.width * num_tokens)
        best = scores.flatten(1).topk(num_candidates, dim=-1)
        tokens, parents = [], []
        answers: Answers = {}
        candidates = zip(best.values.tolist(), best.indices.tolist(), strict=True)
        for example, (values, indices) in enumerate(candidates):
            pairs = [(value, *divmod(index, num_tokens)) for value, index in zip(values, indices, strict=True)]
            beams = self._advance(example, pairs)
            tokens += [draft.tokens[-1] if draft.tokens else min(self.ends) for draft, _ in beams]
            parents += [example * self.width + parent for _, parent in beams]
            self.drafts[example] = [draft for draft, _ in beams]
            if self._is_complete(example):
                answers[example] = self._finished(example)
        device = logits.device
        return torch.tensor(tokens, device=device), torch.tensor(parents, device=device), answers

    def _advance(self, example: int, candidates: Sequence[tuple[float, int, int]]) -> list[tuple[_Draft, int]]:
        """Return the beams of an example after a step, as (beginning, beam that it continues), and note its ended answers.

        candidates: (log-probability, beam, token), the likeliest first.
        """
        beams: list[tuple[_Draft, int]] = []
        for rank, (log_probability, parent, token) in enumerate(candidates):
            # The rest are tokens that are not allowed, and beams that continue nothing.
            if log_probability == -torch.inf:
                break
            tokens = self.drafts[example][parent].tokens
            if token not in self.ends:
                draft = _Draft([*tokens, token], log_probability)
                beams.append((draft, parent))
                # An answer at its limit competes with those that have ended, as in other libraries.
                if rank < self.width and len(draft.tokens) >= self.limits[example]:
                    self._note(example, draft.finish(False), len(draft.tokens))
            elif rank < self.width:
                draft = _Draft(tokens, log_probability)
                self._note(example, draft.finish(not self._is_cut(example, draft)), len(tokens) + 1)
            if len(beams) == self.width:
                break
        # There may be fewer candidates than beams: with a tiny vocabulary, or with few allowed tokens.
        while len(beams) < self.width:
            beams.append((_Draft(list(beams[0][0].tokens) if beams else [], -torch.inf), 0))
        return beams

    def _note(self, example: int, answer: GeneratedAnswer, length: int) -> None:
        """Add a complete answer of an example, unless as many have a higher score. length: its tokens, with its end."""
        answers = self.ended[example]
        answers.append((self._score(answer.log_probability, length), answer))
        answers.sort(key=lambda entry: -entry[0])
        del answers[self.width :]

    def _is_complete(self, example: int) -> bool:
        """Return whether an example needs no further step: it is at its limit, or no beginning can still score higher."""
        best = self.drafts[example][0]
        if len(best.tokens) >= self.limits[example] or best.log_probability == -torch.inf:
            return True
        answers = self.ended[example]
        if len(answers) < self.width or self.early_stopping is True:
            return len(answers) == self.width
        is_longest = self.early_stopping == "never" and self.penalty > 0
        length = self.limits[example] if is_longest else len(best.tokens)
        return answers[-1][0] >= self._score(best.log_probability, length)

    def _score(self, log_probability: float, length: int) -> float:
        """Return the score by which answers are compared. length: number of tokens, the end token included."""
        return log_probability / math.pow(length + self.rules.num_forced, self.penalty)

    def _finished(self, example: int) -> list[GeneratedAnswer]:
        """Return the answers of a complete example, the best first; without any, its beginnings as they are."""
        answers = [answer for _, answer in self.ended[example]]
        drafts = self.drafts[example]
        return answers or [draft.finish(False) for draft in drafts if draft.log_probability > -torch.inf]
