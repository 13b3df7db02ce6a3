"""The contract of targets that can write what is said in a recording: with a language and a task, and with times."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from mapsto.task.generation import Generated, GeneratedAnswer, Searched


class Transcriber(Generated, Searched):
    """A generated target whose published models may be recognizers of speech, such as Whisper.

    Its `with_decoding` takes the language, the task and the times that settings of decoding ask for.
    """

    @property
    def has_languages(self) -> bool:
        """Return whether answers begin with one of several languages, of which none is chosen yet."""
        return len(self.rules.beginning) > 1

    @abstractmethod
    def beginnings(self, language: int, task: str | None) -> list[tuple[int, ...]]:
        """Return the sequences of tokens with which answers in a language may begin, one for each task.

        language: its token. task: the only task; None for all.
        """

    @abstractmethod
    def begin_transcripts(self, tokens: Sequence[int]) -> None:
        """Let every answer begin with these tokens too, such as those of a language and a task, without a choice."""

    @abstractmethod
    def describe_beginning(self) -> str:
        """Return the language and the task with which every answer begins, in words."""

    @abstractmethod
    def alignment_heads(self, layers: int, heads: int) -> list[tuple[int, int]]:
        """Return (layer, head) of the heads of cross-attention that attend to the moment of the token that they write.

        layers, heads: those of the decoder. Where the model names none, they are all heads of the upper half of layers.
        """

    @abstractmethod
    def words(self, answer: GeneratedAnswer) -> list[dict[str, Any]]:
        """Return {"start", "end", "text"} for each word of an answer, in seconds. answer: with its windows and token_ends."""

    @abstractmethod
    def phrases(self, answer: GeneratedAnswer) -> list[dict[str, Any]]:
        """Return {"start", "end", "text"} for each phrase of an answer with times, in seconds. answer: with its windows."""
