"""Decoder-only starts: two tables of tokens, no mask token, heads without biases, texts without special tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from models import CLOSE, LABELS, TEXTS, make_model, pad_texts
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import mapsto
from mapsto.errors import CheckpointError, UsageError
from mapsto.explain.attribution import METHODS
from mapsto.fitting.probe import _ones_direction
from mapsto.fitting.starting_model import add_words, open_start
from mapsto.kinds.text import TextSource
from mapsto.pretrained import huggingface, model_folder
from mapsto.sequence.corruption import Corruption, make_generator

CPU: dict[str, Any] = {"device": "cpu", "precision": "fp32"}
ROWS = [{"text": text, "label": LABELS[i % 3]} for i, text in enumerate(TEXTS * 3)]


def edit_config(folder: Path, **fields: Any) -> None:
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | fields))


def source_of(folder: Path) -> TextSource:
    source = huggingface.open_pretrained(str(folder)).sources["text"]
    assert isinstance(source, TextSource)
    return source


@pytest.mark.parametrize("shape", ["llama", "gpt2:own output"])
def test_output_weights_unlike_the_embeddings_are_their_own_whatever_the_file_says(shape: str, tmp_path: Path) -> None:
    reference = make_model(shape, "text", tmp_path / "theirs")
    edit_config(tmp_path / "theirs", tie_word_embeddings=True)
    mapping = model_folder.load_mapping(tmp_path / "theirs")
    head: Any = mapping.heads[0]
    assert torch.equal(head.weight, reference.lm_head.weight)  # type: ignore[union-attr, arg-type]
    assert not torch.equal(head.weight, mapping.embedders["text"].weight)  # type: ignore[arg-type]
    model_folder.save_mapping(mapping, tmp_path / "ours", {})
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["tie_word_embeddings"] is False
    inputs = pad_texts(tmp_path / "ours", TEXTS[:1])
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()
    torch.testing.assert_close(loaded(**inputs).logits, reference(**inputs).logits, **CLOSE)


@pytest.mark.parametrize("shape", ["llama", "llama:grouped"])
def test_equal_copies_of_the_embeddings_count_once_where_they_are_tied(shape: str, tmp_path: Path) -> None:
    make_model(shape, "text", tmp_path)
    tensors = safetensors.torch.load_file(tmp_path / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors")
    mapping = model_folder.load_mapping(tmp_path)
    assert str(mapping.arrow) == "text -> text"
    assert ("heads.0.weight" in dict(mapping.named_parameters())) == (shape == "llama")


def test_files_of_the_first_versions_open(tmp_path: Path) -> None:
    """GPT-2 without a prefix and with causal masks among its weights, Llama with rotary angles and `rope_theta`."""
    masks = {f"h.{i}.attn.{name}": torch.ones(1, 1, 4, 4) for i in range(3) for name in ("bias", "masked_bias")}
    angles = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}
    for shape, prefix, extra in (("gpt2", "transformer.", masks), ("llama", "", angles)):
        make_model(shape, "text", tmp_path / shape)
        original = huggingface.open_pretrained(str(tmp_path / shape))
        tensors = safetensors.torch.load_file(tmp_path / shape / "model.safetensors")
        renamed = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()} | extra
        safetensors.torch.save_file(renamed, tmp_path / shape / "model.safetensors")
        edit_config(tmp_path / shape, rope_parameters=None, rope_theta=10_000.0, rope_scaling=None)
        current = huggingface.open_pretrained(str(tmp_path / shape))
        assert current.restores and current.config == original.config
        assert current.tensors.keys() == original.tensors.keys()
        assert all(torch.equal(tensor, current.tensors[name]) for name, tensor in original.tensors.items())


@pytest.mark.parametrize(
    ("shape", "fields", "message"),
    [
        ("llama", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "'dynamic' are not supported"),
        ("llama", {"rope_scaling": {"type": "linear", "factor": -2.0}}, "factor must be a number above 0"),
        ("llama", {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor must be a number"),
        ("llama", {"num_key_value_heads": 3}, "does not fit the weights"),
        ("llama", {"head_dim": 8}, "has shape"),
        ("qwen2", {"use_sliding_window": True}, "sliding windows"),
        ("qwen3", {"layer_types": ["full_attention", "sliding_attention"]}, "sliding windows"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx True is not supported"),
    ],
)
def test_settings_that_are_not_supported_are_refused(
    shape: str, fields: dict[str, Any], message: str, tmp_path: Path
) -> None:
    make_model(shape, "text", tmp_path)
    edit_config(tmp_path, **fields)
    with pytest.raises(CheckpointError, match=message):
        huggingface.open_pretrained(str(tmp_path))


def test_nothing_is_hidden_without_a_mask_token(tmp_path: Path) -> None:
    make_model("gpt2", "text", tmp_path)
    source = source_of(tmp_path)
    (piece,) = source.encode(TEXTS[:1], 0)
    with pytest.raises(CheckpointError, match="has no mask token"):
        source.mask(piece, Corruption(), make_generator(0, 0, 0), 0.0)
    with pytest.raises(UsageError, match='objective="causal"'):
        mapsto.pretrain("text", [{"text": text} for text in TEXTS], start=tmp_path, steps=1, **CPU)
    assert not source.blank(piece).special.any() and len({*source.blank(piece).tokens.tolist()}) == 1


def test_a_text_without_any_token_is_one_special_token(tmp_path: Path) -> None:
    make_model("gpt2", "text", tmp_path)
    source = source_of(tmp_path)
    for aligned in (False, True):
        empty, text = source.encode(["", "Yes"], 0, aligned=aligned)
        assert empty.tokens.tolist() == [source.tokenizer.pad_id] and empty.special.all() and not text.special.any()
        rest = source.remove_tokens(text, np.arange(len(text)))
        assert rest.tokens.tolist() == empty.tokens.tolist()
    assert source.piece(np.zeros(0, np.int64)).special.all()


@pytest.mark.parametrize("num_rows", [20, 200])
def test_a_direction_stands_for_a_bias_where_vectors_have_a_common_part(num_rows: int) -> None:
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=64) + 0.2 * rng.normal(size=(num_rows, 64))).astype(np.float32)
    ones = torch.from_numpy(vectors) @ _ones_direction(vectors)
    torch.testing.assert_close(ones, torch.ones(num_rows), atol=0.1, rtol=0)


@pytest.mark.parametrize("shape", ["llama", "gpt2"])
def test_a_probe_without_a_bias_gives_the_same_probabilities_elsewhere(shape: str, tmp_path: Path) -> None:
    make_model(shape, "text", tmp_path / "start")
    clf = mapsto.fit("text -> label", ROWS, tmp_path / "run", start=tmp_path / "start", method="probe", **CPU)
    published, report = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    expected = published.eval()(**pad_texts(tmp_path / "run", TEXTS)).logits.softmax(-1)
    answers = torch.tensor([[answer["scores"][label] for label in LABELS] for answer in clf.predict(TEXTS)])
    torch.testing.assert_close(answers, expected, atol=1e-5, rtol=0)
    assert all(answer["label"] == row["label"] for answer, row in zip(clf.predict(TEXTS), ROWS[:6], strict=True))


@pytest.mark.parametrize("method", METHODS)
def test_answers_of_a_grouped_decoder_are_explained(method: str, tmp_path: Path) -> None:
    make_model("llama:grouped", "label", tmp_path)
    explanations = mapsto.load(tmp_path, **CPU).explain([{"text": text} for text in TEXTS[:3]], method)
    for explanation, text in zip(explanations, TEXTS, strict=False):
        assert any(part.weight for part in explanation.parts)
        assert "".join(text[start:end] for part in explanation.parts for start, end in part.region).strip()


def test_new_words_get_rows_in_both_tables(tmp_path: Path) -> None:
    make_model("llama", "text", tmp_path)
    start = open_start(tmp_path)
    extended = add_words(start, ["foolhardiness"])
    assert start.tensors is not None and extended.tensors is not None
    source = extended.sources["text"]  # type: ignore[index]
    assert isinstance(source, TextSource)
    (number,) = source.tokenizer.encode_ids(["foolhardiness"])[0].tolist()
    parts = source_of(tmp_path).tokenizer.encode_ids(["foolhardiness"])[0].tolist()
    for name in ("embedders.text.weight", "vocabulary_head.weight"):
        torch.testing.assert_close(extended.tensors[name][number], start.tensors[name][parts].mean(0))


def test_settings_of_generation_are_kept(tmp_path: Path) -> None:
    make_model("qwen2", "text", tmp_path / "theirs")
    settings = {"eos_token_id": [2, 3], "temperature": 0.6}
    (tmp_path / "theirs" / "generation_config.json").write_text(json.dumps(settings))
    model_folder.save_mapping(model_folder.load_mapping(tmp_path / "theirs"), tmp_path / "ours", {})
    assert json.loads((tmp_path / "ours" / "generation_config.json").read_text()) == settings
    manifest = json.loads((tmp_path / "ours" / "mapsto.json").read_text())
    assert "generation_config.json" in manifest["files"]
