"""Voice conversion without training: each token of a recording is replaced by similar ones of another voice (kNN-VC).

Baas et al. (2023, https://arxiv.org/abs/2305.18975). A model of sounds, such as Whisper's encoder or one pretrained on recordings
without labels, gives each token a vector that says more about the sound of speech than about the voice. The tokens of the
recordings in the wanted voice are kept with their own log-mel frames. A token of the source gets the mean frames of the nearest
of them by cosine, NEIGHBOURS in number, and the frames become samples by Griffin–Lim: no vocoder is learnt either. So that
moments fit together, a neighbour also gives what stands before and behind it in its recording, with half the weight.
Price: one pass of the model over all recordings, and one matrix product for each second of the source.
Legend of shapes: t tokens of a recording, v tokens in the wanted voice, k frames of a token, b bands, d width.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mapsto.audio.log_mel import FRAMES_PER_SECOND, HOP, RATE, SILENT, Frames, log_mel
from mapsto.audio.sound_value import Sound
from mapsto.audio.synthesis.griffin_lim import synthesise
from mapsto.audio.synthesis.sound_answers import SoundAnswer
from mapsto.data.rows import bind_to, load_rows, require_any_readable
from mapsto.data.table import Table, read_table
from mapsto.device import choose_device, choose_precision
from mapsto.errors import DataError, UsageError
from mapsto.inference.forward import TOKENS_PER_BATCH, chunk_size, prefetch
from mapsto.inference.predictor import bind_tables
from mapsto.model.mapping import Mapping
from mapsto.sequence.batch import Example
from mapsto.sequence.packing import make_batches
from mapsto.sequence.piece import Piece
from mapsto.task.arrow import Arrow, parse
from mapsto.task.source_capabilities import Spoken, Windowed

ARROW = "sound -> sound"

# How many tokens of the wanted voice a token of the source becomes the mean of, as in the paper.
NEIGHBOURS = 4

# The layer whose output is compared, as a share of all layers: of Whisper base the fifth of six keeps most words.
DEPTH = 0.8

# How many tokens before and behind a neighbour are taken with it; the weight of the nearer ones is larger.
REACH = 1

# Tokens of the source that are compared at once.
TOKENS_AT_ONCE = 1024

# Seconds of a voice below which too few sounds of speech occur in it for a likeness (the paper: about half a minute).
FEW_SECONDS = 30.0


class VoiceConverter:
    """An engine that answers recordings with what is said in them in the voice of others.

    mapping: a model that reads sounds. voice: the recordings of the wanted voice, as a path or any other form of a table.
    layer: the number of the layer whose output is compared, from 1; None for the one at
        DEPTH.
    Raises UsageError if the model reads no sounds, or in a form whose tokens do not follow each other in time, and for a wrong
    layer; DataError if no recording can be read.
    """

    def __init__(
        self, mapping: Mapping, voice: Any, device: str = "auto", precision: str = "auto", layer: int | None = None
    ) -> None:
        self.cut_rows = 0
        self.arrow: Arrow = parse(ARROW)
        self.device = choose_device(device)
        self.mapping = (
            copy.deepcopy(mapping).to(self.device).eval().compute_in(choose_precision(precision, self.device))
        )
        self.source = _source_of_sounds(self.mapping)
        num_layers = self.mapping.config.transformer.layers
        if layer is not None and not 1 <= layer <= num_layers:
            raise UsageError(f"the layer is a number from 1 to {num_layers} for this model, not {layer}")
        self.layer = max(1, round(DEPTH * num_layers)) if layer is None else layer
        sounds = _read_voice(voice)
        # Seconds of the wanted voice.
        self.seconds = sum(sound.info.seconds for sound in sounds)
        parts = list(self._read_all(sounds))
        self.vectors = torch.cat([vectors for vectors, _ in parts])
        self.frames = np.concatenate([frames for _, frames in parts])
        # For each token the number of its recording.
        self.recordings = np.repeat(np.arange(len(parts)), [len(frames) for _, frames in parts])

    @property
    def notes(self) -> list[str]:
        """Return what users should know: that the recordings of the voice are too short."""
        if self.seconds >= FEW_SECONDS:
            return []
        return [
            f"the recordings of the voice take {self.seconds:.0f} seconds; with less than {FEW_SECONDS:.0f}, many sounds of "
            "speech are missing and are replaced by others"
        ]

    def answer_tables(self, tables: Iterable[Table]) -> Iterator[tuple[Table, list[dict[str, Any]]]]:
        """Yield each table with one answer a row: {"sound": (samples, rate)}, or {"error": reason}."""
        for table, bound in bind_tables(lambda table: bind_to(self.arrow, table, answers=False), tables):
            yield table, list(self._answer(table, bound)) if bound is not None else []

    def _answer(self, table: Table, bound: Arrow) -> Iterator[dict[str, Any]]:
        """Yield one answer for each row of a table, those that its reader rejected among them."""
        for row in table.in_order():
            if not isinstance(row, int):
                yield {"error": f"row {row.row}: {row.reason}"}
                continue
            rows = load_rows(bound, table.select([row]), answers=False)
            if rows.faults:
                yield {"error": f"{rows.faults[0].column}: {rows.faults[0].reason}"}
                continue
            yield {self.arrow.targets[0].kind: self.convert(rows.sources[0][0])}

    def convert(self, sound: Sound) -> SoundAnswer:
        """Return what is said in a recording in the wanted voice, as long as the recording: samples (n,) and their rate."""
        ((vectors, source_frames),) = self._read_all([sound])
        nearest = [
            (part @ self.vectors.T).topk(min(NEIGHBOURS, len(self.vectors))).indices
            for part in torch.split(vectors, TOKENS_AT_ONCE)
        ]
        frames = self._join(torch.cat(nearest).cpu().numpy())
        # Vectors of silence are like many others, so silence stays what it is.
        is_silent = source_frames.max(1, keepdims=True) < SILENT
        bands = source_frames.shape[1] // self._token_frames
        return synthesise(np.where(is_silent, source_frames, frames).reshape(-1, bands), len(sound.decode(RATE))), RATE

    def _join(self, nearest: NDArray[np.int64]) -> Frames:
        """Return the frames (t, k · b) of tokens, each the mean of those of its nearest tokens of the voice.

        A neighbour also counts for the tokens up to REACH before and behind, by what is there in its recording.
        nearest: (t, n), indices of the neighbours of each token.
        """
        count = len(nearest)
        total, weights = np.zeros((count, self.frames.shape[1]), np.float32), np.zeros((count, 1), np.float32)
        for offset in range(-min(REACH, count - 1), min(REACH, count - 1) + 1):
            neighbours = np.clip(nearest + offset, 0, len(self.frames) - 1)
            is_same = self.recordings[neighbours] == self.recordings[nearest]
            weight = (1 - abs(offset) / (REACH + 1)) * is_same.astype(np.float32)
            to, origins = slice(max(0, offset), count + min(0, offset)), slice(max(0, -offset), count - max(0, offset))
            total[to] += (self.frames[neighbours[origins]] * weight[origins][..., None]).sum(1)
            weights[to] += weight[origins].sum(1, keepdims=True)
        frames: Frames = total / weights
        return frames

    @property
    def _token_frames(self) -> int:
        """Return the number of log-mel frames k of a token."""
        seconds: float = self.source.token_seconds
        return round(seconds * FRAMES_PER_SECOND)

    def _read_all(self, sounds: Sequence[Sound]) -> Iterator[tuple[Tensor, Frames]]:
        """Yield for each sound the vectors (t, d) of its tokens, of unit length, and their log-mel frames, (t, k · b)."""
        for chunk in prefetch(sounds, chunk_size(self.mapping), lambda sounds: list(map(self._encode, sounds))):
            windows = [window for pieces, _ in chunk for window in pieces]
            states = self._states(windows)
            begin = 0
            for pieces, frames in chunk:
                vectors = torch.cat(states[begin : begin + len(pieces)])
                begin += len(pieces)
                # Silence that a published model wants behind a sound is no part of it, and its last frames may have no token.
                count = min(len(vectors), len(frames))
                yield vectors[:count], frames[:count]

    def _encode(self, sound: Sound) -> tuple[list[Piece], Frames]:
        """Return the pieces of a sound, of which a long one has several, and its frames (t, k · b)."""
        samples, size = sound.decode(RATE), self._token_frames
        count = max(1, -(-len(samples) // (HOP * size)))
        frames = log_mel(samples, count * size).reshape(count, -1)
        (piece,) = self.source.encode([sound], 0)
        longest = self.mapping.config.max_tokens
        return [piece] if len(piece) <= longest else self.source.windows(piece, longest), frames

    def _states(self, pieces: Sequence[Piece]) -> list[Tensor]:
        """Return the outputs of the compared layer for the tokens of each piece, (t, d) each, of unit length."""
        states: list[Tensor] = [torch.zeros(0)] * len(pieces)
        examples = [Example((piece,), (), index) for index, piece in enumerate(pieces)]
        with torch.inference_mode():
            for batch in make_batches(examples, TOKENS_PER_BATCH):
                batch_on_device = batch.to(self.device)
                layers = self.mapping.states(self.mapping.embed(batch_on_device), batch_on_device, every_layer=True)
                hidden = F.normalize(layers[self.layer].float().flatten(0, 1), dim=-1)
                places = batch_on_device.starts.tolist(), batch_on_device.lengths.tolist()
                for row, start, length in zip(batch.rows, *places, strict=True):
                    states[int(row)] = hidden[start : start + length]
        return states


def _source_of_sounds(mapping: Mapping) -> Any:
    """Return the model's source of sounds, without silence behind a sound. Raises UsageError if it has none that fits."""
    (port, *others) = mapping.arrow.sources
    source = mapping.sources[port.kind]
    if others or port.kind != parse(ARROW).sources[0].kind:
        raise UsageError(
            f"--like is for models that read one sound, such as Whisper or one pretrained on recordings, not {mapping.arrow}"
        )
    try:
        is_sequence = isinstance(source, Spoken) and not mapping.config.is_linear and source.token_seconds > 0
    except UsageError:  # of patches of a spectrogram, of which several begin together
        is_sequence = False
    if not is_sequence:
        raise UsageError(f"--like needs a model whose tokens follow each other in time; this one reads {source}")
    return source.with_padding(False) if isinstance(source, Windowed) else source


def _read_voice(voice: Any) -> list[Sound]:
    """Return the recordings of a voice from a file, folder or table. Raises DataError if none can be read."""
    table = read_table(voice)
    if not len(table):
        raise DataError("--like names no recordings")
    rows = load_rows(bind_to(Arrow(parse(ARROW).sources, ()), table, answers=False), table, answers=False)
    require_any_readable(rows)
    return list(rows.sources[0])
