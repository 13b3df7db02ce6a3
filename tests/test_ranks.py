"""Two processes, or four, do what one does."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import TEXTS, small_mapping
from runs import KILL, TINY, ended, kill_when, result, run, run_many, start_many, steps_done, write_corpus, write_labelled

from mapsto.corrupt import Corruption
from mapsto.data import rows_of_step
from mapsto.examples import Examples
from mapsto.loop import Loader, Plan
from mapsto.ranks import Ranks, place

FIRST_LOSS, LATER_LOSS = 1e-6, 1e-4


def pretraining(folder: Path, out: str, *more: str) -> list[str]:
    corpus = folder / "corpus.txt"
    if not corpus.exists():
        write_corpus(corpus)
    return ["pretrain", "text", str(corpus), "--out", str(folder / out), "--steps", "30", "--batch", "12"] + [
        "--save-every", "4", "--hold-out", "0.1", "--precision", "fp32", *TINY, *more,
    ]  # fmt: skip


def losses(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def require_equal(one: Path, other: Path) -> None:
    """The same rows, the same first loss; later ones drift by rounding alone."""
    ours, theirs = losses(one), losses(other)
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    assert [line["tokens"] for line in ours] == [line["tokens"] for line in theirs], "not the same rows"
    assert ours[0]["loss"] == pytest.approx(theirs[0]["loss"], abs=FIRST_LOSS)
    np.testing.assert_allclose([line["loss"] for line in ours], [line["loss"] for line in theirs], rtol=LATER_LOSS)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_two_and_four_processes_and_shards_are_one(optimizer: str, tmp_path: Path) -> None:
    command = pretraining(tmp_path, "one", "--optimizer", optimizer)
    assert run(*command).returncode == 0
    ways = {"two": (2, []), "four": (4, [])} if optimizer == "muon" else {"two": (2, []), "sharded": (2, ["--shard"])}
    for name, (processes, more) in ways.items():
        done = run_many(processes, *pretraining(tmp_path, name, "--optimizer", optimizer, *more))
        assert done.returncode == 0, done.stderr
        require_equal(tmp_path / name, tmp_path / "one")
        made = json.loads((tmp_path / name / "mapsto.json").read_text())
        alone = json.loads((tmp_path / "one" / "mapsto.json").read_text())
        assert made["scores"].keys() == alone["scores"].keys()
        assert made["provenance"]["tokens"] == alone["provenance"]["tokens"]
