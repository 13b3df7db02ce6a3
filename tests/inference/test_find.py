"""Finding texts: the index is exact, it is kept and noticed when it is outdated, and queries come from anywhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matching import fit_pairs, make_pairs, write_pairs
from runs import run, sentences
from trainings import TINY_OPTIONS

import mapsto
from mapsto.errors import CheckpointError, DataError, UsageError
from mapsto.inference.index.index_files import FACTS_FILE, VECTORS_FILE
from mapsto.inference.index.vector_index import RoundedVectors, VectorIndex, unit


@pytest.fixture(scope="module")
def model() -> mapsto.Model:
    return fit_pairs()


@pytest.fixture(scope="module")
def folder(model: mapsto.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("model") / "pairs"
    model.save(path)
    return path


# The index


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 300),
    st.integers(1, 70),
    st.integers(1, 20),
    st.sampled_from([0, 1e-4, 1]),
)
def test_search_is_the_full_product(seed: int, count: int, width: int, top: int, spread: float) -> None:
    """Vectors may be nearly equal (spread), so that their bytes cannot tell them apart."""
    rng = torch.Generator().manual_seed(seed)
    vectors = unit(torch.randn(1, width, generator=rng) + spread * torch.randn(count, width, generator=rng))
    queries = unit(torch.randn(5, width, generator=rng))
    scores, numbers = VectorIndex(vectors).search(queries, top)
    product = queries.double() @ vectors.double().T
    for query in range(5):
        best = product[query].sort(descending=True).values[:top]
        torch.testing.assert_close(scores[query].double(), best, atol=1e-5, rtol=0)
        torch.testing.assert_close(product[query, numbers[query]], best, atol=1e-5, rtol=0)
        assert len(set(numbers[query].tolist())) == min(top, count)


def test_equal_scores_are_in_the_order_of_the_table() -> None:
    vectors = unit(torch.eye(4).repeat(8, 1))
    _, (numbers,) = VectorIndex(vectors).search(torch.eye(4)[:1], 6)
    assert numbers.tolist() == [0, 4, 8, 12, 16, 20]


def test_rounding_keeps_its_bounds() -> None:
    vectors = unit(torch.randn(200, 48))
    rounded = RoundedVectors.of(vectors)
    restored = rounded.scales[:, None] * rounded.codes
    assert bool((torch.linalg.vector_norm(vectors - restored, dim=1) <= rounded.errors + 1e-6).all())
    assert float(rounded.errors.max()) < 0.02
    assert RoundedVectors.of(torch.zeros(1, 4)).codes.tolist() == [[0, 0, 0, 0]]


def test_queries_in_parts_find_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    index, queries = VectorIndex(unit(torch.randn(50, 8))), unit(torch.randn(9, 8))
    whole = index.search(queries, 3)[1]
    monkeypatch.setattr("mapsto.inference.index.vector_index.SCORES_AT_ONCE", 120)
    assert [part.tolist() for part in index.search(queries, 3)[1]] == [part.tolist() for part in whole]


# Python


def test_the_nearest_texts_are_found_once_and_with_their_cells(model: mapsto.Model) -> None:
    texts = sentences(30)
    rows = [
        {"id": number, "passage": text, "row": "x"} for number, text in enumerate([*texts, f" {texts[4]}", texts[4]])
    ]
    answers = model.find(texts[4], rows, top=3)
    expected = {"score": pytest.approx(1), "row": 5, "index": 4, "id": 4, "passage": texts[4], "found_row": "x"}
    assert answers[0] == expected
    assert len(answers) == 3 and [answer["score"] for answer in answers] == sorted(
        (answer["score"] for answer in answers), reverse=True
    )
    vectors = unit(torch.from_numpy(model.embed([texts[4], *texts]))).double().numpy()
    assert [answer["index"] for answer in answers if answer["index"] < 30][:3] == np.argsort(
        -vectors[1:] @ vectors[0], kind="stable"
    )[:3].tolist()
    both = model.find([texts[4], texts[5]], texts, top=1)
    assert [(found[0]["row"], found[0]["index"]) for found in both] == [(5, 4), (6, 5)]


def test_shortened_vectors_are_compared(model: mapsto.Model) -> None:
    texts = sentences(20)
    vectors = unit(torch.from_numpy(model.embed(texts)), 8)
    expected = (vectors[:1] @ vectors.T)[0].sort(descending=True).values[:2].tolist()
    assert [found["score"] for found in model.find(texts[0], texts, top=2, size=8)] == pytest.approx(expected, abs=1e-4)
    with pytest.raises(UsageError, match="size= is a number of the model's 64"):
        model.find("a", texts, size=65)


def test_sizes_are_those_of_the_training(tmp_path: Path) -> None:
    fit_pairs(out=tmp_path / "sized", sizes="32,8")
    fit_pairs(out=tmp_path / "plain")
    table = str(write_pairs(tmp_path / "pairs.csv", 6))
    sized = mapsto.load(tmp_path / "sized", "cpu")
    assert sized.find("a", table, size=8) and sized.find("a", table, size=64)
    with pytest.raises(UsageError, match=r"size=16 is none of the sizes .* \(sizes=\): 32, 8"):
        sized.find("a", table, size=16)
    done = run("find", str(tmp_path / "plain"), "a", "--among", table, "--size", "16", "--device", "cpu")
    assert done.returncode == 0 and "the model was not trained for vectors of 16 numbers" in done.stderr


def test_any_encoder_finds(tmp_path: Path) -> None:
    texts_of_base = [{"text": text} for text in sentences(30)]
    base = mapsto.pretrain("text", texts_of_base, steps=1, **TINY_OPTIONS)
    texts = sentences(5)
    assert base.find(texts[3], texts, top=1)[0]["index"] == 3
    with pytest.raises(UsageError, match="could be the column 'query', 'passage'"):
        base.find("a", make_pairs(3))
    assert base.find("a", make_pairs(3), column="passage", top=1)[0]["passage"]


def test_what_cannot_be_found_is_said(model: mapsto.Model) -> None:
    with pytest.raises(UsageError, match="top= must be above 0"):
        model.find("a", ["b"], top=0)
    with pytest.raises(UsageError, match="value 0 .* the text is blank"):
        model.find(" ", ["b"])
    with pytest.raises(DataError, match="no row can be read"):
        model.find("a", [{"passage": " "}])


# The kept index


def test_the_index_is_kept_and_made_again_when_something_changed(model: mapsto.Model, tmp_path: Path) -> None:
    rows, folder = make_pairs(), tmp_path / "kept"
    first = model.find("winter", rows, index=folder)
    written = (folder / VECTORS_FILE).stat().st_mtime_ns
    again = mapsto.Model(model.mapping, "cpu", "fp32")
    assert again.find("winter", rows, index=folder) == first
    assert (folder / VECTORS_FILE).stat().st_mtime_ns == written, "it was used, not made again"
    rows[0] = {**rows[0], "passage": "winter"}
    assert again.find("winter", rows, index=folder)[0]["index"] == 0
    assert (folder / VECTORS_FILE).stat().st_mtime_ns != written
    facts = json.loads((folder / FACTS_FILE).read_text())
    assert fit_pairs(seed=3).find("winter", rows, index=folder)
    assert json.loads((folder / FACTS_FILE).read_text())["model"] != facts["model"]


def test_a_damaged_index_and_a_foreign_folder_are_refused(model: mapsto.Model, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    model.find("winter", make_pairs(), index=folder)
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / VECTORS_FILE).write_bytes((copy / VECTORS_FILE).read_bytes()[:-100])
    with pytest.raises(CheckpointError):
        mapsto.Model(model.mapping, "cpu", "fp32").find("winter", make_pairs(), index=copy)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="holds other files and no index"):
        mapsto.Model(model.mapping, "cpu", "fp32").find("winter", make_pairs(), index=tmp_path / "mine")


# The command line


def test_find_from_the_command_line(folder: Path, tmp_path: Path) -> None:
    table = write_pairs(tmp_path / "pairs.csv")
    texts = sentences(40)
    done = run("find", str(folder), texts[7], "--among", str(table), "--top", "2", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1.0000  pairs.csv, row 9: ") and len(done.stdout.splitlines()) == 2
    assert "embedding 40 different texts" in done.stderr and (tmp_path / "pairs.csv.index").is_dir()
    queries = tmp_path / "new.csv"
    queries.write_text(f'query\n{texts[3]}\n" "\n{texts[5]}\n', encoding="utf-8")
    more = ["--queries", str(queries), "--among", str(table), "--top", "1", "--device", "cpu"]
    done = run("find", str(folder), *more, "--json")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert "embedding" not in done.stderr and "left out: " in done.stderr and "row 3" in done.stderr
    assert [(entry["query"], entry["rank"], entry["row"]) for entry in found] == [(texts[3], 1, 5), (texts[5], 1, 7)]
    out = tmp_path / "found.csv"
    assert run("find", str(folder), *more, "--out", str(out)).returncode == 0
    assert out.read_text(encoding="utf-8").splitlines()[0] == "query,rank,score,row,found_query,passage"
    in_python = mapsto.load(folder, "cpu").find([texts[3], texts[5]], table, top=1)
    assert [(answers[0]["row"], answers[0]["index"]) for answers in in_python] == [(5, 3), (7, 5)]
    page = tmp_path / "found.html"
    assert run("find", str(folder), *more, "--out", str(page)).returncode == 0
    html = page.read_text(encoding="utf-8")
    assert all(text in html for text in ("<mark", "pairs.csv, row 5", "For 2 queries", "The most similar texts"))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["a query"], "--among passages.csv"),
        (["--among", "TABLE"], "give a query or --queries FILE"),
        (["a query", "--among", "TABLE", "--column", "nope"], "no column 'nope'"),
        (["a query", "--among", "TABLE", "--out", "nowhere/page.html"], "there is no folder nowhere"),
        (["a query", "--among", "TABLE", "--out", "page.pdf"], "rows are written as csv, tsv, jsonl, parquet or xlsx"),
    ],
)
def test_wrong_calls_are_said(words: list[str], says: str, folder: Path, tmp_path: Path) -> None:
    table = str(write_pairs(tmp_path / "pairs.csv", 4))
    done: Any = run("find", str(folder), *(table if word == "TABLE" else word for word in words))
    assert done.returncode == 2 and says in done.stderr
