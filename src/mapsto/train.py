"""fit and pretrain are the same call: read the rows, make or take a model, run the loop, save the mapping."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Mapping as Dict
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mapsto import adapter, checkpoint, corpus, folder, kinds, lora
from mapsto import data as tables
from mapsto.arrow import Arrow, parse
from mapsto.begin import (
    Beginning,
    begin,
    make_config,
    make_mapping,
    make_sources,
    restrict,
    sampled_source,
    started_sources,
)
from mapsto.check import doctor, seen
from mapsto.corrupt import Corruption
from mapsto.data import Table
from mapsto.device import choose_device, choose_precision, describe, seed_all
from mapsto.errors import DataError, Finding, UsageError
from mapsto.evaluate import as_scored, evaluate, score_examples
from mapsto.examples import (
    Examples,
    Rows,
    bind_to,
    encode,
    make_examples,
    read_rows,
    require_room,
    require_whole,
    restores,
)
from mapsto.kinds import Source, Target
from mapsto.layout import Replicas
from mapsto.loop import Plan, Training, space
from mapsto.mapping import Mapping, ModelConfig
from mapsto.objectives import Objective
from mapsto.options import Options, require_choice
from mapsto.plan import choose_method, make_objective, make_plan
from mapsto.predict import over
from mapsto.progress import Progress, duration, tensorboard
from mapsto.ranks import ALONE, Ranks, join
from mapsto.scores import Score
from mapsto.shards import ELSEWHERE, UNFINISHED, Shards, kept_in

PRETRAIN_LENGTH = 128
WATCHED_ROWS = 1000
# Held-out rows are lost to training: with fewer rows than these they cost more than choosing by them gains.
FEWEST_TO_HOLD_OUT, HELD_OUT = 5000, 0.05
FEWEST_TO_HOLD_OUT_TEXT, HELD_OUT_TEXT = 200, 0.02
SHOWN_WARNINGS = 5
METHODS = {
    "full": "{}",
    "probe": "a linear probe",
    "probe+full": "a linear probe, then {}",
    "contrast": "{}, then a linear probe",
}


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
    searched: Dict[str, Any] | None = None,
) -> Mapping:
    """Train the map that `arrow` names on `data` (a path, a DataFrame, a list of dicts, a data set) and return it.

    start: a folder, hub name or mapping whose weights to begin with. like: a folder whose shape and tokenizer to take
    with random weights. out: the folder of the run; an unfinished run there goes on, exact to the bit. test: rows that
    training never sees, scored at the end. searched: the trials that chose `options`, for the record. Raises
    UsageError, DataError, CheckpointError, RunError.
    """
    began = time.monotonic()
    ranks = join()
    options, progress = options or Options(), progress if progress and ranks.main else Progress()
    wanted = parse(arrow)
    run = None if out is None else Path(out)
    if run is not None:
        ranks.on_main(lambda: folder.require_free(run, overwrite or ranks.restarts > 0, searched is not None))
    with ExitStack() as stack:
        ranks.on_main(lambda: stack.enter_context(folder.locked(run)))
        work = _prepared(
            lambda: prepare(wanted, data, test, begin(start, like), options, progress.say, run, overwrite, ranks),
            run is not None and corpus.takes(wanted),
            ranks,
        )
        if run is not None and ranks.restarts:
            # A process may die after the last step: torchrun begins all of them anew, and nothing is left to do.
            if ranks.tell(ranks.on_main(lambda: folder.finished_run(run, work.facts, options))):
                progress.say(f"{run} was finished before the processes were started again")
                return ranks.each(lambda: folder.load(run))
        elif run is not None and overwrite:
            ranks.on_main(lambda: folder.clear(run))
        method, plan, layout, objective = _planned(work, run, began, progress.say, ranks)
        training = Training(
            work.mapping,
            work.examples,
            plan,
            work.device,
            run,
            _watcher(work.watched, work.device, ranks),
            progress,
            options.workers,
            tensorboard(run) if options.tensorboard and run is not None and ranks.main else None,
            layout,
            objective,
        )
        state = training.run()
        work = replace(work, mapping=training.mapping)
        objective.finish(work.mapping)
        updates = lora.merge(work.mapping)
        if method == "contrast":
            probe(work.mapping, work.examples, work.device, options.seed)

        def finish() -> None:
            scores = _scored(work, progress)
            if run is not None:
                reached = {"optimizer": plan.optimizer, "method": method, "steps": state.step, "tokens": state.tokens}
                provenance = {**work.facts, **reached, "seconds": round(state.seconds, 1)}
                provenance |= {"search": searched} if searched else {}
                if updates:
                    adapter.save(work.mapping, run, updates, None if isinstance(start, Mapping) else str(start))
                folder.save(work.mapping.float(), run, provenance, scores)
                progress.say(f"saved in {run} after {duration(time.monotonic() - began)}")

        ranks.on_main(finish)
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


def prepare(
    wanted: Arrow,
    data: Any,
    test: Any,
    beginning: Beginning,
    options: Options,
    say: Callable[[str], None],
    run: Path | None = None,
    overwrite: bool = False,
    ranks: Ranks = ALONE,
) -> Work:
    """From files and a start to a mapping and its examples; everything that can be wrong with them is found here."""
    device = choose_device(options.device, ranks.local)
    precision = choose_precision(options.precision, device)
    tested = None if test is None else tables.read(test, encoding=options.encoding)
    for note in beginning.notes:
        say(f"note: {note}")
    options.require_use(wanted.corrupted)
    if corpus.takes(wanted):
        made = _from_corpus(wanted, data, tested, beginning, options, say, run, overwrite, ranks)
    else:
        made = _from_table(wanted, data, tested, beginning, options, say)
    mapping = make_mapping(made.arrow, made.config, made.sources, made.targets, beginning)
    restrict(mapping, options, beginning)
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
        "device": describe(device, precision, ranks.size),
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


def _prepared(prepare: Callable[[], Work], shards: bool, ranks: Ranks) -> Work:
    """What `prepare` gives in every process. Where it makes shards, the main process makes them and the others open them."""
    made = ranks.on_main(prepare) if shards else None
    return ranks.each(lambda: made or prepare())


def _from_table(
    wanted: Arrow, data: Any, tested: Table | None, beginning: Beginning, options: Options, say: Callable[[str], None]
) -> Material:
    """Rows with answers, all in memory."""
    table = tables.read(data, encoding=options.encoding)
    arrow = bind_to(wanted, table)
    targets = _targets(arrow, options)
    rows = read_rows(arrow, table, _classes(arrow), targets)
    rejected = require_whole(rows, table.rejected, len(table), options.bad_rows)
    sources = make_sources(beginning, arrow, table, options, say)
    config = _begun(arrow, sources, targets, beginning, options)
    for port, target in enumerate(targets):
        if restores(arrow)[port] is None:
            target.learn(rows.targets[port], options.balance)
    tested = _examined(arrow, rows, tested, targets, options, say)
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
    ranks: Ranks,
) -> Material:
    """Values of one corrupted source, as many as there are, in the run's folder."""
    values = data if tables.is_path(data) else tables.read(data)
    arrow = bind_to(wanted, next(tables.stream(values, options.encoding)))
    targets = _targets(arrow, options)
    config = make_config(beginning, options, pretraining=True)
    longest, long, units = _limits(options, config, pretraining=True)
    require_room(arrow, longest)
    require_choice("bad_rows", options.bad_rows)
    limits = corpus.Limits(longest, long, units)
    started = started_sources(beginning, arrow)
    fingerprint = tables.fingerprint(values)
    if tested is not None:
        tested = _unseen(arrow, tables.stream(values, options.encoding), tested, targets, options, say)
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
    if run is not None and not ranks.main and not kept_in(run):
        raise UsageError(f"{run} is no folder that all processes share; give an --out that is one")
    begun = run is not None and (run / folder.RUN).exists() and not overwrite
    shards = Shards(run, key, say, ELSEWHERE if not ranks.main else UNFINISHED if begun else None)
    kind = arrow.sources[0].kind
    sources = started or {kind: sampled_source(arrow, tables.stream(values, options.encoding), shards, options, say)}
    config = _begun(arrow, sources, targets, beginning, options)
    corpus.fill(shards, tables.stream(values, options.encoding), arrow, sources[kind], limits)
    read = corpus.Corpus(shards, sources[kind], limits, options.bad_rows)
    read.report(say)
    kept, held, count = read.split(_share(read.rows, True, options), options.seed)

    def examples(mapping: Mapping) -> tuple[Examples, Examples]:
        learnt = Examples(arrow, mapping.sources, kept, None, None, options.seed, _corruption(options))
        return learnt, replace(learnt, pieces=held, seed=options.seed + 1)

    rows = read.rows - count
    return Material(arrow, config, sources, targets, fingerprint, rows, count, None, tested, read.faults(), examples)


def _classes(arrow: Arrow) -> dict[str, type[Source]]:
    """The kinds that the arrow reads, of which no object is needed to read cells."""
    return {port.kind: kinds.source(port.kind) for port in arrow.sources}


def _targets(arrow: Arrow, options: Options) -> list[Target]:
    """What the arrow answers, before anything is learnt. Raises UsageError for options that these answers have no use for."""
    targets = [kinds.target(port.kind)() for port in arrow.targets]
    for name in ("balance", "smooth"):
        if getattr(options, name) and not any(target.named for target in targets):
            raise UsageError(f"--{name} is for classes, and {arrow} answers none")
    for target in targets:
        target.smooth = options.smooth
    return targets


def _begun(
    arrow: Arrow, sources: Dict[str, Source], targets: Sequence[Target], beginning: Beginning, options: Options
) -> ModelConfig:
    """The shape of the model; the targets meet their sources. Everything random begins here."""
    seed_all(options.seed)
    config = make_config(beginning, options, arrow.corrupted)
    for target, restored in zip(targets, restores(arrow), strict=True):
        target.beside(sources.get(target.kind), config.vocabulary_head)
        if restored is not None:
            target.restore(_corruption(options))
    return config


def _examined(
    arrow: Arrow,
    rows: Rows,
    tested: Table | None,
    targets: Sequence[Target],
    options: Options,
    say: Callable[[str], None],
) -> Table | None:
    """The rows of the test that training does not see. Stops when there are others, and says what else looks wrong."""
    if arrow.corrupted and tested is None:
        return None  # a corpus alone may repeat itself, and looking for that takes long
    held = None if tested is None else _read_test(arrow, tested, targets, options)
    report = doctor(arrow, rows, held)
    for finding in report.warnings[:SHOWN_WARNINGS]:
        say(f"note: {finding}")
    if len(report.warnings) > SHOWN_WARNINGS:
        say(f"note: {len(report.warnings) - SHOWN_WARNINGS} more; `mapsto check` lists them all")
    return None if tested is None else _without(report.leaks, tested, options, say)


def _unseen(
    arrow: Arrow,
    parts: Iterable[Table],
    tested: Table,
    targets: Sequence[Target],
    options: Options,
    say: Callable[[str], None],
) -> Table:
    """The rows of the test that do not stand in a corpus of any size. Stops when there are others."""
    held = _read_test(arrow, tested, targets, options)
    read = (read_rows(replace(arrow, targets=()), part, _classes(arrow), []) for part in parts)
    return _without(seen(arrow, read, held), tested, options, say)


def _read_test(arrow: Arrow, tested: Table, targets: Sequence[Target], options: Options) -> Rows:
    held = read_rows(bind_to(arrow, tested), tested, _classes(arrow), targets)
    require_whole(held, tested.rejected, len(tested), options.bad_rows)
    return held


def _without(leaks: Sequence[Finding], tested: Table, options: Options, say: Callable[[str], None]) -> Table:
    """A test without the rows that training sees. Raises DataError unless bad rows are to be skipped and some are left."""
    if not leaks:
        return tested
    if options.bad_rows == "stop":
        raise DataError(
            f"{len(leaks)} rows of the test also stand in the training data; take them out of one of the two, "
            "or score without them with --bad-rows skip:",
            leaks,
        )
    say(f"note: {len(leaks)} rows of the test also stand in the training data and are not scored")
    leaked = {(finding.file, finding.row) for finding in leaks}
    left = tested.select(row for row in range(len(tested)) if tested.origin(row) not in leaked)
    if not len(left):
        raise DataError("every row of the test also stands in the training data, so there is nothing to score")
    return left


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
    kept, held = apart(arrow, rows, share, options.seed)
    if not len(kept):
        raise UsageError(f"--hold-out {share} keeps all {len(rows)} rows aside and leaves none to learn from")
    return rows.select(kept), rows.select(held)


def apart(arrow: Arrow, rows: Rows, share: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices (kept, held out): about `share` of each class is held out, equal values never stand on both sides."""
    groups = [tuple(map(str, values)) for values in zip(*rows.sources, strict=True)]
    strata = next((rows.targets[i] for i, port in enumerate(arrow.targets) if kinds.target(port.kind).named), None)
    return tables.split(len(rows), groups, strata, share, seed)


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
    return Corruption.of(options.objective, options.hide, options.shape)


def _limits(options: Options, config: ModelConfig, pretraining: bool) -> tuple[int, str, bool]:
    """The longest example in tokens, what happens to longer rows, and whether words must be known. Raises UsageError."""
    most = config.transformer.longest
    if options.length is not None and options.length > most:
        raise UsageError(f"--length {options.length} is more than the {most} tokens that this model takes")
    longest = options.length or min(most, PRETRAIN_LENGTH if pretraining else most)
    long: str = options.long if options.long != "auto" else "window" if pretraining else "cut"
    return longest, long, pretraining and options.shape in ("word", "span")


def _planned(
    work: Work, run: Path | None, began: float, say: Callable[[str], None], ranks: Ranks
) -> tuple[str, Plan, Replicas, Objective]:
    """The method, the numbers and the objective of the run: the recorded ones of an unfinished run, else chosen now and recorded.

    Also where its weights live.
    """
    options, mapping = work.options, work.mapping
    method, why = choose_method(options, mapping, work.beginning, work.facts["rows"], work.pretraining)
    if method == "contrast" and ranks.size > 1:
        raise UsageError("--method contrast compares rows within one process; give --method probe+full, or one process")
    objective = make_objective(method, options, mapping, work.examples)
    _require_same(work.facts, ranks)
    recorded = ranks.tell(
        None if run is None else ranks.on_main(lambda: folder.recorded_run(run, work.facts, options, say))
    )
    if method in ("probe", "probe+full"):
        probe(mapping, work.examples, work.device, options.seed)
    if options.shard and (options.lora is not None or type(objective) is not Objective):
        raise UsageError("--shard divides a model that is trained as a whole by its own losses; leave --shard out here")
    layout = _laid_out(mapping, options, ranks)
    if recorded is not None:
        plan = Plan(**recorded)
        plan = replace(plan, save_every=options.save_every or plan.save_every)
    else:
        start, device = work.beginning, work.device
        plan = make_plan(
            options, mapping, work.examples, start, method, objective, device, work.pretraining, began, layout
        )
        plan = Plan(**ranks.tell(asdict(plan)))

        def record() -> None:
            if run is not None:
                checkpoint.require_space(run, space(mapping, plan))
                write_rejected(run, work.rejected)
                folder.record_run(run, work.facts, asdict(plan))

        ranks.on_main(record)
    parameters = sum(p.numel() for p in mapping.parameters())
    held = f" + {work.facts['held_out']:,} held out" if work.facts["held_out"] else ""
    how = f"{plan.steps:,} steps of {plan.batch}, {plan.optimizer}" if plan.steps else "no steps"
    if not work.pretraining:
        how = f"method {method} ({why}): {METHODS[method].format(how)}"
    rows = f"{work.facts['rows']:,} rows{held}"
    say(f"{mapping.arrow}: {rows}, {parameters / 1e6:.1f}M parameters, {how}, {work.facts['device']}")
    return method, plan, layout, objective


def _require_same(facts: dict[str, Any], ranks: Ranks) -> None:
    """Raise UsageError when the processes have not read the same data, start and options."""
    theirs = ranks.tell({name: facts[name] for name in (*folder.SAME, "options")})

    def compare() -> None:
        differing = [name for name in theirs if facts[name] != theirs[name]]
        if differing:
            raise UsageError(f"this process has other {', '.join(differing)} than process 0; all must read the same")

    ranks.each(compare)


def _laid_out(mapping: Mapping, options: Options, ranks: Ranks) -> Replicas:
    """Where the weights live, as the options say."""
    if not options.shard:
        return Replicas(ranks, mapping)
    from mapsto import shard

    return shard.Shards(ranks, mapping)


def probe(mapping: Mapping, examples: Examples, device: torch.device, seed: int) -> None:
    """Set the pooled heads to the best linear ones on the frozen vectors, in one pass over the rows."""
    mapping.eval()
    listed = [examples.example(row, 0, 0.0) for row in range(len(examples))]
    vectors: NDArray[np.float32] = np.zeros((len(listed), mapping.config.transformer.width), np.float32)
    for batch, hidden in over(mapping, listed, device):
        vectors[batch.rows] = mapping.summary(hidden, batch).float().cpu().numpy()
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


def _watcher(
    watched: Examples | None, device: torch.device, ranks: Ranks
) -> Callable[[Mapping], dict[str, float]] | None:
    """A look at the held-out rows, each process at its part: the mean loss and error of the first target."""
    if watched is None:
        return None
    listed = ranks.part(as_scored(watched))

    def look(mapping: Mapping) -> dict[str, float]:
        target, loss, error, count = mapping.targets[0], 0.0, 0.0, 0
        for batch, hidden in over(mapping, listed, device):
            readout = batch.answers[0]
            if readout is not None:
                output = mapping.read(hidden, batch, 0)
                loss += float(target.loss(output, readout.values))
                error += float(target.error(output, readout.values))
                count += len(readout.values)
        loss, error, total = ranks.sum([loss, error, count])
        return {"loss": loss / max(total, 1), "error": error / max(total, 1)}

    return look


def _scored(work: Work, progress: Progress) -> dict[str, Score]:
    """Scores on the test rows, else on the held-out ones."""
    mapping = work.mapping.eval()
    scores: dict[str, Score] = {}
    if not mapping.targets:
        progress.say("note: what told replaced tokens apart was for training alone, so there is nothing to score yet")
    elif work.test is not None:
        found = evaluate(mapping, work.test, work.device, work.options.bad_rows)
        scores = found.scores
        for note in found.notes:
            progress.say(f"note: {note}")
    elif work.watched is not None:
        held = score_examples(mapping, work.watched, work.held, work.device)
        scores = {f"held-out {name}": value for name, value in held.items()}
    progress.scores(scores)
    return scores


def write_rejected(run: Path, rejected: Iterable[Finding]) -> None:
    """rejected.csv: file, row, column, value and reason of everything that was left out."""
    rows = iter(rejected)
    if (first := next(rows, None)) is None:
        return
    columns = ["file", "row", "column", "value", "reason"]
    tables.write_rows(run / "rejected.csv", columns, map(asdict, chain([first], rows)))
