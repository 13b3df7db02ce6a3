"""Text as an answer that is read along the tokens of a sound: each token answers characters or blanks (CTC, Graves et al. 2006).

It needs no decoder and no tokenizer: the vocabulary is the characters of the training transcripts. Where characters follow each
other too fast for one at each token, a token has several outputs. Decoding is in ctc.py.
Legend of shapes: n answers, m tokens, u outputs of a token, v symbols (blank and characters), k characters of an answer.
"""

from __future__ import annotations

import copy
import math
import unicodedata
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mapsto.errors import DataError, UsageError, shorten
from mapsto.model.layers import TransformConfig, new_head
from mapsto.sequence.batch import Answer
from mapsto.sequence.piece import Ints, Piece
from mapsto.task.generation import Decoding, Searched
from mapsto.task.readout import PerWord
from mapsto.task.source import Learning, Source
from mapsto.task.source_capabilities import Spoken
from mapsto.task.target import State
from mapsto.task.target_capabilities import Composed, HeadRows, located_port
from mapsto.text import cells
from mapsto.text.text_scores import ScoredTexts
from mapsto.text.transcripts import ctc
from mapsto.text.transcripts.language_model import ORDER, CharacterModel, make_language_model

# The blank stands first among the symbols.
BLANK_NAME = ""
# The most symbols: more than the characters of any language, and few enough for a damaged file not to fill the memory.
MAX_SYMBOLS = 50_000
# The most outputs of a token, and the shortest time for an output: 20 ms, so that 50 characters a second can be answered.
MAX_OUTPUTS, OUTPUT_SECONDS = 8, 0.02
# Outputs that are kept free at the ends of a sound, whose duration may be rounded.
SPARE_OUTPUTS = 2
# A token gets as many outputs as leave this share of rows with twice as many as they need; fewer are hard to learn.
ROOMY_SHARE, ROOM = 0.95, 2

# With less than FEW_HOURS of sound, more and smaller steps find the alignment sooner: a fit of 48 recordings (yesno) needs about
# 70 epochs, in which the loss stays for long where no character is placed yet.
LEARNING = Learning(min_epochs=20, max_epochs=100, steps=4000, rate=2e-4, head_factor=10, batch=16)
FEW_HOURS, FEW_LEARNING = 0.5, Learning(min_epochs=20, max_epochs=100, steps=400, rate=2e-4, head_factor=10, batch=8)

# A window of a long sound is at least so long that a pause can be found in its second half.
WINDOW_SECONDS = 4.0

# The beginnings that are kept beside a language model, where no number is named.
LANGUAGE_MODEL_BEAMS = 16

# Columns of an answer in a tensor: in its first row log-probability, begin and end of the sound in seconds; then for each
# character its code point, begin and end.
NUM_COLUMNS = 3


class Transcript(str):
    """A text with the duration of the sound in which it is said, in seconds."""

    seconds: float

    def __new__(cls, text: str, seconds: float = 0.0) -> Self:
        transcript = super().__new__(cls, text)
        transcript.seconds = seconds
        return transcript


def normalise(text: str) -> str:
    """Return a text with composed characters and single spaces, as it is learnt."""
    return " ".join(unicodedata.normalize("NFC", text).split())


class AlignedTextTarget(ScoredTexts, Composed, HeadRows, Searched):
    """A target that reads a text along a sound.

    classes: the blank and the characters, in the order of the outputs. outputs: number of outputs of a token.
    """

    kind = "text"
    readout = PerWord("tokens of the sound")
    lies_in = "sound"
    window_overlap = 0.0
    is_divisible = False
    is_spoken = True
    source: Spoken

    def __init__(self, classes: Sequence[str] = (), outputs: int = 1) -> None:
        self.classes = _require_symbols(classes)
        if isinstance(outputs, bool) or not isinstance(outputs, int) or not 1 <= outputs <= MAX_OUTPUTS:
            raise ValueError(f"outputs of a token are 1 to {MAX_OUTPUTS}, not {outputs!r}")
        self.outputs = outputs
        self.beams, self.with_times = 1, False
        self.language_model: CharacterModel | None = None
        # That of a baseline, or of a data check, has no source, and only reads and scores texts.
        self.is_bound = False
        # Hours of sound that were learnt from; they decide the length of a fit, and are not saved.
        self.hours = 0.0
        # Tokens of the longest sound that was learnt from.
        self.longest = 0

    samples = staticmethod(cells.samples)
    fits = staticmethod(cells.fits)
    read = staticmethod(cells.read)

    @property
    def learning(self) -> Learning:
        """Return the default length, learning rate and batch of a fit."""
        return FEW_LEARNING if self.hours < FEW_HOURS else LEARNING

    @property
    def longest_window(self) -> int | None:
        """Return the tokens of the longest sound that was learnt from, but of WINDOW_SECONDS at least.

        Attention over longer sounds is not learnt: the words of twelve recordings of yesno (6 seconds each) one behind the other
        have 29 % errors in windows of up to 20 seconds, and 7 % in windows of up to 7.
        """
        return max(self.longest, math.ceil(WINDOW_SECONDS / self.source.token_seconds)) if self.longest else None

    def bind(self, sources: Mapping[str, Source], transform: TransformConfig | None) -> None:
        """Store the source of sounds. Raises UsageError if the arrow reads none. transform: not used."""
        source = sources.get(self.lies_in)
        if not isinstance(source, Spoken):
            raise UsageError(f"a {self.kind} is read along a {self.lies_in}, and this arrow reads none")
        self.source, self.is_bound = source, True

    @staticmethod
    def place(answer: str, value: Any) -> Transcript:
        """Return the transcript with the duration of its sound."""
        return Transcript(answer, float(value.info.seconds))

    @staticmethod
    def misplaced(answer: str, value: Any) -> str:
        """Return a message if nobody speaks so fast that a sound holds the transcript; "" if it does."""
        seconds = float(value.info.seconds)
        needed = ctc.num_outputs_needed(normalise(answer))
        if needed + SPARE_OUTPUTS <= seconds / OUTPUT_SECONDS:
            return ""
        return (
            f"{shorten(answer)!r} has {len(normalise(answer))} characters for {seconds:.2f} seconds of sound: more than "
            f"{1 / OUTPUT_SECONDS:.0f} a second, so it is no transcript of it"
        )

    def learn(self, answers: Sequence[str], balance: bool = False) -> None:
        """Learn the characters, if they are not set, and the number of outputs of a token. balance: not used.

        Raises DataError if all answers are equal, or have more different characters than any language.
        """
        if len(set(answers)) == 1:
            raise DataError(f"all {len(answers)} answers are {shorten(answers[0])!r}; there is nothing to learn")
        texts = list(map(normalise, answers))
        if not self.classes:
            characters = sorted(set().union(*texts))
            if len(characters) >= MAX_SYMBOLS:
                raise DataError(
                    f"the answers have {len(characters):,} different characters; the most are {MAX_SYMBOLS:,}"
                )
            self.classes = [BLANK_NAME, *characters]
        seconds = np.array([answer.seconds for answer in answers if isinstance(answer, Transcript)])
        self.hours = float(seconds.sum()) / 3600
        if not self.is_bound or len(seconds) != len(answers):
            return
        self.longest = math.ceil(seconds.max() / self.source.token_seconds)
        needed = np.array(list(map(ctc.num_outputs_needed, texts)))
        most = min(MAX_OUTPUTS, max(1, round(self.source.token_seconds / OUTPUT_SECONDS)))
        for self.outputs in range(1, most + 1):
            available = self.outputs * seconds / self.source.token_seconds
            if (available >= needed + SPARE_OUTPUTS).all() and np.mean(available >= ROOM * needed) >= ROOMY_SHARE:
                return

    def unknown_names(self, answers: Sequence[str]) -> list[str]:
        known = set(self.classes)
        return sorted({character for answer in answers for character in normalise(answer)} - known)

    def notes(self, answers: Sequence[str]) -> list[str]:
        """Return a warning if the answers have characters that training never saw."""
        unknown = self.unknown_names(answers)
        if not unknown:
            return []
        listed = ", ".join(map(repr, unknown[:10])) + (" and others" if len(unknown) > 10 else "")
        return [f"characters that training never saw, and that no answer has: {listed}"]

    def _place(self, pieces: Sequence[Piece]) -> tuple[Piece, int]:
        """Return the piece of the sound, and the index of its first token in the example."""
        port = located_port(self, [piece.kind for piece in pieces])
        return pieces[port], sum(map(len, pieces[:port]))

    def encode(self, answer: str, pieces: Sequence[Piece]) -> Answer:
        """Return for each token whether it is the first of its sound, and u symbols of the text, (m, 1 + u).

        The symbols of the text stand one behind the other, whatever their places in the sound, and then blanks. Characters that
        training never saw are left out. Raises DataError for a text that is longer than the outputs of the sound.
        """
        piece, offset = self._place(pieces)
        number = {character: index for index, character in enumerate(self.classes)}
        symbols = [number[character] for character in normalise(answer) if character in number]
        room = len(piece) * self.outputs
        if ctc.num_outputs_needed(symbols) > room:
            raise DataError(f"{shorten(answer)!r} has more characters than its sound has outputs ({room})")
        values = np.zeros((len(piece), 1 + self.outputs), np.int64)
        values[0, 0] = 1
        flat = np.zeros(room, np.int64)
        flat[: len(symbols)] = symbols
        values[:, 1:] = flat.reshape(len(piece), self.outputs)
        return Answer(values, offset + np.arange(len(piece)))

    def questions(self, pieces: Sequence[Piece]) -> Answer | None:
        """Return an answer without true values that names all tokens of the sound."""
        piece, offset = self._place(pieces)
        return Answer(np.zeros((len(piece), 1 + self.outputs), np.int64), offset + np.arange(len(piece)))

    def head(self, width: int, embedder: nn.Module | None) -> nn.Module:
        """Return a linear map (m, d) → (m, u·v) to one logit for each symbol at each output."""
        return new_head(width, self.outputs * len(self.classes))

    def _log_probabilities(self, output: Tensor) -> Tensor:
        """Return the log-probabilities (m·u, v) of symbols in fp32. output: (m, u·v), logits."""
        return output.float().view(len(output) * self.outputs, -1).log_softmax(-1)

    def loss(self, output: Tensor, values: Tensor) -> Tensor:
        """Return the negative log-probability of the texts, summed over examples. output: (m, u·v). values: from `encode`."""
        (begins,) = values[:, 0].nonzero(as_tuple=True)
        edges = [*begins.tolist(), len(values)]
        sizes = [end - begin for begin, end in pairwise(edges)]
        is_symbol = values[:, 1:] != ctc.BLANK
        lengths = torch.stack([part.sum() for part in torch.split(is_symbol, sizes)])
        symbols = values[:, 1:][is_symbol]
        return ctc.ctc_loss(self._log_probabilities(output), [size * self.outputs for size in sizes], symbols, lengths)

    def with_decoding(self, decoding: Decoding) -> Self:
        """Return a target that decodes by prefix beam search, if `decoding` has beams or texts for a language model."""
        names = ("beams", "times", "words", "language_model")
        decoding.require_only(*names, what=f"a {self.kind} that is read along a {self.lies_in}")
        target = copy.copy(self)
        target.beams, target.with_times = decoding.beams, decoding.times
        if decoding.language_model is not None:
            target.beams = LANGUAGE_MODEL_BEAMS if decoding.beams == 1 else decoding.beams
            target.language_model = make_language_model(tuple(map(normalise, decoding.language_model)))
        return target

    def _search(self, values: NDArray[np.float64]) -> tuple[int, ...]:
        """Return the symbols of the text that is found. values: (m·u, v), log-probabilities of symbols."""
        model = self.language_model
        if self.beams == 1:
            return ctc.best_path(values)
        if model is None:
            return ctc.search_prefixes(values, self.beams)

        def score(symbols: tuple[int, ...]) -> float:
            return model.score("".join(self.classes[symbol] for symbol in symbols[-ORDER:]), len(symbols) < ORDER)

        return ctc.search_prefixes(values, self.beams, score)

    def split(self, output: Tensor, pieces: Sequence[Sequence[Piece]]) -> list[Tensor]:
        """Return for each example its decoded text, (1 + k, 3).

        The first row is its log-probability and begin and end of the sound in seconds; the others are code point, begin and end
        of each character. output: (sum of m, u·v), logits.
        """
        sounds = [self._place(example)[0] for example in pieces]
        outputs = torch.split(output.detach().float().cpu(), list(map(len, sounds)))
        return [self._decode_sound(*pair) for pair in zip(outputs, sounds, strict=True)]

    def _decode_sound(self, output: Tensor, piece: Piece) -> Tensor:
        """Return the decoded text of a sound or of a window of it, (1 + k, 3); see `split`. output: (m, u·v), logits."""
        assert piece.alignment is not None
        regions = np.asarray(piece.alignment.regions[:, 0], np.float64)
        begin, end = regions[0, 0], regions[-1, 1]
        log_probabilities = self._log_probabilities(output)
        if self.source.is_silent(piece) or not bool(log_probabilities.isfinite().all()):
            # A silent sound has no text; numbers that are not finite are reported by who reads them.
            return torch.tensor([[float(log_probabilities.sum()) * 0.0, begin, end]])
        values = log_probabilities.double().numpy()
        symbols = self._search(values)
        characters = np.zeros((1 + len(symbols), NUM_COLUMNS))
        characters[0] = ctc.log_likelihood(log_probabilities, symbols), begin, end
        characters[1:, 0] = [ord(self.classes[symbol]) for symbol in symbols]
        characters[1:, 1:] = self._times(regions, ctc.align(values, symbols))
        return torch.from_numpy(characters).float()

    def _times(self, regions: NDArray[np.float64], outputs: Ints) -> NDArray[np.float64]:
        """Return begin and end in seconds, (k, 2), of characters that reach from one output to another, (k, 2).

        regions: (m, 2), begin and end of each token.
        """
        begins, ends = regions.T
        shares = np.arange(self.outputs) / self.outputs
        edges = np.append((begins[:, None] + shares * (ends - begins)[:, None]).ravel(), ends[-1:])
        return np.stack([edges[outputs[:, 0]], edges[outputs[:, 1] + 1]], axis=-1)

    def compose(self, windows: Sequence[Tensor]) -> Tensor:
        """Return the text of a sound, (1 + k, 3): those of its windows one behind the other, with spaces between.

        windows: the results of `split` for the windows, in any order.
        """
        ordered = sorted(windows, key=lambda window: float(window[0, 1]))
        space = ord(" ")
        parts = [ordered[0][1:]]
        for window in ordered[1:]:
            characters, before = window[1:], parts[-1]
            is_joined = len(characters) and len(before) and " " in self.classes
            if is_joined and space not in (int(before[-1, 0]), int(characters[0, 0])):
                parts.append(torch.tensor([[float(space), float(window[0, 1]), float(window[0, 1])]]))
            parts.append(characters) if len(characters) else None
        facts = torch.stack([window[0] for window in ordered])
        first = torch.tensor([[float(facts[:, 0].sum()), float(facts[0, 1]), float(facts[-1, 2])]])
        return torch.cat([first, *parts])

    def texts(self, output: Tensor) -> list[str]:
        """Return the text of each answer. output: (n, 1 + k, 3), from `compose`, padded with −1."""
        return ["".join(chr(int(code)) for code in row[1:, 0].tolist() if code >= 0).strip() for row in output]

    def decode(self, output: Tensor) -> list[dict[str, Any]]:
        """Return {"text", "probability"} for each answer; with `with_times` also "words", each with its "start" and "end".

        "probability" is that of the whole text, over all of its alignments. Times are in seconds.
        output: (n, 1 + k, 3), from `compose`, padded with −1.
        """
        pairs = zip(self.texts(output), self.confidence(output).tolist(), strict=True)
        answers: list[dict[str, Any]] = [{self.kind: text, "probability": probability} for text, probability in pairs]
        if self.with_times:
            for answer, row in zip(answers, output, strict=True):
                answer["words"] = self._words(row)
        return answers

    def _words(self, row: Tensor) -> list[dict[str, Any]]:
        """Return the words of an answer with their times. row: (1 + k, 3), padded with −1."""
        words: list[dict[str, Any]] = []
        is_open = False
        for code, begin, end in row[1:].tolist():
            character = chr(int(code)) if code >= 0 else " "
            if character.isspace():
                is_open = False
            elif is_open:
                words[-1][self.kind] += character
                words[-1]["end"] = round(end, 2)
            else:
                words.append({self.kind: character, "start": round(begin, 2), "end": round(end, 2)})
                is_open = True
        return words

    def confidence(self, output: Tensor) -> NDArray[np.float64]:
        """Return the probability of each text, (n,). output: (n, 1 + k, 3), from `compose`."""
        probabilities: NDArray[np.float64] = np.exp(np.minimum(output[:, 0, 0].double().numpy(), 0.0))
        return probabilities

    def pack_values(self, values: Sequence[str]) -> Tensor:
        """Return texts in the form of outputs, with a probability of 1 and without times."""
        rows = [[[0.0, 0.0, 0.0], *([float(ord(character)), 0.0, 0.0] for character in value)] for value in values]
        return self.pad(list(map(torch.tensor, rows)))

    def state(self) -> State:
        """Return the constructor's arguments: the symbols, and the number of outputs of a token."""
        return {"classes": self.classes, "outputs": self.outputs}


def _require_symbols(classes: Sequence[str]) -> list[str]:
    """Return the symbols as a list. Raises ValueError unless they are the blank and then different characters, or none."""
    if not isinstance(classes, list | tuple) or len(classes) > MAX_SYMBOLS:
        raise ValueError(f"the symbols are a list of at most {MAX_SYMBOLS:,} characters")
    if not all(isinstance(name, str) for name in classes):
        raise ValueError("the symbols are not all texts")
    if classes and (classes[0] != BLANK_NAME or len(classes) < 2 or any(len(name) != 1 for name in classes[1:])):
        raise ValueError("the symbols are the blank, an empty text, and then single characters")
    if len(set(classes)) != len(classes):
        raise ValueError("a character stands twice among the symbols")
    return list(classes)
