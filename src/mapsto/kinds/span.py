"""span: the part of a passage that answers a question (extractive question answering), or that there is none.

As in BERT (Devlin et al. 2019) a linear head gives each token of the passage two logits: that the answer starts there, and that
it ends there. The first token of the example stands for "no answer here". A long passage is read in windows that overlap and
repeat the question. Training expects "no answer here" of each window that does not hold the answer. So the windows' answers make
one distribution: the answer is a span of one window while all others say that they have none, or all windows say so.
Legend of shapes: n rows, m tokens of a window that are read, k best spans of the row.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mapsto.errors import BadCell, DataError, UsageError
from mapsto.metrics.classification import calibration_gaps, grouped_calibration_error
from mapsto.metrics.intervals import Score, bounded
from mapsto.model.layers import new_head
from mapsto.sequence.batch import Answer
from mapsto.sequence.piece import Piece
from mapsto.task.printed_lists import parse_list
from mapsto.task.readout import PerWord
from mapsto.task.source import Learning, Source
from mapsto.task.source_capabilities import Mark
from mapsto.task.target import Metric, State
from mapsto.task.target_capabilities import Attributable, Calibratable, Comparable, Extracted, Repair, located_port
from mapsto.text import extracts
from mapsto.text.characters import find_invalid_character, has_visible, to_integer

LEARNING = Learning(2, 8, 400, 1e-4, head_factor=10, batch=8)
# How many starts and ends of a window are combined, and how many spans an answer lists.
CANDIDATES, BEST = 20, 5
# The loss of a window counts as that of so many tokens, since the losses of a batch are divided by the number of tokens read.
WINDOW_TOKENS = 256
# The log-probability of a place that is not there, in explanations.
LOWEST = -20.0
LISTS = (list, tuple, np.ndarray)


@dataclass(frozen=True)
class Extract:
    """A true answer: texts of a passage, each of which is right; none if the passage has no answer.

    texts: the right answers. starts: where each begins by the data, in characters; None if that does not say it.
    passage, places: the passage and where each text begins in it, None for one that is not in it; `Span.place` adds both.
    """

    texts: tuple[str, ...]
    starts: tuple[int | None, ...]
    passage: str = field(default="", repr=False, compare=False)
    places: tuple[int | None, ...] = field(default=(), repr=False, compare=False)

    def __str__(self) -> str:
        return self.texts[0] if self.texts else "no answer"

    @property
    def regions(self) -> list[tuple[int, int]]:
        """Return start and end of each text that is in the passage."""
        pairs = zip(self.texts, self.places, strict=True)
        return [(start, start + len(text)) for text, start in pairs if start is not None]


class Span(Extracted, Calibratable, Comparable, Attributable):
    """A target that answers a question with a part of a passage.

    has_none: whether some training rows have no answer, so that the model may answer so.
    longest: number of characters of the longest answer in training; longer spans are not answered.
    """

    kind = "span"
    readout = PerWord("tokens of the passage")
    head_name = "span_head"
    lies_in = "text"
    published_arrow = "question:text, passage:text -> span"
    primary_metric = "f1"
    baseline_rule = "the sentence with most words of the question"

    def __init__(self, has_none: bool = False, longest: int = 100) -> None:
        self.has_none, self.longest = has_none, longest

    @property
    def learning(self) -> Learning:
        """Return the default numbers of epochs and steps and the learning rates of a fit. The head is new and learns faster."""
        return LEARNING

    @staticmethod
    def fits(values: Sequence[object]) -> bool:
        """Return whether all cells of a column can be read as answers, or are None."""
        cells = [value for value in values if value is not None]
        try:
            for cell in cells:
                Span.read(cell)
        except BadCell:
            return False
        return bool(cells)

    @staticmethod
    def samples() -> list[Any]:
        """Return three cells for the passage "A plain sentence.": a text, a text with its place, and no answer."""
        return ["plain", {"text": ["sentence"], "answer_start": [8]}, "[]"]

    @staticmethod
    def read(cell: object) -> Extract:
        """Return the answer in a cell. Raises BadCell.

        cell: the answer's text; {"text", "answer_start"} of a text or of lists (SQuAD, Hugging Face); a list of such; or any of
            these as JSON. An empty list says that the passage has no answer.
        """
        if cell is None or (isinstance(cell, str) and not cell.strip()):
            raise BadCell("no answer is given; [] says that the passage has none")
        if isinstance(cell, str) and cell.lstrip()[0] in "[{":
            # An answer may begin with a bracket.
            with contextlib.suppress(ValueError):
                cell = parse_list(cell)
        # Data sets repeat an answer that several people gave.
        pairs = list(dict.fromkeys(_read_pair(text, start) for text, start in _read_pairs(cell)))
        return Extract(tuple(text for text, _ in pairs), tuple(start for _, start in pairs))

    @staticmethod
    def place(answer: Extract, value: str) -> Extract:
        """Return the answer with the passage and the places of its texts: those nearest to the data's, else the first.

        Raises BadCell if no text of an answer is in the passage.
        """
        places: list[int | None] = []
        for text, start in zip(answer.texts, answer.starts, strict=True):
            occurrences = extracts.find_all(value, text)
            places.append(extracts.nearest(occurrences, start or 0) if occurrences else None)
        if answer.texts and all(place is None for place in places):
            raise BadCell(f"the answer {answer.texts[0]!r} is not in the passage")
        return replace(answer, places=tuple(places), passage=value)

    @staticmethod
    def find_repairs(answers: Sequence[Extract | None], values: Sequence[str | None]) -> list[Repair]:
        """Return a repair for each row with an answer that begins elsewhere than the data says, or is not in the passage."""
        repairs = []
        for row, answer in enumerate(answers):
            entries = [] if answer is None else list(zip(answer.texts, answer.starts, answer.places, strict=False))
            cell = [{"text": text, "answer_start": place} for text, _, place in entries if place is not None]
            missing = [text for text, _, place in entries if place is None]
            misplaced = [entry for entry in entries if None not in entry and entry[1] != entry[2]]
            if missing and cell:
                reason = "some of several answers are not in the passage; the others are learnt"
                repairs.append(Repair(row, cell, ", ".join(map(repr, missing)), reason))
            if misplaced:
                quoted = ", ".join(f"{text!r} at {start} → {place}" for text, start, place in misplaced)
                repairs.append(Repair(row, cell, quoted, "the answer begins elsewhere; it is learnt where it is found"))
        return repairs

    def learn(self, answers: Sequence[Extract], balance: bool = False) -> None:
        """Learn whether some rows have no answer, and how long answers are. balance: not used.

        Raises DataError if no row has an answer.
        """
        lengths = [len(text) for answer in answers for text in answer.texts]
        if not lengths:
            raise DataError("no row has an answer")
        self.has_none, self.longest = any(not answer.texts for answer in answers), max(lengths)

    def bind(self, sources: Mapping[str, Source], transform: Any) -> None:
        """Raise UsageError if the arrow has no text source. transform: not used."""
        if self.lies_in not in sources:
            raise UsageError("the answer lies in a passage: the arrow reads no text")

    def questions(self, pieces: Sequence[Piece]) -> Answer:
        """Return an answer without true values at the first token and those of the passage; values (m, 3) as in `encode`."""
        tokens = _Tokens(pieces)
        values = np.zeros((len(tokens.indices), 3), np.float32)
        values[0, 2] = 1.0
        return Answer(values, tokens.indices)

    def encode(self, answer: Extract, pieces: Sequence[Piece]) -> Answer:
        """Return values (m, 3): 1 where the answer starts, where it ends, and at the first token, which begins a window; else 0.

        A window that does not hold a whole answer starts and ends it at its first token.
        """
        tokens, encoded = _Tokens(pieces), self.questions(pieces)
        first = last = 0
        for start, end in answer.regions:
            (token_indices,) = np.nonzero((tokens.regions[:, 0] < end) & (tokens.regions[:, 1] > start))
            edges = tokens.regions[token_indices[[0, -1]]] if len(token_indices) else None
            is_whole = edges is not None and not has_visible(
                answer.passage[start : edges[0, 0]] + answer.passage[edges[1, 1] : end]
            )
            if is_whole:
                first, last = int(token_indices[0]), int(token_indices[-1])
                break
        encoded.values[first, 0] = encoded.values[last, 1] = 1.0
        return encoded

    def head(self, width: int, embedder: nn.Module | None) -> nn.Module:
        """Return a linear map (m, d) → (m, 2) to the logits of start and end."""
        return new_head(width, 2)

    def loss(self, output: Tensor, values: Tensor) -> Tensor:
        """Return the mean cross-entropy of start and end over the tokens of each window, summed over windows × WINDOW_TOKENS.

        output: (m, 2) of the tokens of all windows. values: (m, 3), see `encode`.
        """
        windows = values[:, 2].cumsum(0).long() - 1
        count = int(windows[-1]) + 1 if len(windows) else 0
        logits, index = output.float(), windows[:, None].expand(-1, 2)
        highest = logits.new_full((count, 2), -torch.inf).scatter_reduce(0, index, logits, "amax").detach()
        sums = logits.new_zeros(count, 2).index_add(0, windows, (logits - highest[windows]).exp())
        true_logits = (logits * values[:, :2]).sum()
        return ((sums.log() + highest).sum() - true_logits) * WINDOW_TOKENS / 2

    def calibration_loss(self, output: Tensor, values: Tensor) -> Tensor:
        """Return the negative log-probability of the true pair of start and end of each window, summed over windows.

        The pairs of a window are those whose end is not before their start, and the first token twice for "no answer here".
        output: logits (m, 2) of the tokens of all windows, divided by a temperature. values: (m, 3), see `encode`.
        """
        sizes = torch.diff(values[:, 2].nonzero()[:, 0], append=torch.tensor([len(values)])).tolist()
        total = output.new_zeros(())
        for logits, truth in zip(torch.split(output, sizes), torch.split(values, sizes), strict=True):
            starts, ends = logits.T
            # For each start the logarithm of the sum over the ends from there on.
            reachable = ends[1:].flip(0).logcumsumexp(0).flip(0)
            pairs = torch.cat([starts[:1] + ends[:1], starts[1:] + reachable])
            total = total + pairs.logsumexp(0) - (logits * truth[:, :2]).sum()
        return total

    def count_answers(self, values: Tensor) -> int:
        """Return the number of windows, each of which has one answer. values: (m, 3), see `encode`."""
        return int(values[:, 2].sum())

    def split(self, output: Tensor, pieces: Sequence[Sequence[Piece]]) -> list[Tensor]:
        """Return for each example (m, 4): start and end of each token in the passage (−1 for the first), and its two logits."""
        examples = [_Tokens(example_pieces) for example_pieces in pieces]
        parts = torch.split(output, [len(tokens.indices) for tokens in examples])
        return [
            torch.cat([torch.from_numpy(tokens.regions).to(logits), logits], dim=1)
            for tokens, logits in zip(examples, parts, strict=True)
        ]

    def compose(self, windows: Sequence[Tensor]) -> Tensor:
        """Return the answer of a row as (1 + k, 3): start, end, probability of "no answer" (−1, −1, …) and of the k best spans.

        windows: the results of `split` for the windows of the row.
        """
        parts = [_WindowAnswer(window.double().numpy(), self.longest) for window in windows]
        # A window without tokens, as of a blank passage, has no answer for certain.
        total_none = sum(part.log_none for part in parts)
        scores: dict[tuple[int, int], float] = {}
        for part in parts:
            for region, score in part.spans.items():
                # The answer is in this window, and the others say that they have none.
                scores[region] = float(np.logaddexp(scores.get(region, -np.inf), score + total_none - part.log_none))
        ranked = sorted(scores.items(), key=lambda entry: (-entry[1], entry[0]))
        none_score = total_none if self.has_none or not ranked else -np.inf
        log_sum = np.logaddexp.reduce([none_score, *scores.values()])
        rows = [[-1.0, -1.0, np.exp(none_score - log_sum)]]
        rows += [[*region, np.exp(score - log_sum)] for region, score in ranked[:BEST]]
        return torch.tensor(rows, dtype=torch.float32)

    def decode(self, output: Tensor) -> list[dict[str, Any]]:
        """Return {"span", "start", "end", "probability", "no_answer", "best"} for each row. output: (n, 1 + k, 3), from `gather`.

        "span" is [start, end] or [] for no answer, which `add_excerpts` replaces by the text. "no_answer" is the probability that
        the passage has none; "best" lists the k best spans.
        """
        answers = []
        for row in output.tolist():
            no_answer, spans = (
                row[0][2],
                [(int(start), int(end), probability) for start, end, probability in row[1:] if end > 0],
            )
            best = [{"start": start, "end": end, "probability": probability} for start, end, probability in spans]
            if not spans or no_answer > spans[0][2]:
                answers.append(
                    {
                        "span": [],
                        "start": None,
                        "end": None,
                        "probability": no_answer,
                        "no_answer": no_answer,
                        "best": best,
                    }
                )
            else:
                start, end, probability = spans[0]
                place = {"span": [start, end], "start": start, "end": end}
                answers.append({**place, "probability": probability, "no_answer": no_answer, "best": best})
        return answers

    @property
    def width(self) -> int:
        return 4

    def main_part(self, outputs: Tensor) -> Tensor:
        """Return start and end of the answer of each example, (n, 2); −1, −1 for no answer. outputs: (n, m, 4), see `split`."""
        answers = self.decode(self.pad([self.compose([window]) for window in self.unpad(outputs)]))
        return torch.tensor([answer["span"] or [-1, -1] for answer in answers], dtype=torch.float32)

    def describe_part(self, part: Tensor, value: str) -> str:
        start, end = map(int, part)
        return "no answer" if start < 0 else value[start:end]

    def answer_score(self, output: Tensor, reference: Tensor) -> Tensor:
        """Return the mean log-odds that the answer starts and ends where it does, (n,).

        output: (n, m, 4), see `split`. reference: (n, 2), from `main_part`. An answer whose tokens are gone has the lowest score.
        """
        is_read = _is_read(output)
        scores = output.new_zeros(len(output))
        for column, place in ((0, reference[:, 0]), (1, reference[:, 1])):
            log_probability = output[:, :, 2 + column].masked_fill(~is_read, -torch.inf).log_softmax(-1)
            is_answer = is_read & (output[:, :, column] == place[:, None].to(output))
            # Several tokens of a character may begin at the same place.
            log_answer = log_probability.masked_fill(~is_answer, LOWEST).logsumexp(-1).clamp(LOWEST, -1e-6)
            scores = scores + log_answer - torch.log1p(-log_answer.exp())
        return scores / 2

    def add_excerpts(self, answer: dict[str, Any], value: str) -> None:
        """Replace the region of a decoded answer by its text, "" for no answer, and add the "text" of each of the best spans."""
        if answer.get(self.kind) is not None:
            answer[self.kind] = value[slice(*answer[self.kind])] if answer[self.kind] else ""
        for span in answer["best"]:
            span["text"] = value[span["start"] : span["end"]]

    def withhold(self, answer: dict[str, Any]) -> None:
        answer.update({self.kind: None, "start": None, "end": None, "best": []})

    def _texts(self, output: Tensor, answers: Sequence[Extract]) -> list[str]:
        """Return the text of each predicted answer, "" for no answer. output: (n, 1 + k, 3), from `gather`."""
        decoded = self.decode(output)
        return [
            answer.passage[slice(*predicted["span"])] if predicted["span"] else ""
            for predicted, answer in zip(decoded, answers, strict=True)
        ]

    def metrics(self, output: Tensor, answers: Sequence[Extract]) -> dict[str, Metric]:
        """Return the mean F1 of words and the share of exact matches, as SQuAD's script computes them, over passages.

        "calibration_error" is that of the answers' probabilities, of which an exact match is right.

        All questions on a passage are drawn together for the intervals, since they hang together.
        output: (n, 1 + k, 3), from `gather`.
        """
        texts = self._texts(output, answers)
        passages = {
            passage: number for number, passage in enumerate(dict.fromkeys(answer.passage for answer in answers))
        }
        numbers = np.array([passages[answer.passage] for answer in answers], np.int64)
        counts = np.bincount(numbers).astype(np.float64)
        by_name: dict[str, Metric] = {}
        for name, score in (("f1", extracts.f1), ("exact", extracts.exact_match)):
            row_scores = [score(text, answer.texts) for text, answer in zip(texts, answers, strict=True)]
            by_name[name] = (_ratio_of_sums, np.bincount(numbers, row_scores), counts)
        gaps = calibration_gaps(
            self.confidence(output), self.correctness(output, answers).astype(np.float64), numbers, len(counts)
        )
        return {**by_name, "calibration_error": (grouped_calibration_error, *gaps)}

    def per_item_metric(self, output: Tensor, answers: Sequence[Extract]) -> NDArray[np.float32]:
        """Return the F1 of the words of each answer, (n,)."""
        pairs = zip(self._texts(output, answers), answers, strict=True)
        return np.array([extracts.f1(text, answer.texts) for text, answer in pairs], np.float32)

    def confidence(self, output: Tensor) -> NDArray[np.float64]:
        """Return the probability of each answer, (n,)."""
        return np.array([answer["probability"] for answer in self.decode(output)])

    def correctness(self, output: Tensor, answers: Sequence[Extract]) -> NDArray[np.float32]:
        """Return for each answer whether it matches a true one exactly, (n,)."""
        pairs = zip(self._texts(output, answers), answers, strict=True)
        return np.array([extracts.exact_match(text, answer.texts) for text, answer in pairs], np.float32)

    def notes(self, answers: Sequence[Extract]) -> list[str]:
        """Return sentences on answers that occur several times in their passage, and on rows without one if training had none."""
        num_several = sum(
            len(answer.texts) == 1 and len(extracts.find_all(answer.passage, answer.texts[0])) > 1 for answer in answers
        )
        num_none = 0 if self.has_none else sum(not answer.texts for answer in answers)
        return [
            sentence
            for count, sentence in (
                (num_several, f"{num_several:,} answers occur several times in their passage"),
                (num_none, f"{num_none:,} rows have no answer, which training never saw and the model never says"),
            )
            if count
        ]

    def baseline(self, answers: Sequence[Extract]) -> dict[str, Metric]:
        """Return {}: no constant answer is useful, since passages differ."""
        return {}

    def fit_baseline(
        self, answers: Sequence[Extract], sources: Sequence[Sequence[Any]], port: int
    ) -> Callable[[Sequence[Sequence[Any]]], Tensor]:
        """Return the function that answers with the sentence of the passage that shares most words with the other texts of a row.

        sources: for each source port the values of all rows. port: index of the source of the passages.
        """

        def answer_row(values: tuple[Any, ...]) -> Tensor:
            question = {word for i, value in enumerate(values) if i != port for word in extracts.words_of(str(value))}
            places = extracts.sentences(values[port])
            shared = [len(question & set(extracts.words_of(values[port][start:end]))) for start, end in places]
            rows = [[-1.0, -1.0, 0.0], *([[*places[int(np.argmax(shared))], 1.0]] if places else [])]
            return torch.tensor(rows, dtype=torch.float32)

        return lambda new_sources: self.pad([answer_row(values) for values in zip(*new_sources, strict=True)])

    def describe_scores(self, scores: Mapping[str, Score]) -> str:
        """Return the share of exact answers and the F1 of their words in a clause."""
        exact, f1 = (100 * scores[name].value for name in ("exact", "f1"))
        return f"it answers {exact:.1f} % of the questions word for word (F1 of the words {f1:.1f} %)"

    def brief(self, answer: Any) -> str:
        """Return the text of a true or predicted answer; "no answer" for none."""
        return str(answer) or "no answer"

    @staticmethod
    def regions(answer: Any, true: bool = False) -> list[Mark]:
        """Return a mark for the place of a predicted answer ([start, end]), or for each place of a true one.

        true: True if the answer is a true one; stored in the marks.
        """
        regions = answer.regions if isinstance(answer, Extract) else [answer] if len(answer) == 2 else []
        return [
            Mark([[start, end]], "label" if true else "answer", true)
            for start, end in dict.fromkeys(map(tuple, regions))
        ]

    def state(self) -> State:
        """Return the constructor's arguments: whether there may be no answer, and the length of the longest in characters."""
        return {"has_none": self.has_none, "longest": self.longest}


class _Tokens:
    """The tokens of an example that are read: its first token, then those of the passage, which is its last text.

    indices: (m,), their indices in the example. regions: (m, 2), start and end in the passage, in characters; −1 for the first.
    """

    def __init__(self, pieces: Sequence[Piece]) -> None:
        port = located_port(Span, [piece.kind for piece in pieces])
        piece = pieces[port]
        assert piece.alignment is not None
        regions = piece.alignment.regions[:, 0]
        (inner,) = np.nonzero(~piece.special & (regions[:, 0] < regions[:, 1]))
        self.indices = np.concatenate([[0], inner + sum(map(len, pieces[:port]))])
        # The first token of the example may be the first of the passage, in a model without special tokens.
        self.regions = np.concatenate([[[-1, -1]], regions[inner]])


def _is_read(outputs: Tensor) -> Tensor:
    """Return which places of outputs (n, m, 4) an example has, (n, m): its first token, and those with a region."""
    is_first = torch.arange(outputs.shape[1], device=outputs.device) == 0
    return is_first | (outputs[:, :, 0] >= 0)


class _WindowAnswer:
    """The answer of one window: the log-probability of no answer in it, and those of its likeliest spans, by start and end.

    window: (m, 4), from `Span.split`. longest: the largest number of characters of a span.
    """

    def __init__(self, window: NDArray[np.float64], longest: int) -> None:
        starts, ends = (column - np.logaddexp.reduce(column) for column in (window[:, 2], window[:, 3]))
        self.log_none = float(starts[0] + ends[0])
        self.spans: dict[tuple[int, int], float] = {}
        for first in 1 + np.argsort(-starts[1:], kind="stable")[:CANDIDATES]:
            for last in 1 + np.argsort(-ends[1:], kind="stable")[:CANDIDATES]:
                region = int(window[first, 0]), int(window[last, 1])
                if first <= last and region[1] - region[0] <= longest:
                    # Several tokens of one character have the same region.
                    score = float(starts[first] + ends[last])
                    self.spans[region] = max(score, self.spans.get(region, -np.inf))


@bounded()
def _ratio_of_sums(sums: NDArray[np.float64], counts: NDArray[np.float64]) -> float:
    """Return the mean over rows from the sums and numbers of rows of each passage."""
    return float(sums.sum() / counts.sum())


def _read_pairs(cell: Any) -> list[tuple[Any, Any]]:
    """Return (text, place or None) of each right answer in a cell, both as they are. Raises BadCell."""
    if isinstance(cell, dict) and "text" in cell:
        texts, starts = cell["text"], cell.get("answer_start", cell.get("start"))
        if not isinstance(texts, LISTS):
            return [(texts, starts)]
        if starts is None:
            starts = [None] * len(texts)
        if not isinstance(starts, LISTS) or len(texts) != len(starts):
            raise BadCell("there are not as many places as answers")
        return list(zip(texts, starts, strict=True))
    if isinstance(cell, LISTS):
        return [pair for entry in cell for pair in _read_pairs(entry)]
    return [(cell, None)]


def _read_pair(text: Any, start: Any) -> tuple[str, int | None]:
    """Return a right answer without the spaces at its ends, and its place. Raises BadCell.

    text: a number is taken for its digits. start: None, or NaN as in a table with missing cells, if the place is not known.
    """
    if isinstance(text, int | float | np.number) and not isinstance(text, bool) and np.isfinite(text):
        text = str(int(text)) if float(text).is_integer() else str(text)
    if not isinstance(text, str) or not text.strip():
        raise BadCell(f'an answer is text that stands in the passage, or {{"text", "answer_start"}}, not {text!r:.50}')
    if (problem := find_invalid_character(text)) is not None:
        raise BadCell(f"the answer holds {problem}")
    if isinstance(start, float | np.floating) and np.isnan(start):
        start = None
    try:
        place = None if start is None else to_integer(start) + len(text) - len(text.lstrip())
    except (TypeError, ValueError, OverflowError) as error:
        raise BadCell(f"the place of an answer is a whole number of characters, not {start!r}") from error
    return text.strip(), place


target = Span
