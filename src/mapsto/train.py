"""fit and pretrain are the same call: read the rows, make or take a model, run the loop, save the mapping."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Mapping as Dict
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mapsto import corpus, folder, kinds
from mapsto import data as tables
from mapsto.arrow import Arrow, parse
from mapsto.begin import (
    Beginning,
    begin,
    make_config,
    make_mapping,
    make_sources,
    sampled_source,
    started_sources,
)
from mapsto.check import doctor
from mapsto.corrupt import Corruption
from mapsto.data import Table
from mapsto.device import choose_device, choose_precision, describe, seed_all
from mapsto.errors import DataError, Finding, UsageError
from mapsto.evaluate import as_scored, evaluate, score_examples
from mapsto.examples import Examples, Rows, bind_to, encode, make_examples, read_rows, require_whole, restores
from mapsto.kinds import Source, Target
from mapsto.loop import Plan, Training
from mapsto.mapping import Mapping, ModelConfig
from mapsto.options import Options
from mapsto.plan import choose_method, make_plan
from mapsto.predict import over
from mapsto.progress import Progress, duration, tensorboard
from mapsto.scores import Score
from mapsto.shards import Shards

PRETRAIN_LENGTH = 128
WATCHED_ROWS = 1000
# Held-out rows are lost to training: with fewer rows than these they cost more than choosing by them gains.
FEWEST_TO_HOLD_OUT, HELD_OUT = 5000, 0.05
FEWEST_TO_HOLD_OUT_TEXT, HELD_OUT_TEXT = 200, 0.02
SHOWN_WARNINGS = 5


def pretrain(what: str, data: Any, out: str | Path | None = None, **given: Any) -> Mapping:
    """`fit` of the arrow from a corrupted value back to itself; `what` is a kind ("text") or an arrow with `~`."""
    return fit(what if "->" in what else f"~{what} -> {what}", data, out, **given)


def fit(
    arrow: str,
    data: Any,
    out: str | Path | None = None,
    *,
    start: str | Path | Mapping | None = None,
    like: str | Path | None = None,
    test: Any = None,
    options: Options | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> Mapping:
    """Train the map that `arrow` names on `data` (a path, a DataFrame, a list of dicts, a data set) and return it.

    start: a folder, hub name or mapping whose weights to begin with. like: a folder whose shape and tokenizer to take
    with random weights. out: the folder of the run; an unfinished run there goes on, exact to the bit. test: rows that
    training never sees, scored at the end. Raises UsageError, DataError, CheckpointError, RunError.
    """
    began = time.monotonic()
    options, progress = options or Options(), progress or Progress()
    wanted = parse(arrow)
    run = None if out is None else Path(out)
    if run is not None:
        folder.require_free(run, overwrite)
    with folder.locked(run):
        work = _prepare(wanted, data, test, begin(start, like), options, progress.say, run, overwrite)
        method, plan = _planned(work, run, began, progress.say)
        training = Training(
            work.mapping,
            work.examples,
            plan,
            work.device,
            run,
            _watcher(work.watched, work.device),
            progress,
            options.workers,
            tensorboard(run) if options.tensorboard and run is not None else None,
        )
        state = training.run()
        scores = _scored(work, progress.say)
        if run is not None:
            reached = {"optimizer": plan.optimizer, "method": method, "steps": state.step, "tokens": state.tokens}
            provenance = {**work.facts, **reached, "seconds": round(state.seconds, 1)}
            folder.save(work.mapping.float(), run, provenance, scores)
            progress.say(f"saved in {run} after {duration(time.monotonic() - began)}")
    return work.mapping


@dataclass(frozen=True)
class Work:
    """Everything a run needs, made from the data and the start alone. `held` are rows of a table kept aside to watch."""

    options: Options
    mapping: Mapping
    beginning: Beginning
    device: torch.device
    examples: Examples
    held: Rows | None
    watched: Examples | None
    test: Table | None
    rejected: Iterable[Finding]
    facts: dict[str, Any]

    @property
    def pretraining(self) -> bool:
        """Whether the arrow puts back what it hides."""
        return self.mapping.arrow.corrupted


@dataclass(frozen=True)
class Material:
    """What a run reads, before there is a model; `examples` gives those to learn from and those to watch.

    data: the fingerprint of it. rows, held_out: how many rows there are of either.
    """

    arrow: Arrow
    config: ModelConfig
    sources: Dict[str, Source]
    targets: Sequence[Target]
    data: str
    rows: int
    held_out: int
    held: Rows | None
    test: Table | None
    rejected: Iterable[Finding]
    examples: Callable[[Mapping], tuple[Examples, Examples]]


def _prepare(
    wanted: Arrow,
    data: Any,
    test: Any,
    beginning: Beginning,
    options: Options,
    say: Callable[[str], None],
    run: Path | None = None,
    overwrite: bool = False,
) -> Work:
    """From files and a start to a mapping and its examples; everything that can be wrong with them is found here."""
    device = choose_device(options.device)
    precision = choose_precision(options.precision, device)
    tested = None if test is None else tables.read(test, encoding=options.encoding)
    for note in beginning.notes:
        say(f"note: {note}")
    if corpus.takes(wanted):
        made = _from_corpus(wanted, data, tested, beginning, options, say, run, overwrite)
    else:
        made = _from_table(wanted, data, tested, beginning, options, say)
    mapping = make_mapping(made.arrow, made.config, made.sources, made.targets, beginning)
    mapping = mapping.to(device).computing_in(precision)
    examples, watched = made.examples(mapping)
    facts = {
        "arrow": str(made.arrow),
        "options": asdict(options),
        "data": made.data,
        "rows": made.rows,
        "held_out": made.held_out,
        "start": beginning.name,
        "start_weights": beginning.fingerprint,
        "tokenizer": {kind: source.fingerprint for kind, source in made.sources.items()},
        "targets": [target.state() for target in made.targets],
        "seed": options.seed,
        "device": describe(device, precision),
        "versions": folder.versions(),
    }
    return Work(
        options=options,
        mapping=mapping,
        beginning=beginning,
        device=device,
        examples=examples,
        held=made.held,
        watched=watched if made.held_out else None,
        test=made.test,
        rejected=made.rejected,
        facts=json.loads(json.dumps(facts)),
    )


def _from_table(
    wanted: Arrow, data: Any, tested: Table | None, beginning: Beginning, options: Options, say: Callable[[str], None]
) -> Material:
    """Rows with answers, all in memory."""
    table = tables.read(data, encoding=options.encoding)
    arrow = bind_to(wanted, table)
    sources = make_sources(beginning, arrow, table, options, say)
    targets, config = _begun(arrow, sources, beginning, options)
    rows = read_rows(arrow, table, sources, targets)
    rejected = require_whole(rows, table.rejected, len(table), options.bad_rows)
    for port, target in enumerate(targets):
        if restores(arrow)[port] is None:
            target.learn(rows.targets[port], options.balance)
    tested = _examined(arrow, rows, tested, sources, targets, options, say)
    kept, held = _split(arrow, rows, options)

    def examples(mapping: Mapping) -> tuple[Examples, Examples]:
        watched = _examples(mapping, held, options, options.seed + 1)
        return _examples(mapping, kept, options, options.seed, say), watched

    return Material(
        arrow, config, sources, targets, table.fingerprint, len(kept), len(held), held, tested, rejected, examples
    )


def _from_corpus(
    wanted: Arrow,
    data: Any,
    tested: Table | None,
    beginning: Beginning,
    options: Options,
    say: Callable[[str], None],
    run: Path | None,
    overwrite: bool,
) -> Material:
    """Values of one corrupted source, as many as there are, in the run's folder."""
    values = data if tables.is_path(data) else tables.read(data)
    arrow = bind_to(wanted, next(tables.stream(values, options.encoding)))
    config = make_config(beginning, options, pretraining=True)
    longest, long, units = _limits(options, config, pretraining=True)
    limits = corpus.Limits(longest, long, units)
    started = started_sources(beginning, arrow)
    fingerprint = tables.fingerprint(values)
    key = {
        "data": fingerprint,
        "column": arrow.sources[0].column,
        "tokenizer": None if started is None else {kind: source.fingerprint for kind, source in started.items()},
        "--vocabulary": options.vocabulary,
        "--encoding": options.encoding,
        "--length": longest,
        "--long": long,
        "--shape": "words" if units else "tokens",
    }
    needed = run is not None and (run / folder.RUN).exists() and not overwrite
    shards = Shards(run, key, say, needed)
    kind = arrow.sources[0].kind
    sources = started or {kind: sampled_source(arrow, tables.stream(values, options.encoding), shards, options, say)}
    targets, config = _begun(arrow, sources, beginning, options)
    corpus.fill(shards, tables.stream(values, options.encoding), arrow, sources[kind], limits)
    read = corpus.Corpus(shards, sources[kind], limits, options.bad_rows)
    read.report(say)
    kept, held, count = read.split(_share(read.rows, True, options), options.seed)

    def examples(mapping: Mapping) -> tuple[Examples, Examples]:
        learnt = Examples(arrow, mapping.sources, kept, None, None, options.seed, _corruption(options))
        return learnt, replace(learnt, pieces=held, seed=options.seed + 1)

    rows = read.rows - count
    return Material(arrow, config, sources, targets, fingerprint, rows, count, None, tested, read.faults(), examples)


def _begun(
    arrow: Arrow, sources: Dict[str, Source], beginning: Beginning, options: Options
) -> tuple[list[Target], ModelConfig]:
    """The targets, beside their sources, and the shape of the model. Everything random begins here."""
    targets = [kinds.target(port.kind)() for port in arrow.targets]
    if options.balance and not any(target.named for target in targets):
        raise UsageError(f"--balance weighs classes, and {arrow} answers none")
    seed_all(options.seed)
    config = make_config(beginning, options, arrow.corrupted)
    for target in targets:
        target.beside(sources.get(target.kind), config.vocabulary_head)
    return targets, config


def _examined(
    arrow: Arrow,
    rows: Rows,
    tested: Table | None,
    sources: Dict[str, Source],
    targets: Sequence[Target],
    options: Options,
    say: Callable[[str], None],
) -> Table | None:
    """The rows of the test that training does not see. Stops when there are others, and says what else looks wrong."""
    if arrow.corrupted:
        return tested
    held = None if tested is None else read_rows(bind_to(arrow, tested), tested, sources, targets)
    if tested is not None and held is not None:
        require_whole(held, tested.rejected, len(tested), options.bad_rows)
    report = doctor(arrow, rows, held)
    for finding in report.warnings[:SHOWN_WARNINGS]:
        say(f"note: {finding}")
    if len(report.warnings) > SHOWN_WARNINGS:
        say(f"note: {len(report.warnings) - SHOWN_WARNINGS} more; `mapsto check` lists them all")
    if not report.leaks or tested is None:
        return tested
    if options.bad_rows == "stop":
        raise DataError(
            f"{len(report.leaks)} rows of the test also stand in the training data; take them out of one of the two, "
            "or score without them with --bad-rows skip:",
            report.leaks,
        )
    say(f"note: {len(report.leaks)} rows of the test also stand in the training data and are not scored")
    leaked = {(finding.file, finding.row) for finding in report.leaks}
    return tested.select(row for row in range(len(tested)) if tested.origin(row) not in leaked)


def _share(rows: int, pretraining: bool, options: Options) -> float:
    """The share of the rows to hold out."""
    if options.hold_out is not None:
        return options.hold_out
    fewest, share = (FEWEST_TO_HOLD_OUT_TEXT, HELD_OUT_TEXT) if pretraining else (FEWEST_TO_HOLD_OUT, HELD_OUT)
    return min(share, WATCHED_ROWS / rows) if rows >= fewest else 0.0


def _split(arrow: Arrow, rows: Rows, options: Options) -> tuple[Rows, Rows]:
    """Rows to learn from and rows held out to watch; equal values never stand on both sides."""
    share = _share(len(rows), arrow.corrupted, options)
    if not share:
        return rows, rows.select(np.zeros(0, np.int64))
    groups = [tuple(map(str, values)) for values in zip(*rows.sources, strict=True)]
    strata = next((rows.targets[i] for i, port in enumerate(arrow.targets) if kinds.target(port.kind).named), None)
    kept, held = tables.split(len(rows), groups, strata, share, options.seed)
    return rows.select(kept), rows.select(held)


def _examples(
    mapping: Mapping, rows: Rows, options: Options, seed: int, say: Callable[[str], None] | None = None
) -> Examples:
    """The rows as examples, long ones treated as the options say."""
    arrow = mapping.arrow
    longest, long, aligned = _limits(options, mapping.config, arrow.corrupted)
    encoded = encode(arrow, rows, mapping.sources, longest, long, aligned)
    if say is not None and len(encoded.long):
        lost = (
            f"{encoded.lost:,} of {encoded.total:,} tokens were cut off"
            if encoded.lost
            else "they were cut into windows"
        )
        say(f"{len(encoded.long):,} of {len(rows):,} rows are longer than {longest} tokens: {lost}")
    return make_examples(arrow, rows, encoded, mapping.sources, mapping.targets, seed, _corruption(options))


def _corruption(options: Options) -> Corruption:
    return Corruption(options.hide, options.hide / 2, options.shape)


def _limits(options: Options, config: ModelConfig, pretraining: bool) -> tuple[int, str, bool]:
    """The longest example in tokens, what happens to longer rows, and whether words must be known. Raises UsageError."""
    most = config.transformer.longest
    if options.length is not None and options.length > most:
        raise UsageError(f"--length {options.length} is more than the {most} tokens that this model takes")
    longest = options.length or min(most, PRETRAIN_LENGTH if pretraining else most)
    long: str = options.long if options.long != "auto" else "window" if pretraining else "cut"
    return longest, long, pretraining and options.shape in ("word", "span")


def _planned(work: Work, run: Path | None, began: float, say: Callable[[str], None]) -> tuple[str, Plan]:
    """The method and the numbers of the run: the recorded ones of an unfinished run, else chosen now and recorded."""
    options, mapping = work.options, work.mapping
    method = choose_method(options, mapping, work.beginning, work.facts["rows"], work.pretraining)
    recorded = None if run is None else folder.recorded_run(run, work.facts, options, say)
    if "probe" in method:
        probe(mapping, work.examples, work.device, options.seed)
    if recorded is not None:
        plan = Plan(**recorded)
        plan = replace(plan, save_every=options.save_every or plan.save_every)
    else:
        plan = make_plan(options, mapping, work.examples, work.beginning, method, work.device, work.pretraining, began)
        if run is not None:
            write_rejected(run, work.rejected)
            folder.record_run(run, work.facts, asdict(plan))
    parameters = sum(p.numel() for p in mapping.parameters())
    held = f" + {work.facts['held_out']:,} held out" if work.facts["held_out"] else ""
    how = f"{plan.steps:,} steps of {plan.batch}, {plan.optimizer}" if plan.steps else method
    if plan.steps and "probe" in method:
        how += " after a linear probe"
    rows = f"{work.facts['rows']:,} rows{held}"
    say(f"{mapping.arrow}: {rows}, {parameters / 1e6:.1f}M parameters, {how}, {work.facts['device']}")
    return method, plan


def probe(mapping: Mapping, examples: Examples, device: torch.device, seed: int) -> None:
    """Set the pooled heads to the best linear ones on the frozen vectors, in one pass over the rows."""
    mapping.eval()
    pooler = mapping.pooler
    assert pooler is not None
    listed = [examples.example(row, 0, 0.0) for row in range(len(examples))]
    vectors: NDArray[np.float32] = np.zeros((len(listed), mapping.config.transformer.width), np.float32)
    for batch, hidden in over(mapping, listed, device):
        vectors[batch.rows] = pooler(mapping.pool(hidden, batch)).float().cpu().numpy()
    for port, target in enumerate(mapping.targets):
        known = [(row, answer) for row, example in enumerate(listed) if (answer := example.answers[port]) is not None]
        if target.way != "pooled" or not known:
            continue
        values = np.array([answer.values for _, answer in known])
        fitted = target.probe(vectors[[row for row, _ in known]], values, seed)
        if fitted is not None:
            with torch.no_grad():
                for parameter, best in zip(mapping.heads[port].parameters(), fitted, strict=True):
                    parameter.copy_(best)


def _watcher(watched: Examples | None, device: torch.device) -> Callable[[Mapping], dict[str, float]] | None:
    """A look at the held-out rows: the mean loss and error of the first target."""
    if watched is None:
        return None
    listed = as_scored(watched)

    def look(mapping: Mapping) -> dict[str, float]:
        target, loss, error, count = mapping.targets[0], 0.0, 0.0, 0
        for batch, hidden in over(mapping, listed, device):
            readout = batch.answers[0]
            if readout is not None:
                output = mapping.read(hidden, batch, 0)
                loss += float(target.loss(output, readout.values))
                error += float(target.error(output, readout.values))
                count += len(readout.values)
        return {"loss": loss / max(count, 1), "error": error / max(count, 1)}

    return look


def _scored(work: Work, say: Callable[[str], None]) -> dict[str, Score]:
    """Scores on the test rows, else on the held-out ones."""
    mapping = work.mapping.eval()
    scores: dict[str, Score] = {}
    if work.test is not None:
        found = evaluate(mapping, work.test, work.device, work.options.bad_rows)
        scores = found.scores
        for note in found.notes:
            say(f"note: {note}")
    elif work.watched is not None:
        held = score_examples(mapping, work.watched, work.held, work.device)
        scores = {f"held-out {name}": value for name, value in held.items()}
    for name, value in scores.items():
        say(f"{name}: {value}")
    return scores


def write_rejected(run: Path, rejected: Iterable[Finding]) -> None:
    """rejected.csv: file, row, column, value and reason of everything that was left out."""
    rows = iter(rejected)
    if (first := next(rows, None)) is None:
        return
    columns = ["file", "row", "column", "value", "reason"]
    tables.write_rows(run / "rejected.csv", columns, map(asdict, chain([first], rows)))
