"""Laws over the published families that read waves of sounds: they prepare, compute and save what `transformers` does."""

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
import transformers
from mappings import make_sound
from transformers import Wav2Vec2FeatureExtractor

import mapsto
from mapsto.audio.log_mel import RATE
from mapsto.audio.sound_io import resample
from mapsto.audio.sound_value import Sound
from mapsto.audio.sources.wave_embedding import FIRST_ENTRY, HIDDEN_ENTRY
from mapsto.audio.sources.wave_source import WaveSource
from mapsto.errors import CheckpointError, UsageError
from mapsto.model.attention import relative_buckets
from mapsto.pretrained import huggingface, model_folder
from mapsto.pretrained.weight_names import to_published_names
from mapsto.sequence.batch import Batch, Example
from mapsto.sequence.corruption import Corruption, make_generator
from mapsto.sequence.packing import collate

SIZES: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64, "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
}  # fmt: skip
CLASSES = {"wav2vec2": "Wav2Vec2", "hubert": "Hubert", "wavlm": "WavLM"}
VARIANTS: dict[str, dict[str, Any]] = {
    "base": {},
    "large": {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True},
    "mixed": {"feat_extract_norm": "layer", "conv_bias": True, "num_conv_pos_embeddings": 5, "hidden_act": "relu"},
    "other strides": {"do_stable_layer_norm": True, "conv_dim": [8, 16], "conv_kernel": [16, 5], "conv_stride": [8, 5]},
    "not masked": {"mask_time_prob": 0.0},
}
SHAPES = [(family, variant) for family in CLASSES for variant in VARIANTS]


def sounds() -> list[np.ndarray]:
    """Return samples (n,) at 16 kHz: tones and noises, also of one token, and of one with the longest rest."""
    rng = np.random.default_rng(0)
    noises = [rng.normal(0.01, 0.1, length).astype(np.float32) for length in (400, 719, 720, 16_000)]
    return [resample(make_sound(number, number % 2 == 0), 8000, RATE) for number in range(3)] + noises


def make(folder: Path, family: str = "wav2vec2", head: str = "Model", **changes: Any) -> Any:
    """Save a random model with larger weights than at its start, and its feature extractor; return the model."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{CLASSES[family]}Config")(**{**SIZES, **changes})
    model = getattr(transformers, CLASSES[family] + head)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    return model


def prepare(samples: np.ndarray) -> torch.Tensor:
    """Return what `transformers` makes of samples (n,) for its models, (1, n)."""
    return torch.from_numpy(Wav2Vec2FeatureExtractor()(samples, sampling_rate=RATE).input_values[0])[None]


def pack(mapping: Any, samples: list[np.ndarray]) -> Batch:
    """Return the batch of sounds, packed together."""
    pieces = mapping.sources["sound"].encode([Sound.from_samples(part, RATE) for part in samples], 0)
    batch = collate([Example((piece,), (), row) for row, piece in enumerate(pieces)], 2048)
    assert batch.segments.max() > 1, "sounds share rows"
    return batch


def unpack(states: torch.Tensor, batch: Batch) -> list[torch.Tensor]:
    """Return the hidden states (t, d) of each example of a batch."""
    flat = states.flatten(0, 1)
    ends = zip(batch.starts.tolist(), batch.lengths.tolist(), strict=True)
    return [flat[start : start + length] for start, length in ends]


@pytest.mark.parametrize("normalised", [True, False])
def test_samples_are_those_of_transformers(tmp_path: Path, normalised: bool) -> None:
    make(tmp_path)
    extractor = Wav2Vec2FeatureExtractor(do_normalize=normalised)
    extractor.save_pretrained(tmp_path)
    source = model_folder.load_mapping(tmp_path).sources["sound"]
    assert isinstance(source, WaveSource)
    (embedder,) = [source.embedder(32)]
    for samples in sounds():
        (piece,) = source.encode([Sound.from_samples(samples, RATE)], 0)
        (clip,) = embedder.clips(torch.from_numpy(piece.tokens))  # type: ignore[operator]
        expected = extractor(samples, sampling_rate=RATE).input_values[0]
        assert np.array_equal(clip[0, 0].numpy(), expected)


@pytest.mark.parametrize(("family", "variant"), SHAPES)
def test_hidden_states_and_every_gradient_are_those_of_transformers(tmp_path: Path, family: str, variant: str) -> None:
    reference = make(tmp_path, family, **VARIANTS[variant])
    mapping = model_folder.load_mapping(tmp_path)
    batch = pack(mapping, sounds())
    states = mapping.transformer(mapping.embed(batch), batch, every_layer=True)
    loss, expected_loss = torch.zeros(()), torch.zeros(())
    for number, samples in enumerate(sounds()):
        output = reference(prepare(samples), output_hidden_states=True)
        # Of pre-norm models `transformers` gives the last layer's state before the norm.
        expected = [*output.hidden_states[:-1], output.last_hidden_state]
        assert len(states) == len(expected)
        for own, other in zip(states, expected, strict=True):
            torch.testing.assert_close(unpack(own, batch)[number], other[0], atol=1e-5, rtol=1e-4)
        weights = torch.randn_like(output.last_hidden_state[0])
        loss = loss + (unpack(states[-1], batch)[number] * weights).sum()
        expected_loss = expected_loss + (output.last_hidden_state[0] * weights).sum()
    loss.backward()
    expected_loss.backward()
    gradients = {name: parameter.grad for name, parameter in mapping.named_parameters() if parameter.grad is not None}
    published = {name: parameter.grad for name, parameter in reference.named_parameters()}
    assert sum(p.numel() for p in mapping.parameters()) == sum(p.numel() for p in reference.parameters())
    compared = to_published_names(mapping, gradients)
    assert compared.keys() == published.keys()
    # Nothing is hidden here.
    assert not any(gradient.any() for name, gradient in compared.items() if "masked_spec_embed" in name)
    published = {name: gradient for name, gradient in published.items() if gradient is not None}
    for name, expected in published.items():
        torch.testing.assert_close(compared[name], expected, atol=2e-4, rtol=2e-3, msg=name)


@pytest.mark.parametrize("family", CLASSES)
def test_hidden_tokens_are_those_of_transformers(tmp_path: Path, family: str) -> None:
    reference = make(tmp_path, family)
    mapping = model_folder.load_mapping(tmp_path)
    source = mapping.sources["sound"]
    samples = sounds()[-1]
    (piece,) = source.encode([Sound.from_samples(samples, RATE)], 0)
    masked = source.augment(piece, make_generator(0, 0, 1), "spec")  # type: ignore[attr-defined]
    hidden = np.flatnonzero(masked.tokens[:, HIDDEN_ENTRY])
    assert len(hidden) > 1
    is_hidden = torch.zeros(1, len(piece), dtype=torch.bool)
    is_hidden[0, hidden] = True
    reference.train()
    for module in reference.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    reference.config.update({"layerdrop": 0.0, "hidden_dropout": 0.0, "attention_dropout": 0.0, "mask_time_prob": 0.1})
    for layer in reference.encoder.layers:
        layer.attention.dropout = 0.0
    expected = reference(prepare(samples), mask_time_indices=is_hidden).last_hidden_state[0]
    batch = collate([Example((masked,))])
    torch.testing.assert_close(unpack(mapping.hidden(batch), batch)[0], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("buckets", "distance"), [(320, 800), (32, 128), (4, 3)])
def test_buckets_of_distances_are_those_of_transformers(tmp_path: Path, buckets: int, distance: int) -> None:
    reference = make(tmp_path, "wavlm", num_buckets=buckets, max_bucket_distance=distance)
    distances = torch.arange(-3000, 3001)
    expected = reference.encoder.layers[0].attention._relative_positions_bucket(distances)
    assert torch.equal(relative_buckets(distances, buckets, distance, False), expected)


@pytest.mark.parametrize(("family", "variant"), SHAPES)
def test_a_saved_body_opens_in_transformers_with_every_weight(tmp_path: Path, family: str, variant: str) -> None:
    make(tmp_path / "start", family, **VARIANTS[variant])
    rows = [{"sound": (make_sound(number, number % 2 == 0), 8000), "label": "ab"[number % 2]} for number in range(16)]
    fitted = mapsto.fit(
        "sound -> label", rows, tmp_path / "run", start=tmp_path / "start", steps=2, method="full", device="cpu"
    )
    again, loading = getattr(transformers, f"{CLASSES[family]}ForSequenceClassification").from_pretrained(
        tmp_path / "run", output_loading_info=True
    )
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    mapping = model_folder.load_mapping(tmp_path / "run")
    batch = pack(mapping, sounds())
    with torch.no_grad():
        states, (logits,) = unpack(mapping.hidden(batch), batch), mapping(batch)
        for samples, own, own_logits in zip(sounds(), states, logits, strict=True):
            expected = again.eval().base_model(prepare(samples)).last_hidden_state[0]
            torch.testing.assert_close(own, expected, atol=1e-4, rtol=1e-3)
            torch.testing.assert_close(own_logits, again(prepare(samples)).logits[0], atol=1e-4, rtol=1e-3)
    extractor = Wav2Vec2FeatureExtractor.from_pretrained(tmp_path / "run")
    assert extractor.do_normalize and extractor.sampling_rate == RATE
    loaded = mapsto.load(tmp_path / "run")
    assert loaded.mapping.config == fitted.mapping.config and again.config.id2label == {0: "a", 1: "b"}
    assert [answer["label"] for answer in loaded.predict(rows)] == [answer["label"] for answer in fitted.predict(rows)]


def rename(folder: Path, *pairs: tuple[str, str]) -> None:
    """Rename the weights in a folder, by parts of their names."""
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    for old, new in pairs:
        assert any(old in name for name in tensors)
        tensors = {name.replace(old, new): tensor for name, tensor in tensors.items()}
    safetensors.torch.save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def test_either_name_of_a_weight_norm_is_read(tmp_path: Path) -> None:
    make(tmp_path)
    first = model_folder.load_mapping(tmp_path).state_dict()
    tensors = safetensors.torch.load_file(tmp_path / "model.safetensors")
    pairs = [(".parametrizations.weight.original0", ".weight_g"), (".parametrizations.weight.original1", ".weight_v")]
    is_new = any(".parametrizations." in name for name in tensors)
    rename(tmp_path, *(pair if is_new else pair[::-1] for pair in pairs))
    second = model_folder.load_mapping(tmp_path).state_dict()
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("family", "head", "changes"),
    [
        ("wav2vec2", "ForCTC", {"vocab_size": 20}),
        ("wav2vec2", "ForPreTraining", {}),
        ("wav2vec2", "ForXVector", {"tdnn_dim": [8, 8], "tdnn_kernel": [3, 1], "tdnn_dilation": [1, 1]}),
        ("wav2vec2", "ForSequenceClassification", {"num_labels": 3, "use_weighted_layer_sum": True}),
        ("wav2vec2", "ForAudioFrameClassification", {"num_labels": 3}),
        ("hubert", "ForCTC", {"vocab_size": 20}),
        ("hubert", "ForSequenceClassification", {"num_labels": 3}),
        ("wavlm", "ForCTC", {"vocab_size": 20}),
        ("wavlm", "ForSequenceClassification", {"num_labels": 3}),
        ("wavlm", "ForSequenceClassification", {"classifier_proj_size": 32, "use_weighted_layer_sum": True}),
    ],
)
def test_bodies_of_models_with_heads_are_read(tmp_path: Path, family: str, head: str, changes: dict[str, Any]) -> None:
    reference = make(tmp_path, family, head, **changes)
    opened = huggingface.open_pretrained(str(tmp_path))
    assert opened.labels is None and not opened.restores
    assert any("another task" in note for note in opened.notes), opened.notes
    mapping = model_folder.load_mapping(tmp_path)
    body = getattr(reference, reference.base_model_prefix)
    batch = pack(mapping, sounds()[-2:] + sounds()[:1])
    expected = body(prepare(sounds()[-1])).last_hidden_state[0]
    torch.testing.assert_close(unpack(mapping.hidden(batch), batch)[1], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", CLASSES)
def test_a_published_classifier_of_the_last_layer_answers(tmp_path: Path, family: str) -> None:
    reference = make(tmp_path, family, "ForSequenceClassification", classifier_proj_size=32, num_labels=3)
    mapping = model_folder.load_mapping(tmp_path)
    (logits,) = mapping(pack(mapping, sounds()))
    for own, samples in zip(logits, sounds(), strict=True):
        torch.testing.assert_close(own, reference(prepare(samples)).logits[0], atol=1e-5, rtol=1e-4)
    answers = mapsto.load(tmp_path).predict([{"sound": (sounds()[0], RATE)}])
    assert answers[0]["label"] == f"LABEL_{int(logits[0].argmax())}"


@pytest.mark.parametrize("variant", VARIANTS)
def test_cuts_and_windows_are_clips_of_their_own(tmp_path: Path, variant: str) -> None:
    """What is cut off does not count any more: the rest is what `transformers` computes of these samples alone."""
    reference = make(tmp_path, "wavlm", **VARIANTS[variant])
    mapping = model_folder.load_mapping(tmp_path)
    source = mapping.sources["sound"]
    samples = sounds()[-1]
    (piece,) = source.encode([Sound.from_samples(samples, RATE)], 0, aligned=True)
    windows, prepared = source.windows(piece, 20), prepare(samples)
    assert np.array_equal(source.cut(piece, 20).tokens, windows[0].tokens)
    assert sum(map(len, windows)) == len(piece) and [len(window) for window in windows[:-1]] == [20] * (
        len(windows) - 1
    )
    batch = collate([Example((window,), (), row) for row, window in enumerate(windows)], 1024)
    stride, field = source.front.stride, source.front.field
    for row, (window, states) in enumerate(zip(windows, unpack(mapping.hidden(batch), batch), strict=True)):
        begin = row * 20 * stride
        end = begin + (len(window) - 1) * stride + field if row + 1 < len(windows) else len(samples)
        expected = reference(prepared[:, begin:end]).last_hidden_state[0]
        torch.testing.assert_close(states, expected, atol=1e-5, rtol=1e-4)
        assert window.alignment is not None and window.alignment.regions[0, 0, 0] == pytest.approx(begin / RATE)
        assert window.positions[0, 0] == 0 and window.tokens[:, FIRST_ENTRY].tolist() == [1] + [0] * (len(window) - 1)
    whole = piece.alignment
    assert whole is not None and whole.regions[-1, 0, 1] == pytest.approx(len(samples) / RATE)
    assert np.allclose(whole.regions[1:, 0, 0], whole.regions[:-1, 0, 1]), "tokens leave no gaps"


def test_removed_tokens_are_silent_wherever_their_samples_stand(tmp_path: Path) -> None:
    make(tmp_path)
    source = model_folder.load_mapping(tmp_path).sources["sound"]
    assert isinstance(source, WaveSource)
    samples = sounds()[-1]
    (piece,) = source.encode([Sound.from_samples(samples, RATE)], 0)
    removed = np.array([0, 7, 8, len(piece) - 1])
    silent = source.normalise(samples).copy()
    for token in removed.tolist():
        silent[token * 320 : len(samples) if token + 1 == len(piece) else (token + 1) * 320] = 0
    assert np.array_equal(source.remove_tokens(piece, removed).tokens, source._tokens(silent))
    assert not source.blank(piece).tokens[:, 3:].any()


def test_augmentation_hides_tokens_and_keeps_samples(tmp_path: Path) -> None:
    make(tmp_path / "masked")
    make(tmp_path / "not", mask_time_prob=0.0)
    value = Sound.from_samples(sounds()[-1], RATE)
    hidden_counts = []
    for name in ("masked", "not"):
        source = model_folder.load_mapping(tmp_path / name).sources["sound"]
        (piece,) = source.encode([value], 0)
        for step in range(8):
            varied = source.augment(piece, make_generator(0, 0, step), "spec")  # type: ignore[attr-defined]
            again = source.augment(piece, make_generator(0, 0, step), "spec")  # type: ignore[attr-defined]
            assert np.array_equal(varied.tokens, again.tokens) and len(varied) == len(piece)
            is_hidden = varied.tokens[:, 0] > 0
            if name == "masked":
                hidden_counts.append(int(is_hidden.sum()))
                assert np.array_equal(varied.tokens[:, 1:], piece.tokens[:, 1:])
            else:
                assert not is_hidden.any()
                hidden_counts.append(int((varied.tokens[:, 3:323] != piece.tokens[:, 3:323]).any(1).sum()))
    assert 0 < max(hidden_counts) <= 0.24 * len(piece) + 1 and len(set(hidden_counts)) > 3


def make_burst(number: int) -> tuple[np.ndarray, float]:
    """Return half a second of noise at 16 kHz with a tone of 60 ms in it, low or high by turns, and where the tone begins."""
    rng = np.random.default_rng(number)
    samples, begin = rng.normal(0, 0.02, 8000), int(rng.integers(0, 7000))
    samples[begin : begin + 960] += 0.3 * np.sin(2 * np.pi * (400, 3000)[number % 2] * np.arange(960) / RATE)
    return samples.astype(np.float32), begin / RATE


@pytest.mark.parametrize("family", ["wav2vec2", "wavlm"])
def test_explanations_name_the_moments_that_decide(tmp_path: Path, family: str) -> None:
    make(tmp_path / "start", family, **VARIANTS["large"])
    bursts = [make_burst(number) for number in range(64)]
    rows = [{"sound": (samples, RATE), "label": "ab"[number % 2]} for number, (samples, _) in enumerate(bursts)]
    fitted = mapsto.fit(
        "sound -> label",
        rows,
        tmp_path / "run",
        start=tmp_path / "start",
        steps=60,
        rate=3e-3,
        method="full",
        device="cpu",
    )
    num_found = 0
    for (_, begin), explanation in zip(bursts, fitted.explain(rows), strict=True):
        ((first, end),) = max(explanation.parts, key=lambda part: part.weight).region
        num_found += begin - 0.025 < first < begin + 0.06 and first < end
    assert num_found > 24, f"only {num_found} of 64 tones have the largest weight; 11 would by chance"


def test_pretraining_does_not_go_on(tmp_path: Path) -> None:
    make(tmp_path)
    source = model_folder.load_mapping(tmp_path).sources["sound"]
    (piece,) = source.encode([Sound.from_samples(sounds()[0], RATE)], 0)
    with pytest.raises(UsageError, match="reads waves"):
        source.mask(piece, Corruption(), make_generator(0, 0, 0), 0.0)


def change(folder: Path, file: str, **changes: Any) -> None:
    """Change entries of a JSON file."""
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("wav2vec2", {"add_adapter": True}, "add_adapter"),
        ("wav2vec2", {"adapter_attn_dim": 16}, "adapter_attn_dim"),
        ("hubert", {"conv_pos_batch_norm": True}, "conv_pos_batch_norm"),
        ("wav2vec2", {"feat_extract_norm": "batch"}, "feat_extract_norm"),
        ("wav2vec2", {"conv_bias": "yes"}, "conv_bias"),
        ("wav2vec2", {"conv_dim": []}, "conv_dim"),
        ("wav2vec2", {"conv_dim": [16] * 1000}, "conv_dim"),
        ("wav2vec2", {"conv_dim": [2**40] * 7}, "conv_dim"),
        ("wav2vec2", {"conv_dim": [2**24] * 7}, "conv_dim"),
        ("wav2vec2", {"conv_dim": [2**13] * 7}, "shape"),
        ("wav2vec2", {"conv_kernel": [10, 3]}, "different numbers"),
        ("wav2vec2", {"conv_kernel": [10**9] * 7}, "conv_kernel"),
        ("wav2vec2", {"conv_kernel": [1000] * 7}, "tokens of"),
        ("wav2vec2", {"conv_stride": [0] * 7}, "conv_stride"),
        ("wav2vec2", {"conv_stride": [100] * 7}, "apart"),
        ("wav2vec2", {"num_conv_pos_embeddings": 10**7}, "convolution over positions"),
        ("wav2vec2", {"num_conv_pos_embeddings": 2**12}, "shape"),
        ("wav2vec2", {"num_conv_pos_embedding_groups": 3}, "groups"),
        ("wav2vec2", {"num_hidden_layers": 10**6}, "does not fit"),
        ("wav2vec2", {"hidden_size": 2**20}, "shape"),
        ("wav2vec2", {"num_attention_heads": 7}, "heads"),
        ("wav2vec2", {"hidden_act": "mish"}, "mish"),
        ("wavlm", {"num_buckets": 2**24}, "shape|max_bucket"),
        ("wavlm", {"num_buckets": 1}, "num_buckets"),
        ("wavlm", {"max_bucket_distance": 10}, "max_bucket_distance"),
    ],
    ids=str,
)
def test_settings_that_are_not_supported_are_refused(
    tmp_path: Path, family: str, changes: dict[str, Any], message: str
) -> None:
    make(tmp_path, family)
    change(tmp_path, "config.json", **changes)
    with pytest.raises(CheckpointError, match=message):
        huggingface.open_pretrained(str(tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampling_rate": 8000}, "sampling_rate"),
        ({"feature_size": 80}, "feature_size"),
        ({"do_normalize": 1}, "do_normalize"),
    ],
)
def test_other_preparations_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    make(tmp_path)
    change(tmp_path, "preprocessor_config.json", **changes)
    with pytest.raises(CheckpointError, match=message):
        huggingface.open_pretrained(str(tmp_path))
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json"):
        huggingface.open_pretrained(str(tmp_path))
