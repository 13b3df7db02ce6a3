"""Laws over the published families that read sounds: they prepare, compute and save what `transformers` does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("soundfile", reason="the extra [sound] is not here")
pytest.importorskip("transformers", reason="transformers is the oracle")

from mappings import make_sound
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperModel

import mapsto
from mapsto.audio.log_mel import RATE, band_filters, log_mel
from mapsto.audio.sound_io import resample
from mapsto.audio.sound_value import Sound
from mapsto.data.table import read_table
from mapsto.errors import CheckpointError, DataError
from mapsto.inference.predictor import Predictor
from mapsto.pretrained import huggingface, model_folder
from mapsto.sequence.batch import Example
from mapsto.sequence.packing import make_batches

SIZES: dict[str, Any] = {
    "d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_layers": 1,
    "decoder_attention_heads": 4, "decoder_ffn_dim": 64, "num_mel_bins": 80, "max_source_positions": 50,
    "vocab_size": 60, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
    "begin_suppress_tokens": None, "suppress_tokens": None,
}  # fmt: skip


def sounds() -> list[np.ndarray]:
    """Return samples (n,) at 16 kHz of sounds of several lengths, the longest of nearly one second.

    At the end of a sound that fills a window `transformers` mirrors the last samples, where there is silence or more sound here.
    """
    noise = np.random.default_rng(0).normal(0, 0.05, RATE - 200).astype(np.float32)
    return [resample(make_sound(number, number % 2 == 0), 8000, RATE) for number in range(3)] + [noise, noise[:5000]]


def make(folder: Path, **changes: Any) -> tuple[Any, Any]:
    """Save a random model with sharper attention than at its start, and its feature extractor; return both."""
    torch.manual_seed(0)
    config = WhisperConfig(**{**SIZES, **changes})
    model = WhisperForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    extractor = WhisperFeatureExtractor(feature_size=config.num_mel_bins, chunk_length=1)
    extractor.save_pretrained(folder)
    return model, extractor


def extract(extractor: Any, samples: list[np.ndarray]) -> torch.Tensor:
    """Return the frames (n, b, m) of sounds, each padded to a second, as `transformers` computes them."""
    features: torch.Tensor = extractor(samples, sampling_rate=RATE, return_tensors="pt").input_features
    return features


def encode(mapping: Any, samples: list[np.ndarray]) -> list[torch.Tensor]:
    """Return the last hidden states (t, d) of sounds, packed together."""
    values = [Sound.from_samples(part, RATE) for part in samples]
    pieces = mapping.sources["sound"].encode(values, 0)
    states: list[torch.Tensor] = [torch.zeros(0)] * len(pieces)
    for batch in make_batches([Example((piece,), (), row) for row, piece in enumerate(pieces)], 512):
        hidden = mapping.hidden(batch).flatten(0, 1)
        for row, start, length in zip(batch.rows.tolist(), batch.starts.tolist(), batch.lengths.tolist(), strict=True):
            states[row] = hidden[start : start + length]
    return states


@pytest.mark.parametrize("num_bands", [80, 128])
def test_filters_and_frames_are_those_of_transformers(num_bands: int) -> None:
    extractor = WhisperFeatureExtractor(feature_size=num_bands, chunk_length=1)
    assert np.allclose(band_filters(num_bands).numpy(), np.array(extractor.mel_filters).T, atol=1e-7)
    for samples, expected in zip(sounds(), extract(extractor, sounds()), strict=True):
        assert np.array_equal(log_mel(np.pad(samples, (0, RATE - len(samples))), 100, num_bands), expected.T.numpy())


def test_frames_do_not_depend_on_silence_behind_a_sound() -> None:
    for samples in sounds():
        num_frames = -(-len(samples) // 160)
        padded = log_mel(np.pad(samples, (0, 3 * RATE)), num_frames + 100)
        assert np.allclose(log_mel(samples, num_frames), padded[:num_frames], atol=1e-6)


@pytest.mark.parametrize("changes", [{}, {"num_mel_bins": 128, "activation_function": "relu"}])
def test_hidden_states_and_gradients_are_those_of_transformers(tmp_path: Path, changes: dict[str, Any]) -> None:
    reference, extractor = make(tmp_path, **changes)
    opened = huggingface.open_pretrained(str(tmp_path))
    mapping = model_folder.load_mapping(tmp_path)
    padded = [np.pad(samples, (0, RATE - len(samples))) for samples in sounds()]
    expected = reference.model.encoder(extract(extractor, sounds())).last_hidden_state
    states = encode(mapping, padded)
    for own, other in zip(states, expected, strict=True):
        assert torch.allclose(own, other, atol=1e-5, rtol=1e-4)
    weights = torch.randn_like(expected)
    (expected * weights).sum().backward()
    (torch.stack(states) * weights).sum().backward()
    encoder = reference.model.encoder
    embedder = mapping.embedders["sound"]
    pairs = [(embedder.conv1.weight, encoder.conv1.weight), (embedder.conv2.bias, encoder.conv2.bias)]
    pairs += [(mapping.transformer.blocks[1].feed.up.weight, encoder.layers[1].fc1.weight)]
    for own, other in pairs:
        assert torch.allclose(own.grad, other.grad, atol=1e-4, rtol=1e-3)
    assert {name.split(".")[0] for name in opened.tensors} == {"embedders", "transformer"}


def test_a_saved_encoder_opens_in_transformers(tmp_path: Path) -> None:
    reference, _extractor = make(tmp_path / "start")
    rows = [{"sound": (make_sound(number, number % 2 == 0), 8000), "label": "ab"[number % 2]} for number in range(16)]
    fitted = mapsto.fit(
        "sound -> label", rows, tmp_path / "run", start=tmp_path / "start", steps=2, method="full", device="cpu"
    )
    again = WhisperModel.from_pretrained(tmp_path / "run").eval()
    samples = [np.pad(part, (0, RATE - len(part))) for part in sounds()]
    with torch.no_grad():
        expected = again.encoder(extract(WhisperFeatureExtractor.from_pretrained(tmp_path / "run"), sounds()))
        # Not the fitted model's own mapping, which may compute in bf16.
        states = encode(model_folder.load_mapping(tmp_path / "run"), samples)
    assert torch.allclose(torch.stack(states), expected.last_hidden_state, atol=1e-4, rtol=1e-3)
    assert not torch.equal(again.encoder.conv1.weight, reference.model.encoder.conv1.weight)
    answers = [answer["label"] for answer in mapsto.load(tmp_path / "run").predict(rows)]
    assert answers == [answer["label"] for answer in fitted.predict(rows)]


def test_a_long_sound_is_cut_in_a_pause_and_each_window_is_read_as_a_sound_of_its_own(tmp_path: Path) -> None:
    make(tmp_path)
    source = model_folder.load_mapping(tmp_path).sources["sound"]
    tone = np.sin(np.arange(RATE) * 0.3).astype(np.float32)
    # 0.72 seconds of sound, a pause of 0.2 seconds, and 0.5 seconds of sound.
    long = np.concatenate([tone[: int(0.72 * RATE)], np.zeros(RATE // 5, np.float32), tone[: RATE // 2]])
    (piece,) = source.encode([Sound.from_samples(long, RATE)], 0, aligned=True)
    windows = source.windows(piece, 50)
    assert sum(map(len, windows)) == len(piece) == 71
    cut = len(windows[0])
    assert 0.72 < cut * 0.02 < 0.92
    samples = [long[: cut * 320], long[cut * 320 :]]
    expected = source.encode([Sound.from_samples(part, RATE) for part in samples], 0, aligned=True)
    for window, part, begin in zip(windows, expected, (0, cut * 0.02), strict=True):
        # A token before the first one, and behind the last one, is not looked at, or is silent.
        assert np.allclose(window.tokens[1:, 2:], part.tokens[1:, 2:], atol=0.02)
        assert np.array_equal(window.tokens[:, :2], part.tokens[:, :2])
        assert np.array_equal(window.positions, part.positions)
        assert window.alignment is not None and part.alignment is not None
        assert np.allclose(window.alignment.regions, part.alignment.regions + begin, atol=1e-6)


def test_long_sounds_get_labels_by_their_first_window_or_by_all(tmp_path: Path) -> None:
    make(tmp_path / "start")
    rows = [{"sound": (np.tile(make_sound(n, n % 2 == 0), 4), 8000), "label": "ab"[n % 2]} for n in range(16)]
    seconds = len(rows[0]["sound"][0]) / 8000
    assert seconds > 1
    fitted = mapsto.fit(
        "sound -> label", rows, tmp_path / "run", start=tmp_path / "start", steps=2, method="full", device="cpu"
    )
    table = read_table(rows)
    cut, windowed = (Predictor(fitted.mapping, "cpu", "fp32", long) for long in ("cut", "window"))
    shares = [[answer["probability"] for answer in predictor.answer(table)] for predictor in (cut, windowed)]
    assert cut.cut_rows == 16 and windowed.cut_rows == 0
    assert shares[0] != shares[1]
    with pytest.raises(DataError, match="16 rows are longer than 50 tokens"):
        list(Predictor(fitted.mapping, "cpu", "fp32", "error").answer(table))


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"scale_embedding": True}, "scale_embedding"), ({"max_source_positions": 0}, "max_source_positions")],
)
def test_settings_that_are_not_supported_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    make(tmp_path)
    config = tmp_path / "config.json"
    text = config.read_text()
    for name, value in changes.items():
        text = text.replace(f'"{name}": {str(SIZES.get(name, False)).lower()}', f'"{name}": {str(value).lower()}')
    config.write_text(text)
    with pytest.raises(CheckpointError, match=message):
        huggingface.open_pretrained(str(tmp_path))
