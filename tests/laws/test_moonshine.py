"""Laws over Moonshine, which writes what is said: both stacks, answers and files are those of `transformers`."""

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
from models import CLOSE
from transcribers import MOONSHINE_END as END
from transcribers import MOONSHINE_START as START
from transcribers import TEXTS as KNOWN_TEXTS
from transcribers import make_moonshine
from transformers import AutoTokenizer, MoonshineForConditionalGeneration, Wav2Vec2FeatureExtractor

import mapsto
from mapsto import cli
from mapsto.audio.log_mel import RATE
from mapsto.audio.sound_io import resample
from mapsto.audio.sound_value import Sound
from mapsto.audio.sources.spoken_wave_source import SpokenWaveSource
from mapsto.audio.sources.wave_embedding import WaveEmbedder
from mapsto.errors import CheckpointError, DataError
from mapsto.inference.generation import generate_answers
from mapsto.model.cross_attention import EncodedSources, cross_mask
from mapsto.model.encoder_decoder import separate
from mapsto.model.mapping import Mapping
from mapsto.pretrained import huggingface, model_folder, weight_names
from mapsto.sequence.batch import Batch, Example
from mapsto.sequence.packing import collate
from mapsto.task.generation import Decoding, Generated

# The last one has characters that are no tokens.
TEXTS = [*KNOWN_TEXTS, "naïve 天"]
CPU = torch.device("cpu")
# The heads of the published models are 36 and 52 wide, of which 32 channels are rotated.
VARIANTS: dict[str, dict[str, Any]] = {
    "tiny": {"pad_head_dim_to_multiple_of": 8},
    "base": {"hidden_size": 104, "partial_rotary_factor": 0.62},
    "others": {
        "hidden_size": 32, "partial_rotary_factor": 1.0, "attention_bias": True, "encoder_hidden_act": "gelu_new",
        "decoder_hidden_act": "gelu", "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0},
    },
}  # fmt: skip


def clips() -> list[np.ndarray]:
    """Return samples (n,) at 16 kHz of six clips of other lengths, also of one token, and of one with the longest rest."""
    rng = np.random.default_rng(0)
    tones = [resample(make_sound(number, number % 2 == 0), 8000, RATE) for number in range(3)]
    return [*tones, *(rng.normal(0, 0.1, length).astype(np.float32) for length in (895, 895 + 383, RATE))]


def inputs(samples: np.ndarray) -> torch.Tensor:
    """Return what the feature extractor makes of samples (n,), (1, n): the samples."""
    extractor = Wav2Vec2FeatureExtractor(do_normalize=False)
    return torch.from_numpy(extractor(samples, sampling_rate=RATE).input_values[0])[None]


def pack_pairs(mapping: Mapping) -> Batch:
    """Return a batch of all clips in shared rows, with TEXTS as their true answers."""
    target = mapping.targets[0]
    pieces = mapping.sources["sound"].encode([Sound.from_samples(clip, RATE) for clip in clips()], 0)
    pairs = zip(pieces, TEXTS, strict=True)
    batch = collate(
        [Example((piece,), (target.encode(text, (piece,)),), i) for i, (piece, text) in enumerate(pairs)], 2048
    )
    assert batch.segments.max() > 1, "clips share rows"
    return batch


def reference_inputs(mapping: Mapping) -> list[dict[str, torch.Tensor]]:
    """Return the samples of each clip and the tokens of its text, as arguments of a reference."""
    tokens = mapping.sources["text"].tokenizer.encode_literally(TEXTS)  # type: ignore[attr-defined]
    return [
        {"input_values": inputs(clip), "decoder_input_ids": torch.tensor([[START, *ids.tolist()]])}
        for clip, ids in zip(clips(), tokens, strict=True)
    ]


def reference_tokens(reference: Any, clip: np.ndarray, **settings: Any) -> list[int]:
    """Return the tokens that a reference generates for one clip alone, without the start and padding."""
    generated = reference.generate(inputs(clip), do_sample=False, **settings)[0, 1:].tolist()
    return generated[: generated.index(END) + 1] if END in generated else generated


def generate(mapping: Mapping, **settings: Any) -> list[list[int]]:
    """Return the tokens that mapsto generates for each clip, all together."""
    target = mapping.targets[0]
    assert isinstance(target, Generated) and target.opening == (START,) and target.ends == (END,)
    pieces = mapping.sources["sound"].encode([Sound.from_samples(clip, RATE) for clip in clips()], 0)
    examples = [Example((piece,), (target.questions((piece,)),), i) for i, piece in enumerate(pieces)]
    answers = dict(generate_answers(mapping, examples, 0, CPU, Decoding(**settings)))
    return [[*answers[i][0].tokens, *[END] * answers[i][0].is_ended] for i in range(len(pieces))]


def change(folder: Path, file: str, **changes: Any) -> None:
    """Change entries of a JSON file."""
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("variant", VARIANTS)
def test_states_of_both_stacks_logits_and_every_gradient_are_those_of_each_clip_alone(
    tmp_path: Path, variant: str
) -> None:
    reference = make_moonshine(tmp_path, **VARIANTS[variant])
    mapping = model_folder.load_mapping(tmp_path)
    assert str(mapping.arrow) == "sound -> text"
    assert sum(p.numel() for p in mapping.parameters()) == sum(p.numel() for p in reference.parameters())
    batch = pack_pairs(mapping)
    x = mapping.embed(batch)
    sources, answers = separate(batch)
    encoder_states = mapping.transformer(sources.take(x), sources.batch, every_layer=True)
    attended = EncodedSources(
        encoder_states[-1], cross_mask(answers.batch.segments, sources.batch.segments, torch.float32)
    )
    assert mapping.answer_decoder is not None
    decoder_states = mapping.answer_decoder(answers.take(x), answers.batch, every_layer=True, sources=attended)
    expected_logits = []
    for i, arguments in enumerate(reference_inputs(mapping)):
        outputs = reference(**arguments, output_hidden_states=True)
        expected_logits.append(outputs.logits[0])
        start = int(answers.starts(batch.starts[i] + batch.lengths[i]))
        for begin, states, expected in (
            (int(sources.starts(batch.starts[i])), encoder_states, outputs.encoder_hidden_states),
            (start, decoder_states, outputs.decoder_hidden_states),
        ):
            assert len(states) == len(expected)
            for own, other in zip(states, expected, strict=True):
                torch.testing.assert_close(own.flatten(0, 1)[begin : begin + other.shape[1]], other[0], **CLOSE)
    logits = torch.cat(expected_logits)
    torch.testing.assert_close(mapping(batch)[0], logits, **CLOSE)
    (_, loss), *_ = mapping.losses(batch)
    values = batch.answers[0].values  # type: ignore[union-attr]
    expected_loss = torch.nn.functional.cross_entropy(logits, values, reduction="sum")
    torch.testing.assert_close(loss, expected_loss, **CLOSE)
    loss.backward()
    expected_loss.backward()
    gradients = {name: p.grad for name, p in reference.named_parameters() if p.grad is not None}
    renamed = weight_names.to_mapsto_names(mapping.config, gradients, 99, tmp_path, [])
    trained = {weight_names.weight_name(mapping, name): p.grad for name, p in mapping.named_parameters()}
    assert set(trained) == set(renamed)
    for name, gradient in renamed.items():
        scale, own = max(1.0, float(gradient.abs().max())), trained[name]
        assert own is not None
        torch.testing.assert_close(own / scale, gradient / scale, **CLOSE, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("variant", VARIANTS)
def test_clips_answered_together_have_the_tokens_of_each_alone_without_a_cache(
    tmp_path: Path, variant: str, beams: int
) -> None:
    reference = make_moonshine(tmp_path, **VARIANTS[variant])
    generated = generate(model_folder.load_mapping(tmp_path), beams=beams, longest=12)
    expected = [
        reference_tokens(reference, clip, num_beams=beams, max_new_tokens=12, use_cache=False) for clip in clips()
    ]
    assert generated == expected and len(set(map(tuple, generated))) > 1


def test_texts_are_those_of_transformers(tmp_path: Path) -> None:
    reference, tokenizer = make_moonshine(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    opened = mapsto.load(tmp_path, "cpu", "fp32")
    answers = opened.predict([{"sound": (clip, RATE)} for clip in clips()], decoding=Decoding(longest=8))
    for clip, answer in zip(clips(), answers, strict=True):
        tokens = reference_tokens(reference, clip, max_new_tokens=8)
        assert answer["text"] == tokenizer.decode(tokens, skip_special_tokens=True).strip()
        assert answer["ended"] == ("end" if END in tokens else "limit")
    # Without a setting, an answer has as many tokens as generation_config.json says, and as there are positions.
    target = opened.mapping.targets[0]
    assert isinstance(target, Generated) and target.longest == 39
    assert opened.mapping.config.answer_stack.max_tokens == 40


@pytest.mark.parametrize("variant", VARIANTS)
def test_saved_again_it_has_the_same_files_and_writes_the_same_elsewhere(tmp_path: Path, variant: str) -> None:
    reference = make_moonshine(tmp_path / "theirs", **VARIANTS[variant])
    mapping = model_folder.load_mapping(tmp_path / "theirs")
    model_folder.save_mapping(mapping, tmp_path / "ours", {})
    reloaded = model_folder.load_mapping(tmp_path / "ours")
    assert reloaded.config == mapping.config and str(reloaded.arrow) == str(mapping.arrow)
    model_folder.save_mapping(reloaded, tmp_path / "twice", {})
    for file in ("model.safetensors", "config.json", "tokenizer.json", "preprocessor_config.json"):
        assert (tmp_path / "ours" / file).read_bytes() == (tmp_path / "twice" / file).read_bytes()
    loaded, report = MoonshineForConditionalGeneration.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    for (name, theirs), (_, ours) in zip(reference.named_parameters(), loaded.named_parameters(), strict=True):
        assert torch.equal(theirs, ours), name
    for clip in clips():
        settings = {"max_new_tokens": 12}
        assert reference_tokens(loaded, clip, **settings) == reference_tokens(reference, clip, **settings)
    extractor = Wav2Vec2FeatureExtractor.from_pretrained(tmp_path / "ours")
    assert not extractor.do_normalize and extractor.return_attention_mask and extractor.sampling_rate == RATE
    ids = [AutoTokenizer.from_pretrained(tmp_path / folder)(TEXTS).input_ids for folder in ("theirs", "ours")]
    assert ids[0] == ids[1]


def test_output_weights_of_their_own_are_read_and_saved(tmp_path: Path) -> None:
    reference = make_moonshine(tmp_path / "theirs", tie_word_embeddings=False)
    assert not torch.equal(reference.proj_out.weight, reference.model.decoder.embed_tokens.weight)
    mapping = model_folder.load_mapping(tmp_path / "theirs")
    model_folder.save_mapping(mapping, tmp_path / "ours", {})
    loaded = MoonshineForConditionalGeneration.from_pretrained(tmp_path / "ours")
    assert torch.equal(loaded.proj_out.weight, reference.proj_out.weight)
    expected = torch.cat([reference(**arguments).logits[0] for arguments in reference_inputs(mapping)])
    torch.testing.assert_close(mapping(pack_pairs(mapping))[0], expected, **CLOSE)


def test_a_fit_goes_on_from_it_and_its_folder_opens_in_transformers(tmp_path: Path) -> None:
    make_moonshine(tmp_path / "start", max_position_embeddings=24)
    rows = [{"sound": (clip, RATE), "text": text} for clip, text in zip(clips()[:5], TEXTS, strict=False)] * 2
    options: dict[str, Any] = {"start": tmp_path / "start", "steps": 8, "rate": 3e-3, "batch": 10, "device": "cpu"}
    fitted = mapsto.fit("sound -> text", rows, tmp_path / "run", precision="fp32", method="full", **options)
    losses = [json.loads(line).get("loss") for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [loss for loss in losses if loss is not None]
    assert losses[-1] < losses[0]
    loaded, report = MoonshineForConditionalGeneration.from_pretrained(tmp_path / "run", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    mapping = mapsto.load(tmp_path / "run", "cpu", "fp32").mapping
    assert mapping.config == fitted.mapping.config
    generated = generate(mapping, longest=12)
    assert generated == [reference_tokens(loaded.eval(), clip, max_new_tokens=12) for clip in clips()]
    # The encoder reads 1,248 tokens, and the decoder writes up to 24.
    rows[0]["text"] = "zero " * 25
    with pytest.raises(DataError, match="the model writes at most 24"):
        mapsto.fit("sound -> text", rows, tmp_path / "long", **options)


def test_peft_opens_low_rank_updates_over_the_start(tmp_path: Path) -> None:
    """Rows of B are in the published order, as those of the weights."""
    peft = pytest.importorskip("peft")
    make_moonshine(tmp_path / "start")
    rows = [{"sound": (clip, RATE), "text": text} for clip, text in zip(clips()[:3], TEXTS, strict=False)]
    mapsto.fit("sound -> text", rows, tmp_path / "run", start=tmp_path / "start", steps=2, lora=2, device="cpu")
    start, fitted = (MoonshineForConditionalGeneration.from_pretrained(tmp_path / name) for name in ("start", "run"))
    expected = fitted.state_dict()
    assert not torch.equal(
        start.state_dict()["model.encoder.layers.0.self_attn.q_proj.weight"],
        expected["model.encoder.layers.0.self_attn.q_proj.weight"],
    )
    adapted = peft.PeftModel.from_pretrained(start, tmp_path / "run" / "adapter").merge_and_unload().state_dict()
    assert adapted.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(adapted[name], weight, **CLOSE)


def test_its_encoder_alone_gives_labels(tmp_path: Path) -> None:
    make_moonshine(tmp_path / "start")
    rows = [{"sound": (clip, RATE), "label": "ab"[n % 2]} for n, clip in enumerate(clips() * 2)]
    options: dict[str, Any] = {"start": tmp_path / "start", "steps": 2, "device": "cpu", "precision": "fp32"}
    fitted = mapsto.fit("sound -> label", rows, tmp_path / "run", method="full", **options)
    assert fitted.mapping.answer_decoder is None
    reopened = mapsto.load(tmp_path / "run", "cpu", "fp32")
    assert reopened.mapping.config == fitted.mapping.config
    for answer, again in zip(fitted.predict(rows), reopened.predict(rows), strict=True):
        assert answer["scores"] == pytest.approx(again["scores"], abs=1e-6)
    tensors = safetensors.torch.load_file(tmp_path / "run" / "model.safetensors")
    assert {name.split(".")[0] for name in tensors} == {"encoder", "mapsto"}


def test_long_sounds_are_cut_at_pauses_and_silence_has_no_words(tmp_path: Path) -> None:
    make_moonshine(tmp_path)
    model = mapsto.load(tmp_path, "cpu", "fp32")
    source = model.mapping.sources["sound"]
    assert isinstance(source, SpokenWaveSource) and source.max_tokens == 1248
    # A second of noise, a pause of a quarter of a second, and so on.
    rng = np.random.default_rng(0)
    parts = [rng.normal(0, 0.1, RATE).astype(np.float32), np.zeros(RATE // 4, np.float32)]
    samples = np.concatenate(parts * 4)[: -RATE // 4]
    value = Sound.from_samples(samples, RATE)
    (piece,) = source.encode([value], 0)
    windows = list(source.read_windows(value, 70, aligned=True))
    assert source.is_longer(value, len(piece) - 1) and not source.is_longer(value, len(piece))
    assert len(windows) == 4 and all(len(window) <= 70 for window in windows)
    embedder = source.embedder(72)
    assert isinstance(embedder, WaveEmbedder)
    read = [embedder.clips(torch.from_numpy(window.tokens))[0][0, 0].numpy() for window in windows]
    assert np.array_equal(np.concatenate(read), samples), "every sample is in one window"
    for window in windows[1:]:
        assert window.alignment is not None
        begin = window.alignment.regions[0, 0, 0]
        assert abs(begin % 1.25 - 1.125) <= 0.125, "windows begin in pauses"
    last = windows[-1].alignment
    assert last is not None and last.regions[-1, 0, 1] == pytest.approx(len(samples) / RATE)
    assert not any(map(source.is_silent, windows))
    silent, faint = np.zeros(RATE, np.float32), (2e-4 * np.sin(np.arange(RATE))).astype(np.float32)
    assert all(map(source.is_silent, source.encode([Sound.from_samples(part, RATE) for part in (silent, faint)], 0)))
    long = np.resize(samples, 31 * RATE)
    assert source.fits_window(Sound.from_samples(long[: 30 * RATE], RATE))
    assert not source.fits_window(Sound.from_samples(long, RATE))
    empty, spoken = model.predict([{"sound": (silent, RATE)}, {"sound": (long, RATE)}], decoding=Decoding(longest=4))
    assert empty["text"] == "" and empty["ended"] == "end" and spoken["text"]


def test_info_states_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    reference = make_moonshine(tmp_path)
    monkeypatch.setattr("sys.argv", ["mapsto", "info", str(tmp_path), "--json"])
    capsys.readouterr()
    with pytest.raises(SystemExit, match="0"):
        cli.main()
    facts = json.loads(capsys.readouterr().out)
    assert facts["family"] == "moonshine" and facts["arrow"] == "sound -> text"
    assert facts["parameters"] == sum(parameter.numel() for parameter in reference.parameters())
    assert facts["in front"] == "a convolutional network over samples: one token for 384, which reads 895"
    assert facts["longest example"] == "1248 tokens"


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("config.json", {"decoder_num_attention_heads": 4}, "decoder_num_attention_heads must be 2"),
        ("config.json", {"encoder_num_key_value_heads": 1}, "encoder_num_key_value_heads must be 2"),
        ("config.json", {"decoder_num_key_value_heads": 1}, "decoder_num_key_value_heads must be 2"),
        ("config.json", {"hidden_size": 70}, "heads of an even width"),
        ("config.json", {"hidden_size": 20 * 2**16}, "shape"),
        ("config.json", {"head_dim": 8}, "heads of an even width"),
        ("config.json", {"attention_bias": "no"}, "attention_bias must be true or false"),
        ("config.json", {"encoder_hidden_act": "mish"}, "mish"),
        ("config.json", {"decoder_start_token_id": None}, "decoder_start_token_id must be the id of a token"),
        ("config.json", {"rope_parameters": {"partial_rotary_factor": 0.98}}, "rotates 35 of the 36 channels"),
        ("config.json", {"rope_parameters": {"partial_rotary_factor": 2}}, "at most 1, not 2"),
        ("config.json", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "'dynamic' are not supported"),
        ("config.json", {"encoder_num_hidden_layers": 3}, "lacks the weight transformer"),
        ("config.json", {"decoder_num_hidden_layers": 2}, "decoder that is not in config.json"),
        ("preprocessor_config.json", {"do_normalize": True}, "do_normalize is not supported"),
        ("preprocessor_config.json", {"sampling_rate": 8000}, "sampling_rate"),
    ],
    ids=str,
)
def test_settings_that_are_not_supported_are_refused(
    tmp_path: Path, file: str, changes: dict[str, Any], message: str
) -> None:
    make_moonshine(tmp_path)
    change(tmp_path, file, **changes)
    with pytest.raises(CheckpointError, match=message):
        huggingface.open_pretrained(str(tmp_path))
