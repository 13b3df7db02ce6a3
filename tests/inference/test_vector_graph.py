"""The approximate search: nearly the results of the exact one, a graph that is kept, checked and never trusted."""

from __future__ import annotations

import hashlib
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matching import fit_pairs, write_pairs
from runs import sentences
from torch import Tensor

import mapsto
from mapsto.cli.find import find as find_command
from mapsto.cli.info import info
from mapsto.errors import CheckpointError
from mapsto.files.reading import read_content, read_sealed, seal
from mapsto.inference.index import vector_graph
from mapsto.inference.index.graph_file import check_graph
from mapsto.inference.index.index_files import FACTS_FILE, GRAPH_FACTS_FILE, GRAPH_FILE
from mapsto.inference.index.vector_graph import ApproximateIndex, VectorGraph
from mapsto.inference.index.vector_index import RoundedVectors, VectorIndex, index_bytes, unit

pytest.importorskip("usearch", reason="the extra [index] is not here")

APPROXIMATE = "the search among 40 texts is approximate"


def clustered(count: int, width: int, seed: int = 0) -> Tensor:
    """Return random unit vectors (count, width), about 50 around each centre."""
    rng = torch.Generator().manual_seed(seed)
    centres = unit(torch.randn(-(-count // 50), width, generator=rng))
    noise = unit(torch.randn(count, width, generator=rng))
    return unit(centres[torch.randint(len(centres), (count,), generator=rng)] + 0.8 * noise)


# The graph


def test_recall_is_that_of_the_exact_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_graph, "CANDIDATES", (40, 80))
    vectors = clustered(2000, 32)
    index = VectorIndex(vectors)
    queries = unit(vectors[::40] + 0.2 * unit(torch.randn(50, 32, generator=torch.Generator().manual_seed(1))))
    expected_scores, expected = index.search(queries, 10)
    approximate = ApproximateIndex.build(index)
    scores, numbers = approximate.search(queries, 10)
    hits = [
        len({*best.tolist()} & {*approximate.tolist()}) for best, approximate in zip(expected, numbers, strict=True)
    ]
    assert sum(hits) / (10 * len(queries)) >= 0.98
    assert approximate.recall >= 0.98 and approximate.candidates in (40, 80)
    for query, best_scores, near, exact_scores in zip(queries, scores, numbers, expected_scores, strict=True):
        torch.testing.assert_close(best_scores, (vectors[near] * query).sum(1))
        assert best_scores.tolist() == sorted(best_scores.tolist(), reverse=True)
        assert float(best_scores[0]) <= float(exact_scores[0]) + 1e-6


def test_more_candidates_are_taken_until_the_recall_suffices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_graph, "CANDIDATES", (12, 24, 48))
    index = VectorIndex(unit(torch.randn(1500, 48, generator=torch.Generator().manual_seed(0))))
    recalls = []
    for recall in (0.0, 0.99, 1.1):
        monkeypatch.setattr(vector_graph, "SUFFICIENT_RECALL", recall)
        approximate = ApproximateIndex.build(index)
        recalls.append((approximate.candidates, approximate.recall))
    assert recalls[0][0] == 12 and recalls[2][0] == 48, "the first if anything suffices, the last if nothing does"
    assert 0.5 < recalls[0][1] < recalls[2][1] <= 1


@pytest.mark.parametrize(("count", "width", "top"), [(1, 1, 3), (2, 5, 2), (7, 1, 7), (300, 4, 5)])
def test_few_and_equal_vectors_are_found_in_the_order_of_the_table(count: int, width: int, top: int) -> None:
    """Many equal vectors may be out of reach along edges; there are as many results all the same."""
    index = VectorIndex(unit(torch.ones(count, width)))
    approximate = ApproximateIndex.build(index)
    (numbers,) = approximate.search(unit(torch.ones(1, width)), top)[1]
    assert len(numbers) == min(top, count) and numbers.tolist() == sorted({*numbers.tolist()})
    if count < vector_graph.CANDIDATES[0]:
        assert numbers.tolist() == list(range(min(top, count)))


def test_a_graph_in_a_file_is_the_same_graph(tmp_path: Path) -> None:
    rounded = RoundedVectors.of(clustered(500, 16))
    queries = RoundedVectors.of(clustered(9, 16, seed=3))
    graph = VectorGraph.build(rounded)
    digest = graph.save(tmp_path / "graph")
    kept = VectorGraph.open(tmp_path / "graph", digest, rounded)
    again = VectorGraph.open(tmp_path / "graph", digest, rounded)
    for first, second, third in zip(*(part.propose(queries, 20) for part in (graph, kept, again)), strict=True):
        assert first.tolist() == second.tolist() == third.tolist()
    with pytest.raises(CheckpointError, match="no graph of 499 vectors of 16 bytes"):
        VectorGraph.open(tmp_path / "graph", digest, RoundedVectors.of(clustered(499, 16)))


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file of a graph of 300 vectors of 8 bytes, which has more than one layer."""
    path: Path = tmp_path_factory.mktemp("graph") / "graph"
    VectorGraph.build(RoundedVectors.of(clustered(300, 8))).save(path)
    return path.read_bytes()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_changed_number_is_refused_or_harmless(content: bytes, data: st.DataObject) -> None:
    """The recorded hash may be forged with the file, so edges are checked before they are followed."""
    first = 8 + 300 * 8  # behind the vectors, whose bytes may be any
    place = data.draw(st.integers(first, len(content) - 1))
    changed = bytearray(content)
    changed[place] = data.draw(st.sampled_from([0, 1, 0x7F, 0xFF]))
    try:
        check_graph(Path("graph"), memoryview(changed), 300, 8)
    except CheckpointError as error:
        assert "graph is no graph of 300 vectors of 8 bytes" in str(error)
        return
    graph = vector_graph._new_graph(8)
    try:
        graph.view(memoryview(changed))
    except RuntimeError:  # another version of the format
        assert place < first + 64
        return
    (candidates,) = VectorGraph(graph, memoryview(changed)).propose(RoundedVectors.of(clustered(1, 8)), 30)
    assert len(candidates) > 0 and int(candidates.min()) >= 0 and int(candidates.max()) < 300


def test_wrong_parts_of_a_graph_are_named(content: bytes) -> None:
    start = 8 + 300 * 8 + 64
    levels = np.frombuffer(content, np.int16, 300, start + 40)
    assert levels.max() > 0, "the graph has layers"
    # The first edge of the first vector: behind all layers, its key, its layer and the number of its edges.
    edge = start + 40 + 2 * 300 + 8 + 2 + 4
    cases = {
        "it is too short": content[:100],
        f"it has {len(content) - 1:,} bytes": content[:-1],
        "another shape": b"\1" + content[1:],
        "its head does not fit": content[: start - 64 + 13] + b"\0" + content[start - 64 + 14 :],
        "its numbers do not fit": content[:start] + b"\xff" + content[start + 1 :],
        "its layers do not fit": content[: start + 24] + b"\x20" + content[start + 25 :],
        "do not number the vectors": content[: edge - 14] + b"\7" + content[edge - 13 :],
        "an edge in layer 0 leads nowhere": content[:edge] + b"\xff\xff" + content[edge + 2 :],
    }
    for message, changed in cases.items():
        with pytest.raises(CheckpointError, match=message):
            check_graph(Path("graph"), memoryview(bytearray(changed)), 300, 8)


def test_sizes_that_info_tells_are_those_of_the_files(tmp_path: Path) -> None:
    count, width = 2000, 24
    index = VectorIndex(clustered(count, width))
    index.save(tmp_path / "vectors")
    VectorGraph.build(index.rounded).save(tmp_path / "graph")
    for name, expected in (("vectors", index_bytes(count, width)), ("graph", vector_graph.graph_bytes(count, width))):
        assert expected <= (tmp_path / name).stat().st_size <= 1.05 * expected


# Python


@pytest.fixture(scope="module")
def model() -> mapsto.Model:
    return fit_pairs()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take 30 texts for very many."""
    monkeypatch.setattr(vector_graph, "LARGE", 30)


def fresh(model: mapsto.Model) -> mapsto.Model:
    """Return the model without the texts that it searched last."""
    return mapsto.Model(model.mapping, "cpu", "fp32")


def notes_of(model: mapsto.Model, *arguments: Any, **options: Any) -> tuple[list[Any], str]:
    """Return the results of `find` by a fresh model, and its warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        answers = fresh(model).find(*arguments, **options)
    return answers, "\n".join(str(warning.message) for warning in caught)


@pytest.mark.usefixtures("small")
def test_the_graph_is_kept_and_used_again(model: mapsto.Model, tmp_path: Path) -> None:
    texts, folder = sentences(39) + ["今天天气真好！"], tmp_path / "kept"
    exact = fresh(model).find(texts, texts, top=3, exact=True, index=folder)
    assert not (folder / GRAPH_FILE).exists()
    answers, notes = notes_of(model, texts, texts, top=3, index=folder)
    assert answers == exact and notes.count(APPROXIMATE) == 1 and "exact=True" in notes
    written = (folder / GRAPH_FILE).stat().st_mtime_ns
    again, notes = notes_of(model, texts, texts, top=3, index=folder)
    assert again == exact and APPROXIMATE in notes
    assert (folder / GRAPH_FILE).stat().st_mtime_ns == written, "it was used, not made again"
    assert notes_of(model, texts, texts, top=3, index=folder, exact=True) == (exact, "")
    # Shortened vectors have a graph of their own.
    sized, notes = notes_of(model, texts, texts, top=3, index=folder, size=8)
    assert (folder / GRAPH_FILE).stat().st_mtime_ns != written and APPROXIMATE in notes
    assert sized == notes_of(model, texts, texts, top=3, size=8)[0]


@pytest.mark.usefixtures("small")
def test_changed_texts_have_no_old_graph(model: mapsto.Model, tmp_path: Path) -> None:
    texts, folder = sentences(42), tmp_path / "kept"
    fresh(model).find("winter", texts[:40], index=folder)
    answers, notes = notes_of(model, texts[41], texts[2:], top=1, index=folder)
    assert answers[0]["index"] == 39 and "the texts have changed" in notes and APPROXIMATE in notes
    fresh(model).find("winter", texts[:20], index=folder)
    assert not (folder / GRAPH_FILE).exists() and not (folder / GRAPH_FACTS_FILE).exists()


@pytest.mark.usefixtures("small")
def test_a_graph_of_another_version_of_usearch_is_made_again(
    model: mapsto.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, folder = sentences(40), tmp_path / "kept"
    first = fresh(model).find("winter", texts, index=folder)
    monkeypatch.setattr("usearch.__version__", "2.99.0")
    answers, notes = notes_of(model, "winter", texts, index=folder)
    assert answers == first and "is not used: usearch has another version" in notes


@pytest.mark.usefixtures("small")
def test_a_graph_is_built_where_it_is_worth_it(model: mapsto.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = sentences(40)
    few, notes = notes_of(model, texts[:5], texts)
    assert notes == "", "a few queries without a folder are searched exactly"
    monkeypatch.setattr(vector_graph, "QUERIES_PER_BUILD", 5)
    assert notes_of(model, texts[:4], texts)[1] == ""
    many, notes = notes_of(model, texts[:5], texts)
    assert APPROXIMATE in notes and many == few
    monkeypatch.setattr(vector_graph, "MAX_RESULTS", 9)
    assert notes_of(model, texts[:5], texts, top=10)[1] == ""
    monkeypatch.setattr(vector_graph, "LARGE", 40)
    assert notes_of(model, texts[:5], texts, top=9)[1] == ""


@pytest.mark.usefixtures("small")
def test_equal_texts_are_counted(model: mapsto.Model, tmp_path: Path) -> None:
    texts = sentences(35)
    rows = [{"passage": text} for text in [*texts, texts[4], f" {texts[4]}"]]
    (first, second), notes = notes_of(model, texts[4], rows, top=2, index=tmp_path / "kept")
    assert (first["index"], first["score"]) == (4, pytest.approx(1)) and second["index"] not in (4, 35, 36)
    assert "the search among 35 texts is approximate" in notes


@pytest.mark.usefixtures("small")
def test_without_the_extra_the_search_is_exact(
    model: mapsto.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, folder = sentences(40), tmp_path / "kept"
    kept = fresh(model).find("winter", texts, index=folder)
    for name in ("usearch", "usearch.index"):
        monkeypatch.setitem(sys.modules, name, None)
    for index in (folder, tmp_path / "new"):
        answers, notes = notes_of(model, "winter", texts, index=index)
        assert answers == kept
        assert (
            "all 40 texts are compared" in notes
            and "pip install 'mapsto[index]'" in notes
            and "approximate and" not in notes
        )
    assert notes_of(model, "winter", texts) == (kept, ""), "nothing is missed for a single query"


@pytest.mark.usefixtures("small")
def test_a_damaged_graph_is_refused(model: mapsto.Model, tmp_path: Path) -> None:
    texts, folder = sentences(40), tmp_path / "kept"
    expected = fresh(model).find("winter", texts, index=folder)
    content = (folder / GRAPH_FILE).read_bytes()
    facts = (folder / GRAPH_FACTS_FILE).read_bytes()
    for name, changed in {
        "cut": {GRAPH_FILE: content[:-10]},
        "flipped": {GRAPH_FILE: content[:-10] + bytes([content[-10] ^ 1]) + content[-9:]},
        "empty": {GRAPH_FILE: b""},
        "foreign facts": {GRAPH_FACTS_FILE: facts.replace(b'"connectivity": 16', b'"connectivity": 17')},
        "no recall": {GRAPH_FACTS_FILE: seal({**read_sealed(folder / GRAPH_FACTS_FILE), "candidates": "many"})},
        "no json": {GRAPH_FACTS_FILE: b"{"},
    }.items():
        copy = shutil.copytree(folder, tmp_path / name)
        for file, bytes_of_file in changed.items():
            (copy / file).write_bytes(bytes_of_file)
        with pytest.raises(CheckpointError, match=r"graph\.(usearch|json).* (is damaged|is no JSON)"):
            fresh(model).find("winter", texts, index=copy)
        assert fresh(model).find("winter", texts, index=copy, exact=True) == expected
    copy = shutil.copytree(folder, tmp_path / "missing")
    (copy / GRAPH_FILE).unlink()
    with pytest.raises(CheckpointError, match=r"graph\.usearch is missing; delete .*graph\.json to make it again"):
        fresh(model).find("winter", texts, index=copy)
    (copy / GRAPH_FACTS_FILE).unlink()
    assert fresh(model).find("winter", texts, index=copy) == expected and (copy / GRAPH_FILE).exists()
    # A write that was interrupted leaves the graph without facts and is no foreign folder.
    (copy / FACTS_FILE).unlink()
    assert fresh(model).find("winter", texts, index=copy) == expected


# The command line


@pytest.mark.usefixtures("small")
def test_the_command_line_builds_for_a_named_folder(
    model: mapsto.Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model.save(tmp_path / "model")
    table = write_pairs(tmp_path / "pairs.csv")
    query = [sentences(40)[7]]

    def find(**options: Any) -> tuple[str, str]:
        find_command(str(tmp_path / "model"), query, table, top=2, device="cpu", precision="fp32", **options)
        output = capsys.readouterr()
        return output.out, output.err

    info(str(tmp_path / "model"))
    assert "328 MB a million texts; above that 208 MB more" in capsys.readouterr().out
    results, notes = find()
    assert "approximate" not in notes, "the folder beside the table alone builds nothing for a single query"
    folder = tmp_path / "named"
    assert find(index=folder, exact=True)[0] == results and not (folder / GRAPH_FILE).exists()
    same, notes = find(index=folder)
    assert same == results and "building an approximate index of 40 texts" in notes
    assert notes.count("of the best ones, measured on a sample; --exact") == 1
    same, notes = find(index=folder)
    assert same == results and "building" not in notes and APPROXIMATE in notes
    assert hashlib.sha256(read_content(folder / GRAPH_FILE)).hexdigest() in (folder / GRAPH_FACTS_FILE).read_text()
