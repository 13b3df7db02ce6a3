"""Generation of answers token by token, for any number of examples, in bounded memory.

The sources are read in packed batches, without padding. Then every step computes one token of up to ANSWERS_AT_ONCE answers,
with the keys and values of earlier tokens from a cache. An answer that has ended gives its place to the next example.
An answer does not depend on the examples that are generated beside it, except by rounding in bf16.

Legend of shapes: b answers, n examples, k answers of an example, v vocabulary, d width.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mapsto.errors import UsageError
from mapsto.inference.decoding.constraints import Constraint
from mapsto.inference.decoding.joined_answers import JoinedAnswers, RowAnswers
from mapsto.inference.decoding.search import BeamSearch, Greedy, Sampling, Search, SearchRules
from mapsto.inference.forward import TOKENS_PER_BATCH, Report, decoded_target, iterate_chunks
from mapsto.inference.word_times import make_timer
from mapsto.model.kv_cache import KeyValueCache, KeyValueLayers
from mapsto.model.mapping import Mapping
from mapsto.sequence.batch import Batch, Example
from mapsto.sequence.packing import collate, make_batches
from mapsto.sequence.piece import Piece
from mapsto.task.generation import Decoding, Generated, GeneratedAnswer
from mapsto.task.generation_rules import GenerationRules
from mapsto.task.source_capabilities import Spoken

# How many answers are generated at the same time: more use the weights once for more tokens, and take more memory.
ANSWERS_AT_ONCE = 128
# New examples are read when at most this share of the places is taken. Answers that have ended keep their place in the cache
# until then, since taking them out copies the cache.
REFILL_SHARE = 0.75
# No further examples are read where the keys and values of their sources take so much memory (14 windows of 30 seconds of sound
# in Whisper tiny), once there are some.
MAX_MEMORY_BYTES, MIN_AT_ONCE = 2**28, 8
# Prompts that share at least so many of their first tokens, such as an instruction, have these read once for all.
MIN_SHARED_TOKENS = 16
# Number of tokens of a sequence that a transcript does not repeat when it is generated again because it ran in a loop.
LOOP_NGRAM = 3
# Examples in loops that are generated again together: more would be held in memory.
LOOPS_AT_ONCE = 16


def generate_answers(
    mapping: Mapping,
    examples: Iterable[Example],
    port: int,
    device: torch.device,
    decoding: Decoding | None = None,
    report: Report = lambda count: None,
    constraint: Constraint | None = None,
) -> Iterator[tuple[int, list[GeneratedAnswer]]]:
    """Yield (row of the example, its answers, the best first) of each example, as soon as its answers are complete.

    examples: with the questions of their target ports. port: the target port whose answers are generated.
    decoding: how tokens are chosen; by default greedily. With samples there are several answers to an example.
    report: called with the number of examples whose answers are complete.
    constraint: the answers that are allowed, from `make_constraint`; None for all.

    Several examples of a row are its windows, whose answers are joined. In a transcript (`Generated.joins_windows`) silence has
    no words, and an answer that runs in a loop is generated again, without the same words in the same order twice.
    """
    target = mapping.targets[port]
    assert isinstance(target, Generated)
    decoding = decoding or Decoding()
    generator = _Generator(mapping, port, decoding, device, constraint)
    measure = make_timer(mapping, port, generator.target, device) if decoding.words else None
    joined = JoinedAnswers(decoding.times, measure)
    numbered = joined.number(examples)
    if target.joins_windows:
        numbered = _answer_silence(mapping, joined, numbered, max(1, decoding.samples))
    loops: dict[int, Example] = {}

    def generate_again() -> None:
        if loops:
            again = _Generator(mapping, port, decoding, device, constraint, LOOP_NGRAM)
            for completed in again.run(loops.values()):
                for number, answers in completed:
                    joined.add(number, answers)
        loops.clear()

    with torch.inference_mode():
        for completed in generator.run(numbered):
            for number, answers in completed:
                if answers[0].is_loop:
                    loops[number] = replace(joined.examples[number], row=number)
                else:
                    joined.add(number, answers)
            yield from _report_rows(joined, report)
            if len(loops) >= LOOPS_AT_ONCE:
                generate_again()
        generate_again()
        # Also rows of which nothing was generated, since they are silent.
        yield from _report_rows(joined, report)


def _report_rows(joined: JoinedAnswers, report: Report) -> Iterator[RowAnswers]:
    """Yield the rows that are complete. report: called with the number of their examples."""
    for row_answers, num_examples in joined.completed():
        report(num_examples)
        yield row_answers


def _answer_silence(
    mapping: Mapping, joined: JoinedAnswers, examples: Iterable[Example], count: int
) -> Iterator[Example]:
    """Yield the examples that are not silent, and give `count` empty answers to the others."""
    for example in examples:
        spoken = [(mapping.sources[piece.kind], piece) for piece in example.pieces]
        if all(isinstance(source, Spoken) and source.is_silent(piece) for source, piece in spoken):
            joined.add(example.row, [GeneratedAnswer((), 0.0, True)] * count)
        else:
            yield example


def generate_rows(
    mapping: Mapping,
    examples: Iterable[Example],
    count: int,
    port: int,
    device: torch.device,
    report: Report = lambda count: None,
) -> Tensor:
    """Return the greedily generated answer of each of `count` rows in one tensor, as `Generated.pack` does."""
    target = mapping.targets[port]
    assert isinstance(target, Generated)
    answers = [GeneratedAnswer((), 0.0, False)] * count
    for row, (answer, *_) in generate_answers(mapping, examples, port, device, report=report):
        answers[row] = answer
    return target.pack(answers)


class TextPart(str):
    """A part of a text that is being generated. answer: with the last part, the whole answer as `predict` gives it."""

    answer: dict[str, Any] | None = None


def stream_text(
    mapping: Mapping,
    example: Example,
    device: torch.device,
    decoding: Decoding,
    constraint: Constraint | None = None,
) -> Iterator[TextPart]:
    """Yield the parts of the text that the first target generates greedily for an example, as soon as they are certain.

    decoding: without beams and samples. constraint: the answers that are allowed; None for all.
    """
    target = mapping.targets[0]
    assert isinstance(target, Generated)
    generator, text = _Generator(mapping, 0, decoding, device, constraint), ""
    with torch.inference_mode():
        for completed in generator.run([example]):
            tokens = completed[0][1][0].tokens if completed else generator.search.beginning(0)
            value = str(target.to_value(tokens))
            # A character of several tokens is decoded as U+FFFD until it is complete.
            is_certain = value.startswith(text) and (completed or not value.endswith("\ufffd"))
            part = TextPart(value[len(text) :] if is_certain else "")
            if completed:
                (part.answer,) = target.decode(target.pack([completed[0][1][0]]))
            if is_certain or completed:
                yield part
                text = value


class _Generator:
    """The answers that are being generated at the same time, each with its cache."""

    def __init__(
        self,
        mapping: Mapping,
        port: int,
        decoding: Decoding,
        device: torch.device,
        constraint: Constraint | None,
        unrepeated: int = 0,
    ) -> None:
        """unrepeated: number of tokens of a sequence that no answer repeats; 0 for the model's own rule."""
        target = decoded_target(mapping.targets[port], decoding)
        assert isinstance(target, Generated)
        self.mapping, self.port, self.target, self.device = mapping, port, target, device
        # A list of answers or a schema says all about the tokens of an answer.
        self.rules = target.rules if constraint is None else GenerationRules()
        if unrepeated:
            self.rules = replace(self.rules, no_repeat_ngram_size=unrepeated)
        stops_loops = target.joins_windows and not unrepeated
        rules = SearchRules(self.rules, target.ends, target.num_forced, stops_loops)
        self.search = make_search(decoding, target.ends, constraint, rules)
        self.longest = decoding.longest or target.longest
        self.banned = torch.tensor(target.banned, dtype=torch.long, device=device)
        self.cache: KeyValueCache | None = None
        # Examples that were read since the last step, and their states: they are joined at once, as each join copies all.
        self.admitted: list[tuple[KeyValueCache, Tensor]] = []
        self.states = torch.zeros(0)
        # For each answer its place in the cache, in which answers that have ended may stand too.
        self.places = torch.zeros(0, dtype=torch.long, device=device)

    def run(self, examples: Iterable[Example]) -> Iterator[list[tuple[int, list[GeneratedAnswer]]]]:
        """Yield the examples whose answers were completed by each step."""
        batches = self._batches(examples)
        places = max(1, ANSWERS_AT_ONCE // self.search.width)
        is_exhausted = False
        while True:
            while not is_exhausted and self.search.num_examples <= REFILL_SHARE * places and not self._is_full:
                following = next(batches, None)
                is_exhausted = following is None
                if following is not None:
                    self._admit(*following)
            if not self.search.num_examples:
                return
            yield self._step()

    @property
    def _is_full(self) -> bool:
        """Return whether the sources of the examples take all the memory that they may."""
        caches = [*([] if self.cache is None else [self.cache]), *(cache for cache, _ in self.admitted)]
        num_bytes = sum(cache.memory.nbytes for cache in caches if cache.memory is not None)
        return num_bytes > MAX_MEMORY_BYTES and self.search.num_examples >= MIN_AT_ONCE

    def _batches(self, examples: Iterable[Example]) -> Iterator[tuple[Batch, KeyValueLayers | None]]:
        """Yield (packed batch, keys and values of the beginning that its examples continue, or None).

        A batch has few examples, so that those which generate together are of similar length.
        """
        per_batch = max(1, ANSWERS_AT_ONCE // self.search.width // 2)
        for chunk in iterate_chunks(self.mapping, examples):
            chunk, beginning = self._read_beginning(chunk)
            ordered = sorted((self._question(example) for example in chunk), key=len)
            for first in range(0, len(ordered), per_batch):
                for batch in make_batches(ordered[first : first + per_batch], TOKENS_PER_BATCH):
                    yield batch, beginning

    def _read_beginning(self, examples: list[Example]) -> tuple[list[Example], KeyValueLayers | None]:
        """Return (examples without the tokens that all of them begin with, their keys and values); (examples, None) if few."""
        length = shared_length([example.pieces[0] for example in examples]) if self.mapping.can_share_beginnings else 0
        if length < MIN_SHARED_TOKENS:
            return examples, None
        beginning = Example((examples[0].pieces[0].select(np.arange(length)),))
        layers = self.mapping.read_beginning(collate([beginning]).to(self.device))
        rests = [
            replace(example, pieces=(_rest(example.pieces[0], length), *example.pieces[1:])) for example in examples
        ]
        return rests, layers

    def _question(self, example: Example) -> Example:
        """Return the example with a question of the generated port in place of its answers."""
        answers = [None] * len(self.mapping.targets)
        question = self.target.questions(example.pieces)
        return replace(example, answers=(*answers[: self.port], question, *answers[self.port + 1 :]))

    def _admit(self, batch: Batch, beginning: KeyValueLayers | None) -> None:
        """Read the sources of a packed batch, and add its examples to those whose answers are generated.

        beginning: keys and values of the tokens that the examples continue; None if they are complete.
        """
        batch = batch.to(self.device)
        states, cache = self.mapping.start_answers(batch, self.port, beginning)
        # An answer takes the places that the sources leave free.
        room = self.mapping.config.answer_stack.max_tokens - cache.lengths
        longest = self.longest - self.target.num_forced + len(self.rules.beginning)
        limits = room.clamp(max=max(1, longest)).tolist()
        if min(limits) < 1:
            raise UsageError("a source takes all tokens that the model reads, so there is no room for an answer")
        self.search.admit(batch.rows.tolist(), limits, self._contexts(batch) if self.rules.changes_logits else None)
        self.admitted.append((cache.repeat(self.search.width), states.repeat_interleave(self.search.width, 0)))

    def _join_admitted(self) -> None:
        """Add the caches and states of the examples that were read since the last step to those of the others."""
        if not self.admitted:
            return
        self._compact()
        caches, states = zip(*self.admitted, strict=True)
        self.admitted = []
        self.cache = KeyValueCache.join(caches if self.cache is None else (self.cache, *caches))
        self.states = torch.cat([self.states.to(states[0]), *states])
        self.places = torch.arange(len(self.states), device=self.device)

    def _contexts(self, batch: Batch) -> list[tuple[list[int], list[int]]]:
        """Return for each example the tokens that the writing stack reads before the answer, and those that an encoder reads."""
        kind, opening = self.target.kind, list(self.target.opening)
        # Values that are no tokens of the vocabulary, such as a picture, have none of it.
        flat = torch.full((batch.segments.numel(),), -1, dtype=torch.long, device=batch.segments.device)
        flat[batch.slots[kind]] = batch.tokens[kind].long()
        sources = [
            [token for token in flat[start : start + length].tolist() if token >= 0]
            for start, length in zip(batch.starts.tolist(), batch.lengths.tolist(), strict=True)
        ]
        return [([*source, *opening] if self.target.shares_room else opening, source) for source in sources]

    def _compact(self) -> None:
        """Take the answers that have ended out of the cache."""
        if self.cache is None or len(self.places) == len(self.states):
            return
        width = self.search.width
        # The memory of the sources has one entry for all answers of an example.
        self.cache = self.cache.select(self.places, self.places[::width] // width) if len(self.places) else None
        self.states = self.states[self.places]
        self.places = torch.arange(len(self.states), device=self.device)

    def _step(self) -> list[tuple[int, list[GeneratedAnswer]]]:
        """Choose the next token of every answer, and compute the states that predict the one after it.

        Return the examples whose answers are complete.
        """
        self._join_admitted()
        assert self.cache is not None
        logits = self.mapping.next_logits(self.states[self.places], self.port)
        logits[:, self.banned] = -torch.inf
        choice = self.search.choose(logits)
        if choice.parents is not None:
            self.cache.reorder(self.places, self.places[choice.parents])
        tokens = choice.tokens
        if choice.survivors is not None:
            survivors = choice.survivors.to(self.device)
            self.places, tokens = self.places[survivors], tokens[survivors]
            if len(self.places) <= REFILL_SHARE * len(self.states):
                self._compact()
        if len(self.places):
            all_tokens = tokens.new_zeros(len(self.states)).index_copy(0, self.places, tokens)
            self.cache.active = self.places
            self.states = self.mapping.next_states(all_tokens, self.target.kind, self.cache)
        return choice.completed


def shared_length(pieces: Sequence[Piece]) -> int:
    """Return how many first tokens are the same in all of several pieces, and less than any piece has; 0 for a single piece."""
    if len(pieces) < 2 or any(piece.tokens.ndim > 1 for piece in pieces):
        return 0
    tokens = pieces[0].tokens[: min(map(len, pieces)) - 1]
    for piece in pieces[1:]:
        differs = tokens != piece.tokens[: len(tokens)]
        tokens = tokens[: int(differs.argmax())] if differs.any() else tokens
    return len(tokens)


def _rest(piece: Piece, length: int) -> Piece:
    """Return a piece without its first `length` tokens, its positions counted from 0."""
    rest = piece.select(np.arange(length, len(piece)))
    return replace(rest, positions=rest.positions - length)


def make_search(
    decoding: Decoding, ends: Collection[int], constraint: Constraint | None = None, rules: SearchRules | None = None
) -> Search:
    """Return the search for answers that the settings of decoding describe.

    ends: the tokens that end an answer. constraint: the answers that are allowed; None for all.
    rules: the rules of the model's generation_config.json; None for none.
    """
    if decoding.samples:
        return Sampling(decoding, ends, constraint, rules)
    return BeamSearch(decoding, ends, constraint, rules) if decoding.beams > 1 else Greedy(ends, constraint, rules)
