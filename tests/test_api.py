"""The Python API: answers come in order, equal those of transformers, and stay equal after saving and loading."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from huggingface_hub import ModelCard
from runs import sentences
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

import mapsto
from mapsto.errors import CheckpointError, UsageError
from mapsto.model.layers import Linear
from mapsto.model.mapping import SkipInit

TINY: dict[str, Any] = {"layers": 2, "width": 64, "heads": 2, "vocabulary": 300, "device": "cpu", "precision": "fp32"}
ANY: dict[str, Any] = {"device": "cpu", "precision": "fp32"}


def labelled(count: int, seed: int = 0) -> list[dict[str, Any]]:
    return [{"text": text, "label": "cold" if "winter" in text else "warm"} for text in sentences(count, seed)]


@pytest.fixture(scope="module")
def clf() -> mapsto.Model:
    return mapsto.fit("text -> label", labelled(200), steps=60, **TINY)


@pytest.fixture(scope="module")
def base() -> mapsto.Model:
    return mapsto.pretrain("text", [{"text": text} for text in sentences(200)], steps=10, **TINY)


def test_an_answer_says_how_sure_it_is(clf: mapsto.Model) -> None:
    answer = clf("今天 winter hope")
    assert set(answer) == {"label", "probability", "scores", "familiar"}
    assert answer["probability"] == max(answer["scores"].values())
    assert sum(answer["scores"].values()) == pytest.approx(1.0)
    with pytest.raises(UsageError, match="blank"):
        clf("  ")
    with pytest.raises(UsageError, match="reads 1 values"):
        clf("one", "two")


def test_answers_come_in_order_and_do_not_depend_on_their_neighbours(clf: mapsto.Model) -> None:
    texts = sentences(120, seed=4)
    texts[50] = "river " * 200
    together = clf.predict(texts)
    alone = [clf(text) for text in texts[:60]]
    for one, other in zip(together, alone, strict=False):
        assert one["label"] == other["label"]
        assert one["probability"] == pytest.approx(other["probability"], abs=1e-5)


def test_tables_of_every_kind_are_the_same_table(clf: mapsto.Model, tmp_path: Path) -> None:
    pandas, datasets = pytest.importorskip("pandas"), pytest.importorskip("datasets")
    pyarrow = pytest.importorskip("pyarrow")
    rows = labelled(20, seed=2)
    frame = pandas.DataFrame(rows)
    frame.to_csv(tmp_path / "a.csv", index=False)
    expected = clf.predict(rows)
    for given in (
        frame,
        pyarrow.Table.from_pylist(rows),
        datasets.Dataset.from_list(rows),
        tmp_path / "a.csv",
        str(tmp_path / "a.csv"),
    ):
        assert clf.predict(given) == expected


def test_evaluation_counts_what_predict_says(clf: mapsto.Model) -> None:
    rows = labelled(60, seed=3)
    found = clf.evaluate(rows)
    right = np.mean([answer["label"] == row["label"] for answer, row in zip(clf.predict(rows), rows, strict=True)])
    assert found.scores["accuracy"].value == pytest.approx(float(right)) and found.scores["accuracy"].n == 60
    assert sum(found.confusion["warm"].values()) + sum(found.confusion["cold"].values()) == 60
    strange = clf.evaluate([*rows, {"text": "never seen", "label": "mild"}])
    assert "1 rows have the label 'mild', which training never saw" in strange.notes
    assert strange.scores["accuracy"].n == 61 and strange.scores["log_loss"].n == 60


@pytest.mark.parametrize("which", ["clf", "base"])
def test_saved_and_loaded_is_the_same_to_the_bit(which: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    model: mapsto.Model = request.getfixturevalue(which)
    model.save(tmp_path / "model")
    again = mapsto.load(tmp_path / "model", device="cpu", precision="fp32")
    assert str(again.mapping.arrow) == str(model.mapping.arrow)
    for (name, one), (_, other) in zip(model.mapping.named_parameters(), again.mapping.named_parameters(), strict=True):
        assert torch.equal(one, other), name
    texts = sentences(10, seed=6)
    assert again.predict(texts) == model.predict(texts)
    with pytest.raises(UsageError, match="holds a finished run"):
        model.save(tmp_path / "model")


def test_transformers_gives_the_same_probabilities(clf: mapsto.Model, tmp_path: Path) -> None:
    clf.save(tmp_path / "clf")
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "clf").eval()
    texts = sentences(20, seed=7)
    inputs = AutoTokenizer.from_pretrained(tmp_path / "clf")(texts, padding=True, return_tensors="pt")
    expected = theirs(**inputs).logits.softmax(-1)
    for row, answer in zip(expected, clf.predict(texts), strict=True):
        for name, probability in answer["scores"].items():
            assert probability == pytest.approx(float(row[theirs.config.label2id[name]].detach()), abs=1e-5)


def test_what_a_fit_cut_off_is_cut_off_later(tmp_path: Path) -> None:
    long = [" ".join(sentences(12, seed=seed)) for seed in range(6)]
    model = mapsto.fit("text -> label", labelled(60), tmp_path / "clf", steps=3, length=24, **TINY)
    again = mapsto.load(tmp_path / "clf", device="cpu", precision="fp32")
    assert again.predict(long) == model.predict(long)
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "clf").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "clf")
    inputs = tokenizer(long, padding=True, truncation=True, return_tensors="pt")
    assert inputs["input_ids"].shape[1] == 24
    expected = theirs(**inputs).logits.softmax(-1)
    for row, answer in zip(expected, again.predict(long), strict=True):
        for name, probability in answer["scores"].items():
            assert probability == pytest.approx(float(row[theirs.config.label2id[name]].detach()), abs=1e-5)
    longer = mapsto.fit("text -> label", labelled(60), start=tmp_path / "clf", steps=1, **ANY)
    assert longer.mapping.config.max_tokens == model.mapping.config.transformer.max_tokens > 24


def test_transformers_fills_the_same_masks(base: mapsto.Model, tmp_path: Path) -> None:
    base.save(tmp_path / "base")
    theirs = AutoModelForMaskedLM.from_pretrained(tmp_path / "base").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    text = f"the river {tokenizer.mask_token} past"
    inputs = tokenizer([text], return_tensors="pt")
    at = int((inputs["input_ids"][0] == tokenizer.mask_token_id).nonzero()[0])
    expected = theirs(**inputs).logits[0, at].softmax(-1).max().item()
    (answer,) = base(text)["text"]
    assert answer["probability"] == pytest.approx(expected, abs=1e-5)


def test_a_text_without_a_mask_is_told_how_to_hide_something(base: mapsto.Model) -> None:
    told, untold = base.predict(["the river [MASK] past", "the river runs past"])
    assert len(told["text"]) == 1
    assert untold == {
        "error": "nothing is hidden: write [MASK] for each token to put back, or say which share to hide (hide=0.3)"
    }


def test_a_model_that_reads_on_fills_nothing_in() -> None:
    rows = [{"text": text, "label": "ab"[i % 2]} for i, text in enumerate(sentences(40))]
    alone = mapsto.pretrain("text", rows, objective="causal", steps=2, **TINY)
    assert "from those before it alone" in alone.predict(["the river [MASK] past"])[0]["error"]
    both = mapsto.fit("~text -> text, label", rows, objective="causal", steps=2, **TINY)
    answer = both("the river [MASK] past")
    assert answer["text"] == {"text": []} and answer["label"]["label"] in "ab"


@pytest.mark.parametrize(("objective", "task"), [("masked", "fill-mask"), ("hybrid", None), ("causal", None)])
def test_the_card_names_a_task_that_others_can_do(objective: str, task: str | None, tmp_path: Path) -> None:
    """If a model predicts a token one position ahead, fill-mask of transformers does not find the prediction."""
    rows = [{"text": text} for text in sentences(40)]
    mapsto.pretrain("text", rows, objective=objective, steps=2, **TINY).save(tmp_path / "base")
    card = ModelCard((tmp_path / "base" / "README.md").read_text(encoding="utf-8"))
    assert card.data.pipeline_tag == task and ("one position ahead" in card.text) == (task is None)


def test_vectors(base: mapsto.Model) -> None:
    texts = ["the river runs", "今天天气真好", "the river runs"]
    found = base.embed(texts)
    assert found.shape == (3, 64) and found.dtype == np.float32
    np.testing.assert_allclose(found[0], found[2], atol=1e-6)
    assert not np.allclose(base.embed(texts, pooling="first"), base.embed(texts, pooling="mean"))


def test_vectors_of_what_is_no_list_of_texts(base: mapsto.Model) -> None:
    for values, pooling, says in (
        ([], None, "at least one value"),
        ("one text", None, "takes a list"),
        (["a", ""], None, r"value 1 \(counted from 0\): the text is blank"),
        (["a"], "men", "did you mean 'mean'"),
    ):
        with pytest.raises(UsageError, match=says):
            base.embed(values, pooling)


def test_bf16_stays_close_to_fp32(clf: mapsto.Model) -> None:
    texts = sentences(1000, seed=9)
    rough = mapsto.Model(clf.mapping, "cpu", "bf16")
    one, other = clf.embed(texts), rough.embed(texts)
    cosine = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    assert cosine.min() >= 0.999
    rows = [{"text": text, "label": "cold" if "winter" in text else "warm"} for text in texts]
    exact, rounded = (model.evaluate(rows).scores["accuracy"].value for model in (clf, rough))
    assert abs(exact - rounded) <= 0.005


def test_what_is_read_anyway_gets_no_first_values() -> None:
    state = torch.get_rng_state()
    with SkipInit():
        torch.nn.Embedding(3, 4), Linear(4, 4)
    assert torch.equal(torch.get_rng_state(), state)


def test_folders_that_are_no_model(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no model folder: it is empty"):
        mapsto.load(tmp_path)
    with pytest.raises(CheckpointError, match="there is no folder"):
        mapsto.load(tmp_path / "nothing")


def test_two_sources_two_answers() -> None:
    rows = [
        {"question": q, "passage": p, "topic": "ab"[i % 2], "tone": "xyz"[i % 3]}
        for i, (q, p) in enumerate(zip(sentences(40, 1), sentences(40, 2), strict=True))
    ]
    model = mapsto.fit("question:text, passage:text -> topic:label, tone:label", rows, steps=3, **TINY)
    answer = model("what river", "the old river")
    assert set(answer) == {"topic", "tone", "familiar"} and answer["tone"]["label"] in "xyz"
    assert set(model.evaluate(rows).scores) >= {"topic: accuracy", "tone: accuracy"}
    row = {"question": "what river", "passage": "the old river"}
    assert model(row) == answer and len(model.explain(row).explanations) == len(model.explain([row]).explanations)


def test_two_answers_come_from_one_pass() -> None:
    rows = [{"text": t, "topic": "ab"[i % 2], "size": float(i)} for i, t in enumerate(sentences(40, 1))]
    model = mapsto.fit("text -> topic:label, size:number", rows, steps=1, **TINY)
    passes: list[int] = []
    model.predictor.mapping.transformer.register_forward_hook(lambda *_: passes.append(1))
    answers = model.predict([row["text"] for row in rows[:8]])
    assert set(answers[0]) == {"topic", "size", "familiar"} and len(passes) == 1
    scores = model.evaluate(rows[:8]).scores
    assert {"topic: accuracy", "size: mae"} <= set(scores) and len(passes) == 2


def test_each_of_two_texts_fills_in_its_own_masks_and_has_its_own_scores() -> None:
    pairs = [{"en": f"a sentence number {i}", "de": f"ein Satz Nummer {i}"} for i in range(20)]
    for objective in ("masked", "hybrid"):
        arrow = "~en:text, ~de:text -> en:text, de:text"
        model = mapsto.pretrain(arrow, pairs, steps=2, objective=objective, **TINY)
        answer = model("a [MASK] number 3", "ein [MASK] [MASK] 3")
        assert [len(answer[name]["text"]) for name in ("en", "de")] == [1, 2]
        assert model("a [MASK] number 3", "[MASK] Satz Nummer 3")["en"] != answer["en"], "it reads both"
        assert set(model.evaluate(pairs).scores) == {
            f"{name}: {score}" for name in ("en", "de") for score in ("masked_loss", "token_accuracy")
        }


def test_two_answers_are_saved_and_loaded(tmp_path: Path) -> None:
    rows = [{"text": t, "topic": "ab"[i % 2], "tone": "xyz"[i % 3]} for i, t in enumerate(sentences(40, 1))]
    model = mapsto.fit("text -> topic:label, tone:label", rows, steps=3, **TINY)
    model.save(tmp_path / "two")
    again = mapsto.load(tmp_path / "two", device="cpu", precision="fp32")
    assert again("the river") == model("the river")


def test_columns_of_values_are_read_as_lists_of_them() -> None:
    texts = sentences(12, 1)
    model = mapsto.fit(
        "text -> label", [{"text": t, "label": "ab"[i % 2]} for i, t in enumerate(texts)], steps=1, **TINY
    )
    answers = model.predict(texts)
    columns: list[Any] = [tuple(texts), np.array(texts), np.array(texts, object), iter(texts), (t for t in texts)]
    columns += [pd.Series(texts, index=range(5, 17)), pd.DataFrame({"x": texts})["x"], pd.Index(texts), pa.array(texts)]
    assert all(model.predict(column) == answers for column in columns)
    assert model.predict({"text": text} for text in texts) == answers
    assert model.predict(pd.DataFrame({"text": texts})) == model.predict(pa.table({"text": texts})) == answers
    empty: list[Any] = [[], (), iter([]), np.array([], str), pd.Series([], dtype=str)]
    assert all(model.predict(column) == [] for column in empty)


def test_the_report_of_a_saved_run_is_read_at_first_use(tmp_path: Path) -> None:
    """Loading a model must not take longer for a long training."""
    rows = [{"text": text, "label": "ab"[i % 2]} for i, text in enumerate(sentences(12, 1))]
    mapsto.fit("text -> label", rows, tmp_path / "run", steps=1, quiet=True, **TINY)
    (tmp_path / "run" / "metrics.jsonl").write_text("no step\n", encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = mapsto.load(tmp_path / "run")
    with pytest.warns(mapsto.MapstoWarning, match="is not whole"):
        assert loaded.report.folder == str(tmp_path / "run")
