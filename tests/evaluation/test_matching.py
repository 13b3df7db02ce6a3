"""Scores of pairs: in both directions, over distinct texts, beside BM25; pairs that share a text stay on one side of a split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matching import fit_pairs, make_pairs, write_pairs
from runs import run

import mapsto
from mapsto.data.rows import load_rows
from mapsto.data.split import split_indices
from mapsto.data.table import read_table
from mapsto.errors import DataError
from mapsto.evaluation import matching
from mapsto.inference.find import SearchSettings, make_finder
from mapsto.inference.index.vector_index import unit
from mapsto.task.arrow import parse

ARROW = "query:text <-> passage:text"
DUPLICATES = [
    {"query": "where is my card", "passage": "card arrival"},
    {"query": "where is my card", "passage": "delivery of a card"},
    {"query": "Where is  my card", "passage": "delivery"},
    {"query": "卡在哪里", "passage": "Card arrival"},
]


@pytest.fixture(scope="module")
def model() -> mapsto.Model:
    return fit_pairs()


def test_equal_texts_are_one_candidate_and_all_their_pairs_are_right(model: mapsto.Model) -> None:
    scores = model.evaluate(DUPLICATES).scores
    assert {score.n for name, score in scores.items() if name.startswith("query→passage")} == {2}
    assert {score.n for name, score in scores.items() if name.startswith("passage→query")} == {3}
    rows = load_rows(parse(ARROW), read_table(DUPLICATES))
    assert [numbers.tolist() for numbers in matching.relevance(rows).right] == [[0, 1, 2], [0]]


def test_scores_are_those_of_the_vectors(model: mapsto.Model) -> None:
    rows = make_pairs(25)
    queries, passages = (
        unit(torch.from_numpy(model.embed([row[side] for row in rows]))).double().numpy()
        for side in ("query", "passage")
    )
    cosines = queries @ passages.T
    ranks = [1 + int((cosines[i] > cosines[i, i]).sum()) for i in range(25)]
    scores = model.evaluate(rows).scores
    assert scores["query→passage mrr"].value == pytest.approx(np.mean(1 / np.array(ranks)))
    assert scores["query→passage recall@1"].value == pytest.approx(np.mean(np.array(ranks) == 1))
    answers = [answer["score"] for answer in model.predict(rows)]
    assert answers == pytest.approx((queries * passages).sum(1).tolist(), abs=1e-4)


def test_bm25_is_the_baseline(model: mapsto.Model) -> None:
    evaluation = model.evaluate(make_pairs(20))
    assert evaluation.baseline_name == "BM25" and evaluation.baseline.keys() == evaluation.scores.keys()
    assert evaluation.baseline["query→passage mrr"].value == 1, "a passage has all words of its query"


def test_scored_pairs_are_correlated() -> None:
    rows = make_pairs(scored=True)
    model = fit_pairs("query:text <-> passage:text, score:number", rows, hold_out=0.2)
    evaluation = model.evaluate(rows)
    cosines = [answer["score"] for answer in model.predict(rows)]
    from scipy.stats import pearsonr, spearmanr

    labels = [row["score"] for row in rows]
    assert evaluation.scores["spearman"].value == pytest.approx(spearmanr(cosines, labels).statistic, abs=1e-4)
    assert evaluation.scores["pearson"].value == pytest.approx(pearsonr(cosines, labels).statistic, abs=1e-4)
    assert evaluation.baseline == {}


@pytest.mark.parametrize("seed", range(4))
def test_pairs_that_share_a_text_are_on_one_side(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cells = [
        {"query": f"q{a}", "passage": f"{'Q' if b < 5 else 'p'}{b}"} for a, b in rng.integers(0, 40, (30, 2)).tolist()
    ]
    rows = load_rows(parse(ARROW), read_table(cells))
    training, held_out = split_indices(rows, 0.3, seed)
    sides = [{text.lower() for row in part for text in cells[row].values()} for part in (training, held_out)]
    assert len(held_out) and not sides[0] & sides[1]


def test_held_out_pairs_choose_the_weights(tmp_path: Path) -> None:
    fit_pairs(rows=make_pairs(60), out=tmp_path / "run", hold_out=0.3, steps=6)
    scores = mapsto.load(tmp_path / "run")
    assert "held-out query→passage mrr" in (tmp_path / "run" / "mapsto.json").read_text(encoding="utf-8")
    assert '"held_out_error"' in (tmp_path / "run" / "metrics.jsonl").read_text() and scores.mapping.arrow.symmetric


def test_a_saved_model_opens_in_sentence_transformers(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    rows = make_pairs(12, negatives=1)
    model = fit_pairs("query:text <-> passage:text, wrong0:text", rows, length=24)
    model.save(tmp_path / "saved")
    texts = [row["query"] for row in rows] + ["long " * 60]
    vectors = SentenceTransformer(str(tmp_path / "saved"), device="cpu").encode(texts)
    np.testing.assert_allclose(model.embed(texts), vectors, atol=1e-5, rtol=1e-4)
    again = mapsto.load(tmp_path / "saved", "cpu", "fp32")
    assert np.array_equal(again.embed(texts), model.embed(texts)) and again.mapping.arrow == model.mapping.arrow
    pairs = [{name: row[name] for name in ("query", "passage")} for row in rows]
    assert again.evaluate(pairs).scores == model.evaluate(pairs).scores, "hard negatives are for training alone"
    assert again(pairs[0]) == again(*pairs[0].values()) == again.predict(pairs)[0]


def test_texts_that_are_cut_are_counted() -> None:
    model = fit_pairs(length=12)
    notes = model.evaluate([{"query": "a", "passage": "a " * 50}, {"query": "b", "passage": "b"}]).notes
    assert any("1 rows have values longer than the model takes; " in note for note in notes)
    lines: list[str] = []
    table = read_table([{"passage": "a " * 50}, {"passage": "b"}])
    make_finder(model.mapping, model.predictor.device, table, SearchSettings(), lines.append)
    assert "note: 1 values are longer than the model takes and were cut" in lines


def test_another_arrow_can_start_from_pairs(model: mapsto.Model) -> None:
    rows = [{"text": row["query"], "label": "ab"["winter" in row["query"]]} for row in make_pairs()]
    labels = mapsto.fit("text -> label", rows, start=model, steps=2, device="cpu")
    assert labels.mapping.config.sentence is None and set(labels("winter")["scores"]) == {"a", "b"}


def test_unreadable_pairs_are_named(model: mapsto.Model) -> None:
    rows = [*make_pairs(3), {"query": "a", "passage": None}]
    with pytest.raises(DataError, match="row 4, column 'passage': the text is blank"):
        model.evaluate(rows)
    assert model.predict(rows)[3] == {"error": "passage: the text is blank"}


def test_the_command_line_from_pairs_to_scores(tmp_path: Path) -> None:
    train, test = write_pairs(tmp_path / "pairs.csv"), write_pairs(tmp_path / "test.csv", 8)
    words: list[Any] = ["fit", "query:text <-> passage:text", train, "--out", tmp_path / "run", "--steps", 2]
    words += ["--layers", 1, "--width", 32, "--heads", 2, "--vocabulary", 300, "--device", "cpu"]
    done = run(*map(str, words))
    assert done.returncode == 0, done.stderr
    done = run("evaluate", str(tmp_path / "run"), str(test), "--device", "cpu", "--out", str(tmp_path / "page.html"))
    verdict = (tmp_path / "page.html").read_text(encoding="utf-8").split('class="verdict"')[1][:400]
    assert "% of the searches by query, the right passage comes first (BM25: " in verdict
    assert done.returncode == 0 and "query→passage recall@10" in done.stdout and "(BM25: " in done.stdout, done.stderr
    assert "rows were trained on" in done.stderr, "the first pairs are those of training"
    done = run("predict", str(tmp_path / "run"), str(test), "--device", "cpu")
    assert done.stdout.splitlines()[0] == "query,passage,score" and len(done.stdout.splitlines()) == 9
