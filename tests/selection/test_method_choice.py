"""The method of a fit is chosen by measurement on halves of the training rows, and its confidence is set there too."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import sentences

import mapsto
from mapsto import kinds
from mapsto.errors import RunError, UsageError
from mapsto.fitting import fit
from mapsto.fitting.request import FitRequest, MethodChoice
from mapsto.options import Method, Options
from mapsto.progress import Progress
from mapsto.selection import candidate, method_choice
from mapsto.selection.candidate import Candidate, Half, _is_hopeless
from mapsto.selection.folds import Fold
from mapsto.selection.method_choice import choose
from mapsto.task.arrow import parse
from mapsto.training.loop import Interrupted

SIZE: dict[str, Any] = {"layers": 1, "width": 32, "vocabulary": 300, "device": "cpu"}


def make_rows(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Return rows with texts whose label depends on a word; a fifth of the labels are wrong."""
    texts = sentences(count, seed)
    return [
        {"text": text, "label": ["warm", "cold"][("winter" in text) != (row % 5 == 0)]}
        for row, text in enumerate(texts)
    ]


ROWS, TEST = make_rows(80), make_rows(60, seed=1)


class Said(Progress):
    """Keep what a run says."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def line(self, words: str) -> str:
        """Return the one line with these words in it."""
        (line,) = [line for line in self.lines if words in line]
        return line


@pytest.fixture(scope="module")
def base() -> mapsto.Model:
    """Return a starting model pretrained for a few steps."""
    return mapsto.pretrain("text", [{"text": text} for text in sentences(100)], steps=3, **SIZE)


def make_candidate(method: Method, errors: list[float], losses: list[float]) -> Candidate:
    return Candidate(method, np.array(errors), np.array(losses), {}, {}, [], 1.0)


def answers(share_right: float, count: int = 300) -> tuple[list[float], list[float]]:
    """Return errors and losses of answers of which this share is right."""
    errors = [float(row >= share_right * count) for row in range(count)]
    return errors, [0.2 + error for error in errors]


@pytest.mark.parametrize(
    ("right", "count", "has_start", "chosen"),
    [
        ({"linear": 0.9, "full": 0.8}, 300, False, "linear"),
        ({"linear": 0.8, "full": 0.9}, 300, False, "full"),
        # A draw goes to the simpler method, but without a word never to one that leaves the start aside.
        ({"linear": 0.8, "full": 0.8}, 300, False, "linear"),
        ({"linear": 0.8, "probe": 0.8, "full": 0.8}, 300, True, "probe"),
        ({"linear": 0.9, "probe": 0.8, "full": 0.8}, 300, True, "linear"),
        ({"linear": 1.0, "probe": 1.0, "full": 1.0}, 300, True, "probe"),
        ({"linear": 0.7, "probe": 0.8, "full": 0.9}, 300, True, "full"),
        # Where nothing else could be measured, even a start is left aside.
        ({"linear": 0.8}, 300, True, "linear"),
        # With few rows a draw goes to the method for as many labels.
        ({"linear": 0.8, "probe": 0.8, "contrast": 0.8}, 64, True, "contrast"),
        ({"linear": 0.5, "probe": 0.9, "contrast": 0.5}, 64, True, "probe"),
    ],
)
def test_the_best_is_chosen_and_the_simpler_one_of_equals(
    right: dict[Method, float], count: int, has_start: bool, chosen: str
) -> None:
    candidates = [make_candidate(method, *answers(share, count)) for method, share in right.items()]
    assert choose(candidates, list(right)[-1], has_start).method == chosen


def test_a_difference_within_chance_is_a_draw() -> None:
    errors, losses = answers(0.8)
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1, len(losses))
    slightly = make_candidate("full", errors, (np.array(losses) + noise - noise.mean() - 0.01).tolist())
    clearly = make_candidate("full", errors, (np.array(losses) + noise - noise.mean() - 0.2).tolist())
    simple = make_candidate("linear", errors, losses)
    assert choose([simple, slightly], "full", False) is simple
    assert choose([simple, clearly], "full", False) is clearly
    # Better by loss but worse by error is no better.
    worse = make_candidate("full", answers(0.75)[0], clearly.losses.tolist())
    assert choose([simple, worse], "full", False) is simple


def test_a_method_is_hopeless_if_its_error_is_far_higher_on_the_first_half(monkeypatch: pytest.MonkeyPatch) -> None:
    rival = make_candidate("linear", *answers(0.9))
    half = Half(None, None, {}, {})  # type: ignore[arg-type]
    for share, is_hopeless in ((0.6, True), (0.8, True), (0.88, False), (0.95, False)):
        # The rows that the rival has right are the first ones of all; of each half, here, as many.
        errors = [float(row % 100 >= share * 100) for row in range(150)]
        same = make_candidate("linear", [float(row % 100 >= 90) for row in range(300)], rival.losses.tolist())
        monkeypatch.setattr(Half, "score", lambda self, errors=errors: [(error, 1.0) for error in errors])
        assert _is_hopeless(half, [same]) == is_hopeless, share
    assert not _is_hopeless(half, [])


def test_training_far_behind_is_given_up_after_the_first_half(
    base: mapsto.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidate, "HOPELESS", -100.0)
    said = Said()
    mapsto.fit("text -> label", ROWS, tmp_path / "clf", start=base, test=TEST, progress=said, device="cpu")
    line = said.line("  probe+full: error")
    assert line.endswith(", given up after the first half") and "n = 40" in line and "n = 80" in said.line("  probe: e")
    assert "method probe+full" not in said.line("parameters")
    measured = json.loads((tmp_path / "clf" / "mapsto.json").read_text())["provenance"]["choice"]["candidates"]
    assert [(entry["method"], entry["error"]["n"]) for entry in measured] == [
        ("linear", 80),
        ("probe", 80),
        ("probe+full", 40),
    ]


def test_without_a_start_words_that_decide_are_found_by_the_linear_model(tmp_path: Path) -> None:
    said, out = Said(), tmp_path / "clf"
    model = mapsto.fit("text -> label", ROWS, out, test=TEST, progress=said, device="cpu")
    assert said.line("choosing the method").startswith("choosing the method by 80 rows")
    assert said.line("  linear: error") and said.line("  full: error")
    assert "method linear (TF-IDF is " in said.line("parameters") and " of full): a linear model" in said.line(
        "parameters"
    )
    assert "divided by" in said.line("confidence set by answers of models fitted to half of the rows")
    assert said.line("the choice of the method took")
    assert model.mapping.config.is_linear
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "Confidence set by answers of models fitted to half of the rows" in card
    recorded = json.loads((out / "mapsto.json").read_text())["provenance"]
    assert recorded["choice"]["method"] == recorded["method"] == "linear"
    assert [candidate["method"] for candidate in recorded["choice"]["candidates"]] == ["linear", "full"]
    # The final model's logits are larger than those of models of half of the rows.
    assert (
        recorded["temperatures"][0] > recorded["choice"]["temperatures"]["0"] and recorded["choice"]["scales"]["0"] > 0
    )


def test_a_start_that_is_left_aside_is_said(base: mapsto.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def prefer_linear(candidates: list[Candidate], *others: Any) -> Candidate:
        return next(candidate for candidate in candidates if candidate.method == "linear")

    said = Said()
    monkeypatch.setattr(method_choice, "choose", prefer_linear)
    model = mapsto.fit("text -> label", ROWS, start=base, progress=said, device="cpu")
    assert model.mapping.config.is_linear
    assert said.line("leaves the starting model aside; --method probe")


def test_an_interrupted_choice_says_that_it_begins_again(base: mapsto.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    # A signal between training steps, then one in a step.
    stops: list[BaseException] = [KeyboardInterrupt(), Interrupted(2, 3, None)]

    def interrupt(*arguments: Any) -> Any:
        raise stops.pop(0)

    said = Said()
    monkeypatch.setattr(method_choice, "measure_method", interrupt)
    with pytest.raises(KeyboardInterrupt):
        mapsto.fit("text -> label", ROWS, start=base, progress=said, device="cpu")
    assert said.line("the same command begins again")
    # The error names no step, for the half is begun anew.
    with pytest.raises(
        RunError, match=r"^stopped while methods were measured; the same command begins again$"
    ) as stopped:
        mapsto.fit("text -> label", ROWS, start=base, device="cpu")
    assert stopped.value.exit_status == 130


def test_another_run_is_refused_in_the_folder_of_an_interrupted_choice(
    base: mapsto.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = method_choice.measure_method

    def stop_at_the_second(method: Method, *arguments: Any) -> Candidate:
        if method == "probe":
            raise KeyboardInterrupt
        return original(method, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(method_choice, "measure_method", stop_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            mapsto.fit("text -> label", ROWS, tmp_path / "clf", start=base, device="cpu")
    for others in ({"smooth": 0.1}, {"method": "probe"}, {"steps": 2}):
        with pytest.raises(UsageError, match=f"with other .*{next(iter(others))}="):
            mapsto.fit("text -> label", ROWS, tmp_path / "clf", start=base, device="cpu", **others)
    assert not (tmp_path / "clf" / "run.json").exists()


def test_methods_measured_before_an_interruption_are_not_measured_again(
    base: mapsto.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[Method] = []
    original = method_choice.measure_method

    def measure_once(method: Method, *arguments: Any) -> Candidate:
        if measured:
            raise KeyboardInterrupt
        measured.append(method)
        return original(method, *arguments)

    first, again = Said(), Said()
    with monkeypatch.context() as patch:
        patch.setattr(method_choice, "measure_method", measure_once)
        with pytest.raises(KeyboardInterrupt):
            mapsto.fit("text -> label", ROWS, tmp_path / "clf", start=base, progress=first, device="cpu")
    assert first.line("the same command goes on with those that are not measured yet")
    resumed = mapsto.fit("text -> label", ROWS, tmp_path / "clf", start=base, progress=again, device="cpu")
    assert again.line("measured before") == first.line(f"  {measured[0]}: ") + ", measured before"
    whole = mapsto.fit("text -> label", ROWS, start=base, device="cpu")
    texts = [row["text"] for row in TEST]
    assert resumed.predict(texts) == whole.predict(texts)
    # The finished choice takes the place of what was measured for it.
    assert "measured" not in json.loads((tmp_path / "clf" / "choice.json").read_text())["choice"]


def test_the_steps_of_a_half_are_shown(base: mapsto.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidate, "HOPELESS", 100.0)

    class Counted(Progress):
        """Keep the labels of counts, and the largest count of each."""

        def __init__(self) -> None:
            self.counts: dict[tuple[str, str], int] = {}

        def rows(self, label: str, count: int, total: int | None, unit: str = "rows") -> None:
            self.counts[label, unit] = max(count, self.counts.get((label, unit), 0))

    counted = Counted()
    mapsto.fit("text -> label", ROWS, start=base, progress=counted, device="cpu")
    steps = [counted.counts[f"  probe+full, half {half} of 2:", "steps"] for half in (1, 2)]
    assert steps[0] == steps[1] > 1


@pytest.mark.parametrize("arrow", ["text -> label", "text -> labels", "text -> number"])
def test_from_a_start_three_methods_are_measured(arrow: str, base: mapsto.Model) -> None:
    column = arrow.split()[-1]
    cells: dict[str, Any] = {
        "label": lambda row: row["label"],
        "labels": lambda row: [word for word in ("hope", "age") if word in row["text"]],
        "number": lambda row: float(row["text"].count("winter")),
    }
    rows = [{"text": row["text"], column: cells[column](row)} for row in ROWS]
    said = Said()
    mapsto.fit(arrow, rows, start=base, progress=said, device="cpu")
    for method in ("linear", "probe", "probe+full"):
        assert "error" in said.line(f"  {method}: ")
    assert any("confidence set by" in line for line in said.lines) == (column != "number")


def not_calibrated(rows: list[dict[str, Any]], start: mapsto.Model | None, method: Method) -> mapsto.Model:
    """Return a model fitted by `method` alone."""
    mapping, options = None if start is None else start.mapping, Options(method=method, device="cpu")
    return mapsto.Model(fit.fit_request(FitRequest(parse("text -> label"), rows, start=mapping, options=options)))


def test_a_chosen_model_is_the_model_of_that_method_but_for_its_temperature(base: mapsto.Model) -> None:
    said = Said()
    chosen = mapsto.fit("text -> label", ROWS, start=base, progress=said, device="cpu")
    method: Any = said.line("parameters").split("method ")[1].split(" (")[0]
    temperature = float(said.line("logits divided by").split()[-1])
    start = None if method == "linear" else base
    plain = not_calibrated(ROWS, start, method)
    weight, expected = (model.mapping.heads[0].get_parameter("bias") for model in (chosen, plain))
    assert temperature != 1 and torch.allclose(weight * temperature, expected, rtol=0.02)
    texts = [row["text"] for row in TEST]
    assert [answer["label"] for answer in chosen.predict(texts)] == [answer["label"] for answer in plain.predict(texts)]


@pytest.mark.parametrize(
    "options",
    [{"steps": 2}, {"epochs": 1}, {"method": "full", "epochs": 1}, {"hold_out": 0.2, "layers": 1, "width": 32}],
)
def test_what_is_fixed_is_not_measured(options: dict[str, Any]) -> None:
    said = Said()
    mapsto.fit("text -> label", ROWS[:40], progress=said, **{**SIZE, **options})
    assert not any("half" in line for line in said.lines)


def test_of_few_rows_the_method_is_not_chosen_but_its_confidence_is_set(base: mapsto.Model) -> None:
    said, other = Said(), Said()
    model = mapsto.fit("text -> label", ROWS[:20], start=base, progress=said, device="cpu")
    assert said.line("setting the confidence by 20 rows") and not any("choosing" in line for line in said.lines)
    assert "method contrast (10 labels a class, at most 16)" in said.line("parameters")
    assert said.line("setting the confidence took")
    temperature = float(said.line("logits divided by").split()[-1])
    named = mapsto.fit("text -> label", ROWS[:20], start=base, method="contrast", progress=other, device="cpu")
    assert other.line("setting the confidence by 20 rows") and "method contrast (as asked)" in other.line("parameters")
    plain = not_calibrated(ROWS[:20], base, "contrast")
    weight, same, expected = (fitted.mapping.heads[0].get_parameter("bias") for fitted in (model, named, plain))
    assert temperature != 1 and torch.allclose(weight * temperature, expected, rtol=0.02)
    assert torch.equal(weight, same)


@pytest.mark.parametrize("method", ["linear", "probe", "full"])
def test_a_named_method_is_calibrated_too(base: mapsto.Model, tmp_path: Path, method: str) -> None:
    said, start = Said(), None if method == "linear" else base
    mapsto.fit("text -> label", ROWS, tmp_path / "clf", start=start, method=method, progress=said, device="cpu")
    assert said.line("setting the confidence by 80 rows") and not any("choosing" in line for line in said.lines)
    measured = json.loads((tmp_path / "clf" / "choice.json").read_text())["choice"]
    assert measured["method"] == method and measured["reason"] == "as asked" and len(measured["candidates"]) == 1
    assert json.loads((tmp_path / "clf" / "mapsto.json").read_text())["provenance"]["temperatures"]


def test_a_named_method_that_the_run_does_not_allow_is_refused_before_it_is_measured(base: mapsto.Model) -> None:
    said = Said()
    with pytest.raises(UsageError, match='method="contrast" compares the rows of a few classes'):
        rows = [{"text": row["text"], "number": index} for index, row in enumerate(ROWS)]
        mapsto.fit("text -> number", rows, start=base, method="contrast", progress=said, device="cpu")
    assert not any("half" in line for line in said.lines)


def test_too_few_rows_are_not_measured(base: mapsto.Model) -> None:
    for rows in (ROWS[:6], [{"text": row["text"], "number": index} for index, row in enumerate(ROWS[:20])]):
        said = Said()
        arrow = f"text -> {list(rows[0])[1]}"
        mapsto.fit(arrow, rows, start=base, progress=said, device="cpu")
        assert not any("half" in line for line in said.lines)


@pytest.mark.parametrize(
    ("rows", "column", "says"),
    [
        # One half has one number alone.
        ([{"text": row["text"], "number": float(i == 0)} for i, row in enumerate(ROWS)], "number", "not measured"),
        ([{"text": "the same", "label": "ab"[i % 2]} for i in range(40)], "label", "labels a class"),
        (
            [{"text": row["text"], "label": "ab"[i == 3]} for i, row in enumerate(ROWS)],
            "label",
            "choosing the method by 79",
        ),
    ],
)
def test_rows_that_cannot_be_halved_are_fitted_all_the_same(
    rows: list[dict[str, Any]], column: str, says: str, base: mapsto.Model
) -> None:
    said = Said()
    model = mapsto.fit(f"text -> {column}", rows, start=base, progress=said, device="cpu")
    assert any(says in line for line in said.lines) and column in model.predict(["winter"])[0]


def test_training_that_diverges_is_not_chosen(base: mapsto.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverge(fold: Fold, options: Options, progress: Progress) -> Any:
        if options.method == "probe+full":
            raise RunError("no finite loss")
        return train(fold, options, progress)

    train, said = Fold.train, Said()
    monkeypatch.setattr(Fold, "train", diverge)
    mapsto.fit("text -> label", ROWS, start=base, progress=said, device="cpu")
    assert "not measured, no finite loss" in said.line("  probe+full")
    assert "method probe+full" not in said.line("parameters")


def test_a_run_that_ends_early_goes_on_with_its_choice(
    tmp_path: Path, base: mapsto.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first run ends when training begins; the second measures nothing and gives the same bits as a run in one go."""
    unbroken = mapsto.fit("text -> label", ROWS, tmp_path / "unbroken", start=base, device="cpu")

    def fail(request: FitRequest, data: Any = None) -> Any:
        if request.folder is not None:
            raise RunError("ended")
        return fit_request(request, data)

    fit_request = fit.fit_request
    with monkeypatch.context() as patch, pytest.raises(RunError, match="ended"):
        patch.setattr(fit, "fit_request", fail)
        mapsto.fit("text -> label", ROWS, tmp_path / "clf", start=base, device="cpu")
    assert sorted(path.name for path in (tmp_path / "clf").iterdir()) == ["choice.json"]
    with pytest.raises(UsageError, match="unfinished run with other seed"):
        mapsto.fit("text -> label", ROWS, tmp_path / "clf", start=base, device="cpu", seed=1)
    with monkeypatch.context() as patch:
        patch.setattr(method_choice, "measure", lambda *arguments: pytest.fail("measured again"))
        resumed = mapsto.fit("text -> label", ROWS, tmp_path / "clf", start=base, device="cpu")
    for name, weight in unbroken.mapping.state_dict().items():
        assert torch.equal(weight, resumed.mapping.state_dict()[name]), name


def test_a_run_that_began_without_a_choice_goes_on_without(tmp_path: Path, base: mapsto.Model) -> None:
    """As an older version of mapsto began it: with run.json alone."""

    class Stopped(Exception):
        """Ends a run at its first step."""

    class Stop(Progress):
        """Stop a run at its first step."""

        def step(self, report: Any) -> None:
            raise Stopped

    with pytest.raises(Stopped):
        fit.fit_mapping("text -> label", ROWS, tmp_path / "clf", start=base.mapping, progress=Stop())
    assert (tmp_path / "clf" / "run.json").exists()
    said = Said()
    mapsto.fit("text -> label", ROWS, tmp_path / "clf", start=base, progress=said, device="auto")
    assert not any("choosing" in line for line in said.lines) and said.line("labels a class")


def test_a_choice_is_the_same_after_its_record() -> None:
    choice = MethodChoice("probe", "measured", {0: 1.5, 2: 0.75}, [{"method": "probe", "loss": 0.5}])
    assert MethodChoice.from_record(json.loads(json.dumps(choice.record()))) == choice
    # Without distances it is the record of a version that knew none, so that a run begun by it goes on.
    assert not choice.record().keys() & {"relative_distances", "scales"}
    later = replace(choice, relative_distances=(0.1, 0.25), scales={0: 2.5, 2: 0.5})
    assert MethodChoice.from_record(json.loads(json.dumps(later.record()))) == later


def test_the_temperature_follows_the_scale_of_the_final_logits(base: mapsto.Model, tmp_path: Path) -> None:
    def temperature(scales: dict[int, float]) -> float:
        choice, out = MethodChoice("probe", "as measured", {0: 2.0}, [], (), scales), tmp_path / str(scales)
        options = Options(method="probe", device="cpu")
        fit.fit_request(FitRequest(parse("text -> label"), ROWS, out, base.mapping, options=options, choice=choice))
        found: float = json.loads((out / "mapsto.json").read_text())["provenance"]["temperatures"][0]
        return found

    # A choice of an older version has none.
    assert temperature({}) == 2.0
    assert temperature({0: 0.5}) == pytest.approx(4 * temperature({0: 2.0}), rel=1e-3) != 2.0


def test_overwriting_costs_the_former_run_only_when_the_choice_is_made(
    tmp_path: Path, base: mapsto.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    mapsto.fit("text -> label", ROWS, tmp_path / "clf", start=base, method="probe", device="cpu")
    with monkeypatch.context() as patch, pytest.raises(RunError, match="ended"):
        patch.setattr(method_choice, "measure", _raise_ended)
        mapsto.fit("text -> label", ROWS, tmp_path / "clf", start=base, overwrite=True, device="cpu")
    assert mapsto.load(tmp_path / "clf").predict(["winter"])
    mapsto.fit("text -> label", ROWS, tmp_path / "clf", start=base, overwrite=True, device="cpu")
    assert (tmp_path / "clf" / "choice.json").exists()


def _raise_ended(*arguments: Any) -> Any:
    raise RunError("ended")


def test_balanced_halves_that_know_other_classes_share_a_temperature(base: mapsto.Model) -> None:
    """The one row of a class is in one half, so only the other half's model lacks the class."""
    progress = Said()
    mapsto.fit("text -> label", [*ROWS, {"text": "one", "label": "only"}], start=base, balance=True, progress=progress)
    assert not any("not measured" in line for line in progress.lines)
    assert "halves" not in progress.line("confidence set by") and "divided by" in progress.line("confidence set by")


def test_pictures_without_a_start_are_measured_by_their_edges_and_colours_too(monkeypatch: pytest.MonkeyPatch) -> None:
    source = kinds.source("image")
    short = replace(
        source.defaults, learning=replace(source.defaults.learning, min_epochs=2, max_epochs=2), linear_rows=0
    )
    monkeypatch.setattr(source, "defaults", short)
    rng = np.random.default_rng(0)
    rows = []
    for row in range(40):
        image = rng.integers(0, 90, (8, 8, 3)).astype(np.uint8)
        image[row % 2 * 4 : row % 2 * 4 + 4] += 150
        rows.append({"image": image, "label": ["above", "below"][row % 2]})
    said = Said()
    model = mapsto.fit("image -> label", rows, progress=said, device="cpu")
    assert said.line("  linear: error") and said.line("  full: error")
    assert "method linear (colours and edges is " in said.line("parameters") and model.mapping.config.is_linear


def test_what_is_no_better_than_the_commonest_class_is_said(base: mapsto.Model) -> None:
    def says(rows: list[dict[str, Any]]) -> bool:
        said = Said()
        mapsto.fit("text -> label", rows, method="linear", progress=said, device="cpu")
        return any("always answering" in line for line in said.lines)

    assert not says(ROWS)
    random = np.random.default_rng(0).permutation([row["label"] for row in ROWS])
    assert says([{"text": row["text"], "label": label} for row, label in zip(ROWS, random.tolist(), strict=True)])


def test_a_temperature_is_not_set_by_answers_of_a_single_class() -> None:
    said = Said()
    rows = [{"text": row["text"], "label": "no" if index == 3 else "yes"} for index, row in enumerate(ROWS[:40])]
    mapsto.fit("text -> label", rows, method="linear", progress=said, device="cpu")
    assert not any("logits divided" in line for line in said.lines)


@pytest.mark.parametrize(("options", "reason"), [({"steps": 2}, "--steps leaves out"), ({}, "no rows are held out")])
def test_a_confidence_that_is_not_set_is_said(options: dict[str, Any], reason: str, tmp_path: Path) -> None:
    said = Said()
    rows = ROWS[:40] if options else ROWS[:6]
    mapsto.fit("text -> label", rows, tmp_path / "clf", progress=said, layers=1, width=32, device="cpu", **options)
    assert reason in said.line("the confidence is as training left it")


def test_few_pictures_without_a_starting_model_get_a_linear_model() -> None:
    said = Said()
    rng = np.random.default_rng(0)
    rows = [
        {"image": rng.integers(0, 60, (8, 8, 3), np.uint8) + np.uint8(90 * (row % 2)), "label": "ab"[row % 2]}
        for row in range(40)
    ]
    model = mapsto.fit("image -> label", rows, progress=said, device="cpu")
    assert "method linear (fewer than 1,000 rows and no starting model" in said.line("parameters")
    assert [answer["label"] for answer in model.predict([row["image"] for row in rows])] == [
        row["label"] for row in rows
    ]
    # An option of new weights asks for them.
    mapsto.fit("image -> label", rows, progress=said, layers=1, width=32, steps=1, device="cpu")
    assert any("method full" in line for line in said.lines)
