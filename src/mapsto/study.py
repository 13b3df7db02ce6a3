"""What did the pretraining buy? Every start and method, and what needs no pretraining, fitted with few and with many labels.

One fit is a cell: a way, a number of labels, a seed. All cells are scored on the same rows. A finished cell is kept in the
folder, so a comparison that was killed goes on, and ends with the same numbers. `comparison.py` says what they mean.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from mapsto import checkpoint, folder, kinds, train
from mapsto import data as tables
from mapsto.arrow import Arrow, parse
from mapsto.begin import begin, started_sources
from mapsto.corrupt import generator
from mapsto.data import Table
from mapsto.errors import CheckpointError, UsageError, near
from mapsto.examples import Rows, bind_to, encode, read_rows, require_whole
from mapsto.kinds import Target
from mapsto.mapping import Mapping
from mapsto.options import Method, Options
from mapsto.plan import FEW_LABELS, idle
from mapsto.predict import Predictor, asking, pooled_outputs
from mapsto.prepare import apart, examined, made_targets, read_by
from mapsto.progress import Progress, duration

SCRATCH = "scratch"
METHODS: tuple[Method, ...] = ("full", "probe", "contrast")
ALL = "all"
TEST_SHARE = 0.2
# Options of `fit` that a comparison decides itself.
DECIDED = ("method", "minutes", "steps", "tensorboard", "shard", "words")
PLAN, CELLS = "compare.json", "cells"
RESULTS, REPORT, CURVES, CALIBRATION = MADE = ("results.json", "report.html", "curves.svg", "calibration.svg")
TEST, SHIFT = "test", "shift"
CLASSICAL, BLIND = "classical", "blind"
THREADS_OF_A_JOB = 2


@dataclass(frozen=True)
class Way:
    """How an answer is come by: fitted from `start` (None: random weights) by a method; or a linear model of features that
    need no pretraining (`classical`), or always the same answer (`blind`)."""

    name: str
    method: str
    start: str | None = None


@dataclass(frozen=True)
class Cell:
    """One fit: a way, how many labels it has, and the seed that drew them and that it is fitted with."""

    way: Way
    labels: int
    seed: int

    @property
    def name(self) -> str:
        """A name for its folder."""
        return f"{re.sub(r'[^0-9a-z]+', '-', self.way.name.lower()).strip('-')}-{self.labels}-{self.seed}"


@dataclass(frozen=True)
class Outcome:
    """What became of a cell: outputs (n, …) over the test rows and the target's state, which says what they mean; what each
    row of every view was worth, figures and costs.

    seconds: of fitting. peak: megabytes of memory the process held at most, where the system tells.
    """

    output: Tensor
    gains: dict[str, Tensor]
    target: dict[str, Any]
    figures: dict[str, float]
    seconds: float
    tokens: int
    peak: float | None


@dataclass(frozen=True)
class Study:
    """What is compared, on which rows. views: the test rows, as they are and disturbed, and rows from elsewhere.

    labels: numbers of labels, the last may be all rows. like: whose shape and tokenizer random weights take.
    """

    arrow: Arrow
    pool: Rows
    views: dict[str, Rows]
    ways: list[Way]
    labels: list[int]
    seeds: list[int]
    options: Options
    like: str | None

    @property
    def port(self) -> int:
        """The first target that can be compared by."""
        return next(i for i, port in enumerate(self.arrow.targets) if kinds.target(port.kind).gain)

    @property
    def gain(self) -> str:
        """What is compared, in the field's words."""
        return kinds.target(self.arrow.targets[self.port].kind).gain

    @property
    def cells(self) -> list[Cell]:
        """All fits, the cheap ones first."""
        return [
            Cell(way, count, seed)
            for count in self.labels
            for seed in self.seeds
            for way in self.ways
            if way.method != "contrast" or self._contrasts(count, seed)
        ]

    def drawn(self, count: int, seed: int) -> Rows:
        """`count` rows of the pool: those of a smaller number, and more."""
        return self.pool.select(nested(self._strata, seed)[:count])

    @property
    def _strata(self) -> list[Any]:
        named = kinds.target(self.arrow.targets[self.port].kind).named
        return self.pool.targets[self.port] if named else [None] * len(self.pool)

    def _contrasts(self, count: int, seed: int) -> bool:
        """Whether labels are few enough for contrast to be worth it, and two classes have two rows."""
        sizes = Counter(self._strata[row] for row in nested(self._strata, seed)[:count])
        return count <= FEW_LABELS * len(set(self._strata)) and sum(size > 1 for size in sizes.values()) > 1


def nested(strata: Sequence[Any], seed: int) -> Any:
    """All rows in an order of which every start is a stratified sample: first one row of each class, the commonest first, then
    as many of each as its share asks for."""
    rng = np.random.Generator(np.random.Philox(key=[seed, 1]))
    order = rng.permutation(len(strata))
    sizes = Counter(strata)
    seen: Counter[Any] = Counter()
    rank = np.empty(len(strata))
    for row in order.tolist():
        size = sizes[strata[row]]
        rank[row] = (seen[strata[row]] + 0.5) / size if seen[strata[row]] else -size
        seen[strata[row]] += 1
    return order[np.argsort(rank[order], kind="stable")]


def run(
    arrow: str,
    data: Any,
    out: Path | None,
    *,
    test: Any = None,
    starts: Sequence[str] = (SCRATCH,),
    labels: Sequence[int | str] = (16, 64, 256, ALL),
    seeds: int = 5,
    methods: Sequence[str] = METHODS,
    shift: Any = None,
    jobs: int | None = None,
    options: Options | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> tuple[Study, dict[Cell, Outcome], dict[str, Any]]:
    """Every cell of a comparison, those that are in the folder `out` already as they are; and the facts it is a function of.

    Raises UsageError, DataError, CheckpointError, RunError.
    """
    options, progress = options or Options(), progress or Progress()
    study, facts = _planned(arrow, data, test, starts, labels, seeds, methods, shift, options, progress)
    jobs = jobs or max(1, (os.cpu_count() or 1) // THREADS_OF_A_JOB)
    done: dict[Cell, Outcome] = {}
    with ExitStack() as stack:
        if out is not None:
            stack.enter_context(folder.locked(out))
            if overwrite and (out / PLAN).exists():
                shutil.rmtree(out / CELLS, ignore_errors=True)
                for name in (*MADE, PLAN):  # what says that a comparison is here goes last
                    (out / name).unlink(missing_ok=True)
            _require_same(out, facts)
            checkpoint.write_atomic(out / PLAN, checkpoint.sealed(facts))
            done = _kept(study, out, progress)
        left = [cell for cell in study.cells if cell not in done]
        kept = f", {len(done)} of them done before" if done else ""
        rows = f"{len(study.pool):,} rows with labels, {len(study.views[TEST]):,} to test on"
        progress.say(f"{study.arrow}: {rows}; {len(study.ways)} ways, {len(study.cells)} fits{kept}")
        began = time.monotonic()
        for cell, outcome in stack.enter_context(_outcomes(study, left, jobs)):
            done[cell] = outcome
            if out is not None:
                _keep(out, cell, outcome)
            score = float(outcome.gains[TEST].mean())
            spent = duration(time.monotonic() - began)
            what = f"{cell.way.name}, {cell.labels:,} labels, seed {cell.seed}: {study.gain} {100 * score:.1f} %"
            progress.say(f"{len(done)}/{len(study.cells)}  {what}, {duration(outcome.seconds)} ({spent} in all)")
    return study, {cell: done[cell] for cell in study.cells}, facts


def _planned(
    arrow: str,
    data: Any,
    test: Any,
    starts: Sequence[str],
    labels: Sequence[int | str],
    seeds: int,
    methods: Sequence[str],
    shift: Any,
    options: Options,
    progress: Progress,
) -> tuple[Study, dict[str, Any]]:
    """Everything that can be wrong is found here, before the first fit."""
    usual = Options()
    if decided := [f"--{name}" for name in DECIDED if getattr(options, name) != getattr(usual, name)]:
        raise UsageError(f"{', '.join(decided)}: a comparison decides this itself")
    if seeds < 1:
        raise UsageError(f"--seeds must be above 0, not {seeds}")
    wanted = parse(arrow)
    table = tables.read(data, encoding=options.encoding)
    bound = bind_to(wanted, table)
    if bound.corrupted or not any(kinds.target(port.kind).gain for port in bound.targets):
        raise UsageError(f"compare is about answers that are right or wrong, such as labels; {bound} gives none")
    targets = made_targets(bound, options)
    rows = read_rows(bound, table, read_by(bound), targets)
    require_whole(rows, table.rejected, len(table), options.bad_rows)
    for target, answers in zip(targets, rows.targets, strict=True):
        target.learn(answers, options.balance)  # raises DataError for answers that nothing can be learnt from
    if test is None:
        pool, held = apart(bound, rows, TEST_SHARE, options.seed)
        tested = table.select(rows.rows[held])
        rows = rows.select(pool)
        progress.say(f"no --test: {len(held):,} of the {len(pool) + len(held):,} rows are kept aside to test on")
    else:
        tested = tables.read(test, encoding=options.encoding)
    seen = examined(bound, rows, tested, targets, options, progress.say)
    assert seen is not None
    views = _views(bound, seen, shift, targets, options)
    opened = {start: begin(start, None) for start in dict.fromkeys(starts) if start != SCRATCH}
    for found in opened.values():
        started_sources(found, bound)  # raises UsageError for a start that reads other kinds
    like = next(iter(opened), None)
    ways = _ways(bound, rows, list(dict.fromkeys(starts)), methods)
    drawn = list(range(options.seed, options.seed + seeds))
    study = Study(bound, rows, views, ways, _budgets(labels, len(rows)), drawn, options, like)
    facts = {
        "arrow": str(bound),
        "data": table.fingerprint,
        "rows": len(rows),
        "test": seen.fingerprint,
        "tested": len(views[TEST]),
        "shift": views[SHIFT].table.fingerprint if SHIFT in views else None,
        "starts": {start: found.fingerprint for start, found in opened.items()},
        "ways": [asdict(way) for way in ways],
        "labels": study.labels,
        "seeds": study.seeds,
        "options": asdict(options),
        "scratch is like": like,
        "versions": folder.versions(),
    }
    return study, facts


def _ways(arrow: Arrow, rows: Rows, starts: list[str], methods: Sequence[str]) -> list[Way]:
    """What reads nothing, what reads without pretraining, then every start by every method."""
    for method in methods:
        if method not in METHODS:
            raise UsageError(f"no method {method!r} to compare{near(method, METHODS)}; there are: {', '.join(METHODS)}")
    found = [Way("always the commonest answer", BLIND)]
    known = [
        kinds.source(port.kind).classical(values) for port, values in zip(arrow.sources, rows.sources, strict=True)
    ]
    names = [classical.name for classical in known if classical is not None]
    if names:
        found.append(Way(f"{' and '.join(dict.fromkeys(names))}, linear", CLASSICAL))
    for start in starts:
        if start == SCRATCH:  # nothing there to probe, or to draw together
            found.append(Way(f"{SCRATCH}, full", "full"))
        else:
            found += [Way(f"{Path(start).name}, {method}", method, start) for method in methods]
    names = [way.name for way in found]
    return [replace(way, name=f"{way.start}, {way.method}") if names.count(way.name) > 1 else way for way in found]


def _budgets(labels: Sequence[int | str], rows: int) -> list[int]:
    found = []
    for wanted in labels:
        if str(wanted) != ALL and not str(wanted).isdecimal():
            raise UsageError(f"--labels takes numbers and {ALL!r}, not {str(wanted)!r}")
        count = rows if str(wanted) == ALL else int(wanted)
        if count > rows:
            raise UsageError(f"--labels {count} is more than the {rows:,} rows there are; {ALL!r} takes them all")
        if count < 2:
            raise UsageError(f"--labels {count} is too few: two classes need two rows")
        found.append(count)
    if not found:
        raise UsageError("--labels names no number of labels")
    return sorted(set(found))


def _views(arrow: Arrow, tested: Table, shift: Any, targets: Sequence[Target], options: Options) -> dict[str, Rows]:
    """The test rows as they are, and as others would give them; rows from elsewhere."""
    rows = read_rows(bind_to(arrow, tested), tested, read_by(arrow), targets)
    found = {TEST: rows}
    changed = [
        [kinds.source(port.kind).disturbed(value, generator(0, row, 0)) for row, value in enumerate(values)]
        for port, values in zip(arrow.sources, rows.sources, strict=True)
    ]
    for name in changed[0][0]:
        columns = [
            [new.get(name, value) for new, value in zip(news, values, strict=True)]
            for news, values in zip(changed, rows.sources, strict=True)
        ]
        found[name] = replace(rows, sources=columns)
    if shift is not None:
        other = tables.read(shift, encoding=options.encoding)
        read = read_rows(bind_to(arrow, other), other, read_by(arrow), targets)
        require_whole(read, other.rejected, len(other), options.bad_rows)
        found[SHIFT] = read
    return found


@contextmanager
def _outcomes(study: Study, cells: list[Cell], jobs: int) -> Iterator[Iterator[tuple[Cell, Outcome]]]:
    """Each cell with what became of it, in this process or in `jobs` others."""
    if jobs == 1 or len(cells) < 2:
        yield ((cell, fitted(study, cell)) for cell in cells)
        return
    threads = max(1, torch.get_num_threads() // jobs)
    pool = ProcessPoolExecutor(jobs, get_context("spawn"), _enter, (study, threads))
    try:
        waiting = {pool.submit(_fitted, cell): cell for cell in cells}
        yield ((waiting[ended], ended.result()) for ended in as_completed(waiting))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


_STUDY: list[Study] = []


def _enter(study: Study, threads: int) -> None:
    torch.set_num_threads(threads)
    _STUDY[:] = [study]


def _fitted(cell: Cell) -> Outcome:
    return fitted(_STUDY[0], cell)


class _Meter(Progress):
    """Counts the tokens that a fit reads."""

    tokens = 0

    def step(self, step: int, steps: int, tokens: int, seconds: float, loss: float, rate: float) -> None:
        self.tokens = tokens


def fitted(study: Study, cell: Cell) -> Outcome:
    """Fit one cell, and score it on every view."""
    _forget_peak()
    meter, began = _Meter(), time.monotonic()
    rows = study.drawn(cell.labels, cell.seed)
    if cell.way.method in (BLIND, CLASSICAL):
        target, answer = _without_pretraining(study, rows, cell)
        seconds = time.monotonic() - began
    else:
        mapping = train.fit(
            str(study.arrow),
            study.pool.table.select(rows.rows),
            start=cell.way.start,
            like=study.like if cell.way.start is None else None,
            options=_options(study.options, cast(Method, cell.way.method), cell.seed),
            progress=meter,
        )
        seconds = time.monotonic() - began
        predictor = Predictor(mapping, study.options.device, study.options.precision)
        target = mapping.targets[study.port]

        def answer(view: Rows) -> Tensor:
            return _outputs(predictor.mapping, study.arrow, view, study.port, predictor.device)

    outputs = {name: answer(view) for name, view in study.views.items()}
    gains = {}
    for name, view in study.views.items():
        found = target.gains(outputs[name], view.targets[study.port])
        assert found is not None
        gains[name] = torch.from_numpy(found)
    figures = target.figures(outputs[TEST], study.views[TEST].targets[study.port])
    values = {name: float(metric(*arrays)) for name, (metric, *arrays) in figures.items()}
    return Outcome(outputs[TEST], gains, target.state(), values, seconds, meter.tokens, _peak())


def _options(options: Options, method: Method, seed: int) -> Options:
    """The options for one fit: those that this method could only ignore are left out."""
    usual = Options()
    unused: dict[str, Any] = {name: getattr(usual, name) for name in idle(method, options)}
    return replace(options, method=method, seed=seed, **unused)


def _outputs(mapping: Mapping, arrow: Arrow, rows: Rows, port: int, device: torch.device) -> Tensor:
    encoded = encode(arrow, rows, mapping.sources, mapping.config.longest, "cut")
    return pooled_outputs(mapping, asking(mapping, encoded), len(rows), port, device)


def _without_pretraining(study: Study, rows: Rows, cell: Cell) -> tuple[Target, Any]:
    """A target that has learnt the classes, and the outputs (n, …) of any rows."""
    target = kinds.target(study.arrow.targets[study.port].kind)()
    target.learn(rows.targets[study.port], study.options.balance)
    values = np.array([target.encode(answer, ()).values for answer in rows.targets[study.port]])
    if cell.way.method == BLIND:
        said = target.blind(values)
        assert said is not None
        return target, lambda view: said.expand(len(view), -1).clone()
    from scipy.sparse import hstack  # a second to import

    made = [
        (at, classical.features)
        for at, port in enumerate(study.arrow.sources)
        if (classical := kinds.source(port.kind).classical(rows.sources[at])) is not None
    ]

    def features(view: Rows) -> Any:
        return hstack([of(view.sources[at]) for at, of in made], format="csr")

    fitted = target.probe(features(rows), values, cell.seed)
    assert fitted is not None
    weight, bias = (part.numpy() for part in fitted)
    return target, lambda view: torch.from_numpy(features(view) @ weight.T + bias).float()


def _forget_peak() -> None:
    """Begin to measure the most memory anew, where the system can."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak() -> float | None:
    """Megabytes this process held at most."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024
    return None


def _require_same(out: Path, facts: dict[str, Any]) -> None:
    """Raise UsageError when the folder holds something else than this comparison."""
    if not (out / PLAN).exists():
        if set(os.listdir(out)) - {folder.LOCK, f"{checkpoint.TEMPORARY}{PLAN}"}:
            raise UsageError(f"{out} holds other files; choose another --out")
        return
    try:
        held = checkpoint.read_sealed(out / PLAN)
    except CheckpointError as error:
        raise UsageError(f"{error}; begin again with --overwrite") from error
    if differing := sorted(name for name in facts if held.get(name) != facts[name]):
        raise UsageError(
            f"{out} holds a comparison with other {', '.join(differing)}; choose another --out, or add --overwrite"
        )


def _keep(out: Path, cell: Cell, outcome: Outcome) -> None:
    """Write a finished cell; it is whole, or not there."""
    tensors = {"output": outcome.output, **{f"gains.{name}": gains for name, gains in outcome.gains.items()}}
    state = {name: getattr(outcome, name) for name in ("target", "figures", "seconds", "tokens", "peak")}
    checkpoint.save(out / CELLS / cell.name, tensors, state)


def _kept(study: Study, out: Path, progress: Progress) -> dict[Cell, Outcome]:
    """The finished cells in a folder; a damaged one is made again."""
    found = {}
    for cell in study.cells:
        path = out / CELLS / cell.name
        if not path.exists():
            continue
        try:
            tensors, state = checkpoint.load(path)
        except CheckpointError as error:
            progress.say(f"{error}; this fit is made again")
            continue
        output = tensors.pop("output")
        gains = {name.removeprefix("gains."): tensor for name, tensor in tensors.items()}
        found[cell] = Outcome(output, gains, **state)
    return found
