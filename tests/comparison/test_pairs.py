"""Starting models are compared by the rank of the right text, beside BM25."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matching import fit_pairs, make_pairs

import mapsto
from mapsto.data.rows import load_rows
from mapsto.data.table import read_table
from mapsto.errors import UsageError
from mapsto.evaluation.matching import rank_without_model
from mapsto.task.arrow import parse

ARROW = "query:text <-> passage:text"


def test_starts_are_compared_by_mrr_with_bm25_as_the_baseline(tmp_path: Path) -> None:
    fit_pairs().save(tmp_path / "base")
    test = [{**row, "query": " ".join(row["query"].split()[:2])} for row in make_pairs(60)[40:]]
    comparison = mapsto.compare(
        ARROW, make_pairs(), tmp_path / "out", test=test, starts=["scratch", str(tmp_path / "base")], labels=[8, 16], seeds=2,
        jobs=1, epochs=1, device="cpu", precision="fp32", allow_overlap=True,
    )  # fmt: skip
    scores = {name: points[-1].score.value for name, points in comparison.curves.items()}
    ranks = rank_without_model(load_rows(parse(ARROW), read_table(test)))[1]
    assert scores["BM25"] == pytest.approx(np.mean([1 / numbers[0] for numbers in ranks]), rel=1e-5)
    assert len(scores) == 3 and (tmp_path / "out" / "report.html").exists()


def test_pairs_with_scores_are_not_compared() -> None:
    with pytest.raises(UsageError, match="compare needs answers with a score"):
        mapsto.compare(f"{ARROW}, score:number", make_pairs(scored=True), labels=[8])
