"""Texts that belong to another recording are named by the losses of a model that listens."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("soundfile", reason="the extra [sound] is not here")
pytest.importorskip("transformers", reason="transformers is the oracle")

from transcribers import MULTILINGUAL, make_transcriber, write_speech
from typer.testing import CliRunner

import mapsto
from mapsto import cli
from mapsto.data.rows import Rows, bind_to, load_rows
from mapsto.data.table import read_table
from mapsto.errors import UsageError
from mapsto.evaluation import transcripts
from mapsto.evaluation.transcripts import find_misplaced
from mapsto.task.arrow import parse

CPU = torch.device("cpu")


def rows_of(texts: list[str]) -> Rows:
    rng = np.random.default_rng(0)
    table = read_table([{"sound": (0.1 * rng.standard_normal(4000), 16_000), "text": text} for text in texts])
    return load_rows(bind_to(parse("sound -> text"), table), table)


def test_texts_that_are_no_likelier_with_their_own_recordings_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_transcriber(tmp_path, MULTILINGUAL)
    mapping = mapsto.load(tmp_path, "cpu", "fp32").mapping
    texts = [f"sentence {'abcdefghij'[row % 10]} {row // 10}" for row in range(40)]
    # Each recording says its own text, but for two that are swapped; one is too short for any other text.
    said = [*texts]
    said[5], said[17] = said[17], said[5]

    def loss(listener: object, sound: int, text: int) -> float:
        return math.inf if sound == 9 and text != 9 else 0.2 if said[sound] == texts[text] else 1.0

    monkeypatch.setattr(transcripts._Listener, "loss", loss)
    counts: list[int] = []
    listening = find_misplaced(mapping, rows_of(texts), CPU, counts.append)
    assert [finding.row for finding in listening.findings] == [6, 18] and counts == list(range(1, 41))
    assert listening.describe() == "listened to 40 recordings; 2 texts may belong to another one"
    # Where a sentence is said in several recordings, these are not compared with each other.
    repeated = [texts[row % 4] for row in range(40)]
    monkeypatch.setattr(transcripts._Listener, "loss", lambda self, s, t: 0.2 if repeated[s] == repeated[t] else 1.0)
    assert not find_misplaced(mapping, rows_of(repeated), CPU).findings


def test_the_losses_are_those_of_the_model_and_a_model_that_hears_nothing_judges_nothing(tmp_path: Path) -> None:
    write_speech(tmp_path)
    opened = mapsto.load(tmp_path / "whisper-tiny", "cpu", "fp32")
    table = read_table(tmp_path / "recordings.csv")
    rows = load_rows(bind_to(parse("sound -> text"), table), table)
    target = opened.mapping.targets[0]
    listener = transcripts._Listener(opened.mapping, rows, CPU)
    assert 0 < listener.loss(0, 0) != listener.loss(1, 0) and not listener.is_long(0)
    assert target.longest > 0
    path, model = str(tmp_path / "recordings.csv"), str(tmp_path / "whisper-tiny")
    result = CliRunner().invoke(cli.app.app, ["check", "sound -> text", path, "--start", model, "--listen"])
    assert "the start hears too little of these recordings to judge their texts" in result.stdout
    result = CliRunner().invoke(cli.app.app, ["check", "sound -> text", path, "--listen"])
    assert isinstance(result.exception, UsageError) and "--listen needs a model" in result.exception.args[0]
