"""tags: labelled spans of a text, such as the entities in it or the part of speech of each word.

An answer is a list of spans, each with its start and end in characters of the raw text and its label. The model sees words, as
its tokenizer divides the text: the hidden state of the first token of each word is classified as O (outside), B-label (begins a
span) or I-label (goes on with it), as in BERT's tagger (Devlin et al. 2019). The likeliest legal sequence of classes gives the
spans (Viterbi, see text/tagging/tag_decoding.py). A long text is read in windows that overlap, and each word is classified in the
window that shows most of the text around it.
Legend of shapes: n rows, m words, c classes, k spans of the row with the most.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mapsto.errors import BadCell, DataError, UsageError, fault_of
from mapsto.metrics import span_scores
from mapsto.metrics.classification import calibration_gaps, grouped_calibration_error
from mapsto.metrics.intervals import mean_score
from mapsto.model.layers import new_head
from mapsto.sequence.batch import Answer
from mapsto.sequence.piece import Ints, Piece
from mapsto.task.item_counts import ItemCounts
from mapsto.task.readout import PerWord
from mapsto.task.source import Learning, Source
from mapsto.task.source_capabilities import Mark
from mapsto.task.target import Metric, State
from mapsto.task.target_capabilities import (
    Attributable,
    Calibratable,
    Classes,
    Comparable,
    Extracted,
    Repair,
    located_port,
)
from mapsto.text.tagging import span_offsets
from mapsto.text.tagging.span_cells import Span, is_span, read_list, read_span
from mapsto.text.tagging.tag_decoding import TagClasses
from mapsto.text.tagging.word_tags import TagStyle, written_words

OUTSIDE = "O"
# The class index of words that cross-entropy leaves out.
NO_CLASS = -100
# The share of spans that begin or end inside of words from which each token is classified.
MAX_SPLIT = 0.02
LEARNING = Learning(5, 30, 200, 2e-4, head_factor=10)


@lru_cache(64)
def rules_of(classes: tuple[str, ...]) -> TagClasses:
    """Return the rules by which these classes of words make spans. Deriving them from the names takes time."""
    return TagClasses(classes)


class Tags(Extracted, Classes, Calibratable, Comparable, Attributable):
    """A target that answers with labelled spans of a text.

    classes: names of the classes of words in the order of the outputs, such as O, B-PER and I-PER.
    unit: "word", or "token" if each token is classified, because spans begin or end inside of words.
    """

    kind = "tags"
    readout = PerWord()
    head_name = "tagger"
    lies_in = "text"
    reads_capitals = True
    primary_metric = "found"
    item_name = "spans"
    published_arrow = "text -> tags"
    baseline_rule = "the commonest tag of each word"

    def __init__(self, classes: Sequence[str] = (), unit: str = "word") -> None:
        self.classes, self.unit = list(classes), unit

    @property
    def rules(self) -> TagClasses:
        """Return the rules by which classes of words make spans."""
        return rules_of(tuple(self.classes))

    @property
    def known_names(self) -> Sequence[str]:
        """Return the labels of spans."""
        return self.rules.labels

    @property
    def learning(self) -> Learning:
        """Return the default numbers of epochs and steps and the learning rates of a fit. The head is new and learns faster."""
        return LEARNING

    @staticmethod
    def fits(values: Sequence[object]) -> bool:
        """Return whether all cells of a column are lists, as JSON too, or None, and some hold a span.

        Cells with other entries are reported when they are read.
        """
        num_spans = 0
        for cell in values:
            try:
                entries = [] if cell is None or fault_of(cell) is not None else read_list(cell)
            except BadCell:
                return False
            num_spans += sum(map(is_span, entries))
        return num_spans > 0

    @staticmethod
    def samples() -> list[Any]:
        """Return three cells for the text "A plain sentence.": no span, one span, and two spans, as JSON."""
        return [
            [],
            [{"start": 2, "end": 7, "label": "kind"}],
            json.dumps([[0, 7, "kind"], {"start": 8, "end": 16, "label": "东西"}], ensure_ascii=False),
        ]

    @staticmethod
    def read(cell: object) -> tuple[Span, ...]:
        """Return the spans in a cell, sorted, each once. Raises BadCell.

        cell: a list of spans or such a list as JSON. A span is {"start", "end", "label"} or [start, end, label].
        """
        if cell is None:
            raise BadCell("no tags are given; an empty list says that there is nothing")
        return tuple(sorted({read_span(entry) for entry in read_list(cell)}))

    @staticmethod
    def key(value: Any) -> str:
        return json.dumps([[span.start, span.end, span.label] for span in value], ensure_ascii=False)

    @staticmethod
    def prepare_source(cell: object) -> object:
        """Return a list of words as a text, in which they are separated as in training data; any other cell unchanged."""
        if isinstance(cell, list | tuple | np.ndarray) and len(cell) and all(isinstance(word, str) for word in cell):
            words = list(cell)
            return TagStyle.measure([(words, ())]).join(words)[0]
        return cell

    @staticmethod
    def place(answer: tuple[Span, ...], value: str) -> tuple[Span, ...]:
        """Return the spans with the fact whether they begin or end inside of a word."""
        if not answer:
            return answer
        words = written_words(value)
        begins, ends = {start for start, _ in words}, {end for _, end in words}
        return tuple(replace(span, splits_word=span.start not in begins or span.end not in ends) for span in answer)

    @staticmethod
    def misplaced(answer: tuple[Span, ...], value: str) -> str:
        """Return a message on the first span that ends behind the text `value` or holds only spaces; "" if none does."""
        for span in answer:
            if span.end > len(value):
                return f"{span}, behind the end of the text, which has {len(value)} characters"
            if not value[span.start : span.end].strip():
                return f"{span} holds nothing but spaces"
        return ""

    @staticmethod
    def find_repairs(answers: Sequence[tuple[Span, ...] | None], values: Sequence[str | None]) -> list[Repair]:
        """Return a repair for each row with spans that fit the words of the text if counted otherwise or moved by a character."""
        rows = [
            (row, answer, value)
            for row, (answer, value) in enumerate(zip(answers, values, strict=True))
            if answer and value is not None
        ]
        regions = [[(span.start, span.end) for span in answer] for _, answer, _ in rows]
        way, repaired = span_offsets.find_repairs([value for _, _, value in rows], regions)
        repairs = []
        for (row, answer, value), new_regions in zip(rows, repaired, strict=True):
            spans, old = [], []
            for span, region in zip(answer, new_regions, strict=True):
                spans.append({"start": region[0], "end": region[1], "label": span.label})
                if region != (span.start, span.end):
                    old.append(f"{value[span.start : span.end]!r} → {value[region[0] : region[1]]!r}")
            if old:
                counted = (
                    "start or end is moved by a character or some spaces"
                    if way is None
                    else f"places are counted {way}"
                )
                repairs.append(
                    Repair(row, spans, ", ".join(old), f"tags do not fit the words of the text; they fit if {counted}")
                )
        return repairs

    @classmethod
    def count_published_classes(cls, tensors: Mapping[str, Tensor]) -> int | None:
        """Return the number of classes of a published tagger; None if the model has no tagger.

        tensors: the model's weights, renamed to the parameter names of mapsto's models.
        """
        weight = tensors.get(f"{cls.head_name}.weight")
        return None if weight is None else len(weight)

    def learn(self, answers: Sequence[tuple[Span, ...]], balance: bool = False) -> None:
        """Learn the labels from the training answers, sorted by name, and whether words or tokens are classified.

        Classes that are set already are kept.

        balance: not used. Raises DataError if no answer has a span, or one has a label that is not among those kept.
        """
        counts = Counter(span.label for answer in answers for span in answer)
        if not counts:
            raise DataError("no row has a tag")
        if not self.classes:
            self.classes = [OUTSIDE, *(f"{prefix}-{label}" for label in sorted(counts) for prefix in "BI")]
        num_split = sum(span.splits_word for answer in answers for span in answer)
        if num_split > MAX_SPLIT * counts.total():
            self.unit = "token"
        unknown = sorted(set(counts) - set(self.rules.labels))
        if unknown:
            raise DataError(f"tags that the start does not know: {unknown[:10]}; it knows {self.rules.labels[:10]}")

    def bind(self, sources: Mapping[str, Source], transform: Any) -> None:
        """Raise UsageError if the arrow has no text source. transform: not used."""
        if self.lies_in not in sources:
            raise UsageError("tags lie in a text: the arrow reads none")

    def questions(self, pieces: Sequence[Piece]) -> Answer | None:
        """Return an answer without true values that names the first token of each word; None for a text without words."""
        words = _Words(pieces, self.unit)
        return Answer(np.zeros(len(words.tokens), np.int64), words.tokens) if len(words.tokens) else None

    def encode(self, answer: tuple[Span, ...], pieces: Sequence[Piece]) -> Answer:
        """Return the class index of each word, (m,).

        A span holds each word of which it holds a character. Of spans that share a word, the longer one is learnt.
        """
        words = _Words(pieces, self.unit)
        return Answer(self._classes_of_words(answer, words.regions, words.begins_inside), words.tokens)

    def _classes_of_words(self, answer: tuple[Span, ...], regions: Ints, begins_inside: bool = False) -> Ints:
        """Return the class index of each word, (m,), see `encode`; NO_CLASS outside of spans if no class stands for that.

        regions: (m, 2), start and end of each word. begins_inside: whether the text has words before these.
        """
        outside = self.classes.index(OUTSIDE) if OUTSIDE in self.classes else NO_CLASS
        values = np.full(len(regions), outside, np.int64)
        is_taken = np.zeros(len(values), np.bool_)
        for span in sorted(answer, key=lambda span: span.start - span.end):
            # Most spans of a long text lie in other windows.
            if not len(regions) or span.end <= regions[0, 0] or span.start >= regions[-1, 1]:
                continue
            (word_indices,) = np.nonzero((regions[:, 0] < span.end) & (regions[:, 1] > span.start))
            if len(word_indices) and not is_taken[word_indices].any():
                is_taken[word_indices] = True
                # A span that began before the window goes on in its first word.
                num_before = int(begins_inside and word_indices[0] == 0 and span.start < regions[0, 0])
                count = num_before + len(word_indices)
                values[word_indices] = [self._class(span.label, word, count) for word in range(num_before, count)]
        return values

    def _class(self, label: str, word: int, count: int) -> int:
        """Return the index of the class of word number `word` in a span of `count` words, by the prefixes that the label has."""
        best_prefix = "S" if count == 1 else "B" if word == 0 else "E" if word == count - 1 else "I"
        indices = {prefix: index for index, (prefix, name) in enumerate(self.rules.parts) if name == label}
        return indices[
            next(prefix for prefix in (best_prefix, "B" if word == 0 else "I", "I", "S", "B") if prefix in indices)
        ]

    def head(self, width: int, embedder: nn.Module | None) -> nn.Module:
        """Return a linear map (m, d) → (m, c) to one logit per class."""
        return new_head(width, len(self.classes))

    def loss(self, output: Tensor, values: Tensor) -> Tensor:
        """Return the cross-entropy of logits (m, c) against class indices (m,), summed over words."""
        return F.cross_entropy(output.float(), values, reduction="sum", label_smoothing=self.label_smoothing)

    def calibration_loss(self, output: Tensor, values: Tensor) -> Tensor:
        """Return the cross-entropy of logits (m, c), divided by a temperature, summed over words, without label smoothing.

        Of all words: those inside of predicted spans alone gave no better confidence of spans in the one run that was tried.
        """
        return F.cross_entropy(output, values, reduction="sum")

    def validation_error(self, output: Tensor, values: Tensor) -> Tensor:
        """Return the number of words whose class is wrong."""
        return (output.argmax(dim=-1) != values).float().sum()

    def split(self, output: Tensor, pieces: Sequence[Sequence[Piece]]) -> list[Tensor]:
        """Return for each example (m, 4 + c): number, start, end of each word, its distance from the nearer end, and its logits.

        The distance is in tokens. output: (sum of m, c).
        """
        parts, examples = [], [_Words(example_pieces, self.unit) for example_pieces in pieces]
        for words, logits in zip(examples, torch.split(output, [len(words.tokens) for words in examples]), strict=True):
            columns = np.column_stack([words.numbers, words.regions, words.distances])
            parts.append(torch.cat([torch.from_numpy(columns).to(logits), logits], dim=1))
        return parts

    def compose(self, windows: Sequence[Tensor]) -> Tensor:
        """Return the spans of a row as (1 + k, 4): start, end, index of the label, probability.

        The first entry stands for the whole answer: −1, −1, −1, and the mean of the spans' probabilities; without spans the
        probability that there is none, which is 1 for a text without words. A span's probability is that of the classes of its
        words, and that it then ends.
        windows: the results of `split` for the windows of the row.
        """
        if not sum(map(len, windows)):
            return torch.tensor([[-1.0, -1.0, -1.0, 1.0]])
        words = torch.cat(list(windows)).double().numpy()
        # Of the windows that hold a word, the one that shows most around it comes first.
        words = words[np.lexsort([-words[:, 3], words[:, 0]])]
        firsts = np.unique(words[:, 0], return_index=True)[1]
        # A word longer than a window is shown by several in part.
        starts, ends = np.minimum.reduceat(words[:, 1], firsts), np.maximum.reduceat(words[:, 2], firsts)
        words = words[firsts]
        words[:, 1], words[:, 2] = starts, ends
        rules, logits = self.rules, words[:, 4:]
        log_probabilities = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        path = rules.best_path(log_probabilities)
        probability, log_path = np.exp(log_probabilities), log_probabilities[np.arange(len(path)), path]
        spans = []
        for first, last, label in rules.spans(path):
            going_on = probability[last + 1, rules.continues(path[last])].sum() if last + 1 < len(path) else 0.0
            confidence = np.exp(log_path[first : last + 1].sum()) * (1 - going_on)
            spans.append([words[first, 1], words[last, 2], label, confidence])
        row_confidence = np.mean([span[3] for span in spans]) if spans else np.exp(log_path.sum())
        return torch.tensor([[-1.0, -1.0, -1.0, row_confidence], *spans], dtype=torch.float32)

    def fit_baseline(
        self, answers: Sequence[tuple[Span, ...]], sources: Sequence[Sequence[Any]], port: int
    ) -> Callable[[Sequence[Sequence[Any]]], Tensor]:
        """Count the classes of each word in the training texts; return the function that gives every word its commonest class.

        The function returns outputs (n, 1 + k, 4) for n rows. Words that training did not have are outside of all spans.
        sources: for each source port the values of all rows. port: index of the source that the tags lie in.
        """
        counts: dict[str, NDArray[np.float64]] = {}
        nothing = np.array([float(name == OUTSIDE) for name in self.classes])
        for answer, value in zip(answers, sources[port], strict=True):
            regions = written_words(value)
            for (start, end), index in zip(regions, self._classes_of_words(answer, np.array(regions)), strict=True):
                if index != NO_CLASS:
                    counts.setdefault(value[start:end], 0 * nothing)[index] += 1

        def answer_text(value: str) -> Tensor:
            regions = written_words(value)
            frequencies = np.array([counts.get(value[start:end], nothing) for start, end in regions])
            rows = [[number, start, end, 0] for number, (start, end) in enumerate(regions)]
            # A class that the word never had is not impossible, or no sequence of classes might be.
            logits = np.log(frequencies + 1e-3)
            return self.compose([torch.tensor(np.column_stack([rows, logits]), dtype=torch.float32)])

        return lambda new_sources: self.pad([answer_text(text) for text in new_sources[port]])

    def decode(self, output: Tensor) -> list[dict[str, Any]]:
        """Return {"tags", "probability"} for each row. output: (n, 1 + k, 4), from `gather`.

        "tags" is a list of {"label", "start", "end", "probability"} in the order of the text.
        """
        return [
            {
                "tags": [
                    {"label": span.label, "start": span.start, "end": span.end, "probability": probability}
                    for span, probability in self._predicted(row)
                ],
                "probability": float(row[0, 3]),
            }
            for row in output
        ]

    @property
    def width(self) -> int:
        return 4 + len(self.classes)

    def main_part(self, outputs: Tensor) -> Tensor:
        """Return start, end and index of the label of the most probable span of each example, (n, 3); −1, −1, −1 if it has none.

        outputs: (n, m, 4 + c), see `split`.
        """
        answers = [self.compose([words]) for words in self.unpad(outputs)]
        return torch.stack([row[1:][row[1:, 3].argmax()][:3] if len(row) > 1 else row[0, :3] for row in answers])

    def describe_part(self, part: Tensor, value: str) -> str:
        start, end, label = map(int, part)
        return "no tags" if label < 0 else f"{value[start:end]} ({self.rules.labels[label]})"

    def answer_score(self, output: Tensor, reference: Tensor) -> Tensor:
        """Return the mean log-odds, over the words of a span, that a word has its label, (n,); without a span that it has none.

        output: (n, m, 4 + c), see `split`. reference: (n, 3), from `main_part`. A span whose words are gone has the score 0.
        """
        rules = self.rules
        has_label = [[label == name for _, label in rules.parts] for name in [*rules.labels, ""]]
        is_labelled = torch.tensor(has_label, device=output.device)[reference[:, 2].long()][:, None]
        logits = output[:, :, 4:]
        label_logits, other_logits = (
            logits.masked_fill(mask, -torch.inf).logsumexp(-1) for mask in (~is_labelled, is_labelled)
        )
        start, end, label = (column[:, None].to(output) for column in reference.T)
        is_in_span = (output[:, :, 1] < end) & (output[:, :, 2] > start) | (label < 0)
        is_counted = is_in_span & (output[:, :, 0] >= 0)
        odds = torch.where(is_counted, label_logits - other_logits, 0.0)
        scores: Tensor = odds.sum(1) / is_counted.sum(1).clamp(min=1)
        return scores

    def add_excerpts(self, answer: dict[str, Any], value: str) -> None:
        """Add to each span of a decoded answer its "text". value: the text of the row."""
        for span in answer.get(self.kind) or ():
            span["text"] = value[span["start"] : span["end"]]

    def _predicted(self, row: Tensor) -> list[tuple[Span, float]]:
        """Return the predicted spans of a row and their probabilities. row: (1 + k, 4), from `gather`."""
        labels = self.rules.labels
        return [
            (Span(int(start), int(end), labels[int(label)]), probability)
            for start, end, label, probability in row[1:].tolist()
            if label >= 0
        ]

    def _counts(self, output: Tensor, answers: Sequence[tuple[Span, ...]]) -> span_scores.Counts:
        """Return the numbers of right, predicted and true spans of each row. output: (n, 1 + k, 4), from `gather`."""
        return span_scores.count([{span for span, _ in self._predicted(row)} for row in output], answers)

    def metrics(self, output: Tensor, answers: Sequence[tuple[Span, ...]]) -> dict[str, Metric]:
        """Return F1, precision and recall of all spans together, the mean of `per_item_metric`, and the share of rows all right.

        "calibration_error" is that of the probabilities of the predicted spans. A span is right if its start, its end and its
        label are. output: (n, 1 + k, 4), from `gather`.
        """
        counts = self._counts(output, answers)
        return {
            "f1": (span_scores.f1, *counts),
            "precision": (span_scores.precision, *counts),
            "recall": (span_scores.recall, *counts),
            "found": (mean_score, span_scores.jaccard(*counts)),
            "exact": (mean_score, (span_scores.jaccard(*counts) == 1).astype(np.float64)),
            "calibration_error": (grouped_calibration_error, *self._calibration_gaps(output, answers)),
        }

    def _calibration_gaps(
        self, output: Tensor, answers: Sequence[tuple[Span, ...]]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the gaps between probability and correctness of the predicted spans of each row, see `calibration_gaps`."""
        spans = [
            (row, probability, span in true_spans)
            for row, (row_output, true_spans) in enumerate(zip(output, map(set, answers), strict=True))
            for span, probability in self._predicted(row_output)
        ]
        rows, probabilities, is_right = np.array(spans, np.float64).reshape(-1, 3).T
        return calibration_gaps(probabilities, is_right, rows.astype(np.int64), len(answers))

    def per_item_metric(self, output: Tensor, answers: Sequence[tuple[Span, ...]]) -> NDArray[np.float32]:
        """Return for each row the Jaccard index of its predicted and true spans, (n,); 1 if it has neither."""
        return span_scores.jaccard(*self._counts(output, answers)).astype(np.float32)

    def correctness(self, output: Tensor, answers: Sequence[tuple[Span, ...]]) -> NDArray[np.float32]:
        """Return for each row the share of its predicted spans that are right, (n,); without any, whether it has no true one."""
        counts = self._counts(output, answers)
        share = np.divide(counts.right, counts.predicted, out=np.zeros(len(counts.right)), where=counts.predicted > 0)
        return np.where(counts.predicted > 0, share, counts.true == 0).astype(np.float32)

    def confidence(self, output: Tensor) -> NDArray[np.float64]:
        """Return for each row the mean probability of its spans, (n,); without spans the probability that there is none."""
        confidence: NDArray[np.float64] = output[:, 0, 3].double().numpy()
        return confidence

    def baseline(self, answers: Sequence[tuple[Span, ...]]) -> dict[str, Metric]:
        """Return {}: no constant answer is useful, since spans lie elsewhere in every text."""
        return {}

    def brief(self, answer: Any) -> str:
        """Return the number of spans of each label in words, such as "2 PER, 1 LOC"; "nothing" if there are none."""
        counts = Counter(mark.text for mark in self.regions(answer))
        return ", ".join(f"{count} {label}" for label, count in counts.most_common()) or "nothing"

    @staticmethod
    def regions(answer: Any, true: bool = False) -> list[Mark]:
        """Return a mark for each span of an answer, with its label as caption.

        true: True if the answer is a true one, False if it is a prediction; stored in the marks.
        """
        spans = [span if isinstance(span, Span) else Span(span["start"], span["end"], span["label"]) for span in answer]
        return [Mark([[span.start, span.end]], span.label, true) for span in spans]

    def item_counts(self, output: Tensor, answers: Sequence[tuple[Span, ...]]) -> ItemCounts:
        """Return the numbers of right, predicted and true spans by row and label. output: (n, 1 + k, 4), from `gather`."""

        def count(spans: set[Span]) -> Counter[str]:
            return Counter(span.label for span in spans)

        predicted = ({span for span, _ in self._predicted(row)} for row in output)
        pairs = zip(predicted, map(set, answers), strict=True)
        return ItemCounts.collect((count(spans & true), count(spans), count(true)) for spans, true in pairs)

    def class_names(self, answer: tuple[Span, ...]) -> Sequence[str]:
        """Return the label of each span in a true answer, in the order of the text; a label may occur several times."""
        return [span.label for span in answer]

    def notes(self, answers: Sequence[tuple[Span, ...]]) -> list[str]:
        """Return sentences on labels in `answers` that training never saw, and on rows with spans that overlap."""
        labels = set(self.rules.labels)
        unseen = Counter(span.label for answer in answers for span in answer if span.label not in labels)
        num_split = 0 if self.unit == "token" else sum(span.splits_word for answer in answers for span in answer)
        num_overlapping = sum(_overlap(answer) for answer in answers)
        notes = [
            f"{count:,} spans have the label {label!r}, which training never saw"
            for label, count in unseen.most_common(5)
        ]
        if num_overlapping:
            notes.append(
                f"{num_overlapping:,} rows have spans that overlap; of those that share a word only the longest is answered"
            )
        if num_split:
            notes.append(f"{num_split:,} spans begin or end inside of a word; they are answered as whole words")
        return notes

    def state(self) -> State:
        """Return the constructor's arguments: the classes, and whether words or tokens are classified."""
        return {"classes": self.classes, "unit": self.unit}


class _Words:
    """The words of the text of an example, of several texts those of the last.

    unit: "word", or "token" if each token counts as a word; tokens of the same character are one.
    tokens: (m,), index in the example of each word's first token. numbers: (m,), number of each word in the whole text.
    regions: (m, 2), start and end of each word in the text, in characters.
    distances: (m,), number of tokens between each word's first token and the nearer end of the piece.
    """

    def __init__(self, pieces: Sequence[Piece], unit: str) -> None:
        port = located_port(Tags, [piece.kind for piece in pieces])
        piece = pieces[port]
        assert piece.units is not None and piece.alignment is not None
        # Tokens without characters, such as special tokens, belong to no word.
        (readable,) = np.nonzero(
            (piece.units >= 0) & (piece.alignment.regions[:, 0, 0] < piece.alignment.regions[:, 0, 1])
        )
        # A token is numbered by the character at which it begins.
        units = piece.units if unit == "word" else piece.alignment.regions[:, 0, 0]
        self.numbers, first, counts = np.unique(units[readable], return_index=True, return_counts=True)
        # Whether the text has words before these, which stand in an earlier window.
        self.begins_inside = bool(len(readable)) and int(piece.units[readable[0]]) > 0
        own_tokens: Ints = readable[first]
        regions = piece.alignment.regions[readable, 0]
        last = np.append(first[1:], len(readable)) - 1
        assert (counts == last - first + 1).all(), "the tokens of a word follow each other"
        self.regions = (
            np.column_stack([regions[first, 0], regions[last, 1]]) if len(first) else np.zeros((0, 2), np.int64)
        )
        self.tokens: Ints = own_tokens + sum(map(len, pieces[:port]))
        self.distances = np.minimum(own_tokens, len(piece) - 1 - own_tokens)


def _overlap(answer: tuple[Span, ...]) -> bool:
    """Return whether two spans of an answer share a character. answer: sorted by start."""
    return any(first.end > second.start for first, second in pairwise(answer))


target = Tags
