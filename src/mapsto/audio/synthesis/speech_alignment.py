"""Find when each character of a text is spoken in a recording of it.

A hidden Markov model has two states for each character, and one state of silence, which may lie between words and at both ends.
A state is a normal distribution of cepstra and their changes. Models begin with characters of equal length and are improved by
Viterbi training (Juang & Rabiner 1990), as in the first stage of HTK and Kaldi, with letters in place of phonemes. Two hours of
speech take about a minute on one core.
Legend of shapes: n recordings, m frames, c cepstra and their changes, k states of the model, s states of a text in a row.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mapsto.audio.log_mel import Frames
from mapsto.sequence.piece import Ints

Array = NDArray[np.float32]

# Cepstra of a frame, and frames on each side over which their change is measured.
NUM_CEPSTRA, REACH = 13, 2

# States of a character, each of at least one frame; and the state of silence.
STATES, SILENT_STATE = 2, 0

# Rounds of training.
ROUNDS = 12

# The least variance of a standardised feature, and how much each state's mean and variance are drawn towards those of all frames.
LEAST_VARIANCE, PRIOR_FRAMES = 0.05, 10.0

# Recordings that are aligned at a time.
BATCH = 64

# The share of the quietest frames from which silence is learnt at first.
QUIET = 0.1

# The share of the frames of a recording that are not loud.
NOT_LOUD = 0.3

# The score of what cannot be.
NEVER = -1e30


def spoken_units(text: str) -> list[str]:
    """Return the characters of a text as they are spoken: letters, marks and digits without case, and " " for any other."""
    folded = (unicodedata.normalize("NFC", character.casefold()) for character in text)
    return [unit if unicodedata.category(unit[0])[0] in "LMN" else " " for unit in folded]


@dataclass(frozen=True)
class Chain:
    """The states of a text in the order in which they are spoken.

    states: (s,), of the model. owners: (s,), index of the character of each state; −1 for the silence before the first one, and
    the number of characters for the silence behind the last one.
    """

    states: Ints
    owners: Ints


@dataclass(frozen=True)
class SpeechAlignment:
    """The time of each character of a text in a recording of it.

    durations: (2 + characters,), in frames, of the silence before the text, of each character, and of the silence behind it. They
        add up to the frames of the recording. Silence between words counts to the first character between them that is no letter
        or digit.
    fit: how well the recording fits the text: at most 0, and low where other things are spoken. It is the log-density of a frame
        in the state of its letter, less that in the state that fits it best, on average.
    """

    durations: Ints
    fit: float


class SpeechAligner:
    """A hidden Markov model of the characters that are spoken in recordings of one language, or one voice.

    units: the characters that it knows, as `spoken_units` gives them. means, variances: (k, c), of each state; a character has
    STATES of them, in order, behind the one of silence. mean, std: (c,), by which features are standardised.
    """

    def __init__(
        self,
        units: Sequence[str],
        means: Sequence[Sequence[float]] | Array,
        variances: Sequence[Sequence[float]] | Array,
        mean: Sequence[float] | Array,
        std: Sequence[float] | Array,
    ) -> None:
        self.units = list(units)
        self.index = {unit: index for index, unit in enumerate(self.units)}
        self.means, self.variances = np.array(means, np.float32), np.array(variances, np.float32)
        self.mean, self.std = np.array(mean, np.float32), np.array(std, np.float32)

    def state(self) -> dict[str, Any]:
        """Return the arguments of the constructor in JSON types."""
        arrays = {name: getattr(self, name).round(3).tolist() for name in ("means", "variances", "mean", "std")}
        return {"units": self.units, **arrays}

    @classmethod
    def train(cls, recordings: Sequence[tuple[str, Frames]]) -> Self:
        """Return the model of recordings, each a text and its log-mel frames (m, b)."""
        units = sorted({unit for text, _ in recordings for unit in spoken_units(text)} - {" "})
        everything = np.concatenate([_cepstra(frames) for _, frames in recordings])
        mean, std = everything.mean(0), everything.std(0) + 1e-4
        num_states = 1 + STATES * len(units)
        blank = np.zeros((num_states, len(mean)), np.float32)
        aligner = cls(units, blank, blank + 1, mean, std)
        features = [aligner._features(frames) for _, frames in recordings]
        chains = [aligner._chain(text) for text, _ in recordings]
        paths = [_first_path(chain, part) for chain, part in zip(chains, features, strict=True)]
        for _ in range(ROUNDS):
            aligner._learn(features, paths)
            paths = [
                chain.states[path] for chain, path in zip(chains, aligner._find_paths(features, chains), strict=True)
            ]
        aligner._learn(features, paths)
        return aligner

    def align(self, recordings: Sequence[tuple[str, Frames]]) -> list[SpeechAlignment]:
        """Return the alignment of each recording, given with its text and log-mel frames (m, b).

        Raises ValueError for a recording with fewer frames than its text has states.
        """
        chains = [self._chain(text) for text, _ in recordings]
        features = [self._features(frames) for _, frames in recordings]
        alignments = []
        for (text, _), chain, part, path in zip(
            recordings, chains, features, self._find_paths(features, chains), strict=True
        ):
            densities = self._log_densities(part)
            chosen = densities.gather(1, torch.from_numpy(chain.states[path])[:, None])[:, 0]
            durations = np.bincount(chain.owners[path] + 1, minlength=len(text) + 2)
            alignments.append(SpeechAlignment(durations, float((chosen - densities.max(1).values).mean())))
        return alignments

    @staticmethod
    def least_frames(text: str) -> int:
        """Return the least number of frames in which a text can be spoken."""
        return max(1, STATES * sum(unit != " " for unit in spoken_units(text)))

    def _features(self, frames: Frames) -> NDArray[np.float32]:
        """Return the standardised features (m, c) of frames (m, b)."""
        features: NDArray[np.float32] = (_cepstra(frames) - self.mean) / self.std
        return features

    def _chain(self, text: str) -> Chain:
        """Return the states of a text. A character that the model does not know is read as silence."""
        states, owners = [SILENT_STATE], [-1]
        for place, unit in enumerate(spoken_units(text)):
            if unit in self.index:
                first = 1 + STATES * self.index[unit]
                states += range(first, first + STATES)
                owners += [place] * STATES
            elif states[-1] != SILENT_STATE:
                states.append(SILENT_STATE)
                owners.append(place)
        if states[-1] != SILENT_STATE:
            states.append(SILENT_STATE)
            owners.append(0)
        owners[-1] = len(text)
        return Chain(np.array(states), np.array(owners))

    def _learn(self, features: Sequence[NDArray[np.float32]], paths: Sequence[Ints]) -> None:
        """Set the mean and variance of each state to those of its frames. paths: (m,) each, the state of each frame."""
        frames, states = np.concatenate(features), np.concatenate(paths)
        counts = np.bincount(states, minlength=len(self.means))[:, None]
        sums, squares = np.zeros_like(self.means), np.zeros_like(self.means)
        order = np.argsort(states, kind="stable")
        present, starts = np.unique(states[order], return_index=True)
        sums[present] = np.add.reduceat(frames[order], starts)
        squares[present] = np.add.reduceat(frames[order] ** 2, starts)
        # Standardised features have mean 0 and variance 1.
        self.means = (sums / (counts + PRIOR_FRAMES)).astype(np.float32)
        variances = (squares + PRIOR_FRAMES) / (counts + PRIOR_FRAMES) - self.means**2
        self.variances = np.maximum(variances, LEAST_VARIANCE).astype(np.float32)

    def _find_paths(self, features: Sequence[NDArray[np.float32]], chains: Sequence[Chain]) -> list[Ints]:
        """Return for each recording the index in its chain of the state of each frame, (m,)."""
        paths: list[Ints] = [np.zeros(0, np.int64)] * len(chains)
        order = sorted(range(len(chains)), key=lambda index: len(features[index]))
        for members in (order[start : start + BATCH] for start in range(0, len(order), BATCH)):
            for index, path in zip(
                members,
                self._find_batch_paths([features[i] for i in members], [chains[i] for i in members]),
                strict=True,
            ):
                paths[index] = path
        return paths

    def _find_batch_paths(self, features: Sequence[NDArray[np.float32]], chains: Sequence[Chain]) -> Iterator[Ints]:
        """Yield the best path of each recording by the Viterbi algorithm, all recordings at a time."""
        lengths, sizes = [len(part) for part in features], [len(chain.states) for chain in chains]
        spoken = [int((chain.states != SILENT_STATE).sum()) for chain in chains]
        if any(count > length for count, length in zip(spoken, lengths, strict=True)):
            raise ValueError("a recording has fewer frames than its text has states")
        scores = torch.full((max(lengths), len(chains), max(sizes)), NEVER)
        skips = torch.full((len(chains), max(sizes)), NEVER)
        for index, (part, chain) in enumerate(zip(features, chains, strict=True)):
            states = torch.from_numpy(chain.states)
            scores[: len(part), index, : len(states)] = self._log_densities(part)[:, states]
            # A silence may be left out: the state behind it may follow the one before it.
            skips[index, 1 : len(states)][states[:-1] == SILENT_STATE] = 0.0
        best = torch.full_like(skips, NEVER)
        best[:, :2] = scores[0, :, :2]
        steps = np.zeros((max(lengths), *skips.shape), np.int8)
        history = torch.empty_like(scores)
        history[0] = best
        for frame in range(1, max(lengths)):
            step, skip = (torch.nn.functional.pad(best, (shift, 0), value=NEVER)[:, :-shift] for shift in (1, 2))
            best, advance = torch.stack([best, step, skip + skips]).max(0)
            best = best + scores[frame]
            history[frame], steps[frame] = best, advance.numpy()
        for index, (length, size) in enumerate(zip(lengths, sizes, strict=True)):
            # The last state is a silence that may be left out behind another one.
            first = max(0, size - 2)
            end = first + int(history[length - 1, index, first:size].argmax())
            yield _trace(steps[:length, index], end)

    def _log_densities(self, features: NDArray[np.float32]) -> Tensor:
        """Return the log-density of each frame in each state, (m, k), without its constant."""
        x, means = torch.from_numpy(features), torch.from_numpy(self.means)
        precisions = 1 / torch.from_numpy(self.variances)
        constant = (means**2 * precisions - precisions.log()).sum(1)
        return x @ (means * precisions).T - (x**2 @ precisions.T + constant) / 2


def _trace(steps: NDArray[np.int8], end: int) -> Ints:
    """Return the path (m,) that ends in the state `end`. steps: (m, s), how many states each frame's best path advances."""
    path = np.empty(len(steps), np.int64)
    for frame in range(len(steps) - 1, -1, -1):
        path[frame] = end
        end -= int(steps[frame, end])
    return path


def _first_path(chain: Chain, features: NDArray[np.float32]) -> Ints:
    """Return a first guess of the state of each frame, (m,): silence where both ends are quiet, and equal parts between."""
    loudness = features[:, 0]
    is_loud = np.flatnonzero(loudness > np.quantile(loudness, QUIET) + 0.5)
    begin, end = (is_loud[0], is_loud[-1] + 1) if len(is_loud) else (0, len(features))
    spoken = chain.states[chain.states != SILENT_STATE]
    path = np.full(len(features), SILENT_STATE)
    if len(spoken):
        path[begin:end] = spoken[np.arange(end - begin) * len(spoken) // (end - begin)]
    return path


def _cepstra(frames: Frames) -> NDArray[np.float32]:
    """Return the cepstra of log-mel frames (m, b) and their changes, (m, c); the first one is the loudness.

    The mean of the loud frames is subtracted, which differs by voice and microphone.
    """
    num_bands = frames.shape[1]
    angles = np.pi / num_bands * (np.arange(num_bands)[:, None] + 0.5) * np.arange(NUM_CEPSTRA)
    cepstra = frames @ (np.cos(angles) / num_bands).astype(np.float32)
    cepstra -= cepstra[cepstra[:, 0] >= np.quantile(cepstra[:, 0], NOT_LOUD)].mean(0)
    padded = np.pad(cepstra, ((REACH, REACH), (0, 0)), mode="edge")
    count = len(frames)
    changes = sum(
        reach * (padded[REACH + reach : REACH + reach + count] - padded[REACH - reach : REACH - reach + count])
        for reach in range(1, REACH + 1)
    )
    return np.concatenate([cepstra, changes], axis=1).astype(np.float32)
