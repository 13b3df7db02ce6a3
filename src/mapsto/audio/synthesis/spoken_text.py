"""A text spoken by the voice of the training recordings.

The frames of a recording are divided among the characters of its text (speech_alignment.py). The model learns how many frames
each token of the text takes, and what these frames are when their number is known. So a new text is read twice: for the durations
of its tokens, and for the frames; these become samples by Griffin–Lim.
Legend of shapes: t tokens of a text, s steps of time of STEP_FRAMES frames each, b bands, f = STEP_FRAMES · b, n examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol, TypeGuard, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mapsto.audio.log_mel import FRAMES_PER_SECOND, HOP, NUM_BANDS, RATE, Frames
from mapsto.audio.synthesis.griffin_lim import synthesise
from mapsto.audio.synthesis.sound_answers import SoundAnswer, SoundAnswers, SpokenSound, share_removed, to_sound
from mapsto.audio.synthesis.speech_alignment import SpeechAligner, spoken_units
from mapsto.audio.synthesis.speech_head import SpeechHead
from mapsto.audio.synthesis.voice import VOICES, voice_frames
from mapsto.errors import DataError, UsageError
from mapsto.metrics.mel_distance import log_mel_distance, mel_cepstral_distortion
from mapsto.sequence.batch import Answer
from mapsto.sequence.piece import Ints, Piece
from mapsto.task.readout import NUM_TIMES, TimedTokens
from mapsto.task.source import Learning, Source
from mapsto.task.target import Metric, State
from mapsto.task.target_capabilities import Comparable, Located, RowFault, TwiceRead, Voiced, located_port

# Frames of a step of time: 20 ms.
STEP_FRAMES = 2

# The longest time that a token takes in an answer, in frames.
LONGEST_TOKEN = 2 * FRAMES_PER_SECOND

# Speech needs many small steps: 3,000 of 16 sentences, but no more than 100 epochs.
LEARNING = Learning(min_epochs=20.0, max_epochs=100.0, steps=3000, batch=16)

# Fewer recordings are not compared with each other. A recording is far from the others beyond this many deviations, as the median
# distance tells them, which is NORMAL times smaller in a normal distribution.
FEWEST_COMPARED, FAR, NORMAL = 30, 5.0, 1.4826

# Columns of a scored example: distances of the answer, distance of a constant frame, and the error of durations.
NUM_SCORES = 4


@runtime_checkable
class LetterSource(Protocol):
    """The part of a source of texts that this target uses."""

    def is_unknown(self, tokens: Ints) -> NDArray[np.bool_]: ...

    def token_names(self, piece: Piece) -> list[str]: ...


class SpokenTextTarget(SoundAnswers, Located, TwiceRead, Voiced, Comparable):
    """The target of a text that is spoken.

    mean, std: (b,), mean and deviation of each band. aligner: the state of the SpeechAligner of the training recordings.
    """

    lies_in = "text"
    resembles = True
    joins_windows = True
    spells = True
    readout = TimedTokens()
    hub_tasks: ClassVar[Mapping[str, str]] = {"text": "text-to-speech"}
    primary_metric = "distance_removed"
    source: LetterSource
    unbounded_metrics = (
        "log_mel_distance",
        "mel_cepstral_distortion",
        "log_mel_distance_constant",
        "duration_error_ms",
    )

    def __init__(
        self, mean: Sequence[float] = (), std: Sequence[float] = (), aligner: Mapping[str, Any] | None = None
    ) -> None:
        self.mean, self.std = np.array(mean, np.float32), np.array(std, np.float32)
        self.aligner = None if aligner is None else SpeechAligner(**aligner)
        # Aligning a recording takes longer than encoding it, so the durations of its characters are kept.
        self.durations: dict[tuple[str, str], Ints] = {}

    @property
    def learning(self) -> Learning:
        """Return the default numbers of epochs and steps, and the batch, of a fit."""
        return LEARNING

    def bind(self, sources: Mapping[str, Source], transform: Any) -> None:
        """Take the arrow's source of texts, which tells the letters that it does not know. transform: not used.

        Raises UsageError if the arrow reads no text.
        """
        source = sources.get(self.lies_in)
        if not isinstance(source, LetterSource):
            raise UsageError(
                f"`{self.kind}` as an answer needs `sound` among the sources, which it follows, or `{self.lies_in}`, which is "
                "spoken"
            )
        self.source = source

    @staticmethod
    def place(answer: Any, value: Any) -> SpokenSound:
        """Return the recording with the text that is spoken in it."""
        return SpokenSound(to_sound(answer), value)

    @staticmethod
    def misplaced(answer: SpokenSound, value: Any) -> str:
        """Return a message if a text has nothing to speak, or its recording is too short to speak it; "" if neither holds."""
        if not any(unit != " " for unit in spoken_units(value)):
            return "the text has no letter or digit that could be spoken"
        seconds, least = answer.sound.info.seconds, SpeechAligner.least_frames(value) / FRAMES_PER_SECOND
        if seconds >= least:
            return ""
        return (
            f"the recording takes {seconds:.2f} seconds, in which nobody speaks the {len(value)} characters of its text"
        )

    def learn(self, answers: Sequence[SpokenSound], balance: bool = False) -> None:
        """Learn the loudness of bands, and when each character is spoken. balance: not used.

        Raises DataError if there are no recordings.
        """
        spoken = [answer for answer in answers if _is_spoken(answer)]
        if not spoken:
            raise DataError("there is no recording to learn a voice from")
        voice = VOICES.learn(spoken)
        self.mean, self.std, self.aligner, self.durations = voice.mean, voice.std, voice.aligner, dict(voice.durations)

    def state(self) -> State:
        """Return the constructor's arguments."""
        assert self.aligner is not None
        numbers = {name: getattr(self, name).astype(np.float64).round(4).tolist() for name in ("mean", "std")}
        return {**numbers, "aligner": self.aligner.state()}

    @staticmethod
    def find_misread(answers: Sequence[SpokenSound | None]) -> list[RowFault]:
        """Return the rows whose recording fits its text so badly, beside the others, that it is probably one of another text."""
        readable = [(row, answer) for row, answer in enumerate(answers) if _is_spoken(answer)]
        if len(readable) < FEWEST_COMPARED:
            return []
        fits = VOICES.learn([answer for _, answer in readable]).fits
        distance = np.abs(fits - np.median(fits))
        limit = np.median(fits) - FAR * NORMAL * np.median(distance)
        reason = "the recording hardly fits its text, beside the other rows; listen whether it is one of another text"
        return [RowFault(row, reason) for (row, _), fit in zip(readable, fits.tolist(), strict=True) if fit < limit]

    def _durations(self, answer: SpokenSound) -> Ints:
        """Return the number of frames of the silence before a recorded text, of each character, and of the silence behind it."""
        key = answer.sound.digest, answer.text
        if key not in self.durations:
            assert self.aligner is not None
            (alignment,) = self.aligner.align([(answer.text, voice_frames(answer))])
            self.durations[key] = alignment.durations
        return self.durations[key]

    def _find_text(self, pieces: Sequence[Piece]) -> tuple[Piece, int]:
        """Return the piece of the text that is spoken, and the index of its first token in the example."""
        port = located_port(self, [piece.kind for piece in pieces])
        return pieces[port], sum(map(len, pieces[:port]))

    def encode(self, answer: SpokenSound, pieces: Sequence[Piece]) -> Answer:
        """Return the durations of tokens and the steps of time of a recording, (t + s, NUM_TIMES + f)."""
        piece, offset = self._find_text(pieces)
        edges = _token_edges(piece, answer.text, self._durations(answer))
        durations = np.diff(edges)
        times, places = _lay_out(durations)
        values = np.zeros((len(times), NUM_TIMES + STEP_FRAMES * NUM_BANDS), np.float32)
        values[:, :NUM_TIMES] = times
        values[: len(piece), NUM_TIMES] = np.log1p(durations)
        frames = voice_frames(answer)
        count = (len(times) - len(piece)) * STEP_FRAMES
        steps = frames[np.minimum(edges[0] + np.arange(count), len(frames) - 1)]
        values[len(piece) :, NUM_TIMES:] = ((steps - self.mean) / self.std).reshape(-1, STEP_FRAMES * NUM_BANDS)
        return Answer(values, places + offset)

    def questions(self, pieces: Sequence[Piece]) -> Answer | None:
        """Return an Answer that asks how long each token of the text is spoken; None if no letter of it was ever heard."""
        piece, offset = self._find_text(pieces)
        names = np.array(self.source.token_names(piece))[~(piece.special | self.source.is_unknown(piece.tokens))]
        if not any(unit != " " for name in names.tolist() for unit in spoken_units(name)):
            return None
        return Answer(np.zeros((len(piece), NUM_TIMES), np.float32), offset + np.arange(len(piece)))

    @property
    def nothing_hidden(self) -> str:
        """The error of a text of which nothing can be spoken."""
        return "no letter of this text is one that the voice has heard"

    def count_unspoken(self, pieces: Sequence[Piece]) -> int:
        return int(self.source.is_unknown(self._find_text(pieces)[0].tokens).sum())

    def ask_again(self, pieces: Sequence[Piece], output: Tensor) -> Answer:
        """Return an Answer that asks for the steps of time of a text whose tokens take as long as predicted.

        output: (t, f), of the first reading.
        """
        piece, offset = self._find_text(pieces)
        durations = output[:, 0].double().expm1().clamp(0, LONGEST_TOKEN).numpy()
        durations[self.source.is_unknown(piece.tokens)] = 0.0
        times, places = _lay_out(durations)
        return Answer(times, places + offset)

    def head(self, width: int, embedder: nn.Module | None) -> nn.Module:
        """Return the module from hidden states with times, (m, d + NUM_TIMES), to durations and frames (m, f)."""
        return SpeechHead(width - NUM_TIMES, STEP_FRAMES * NUM_BANDS)

    def loss(self, output: Tensor, values: Tensor) -> Tensor:
        """Return the sum over tokens and steps: squared error of a duration's logarithm, and mean absolute error of frames.

        output: (m, f). values: (m, NUM_TIMES + f), encoded answers.
        """
        is_step, truth = values[:, 0] > 0, values[:, NUM_TIMES:]
        of_durations = (output[:, 0].float() - truth[:, 0]) ** 2
        of_frames = (output.float() - truth).abs().mean(-1)
        return torch.where(is_step, of_frames, of_durations).sum()

    def evidence(self, output: Tensor, values: Tensor) -> Tensor:
        """Return whether each row is a step of time, the outputs, and the true values, (m, 1 + 2f).

        output: (m, f). values: (m, NUM_TIMES + f), encoded answers.
        """
        return torch.cat([values[:, :1], output.float(), values[:, NUM_TIMES:]], dim=1)

    def by_example(self, evidence: Tensor, pieces: Sequence[Sequence[Piece]]) -> Tensor:
        """Return the scores of each example, (n, NUM_SCORES), where tokens take the time that they truly take.

        They are the log-mel distance and the MCD of the answer in dB, the log-mel distance of the mean frame in dB, and the mean
        absolute error of the tokens' predicted durations in milliseconds.
        evidence: (m, 1 + 2f), from the method `evidence`. pieces: the source pieces of each example.
        """
        is_step = evidence[:, 0] > 0
        # The tokens of an example stand before its steps.
        begins = torch.nonzero(~is_step & torch.cat([torch.ones(1, dtype=torch.bool), is_step[:-1]]))[:, 0]
        sizes = torch.diff(begins, append=torch.tensor([len(evidence)])).tolist()
        scores = []
        for part, steps in zip(torch.split(evidence, sizes), torch.split(is_step, sizes), strict=True):
            output, truth = part[:, 1:].chunk(2, dim=1)
            frames, true_frames = self._to_frames(output[steps]), self._to_frames(truth[steps])
            constant = np.broadcast_to(self.mean, true_frames.shape)
            error = (output[~steps, 0].expm1() - truth[~steps, 0].expm1()).abs().mean() * 1000 / FRAMES_PER_SECOND
            distances = [log_mel_distance(frames, true_frames), mel_cepstral_distortion(frames, true_frames)]
            scores.append([*distances, log_mel_distance(constant, true_frames), float(error)])
        return torch.tensor(scores)

    def _to_frames(self, output: Tensor) -> Frames:
        """Return log-mel frames (s · STEP_FRAMES, b) of standardised outputs (s, f)."""
        frames: Frames = output.float().cpu().numpy().reshape(-1, len(self.mean)) * self.std + self.mean
        return frames

    def complete(self, value: Any, piece: Piece, hidden: Ints, output: Tensor) -> SoundAnswer:
        """Return the samples of the spoken text and their rate. value, hidden: not used.

        output: (t + s, f), the outputs of the second reading.
        """
        frames = self._to_frames(output[len(piece) :])
        return synthesise(frames, len(frames) * HOP), RATE

    def decode(self, output: Tensor) -> list[dict[str, Any]]:
        """Return {"seconds": duration} for each of m tokens. output: (m, f), of the first reading."""
        return [{"seconds": round(value / FRAMES_PER_SECOND, 3)} for value in output[:, 0].double().expm1().tolist()]

    def metrics(self, output: Tensor, answers: Sequence[Any]) -> dict[str, Metric]:
        """Return the means over examples of the scores of `by_example`, and of the share of the constant's distance removed.

        output: (n, NUM_SCORES), from `by_example`. answers: not used.
        """
        distance, distortion, constant, error = output.double().numpy().T
        return {
            "log_mel_distance": (np.mean, distance),
            "mel_cepstral_distortion": (np.mean, distortion),
            "log_mel_distance_constant": (np.mean, constant),
            "duration_error_ms": (np.mean, error),
            "distance_removed": (np.mean, share_removed(distance, constant)),
        }

    def per_item_metric(self, output: Tensor, answers: Sequence[Any]) -> NDArray[np.float32] | None:
        """Return the share of the constant frame's distance that each answer removes, (n,). output: (n, NUM_SCORES)."""
        distance, _, constant, _ = output.double().numpy().T
        return share_removed(distance, constant).astype(np.float32)

    def baseline(self, answers: Sequence[Any]) -> dict[str, Metric]:
        """Return no scores: `metrics` scores the best constant frame beside the answer."""
        return {}


def _is_spoken(answer: Any) -> TypeGuard[SpokenSound]:
    """Return whether an answer is a recording with a text that can be spoken in it; the data doctor sees others too."""
    return isinstance(answer, SpokenSound) and not SpokenTextTarget.misplaced(answer, answer.text)


def _token_edges(piece: Piece, text: str, durations: Ints) -> Ints:
    """Return the frame at which each token of a text begins, and that at which the last one ends, (t + 1,).

    What lies between two tokens, such as a pause, counts to the first. Special tokens get the silence at the ends of the text.
    durations: (2 + characters,), of the silence before the text, each character, and the silence behind it, in frames.
    """
    assert piece.alignment is not None
    edges = np.cumsum([0, *durations])
    regions, inner = piece.alignment.regions[:, 0].astype(np.int64), np.flatnonzero(~piece.special)
    if not len(inner):  # a published tokenizer has dropped all of the text
        return np.append(np.zeros(len(piece), np.int64), edges[-1])
    first, last = regions[inner[0], 0], regions[inner[-1], 1]
    begins = edges[1 + regions[:, 0]]
    begins[: inner[0]] = edges[1 + first] if text[:first].strip() else 0
    begins[inner[-1] + 1 :] = edges[1 + last]
    rest = text[last:]
    # A window ends with the pause behind it.
    end = edges[1 + last + len(rest) - len(rest.lstrip())] if rest.strip() else edges[-1]
    return np.maximum.accumulate(np.append(begins, end))


def _lay_out(durations: NDArray[Any]) -> tuple[NDArray[np.float32], Ints]:
    """Return the times (t + s, NUM_TIMES) of tokens and of steps of time, and the index of the token at which each is read.

    The times of a step are 1, its place in its token from 0 to 1, and the logarithm of 1 + the token's frames; those of tokens 0.
    durations: (t,), of the tokens, in frames.
    """
    num_steps = max(1, round(float(durations.sum()) / STEP_FRAMES))
    middles = (np.arange(num_steps) + 0.5) * STEP_FRAMES
    ends = np.cumsum(durations)
    tokens = np.minimum(np.searchsorted(ends, middles, side="right"), len(durations) - 1)
    passed = middles - (ends - durations)[tokens]
    shares = np.clip(passed / np.maximum(durations[tokens], 1.0), 0.0, 1.0)
    times = np.zeros((len(durations) + num_steps, NUM_TIMES), np.float32)
    times[len(durations) :] = np.stack([np.ones(num_steps), shares, np.log1p(durations[tokens])], axis=1)
    return times, np.concatenate([np.arange(len(durations)), tokens])
