"""The contract of targets whose answers are generated token by token, and the settings of decoding.

Legend of shapes: n answers.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Self

from mapsto.errors import UsageError
from mapsto.task.generation_rules import GenerationRules
from mapsto.task.source import Learning, Source
from mapsto.task.target import Metric, Target
from mapsto.task.target_capabilities import Free

if TYPE_CHECKING:
    from torch import Tensor

    from mapsto.model.config import ModelConfig
    from mapsto.sequence.batch import Answer
    from mapsto.sequence.piece import Ints, Piece
    from mapsto.task.arrow import Arrow


@dataclass(frozen=True)
class Decoding:
    """Settings of decoding: how the tokens of an answer are chosen from their probabilities.

    Raises UsageError for a value that a setting cannot have.
    """

    # Number of partial answers kept at each step of a beam search; 1 is greedy decoding, which keeps the likeliest token.
    beams: int = 1
    # Number of answers drawn at random for each example; 0: no sampling.
    samples: int = 0
    # Divides the logits before a token is drawn; below 1 likely tokens become likelier.
    temperature: float = 1.0
    # A token is drawn from the likeliest ones that together have this probability (nucleus sampling, Holtzman et al. 2020).
    top_p: float = 1.0
    # Maximum number of tokens of an answer; None for the target's own limit.
    longest: int | None = None
    # A beam's score is its log-probability divided by its number of tokens to this power; above 1 long answers gain.
    # None for the one of the model's generation_config.json, or else 1.
    length_penalty: float | None = None
    # Seed of the random numbers, with the row and the step.
    seed: int = 0
    # The texts that an answer can be; None for any.
    answers: Sequence[str] | None = None
    # For multilingual recognizers: the language that is spoken, such as "cs", and the task: "transcribe" writes what is said,
    # "translate" its English. None: each recording's own language, and what is said.
    language: str | None = None
    task: str | None = None
    # Whether an answer to a recording says when each phrase is said, or each word if the text is read along the sound.
    times: bool = False
    # Whether a recognizer that says when each phrase is said (Whisper) also says when each word is; needs `times`.
    words: bool = False
    # A JSON Schema, as the object in its file; every complete answer is JSON that it describes. None for any text.
    schema: Mapping[str, Any] | None = None
    # Texts like those that are said, for transcripts that are read along the sound: their spellings are preferred. None for none.
    language_model: Sequence[str] | None = None

    def __post_init__(self) -> None:
        for name, least in (("beams", 1), ("samples", 0), ("longest", 1), ("seed", 0)):
            value = getattr(self, name)
            is_whole = isinstance(value, Integral) and not isinstance(value, bool)
            if not (name == "longest" and value is None) and (not is_whole or value < least):
                raise UsageError(f"--{name} is a whole number from {least} on, not {value!r}")
        upper_limits = {"temperature": math.inf, "top_p": 1.0}
        for name, limits in (("temperature", "above 0 (greedy without --samples)"), ("top_p", "above 0 and up to 1")):
            value = getattr(self, name)
            if not isinstance(value, Real) or not 0 < float(value) <= upper_limits[name]:
                raise UsageError(f"--{name.replace('_', '-')} is a number {limits}, not {value!r}")
        if self.samples and self.beams > 1:
            raise UsageError("give --samples (drawn at random) or --beams (searched for), not both")
        if not self.samples and (self.temperature != 1 or self.top_p != 1):
            raise UsageError("--temperature and --top-p would change nothing without --samples")
        if self.answers is not None and self.schema is not None:
            raise UsageError("give --answers (a list of texts) or --schema (JSON), not both")
        if self.words and not self.times:
            raise UsageError("--words says when each word is said, beside the phrases of --times")
        if isinstance(self.language_model, str):
            raise UsageError("--language-model is a list of texts")
        if isinstance(self.answers, str) or (self.answers is not None and not self.answers):
            raise UsageError("--answers is a list of at least one text")

    def require_only(self, *names: str, what: str) -> None:
        """Raise UsageError if another setting than these differs from its default. what: the answers that they are for."""
        others = [entry.name for entry in fields(self) if entry.name not in names]
        if wrong := [name for name in others if getattr(self, name) != getattr(Decoding(), name)]:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in wrong)
            allowed = " and ".join(f"--{name.replace('_', '-')}" for name in names)
            raise UsageError(f"{flags} would change nothing for {what}; there is {allowed}")


@dataclass(frozen=True)
class GeneratedAnswer:
    """One generated answer.

    tokens: its token ids, without the tokens that begin it and without the end token.
    log_probability: logarithm of its probability, the sum over its tokens and the end token, in nats.
    is_ended: whether the end token ended it; False if it reached the maximum number of tokens.
    is_loop: whether it was stopped because it repeated its last tokens again and again.
    windows: for the answer to a recording, in seconds the begin of each window, and its tokens; empty if no times are asked for.
    token_ends: for the answer to a recording, in seconds the end of each token; empty if no times of words are asked for.
    """

    tokens: tuple[int, ...]
    log_probability: float
    is_ended: bool
    is_loop: bool = False
    windows: tuple[tuple[float, tuple[int, ...]], ...] = ()
    token_ends: tuple[float, ...] = ()


class Prompted(Source):
    """A source that encodes a value in another form where the value is the prompt of a generated answer."""

    # The content of the model's generation_config.json; None for no such file.
    generation: Mapping[str, Any] | None = None

    @abstractmethod
    def encode_prompts(self, values: Sequence[Any], aligned: bool = False) -> list[Piece]:
        """Return a piece for each value of an arrow with `is_prompted`, as `encode` does for other arrows."""

    @property
    @abstractmethod
    def opens_answers(self) -> bool:
        """Return whether the pieces of prompts end with what begins an answer."""


class Generated(Free):
    """A target whose answer is a sequence of tokens. Each is predicted from the sources and the tokens before it."""

    # The tokens that begin every answer; empty if the last source token predicts the first token.
    opening: tuple[int, ...]
    # The tokens that end an answer; the first of them ends every answer that is learnt.
    ends: tuple[int, ...]
    # The tokens that an answer cannot contain, such as padding.
    banned: tuple[int, ...]
    # Maximum number of tokens of an answer.
    longest: int
    # The rules of the model's generation_config.json.
    rules: GenerationRules = GenerationRules()
    # Whether answers lie behind their sources and take tokens of the same example; False for an encoder–decoder.
    shares_room: bool = True
    # Label smoothing (Szegedy et al. 2016): share of each label spread over the vocabulary. A training option, never saved.
    label_smoothing: float = 0.0

    @property
    @abstractmethod
    def learning(self) -> Learning:
        """Return the default length, learning rate and batch of a fit with new weights."""

    @property
    def joins_windows(self) -> bool:
        """Return whether the answer to a long value is joined of those to its windows, as a transcript is; loops are faults."""
        return False

    @property
    def num_forced(self) -> int:
        """Return the number of tokens at the end of `opening` that other libraries count as tokens of the answer: 0 or 1."""
        forced = self.rules.forced_bos_token_id
        return int(forced is not None and len(self.opening) > 1 and self.opening[-1] == forced)

    @classmethod
    @abstractmethod
    def of_published(cls, source: Source, answer_start: int | None) -> Self:
        """Return the target of a published model that generates values of this kind.

        source: the model's source, with its settings of generation. answer_start: the token that begins every answer of an
        encoder–decoder; None for a decoder-only model, whose answers go on with their source.
        """

    @abstractmethod
    def begin_with(self, tokens: Sequence[int]) -> None:
        """Let every answer begin with these tokens: the one of a published encoder–decoder, or none behind an opening prompt."""

    @abstractmethod
    def answer_piece(self, tokens: Ints) -> Piece:
        """Return the piece of an answer with these tokens behind the opening ones; they are read causally."""

    @abstractmethod
    def encode_generated(self, answer: GeneratedAnswer) -> Answer:
        """Return the tokens of a generated answer, and its end token if it ended, each predicted at the token before it."""

    @abstractmethod
    def log_probabilities(self, output: Tensor, values: Tensor) -> Tensor:
        """Return the log-probabilities (m,) of tokens as generation computes them, in nats.

        output: (m, …), of the head. values: (m,), token ids.
        """

    @abstractmethod
    def to_value(self, tokens: Sequence[int]) -> Any:
        """Return the value that token ids stand for, such as a text."""

    @abstractmethod
    def source_metrics(self, output: Tensor, answers: Sequence[Any], sources: Sequence[str]) -> dict[str, Metric]:
        """Return metrics, as `Target.metrics` does, that compare generated answers with what the model read.

        output: (n, …), from `pack`. answers: the true answers. sources: the values that were read in each row, as text.
        """

    @abstractmethod
    def unsupported_parts(
        self, output: Tensor, answers: Sequence[Any], sources: Sequence[str]
    ) -> list[tuple[str, ...]]:
        """Return for each generated answer its facts, such as numbers, that its source does not hold, as they are written.

        Arguments as for `source_metrics`.
        """

    @abstractmethod
    def num_unended(self, output: Tensor) -> int:
        """Return how many answers reached the maximum number of tokens before they ended. output: (n, …), from `pack`."""

    @abstractmethod
    def pack(self, answers: Sequence[GeneratedAnswer]) -> Tensor:
        """Return answers in one tensor (n, …), in the form of outputs from which `decode` and `metrics` read the values alone."""


class Searched(Target):
    """A target that is read from outputs at all tokens, of which settings of decoding choose the answer."""

    @abstractmethod
    def with_decoding(self, decoding: Decoding) -> Self:
        """Return a target with the same outputs that chooses its answers so. Raises UsageError for settings that it ignores."""


def bind_target(target: Target, sources: Mapping[str, Source], config: ModelConfig, arrow: Arrow) -> None:
    """Give a target what it needs of the sources, and of the model's configuration and arrow (see `Target.bind`)."""
    target.bind(sources, config.vocabulary_head)
    if not isinstance(target, Generated):
        return
    target.shares_room = config.answer_decoder is None
    prompt = sources[arrow.sources[0].kind]
    if config.answer_start is not None:
        target.begin_with((config.answer_start,))
    elif arrow.is_prompted and isinstance(prompt, Prompted) and prompt.opens_answers:
        target.begin_with(())
