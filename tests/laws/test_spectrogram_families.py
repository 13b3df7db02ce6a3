"""Laws over the published families that read patches of spectrograms: they compute and save what `transformers` does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("soundfile", reason="the extra [sound] is not here")
pytest.importorskip("transformers", reason="transformers is the oracle")

import safetensors.torch
from mappings import make_sound
from transformers import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification, ASTModel
from transformers.utils import is_speech_available

import mapsto
from mapsto.audio.log_mel import RATE
from mapsto.audio.sound_io import resample
from mapsto.audio.sound_value import Sound
from mapsto.audio.sources.fbank import BLOCK, log_fbank
from mapsto.audio.sources.patch_embedding import HEADER
from mapsto.audio.sources.patch_source import SpectrogramSource
from mapsto.errors import CheckpointError, UsageError
from mapsto.pretrained import huggingface, model_folder
from mapsto.pretrained.weight_names import to_published_names
from mapsto.sequence.batch import Batch, Example
from mapsto.sequence.corruption import Corruption, make_generator
from mapsto.sequence.packing import collate

SIZES: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "max_length": 96,
    "num_labels": 3,
}  # fmt: skip
VARIANTS: dict[str, dict[str, Any]] = {
    "published": {},
    "other sizes": {"num_mel_bins": 64, "patch_size": 8, "frequency_stride": 8, "time_stride": 6},
}

# torchaudio, which `transformers` prefers if it is there, rounds in 32 bits.
TOLERANCE = 2.5e-5 if is_speech_available() else 0.0

pytestmark = pytest.mark.filterwarnings("ignore:At least one mel filter")


def sounds() -> list[np.ndarray]:
    """Return samples (n,) at 16 kHz: tones and noises, also of a single frame and of more frames than are read at once."""
    noise = np.random.default_rng(0).normal(0.01, 0.1, 40_000).astype(np.float32)
    tones = [resample(make_sound(number, number % 2 == 0), 8000, RATE) for number in range(2)]
    return [*tones, noise[:400], noise[:9000], noise]


def make(folder: Path, head: bool = True, **changes: Any) -> tuple[Any, Any]:
    """Save a random model with larger weights than at its start, and its feature extractor; return both."""
    torch.manual_seed(0)
    config = ASTConfig(**{**SIZES, **changes})
    model = (ASTForAudioClassification if head else ASTModel)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    extractor = ASTFeatureExtractor(max_length=config.max_length, num_mel_bins=config.num_mel_bins)
    extractor.save_pretrained(folder)
    return model, extractor


def prepare(extractor: Any, samples: np.ndarray) -> torch.Tensor:
    """Return the spectrogram (1, m, b) of samples (n,), as `transformers` computes it."""
    spectrogram: torch.Tensor = extractor(samples, sampling_rate=RATE, return_tensors="pt").input_values
    return spectrogram


def pack(mapping: Any, samples: list[np.ndarray]) -> Batch:
    """Return the batch of sounds, each cut to what is read at once, packed together."""
    source = mapping.sources["sound"]
    pieces = source.encode([Sound.from_samples(part, RATE) for part in samples], 0)
    batch = collate([Example((source.cut(piece, source.max_tokens),)) for piece in pieces], 1024)
    assert batch.segments.max() > 1, "sounds share rows"
    return batch


def in_time(states: torch.Tensor, source: Any) -> torch.Tensor:
    """Return hidden states (2 + rows · columns, d) of `transformers` with the patches in the order of time."""
    special, patches = states.split([2, len(states) - 2])
    return torch.cat([special, patches.unflatten(0, (source.config.rows, -1)).transpose(0, 1).flatten(0, 1)])


@pytest.mark.parametrize("normalised", [True, False])
def test_spectrograms_are_those_of_transformers(tmp_path: Path, normalised: bool) -> None:
    make(tmp_path)
    extractor = ASTFeatureExtractor(max_length=96, do_normalize=normalised)
    extractor.save_pretrained(tmp_path)
    source = model_folder.load_mapping(tmp_path).sources["sound"]
    assert isinstance(source, SpectrogramSource)
    for samples in sounds():
        expected = prepare(extractor, samples)[0].numpy()
        difference = np.abs(source.frames(Sound.from_samples(samples, RATE))[:96] - expected).max()
        assert difference <= TOLERANCE, difference


def test_frames_do_not_depend_on_the_blocks_in_which_they_are_computed() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, (BLOCK + 10) * 160).astype(np.float32)
    whole, rest = log_fbank(noise, 128), log_fbank(noise[(BLOCK - 5) * 160 :], 128)
    assert np.allclose(whole[BLOCK - 5 :], rest, atol=1e-6) and len(whole) == BLOCK + 8


@pytest.mark.parametrize("variant", VARIANTS)
def test_hidden_states_logits_and_every_gradient(tmp_path: Path, variant: str) -> None:
    reference, extractor = make(tmp_path, **VARIANTS[variant])
    mapping = model_folder.load_mapping(tmp_path)
    source = mapping.sources["sound"]
    batch = pack(mapping, sounds())
    states = mapping.transformer(mapping.embed(batch), batch, every_layer=True)
    (logits,) = mapping(batch)
    loss, expected_loss = torch.zeros(()), torch.zeros(())
    for number, samples in enumerate(sounds()):
        output = reference(prepare(extractor, samples), output_hidden_states=True)
        body = reference.audio_spectrogram_transformer(prepare(extractor, samples))
        expected = [*output.hidden_states[:-1], body.last_hidden_state]
        start, length = int(batch.starts[number]), int(batch.lengths[number])
        assert length == source.max_tokens and len(states) == len(expected)
        for own, other in zip(states, expected, strict=True):
            own = own.flatten(0, 1)[start : start + length]
            torch.testing.assert_close(own, in_time(other[0], source), atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(logits[number], output.logits[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(mapping.pool(states[-1], batch)[number], body.pooler_output[0], atol=1e-5, rtol=1e-4)
        weights = torch.randn(3)
        loss = loss + (logits[number] * weights).sum()
        expected_loss = expected_loss + (output.logits[0] * weights).sum()
    loss.backward()
    expected_loss.backward()
    gradients = {name: parameter.grad for name, parameter in mapping.named_parameters()}
    renamed = {
        f"classifier.{name.split('.', 2)[2]}" if name.startswith("heads.") else name: g for name, g in gradients.items()
    }
    compared = to_published_names(mapping, renamed)
    assert sum(p.numel() for p in mapping.parameters()) == sum(p.numel() for p in reference.parameters())
    # In memory `transformers` has other names than in files, so its gradients are saved as if they were weights.
    for parameter in reference.parameters():
        parameter.data = parameter.grad
    reference.save_pretrained(tmp_path / "gradients")
    published = safetensors.torch.load_file(tmp_path / "gradients" / "model.safetensors")
    assert compared.keys() == published.keys()
    for name, gradient in published.items():
        torch.testing.assert_close(compared[name], gradient, atol=2e-4, rtol=2e-3, msg=name)


def test_a_fitted_model_opens_in_transformers(tmp_path: Path) -> None:
    make(tmp_path / "start", head=False)
    rows = [{"sound": (make_sound(number, number % 2 == 0), 8000), "label": "ab"[number % 2]} for number in range(16)]
    fitted = mapsto.fit(
        "sound -> label", rows, tmp_path / "run", start=tmp_path / "start", steps=2, method="full", device="cpu"
    )
    again, loading = ASTForAudioClassification.from_pretrained(tmp_path / "run", output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    extractor = ASTFeatureExtractor.from_pretrained(tmp_path / "run")
    mapping = model_folder.load_mapping(tmp_path / "run")
    with torch.no_grad():
        (logits,) = mapping(pack(mapping, sounds()))
        for own, samples in zip(logits, sounds(), strict=True):
            expected = again.eval()(prepare(extractor, samples)).logits[0]
            torch.testing.assert_close(own, expected, atol=1e-4, rtol=1e-3)
    assert again.config.id2label == {0: "a", 1: "b"}
    explanation = fitted.explain(rows[:1])[0]
    seconds = len(rows[0]["sound"][0]) / 8000
    regions = [part.region[0] for part in explanation.parts]
    assert regions[0][0] == 0 and regions[-1][1] == pytest.approx(seconds) and len(regions) == -(-seconds // 0.1)


def test_windows_are_sounds_of_their_own(tmp_path: Path) -> None:
    reference, extractor = make(tmp_path)
    mapping = model_folder.load_mapping(tmp_path)
    source = mapping.sources["sound"]
    assert isinstance(source, SpectrogramSource)
    samples = sounds()[-1]
    (piece,) = source.encode([Sound.from_samples(samples, RATE)], 0, aligned=True)
    windows = source.windows(piece, source.max_tokens)
    frames, step = source.frames(Sound.from_samples(samples, RATE)), source.config.columns * 10
    assert len(windows) > 2 and all(len(window) == source.max_tokens for window in windows)
    batch = collate([Example((window,)) for window in windows], 1024)
    states = mapping.hidden(batch).flatten(0, 1)
    for number, (window, start) in enumerate(zip(windows, batch.starts.tolist(), strict=True)):
        spectrogram = torch.from_numpy(frames[number * step : number * step + 96])[None]
        expected = reference.audio_spectrogram_transformer(spectrogram).last_hidden_state[0]
        own = states[start : start + source.max_tokens]
        torch.testing.assert_close(own, in_time(expected, source), atol=2e-5, rtol=1e-4)
        assert window.alignment is not None
        assert window.alignment.regions[2, 0, 0] == pytest.approx(number * step / 100)
    assert piece.alignment is not None and piece.alignment.regions[:, 0, 1].max() == len(samples) / RATE
    del extractor


def test_augmentation_varies_the_sound_and_not_its_padding(tmp_path: Path) -> None:
    make(tmp_path)
    source = model_folder.load_mapping(tmp_path).sources["sound"]
    assert isinstance(source, SpectrogramSource)
    samples = sounds()[-1][:8000]
    (piece,) = source.encode([Sound.from_samples(samples, RATE)], 0)
    assert np.array_equal(source._patches(source._frames(piece.tokens[2:, HEADER:])), piece.tokens[2:, HEADER:])
    num_columns = -(-len(log_fbank(samples, 128)) // 10)
    variants = [source.augment(piece, make_generator(0, 0, step), "spec") for step in range(4)]
    rest = slice(2 + num_columns * source.config.rows, None)
    for step, varied in enumerate(variants):
        assert np.array_equal(varied.tokens, source.augment(piece, make_generator(0, 0, step), "spec").tokens)
        assert np.array_equal(varied.tokens[rest], piece.tokens[rest])
        assert np.array_equal(varied.tokens[:, :HEADER], piece.tokens[:, :HEADER])
        assert (varied.tokens[2:20] != piece.tokens[2:20]).any()
    part = source.remove_tokens(piece, np.arange(5, 9))
    assert source.augment(part, make_generator(0, 0, 0), "spec") is part


def test_patches_are_not_hidden(tmp_path: Path) -> None:
    make(tmp_path)
    source = model_folder.load_mapping(tmp_path).sources["sound"]
    (piece,) = source.encode([Sound.from_samples(sounds()[0], RATE)], 0)
    with pytest.raises(UsageError, match="overlapping patches"):
        source.mask(piece, Corruption(), make_generator(0, 0, 0), 0.0)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("config.json", {"num_mel_bins": 10**9}, "num_mel_bins"),
        ("config.json", {"max_length": 10**12}, "max_length"),
        ("config.json", {"max_length": 8}, "patches"),
        ("config.json", {"max_length": 2**16, "time_stride": 1}, "patches"),
        ("config.json", {"max_length": 192}, "max_length"),
        ("config.json", {"patch_size": [16, 16]}, "patch_size"),
        ("config.json", {"patch_size": 8}, "gaps"),
        ("config.json", {"time_stride": 0}, "time_stride"),
        ("config.json", {"frequency_stride": 20}, "gaps"),
        ("config.json", {"frequency_stride": 9}, "shape"),
        ("config.json", {"hidden_size": 2**20}, "shape"),
        ("config.json", {"num_hidden_layers": 10**6}, "does not fit"),
        ("config.json", {"qkv_bias": False}, "qkv_bias"),
        ("preprocessor_config.json", {"sampling_rate": 8000}, "sampling_rate"),
        ("preprocessor_config.json", {"max_length": 1024}, "max_length"),
        ("preprocessor_config.json", {"num_mel_bins": 80}, "num_mel_bins"),
        ("preprocessor_config.json", {"std": 0}, "std above 0"),
        ("preprocessor_config.json", {"mean": "x"}, "mean"),
        ("preprocessor_config.json", {"do_normalize": "yes"}, "do_normalize"),
    ],
    ids=str,
)
def test_settings_that_are_not_supported_are_refused(
    tmp_path: Path, file: str, changes: dict[str, Any], message: str
) -> None:
    make(tmp_path)
    content = json.loads((tmp_path / file).read_text())
    (tmp_path / file).write_text(json.dumps({**content, **changes}))
    with pytest.raises(CheckpointError, match=message):
        huggingface.open_pretrained(str(tmp_path))
