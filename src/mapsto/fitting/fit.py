"""fit and pretrain are the same call: read the rows, make or take a model, run the loop, save the mapping."""

from __future__ import annotations

import time
from collections.abc import Callable
from collections.abc import Mapping as Dict
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mapsto import files, zoo
from mapsto.data import corpus, shards
from mapsto.data.table import is_path
from mapsto.distributed import Ranks, join_process_group
from mapsto.errors import UsageError
from mapsto.fitting import run_folder
from mapsto.fitting.hyperparameters import choose_method, make_objective, make_plan
from mapsto.fitting.outcome import _command, _report, _scored, _watcher, write_rejected
from mapsto.fitting.probe import _calibrated, frozen, probe
from mapsto.fitting.setup import Work, prepare
from mapsto.fitting.start import begin
from mapsto.model import lora
from mapsto.model.mapping import Mapping
from mapsto.options import Options
from mapsto.pretrained import model_folder, peft_adapter
from mapsto.progress import Progress, duration
from mapsto.task.arrow import parse
from mapsto.training.data_parallel import ReplicatedWeights
from mapsto.training.loggers import Logger, MetricsFile, ProgressLogger, TensorBoard
from mapsto.training.loop import Plan, RunContext, Training, required_bytes
from mapsto.training.objectives import Objective

METHODS = {
    "full": "{}",
    "probe": "a linear probe",
    "probe+full": "a linear probe, then {}",
    "contrast": "{}, then a linear probe",
}


def pretrain_mapping(what: str, data: Any, out: str | Path | None = None, **given: Any) -> Mapping:
    """`fit_mapping` of the arrow from a corrupted value back to itself; `what` is a kind ("text") or an arrow with `~`.

    Raises UsageError for an arrow that hides nothing, and what `fit_mapping` raises.
    """
    arrow = what if "->" in what else f"~{what} -> {what}"
    if not parse(arrow).corrupted:
        raise UsageError(f"{arrow} hides nothing, so it is no pretraining; fit learns it: mapsto fit {arrow!r} …")
    return fit_mapping(arrow, data, out, **given)


def fit_mapping(
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
    ranks = join_process_group()
    options, progress = options or Options(), progress if progress and ranks.is_main else Progress()
    wanted = parse(arrow)
    run = None if out is None else Path(out)
    if run is not None:
        ranks.run_on_main(lambda: run_folder.require_free(run, overwrite or ranks.restarts > 0, searched is not None))
    with ExitStack() as stack:
        ranks.run_on_main(lambda: stack.enter_context(run_folder.locked(run, progress.say)))
        work = _prepared(
            lambda kept: prepare(
                wanted, data, test, begin(start, like), options, progress.say, run, overwrite, ranks, kept
            ),
            run if corpus.takes(wanted) else None,
            ranks,
            progress.say,
        )
        if run is not None and overwrite:
            ranks.run_on_main(lambda: _make_room(run, work, ranks.restarts > 0))
        # A process may die after the last step: torchrun begins all of them anew, and nothing is left to do.
        if (
            run is not None
            and ranks.restarts
            and ranks.broadcast_json(ranks.run_on_main(lambda: run_folder.finished_run(run, work.facts, options)))
        ):
            progress.say(f"{run} was finished before the processes were started again")
            return ranks.run_on_all(lambda: model_folder.load_mapping(run))
        method, plan, layout, objective = _planned(work, run, began, progress.say, ranks)
        context = RunContext(
            device=work.device,
            folder=run,
            loggers=_loggers(run if ranks.is_main else None, options, progress),
            score_held_out=_watcher(work.watched, work.device, ranks),
            workers=options.workers,
            layout=layout,
        )
        training = Training(work.mapping, work.examples, plan, context, objective)
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
        command = _command(work, data, test, start) if all(is_path(path) for path in paths) else None

        def finish() -> None:
            scores, found = _scored(work, progress)
            if run is not None:
                findings = [] if found is None else _report(run, found, work, command, progress.say)
                reached = {"optimizer": plan.optimizer, "method": method, "steps": state.step, "tokens": state.tokens}
                provenance = {**work.facts, **reached, "seconds": round(state.seconds, 1)}
                provenance |= {"objective": options.objective} if wanted.corrupted else {}
                provenance |= {"search": searched} if searched else {}
                provenance |= {"temperatures": temperatures} if temperatures else {}
                known = zoo.get_family(work.mapping.config.family)
                if updates and (known.aliases or known.tower):
                    progress.say(
                        "note: no adapter for peft: it knows this family's weights by other names; the folder has them merged"
                    )
                elif updates:
                    peft_adapter.save_adapter(
                        work.mapping, run, updates, None if isinstance(start, Mapping) else str(start)
                    )
                model_folder.save_mapping(work.mapping.float(), run, provenance, scores, findings)
                progress.say(f"saved in {run} after {duration(time.monotonic() - began)}")

        ranks.run_on_main(finish)
    return work.mapping


def _loggers(run: Path | None, options: Options, progress: Progress) -> list[Logger]:
    """Return the sinks of a run's events; those that write files where `run` is its folder. Raises UsageError."""
    loggers: list[Logger] = [ProgressLogger(progress)]
    if run is not None:
        loggers.append(MetricsFile(run, progress.say))
        loggers += [TensorBoard(run)] if options.tensorboard else []
    return loggers


def _make_room(run: Path, work: Work, again: bool) -> None:
    """Take away the run that the folder holds; not where processes were started `again` and it is this one."""
    if not again or run_folder.holds_another(run, work.facts, work.options):
        run_folder.clear(run)


def _prepared(
    prepare: Callable[[shards.Kept | None], Work], run: Path | None, ranks: Ranks, say: Callable[[str], None]
) -> Work:
    """What `prepare` gives in every process. Where it makes shards, in the folder `run`, all look at what is there already, the
    main process makes what is missing and the others open it."""
    if run is None:
        return ranks.run_on_all(lambda: prepare(None))
    ranks.run_on_all(lambda: run_folder.require_shared(run))
    kept = shards.look(run, ranks, say)
    made = ranks.run_on_main(lambda: prepare(kept))
    return ranks.run_on_all(lambda: made or prepare(None))


def _planned(
    work: Work, run: Path | None, began: float, say: Callable[[str], None], ranks: Ranks
) -> tuple[str, Plan, ReplicatedWeights, Objective]:
    """The method, the numbers and the objective of the run: the recorded ones of an unfinished run, else chosen now and recorded.

    Also where its weights live.
    """
    options, mapping = work.options, work.mapping
    method, why = choose_method(options, mapping, work.beginning, work.facts["rows"], work.pretraining)
    objective = make_objective(method, options, mapping, work.examples)
    if objective.single_process_option and ranks.size > 1:
        raise UsageError(
            f"{objective.single_process_option} ({why}) compares rows within one process; give another, or start one process"
        )
    _require_same(work.facts, ranks)
    recorded = ranks.broadcast_json(
        None if run is None else ranks.run_on_main(lambda: run_folder.recorded_run(run, work.facts, options, say))
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
        plan = Plan(**ranks.broadcast_json(asdict(plan)))

        def record() -> None:
            if run is not None:
                files.require_space(run, required_bytes(mapping, plan))
                write_rejected(run, work.rejected)
                run_folder.record_run(run, work.facts, asdict(plan))

        ranks.run_on_main(record)
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
    theirs = ranks.broadcast_json({name: facts[name] for name in (*run_folder.SAME, "options")})

    def compare() -> None:
        differing = [name for name in theirs if facts[name] != theirs[name]]
        if differing:
            raise UsageError(f"this process has other {', '.join(differing)} than process 0; all must read the same")

    ranks.run_on_all(compare)


def _laid_out(mapping: Mapping, options: Options, ranks: Ranks) -> ReplicatedWeights:
    """Where the weights live, as the options say."""
    if not options.shard:
        return ReplicatedWeights(ranks, mapping)
    from mapsto.training import fsdp

    return fsdp.ShardedWeights(ranks, mapping)
