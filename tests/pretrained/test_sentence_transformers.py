"""Sentence encoders have the vectors of sentence-transformers, and are saved in folders that it opens."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import TEXTS, make_model

import mapsto
from mapsto.errors import CheckpointError
from mapsto.inference import embedder
from mapsto.pretrained import huggingface

CPU: dict[str, Any] = {"device": "cpu", "precision": "fp32"}
LONG = "A dog chases a ball in the park. " * 60
KINDS = {
    "E5": ("xlm-roberta", "mean", True),
    "BGE": ("bert", "cls", True),
    "plain": ("albert", "mean", False),
    "GTE": ("modernbert", "cls", False),
}


def theirs(folder: Path, texts: list[str]) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu").encode(texts)


def change(path: Path, **fields: Any) -> None:
    raw = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({name: value for name, value in (raw | fields).items() if value is not None}))


def make_encoder(kind: str, folder: Path, longest: int = 40) -> None:
    """Make a small sentence encoder with random weights, saved by sentence-transformers itself."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

    family, mode, unit = KINDS[kind]
    make_model(family, "body", folder / "bare")
    stack = Transformer(str(folder / "bare"), max_seq_length=longest)
    modules = [stack, Pooling(stack.get_embedding_dimension(), pooling_mode=mode), *([Normalize()] if unit else [])]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder / "encoder"))


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_are_those_of_sentence_transformers(kind: str, tmp_path: Path) -> None:
    make_encoder(kind, tmp_path)
    texts = [*TEXTS, LONG]
    expected = theirs(tmp_path / "encoder", texts)
    opened = mapsto.load(tmp_path / "encoder", **CPU)
    np.testing.assert_allclose(opened.embed(texts), expected, atol=1e-5, rtol=1e-4)
    assert not np.allclose(expected[-1], opened.embed(texts, pooling="mean")[-1], atol=1e-3), "the limit must be felt"
    opened.save(tmp_path / "again")
    np.testing.assert_allclose(theirs(tmp_path / "again", texts), expected, atol=1e-5, rtol=1e-4)
    again = mapsto.load(tmp_path / "again", **CPU)
    assert again.mapping.config == opened.mapping.config
    assert np.array_equal(again.embed(texts), opened.embed(texts))


def test_the_real_minilm(minilm: Path, tmp_path: Path) -> None:
    texts = [*TEXTS, "MiniLM is small.", LONG]
    opened = mapsto.load(minilm, **CPU)
    expected = theirs(minilm, texts)
    np.testing.assert_allclose(opened.embed(texts), expected, atol=1e-5, rtol=1e-4)
    opened.save(tmp_path / "again")
    np.testing.assert_allclose(theirs(tmp_path / "again", texts), expected, atol=1e-5, rtol=1e-4)
    assert huggingface.open_pretrained(str(minilm)).config.pooling == "normed_mean", (
        "the place a classifier reads stays"
    )


def test_prompts_are_kept_and_put_before_texts(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    make_encoder("E5", tmp_path)
    prompts = {"query": "query: ", "document": "passage: ", "topic": "话题："}
    change(tmp_path / "encoder" / "config_sentence_transformers.json", prompts=prompts, default_prompt_name="topic")
    opened = mapsto.load(tmp_path / "encoder", **CPU)
    opened.save(tmp_path / "again")
    reference, vectors = SentenceTransformer(str(tmp_path / "again"), device="cpu"), opened.embed(TEXTS)
    np.testing.assert_allclose(vectors, theirs(tmp_path / "encoder", TEXTS), atol=1e-5, rtol=1e-4)
    for side, encode in ((None, reference.encode), (0, reference.encode_query), (1, reference.encode_document)):
        vectors = embedder.embed(opened.mapping, TEXTS, opened.predictor.device, side=side)
        np.testing.assert_allclose(vectors, encode(TEXTS), atol=1e-5, rtol=1e-4)
    change(tmp_path / "encoder" / "1_Pooling" / "config.json", include_prompt=False)
    with pytest.raises(CheckpointError, match="leaves the tokens of a prompt out"):
        mapsto.load(tmp_path / "encoder")


@pytest.mark.parametrize("kind", ["E5", "GTE"])
def test_a_fit_to_pairs_keeps_pooling_and_prompts(kind: str, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    make_encoder(kind, tmp_path)
    prompts = {"query": "query: ", "document": "passage: "}
    change(tmp_path / "encoder" / "config_sentence_transformers.json", prompts=prompts)
    rows = [{"a": text, "b": text.upper()} for text in TEXTS]
    fitted = mapsto.fit("a:text <-> b:text", rows, start=tmp_path / "encoder", steps=2, **CPU)
    fitted.save(tmp_path / "fitted")
    reference = SentenceTransformer(str(tmp_path / "fitted"), device="cpu")
    queries, passages = (
        encode([row[name] for row in rows])
        for encode, name in ((reference.encode_query, "a"), (reference.encode_document, "b"))
    )
    np.testing.assert_allclose(np.linalg.norm(queries, axis=1), 1, rtol=1e-5)
    scores = [answer["score"] for answer in mapsto.load(tmp_path / "fitted", **CPU).predict(rows)]
    np.testing.assert_allclose(scores, (queries * passages).sum(1), atol=1e-5)
    answers = fitted.find(rows[0]["a"], rows, top=len(TEXTS))
    expected = sorted((queries[:1] @ passages.T)[0], reverse=True)
    np.testing.assert_allclose([answer["score"] for answer in answers], expected[: len(answers)], atol=1e-5)


def test_a_model_trained_further_is_no_sentence_encoder(tmp_path: Path) -> None:
    make_encoder("BGE", tmp_path)
    rows = [{"text": text, "label": "ab"[i % 2]} for i, text in enumerate(TEXTS * 4)]
    fitted = mapsto.fit("text -> label", rows, start=tmp_path / "encoder", steps=2, **CPU)
    assert fitted.mapping.config.sentence is None
    fitted.save(tmp_path / "fitted")
    assert not (tmp_path / "fitted" / "modules.json").exists()


@pytest.mark.parametrize(
    ("file", "fields", "says"),
    [
        ("1_Pooling/config.json", {"pooling_mode": "max"}, "pools by 'max'; supported is one of cls, mean"),
        ("1_Pooling/config.json", {"pooling_mode": ["cls", "mean"]}, "supported is one of"),
        ("1_Pooling/config.json", {"pooling_mode": None, "pooling_mode_lasttoken": True}, "pooling_mode_lasttoken"),
        ("sentence_bert_config.json", {"do_lower_case": True}, "do_lower_case"),
        ("config_sentence_transformers.json", {"default_prompt_name": "nope"}, "'nope' is not among the prompts"),
        ("config_sentence_transformers.json", {"prompts": {"query": 1}}, "no texts by name"),
    ],
)
def test_what_would_make_other_vectors_is_refused(file: str, fields: dict[str, Any], says: str, tmp_path: Path) -> None:
    make_encoder("E5", tmp_path)
    folder = tmp_path / "encoder"
    change(folder / file, **fields)
    with pytest.raises(CheckpointError, match=says):
        mapsto.load(folder)
    (folder / "modules.json").unlink()
    assert mapsto.load(folder).mapping.config.sentence is None


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda m: m.append({"idx": 3, "path": "3", "type": "sentence_transformers.models.Dense"}), "Dense; supported"),
        (lambda m: m[1].update(type="strange.Pooling"), "strange.Pooling"),
        (lambda m: m[1].update(path="../1_Pooling"), "not beside it"),
        (lambda m: m[0].update(path="0_Transformer"), "not beside it"),
        (lambda m: m[0].pop("type"), "no list of modules"),
        (lambda m: m.clear(), "lists no modules"),
    ],
)
def test_other_modules_are_refused(edit: Any, says: str, tmp_path: Path) -> None:
    make_encoder("E5", tmp_path)
    path = tmp_path / "encoder" / "modules.json"
    modules = json.loads(path.read_text())
    edit(modules)
    path.write_text(json.dumps(modules))
    with pytest.raises(CheckpointError, match=says):
        mapsto.load(tmp_path / "encoder")


def test_old_flags_and_a_limit_of_the_tokenizer_alone(tmp_path: Path) -> None:
    make_encoder("BGE", tmp_path)
    folder = tmp_path / "encoder"
    texts = [*TEXTS, LONG]
    expected = theirs(folder, texts)
    (folder / "1_Pooling" / "config.json").write_text(
        '{"word_embedding_dimension": 64, "pooling_mode_cls_token": true}'
    )
    change(folder / "sentence_bert_config.json", max_seq_length=None)
    change(folder / "tokenizer_config.json", model_max_length=40)
    np.testing.assert_allclose(theirs(folder, texts), expected, atol=1e-5)
    np.testing.assert_allclose(mapsto.load(folder, **CPU).embed(texts), expected, atol=1e-5, rtol=1e-4)


def test_damage_to_how_vectors_are_made_is_found(minilm: Path, tmp_path: Path) -> None:
    mapsto.load(minilm, **CPU).save(tmp_path / "saved")
    shutil.copytree(tmp_path / "saved", tmp_path / "copy")
    change(tmp_path / "copy" / "1_Pooling" / "config.json", pooling_mode_cls_token=True)
    with pytest.raises(CheckpointError, match=r"1_Pooling/config\.json is damaged"):
        mapsto.load(tmp_path / "copy")
