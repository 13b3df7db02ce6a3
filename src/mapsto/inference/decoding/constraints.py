"""Constraints on generated answers: a list of the allowed answers, or a JSON Schema.

A constraint says which tokens may follow the tokens of an answer so far. It keeps nothing for an answer that is being generated,
so that answers can be copied, as beams are, and given up at any time. A step costs a mask of the vocabulary for each answer:
with 49,152 tokens about 0.1 ms for a list of answers and 0.7 ms for a schema on one core.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mapsto.errors import RunError, UsageError, shorten
from mapsto.task.generation import Decoding, Generated
from mapsto.text.masked_text import VocabularyTarget

# Number of matchers of a schema that are kept, each for the beginning of an answer: several times as many as answers at once.
MATCHERS = 4096
# The JSON that is written: in one line, with or without a space behind commas and colons.
JSON_LAYOUT = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?", "lenient": False}

Mask = NDArray[np.bool_]


class Constraint(ABC):
    """The set of allowed answers, known by the tokens that may follow the beginning of one."""

    @abstractmethod
    def mask(self, tokens: Sequence[int]) -> Mask:
        """Return which tokens may follow these tokens of an answer: (v,), True for at least one of them.

        An end token may follow a complete answer.
        """


class AnswerTrie(Constraint):
    """The allowed answers as a trie of their tokens.

    answers: the tokens of each answer. ends: the tokens that end an answer. size: number of tokens of the vocabulary.
    """

    def __init__(self, answers: Iterable[Sequence[int]], ends: Collection[int], size: int) -> None:
        self.size = size
        self.root: dict[int, Any] = {}
        for tokens in answers:
            node = self.root
            for token in tokens:
                node = node.setdefault(int(token), {})
            node |= {end: {} for end in ends}

    def mask(self, tokens: Sequence[int]) -> Mask:
        node = self.root
        for token in tokens:
            node = node[token]
        is_allowed = np.zeros(self.size, np.bool_)
        is_allowed[list(node)] = True
        return is_allowed


class JsonSchema(Constraint):
    """The JSON values that a JSON Schema describes, by the library llguidance.

    tokenizer: content of tokenizer.json. ends: the tokens that end an answer. banned: tokens that no answer has.
    size: number of tokens of the vocabulary.
    Raises UsageError if llguidance is not installed, and for a tokenizer or a schema that it cannot use.
    """

    def __init__(
        self, schema: Mapping[str, Any], tokenizer: str, ends: Sequence[int], banned: Sequence[int], size: int
    ) -> None:
        llguidance = _import_llguidance()
        self.size, self.banned = size, list(banned)
        try:
            vocabulary = llguidance.LLTokenizer(tokenizer, n_vocab=size, eos_token=list(ends))
        except (ValueError, RuntimeError) as error:
            raise UsageError(f"--schema cannot be used with the tokenizer of this model: {error}") from error
        grammar = llguidance.LLMatcher.grammar_from_json_schema(dict(schema), overrides=JSON_LAYOUT)
        limits = llguidance.LLParserLimits(verbose_errors=False)
        matcher = llguidance.LLMatcher(vocabulary, grammar, log_level=0, limits=limits)
        # The matcher of each beginning of an answer, the latest last.
        self.matchers: dict[tuple[int, ...], Any] = {(): matcher}
        try:
            self.mask(())
        except RunError as error:
            raise UsageError(
                f"this --schema cannot be used: {matcher.get_error() or 'no JSON value satisfies it'}"
            ) from error

    def mask(self, tokens: Sequence[int]) -> Mask:
        matcher = self._matcher(tuple(tokens))
        bits = np.frombuffer(matcher.compute_bitmask(), np.uint8)
        is_allowed: Mask = np.unpackbits(bits, count=self.size, bitorder="little").astype(np.bool_)
        is_allowed[self.banned] = False
        # The mask of a matcher that has failed holds the end tokens alone.
        if matcher.is_error() or not is_allowed.any():
            raise RunError(f"an answer cannot be continued by this --schema: {matcher.get_error() or 'no token fits'}")
        return is_allowed

    def _matcher(self, tokens: tuple[int, ...]) -> Any:
        """Return the matcher that has read these tokens. It is a copy of that of all but the last token, if this one is kept."""
        if tokens not in self.matchers:
            prefix = tokens[:-1] if tokens[:-1] in self.matchers else ()
            matcher = self.matchers[prefix].deep_copy()
            matcher.consume_tokens(list(tokens[len(prefix) :]))
            self.matchers[tokens] = matcher
            if len(self.matchers) > MATCHERS:
                # The oldest one, behind that of no tokens.
                del self.matchers[next(beginning for beginning in self.matchers if beginning)]
        return self.matchers[tokens]


def make_constraint(decoding: Decoding | None, target: Generated) -> Constraint | None:
    """Return the constraint on the answers of a target that the settings of decoding ask for; None for none.

    Raises UsageError for an allowed answer that the target cannot generate, and for a schema that cannot be used.
    """
    if decoding is None or (decoding.answers is None and decoding.schema is None):
        return None
    if not isinstance(target, VocabularyTarget):
        raise UsageError(f"--answers and --schema are for answers that are text; {target.kind} is none")
    size = target.source.vocabulary
    if decoding.answers is not None:
        longest = decoding.longest or target.longest
        answers = [_answer_tokens(target, answer, row, longest) for row, answer in enumerate(decoding.answers, 1)]
        return AnswerTrie(answers, target.ends, size)
    assert decoding.schema is not None
    tokenizer = target.source.tokenizer.to_json()
    return JsonSchema(decoding.schema, tokenizer, target.ends, target.banned, size)


def _answer_tokens(target: Generated, answer: str, row: int, longest: int) -> list[int]:
    """Return the tokens of an allowed answer, without the end token.

    row: its number in the list, from 1. longest: maximum number of tokens of an answer.
    Raises UsageError for an answer without tokens, one that is too long, and one that these tokens do not give back.
    """
    name = f"answer {row} of --answers, {shorten(answer)!r},"
    tokens: list[int] = target.encode(answer, ()).values[:-1].tolist()
    if not tokens or not answer.strip():
        raise UsageError(f"{name} has no tokens; every line is one answer")
    # One more token is needed for its end.
    if len(tokens) >= longest:
        raise UsageError(
            f"{name} has {len(tokens)} tokens, and an answer at most {longest - 1}; allow more by --longest"
        )
    text = target.to_value(tokens)
    if text != answer.strip() or {*tokens} & {*target.ends, *target.banned}:
        raise UsageError(f"{name} cannot be generated: its tokens give {shorten(str(text))!r}")
    return tokens


def _import_llguidance() -> Any:
    """Import llguidance. Raises UsageError where it is not installed."""
    try:
        return importlib.import_module("llguidance")
    except ImportError as error:
        raise UsageError("--schema needs the package: pip install 'mapsto[schema]'") from error
