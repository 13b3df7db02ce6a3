"""fit and pretrain are the same call: read the rows, make or take a model, run the loop, save the mapping."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterable
from collections.abc import Mapping as Dict
from contextlib import ExitStack
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mapsto import adapter, checkpoint, corpus, folder, lora, metrics, shards, zoo
from mapsto import data as tables
from mapsto.arrow import parse
from mapsto.begin import (
    begin,
)
from mapsto.errors import Finding, UsageError
from mapsto.evaluate import Evaluation, as_scored, evaluate, score_examples
from mapsto.examples import (
    Examples,
)
from mapsto.layout import Replicas
from mapsto.loop import Plan, Training, space
from mapsto.mapping import Mapping
from mapsto.objectives import Objective
from mapsto.options import Options
from mapsto.plan import choose_method, make_objective, make_plan
from mapsto.predict import evidence, over
from mapsto.prepare import Work, prepare
from mapsto.progress import Progress, duration, tensorboard
from mapsto.ranks import Ranks, join
from mapsto.reports.evaluated import evaluated, headline, write_page
from mapsto.scores import Score
from mapsto.scrutiny import looks_at

METHODS = {
    "full": "{}",
    "probe": "a linear probe",
    "probe+full": "a linear probe, then {}",
    "contrast": "{}, then a linear probe",
}


def pretrain(what: str, data: Any, out: str | Path | None = None, **given: Any) -> Mapping:
    """`fit` of the arrow from a corrupted value back to itself; `what` is a kind ("text") or an arrow with `~`.

    Raises UsageError for an arrow that hides nothing, and what `fit` raises.
    """
    arrow = what if "->" in what else f"~{what} -> {what}"
    if not parse(arrow).corrupted:
        raise UsageError(f"{arrow} hides nothing, so it is no pretraining; fit learns it: mapsto fit {arrow!r} …")
    return fit(arrow, data, out, **given)


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
        ranks.on_main(lambda: stack.enter_context(folder.locked(run, progress.say)))
        work = _prepared(
            lambda kept: prepare(
                wanted, data, test, begin(start, like), options, progress.say, run, overwrite, ranks, kept
            ),
            run if corpus.takes(wanted) else None,
            ranks,
            progress.say,
        )
        if run is not None and overwrite:
            ranks.on_main(lambda: _make_room(run, work, ranks.restarts > 0))
        # A process may die after the last step: torchrun begins all of them anew, and nothing is left to do.
        if (
            run is not None
            and ranks.restarts
            and ranks.tell(ranks.on_main(lambda: folder.finished_run(run, work.facts, options)))
        ):
            progress.say(f"{run} was finished before the processes were started again")
            return ranks.each(lambda: folder.load(run))
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
        unlearnt = frozen(work.mapping, work.examples, work.device) if method == "contrast" else None
        state = training.run()
        work = replace(work, mapping=training.mapping)
        objective.finish(work.mapping)
        work.mapping.trained_with = plan.optimizer
        updates = lora.merge(work.mapping)
        if method == "contrast":
            probe(work.mapping, work.examples, work.device, options.seed, unlearnt)
        temperatures = _calibrated(work, progress.say)

        paths = [path for path in (data, test, start) if path is not None]
        command = _command(work, data, test, start) if all(tables.is_path(path) for path in paths) else None

        def finish() -> None:
            scores, found = _scored(work, progress)
            if run is not None:
                findings = [] if found is None else _report(run, found, work, command, progress.say)
                reached = {"optimizer": plan.optimizer, "method": method, "steps": state.step, "tokens": state.tokens}
                provenance = {**work.facts, **reached, "seconds": round(state.seconds, 1)}
                provenance |= {"objective": options.objective} if wanted.corrupted else {}
                provenance |= {"search": searched} if searched else {}
                provenance |= {"temperatures": temperatures} if temperatures else {}
                known = zoo.family(work.mapping.config.family)
                if updates and (known.renamed or known.tower):
                    progress.say(
                        "note: no adapter for peft: it knows this family's weights by other names; the folder has them merged"
                    )
                elif updates:
                    adapter.save(work.mapping, run, updates, None if isinstance(start, Mapping) else str(start))
                folder.save(work.mapping.float(), run, provenance, scores, findings)
                progress.say(f"saved in {run} after {duration(time.monotonic() - began)}")

        ranks.on_main(finish)
    return work.mapping


def _make_room(run: Path, work: Work, again: bool) -> None:
    """Take away the run that the folder holds; not where processes were started `again` and it is this one."""
    if not again or folder.holds_another(run, work.facts, work.options):
        folder.clear(run)


def _prepared(
    prepare: Callable[[shards.Kept | None], Work], run: Path | None, ranks: Ranks, say: Callable[[str], None]
) -> Work:
    """What `prepare` gives in every process. Where it makes shards, in the folder `run`, all look at what is there already, the
    main process makes what is missing and the others open it."""
    if run is None:
        return ranks.each(lambda: prepare(None))
    ranks.each(lambda: folder.require_shared(run))
    kept = shards.look(run, ranks, say)
    made = ranks.on_main(lambda: prepare(kept))
    return ranks.each(lambda: made or prepare(None))


def _planned(
    work: Work, run: Path | None, began: float, say: Callable[[str], None], ranks: Ranks
) -> tuple[str, Plan, Replicas, Objective]:
    """The method, the numbers and the objective of the run: the recorded ones of an unfinished run, else chosen now and recorded.

    Also where its weights live.
    """
    options, mapping = work.options, work.mapping
    method, why = choose_method(options, mapping, work.beginning, work.facts["rows"], work.pretraining)
    objective = make_objective(method, options, mapping, work.examples)
    if objective.compares and ranks.size > 1:
        raise UsageError(
            f"{objective.compares} ({why}) compares rows within one process; give another, or start one process"
        )
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


def frozen(mapping: Mapping, examples: Examples, device: torch.device) -> NDArray[np.float32]:
    """The vectors (n, d) that pooled heads read, in one pass over the rows."""
    mapping.eval()
    plain = examples.plain()
    vectors: NDArray[np.float32] = np.zeros((len(plain), mapping.config.pooled_width), np.float32)
    listed = (plain.example(row, 0, 0.0) for row in range(len(plain)))
    for batch, hidden in over(mapping, listed, device):
        vectors[batch.rows] = mapping.summary(hidden, batch).float().cpu().numpy()
    return vectors


def probe(
    mapping: Mapping,
    examples: Examples,
    device: torch.device,
    seed: int,
    unlearnt: NDArray[np.float32] | None = None,
) -> None:
    """Set the pooled heads to the best linear ones on the frozen vectors. unlearnt: the vectors from before they were learnt from
    the same answers; by them it is chosen how sure the heads may be."""
    vectors = frozen(mapping, examples, device)
    for port, target in enumerate(mapping.targets):
        told = enumerate(examples.answers or ())
        known = [(row, answer) for row, answers in told if (answer := answers[port]) is not None]
        if target.way != "pooled" or not known:
            continue
        rows, values = [row for row, _ in known], np.array([answer.values for _, answer in known])
        fitted = target.probe(vectors[rows], values, seed, None if unlearnt is None else unlearnt[rows])
        if fitted is not None:
            with torch.no_grad():
                for parameter, best in zip(mapping.heads[port].parameters(), fitted, strict=True):
                    parameter.copy_(best)


def _calibrated(work: Work, say: Callable[[str], None]) -> list[float]:
    """Heads as sure as they are right on the held-out rows, where there are enough: by what each was divided."""
    if work.watched is None or work.pretraining or not work.mapping.targets:
        return []
    mapping = work.mapping.eval()
    found = []
    for port, said in evidence(mapping, as_scored(work.watched), work.device).items():
        if mapping.targets[port].way != "pooled":
            continue
        temperature = mapping.targets[port].calibrate(mapping.heads[port], said.shown, said.values)
        if temperature is not None:
            say(f"confidence set by {len(said.values):,} held-out rows: logits divided by {temperature:.2f}")
            found.append(round(temperature, 4))
    return found


def _watcher(
    watched: Examples | None, device: torch.device, ranks: Ranks
) -> Callable[[Mapping], dict[str, float]] | None:
    """A look at the held-out rows, each process at its part: the mean loss and error of the first target."""
    if watched is None:
        return None
    listed = ranks.part(list(as_scored(watched)))

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


def _scored(work: Work, progress: Progress) -> tuple[dict[str, Score], Evaluation | None]:
    """Scores on the test rows, with all that was found there, else on the held-out ones."""
    mapping = work.mapping.eval()
    scores: dict[str, Score] = {}
    found = None
    if not mapping.targets:
        progress.say("note: what was asked in training was for that alone, so there is nothing to score yet")
    elif work.test is not None:
        found = evaluate(mapping, work.test, work.device, work.options.bad_rows, progress=progress)
        scores = found.scores
        for note in found.notes:
            progress.say(f"note: {note}")
    elif work.watched is not None:
        held = score_examples(mapping, work.watched, work.held, work.device)
        scores = {f"held-out {name}": value for name, value in held.items()}
    progress.scores(scores)
    return scores, found


def _command(work: Work, data: Any, test: Any, start: Any) -> str:
    """What makes the run again, into a folder of another name."""
    words = ["mapsto", "fit", str(work.mapping.arrow), str(data), "--test", str(test)]
    words += [] if start is None else ["--start", str(start)]
    return shlex.join([*words, *work.options.flags(), "--out", "FOLDER"])


def _report(run: Path, found: Evaluation, work: Work, command: str | None, say: Callable[[str], None]) -> list[str]:
    """report.html of what the test rows showed, where its package is here; the same in a few words."""
    looks = looks_at(found, work.mapping, work.device)
    if looks or found.made:
        try:
            steps = metrics.read(run, say)
            page = evaluated(found, looks, f"How good is {run.name}?", command, work.findings, steps)
            write_page(run / folder.REPORT, page, found, looks)
        except UsageError as error:
            say(f"note: no {folder.REPORT}: {error}")
    return headline(found, looks)


def write_rejected(run: Path, rejected: Iterable[Finding]) -> None:
    """rejected.csv: file, row, column, value and reason of everything that was left out."""
    rows = iter(rejected)
    if (first := next(rows, None)) is None:
        return
    columns = ["file", "row", "column", "value", "reason"]
    tables.write_rows(run / "rejected.csv", columns, map(asdict, chain([first], rows)))
