"""A search for the numbers of a fit: trials on parts of the training rows, then the fit with those that did best.

A trial is `fit_mapping` in memory with other Options. What the next trial tries is a function of the seed and of the
finished trials alone, so a search that was killed goes on to the same end. Rows of a test are never part of a trial.
"""

from __future__ import annotations

import importlib
import math
import time
from collections import Counter
from collections.abc import Mapping as Dict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mapsto.data.encoding import encode_rows
from mapsto.data.examples import make_examples
from mapsto.data.rows import Rows, load_rows
from mapsto.data.split import apart
from mapsto.data.table import Ints, Table, read_table
from mapsto.distributed import SINGLE_PROCESS, read_ranks
from mapsto.errors import DataError, RunError, UsageError
from mapsto.evaluation.evaluate import scoring_examples
from mapsto.fitting import run_folder
from mapsto.fitting.fit import fit_mapping
from mapsto.fitting.hyperparameters import choose_method, contrasted, make_objective, make_plan
from mapsto.fitting.setup import Work, prepare
from mapsto.fitting.start import begin
from mapsto.inference.forward import over
from mapsto.kinds import answering
from mapsto.metrics.intervals import Score, with_interval
from mapsto.model.mapping import Mapping
from mapsto.options import Method, Options
from mapsto.progress import Progress, duration
from mapsto.sequence.corruption import Corruption
from mapsto.task.arrow import Arrow, parse
from mapsto.task.capabilities import has_exclusive_classes
from mapsto.training.data_parallel import ReplicatedWeights
from mapsto.training.loop import Interrupted

# Bounds of the knobs, as multiples of what a fit without a search takes.
RATES, EPOCHS, BATCHES = (0.1, 4.0), (0.5, 2.0), (0.5, 1.0, 2.0)


DIGITS = 2


METHODS: tuple[Method, ...] = ("probe+full", "full", "contrast")


# A trial is scored on about so many rows: a fifth of 5,000, or as many fifths in turn as fewer rows need. Over so many,
# an error of 15 % is known to about 2 points; and no part to score on is larger than the one learnt from.
SCORED_ROWS, LARGEST_SHARE = 1000, 0.2


RANDOM_TRIALS = 5


Space = dict[str, list[Any] | tuple[float, float]]


@dataclass(frozen=True)
class Trial:
    """What was tried and how it did; `failed` says why there is no error. loss breaks ties between equal errors."""

    number: int
    knobs: dict[str, Any]
    error: Score | None
    loss: float | None
    seconds: float
    failed: str | None = None

    def __str__(self) -> str:
        return f"{self.shown}: {f'error {self.error}' if self.error else self.failed}"

    @property
    def shown(self) -> str:
        """The knobs, for people."""
        return ", ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in self.knobs.items()
        )

    @property
    def rank(self) -> tuple[float, float, int]:
        """The lowest one is chosen."""
        if self.error is None or self.loss is None:
            return (math.inf, math.inf, self.number)
        return (self.error.value, self.loss, self.number)


@dataclass(frozen=True)
class Search:
    """What a search is: the space, the trials that do not wait for others, and on which rows each is scored."""

    arrow: str
    options: Options
    begins: dict[str, Any]
    space: Space
    first: list[dict[str, Any]]
    parts: list[tuple[Table, Table]]
    trials: int
    minutes: float | None


def search_and_fit(
    arrow: str,
    data: Any,
    out: str | Path | None = None,
    *,
    search: int | None = None,
    search_minutes: float | None = None,
    start: str | Path | Mapping | None = None,
    like: str | Path | None = None,
    test: Any = None,
    options: Options | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> Mapping:
    """`fit_mapping`, after `search` trials where that is given; none begins after `search_minutes` minutes of trials.

    Trials are kept in search.json of the run's folder, and none that is finished runs again. Raises UsageError without
    the extra [search], and what `fit_mapping` raises.
    """
    options, progress = options or Options(), progress or Progress()
    begins: dict[str, Any] = {"start": start, "like": like}
    if search is None and search_minutes is None:
        return fit_mapping(
            arrow, data, out, **begins, test=test, options=options, progress=progress, overwrite=overwrite
        )
    trials = _require(parse(arrow), options, search, search_minutes)
    run = None if out is None else Path(out)
    if run is not None:
        run_folder.require_free(run, overwrite, searched=True)
        _require_apart(run, begins)
    table = read_table(data, encoding=options.encoding)
    tested = None if test is None else read_table(test, encoding=options.encoding)
    work = prepare(parse(arrow), table, tested, begin(start, like), options, progress.say)
    facts = {**work.facts, "--search": trials, "--search-minutes": search_minutes}
    planned = _planned(work, table, begins, trials, search_minutes)
    del work  # its mapping and examples are of no use to the trials
    with run_folder.locked(run, progress.say):
        if run is not None and overwrite:
            run_folder.clear(run)
        done = _run(planned, run, facts, progress)
    best = min(done, key=lambda trial: trial.rank)
    if best.error is None:
        raise RunError(f"none of {len(done)} trials came to an end; the last one: {done[-1].failed}")
    progress.say(f"chosen: trial {best.number} of {len(done)}, {best}")
    progress.say(f"without a search: {done[0]}")
    return fit_mapping(
        arrow,
        table,
        out,
        **begins,
        test=tested,
        options=replace(options, **best.knobs),
        progress=progress,
        searched={"chosen": best.number, "trials": [asdict(trial) for trial in done]},
    )


def _require(wanted: Arrow, options: Options, trials: int | None, minutes: float | None) -> int:
    """The number of trials. Raises UsageError for a search that cannot be."""
    if trials is None:
        raise UsageError("--search-minutes needs --search with the number of trials")
    for name, value in (("search", trials), ("search-minutes", minutes)):
        if value is not None and not value > 0:
            raise UsageError(f"--{name} must be above 0, not {value}")
    if wanted.corrupted:
        raise UsageError(f"--search looks for the best fit of answers, and {wanted} is pretraining")
    if options.minutes is not None:
        raise UsageError("--search needs trials that can be repeated: give --steps or --epochs in place of --minutes")
    if read_ranks().size > 1 or options.shard:
        raise UsageError(
            "--search runs in one process; search without torchrun and --shard, then train with its choice"
        )
    _optuna()
    return trials


def _require_apart(run: Path, begins: dict[str, Any]) -> None:
    """Raise UsageError when the run would replace what every trial begins with."""
    for name, begun in begins.items():
        if isinstance(begun, str | Path) and Path(begun).resolve() == run.resolve():
            raise UsageError(f"--search begins every trial with --{name} {begun}; choose another --out")


def _planned(work: Work, table: Table, begins: dict[str, Any], trials: int, minutes: float | None) -> Search:
    """The first trial is a fit without a search, the second a linear probe where there can be one."""
    options, mapping = work.options, work.mapping
    method, _ = choose_method(options, mapping, work.beginning, work.facts["rows"], False)
    rows = load_rows(mapping.arrow, table)
    scored_on = parts(mapping.arrow, rows, options.seed)
    methods = _methods(work, scored_on)
    if method not in ("probe", *methods):
        raise DataError("with some rows held out for --search no two classes are left with two rows to contrast")
    usual = _usual(work, "full" if method == "probe" else method)
    values: Space = {
        "method": methods,
        "rate": _between(usual["rate"], RATES),
        "epochs": _between(usual["epochs"], EPOCHS),
        "batch": sorted({min(round(usual["batch"] * times), len(work.examples)) for times in BATCHES}),
    }
    fixed = {name for name in values if getattr(options, name) not in (None, "auto")}
    fixed |= set(values) if options.method == "probe" else set()
    fixed |= {"method"} if len(methods) == 1 else set()
    fixed |= {"epochs"} if options.steps is not None else set()
    space = {name: value for name, value in values.items() if name not in fixed}
    if not space:
        raise UsageError(
            "the options given leave --search nothing to try: it chooses --method, --rate, --epochs, --batch"
        )
    first = [{"method": "probe"}] if "method" in space and _allowed("probe", work) else []
    if method != "probe":
        first.insert(0, {name: usual[name] for name in space})
    held = work.facts["held_out"] / (work.facts["rows"] + work.facts["held_out"])
    aside = replace(options, hold_out=held if options.hold_out is None else options.hold_out, tensorboard=False)
    return Search(str(mapping.arrow), aside, begins, space, first, scored_on, trials, minutes)


def _methods(work: Work, scored_on: Sequence[tuple[Table, Table]]) -> list[Any]:
    """The methods besides a probe that every trial can take."""
    methods = [method for method in METHODS if _allowed(method, work)]
    if "contrast" in methods and not all(_contrasts(work.mapping, learnt) for learnt, _ in scored_on):
        methods.remove("contrast")
    return methods


def _usual(work: Work, method: str) -> dict[str, Any]:
    """The knobs of a fit by `method` without a search."""
    mapping, examples = work.mapping, work.examples
    objective, layout = (
        make_objective(method, work.options, mapping, examples),
        ReplicatedWeights(SINGLE_PROCESS, mapping),
    )
    now, device = time.monotonic(), work.device
    plan = make_plan(work.options, mapping, examples, work.beginning, method, objective, device, False, now, layout)
    epochs = plan.steps * plan.batch / len(examples)
    return {"method": method, "rate": plan.rate, "epochs": epochs, "batch": plan.batch}


def _allowed(method: Method, work: Work) -> bool:
    """Whether the start, the answers and the options given allow the method."""
    try:
        choose_method(replace(work.options, method=method), work.mapping, work.beginning, work.facts["rows"], False)
    except UsageError:
        return False
    return True


def _contrasts(mapping: Mapping, learnt: Table) -> bool:
    """Whether there are two classes with two rows each."""
    port = contrasted(mapping)
    assert port is not None
    answers = load_rows(mapping.arrow, learnt).targets[port]
    return sum(rows > 1 for rows in Counter(answers).values()) > 1


def _between(usual: float, times: tuple[float, float]) -> tuple[float, float]:
    return usual * times[0], usual * times[1]


def parts(arrow: Arrow, rows: Rows, seed: int) -> list[tuple[Table, Table]]:
    """(rows to learn from, rows to score on), once or several times; no row is scored on twice."""
    count, everything = len(rows), np.arange(len(rows))
    share = min(LARGEST_SHARE, SCORED_ROWS / count)
    times = min(round(1 / LARGEST_SHARE), math.ceil(SCORED_ROWS / (share * count)))
    left, found = everything, []
    for turn in range(times):
        kept, aside = apart(rows.select(left), share / (1 - turn * share), seed)
        held = _known(arrow, rows, np.setdiff1d(everything, left[aside]), left[aside])
        left = left[kept]
        if len(held):
            learnt = np.setdiff1d(everything, held)
            found.append((rows.table.select(rows.indices[learnt]), rows.table.select(rows.indices[held])))
    if not found:
        raise DataError(f"{count} rows are too few to hold some out for --search")
    return found


def _known(arrow: Arrow, rows: Rows, kept: Ints, held: Ints) -> Ints:
    """Those of `held` whose classes also stand in `kept`: a class that is never learnt tells nothing of a trial."""
    for target, answers in zip(answering(arrow), rows.targets, strict=True):
        if has_exclusive_classes(target):
            seen = {answers[row] for row in kept}
            held = np.array([row for row in held if answers[row] in seen], np.int64)
    return held


def _run(search: Search, run: Path | None, facts: Dict[str, Any], progress: Progress) -> list[Trial]:
    """All trials: those that search.json of the folder holds, and the others now."""
    recorded = None if run is None else run_folder.recorded_search(run, facts, Options(**facts["options"]))
    done = [Trial(**{**kept, "error": kept["error"] and Score(**kept["error"])}) for kept in recorded or []]
    if recorded is None and run is not None:
        run_folder.record_search(run, facts, [])
    scored = sum(len(held) for _, held in search.parts)
    how = f"in {len(search.parts)} turns, each learning from the others" if len(search.parts) > 1 else "held out"
    progress.say(f"search: {search.trials} trials, each scored on {scored:,} of the training rows, {how}")
    if done:
        progress.say(f"going on after trial {len(done)}")
    while len(done) < search.trials and not _spent(search, done):
        try:
            done.append(_try(search, done))
        except Interrupted as stopped:
            raise _with_advice(stopped, len(done) + 1, run) from stopped
        if run is not None:
            run_folder.record_search(run, facts, [asdict(trial) for trial in done])
        progress.say(f"trial {len(done)} of {search.trials}: {done[-1]}, {duration(done[-1].seconds)}")
    return done


def _with_advice(stopped: Interrupted, number: int, run: Path | None) -> RunError:
    how = f"; the same command goes on, with this trial from its beginning ({run})" if run else ""
    error = RunError(f"{stopped} of trial {number}{how}")
    error.exit_status = stopped.exit_status
    return error


def _spent(search: Search, done: Sequence[Trial]) -> bool:
    return search.minutes is not None and sum(trial.seconds for trial in done) >= 60 * search.minutes


def _try(search: Search, done: Sequence[Trial]) -> Trial:
    """The next trial; what was tried before is not run again. A trial that diverges has failed, the search goes on."""
    began, number = time.monotonic(), len(done) + 1
    knobs = (
        search.first[number - 1] if number <= len(search.first) else suggest(search.space, done, search.options.seed)
    )
    same = next((trial for trial in done if trial.knobs == knobs), None)
    if same is not None:
        return replace(same, number=number, seconds=0.0)
    options = replace(search.options, **knobs)
    found: list[tuple[float, float]] = []
    try:
        for learnt, held in search.parts:
            found += mistakes(fit_mapping(search.arrow, learnt, **search.begins, options=options), held)
    except Interrupted:
        raise
    except RunError as error:
        return Trial(number, knobs, None, None, time.monotonic() - began, str(error))
    errors, losses = np.array(found).T
    return Trial(number, knobs, with_interval(np.mean, errors), float(losses.mean()), time.monotonic() - began)


def mistakes(mapping: Mapping, table: Table) -> list[tuple[float, float]]:
    """(error, loss) of each answer to the first target: what held-out rows choose the weights of a run by."""
    target = mapping.targets[0]
    rows = load_rows(mapping.arrow, table)
    encoded = encode_rows(rows, mapping.sources, mapping.config.max_tokens, "cut")
    examples = make_examples(rows, encoded, mapping.sources, mapping.targets, 0, Corruption())
    found = []
    for batch, hidden in over(mapping, scoring_examples(examples), next(mapping.parameters()).device):
        readout = batch.answers[0]
        if readout is not None:
            output = mapping.read(hidden, batch, 0)
            for at in range(len(readout.values)):
                one = output[at : at + 1], readout.values[at : at + 1]
                found.append((float(target.validation_error(*one)), float(target.loss(*one))))
    return found


def suggest(space: Space, done: Sequence[Trial], seed: int) -> dict[str, Any]:
    """Values within `space` that look best after the trials `done`: a tree-structured Parzen estimator (Bergstra et al.
    2011), its random numbers from (seed, number of trials) alone.
    """
    optuna = _optuna()
    known = {
        name: optuna.distributions.CategoricalDistribution(values)
        if isinstance(values, list)
        else optuna.distributions.FloatDistribution(*values, log=True)
        for name, values in space.items()
    }
    state = int(np.random.SeedSequence([seed, len(done)]).generate_state(1)[0])
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=state, n_startup_trials=RANDOM_TRIALS))
    for trial in done:
        if trial.knobs.keys() == space.keys():  # a probe turns no other knob
            result = {"value": trial.error.value} if trial.error else {"state": optuna.trial.TrialState.PRUNED}
            study.add_trial(optuna.trial.create_trial(params=trial.knobs, distributions=known, **result))
    return {name: _rounded(value, space[name]) for name, value in study.ask(known).params.items()}


def _rounded(value: Any, values: list[Any] | tuple[float, float]) -> Any:
    """A number that a person can type, within its bounds."""
    if isinstance(values, list):
        return value
    low, high = values
    return min(max(float(f"{value:.{DIGITS}g}"), low), high)


def _optuna() -> Any:
    try:
        optuna = importlib.import_module("optuna")
    except ImportError as error:
        raise UsageError("--search needs the package: pip install 'mapsto[search]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
