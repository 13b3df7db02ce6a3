"""A search scores on held-out training rows alone, and has the same result however often it is killed."""

from __future__ import annotations

import json
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from runs import KILL, result, run, sentences, start, write_labelled

import mapsto
from mapsto.data.rows import load_rows
from mapsto.data.table import read_table
from mapsto.errors import CheckpointError, DataError, RunError, UsageError
from mapsto.fitting import fit, run_folder
from mapsto.fitting.fit import fit_request
from mapsto.fitting.prepare import prepare
from mapsto.fitting.request import FitRequest
from mapsto.fitting.run_data import RunData
from mapsto.metrics.intervals import Score
from mapsto.model.mapping import Mapping
from mapsto.options import Options
from mapsto.progress import Progress
from mapsto.selection import folds, search
from mapsto.selection.search import Trial, suggest_hyperparameters
from mapsto.task.arrow import parse

pytest.importorskip("optuna", reason="the extra [search] is not here")

SIZE: dict[str, Any] = {"layers": 1, "width": 64, "vocabulary": 300, "device": "cpu"}
SPACE: search.SearchSpace = {
    "rate": (1e-5, 4e-4),
    "epochs": (1.5, 6.0),
    "batch": [16, 32],
    "method": ["probe+full", "full"],
}


def table(count: int = 60, seed: int = 0) -> list[dict[str, str]]:
    texts = sentences(count, seed)
    return [{"text": text, "label": "cold" if "winter" in text else "warm"} for text in texts]


def command(folder: Path, out: str, *more: str) -> list[str]:
    data = folder / "train.csv"
    if not data.exists():
        write_labelled(data, 80)
    return ["fit", "text -> label", str(data), "--out", str(folder / out), "--search", "4", *more] + [
        "--steps", "6", "--batch", "8", "--save-every", "2", "--layers", "1", "--width", "64",
        "--vocabulary", "300", "--device", "cpu", "--quiet",
    ]  # fmt: skip


def finished(folder: Path) -> list[dict[str, Any]]:
    path = folder / "search.json"
    return json.loads(path.read_text())["trials"] if path.exists() else []


def timeless(trials: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in trial.items() if name != "seconds"} for trial in trials]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("search")
    assert run(*command(base, "unbroken")).returncode == 0
    return base / "unbroken"


@pytest.mark.parametrize("number", [KILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_killed_search_ends_as_an_unbroken_one(number: int, tmp_path: Path, unbroken: Path) -> None:
    rng, kept = random.Random(int(number)), []
    for wanted in (1, 2):
        process = start(*command(tmp_path, "killed"))
        while len(finished(tmp_path / "killed")) < wanted:
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.005)
        time.sleep(rng.random() / 4)
        process.send_signal(number)
        said = process.communicate(timeout=60)[1]
        assert process.returncode in (-number, 128 + number), said
        assert finished(tmp_path / "killed")[: len(kept)] == kept, "no finished trial runs again"
        kept = finished(tmp_path / "killed")
        assert len(kept) < 4, "it was killed within the search"
    assert run(*command(tmp_path, "killed")).returncode == 0
    assert finished(tmp_path / "killed")[: len(kept)] == kept
    assert timeless(finished(tmp_path / "killed")) == timeless(finished(unbroken))
    assert result(tmp_path / "killed") == result(unbroken), "the final fit has the same bits"


def test_a_kill_in_the_final_fit_costs_no_trial(tmp_path: Path, unbroken: Path) -> None:
    process = start(*command(tmp_path, "killed"))
    while not (tmp_path / "killed" / "run.json").exists():
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(KILL)
    process.communicate(timeout=60)
    kept = finished(tmp_path / "killed")
    plain = [word for word in command(tmp_path, "killed") if word not in ("--search", "4")]
    refused = run(*plain)
    assert refused.returncode == 2 and "holds a search" in refused.stderr
    assert run(*command(tmp_path, "killed")).returncode == 0
    assert finished(tmp_path / "killed") == kept
    assert result(tmp_path / "killed") == result(unbroken)


def test_another_search_is_refused(tmp_path: Path) -> None:
    given: dict[str, Any] = {"search": 1, "steps": 2, **SIZE}
    mapsto.fit("text -> label", table(), tmp_path, **given)
    for name in ("mapsto.json", "run.json"):
        (tmp_path / name).unlink()  # as a kill between the search and the fit leaves it
    for change, says in (({"search": 2}, "search="), ({"rate": 0.01}, "rate="), ({"seed": 1}, "seed, seed=")):
        with pytest.raises(UsageError, match=f"unfinished search with other {says}"):
            mapsto.fit("text -> label", table(), tmp_path, **{**given, **change})
    with pytest.raises(UsageError, match="unfinished search with other data"):
        mapsto.fit("text -> label", table(61), tmp_path, **given)
    mapsto.fit("text -> label", table(), tmp_path, **given)


class Spy:
    """A record of the requests to fit_request and the texts of each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.requests: list[FitRequest] = []
        self.texts: list[set[str]] = []

        def spy(request: FitRequest, data: RunData | None = None) -> Mapping:
            self.requests.append(request)
            self.texts.append(set(request.data.column("text")))
            return fit_request(request, data)

        monkeypatch.setattr(fit, "fit_request", spy)


def test_a_trial_never_reads_the_test_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spy, rows, test = Spy(monkeypatch), table(), table(30, seed=5)
    test = [{**row, "text": f"test {row['text']}"} for row in test]
    given: dict[str, Any] = {"search": 3, "steps": 4, **SIZE}
    mapsto.fit("text -> label", rows, tmp_path / "with", test=test, **given)
    *trials, final = zip(spy.requests, spy.texts, strict=True)
    assert len(trials) == 3 * 5 and final[0].folder is not None and final[0].test is not None
    everything = {row["text"] for row in rows}
    for request, texts in trials:
        assert request.test is None and request.folder is None
        assert texts < everything and not texts & {row["text"] for row in test}
        assert len(texts) >= len(everything) / 2, "no more rows to score on than to learn from"
    assert final[1] == everything
    mapsto.fit("text -> label", rows, tmp_path / "without", **given)
    assert timeless(finished(tmp_path / "with")) == timeless(finished(tmp_path / "without"))


def test_every_row_is_scored_on_once_by_a_mapping_that_has_not_seen_it(monkeypatch: pytest.MonkeyPatch) -> None:
    spy, rows, scored = Spy(monkeypatch), table(), []
    score_rows = folds.score_rows

    def spy_on_scores(mapping: Any, held_out: Any, weight: str | None) -> Any:
        assert not spy.texts[-1] & set(held_out.column("text"))
        scored.extend(held_out.column("text"))
        results = score_rows(mapping, held_out, weight)
        assert len(results) == len(held_out)
        return results

    monkeypatch.setattr(folds, "score_rows", spy_on_scores)
    mapsto.fit("text -> label", rows, search=1, steps=2, **SIZE)
    assert sorted(scored) == sorted(row["text"] for row in rows)


@pytest.mark.parametrize(("count", "times", "held"), [(40, 5, 8), (1000, 5, 200), (2500, 2, 500), (20000, 1, 1000)])
def test_how_many_rows_are_held_out(count: int, times: int, held: int) -> None:
    rows = [{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(count)]
    mapping = prepare(FitRequest(parse("text -> label"), read_table(rows), options=Options(**SIZE))).mapping
    parts = folds.search_folds(load_rows(mapping.arrow, read_table(rows)), 0)
    assert [len(aside) for _, aside in parts] == [held] * times
    assert all(len(kept) + len(aside) == count for kept, aside in parts)
    assert all(abs(aside.column("label").count("a") - held / 2) <= 1 for _, aside in parts)


def test_a_class_of_one_row_is_never_held_out() -> None:
    rows = [*table(40), {"text": "the only one", "label": "rare"}]
    assert mapsto.fit("text -> label", rows, search=1, steps=2, **SIZE)("the only one")["scores"].keys() == {
        "cold", "warm", "rare",
    }  # fmt: skip


def tried(number: int, knobs: dict[str, Any], error: float | None) -> Trial:
    score = None if error is None else Score(error, error, error, 100)
    return Trial(number, knobs, score, 0.5, 1.0, None if score else "diverged")


def test_knobs_stay_within_their_bounds_and_turn_to_what_is_good() -> None:
    done: list[Trial] = [tried(1, {"method": "probe"}, 0.9)]
    for number in range(2, 60):
        knobs = suggest_hyperparameters(SPACE, done, seed=3)
        assert knobs.keys() == SPACE.keys()
        for name, values in SPACE.items():
            assert knobs[name] in values if isinstance(values, list) else values[0] <= knobs[name] <= values[1]
        assert suggest_hyperparameters(SPACE, done, seed=3) == knobs, "a function of the seed and of what was tried"
        error = None if knobs["rate"] > 2e-4 else abs(knobs["rate"] - 5e-5) * 1e4
        done.append(tried(number, knobs, error))
    late = [trial.knobs["rate"] for trial in done[-20:]]
    assert sum(2e-5 < rate < 1.2e-4 for rate in late) >= 15, late
    assert suggest_hyperparameters(SPACE, done, seed=4) != suggest_hyperparameters(SPACE, done, seed=5)


def test_methods_are_tried_where_they_are_possible(tmp_path: Path) -> None:
    base = mapsto.pretrain("text", sentences_as_rows(), tmp_path / "base", steps=2, **SIZE)

    def planned(rows: list[dict[str, str]], **given: Any) -> search.Search:
        options = Options(device="cpu", **given)
        request = FitRequest(parse("text -> label"), read_table(rows), start=base.mapping, options=options)
        return search.plan_search(request, prepare(request), 5, None)

    plain = planned(table(60))
    assert plain.space["method"] == ["probe+full", "full", "contrast"]
    assert plain.first_trials[0]["method"] == "probe+full" and plain.first_trials[1:] == [{"method": "probe"}]
    few = planned(table(20))
    assert few.first_trials[0]["method"] == "contrast", "what a fit without a search does with few labels"
    for found in (plain, few):
        for name, values in found.space.items():
            value = found.first_trials[0][name]
            assert value in values if isinstance(values, list) else values[0] <= value <= values[1]
    one_alone = [{"text": text, "label": "rare" if i == 0 else "usual"} for i, text in enumerate(sentences(60))]
    assert planned(one_alone).space["method"] == ["probe+full", "full"]
    assert planned(table(60), smooth=0.1).space["method"] == ["probe+full", "full"], "contrast has no labels to smooth"
    assert [trial["method"] for trial in planned(table(60), epochs=1).first_trials] == ["probe+full"], (
        "a probe has no epochs"
    )
    with pytest.raises(DataError, match="search="):
        planned([{"text": text, "label": "ab"[i % 2]} for i, text in enumerate(sentences(4))])


def test_a_search_of_the_numbers_of_contrast(tmp_path: Path) -> None:
    base = mapsto.pretrain("text", sentences_as_rows(), tmp_path / "base", steps=2, **SIZE)
    given: dict[str, Any] = {"start": base, "method": "contrast", "steps": 3, "device": "cpu"}
    mapsto.fit("text -> label", table(20), tmp_path / "run", search=3, lora=2, **given)
    made = json.loads((tmp_path / "run" / "mapsto.json").read_text())["provenance"]
    assert made["method"] == "contrast" and made["steps"] == 3
    assert all(set(trial["knobs"]) == {"rate", "batch"} and trial["error"] for trial in finished(tmp_path / "run"))


def test_a_search_is_for_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="one process"):
        mapsto.fit("text -> label", table(), search=2, shard=True, **SIZE)
    for name, value in {
        "RANK": "1",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "1",
        "MASTER_ADDR": "",
        "MASTER_PORT": "",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="one process"):
        mapsto.fit("text -> label", table(), search=2, **SIZE)


def test_folders_of_other_runs(tmp_path: Path) -> None:
    given: dict[str, Any] = {"search": 1, "steps": 2, **SIZE}
    plain = tmp_path / "plain"
    plain.mkdir()
    run_folder.record_run(plain, {}, {})
    with pytest.raises(UsageError, match="an unfinished run without a search"):
        mapsto.fit("text -> label", table(), plain, **given)
    (plain / "mine.txt").write_text("kept")
    mapsto.fit("text -> label", table(), plain, overwrite=True, **given)
    assert (plain / "mine.txt").read_text() == "kept" and len(finished(plain)) == 1
    with pytest.raises(UsageError, match="a finished run"):
        mapsto.fit("text -> label", table(), plain, **given)
    with pytest.raises(UsageError, match="choose another out="):
        mapsto.fit("text -> label", table(), plain, overwrite=True, start=plain, search=1, device="cpu")
    mapsto.fit("text -> label", table(), plain, overwrite=True, steps=2, **SIZE)
    assert not finished(plain), "a run without a search leaves none there"


def test_a_damaged_record_is_refused(tmp_path: Path) -> None:
    given: dict[str, Any] = {"search": 1, "steps": 2, **SIZE}
    mapsto.fit("text -> label", table(), tmp_path, **given)
    for name in ("mapsto.json", "run.json"):
        (tmp_path / name).unlink()
    record = tmp_path / "search.json"
    record.write_text(record.read_text().replace('"number": 1', '"number": 2'))
    with pytest.raises(CheckpointError, match="damaged"):
        mapsto.fit("text -> label", table(), tmp_path, **given)


def test_what_was_set_is_not_searched_for(tmp_path: Path) -> None:
    mapsto.fit("text -> label", table(), tmp_path / "run", search=6, rate=0.002, epochs=1, **SIZE)
    trials = finished(tmp_path / "run")
    assert [set(trial["knobs"]) for trial in trials] == [{"batch"}] * 6
    assert {trial["knobs"]["batch"] for trial in trials} <= {16, 32, 60}
    repeated = [trial for trial in trials if trial["seconds"] == 0]
    assert len(repeated) == 6 - len({trial["knobs"]["batch"] for trial in trials}), "nothing is run twice"


def test_the_first_trial_is_a_fit_without_a_search_and_the_record_says_all(tmp_path: Path) -> None:
    heard: list[str] = []

    class Heard(Progress):
        def say(self, text: str) -> None:
            heard.append(text)

    base = mapsto.pretrain("text", sentences_as_rows(), tmp_path / "base", steps=3, **SIZE)
    given = {"start": base, "device": "cpu"}
    mapsto.fit("text -> label", table(), tmp_path / "run", search=4, progress=Heard(), **given)
    made = json.loads((tmp_path / "run" / "mapsto.json").read_text())["provenance"]
    trials, chosen = made["search"]["trials"], made["search"]["chosen"]
    assert trials == finished(tmp_path / "run")
    usual, probe = trials[:2] if trials[0]["knobs"]["method"] != "probe" else trials[1::-1]
    assert probe["knobs"] == {"method": "probe"} and usual["knobs"].keys() == {"method", "rate", "epochs", "batch"}
    errors = [trial["error"]["value"] for trial in trials]
    assert errors[chosen - 1] == min(errors)
    for name, value in trials[chosen - 1]["knobs"].items():
        assert made["options"][name] == value
    said = "\n".join(heard)
    assert "4 trials, each scored on 60 of the training rows" in said and f"chosen: trial {chosen} of 4" in said
    assert "without a search" in said
    card = (tmp_path / "run" / "README.md").read_text()
    assert "Search: 4 trials" in card and "n = 60" in card


def sentences_as_rows() -> list[dict[str, str]]:
    return [{"text": text} for text in sentences(80)]


def test_minutes_end_a_search(tmp_path: Path) -> None:
    mapsto.fit("text -> label", table(), tmp_path / "run", search=50, search_minutes=0.001, steps=2, **SIZE)
    assert len(finished(tmp_path / "run")) == 1, "one trial always runs"


def test_a_trial_that_diverges_ends_no_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[FitRequest] = []

    def diverge_once(request: FitRequest, data: RunData | None = None) -> Mapping:
        requests.append(request)
        if len(requests) == 1:
            raise RunError("loss is not finite")
        return fit_request(request, data)

    monkeypatch.setattr(fit, "fit_request", diverge_once)
    mapsto.fit("text -> label", table(), tmp_path / "run", search=2, steps=2, **SIZE)
    first, second = finished(tmp_path / "run")
    assert first["error"] is None and first["failed"] == "loss is not finite"
    made = json.loads((tmp_path / "run" / "mapsto.json").read_text())
    assert made["provenance"]["search"]["chosen"] == 2 and second["failed"] is None


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"search": 0}, "above 0"),
        ({"search_minutes": 1}, "needs search="),
        ({"search": 2, "minutes": 1}, "minutes="),
        ({"search": 2, "rate": 0.1, "epochs": 1, "batch": 8}, "nothing to try"),
    ],
)
def test_searches_that_cannot_be(given: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        mapsto.fit("text -> label", table(), **given, **SIZE)


def test_pretraining_is_not_searched() -> None:
    with pytest.raises(UsageError, match="is pretraining"):
        mapsto.fit("~text -> text", table(), search=2, **SIZE)
    with pytest.raises(UsageError, match="no option 'search'"):
        mapsto.pretrain("text", table(), search=2, **SIZE)


def test_a_missing_extra_is_said_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UsageError, match=r"pip install .*\[search\]"):
        mapsto.fit("text -> label", "no such file.csv", search=2)
