"""Experiment design of a comparison: the candidates, the numbers of labels, the seeds, and the rows to score on.

A candidate is a starting model with a fitting method, or a baseline that needs no pretraining. Each seed draws labelled
rows at random, stratified by class; the smaller samples of a seed are part of its larger ones. All arguments and all
data are checked here, before the first fit.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mapsto import kinds
from mapsto.comparison.start_overlap import OVERLAP_MARK, StartOverlap, find_start_overlaps
from mapsto.data.checks import find_leaks
from mapsto.data.grouping.row_groups import describe_intervals, find_independent_groups
from mapsto.data.rows import (
    Rows,
    bind_to,
    fingerprint_rows,
    fold_labels,
    load_rows,
    report_skipped,
    require_readable,
    set_aside_unlabelled,
)
from mapsto.data.split import check_data, drop_leaks, require_held_out, split_indices
from mapsto.data.table import Int64s, Table, read_table
from mapsto.data.weights import leave_out_weights
from mapsto.errors import Finding, UsageError, near
from mapsto.evaluation.evaluate import Predictions
from mapsto.evaluation.linear_baseline import baseline_name, feature_names
from mapsto.evaluation.matching import ranker_name
from mapsto.fitting.answer_way import choose_answer_way
from mapsto.fitting.build_model import make_config, starting_sources
from mapsto.fitting.method import FEW_LABELS
from mapsto.fitting.run_data import learn_answers, make_targets
from mapsto.fitting.starting_model import open_start
from mapsto.options import SET_BY_COMPARE, Method, Options
from mapsto.pretrained import model_folder
from mapsto.progress import Progress
from mapsto.sequence.corruption import make_generator
from mapsto.task.arrow import Arrow, parse
from mapsto.task.source import Source
from mapsto.task.source_capabilities import Describable
from mapsto.task.target import Target
from mapsto.task.target_capabilities import Comparable, Extracted, Free, LinearProbe, TwiceRead, has_exclusive_classes

# Words of the command line: a starting model with random weights, and all labelled rows.
SCRATCH, ALL = "scratch", "all"

METHODS: tuple[Method, ...] = ("full", "probe", "contrast")

# Methods of the baselines, as they stand in saved comparisons: a constant answer, and a linear model on classical
# features.
CONSTANT, CLASSICAL = "blind", "classical"

# Names of the test sets: the test rows, and the rows of --shift. Perturbed test rows have the name of the perturbation.
TEST, SHIFT = "test", "shift"

TEST_SHARE = 0.2  # of the rows, where no test table is given


@dataclass(frozen=True)
class Request:
    """The arguments of `mapsto.compare` as the user gives them, before any check."""

    arrow: str
    # The table from which training rows are drawn, and the table to score on: anything that `read_table` takes. Without
    # `test`, a part of `data` is held out.
    data: Any
    test: Any = None
    # Model folders, hub names and "scratch".
    starts: Sequence[str] = (SCRATCH,)
    # Numbers of labelled rows, or "all".
    labels: Sequence[int | str] = (16, 64, 256, ALL)
    # How many times the labelled rows are drawn; each draw is one fit of every candidate.
    seeds: int = 5
    methods: Sequence[str] = METHODS
    # A table from another distribution to score on too.
    shift: Any = None
    options: Options = field(default_factory=Options)
    # Whether starting models that were fitted to rows of the comparison are compared too, marked.
    allow_overlap: bool = False


@dataclass(frozen=True)
class Candidate:
    """A model to compare: a starting model with a fitting method, or a baseline that needs no pretraining.

    method: one of METHODS, or CONSTANT or CLASSICAL for a baseline.
    start: the starting model; None for random weights and for baselines.
    """

    name: str
    method: str
    start: str | None = None


@dataclass(frozen=True)
class Fit:
    """One fit of the experiment: a candidate fitted to `num_labels` labelled rows.

    seed: seed of the random draw of these rows and of the training.
    """

    candidate: Candidate
    num_labels: int
    seed: int

    @property
    def folder_name(self) -> str:
        """Return the name of the saved fit's folder: readable, and made unique by a digest of the candidate.

        The digested text begins with "Way(", the class's former name, so that folders written earlier are still found.
        """
        candidate = self.candidate
        readable = re.sub(r"[^0-9a-z]+", "-", candidate.name.lower()).strip("-")
        identity = f"Way(name={candidate.name!r}, method={candidate.method!r}, start={candidate.start!r})"
        # The path of a starting model may have bytes that are not UTF-8.
        digest = hashlib.sha256(identity.encode(errors="backslashreplace")).hexdigest()[:8]
        return f"{readable}-{self.num_labels}-{self.seed}-{digest}"


@dataclass(frozen=True)
class Design:
    """The checked design of a comparison: which models are fitted to which rows, and which rows they are scored on.

    pool: the labelled rows from which training rows are drawn.
    test_sets: by name, the test rows, perturbed copies of them, and the rows of --shift.
    label_counts: the numbers of labelled rows to fit to, in ascending order; the last may be all rows of the pool.
    scratch_like: the starting model whose architecture and tokenizer random weights get; None for mapsto's defaults.
    findings: problems found in the data. overlaps: by starting model, the rows here that it was fitted to before, if
        any.
    """

    arrow: Arrow
    pool: Rows
    test_sets: dict[str, Rows]
    candidates: list[Candidate]
    label_counts: list[int]
    seeds: list[int]
    options: Options
    scratch_like: str | None
    findings: Sequence[Finding] = ()
    overlaps: dict[str, StartOverlap] = field(default_factory=dict)

    @property
    def port(self) -> int:
        """Return the index of the compared target port: the first one whose kind of target has a score for every row."""
        answer_kinds = kinds.answering(self.arrow)
        return next(port for port, target in enumerate(answer_kinds) if issubclass(target, Comparable))

    @property
    def target(self) -> type[Comparable]:
        """Return the Python class of the compared target, as baselines have it."""
        return self.target_class(aligned=False)

    def target_class(self, aligned: bool) -> type[Comparable]:
        """Return the Python class of the compared target. aligned: whether it reads its answers along the source."""
        target = kinds.answering(self.arrow.align([self.port] if aligned else []))[self.port]
        assert issubclass(target, Comparable)
        return target

    @property
    def metric(self) -> str:
        """Return the name of the compared metric, such as "accuracy"."""
        return self.target.primary_metric

    @cached_property
    def fits(self) -> list[Fit]:
        """Return all fits in ascending order of the number of labels, so that the quickest come first.

        Contrastive fits are left out for a number of labels at which any seed's training rows do not suit them: more
        than FEW_LABELS rows per class, or no two classes with two rows each.
        """
        return [
            Fit(candidate, num_labels, seed)
            for num_labels in self.label_counts
            for seed in self.seeds
            for candidate in self.candidates
            if candidate.method != "contrast" or all(self._can_contrast(num_labels, draw) for draw in self.seeds)
        ]

    def training_rows(self, num_labels: int, seed: int) -> Rows:
        """Return `num_labels` pool rows, drawn by a seed and stratified by class; they contain the seed's smaller samples."""
        return self.pool.select(stratified_order(self._strata, seed)[:num_labels])

    @property
    def _strata(self) -> list[Any]:
        """Return the class of every pool row, by which samples are stratified.

        All entries are None, which is a single stratum, if answers are not exactly one class.
        """
        return self.pool.targets[self.port] if has_exclusive_classes(self.target) else [None] * len(self.pool)

    def group_numbers(self, test_set: str) -> Int64s | None:
        """Return the number of the group of each test row, (n,), which intervals are over; None if there are no groups."""
        # Rows of --shift have groups of their own, and perturbed rows have those of the test rows.
        groups = find_independent_groups(self.test_sets[test_set], self.options.group)
        return None if groups is None or groups.count < 2 else groups.numbers

    @property
    def test_units(self) -> str:
        """Return the unit over which intervals are computed: "rows", or groups of test rows."""
        groups = find_independent_groups(self.test_sets[TEST], self.options.group)
        return "rows" if groups is None or groups.count < 2 else f"rows by {groups}, {groups.count:,} groups"

    def predictions(self, target: Target, output: Tensor) -> Predictions:
        """Return the outputs (n, …) of a fit for the test rows, together with these rows and their labels.

        target: the target object of the fit, which decodes the outputs.
        """
        rows = self.test_sets[TEST]
        return Predictions(self.arrow, target, rows, rows.targets[self.port], output, port=self.port)

    def _can_contrast(self, num_labels: int, seed: int) -> bool:
        """Return whether contrastive fitting is worth a try on the training rows of a seed.

        It is if they have at most FEW_LABELS rows per class on average, and two classes with at least two rows each.
        """
        class_sizes = Counter(self._strata[row] for row in stratified_order(self._strata, seed)[:num_labels])
        is_few = num_labels <= FEW_LABELS * len(set(self._strata))
        return is_few and sum(size > 1 for size in class_sizes.values()) > 1


def stratified_order(strata: Sequence[Any], seed: int) -> Any:
    """Return row indices (n,) in a random order of which every prefix is a stratified sample.

    First comes one row of each class, the most frequent class first. Then rows of all classes follow in proportion to
    their sizes.
    strata: the class of each row.
    """
    # Stream 1 of the seed; stream 0 belongs to the bootstrap.
    rng = np.random.Generator(np.random.Philox(key=[seed, 1]))
    order = rng.permutation(len(strata))
    class_sizes = Counter(strata)
    num_ranked: Counter[Any] = Counter()
    rank = np.empty(len(strata))
    for row in order.tolist():
        stratum = strata[row]
        size = class_sizes[stratum]
        # The i-th row of a class of size n ranks at (i + ½)/n, which interleaves classes in proportion to their sizes.
        # The first row of a class ranks below 0, so that the smallest samples already have every class.
        rank[row] = (num_ranked[stratum] + 0.5) / size if num_ranked[stratum] else -size
        num_ranked[stratum] += 1
    return order[np.argsort(rank[order], kind="stable")]


def plan(request: Request, progress: Progress) -> tuple[Design, dict[str, Any]]:
    """Check the arguments and the data; return the design and the facts that identify the comparison.

    The facts are a dict of everything that the results depend on, such as fingerprints of the data.
    Raises UsageError for unsuitable arguments, DataError for unusable rows, CheckpointError for a damaged starting
    model.
    """
    options = request.options
    _check_arguments(request)
    parsed = parse(request.arrow)
    table = read_table(request.data, options.text_format)
    arrow = bind_to(parsed, leave_out_weights(parsed, table, options.weight))
    table = _drop_unlabelled(arrow, table, options, "", progress)
    if arrow.corrupted or not any(issubclass(target, Comparable) for target in kinds.answering(arrow)):
        raise UsageError(f"compare needs answers with a score, such as labels; {arrow} has none")
    targets = make_targets(arrow, options)
    test_table = None
    if request.test is not None:
        test_table = _drop_unlabelled(
            arrow, read_table(request.test, options.text_format), options, "--test: ", progress
        )
    if options.fold_labels:
        table, test_table = fold_labels(arrow, table, test_table, progress.say)
    pool = load_rows(arrow, table)
    report_skipped(require_readable(pool, options.row_policy), "the rows", progress.say)
    # A dry run: labels that nothing can be learnt from fail here, and not after an hour of fits.
    for target, labels in zip(targets, pool.targets, strict=True):
        learn_answers(target, labels, options)  # raises DataError for labels that nothing can be learnt from
    if test_table is None:
        pool_indices, test_indices = split_indices(pool, TEST_SHARE, options.seed, progress.say, options.group)
        require_held_out(test_indices, options)
        test_table = pool.select(test_indices).own_table()
        progress.say(f"no --test: {len(test_indices):,} of the {len(pool):,} rows are held out as test rows")
        pool = pool.select(pool_indices)
    # Rows that are also in the pool would make the scores too good.
    test_table_left, findings = check_data(pool, test_table, options, progress.say)
    assert test_table_left is not None
    test_sets = _test_sets(arrow, test_table_left)
    if request.shift is not None:
        test_sets[SHIFT] = _read_shift(request, arrow, pool, progress)
    for note in describe_intervals(test_sets[TEST], options.group):
        progress.say(f"note: {note}")
    starts = {start: open_start(start) for start in dict.fromkeys(request.starts) if start != SCRATCH}
    for start in starts.values():
        # Both calls are checks: they raise UsageError if the starting model has other source kinds, or another shape
        # than the options ask for.
        starting_sources(start, choose_answer_way(arrow, start, options.architecture))
        make_config(start, options, pretraining=False)
    scored = {name: test_sets[name] for name in (TEST, SHIFT) if name in test_sets}
    overlaps = find_start_overlaps(starts, pool, scored, request.allow_overlap, progress.say)
    design = Design(
        arrow=arrow,
        pool=pool,
        test_sets=test_sets,
        candidates=_mark(_candidates(arrow, list(dict.fromkeys(request.starts)), request.methods), overlaps),
        label_counts=_label_counts(request.labels, len(pool)),
        seeds=list(range(options.seed, options.seed + request.seeds)),
        options=options,
        scratch_like=next(iter(starts), None),
        findings=findings,
        overlaps=overlaps,
    )
    design = _drop_unused_candidates(design, progress)
    fingerprints = {name: start.fingerprint for name, start in starts.items()}
    return design, _facts(design, fingerprints)


def _drop_unlabelled(arrow: Arrow, table: Table, options: Options, name: str, progress: Progress) -> Table:
    """Return a table without the rows that have no label, and print their number. name: the option of the table, for the line."""
    if options.unlabelled == "predict":
        raise UsageError("a comparison answers no rows without a label: --unlabelled is stop or drop here")
    labelled, rest = set_aside_unlabelled(arrow, table, options.unlabelled)
    if rest is not None:
        progress.say(f"note: {name}{len(rest):,} rows have no label and are left out")
    return labelled


def _check_arguments(request: Request) -> None:
    """Raise UsageError for arguments that need no data to be refused: no seed, no starting model, or one of SET_BY_COMPARE."""
    default = Options()
    fixed = [f"--{name}" for name in SET_BY_COMPARE if getattr(request.options, name) != getattr(default, name)]
    if fixed:
        raise UsageError(f"{', '.join(fixed)}: a comparison sets this itself")
    request.options.require_use(corrupted=False)
    if request.seeds < 1:
        raise UsageError(f"--seeds must be above 0, not {request.seeds}")
    if not request.starts:
        raise UsageError(f"--starts names no starting model; {SCRATCH} is random weights")


def _facts(design: Design, start_fingerprints: dict[str, str | None]) -> dict[str, Any]:
    """Return the facts to save in compare.json. A comparison may only be resumed if its saved facts equal the new ones.

    start_fingerprints: by name of the starting model, a digest of its weights.
    """
    test_sets = design.test_sets
    return {
        "arrow": str(design.arrow),
        "data": fingerprint_rows(design.pool),
        "rows": len(design.pool),
        "test": fingerprint_rows(test_sets[TEST]),
        "tested": len(test_sets[TEST]),
        "shift": fingerprint_rows(test_sets[SHIFT]) if SHIFT in test_sets else None,
        "starts": start_fingerprints,
        # Some keys are older than the names in code; they stay, so that saved comparisons can be resumed.
        "ways": [asdict(candidate) for candidate in design.candidates],
        "labels": design.label_counts,
        "seeds": design.seeds,
        "options": asdict(design.options),
        "scratch is like": design.scratch_like,
        "versions": model_folder.versions(),
    }


def _candidates(arrow: Arrow, starts: list[str], methods: Sequence[str]) -> list[Candidate]:
    """Return the constant baseline, the linear baseline, then every starting model with every method.

    A baseline is left out if the arrow's kinds do not offer it. Random weights have the method "full" only. A target
    without a linear probe has no linear baseline and only the method "full".
    Raises UsageError for an unknown method.
    """
    for method in methods:
        if method not in METHODS:
            raise UsageError(f"no method {method!r} to compare{near(method, METHODS)}; there are: {', '.join(METHODS)}")
    target = next(target for target in kinds.answering(arrow) if issubclass(target, Comparable))
    has_probe = issubclass(target, LinearProbe)
    methods = methods if has_probe else ("full",)
    candidates = [Candidate(target.constant_rule, CONSTANT)] if target.constant_rule else []
    if (features := feature_names(arrow)) and has_probe:
        candidates.append(Candidate(f"{' and '.join(features)}, linear", CLASSICAL))
    if arrow.symmetric and (ranker := ranker_name(arrow)):
        candidates.append(Candidate(ranker, CLASSICAL))
    if issubclass(target, Extracted | Free):
        candidates.append(Candidate(baseline_name(arrow, target), CLASSICAL))
    for start in starts:
        if start == SCRATCH:  # random weights have no representation to probe or to contrast
            candidates.append(Candidate(f"{SCRATCH}, full", "full"))
        else:
            candidates += [Candidate(f"{Path(start).name}, {method}", method, start) for method in methods]
    # Two folders may have the same name; then the whole path tells which.
    names = [candidate.name for candidate in candidates]
    return [
        replace(candidate, name=f"{candidate.start}, {candidate.method}")
        if candidate.start and names.count(candidate.name) > 1
        else candidate
        for candidate in candidates
    ]


def _mark(candidates: list[Candidate], starts: Collection[str]) -> list[Candidate]:
    """Return the candidates; those whose starting model is in `starts` get OVERLAP_MARK at the end of their names."""
    return [
        replace(candidate, name=f"{candidate.name} {OVERLAP_MARK}") if candidate.start in starts else candidate
        for candidate in candidates
    ]


def _drop_unused_candidates(design: Design, progress: Progress) -> Design:
    """Return the design without the candidates that have no fit, and print a note that names them."""
    used = {fit.candidate for fit in design.fits}
    if unused := [candidate.name for candidate in design.candidates if candidate not in used]:
        reason = f"contrast compares two rows of two classes, and is for up to {FEW_LABELS} labels a class"
        progress.say(f"note: left out: {', '.join(unused)}; {reason}")
        design = replace(design, candidates=[candidate for candidate in design.candidates if candidate in used])
    return design


def _label_counts(labels: Sequence[int | str], num_rows: int) -> list[int]:
    """Return the numbers of --labels in ascending order; "all" becomes `num_rows`.

    num_rows: the number of rows in the pool.
    Raises UsageError for no number, for text that is no number, and for numbers below 2 or above `num_rows`.
    """
    counts = set()
    for text in map(str, labels):
        if text != ALL and not text.isdecimal():
            raise UsageError(f"--labels takes numbers and {ALL!r}, not {text!r}")
        count = num_rows if text == ALL else int(text)
        if count > num_rows:
            raise UsageError(f"--labels {count} is more than the {num_rows:,} rows there are; {ALL!r} takes them all")
        if count < 2:
            raise UsageError(f"--labels {count} is too few: two classes need two rows")
        counts.add(count)
    if not counts:
        raise UsageError("--labels names no number of labels")
    return sorted(counts)


def _test_sets(arrow: Arrow, table: Table) -> dict[str, Rows]:
    """Return the test rows (TEST) and their perturbed copies, each by name.

    A perturbation, such as typing errors, does not change a value's meaning. The kind of the first source decides which
    perturbations are made.
    """
    rows = load_rows(arrow, table)
    test_sets = {TEST: rows}
    variants = [
        [_perturb(kinds.source(port.kind), value, row) for row, value in enumerate(values)]
        for port, values in zip(arrow.sources, rows.sources, strict=True)
    ]
    are_bound = any(issubclass(target, Extracted | TwiceRead) for target in kinds.answering(arrow))
    # All rows of a kind have the same perturbations, so that the first row names them.
    for name in variants[0][0]:
        # A changed text of another length no longer has the spans of its label, nor its spoken letters, where they were.
        if are_bound and not _keep_lengths(name, variants, rows):
            continue
        columns = [
            [variant.get(name, value) for variant, value in zip(column_variants, values, strict=True)]
            for column_variants, values in zip(variants, rows.sources, strict=True)
        ]
        test_sets[name] = replace(rows, sources=columns)
    return test_sets


def _keep_lengths(name: str, variants: list[list[dict[str, Any]]], rows: Rows) -> bool:
    """Return whether a perturbation leaves each value as long as it was. variants: of each row, by source port."""
    return all(
        len(variant.get(name, value)) == len(value)
        for column_variants, values in zip(variants, rows.sources, strict=True)
        for variant, value in zip(column_variants, values, strict=True)
    )


def _perturb(kind: type[Source], value: Any, row: int) -> dict[str, Any]:
    """Return variants of a value with the same meaning, by name of the perturbation; empty if `kind` has no perturbations.

    row: number of the test row, which seeds the random changes.
    """
    # The seed is fixed, so that all fits are scored on the same perturbed rows.
    return kind.perturb(value, make_generator(0, row, 0)) if issubclass(kind, Describable) else {}


def _read_shift(request: Request, arrow: Arrow, pool: Rows, progress: Progress) -> Rows:
    """Read the rows of --shift; leave out rows that cannot be read, and rows that are also in the pool.

    Raises DataError if there is such a row, unless `--bad-rows skip` allows to leave it out.
    """
    options = request.options
    table = _drop_unlabelled(arrow, read_table(request.shift, options.text_format), options, "--shift: ", progress)
    if options.fold_labels:
        _, folded = fold_labels(arrow, pool.table, table, progress.say)
        table = table if folded is None else folded
    rows = load_rows(arrow, table)
    report_skipped(require_readable(rows, options.row_policy), "--shift", progress.say)
    table_left = drop_leaks(find_leaks([pool], rows), table, options, progress.say, "--shift")
    if table_left is table:
        return rows
    return load_rows(arrow, table_left)
