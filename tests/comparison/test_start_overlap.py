"""A start that was fitted to rows of a comparison is refused, or compared under a marked name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from runs import run, sentences, write_labelled

import mapsto
from mapsto.comparison.start_overlap import OVERLAP_MARK

SMALL: dict[str, Any] = {"layers": 1, "width": 64, "vocabulary": 300, "device": "cpu"}
ARGUMENTS: dict[str, Any] = {
    "labels": [8, "all"],
    "seeds": 2,
    "methods": ["full", "probe"],
    "epochs": 1,
    "device": "cpu",
}


def table(count: int, seed: int = 0) -> list[dict[str, str]]:
    return [{"text": text, "label": "cold" if "winter" in text else "warm"} for text in sentences(count, seed)]


@pytest.fixture(scope="module")
def starts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained base, and three starts fitted from it: on rows of their own, on the test rows, and on half the pool."""
    folder = tmp_path_factory.mktemp("starts")
    mapsto.pretrain("text", table(80), folder / "base", steps=2, **SMALL)
    for name, rows in {"other": table(60, 9), "on_test": table(30, 5), "on_pool": table(60)[:30]}.items():
        mapsto.fit("text -> label", rows, folder / name, start=folder / "base", steps=2, device="cpu")
    # The test rows are two generations back.
    mapsto.fit("text -> label", table(60, 9), folder / "grandchild", start=folder / "on_test", steps=2, device="cpu")
    return folder


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ("on_test", "was fitted to 30 of 30 test rows (data (text:text -> label:label))"),
        ("grandchild", "was fitted to 30 of 30 test rows"),
        ("on_pool", "was fitted to 30 of 60 rows with labels"),
    ],
)
def test_a_start_with_rows_of_the_comparison_is_refused(start: str, message: str, starts: Path, tmp_path: Path) -> None:
    chosen = [str(starts / "base"), str(starts / start)]
    with pytest.raises(mapsto.MapstoError, match=re.escape(message)) as error:
        mapsto.compare("text -> label", table(60), tmp_path / "cmp", test=table(30, 5), starts=chosen, **ARGUMENTS)
    assert f"start {starts / start} was" in str(error.value) and "allow_overlap=True" in str(error.value)
    assert str(starts / "base") not in str(error.value)
    assert not list((tmp_path / "cmp").rglob("*.safetensors"))


def test_rows_of_shift_are_held_against_the_starts_too(starts: Path) -> None:
    with pytest.raises(mapsto.MapstoError, match="30 of 30 shift rows"):
        mapsto.compare(
            "text -> label",
            table(60),
            test=table(40, 7),
            shift=table(30, 5),
            starts=[str(starts / "on_test")],
            **ARGUMENTS,
        )


def test_clean_starts_are_compared_unmarked(starts: Path) -> None:
    """One pretrained on the very texts, one fitted to other rows."""
    chosen = [str(starts / "base"), str(starts / "other")]
    comparison = mapsto.compare("text -> label", table(60), test=table(30, 5), starts=chosen, jobs=1, **ARGUMENTS)
    assert not comparison.overlaps and OVERLAP_MARK not in "\n".join(comparison.lines())


def test_an_allowed_start_is_marked_in_every_figure(starts: Path, tmp_path: Path) -> None:
    pool, test = write_labelled(tmp_path / "pool.csv", 60), write_labelled(tmp_path / "test.csv", 30, seed=5)
    command = ["compare", "text -> label", str(pool), "--test", str(test), "--labels", "8,all", "--seeds", "2", "--methods",
               "full,probe", "--epochs", "1", "--device", "cpu", "--quiet", "--jobs", "1", "--starts",
               f"{starts / 'base'},{starts / 'on_test'}", "--out", str(tmp_path / "cmp")]  # fmt: skip
    refused = run(*command)
    assert refused.returncode == 2 and "30 of 30 test rows" in refused.stderr and "--allow-overlap" in refused.stderr
    done = run(*command, "--allow-overlap")
    assert done.returncode == 0, done.stderr
    assert "was fitted to 30 of 30 test rows" in done.stdout
    marked = {"on_test, full (overlap)", "on_test, probe (overlap)"}
    results = json.loads((tmp_path / "cmp" / "results.json").read_text(encoding="utf-8"))
    assert marked == {name for name in results["curves"] if "on_test" in name}
    assert {"base, full", "base, probe"} <= set(results["curves"])
    assert results["overlaps"][str(starts / "on_test")]["test_sets"]["test"]["rows"] == 30
    assert results["overlaps"][str(starts / "on_test")]["pool"]["rows"] == 0
    fits = pq.read_table(tmp_path / "cmp" / "fits.parquet").to_pylist()
    assert marked == {row["way"] for row in fits if "on_test" in row["way"]}
    # Wherever a model of this start is named, on the screen and on the page, the mark follows.
    page = (tmp_path / "cmp" / "report.html").read_text(encoding="utf-8")
    assert "--allow-overlap" in page and "was fitted to 30 of 30 test rows" in page
    for text in (done.stdout, page):
        names = re.findall(r"on_test, (?:full|probe).{10}", text)
        assert names and all(name.endswith(" (overlap)") for name in names)
