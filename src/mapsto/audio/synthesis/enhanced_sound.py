"""A sound computed from the source sound, frame by frame and in step with it, as in the removal of noise.

The head answers how each token's log-mel frames differ from the source's. So it need not learn to copy what does not change, and
a new head answers the source as it is. Phases are not answered: the frames become samples by Griffin–Lim.
Legend of shapes: m tokens, k frames of a token, b bands, f = k · b numbers of a token, n examples, d width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mapsto.audio.log_mel import FRAMES_PER_SECOND, RATE, Frames
from mapsto.audio.sound_value import Sound
from mapsto.audio.synthesis.griffin_lim import synthesise
from mapsto.audio.synthesis.sound_answers import FRAME_CACHE, SoundAnswer, SoundAnswers, share_removed
from mapsto.errors import UsageError
from mapsto.metrics.mel_distance import log_mel_distance, mel_cepstral_distortion
from mapsto.model.layers import new_head
from mapsto.sequence.batch import Answer
from mapsto.sequence.piece import Ints, Piece
from mapsto.task.readout import PerToken, ask_at
from mapsto.task.source import Source
from mapsto.task.target import Metric, State
from mapsto.task.target_capabilities import Comparable, Located, located_port

# The largest difference of two durations in seconds: encoders of sound add or cut so much.
SLACK_SECONDS = 0.1

# Columns of a scored example: two distances of the answer, and the same of the source as it is.
NUM_SCORES = 4


@runtime_checkable
class FrameSource(Protocol):
    """The part of a source of log-mel frames that this target uses."""

    # Number of frames of a token, and mean and standard deviation of each band.
    frames: int
    mean: Sequence[float]
    std: Sequence[float]

    def features(self, tokens: Tensor) -> Tensor: ...


class EnhancedSoundTarget(SoundAnswers, Located, Comparable):
    """The target of a sound that is in step with the source sound."""

    lies_in = "sound"
    resembles = True
    joins_windows = True
    readout = PerToken("places")
    hub_tasks: ClassVar[Mapping[str, str]] = {"sound": "audio-to-audio"}
    primary_metric = "distance_removed"
    unbounded_metrics = ("log_mel_distance", "mel_cepstral_distortion", "log_mel_distance_unchanged", "mcd_unchanged")
    source: FrameSource

    def __init__(self) -> None:
        """Create a target without settings of its own; `bind` takes them from the source of sounds."""

    def bind(self, sources: Mapping[str, Source], transform: Any) -> None:
        """Take the frames of a token, and their mean and deviation, from the arrow's source of sounds.

        Raises UsageError if the arrow has none, or if it reads waves or patches.
        """
        source = sources.get(self.lies_in)
        if source is None:
            raise UsageError(
                f"`{self.kind}` as an answer needs `{self.lies_in}` among the sources; one of other kinds is not here yet"
            )
        if not isinstance(source, FrameSource):
            raise UsageError(
                f"`{self.kind}` as an answer is computed from log-mel frames, and this start reads {source}; take a start that "
                "reads frames, such as Whisper or one pretrained here, or none"
            )
        self.source = source

    def learn(self, answers: Sequence[Any], balance: bool = False) -> None:
        """Learn nothing, since the mean and deviation of frames belong to the source."""

    @staticmethod
    def misplaced(answer: Sound, value: Any) -> str:
        """Return a message if an answer and its source differ in duration and cannot be in step; "" if they do not."""
        seconds, source_seconds = answer.info.seconds, float(value.info.seconds)
        if abs(seconds - source_seconds) <= SLACK_SECONDS:
            return ""
        return (
            f"the answer takes {seconds:.2f} seconds and its source {source_seconds:.2f}: a sound is answered in step with its "
            "source, so both have the same duration"
        )

    def _find_sound(self, pieces: Sequence[Piece]) -> tuple[Piece, Ints]:
        """Return the source sound's piece, and the indices (m,) of its tokens among all tokens of the example."""
        port = located_port(self, [piece.kind for piece in pieces])
        return pieces[port], sum(map(len, pieces[:port])) + np.arange(len(pieces[port]))

    @property
    def _scale(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the mean and the deviation of each band, (b,) each."""
        return np.array(self.source.mean, np.float32), np.array(self.source.std, np.float32)

    def _to_frames(self, features: Tensor) -> Frames:
        """Return log-mel frames (m · k, b) of standardised features (m, f)."""
        mean, std = self._scale
        frames: Frames = features.float().cpu().numpy().reshape(-1, len(mean)) * std + mean
        return frames

    def encode(self, answer: Sound, pieces: Sequence[Piece]) -> Answer:
        """Return the answer at the source's m tokens, (m, 2, f): the true and the source's frames, standardised."""
        piece, places = self._find_sound(pieces)
        assert piece.alignment is not None
        mean, std = self._scale
        frames = FRAME_CACHE.frames(answer, len(mean))
        count = len(piece) * self.source.frames
        begin = round(float(piece.alignment.regions[0, 0, 0]) * FRAMES_PER_SECOND)
        # Behind the end of an answer that is shorter by less than SLACK_SECONDS, its last frame goes on.
        true_frames = frames[np.minimum(np.arange(begin, begin + count), len(frames) - 1)]
        truth = ((true_frames - mean) / std).reshape(len(piece), -1)
        return Answer(np.stack([truth, self._source_features(piece).numpy()], axis=1), places)

    def _source_features(self, piece: Piece) -> Tensor:
        """Return the standardised frames (m, f) of the source's tokens."""
        return self.source.features(torch.from_numpy(piece.tokens))

    def questions(self, pieces: Sequence[Piece]) -> Answer | None:
        """Return an Answer that names all tokens of the source sound without values, so that the head answers each."""
        return ask_at(self._find_sound(pieces)[1])

    def head(self, width: int, embedder: nn.Module | None) -> nn.Module:
        """Return a linear map from hidden states (m, d) to differences (m, f) from the source's frames. It starts at zero."""
        head = new_head(width, self.source.frames * len(self.source.mean))
        nn.init.zeros_(head.weight)
        return head

    def loss(self, output: Tensor, values: Tensor) -> Tensor:
        """Return the absolute error of standardised frames, averaged over the numbers of each token and summed over tokens.

        output: (m, f), predicted differences from the source. values: (m, 2, f), encoded answers.
        """
        return (output.float() + values[:, 1] - values[:, 0]).abs().mean(-1).sum()

    def evidence(self, output: Tensor, values: Tensor) -> Tensor:
        """Return the predicted, the true and the source's features, in this order on axis 1, (m, 3, f).

        output: (m, f), predicted differences from the source. values: (m, 2, f), encoded answers.
        """
        return torch.cat([(output.float() + values[:, 1])[:, None], values], dim=1)

    def by_example(self, evidence: Tensor, pieces: Sequence[Sequence[Piece]]) -> Tensor:
        """Return four scores for each example, (n, 4): log-mel distance and MCD of the answer, then those of the source as it is.

        evidence: (m, 3, f), from the method `evidence`. pieces: the source pieces of each example.
        """
        sizes = [len(self._find_sound(example)[0]) for example in pieces]
        scores = []
        for part in torch.split(evidence, sizes):
            predicted, truth, source = (self._to_frames(part[:, index]) for index in range(3))
            distances = (log_mel_distance, mel_cepstral_distortion)
            scores.append([distance(frames, truth) for frames in (predicted, source) for distance in distances])
        return torch.tensor(scores)

    def complete(self, value: Any, piece: Piece, hidden: Ints, output: Tensor) -> SoundAnswer:
        """Return the samples of the answer, as many as the source has, and their rate.

        hidden: (m,), indices of the answered tokens in `piece`. output: (m, f), predicted differences from the source.
        """
        assert piece.alignment is not None
        begin, end = float(piece.alignment.regions[0, 0, 0]), float(piece.alignment.regions[-1, 0, 1])
        frames = self._to_frames(output.float().cpu() + self._source_features(piece)[hidden])
        return synthesise(frames, min(len(frames) * RATE // FRAMES_PER_SECOND, round((end - begin) * RATE))), RATE

    def decode(self, output: Tensor) -> list[dict[str, Any]]:
        """Return {"change": (k, b)} for each token: the predicted minus the source's energies, in dB."""
        steps = output.float().cpu().view(len(output), -1, len(self.source.std)) * torch.tensor(self.source.std) * 40
        return [{"change": token.round().tolist()} for token in steps]

    def metrics(self, output: Tensor, answers: Sequence[Any]) -> dict[str, Metric]:
        """Return the distances of answers from the true sounds in dB, those of sources as they are, and the share removed.

        Each metric is the mean over examples. output: (n, 4), from `by_example`. answers: not used.
        """
        distance, distortion, source_distance, source_distortion = output.double().numpy().T
        return {
            "log_mel_distance": (np.mean, distance),
            "mel_cepstral_distortion": (np.mean, distortion),
            "log_mel_distance_unchanged": (np.mean, source_distance),
            "mcd_unchanged": (np.mean, source_distortion),
            "distance_removed": (np.mean, share_removed(distance, source_distance)),
        }

    def per_item_metric(self, output: Tensor, answers: Sequence[Any]) -> NDArray[np.float32] | None:
        """Return the share of the source's log-mel distance that each answer removes, (n,). output: (n, 4), from `by_example`."""
        distance, _, source_distance, _ = output.double().numpy().T
        return share_removed(distance, source_distance).astype(np.float32)

    def baseline(self, answers: Sequence[Any]) -> dict[str, Metric]:
        """Return no scores: no constant sound is a sensible answer. `metrics` scores the unchanged source instead."""
        return {}

    def state(self) -> State:
        """Return an empty state, since all settings come from the source."""
        return {}
