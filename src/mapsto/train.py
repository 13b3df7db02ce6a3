"""fit and pretrain are the same call: read the rows, make or take a model, run the loop, save the mapping."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable, Sequence
from collections.abc import Mapping as Dict
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mapsto import adapter, checkpoint, folder, kinds, lora
from mapsto import data as tables
from mapsto.arrow import Arrow, parse
from mapsto.begin import Beginning, begin, make_config, make_mapping, make_sources, restrict
from mapsto.check import doctor
from mapsto.corrupt import Corruption
from mapsto.data import Table
from mapsto.device import choose_device, choose_precision, describe, seed_all
from mapsto.errors import DataError, Finding, UsageError
from mapsto.evaluate import as_scored, evaluate, score_examples
from mapsto.examples import Examples, Rows, bind_to, encode, make_examples, read_rows, require_whole, restores
from mapsto.kinds import Source, Target
from mapsto.layout import Replicas
from mapsto.loop import Plan, Training, space
from mapsto.mapping import Mapping
from mapsto.objectives import Objective
from mapsto.options import Options
from mapsto.plan import choose_method, make_objective, make_plan
from mapsto.predict import over
from mapsto.progress import Progress, duration, tensorboard
from mapsto.ranks import ALONE, Ranks, join
from mapsto.scores import Score

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
        ranks.on_main(lambda: folder.require_free(run, overwrite, searched is not None))
    work = ranks.each(lambda: prepare(wanted, data, test, begin(start, like), options, progress.say, ranks))
    with ExitStack() as stack:
        ranks.on_main(lambda: stack.enter_context(folder.locked(run)))
        if run is not None and overwrite and not ranks.restarts:
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
    """Everything a run needs, made from the data and the start alone. `held` are rows kept aside to watch."""

    options: Options
    mapping: Mapping
    beginning: Beginning
    device: torch.device
    examples: Examples
    held: Rows
    watched: Examples | None
    test: Table | None
    rejected: list[Finding]
    facts: dict[str, Any]

    @property
    def pretraining(self) -> bool:
        """Whether the arrow puts back what it hides."""
        return self.mapping.arrow.corrupted


def prepare(
    wanted: Arrow,
    data: Any,
    test: Any,
    beginning: Beginning,
    options: Options,
    say: Callable[[str], None],
    ranks: Ranks = ALONE,
) -> Work:
    """From files and a start to a mapping and its examples; everything that can be wrong with them is found here."""
    device = choose_device(options.device, ranks.local)
    precision = choose_precision(options.precision, device)
    table = tables.read(data, encoding=options.encoding)
    tested = None if test is None else tables.read(test, encoding=options.encoding)
    arrow = bind_to(wanted, table)
    for note in beginning.notes:
        say(f"note: {note}")
    targets = [kinds.target(port.kind)() for port in arrow.targets]
    rows = read_rows(arrow, table, {port.kind: kinds.source(port.kind) for port in arrow.sources}, targets)
    rejected = require_whole(rows, table.rejected, len(table), options.bad_rows)
    sources = make_sources(beginning, arrow, table, options, say)
    options.require_use(arrow.corrupted)
    for name in ("balance", "smooth"):
        if getattr(options, name) and not any(target.named for target in targets):
            raise UsageError(f"--{name} is for classes, and {arrow} answers none")
    seed_all(options.seed)
    config = make_config(beginning, options, arrow.corrupted)
    for target in targets:
        target.beside(sources.get(target.kind), config.vocabulary_head)
    for port, target in enumerate(targets):
        if restores(arrow)[port] is None:
            target.learn(rows.targets[port], options.balance)
        else:
            target.restore(Corruption.of(options.objective, options.hide, options.shape))
        target.smooth = options.smooth
    tested = _examined(arrow, rows, tested, sources, targets, options, say)
    mapping = make_mapping(arrow, config, sources, targets, beginning)
    restrict(mapping, options, beginning)
    mapping = mapping.to(device).computing_in(precision)
    kept, held = _split(arrow, rows, options)
    examples = _examples(mapping, kept, options, options.seed, say)
    facts = {
        "arrow": str(arrow),
        "options": asdict(options),
        "data": table.fingerprint,
        "rows": len(kept),
        "held_out": len(held),
        "start": beginning.name,
        "start_weights": beginning.fingerprint,
        "tokenizer": {kind: source.fingerprint for kind, source in sources.items()},
        "targets": [target.state() for target in targets],
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
        held=held,
        watched=_examples(mapping, held, options, options.seed + 1) if len(held) else None,
        test=tested,
        rejected=rejected,
        facts=json.loads(json.dumps(facts)),
    )


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
    if arrow.corrupted and tested is None:
        return None  # a corpus alone may repeat itself, and looking for that takes long
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
    left = tested.select(row for row in range(len(tested)) if tested.origin(row) not in leaked)
    if not len(left):
        raise DataError("every row of the test also stands in the training data, so there is nothing to score")
    return left


def _split(arrow: Arrow, rows: Rows, options: Options) -> tuple[Rows, Rows]:
    """Rows to learn from and rows held out to watch; equal values never stand on both sides."""
    share = options.hold_out
    if share is None:
        fewest, share = FEWEST_TO_HOLD_OUT, HELD_OUT
        if arrow.corrupted:
            fewest, share = FEWEST_TO_HOLD_OUT_TEXT, HELD_OUT_TEXT
        share = min(share, WATCHED_ROWS / len(rows)) if len(rows) >= fewest else 0.0
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
    arrow, most = mapping.arrow, mapping.config.transformer.longest
    if options.length is not None and options.length > most:
        raise UsageError(f"--length {options.length} is more than the {most} tokens that this model takes")
    longest = options.length or min(most, PRETRAIN_LENGTH if arrow.corrupted else most)
    long: str = options.long if options.long != "auto" else "window" if arrow.corrupted else "cut"
    aligned = arrow.corrupted and options.shape in ("word", "span")
    encoded = encode(arrow, rows, mapping.sources, longest, long, aligned)
    if say is not None and len(encoded.long):
        lost = (
            f"{encoded.lost:,} of {encoded.total:,} tokens were cut off"
            if encoded.lost
            else "they were cut into windows"
        )
        say(f"{len(encoded.long):,} of {len(rows):,} rows are longer than {longest} tokens: {lost}")
    corruption = Corruption.of(options.objective, options.hide, options.shape)
    return make_examples(arrow, rows, encoded, mapping.sources, mapping.targets, seed, corruption)


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
    held = f" + {len(work.held):,} held out" if len(work.held) else ""
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
    from mapsto.shard import Shards

    return Shards(ranks, mapping)


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


def write_rejected(run: Path, rejected: Sequence[Finding]) -> None:
    """rejected.csv: file, row, column, value and reason of everything that was left out."""
    if not rejected:
        return
    stream = io.StringIO(newline="")
    writer = csv.writer(stream)
    writer.writerow(["file", "row", "column", "value", "reason"])
    writer.writerows([f.file, f.row, f.column, f.value, f.reason] for f in rejected)
    run.mkdir(parents=True, exist_ok=True)
    checkpoint.write_atomic(run / "rejected.csv", stream.getvalue().encode())
