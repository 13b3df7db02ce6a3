"""Voices are matched: fitted, scored, evaluated with error rates over speakers, embedded, and found among enrolled ones."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recordings import write_voices
from trainings import TINY_OPTIONS
from typer.testing import CliRunner

import mapsto
from mapsto.cli import app
from mapsto.data.rows import load_rows
from mapsto.data.table import read_table
from mapsto.errors import UsageError
from mapsto.evaluation.verification import verify_pairs, verify_values
from mapsto.inference.find import find_owners
from mapsto.metrics.verification import verification_scores
from mapsto.task.arrow import parse

OPTIONS: dict[str, Any] = {
    **{name: value for name, value in TINY_OPTIONS.items() if name != "vocabulary"},
    "steps": 25,
    "batch": 16,
    "hold_out": 0.0,
}
ARROW = "sound <-> sound, speaker:label"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("voices")


@pytest.fixture(scope="module")
def voices(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of twelve voices with five recordings each."""
    rows = write_voices(folder, range(12), 5, seconds=0.2)
    return [{"sound": row["sound"], "speaker": row["speaker"]} for row in rows]


@pytest.fixture(scope="module")
def model(voices: list[dict[str, Any]], folder: Path) -> mapsto.Model:
    """Return a small model fitted to eight of the voices."""
    return mapsto.fit(ARROW, voices[:40], out=folder / "run", **OPTIONS)


def make_trials(voices: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return pairs of recordings with a score: 1 for one speaker, 0 for two."""
    return [
        {"a": voices[n]["sound"], "b": voices[m]["sound"], "score": int(voices[n]["speaker"] == voices[m]["speaker"])}
        for n in range(len(voices))
        for m in (n - n % 5 + (n + 1) % 5, (n + 5) % len(voices))
    ]


def test_new_voices_are_told_apart(model: mapsto.Model, voices: list[dict[str, Any]]) -> None:
    evaluation = model.evaluate(voices[40:])
    assert set(evaluation.scores) == {
        *(f"sound→sound {name}" for name in ("recall@1", "recall@10", "mrr", "ndcg@10")), "eer", "min_dcf@0.01", "min_dcf@0.05",
    }  # fmt: skip
    eer = evaluation.scores["eer"]
    # 20 recordings are 190 pairs, of which 40 are of one speaker.
    assert eer.n == 190 and 0 <= eer.low <= eer.value <= eer.high and eer.value < 0.35
    assert evaluation.baseline_name == "cosines of features" and evaluation.baseline["eer"].n == 190
    assert any("their intervals resample the 4 different speakers" in note for note in evaluation.notes)


def test_values_are_scored_by_their_definition(voices: list[dict[str, Any]]) -> None:
    rows = load_rows(parse(ARROW), read_table(voices[:20]))
    names = [str(value.digest) for value in rows.sources[0]]
    rng = np.random.Generator(np.random.Philox(0))
    matrix = rng.random((20, 20))
    matrix += matrix.T
    numbers = {value.digest: n for n, value in enumerate(rows.sources[0])}

    def score(first: Any, second: Any) -> Any:
        left, right = (
            [numbers[rows.sources[s][row].digest] for row in side.tolist()] for s, side in enumerate((first, second))
        )
        return matrix[np.ix_(left, right)]

    found = verify_values(rows, score)
    left, right = np.triu_indices(20, 1)
    speakers = np.array([hash(label) for label in rows.targets[0]])
    expected = verification_scores(
        matrix[left, right], speakers[left] == speakers[right], speakers[left], speakers[right]
    )
    assert len(set(names)) == 20 and {name: s.value for name, s in found.items()} == pytest.approx(
        {name: s.value for name, s in expected.items()}
    )


def test_pairs_with_scores_find_their_speakers(voices: list[dict[str, Any]]) -> None:
    trials = make_trials(voices[:20])
    rows = load_rows(parse("a:sound <-> b:sound, score:number"), read_table(trials))
    scores = np.linspace(0, 1, len(rows))
    found = verify_pairs(rows, scores)
    is_one = np.array([trial["score"] == 1 for trial in trials])
    speaker = {row["sound"]: n // 5 for n, row in enumerate(voices)}
    sides = (np.array([speaker[trial[side]] for trial in trials]) for side in ("a", "b"))
    # Chains of pairs of one speaker join each voice's recordings, so the groups are the speakers.
    expected = verification_scores(scores, is_one, *sides)
    assert found["eer"].value == expected["eer"].value and found["eer"].n == 40
    graded = [{**trial, "score": n / 40} for n, trial in enumerate(trials)]
    assert not verify_pairs(load_rows(parse("a:sound <-> b:sound, score:number"), read_table(graded)), scores)


def test_pairs_are_fitted_and_scored(voices: list[dict[str, Any]], tmp_path: Path) -> None:
    scored = mapsto.fit("a:sound <-> b:sound, score:number", make_trials(voices[:20]), **{**OPTIONS, "steps": 3})
    answers = scored.predict(
        [{"a": voices[0]["sound"], "b": voices[1]["sound"]}, {"a": voices[0]["sound"], "b": voices[0]["sound"]}]
    )
    assert -1 <= answers[0]["score"] <= 1 and answers[1]["score"] == pytest.approx(1, abs=1e-5)
    assert {"eer", "spearman"} <= set(scored.evaluate(make_trials(voices[20:40])).scores)
    pairs = [{"a": voices[n]["sound"], "b": voices[n + 1]["sound"]} for n in range(0, 40, 5)]
    matched = mapsto.fit("a:sound <-> b:sound", pairs, **{**OPTIONS, "steps": 3})
    scores = matched.evaluate(pairs).scores
    assert {"a→b recall@1", "b→a mrr", "eer"} <= set(scores)
    # Eight recordings by eight others.
    assert scores["eer"].n == 64
    assert matched.embed([voices[0]["sound"]]).shape == (1, 64)


def test_kinds_are_matched_with_themselves(voices: list[dict[str, Any]]) -> None:
    rows = [{"sound": row["sound"], "text": f"句 {n}"} for n, row in enumerate(voices[:10])]
    with pytest.raises(UsageError):
        mapsto.fit("sound <-> text", rows, **OPTIONS)


def test_enrolled_speakers_are_found(model: mapsto.Model, voices: list[dict[str, Any]], folder: Path) -> None:
    enrolled = [row for n, row in enumerate(voices[40:]) if n % 5 < 3]
    path = folder / "enrolled.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["sound", "speaker"])
        writer.writeheader()
        writer.writerows({**row, "sound": Path(row["sound"]).name} for row in enrolled)
    command = [
        "find",
        str(folder / "run"),
        voices[43]["sound"],
        voices[58]["sound"],
        "--among",
        str(path),
        "--top",
        "2",
    ]
    done = CliRunner().invoke(app.app, [*command, "--json"])
    assert done.exit_code == 0, done.output
    records = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(records) == 4 and all(record["count"] == 3 for record in records)
    # The answer is the cosine with the mean of the speaker's vectors.
    vectors = model.embed([row["sound"] for row in enrolled]).astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    query = model.embed([voices[43]["sound"]])[0].astype(np.float64)
    means = vectors.reshape(4, 3, -1).mean(1)
    cosines = means @ query / np.linalg.norm(means, axis=1) / np.linalg.norm(query)
    names = [enrolled[3 * n]["speaker"] for n in range(4)]
    best = [names[n] for n in np.argsort(-cosines)[:2]]
    assert [record["speaker"] for record in records[:2]] == best
    assert records[0]["score"] == pytest.approx(cosines.max(), abs=5e-3)  # bf16, where it is accelerated
    single = CliRunner().invoke(app.app, [*command, "--json", "--group", "none"])
    assert all("count" not in json.loads(line) for line in single.stdout.splitlines() if line.startswith("{"))
    page = folder / "found.html"
    assert CliRunner().invoke(app.app, [*command, "--out", str(page)]).exit_code == 0
    assert "声" in page.read_text(encoding="utf-8")


def test_texts_are_grouped_by_name_alone() -> None:
    rows = load_rows(
        parse("text -> label"),
        read_table([{"text": f"t {n}", "label": "ab"[n % 2], "speaker": n // 2} for n in range(6)]),
    )
    assert find_owners(rows, parse("text:text <-> text:text, label:label")) is None
    groups = find_owners(rows, parse("text:text <-> text:text, label:label"), "speaker")
    assert groups is not None and groups.count == 3
