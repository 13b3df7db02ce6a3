"""Matching pairs: the loss, the candidates that are left out, and a step in several batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from mappings import CPU
from matching import OPTIONS, fit_pairs, make_pairs

import mapsto
from mapsto.data.table import read_table
from mapsto.errors import DataError, UsageError
from mapsto.fitting.prepare import PreparedRun, prepare
from mapsto.fitting.request import FitRequest
from mapsto.kinds.match import TEMPERATURE, ScoredMatch
from mapsto.options import Options
from mapsto.sequence.packing import collate
from mapsto.task.arrow import parse
from mapsto.training import loader
from mapsto.training.loop import Training
from mapsto.training.objectives import gradient_cache
from mapsto.training.objectives.matching import Matching
from mapsto.training.plan import Plan, RunContext

WITH_NEGATIVES = "query:text <-> passage:text, wrong0:text, wrong1:text"


def prepared(rows: list[dict[str, Any]], arrow: str = "query:text <-> passage:text") -> PreparedRun:
    return prepare(FitRequest(parse(arrow), rows, options=Options(**OPTIONS)))


def cross_entropy(similarities: list[float], right: int) -> float:
    logits = np.array(similarities) / TEMPERATURE
    return float(np.logaddexp.reduce(logits) - logits[right])


def test_the_loss_is_that_of_every_pair_written_out() -> None:
    run = prepared(make_pairs(12, negatives=2), WITH_NEGATIVES)
    objective, rows = Matching(run.mapping, run.examples), np.array([1, 4, 7, 10])
    sides = torch.nn.functional.normalize(torch.randn(4, 4, 64), dim=-1)
    queries, passages, *wrong = sides.tolist()
    expected = 0.0
    for i, (query, passage) in enumerate(zip(queries, passages, strict=True)):
        candidates = [*passages, *wrong[0], *wrong[1]]
        expected += cross_entropy([float(np.dot(query, other)) for other in candidates], i) / 2
        expected += cross_entropy([float(np.dot(passage, other)) for other in queries], i) / 2
    loss = objective.total(run.mapping, 3.0 * sides, rows)
    assert float(loss) == pytest.approx(4 * expected, rel=1e-5), "four sides: each row counts four times"


def test_sizes_sum_the_losses_of_shortened_vectors() -> None:
    run = prepared(make_pairs(12))
    sides, rows = torch.randn(2, 6, 64), np.arange(6)
    total = sum(
        float(Matching(run.mapping, run.examples).total(run.mapping, sides[..., :size], rows)) for size in (64, 16)
    )
    assert float(Matching(run.mapping, run.examples, (64, 16)).total(run.mapping, sides, rows)) == pytest.approx(total)
    with pytest.raises(UsageError, match="sizes=128 is more than the 64 numbers"):
        Matching(run.mapping, run.examples, (128,))


def test_right_and_equal_texts_are_left_out() -> None:
    rows = [
        {"query": "a", "passage": "one", "wrong": "far"},
        {"query": "A ", "passage": "two", "wrong": "one"},  # the query of row 0, and its passage as a hard negative
        {"query": "b", "passage": "ONE", "wrong": "near"},  # the passage of row 0
        {"query": "今天", "passage": "b", "wrong": "two"},  # the passage is the query of row 2
    ]
    run = prepared(rows, "query:text <-> passage:text, wrong:text")
    left_out = Matching(run.mapping, run.examples).find_left_out(np.arange(4))
    passages, wrong = left_out[:, :4], left_out[:, 4:]
    assert np.argwhere(passages).tolist() == [[0, 1], [0, 2], [1, 0], [1, 2], [2, 0], [2, 3]]
    assert np.argwhere(wrong).tolist() == [[0, 1], [0, 3], [1, 1], [1, 3], [2, 1]]


def test_cosent_by_hand() -> None:
    cosines, scores = [0.9, 0.1, 0.5], [1.0, 3.0, 3.0]
    wrong = [np.exp((cosines[0] - cosines[i]) / TEMPERATURE) for i in (1, 2)]
    loss = ScoredMatch().loss(torch.tensor(cosines), torch.tensor(scores))
    assert float(loss) == pytest.approx(3 * np.log(1 + sum(wrong)), rel=1e-5)
    assert float(ScoredMatch().loss(torch.tensor(cosines), torch.ones(3))) == 0


@pytest.mark.parametrize("held", [0, 2**40])
@pytest.mark.parametrize(
    ("arrow", "rows"),
    [
        (WITH_NEGATIVES, make_pairs(negatives=2)),
        ("query:text <-> passage:text, score:number", make_pairs(scored=True)),
    ],
)
def test_a_step_in_several_batches_is_that_of_one(
    arrow: str, rows: list[dict[str, Any]], held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The activations of all batches are kept (held), or computed again."""
    monkeypatch.setattr(gradient_cache, "HELD_BYTES", held)
    plan = Plan(steps=3, batch=16, rate=1e-3, optimizer="adamw", seed=0, save_every=100)
    results = []
    for tokens, shortest in ((8192, 512), (64, 32)):
        monkeypatch.setattr(loader, "BATCH_TOKENS", tokens)
        monkeypatch.setattr(loader, "SHORTEST_TRAINING_ROW", shortest)
        run = prepared(rows, arrow)
        objective = Matching(run.mapping, run.examples, (64, 32))
        training = Training(run.mapping, run.examples, plan, RunContext(CPU), objective)
        batches = len(training.loader.pack_batches(0))
        losses = [training.step(number)[0] for number in range(3)]
        results.append((batches, losses, torch.cat([p.detach().flatten() for p in run.mapping.parameters()])))
    (one, losses, weights), (several, same_losses, same_weights) = results
    assert one == 1 and several > 4
    assert same_losses == pytest.approx(losses, rel=1e-4)
    torch.testing.assert_close(same_weights, weights, atol=1e-5, rtol=1e-4)


def test_the_values_of_a_pair_do_not_see_each_other() -> None:
    run = prepared(make_pairs(6))
    batch = collate([run.examples.example(row, 0, 0.0, view) for view in (0, 1) for row in range(6)])
    assert batch.rows.tolist() == list(range(12))
    vectors = run.mapping.sentence_vectors(run.mapping.hidden(batch), batch).detach()
    model = mapsto.Model(run.mapping, "cpu", "fp32")
    texts = [row[side] for side in ("query", "passage") for row in make_pairs(6)]
    np.testing.assert_allclose(model.embed(texts), vectors.numpy(), atol=1e-5)


def test_rows_of_a_step_are_different() -> None:
    run = prepared(make_pairs(10))
    rows = [Matching(run.mapping, run.examples).rows(0, step, 8, 10) for step in range(5)]
    assert all(len(set(part.tolist())) == len(part) for part in rows) and len(rows[1]) < 8


def test_training_pulls_pairs_together() -> None:
    """Words in reverse order are told apart from others by a model of few steps, against one without a step."""
    rows = [{"query": f"{a} {b}", "passage": f"x{a} y{b}"} for a in range(8) for b in range(8)]
    scores = [
        fit_pairs(rows=rows, steps=steps, batch=32, rate=3e-3).evaluate(rows).scores["query→passage mrr"].value
        for steps in (1, 60)
    ]
    assert scores[1] > scores[0] + 0.2, scores


def test_equal_scores_and_foreign_options_are_refused() -> None:
    rows = [{**row, "score": 1} for row in make_pairs(6)]
    with pytest.raises(DataError, match="every pair has the same score"):
        fit_pairs("query:text <-> passage:text, score:number", rows)
    with pytest.raises(UsageError, match="sizes= would change nothing"):
        mapsto.fit("text -> label", [{"text": "a", "label": "b"}], sizes="8")
    with pytest.raises(UsageError, match="sizes= are whole numbers"):
        Options(sizes="8,x")
    with pytest.raises(UsageError, match='long="window" would give a value several vectors'):
        fit_pairs(long="window")
    with pytest.raises(UsageError, match="batch=1 has nothing to compare"):
        fit_pairs(batch=1)
    with pytest.raises(DataError, match="a single pair has no other one"):
        fit_pairs(rows=make_pairs(1))
    assert Options(sizes="16, 64").vector_sizes == (64, 16)


def test_bad_cells_are_named_with_file_row_and_column(tmp_path: Any) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("query,passage,score\na,b,1\nc,,0.5\nd,e,high\n", encoding="utf-8")
    with pytest.raises(DataError) as error:
        fit_pairs("query:text <-> passage:text, score:number", read_table(path))
    assert "pairs.csv, row 3, column 'passage': the text is blank" in str(error.value)
    assert "pairs.csv, row 4, column 'score': 'high': the score of a pair is a finite number" in str(error.value)
