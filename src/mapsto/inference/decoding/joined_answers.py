"""Generated answers of rows that are read in windows, such as long recordings: those of the windows, one behind the other.

The examples of a row follow each other, and their answers come in any order. A row is complete when all of its examples have
been read and answered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from mapsto.sequence.batch import Example
from mapsto.task.generation import GeneratedAnswer

# The number of a row's first window is the row, on which random numbers depend; that of its next window is so much higher.
WINDOW_STRIDE = 2**32

# Returns the seconds at which each token of the answer to an example ends.
Measure = Callable[[Example, GeneratedAnswer], tuple[float, ...]]

# A row and its answers, the best first.
RowAnswers = tuple[int, list[GeneratedAnswer]]


class JoinedAnswers:
    """The answers of rows as they are completed.

    examples: in flight, by their number, with their own rows. keep_windows: whether answers keep the begin of each window.
    measure: returns the end of each token of an answer; None if they are not asked for.
    """

    def __init__(self, keep_windows: bool = False, measure: Measure | None = None) -> None:
        self.keep_windows, self.measure = keep_windows, measure
        self.examples: dict[int, Example] = {}
        self.rows: dict[int, list[int]] = {}  # the numbers of each row's examples
        self.answers: dict[int, list[GeneratedAnswer]] = {}
        self.open_row: int | None = None  # further examples of this row may follow

    def number(self, examples: Iterable[Example]) -> Iterator[Example]:
        """Yield the examples with numbers of their own in place of their rows."""
        for example in examples:
            self.open_row = example.row
            numbers = self.rows.setdefault(example.row, [])
            number = example.row + len(numbers) * WINDOW_STRIDE
            numbers.append(number)
            self.examples[number] = example
            yield replace(example, row=number)
        self.open_row = None

    def add(self, number: int, answers: list[GeneratedAnswer]) -> None:
        """Add the answers of an example."""
        example = self.examples.pop(number)
        if self.keep_windows:
            alignment = example.pieces[0].alignment
            assert alignment is not None, "windows are aligned where times are asked for"
            begin = float(alignment.regions[0, 0, 0])
            answers = [replace(answer, windows=((begin, answer.tokens),)) for answer in answers]
        if self.measure is not None:
            answers = [replace(answer, token_ends=self.measure(example, answer)) for answer in answers]
        self.answers[number] = answers

    def completed(self) -> Iterator[tuple[RowAnswers, int]]:
        """Yield, once, each complete row with its joined answers, and its number of examples."""
        for row in [row for row in self.rows if row != self.open_row]:
            numbers = self.rows[row]
            if all(number in self.answers for number in numbers):
                parts = [self.answers.pop(number) for number in numbers]
                del self.rows[row]
                yield (row, [join(answers) for answers in zip(*parts, strict=True)]), len(numbers)


def join(parts: Sequence[GeneratedAnswer]) -> GeneratedAnswer:
    """Return the answers of consecutive windows as one."""
    if len(parts) == 1:
        return parts[0]
    return GeneratedAnswer(
        tokens=tuple(token for part in parts for token in part.tokens),
        log_probability=sum(part.log_probability for part in parts),
        is_ended=all(part.is_ended for part in parts),
        windows=tuple(window for part in parts for window in part.windows),
        token_ends=tuple(end for part in parts for end in part.token_ends),
    )
