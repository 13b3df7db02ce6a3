"""Fitting and pretraining: read the data, build or open the model, train it, score it and save it.

Pretraining is a fit whose arrow hides parts of the input, such as "~text -> text", so both use the same code. From the
command line to the training step there are three calls: `cli.fit`, `fit_mapping` here, and `Training.run`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping as Dict
from contextlib import ExitStack
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mapsto import files, zoo
from mapsto.data import corpus, shards
from mapsto.data.files import is_path
from mapsto.data.table import Table
from mapsto.device import training_turn
from mapsto.distributed import Ranks, join_process_group
from mapsto.errors import UsageError
from mapsto.files.remote import public_address
from mapsto.fitting import run_folder
from mapsto.fitting.method import METHODS, choose_method, make_objective
from mapsto.fitting.plan import TrainingSetup, make_plan
from mapsto.fitting.prepare import PreparedRun, build_run, prepare
from mapsto.fitting.probe import (
    calibrate,
    extract_features,
    fit_linear,
    fit_probe,
    learn_familiarity,
    refer_to_other_rows,
)
from mapsto.fitting.request import FitRequest
from mapsto.fitting.results import (
    Validation,
    make_validation,
    score_run,
    write_rejected,
    write_report,
    write_unlabelled,
)
from mapsto.fitting.run_data import RunData
from mapsto.metrics.intervals import Score, to_json
from mapsto.model import lora
from mapsto.model.fit_record import relative_path
from mapsto.model.mapping import Mapping
from mapsto.options import Options
from mapsto.pretrained import model_folder, peft_adapter
from mapsto.progress import Progress, duration
from mapsto.report.chart import INSTALL_MATPLOTLIB
from mapsto.task.arrow import parse
from mapsto.task.target_capabilities import Calibratable, LinearProbe
from mapsto.training.data_parallel import ReplicatedWeights
from mapsto.training.loggers import Logger, MetricsFile, ProgressLogger
from mapsto.training.loop import Training
from mapsto.training.objectives import Objective
from mapsto.training.plan import Plan, RunContext, required_bytes
from mapsto.training.trackers import NO_TRACKER, Tracking, require_tracker


def pretrain_mapping(what: str, data: Any, out: str | Path | None = None, **options: Any) -> Mapping:
    """Pretrain a mapping, by hiding parts of unlabelled values and learning to fill them in, and return it.

    what: a kind of value ("text"), or an arrow whose `~` marks what is partly hidden ("~text -> text").
    data, out: as in `fit_mapping`. options: further keyword arguments of `fit_mapping`.

    Raises UsageError for an arrow that hides nothing, and the errors of `fit_mapping`.
    """
    arrow = what if "->" in what else f"~{what} -> {what}"
    if not parse(arrow).corrupted:
        raise UsageError(f"{arrow} hides nothing, so it is no pretraining; fit learns it: mapsto fit {arrow!r} …")
    return fit_mapping(arrow, data, out, **options)


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
) -> Mapping:
    """Train a mapping for the task `arrow` on `data`, and return it.

    arrow: the task, such as "text -> label".
    data: a path, a DataFrame, a list of dicts, or a Hugging Face data set.
    out: the folder of the run; an unfinished run in it is resumed, bit for bit. None keeps everything in memory.
    start: the starting model, whose weights training begins with: a folder, a hub name or a mapping.
    like: a folder or hub name whose architecture and tokenizer are used with random weights.
    test: rows that training never sees; the mapping is scored on them at the end.
    options: None for the defaults. progress: prints the progress; None prints nothing.
    overwrite: replace another run in `out`.

    Raises UsageError for unsuitable arguments, DataError for unusable rows, CheckpointError for an unusable starting
    model, RunError if training fails or is interrupted.
    """
    return fit_request(
        make_request(
            arrow, data, out, start=start, like=like, test=test, options=options, progress=progress, overwrite=overwrite
        )
    )


def make_request(
    arrow: str,
    data: Any,
    out: str | Path | None = None,
    *,
    options: Options | None = None,
    progress: Progress | None = None,
    **fields: Any,
) -> FitRequest:
    """Return the request with the arguments of `fit_mapping`, and join the other processes of the run if there are any.

    fields: start, like, test and overwrite of `fit_mapping`.
    """
    started_at = time.monotonic()
    ranks = join_process_group()
    folder, options = None if out is None else Path(out), options or Options()
    require_tracker(options.track, folder)
    return FitRequest(
        arrow=parse(arrow),
        data=data,
        folder=folder,
        options=options,
        progress=progress if progress and ranks.is_main else Progress(),
        ranks=ranks,
        started_at=started_at,
        **fields,
    )


def fit_request(request: FitRequest, data: RunData | None = None) -> Mapping:
    """Carry out a request to fit, and return the trained mapping.

    data: what `read_data` returned for the request, so that several fits can share it; None reads the data here.

    Raises the errors of `fit_mapping`.
    """
    folder, ranks, say = request.folder, request.ranks, request.say
    if folder is not None:
        # After a restart by torchrun, the folder holds the run that is to be resumed.
        is_restart, has_search = ranks.restarts > 0, request.search_record is not None
        ranks.run_on_main(lambda: run_folder.require_free(folder, request.overwrite or is_restart, has_search))
    with ExitStack() as stack:
        # The main process holds the lock for all processes of the run.
        ranks.run_on_main(lambda: stack.enter_context(run_folder.locked(folder, say)))
        stack.enter_context(training_turn(say))
        # Prepared before anything is deleted: an error in data or options must not cost the former run.
        run = _prepare(request) if data is None else build_run(request, data)
        if folder is not None and request.overwrite:
            ranks.run_on_main(lambda: _clear_folder(request, run))
        elif folder is not None and request.choice is None:
            # Another run may have been stopped there while its methods were measured.
            ranks.run_on_main(lambda: run_folder.recorded_choice(folder, run.facts, request.options))
        if _is_finished(request, run):
            say(f"{folder} was finished before the processes were started again")
            return ranks.run_on_all(lambda: model_folder.load_mapping(str(folder)))
        return _train(request, run)


def _prepare(request: FitRequest) -> PreparedRun:
    """Read the data of the request and build the model in this process, as all others do; return both as a PreparedRun.

    When the data is a corpus, the main process writes its missing shards, and the others then open them.
    """
    folder, ranks = request.folder, request.ranks
    if folder is None or not corpus.is_corpus_arrow(request.arrow):
        return ranks.run_on_all(lambda: prepare(request))
    ranks.run_on_all(lambda: run_folder.require_shared(folder))
    shards_record = shards.inspect_shards(folder, ranks, request.say)
    run = ranks.run_on_main(lambda: prepare(request, shards_record))
    # The main process has its run already; the others read the shards that are now complete.
    return ranks.run_on_all(lambda: run or prepare(request))


def _clear_folder(request: FitRequest, run: PreparedRun) -> None:
    """Delete the run in the request's folder, as `--overwrite` asks.

    After torchrun has restarted the processes, the folder may hold the run that they began; it is kept and resumed.
    """
    assert request.folder is not None
    if not request.ranks.restarts or run_folder.holds_another(request.folder, run.facts, run.options):
        run_folder.clear(request.folder)


def _is_finished(request: FitRequest, run: PreparedRun) -> bool:
    """Return whether the processes were restarted by torchrun although the folder already holds this run's finished model.

    This happens when a process dies after the model was saved. Without a restart it returns False.
    """
    folder, ranks = request.folder, request.ranks
    if folder is None or not ranks.restarts:
        return False
    return bool(
        ranks.broadcast_json(ranks.run_on_main(lambda: run_folder.finished_run(folder, run.facts, run.options)))
    )


def _train(request: FitRequest, run: PreparedRun) -> Mapping:
    """Train, score and save the model of a prepared run, and return its mapping."""
    # Before anything is written to the folder, since the metric to be watched may be misspelt.
    validation = make_validation(run, request.ranks)
    setup, plan = _plan(request, run)
    with ExitStack() as stack:
        tracking = request.ranks.run_on_main(lambda: _enter_tracking(request, run, plan, stack))
        return _train_as_planned(request, run, setup, plan, validation, tracking)


def _train_as_planned(
    request: FitRequest,
    run: PreparedRun,
    setup: TrainingSetup,
    plan: Plan,
    validation: Validation,
    tracking: Tracking | None,
) -> Mapping:
    """Do the work of `_train`. tracking: the logger of the run's tracker, in the main process; None without one.

    validation: see `make_validation`.
    """
    options, ranks = run.options, request.ranks
    context = RunContext(
        device=run.device,
        folder=request.folder,
        loggers=_make_loggers(request, tracking),
        score_held_out=validation.score,
        watched_error=validation.watched_error,
        workers=options.workers,
        layout=setup.layout,
        scores_start=setup.method == "probe+full",
    )
    training = Training(run.mapping, run.examples, plan, context, setup.objective)
    # Features from before contrastive training, for `fit_probe` to choose its regularisation on.
    base_features = extract_features(run.mapping, run.examples, run.device) if setup.method == "contrast" else None
    state = training.run()
    run = replace(run, mapping=training.mapping)
    setup.objective.finish(run.mapping)
    run.mapping.trained_with, run.mapping.row_filters = plan.optimizer, run.data.make_row_filters()
    # Merged, the model has ordinary weights; the updates alone become the adapter.
    lora_updates = lora.merge(run.mapping)
    if setup.method == "contrast":
        # Contrastive learning trains the encoder alone, so its heads are fitted now.
        fit_probe(run, base_features)
    elif setup.method != "probe":
        learn_familiarity(run)
    if setup.method != "probe":
        refer_to_other_rows(run, request.choice)
    # Last, since it depends on the final weights.
    temperatures = calibrate(run, request.choice, request.say)
    if not temperatures and request.folder is not None:
        _say_not_calibrated(request, run)
    provenance = {
        **run.facts,
        "optimizer": plan.optimizer,
        "method": setup.method,
        "steps": state.step,
        "tokens": state.tokens,
        "seconds": round(state.seconds, 1),
        **({"objective": options.objective} if run.is_pretraining else {}),
        **({"search": request.search_record} if request.search_record else {}),
        **({"folds": request.folds_record} if request.folds_record else {}),
        **({"temperatures": temperatures} if temperatures else {}),
        **_data_files(request, run),
    }
    scores = ranks.run_on_main(lambda: _save(request, run, provenance, lora_updates))
    if tracking is not None and scores is not None and request.folder is not None:
        pages = [path for name in run_folder.PAGES if (path := request.folder / name).exists()]
        values = {name: score.value for name, score in scores.items()}
        tracking.finish(values, model_folder.model_files(request.folder), pages)
    return run.mapping


def _say_not_calibrated(request: FitRequest, run: PreparedRun) -> None:
    """Print why the confidence of a fit is not set, if its answers have one that could be."""
    if run.is_pretraining or not any(isinstance(target, Calibratable) for target in run.mapping.targets):
        return
    flags = [f"--{name}" for name in ("steps", "epochs", "minutes") if getattr(run.options, name) is not None]
    are_measured = all(isinstance(target, LinearProbe) for target in run.mapping.targets)
    if run.held_out is not None:
        reason = f"{len(run.held_out):,} held-out rows are too few to set it by"
    elif flags and are_measured:
        reason = f"{flags[0]} leaves out the fits to halves that set it"
    else:
        reason = "no rows are held out to set it by, as --hold-out 0.1 does"
    request.say(f"note: the confidence is as training left it, often too high: {reason}")


def _data_files(request: FitRequest, run: PreparedRun) -> dict[str, str]:
    """Return the paths from the run's folder to the files of training rows and test rows, and a hash of the test rows.

    The entries are "data_file", "test_file" and "test_data"; those without a file are left out, and all without a folder.
    """
    if request.folder is None:
        return {}
    facts = {}
    training, test = run.data.training_rows, run.data.test
    if training is not None and training.table.path is not None:
        facts["data_file"] = relative_path(training.table.path, request.folder)
    if test is not None and test.path is not None:
        facts |= {"test_file": relative_path(test.path, request.folder), "test_data": test.fingerprint}
    return facts


def _enter_tracking(request: FitRequest, run: PreparedRun, plan: Plan, stack: ExitStack) -> Tracking | None:
    """Open the run in the tracker that `--track` names, until `stack` is closed; None without a tracker."""
    name, folder = request.options.track, request.folder
    if name == NO_TRACKER or folder is None:
        return None
    names = ("arrow", "rows", "held_out", "data", "start", "device")
    # The plan has values for options that the user left to the run.
    options = {**asdict(run.options), **asdict(plan), **{name: run.facts[name] for name in names}}
    return stack.enter_context(Tracking(name, folder, options, request.say))


def _make_loggers(request: FitRequest, tracking: Tracking | None) -> list[Logger]:
    """Return the loggers of a run: the progress output, and in the main process metrics.jsonl and the tracker."""
    loggers: list[Logger] = [ProgressLogger(request.progress)]
    if request.folder is not None and request.ranks.is_main:
        # The tracker is fed from metrics.jsonl, so it is the later one.
        loggers += [MetricsFile(request.folder, request.say), *([tracking] if tracking is not None else [])]
    return loggers


def _save(
    request: FitRequest, run: PreparedRun, provenance: Dict[str, Any], lora_updates: Dict[str, lora.LowRankUpdate]
) -> Dict[str, Score]:
    """Score the trained mapping, return its scores; if the request has a folder, write model, report and LoRA adapter there.

    provenance: facts about the run for mapsto.json. lora_updates: the trained LoRA updates by name; empty without
        `--lora`.
    """
    folder, mapping = request.folder, run.mapping
    # Trials and comparisons fit in memory and have their own baselines.
    is_final = folder is not None or run.data.test is not None
    result = score_run(run, request.progress, provenance["seconds"] if is_final else None)
    # Scores are printed also for a run in memory.
    if folder is None:
        return result.scores
    findings = [result.overlap.warning] if result.overlap else []
    if result.evaluation is not None:
        findings = write_report(request, run, result.evaluation)
    family = zoo.get_family(mapping.config.family)
    if lora_updates and (family.aliases or family.tower):
        request.say(
            "note: no adapter for peft, which has other names for this family's weights; they are merged in the folder"
        )
    elif lora_updates:
        start = None if isinstance(request.start, Mapping) else str(request.start)
        peft_adapter.save_adapter(mapping, folder, lora_updates, start)
    if result.overlap:
        provenance = {**provenance, "overlap": to_json(result.overlap)}
    model_folder.save_mapping(mapping.float(), folder, provenance, result.scores, findings)
    if run.options.unlabelled == "predict" and run.data.unlabelled is not None:
        write_unlabelled(run, run.data.unlabelled, folder / run_folder.UNLABELLED, request.say)
    request.say(f"saved in {folder} after {duration(time.monotonic() - request.started_at)}")
    return result.scores


def _plan(request: FitRequest, run: PreparedRun) -> tuple[TrainingSetup, Plan]:
    """Return (training setup, plan) of a run; for a method that begins with a linear probe, fit the heads as linear models.

    The plan is the recorded one if the folder holds this run, unfinished; else a new plan is made and recorded.
    """
    options, ranks, folder = run.options, request.ranks, request.folder
    method, reason = choose_method(run)
    if options.metric is not None and run.held_out is None:
        raise UsageError(f"--metric {options.metric} is watched on held-out rows, and none are; see --hold-out 0.1")
    if options.metric is not None and options.average:
        raise UsageError(
            f"--metric {options.metric} would change nothing: --average ends with the mean of the last weights"
        )
    if request.choice is not None:
        reason = request.choice.reason
    objective = make_objective(method, options, run.mapping, run.examples)
    if objective.single_process_option and ranks.size > 1:
        raise UsageError(
            f"{objective.single_process_option} ({reason}) compares rows within one process; choose another, or start one process"
        )
    if folder is not None and run.data.test is not None and find_spec("matplotlib") is None:
        request.say(f"note: there will be no {run_folder.REPORT}: {INSTALL_MATPLOTLIB}")
    # Processes on several machines may see different files under the same path.
    _require_same_facts(run, ranks)
    recorded = None
    if folder is not None:
        recorded = ranks.run_on_main(lambda: run_folder.recorded_run(folder, run.facts, options, request.say))
    # Only the main process has read run.json.
    recorded = ranks.broadcast_json(recorded)
    if method in ("probe", "probe+full"):
        # Weaker vectors, such as those of models pretrained here, need a head that has learnt all it can.
        fit_probe(run, starts_training=method == "probe+full" and not run.start.is_from_scratch)
    elif method == "linear":
        fit_linear(run)
    # FSDP gathers weights for `Mapping.losses` only, which other objectives do not call.
    if options.shard and (options.lora is not None or type(objective) is not Objective):
        raise UsageError("--shard divides a model that is trained as a whole by its own losses; leave --shard out here")
    setup = TrainingSetup(method, reason, objective, _make_layout(run, ranks))
    if recorded is not None:
        plan = Plan(**recorded)
        # How often checkpoints are written does not change the result.
        plan = replace(plan, save_every=options.save_every or plan.save_every)
    else:
        # Processes measure different times, so all take the plan of the main one.
        plan = Plan(**ranks.broadcast_json(asdict(make_plan(run, setup, request.started_at))))
        if folder is not None:
            ranks.run_on_main(lambda: _record_plan(request, run, plan))
    request.say(_describe(run, setup, plan))
    return setup, plan


def _record_plan(request: FitRequest, run: PreparedRun, plan: Plan) -> None:
    """Write run.json, with the run's facts and plan, run.toml, with its options, and rejected.csv to the request's folder.

    Raises RunError when the disk has no space for the run's checkpoints.
    """
    folder = request.folder
    assert folder is not None
    # Checked before training, not when the first checkpoint does not fit.
    files.require_space(folder, required_bytes(run.mapping, plan))
    write_rejected(folder, run.data.rejected)
    run_folder.record_run(folder, run.facts, asdict(plan))
    run_folder.record_config(folder, _config(request))


def _config(request: FitRequest) -> dict[str, Any]:
    """Return the arguments and options of a request by name, as run.toml records them; Python objects are left out."""
    arguments = {name: getattr(request, name) for name in ("data", "start", "like", "test")}
    # Where methods are measured, the request holds the tables that were read.
    arguments = {name: value.path if isinstance(value, Table) else value for name, value in arguments.items()}
    paths = {name: public_address(value) for name, value in arguments.items() if is_path(value)}
    default, options = asdict(Options()), asdict(request.options)
    differing = {name: value for name, value in options.items() if value != default[name]}
    key = "what" if request.arrow.corrupted else "arrow"
    folds = {"folds": len(request.folds_record["by_fold"])} if request.folds_record else {}
    return {key: str(request.arrow), **paths, **folds, **differing}


def _describe(run: PreparedRun, setup: TrainingSetup, plan: Plan) -> str:
    """Return the first line of progress of a run, in words: arrow, rows, parameters, method, steps and device."""
    facts = run.facts
    num_parameters = sum(p.numel() for p in run.mapping.parameters())
    held_out = f" + {facts['held_out']:,} held out" if facts["held_out"] else ""
    about = "" if plan.seconds is None else "about "
    training = f"{about}{plan.steps:,} steps of {plan.batch}, {plan.optimizer}" if plan.steps else "no steps"
    if not run.is_pretraining:
        training = f"method {setup.method} ({setup.reason}): {METHODS[setup.method].format(training)}"
    rows = f"{facts['rows']:,} rows{held_out}"
    return f"{run.mapping.arrow}: {rows}, {num_parameters / 1e6:.1f}M parameters, {training}, {facts['device']}"


def _require_same_facts(run: PreparedRun, ranks: Ranks) -> None:
    """Raise UsageError if this process has read other data, another starting model or other options than process 0."""
    names = (*run_folder.IDENTITY_FACTS, "options")
    main_facts = ranks.broadcast_json({name: run.facts[name] for name in names})

    def compare() -> None:
        differing = [name for name in names if run.facts[name] != main_facts[name]]
        if differing:
            raise UsageError(f"this process has other {', '.join(differing)} than process 0; all must read the same")

    ranks.run_on_all(compare)


def _make_layout(run: PreparedRun, ranks: Ranks) -> ReplicatedWeights:
    """Return the layout of the weights: a full copy in every process, or with `--shard` a shard in each (FSDP)."""
    if not run.options.shard:
        return ReplicatedWeights(ranks, run.mapping)
    from mapsto.training import fsdp  # slow to import, and rarely used

    return fsdp.ShardedWeights(ranks, run.mapping)
