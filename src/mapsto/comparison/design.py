"""What is compared: which ways to an answer, with how many labels, on which rows. All that can be wrong is found here.

One fit is a cell: a way, a number of labels, a seed. `cells.py` runs them, `comparison.py` says what they mean.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mapsto import kinds
from mapsto.data.checks import seen
from mapsto.data.rows import Rows, bind_to, read_rows, require_whole
from mapsto.data.split import apart, examined, without
from mapsto.data.table import Table, read_table
from mapsto.errors import Finding, UsageError, near
from mapsto.evaluation.evaluate import Predictions
from mapsto.fitting.build import make_config, started_sources
from mapsto.fitting.hyperparameters import FEW_LABELS
from mapsto.fitting.setup_checks import made_targets
from mapsto.fitting.setup_table import fingerprint_of
from mapsto.fitting.start import begin
from mapsto.options import Method, Options
from mapsto.pretrained import model_folder
from mapsto.progress import Progress
from mapsto.sequence.corruption import generator
from mapsto.task.arrow import Arrow, parse
from mapsto.task.capabilities import Comparable, Describable, LinearProbe, has_exclusive_classes
from mapsto.task.source import Source
from mapsto.task.target import Target

SCRATCH = "scratch"


METHODS: tuple[Method, ...] = ("full", "probe", "contrast")


ALL = "all"


TEST_SHARE = 0.2


# Options of `fit` that a comparison decides itself.
DECIDED = ("method", "minutes", "steps", "tensorboard", "shard", "words")


TEST, SHIFT = "test", "shift"


CLASSICAL, BLIND = "classical", "blind"


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
        """A name for its folder: what a person looks for, and what tells ways apart whose names look alike there."""
        spelt = re.sub(r"[^0-9a-z]+", "-", self.way.name.lower()).strip("-")
        digest = hashlib.sha256(repr(self.way).encode(errors="backslashreplace")).hexdigest()[:8]
        return f"{spelt}-{self.labels}-{self.seed}-{digest}"


@dataclass(frozen=True)
class Study:
    """What is compared, on which rows. views: the test rows, as they are and disturbed, and rows from elsewhere.

    labels: numbers of labels, the last may be all rows. like: whose shape and tokenizer random weights take. findings: what
    looks wrong in the data.
    """

    arrow: Arrow
    pool: Rows
    views: dict[str, Rows]
    ways: list[Way]
    labels: list[int]
    seeds: list[int]
    options: Options
    like: str | None
    findings: Sequence[Finding] = ()

    @property
    def port(self) -> int:
        """The first target that can be compared by."""
        answered = kinds.answering(self.arrow)
        return next(port for port, target in enumerate(answered) if issubclass(target, Comparable))

    @property
    def target(self) -> type[Comparable]:
        """Return the kind of answer that is compared."""
        target = kinds.answering(self.arrow)[self.port]
        assert issubclass(target, Comparable)
        return target

    @property
    def gain(self) -> str:
        """What is compared, in the field's words."""
        return self.target.primary_metric

    @cached_property
    def cells(self) -> list[Cell]:
        """All fits, the cheap ones first."""
        return [
            Cell(way, count, seed)
            for count in self.labels
            for seed in self.seeds
            for way in self.ways
            if way.method != "contrast" or all(self._contrasts(count, each) for each in self.seeds)
        ]

    def drawn(self, count: int, seed: int) -> Rows:
        """`count` rows of the pool: those of a smaller number, and more."""
        return self.pool.select(nested(self._strata, seed)[:count])

    @property
    def _strata(self) -> list[Any]:
        return self.pool.targets[self.port] if has_exclusive_classes(self.target) else [None] * len(self.pool)

    def answers(self, target: Target, output: Tensor) -> Predictions:
        """What a fit said (n, …) of the test rows, to look at closely; `target` knows what it means."""
        rows = self.views[TEST]
        return Predictions(self.arrow, target, rows, rows.targets[self.port], output)

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


def planned(
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
    if not starts:
        raise UsageError(f"--starts names nothing to begin from; {SCRATCH} is random weights")
    wanted = parse(arrow)
    table = read_table(data, encoding=options.encoding)
    bound = bind_to(wanted, table)
    if bound.corrupted or not any(issubclass(target, Comparable) for target in kinds.answering(bound)):
        raise UsageError(f"compare is about answers whose worth can be measured, such as labels; {bound} gives none")
    targets = made_targets(bound, options)
    rows = read_rows(bound, table, kinds.reading(bound), targets)
    require_whole(rows, table.rejected, len(table), options.bad_rows)
    for target, answers in zip(targets, rows.targets, strict=True):
        target.learn(answers, options.balance)  # raises DataError for answers that nothing can be learnt from
    if test is None:
        pool, held = apart(bound, rows, TEST_SHARE, options.seed)
        tested = table.select(rows.rows[held])
        rows = rows.select(pool)
        progress.say(f"no --test: {len(held):,} of the {len(pool) + len(held):,} rows are kept aside to test on")
    else:
        tested = read_table(test, encoding=options.encoding)
    left, findings = examined(bound, rows, tested, targets, options, progress.say)
    assert left is not None
    views = _views(bound, left, targets)
    if shift is not None:
        views[SHIFT] = _from_elsewhere(bound, rows, shift, targets, options, progress)
    opened = {start: begin(start, None) for start in dict.fromkeys(starts) if start != SCRATCH}
    for found in opened.values():
        started_sources(found, bound)  # both raise UsageError: for a start that reads other kinds, or has another shape
        make_config(found, options, pretraining=False)
    like = next(iter(opened), None)
    ways = _ways(bound, list(dict.fromkeys(starts)), methods)
    drawn = list(range(options.seed, options.seed + seeds))
    study = Study(bound, rows, views, ways, _budgets(labels, len(rows)), drawn, options, like, findings)
    fitted = {cell.way for cell in study.cells}
    if idle := [way.name for way in ways if way not in fitted]:
        why = f"contrast compares two rows of two classes, and is for up to {FEW_LABELS} labels a class"
        progress.say(f"note: left out: {', '.join(idle)}; {why}")
        study = replace(study, ways=[way for way in ways if way in fitted])
    facts = {
        "arrow": str(bound),
        "data": fingerprint_of(bound, rows),
        "rows": len(rows),
        "test": fingerprint_of(bound, views[TEST]),
        "tested": len(views[TEST]),
        "shift": fingerprint_of(bound, views[SHIFT]) if SHIFT in views else None,
        "starts": {start: found.fingerprint for start, found in opened.items()},
        "ways": [asdict(way) for way in ways],
        "labels": study.labels,
        "seeds": study.seeds,
        "options": asdict(options),
        "scratch is like": like,
        "versions": model_folder.versions(),
    }
    return study, facts


def _ways(arrow: Arrow, starts: list[str], methods: Sequence[str]) -> list[Way]:
    """What reads nothing, what reads without pretraining, then every start by every method. Answers that are not read from one
    vector have but one method, and nothing reads for them without a model."""
    for method in methods:
        if method not in METHODS:
            raise UsageError(f"no method {method!r} to compare{near(method, METHODS)}; there are: {', '.join(METHODS)}")
    compared = next(target for target in kinds.answering(arrow) if issubclass(target, Comparable))
    pooled = issubclass(compared, LinearProbe)
    methods = methods if pooled else ("full",)
    found = [Way(compared.constant_rule, BLIND)] if compared.constant_rule else []
    sources = (kinds.source(port.kind) for port in arrow.sources)
    features = dict.fromkeys(source.feature_name for source in sources if issubclass(source, Describable))
    if features and pooled:
        found.append(Way(f"{' and '.join(features)}, linear", CLASSICAL))
    for start in starts:
        if start == SCRATCH:  # nothing there to probe, or to draw together
            found.append(Way(f"{SCRATCH}, full", "full"))
        else:
            found += [Way(f"{Path(start).name}, {method}", method, start) for method in methods]
    names = [way.name for way in found]
    return [
        replace(way, name=f"{way.start}, {way.method}") if way.start and names.count(way.name) > 1 else way
        for way in found
    ]


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


def _views(arrow: Arrow, tested: Table, targets: Sequence[Target]) -> dict[str, Rows]:
    """The test rows as they are, and as others would give them."""
    rows = read_rows(bind_to(arrow, tested), tested, kinds.reading(arrow), targets)
    found = {TEST: rows}
    changed = [
        [_perturbed(kinds.source(port.kind), value, row) for row, value in enumerate(values)]
        for port, values in zip(arrow.sources, rows.sources, strict=True)
    ]
    for name in changed[0][0]:
        columns = [
            [new.get(name, value) for new, value in zip(news, values, strict=True)]
            for news, values in zip(changed, rows.sources, strict=True)
        ]
        found[name] = replace(rows, sources=columns)
    return found


def _perturbed(kind: type[Source], value: Any, row: int) -> dict[str, Any]:
    """Return the variants of a test row's value by name; none where its kind has none."""
    return kind.perturb(value, generator(0, row, 0)) if issubclass(kind, Describable) else {}


def _from_elsewhere(
    arrow: Arrow, pool: Rows, shift: Any, targets: Sequence[Target], options: Options, progress: Progress
) -> Rows:
    """Rows from elsewhere. Raises DataError for rows that cannot be read, or that also stand in the pool."""
    other = read_table(shift, encoding=options.encoding)
    read = read_rows(bind_to(arrow, other), other, kinds.reading(arrow), targets)
    require_whole(read, other.rejected, len(other), options.bad_rows)
    left = without(seen(arrow, [pool], read), other, options, progress.say, "--shift")
    return read if left is other else read_rows(bind_to(arrow, left), left, kinds.reading(arrow), targets)
