"""fit and pretrain are the same call: read the rows, make or take a model, run the loop, save the mapping."""

from __future__ import annotations

import csv
import json
import statistics
import time
from collections.abc import Mapping as Dict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from mapsto import checkpoint, folder, kinds
from mapsto import data as tables
from mapsto.arrow import Arrow, parse
from mapsto.check import doctor
from mapsto.corrupt import Corruption
from mapsto.data import Table
from mapsto.device import choose_device, choose_precision, describe, seed_all
from mapsto.errors import CheckpointError, DataError, Finding, UsageError
from mapsto.examples import Examples, Rows, bind_to, encode, make_examples, read_rows, require_whole, restores
from mapsto.folder import Opened
from mapsto.kinds import Source, Target
from mapsto.loop import Plan, Training
from mapsto.mapping import Mapping, ModelConfig
from mapsto.options import Options
from mapsto.evaluate import as_scored, evaluate, score_examples
from mapsto.predict import over
from mapsto.progress import Progress, duration
from mapsto.scores import Score
from mapsto.tokenizer import Tokenizer
from mapsto.transformer import TransformerConfig

PRETRAIN_MINUTES = 10.0
PRETRAIN_TOKENS = 8192
PRETRAIN_LENGTH = 128
FIT_BATCH = 32
CALIBRATION_STEPS = 4
WATCHED_ROWS = 2000
FEWEST_TO_HOLD_OUT = 2000
RATES = {"muon": 5e-3, "adamw": 1e-3}
FINE_TUNING_RATE = 1e-4


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
    job = Job(parse(arrow), options or Options(), progress or Progress(), None if out is None else Path(out))
    if start is not None and like is not None:
        raise UsageError("give --start (weights too) or --like (shape and tokenizer only), not both")
    if job.folder is not None:
        folder.require_free(job.folder, overwrite)
    return job.run(data, test, start, like)


@dataclass
class Job:
    """One call of fit, from its arguments to the saved mapping."""

    wanted: Arrow
    options: Options
    progress: Progress
    folder: Path | None

    def run(self, data: Any, test: Any, start: str | Path | Mapping | None, like: str | Path | None) -> Mapping:
        """The whole of it, in order."""
        began = time.monotonic()
        options, say = self.options, self.progress.say
        table = tables.read(data, encoding=options.encoding)
        tested = None if test is None else tables.read(test, encoding=options.encoding)
        arrow = bind_to(self.wanted, table)
        pretraining = any(port.corrupted for port in arrow.sources)
        device = choose_device(options.device)
        precision = choose_precision(options.precision, device)
        opened = None if isinstance(start, Mapping) else _open(start if start is not None else like)
        given = start if isinstance(start, Mapping) else None
        sources = self._sources(arrow, table, opened, given)
        targets = [kinds.target(port.kind)(**self._target_state(port.kind)) for port in arrow.targets]
        rows = read_rows(arrow, table, sources, targets)
        rejected = require_whole(rows, table.rejected, len(table), options.bad_rows)
        self._examine(arrow, table, tested)
        for port, target in enumerate(targets):
            if restores(arrow)[port] is None:
                target.learn(rows.targets[port])
        config = self._config(opened, given, start is not None, sources)
        seed_all(options.seed)
        mapping = self._mapping(arrow, config, sources, targets, opened, given, start is not None)
        mapping = mapping.to(device).computing_in(precision)
        longest = self._longest(mapping, pretraining)
        long: str = options.long if options.long != "auto" else "window" if pretraining else "cut"
        kept, held = self._split(arrow, rows, pretraining)
        corruption = Corruption(options.hide, options.hide / 2, options.shape)
        aligned = pretraining and options.shape in ("word", "span")

        def examples_of(part: Rows, seed: int) -> Examples:
            encoded = encode(arrow, part, sources, longest, long, aligned)
            if len(encoded.long) and part is kept:
                lost = f", {encoded.lost:,} of {encoded.total:,} tokens cut off" if encoded.lost else ", cut into windows"
                say(f"{len(encoded.long)} of {len(part)} rows are longer than {longest} tokens{lost}")
            return make_examples(arrow, part, encoded, sources, targets, seed, corruption)

        examples = examples_of(kept, options.seed)
        watched = examples_of(held, options.seed + 1) if len(held) else None
        facts = self._facts(arrow, table, opened, given, targets, device, len(kept), len(held))
        recorded = self._recorded(facts)
        method = self._method(arrow, mapping, start is not None, len(kept), pretraining)
        if method != "full" and recorded is None:
            probe(mapping, examples, device, options.seed)
        plan = self._plan(mapping, examples, pretraining, method, opened, start is not None, device, began, recorded)
        if self.folder is not None and recorded is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            _write_rejected(self.folder, rejected)
            record = json.dumps({"facts": facts, "plan": asdict(plan)}, ensure_ascii=False, indent=1)
            checkpoint.write_atomic(self.folder / folder.RUN, record.encode())
        parameters = sum(p.numel() for p in mapping.parameters())
        say(
            f"{arrow}: {len(kept):,} rows" + (f" + {len(held):,} held out" if len(held) else "")
            + f", {parameters / 1e6:.1f}M parameters, {plan.steps:,} steps of {plan.batch}, {method}, {describe(device, precision)}"
        )
        training = Training(
            mapping, examples, plan, device, self.folder, _watcher(watched, device), self.progress, options.workers
        )
        state = training.run() if plan.steps else None
        mapping.eval()
        scores: dict[str, Score] = {}
        if tested is not None:
            scores = evaluate(mapping, tested, device).scores
        elif watched is not None:
            scores = {f"held-out {name}": value for name, value in score_examples(mapping, watched, held, device).items()}
        for name, value in scores.items():
            say(f"{name}: {value}")
        if self.folder is not None:
            provenance = {**facts, "optimizer": plan.optimizer, "steps": state.step if state else 0, "method": method}
            provenance |= {"tokens": state.tokens if state else 0, "seconds": state.seconds if state else 0.0}
            folder.save(mapping.float(), self.folder, provenance, scores)
            say(f"saved in {self.folder} after {duration(time.monotonic() - began)}")
        return mapping

    def _sources(
        self, arrow: Arrow, table: Table, opened: Opened | None, given: Mapping | None
    ) -> dict[str, Source]:
        """The sources of the start, or a tokenizer trained on the rows."""
        wanted = {port.kind for port in arrow.sources}
        known = given.sources if given is not None else folder.sources_of(opened) if opened is not None else {}
        for kind in wanted - set(known):
            if kind != "text":
                raise UsageError(f"a start that reads {sorted(known)} cannot read {kind!r}")
            columns = [table.column(port.column) for port in arrow.sources if port.kind == kind and port.column]
            texts = [cell for column in columns for cell in column if isinstance(cell, str) and cell.strip()]
            if not texts:
                raise DataError("there is no text to make a vocabulary from")
            tokenizer = Tokenizer.train(texts, self.options.vocabulary)
            self.progress.say(f"made a vocabulary of {tokenizer.size:,} tokens")
            return {"text": kinds.source("text")(tokenizer)}  # type: ignore[call-arg]
        return {kind: source for kind, source in known.items() if kind in wanted}

    def _target_state(self, kind: str) -> dict[str, Any]:
        return {"balance": True} if kind == "label" and self.options.balance else {}

    def _examine(self, arrow: Arrow, table: Table, tested: Table | None) -> None:
        """Stop for rows of the test that training would see; say what else looks wrong."""
        if any(port.corrupted for port in arrow.sources):
            return
        texts = [port.column for port in arrow.sources if port.kind == "text" and port.column]
        labels = [port.column for port in arrow.targets if port.kind == "label" and port.column]
        if not texts:
            return
        report = doctor(table, texts, labels[0] if labels else None, tested)
        leaks = [f for f in report.errors if "duplicate" in f.reason or "also" in f.reason]
        if leaks and tested is not None:
            raise DataError(f"{len(leaks)} rows of the test are in the training data too:", leaks)
        for finding in report.warnings[:5]:
            self.progress.say(f"note: {finding}")
        if len(report.warnings) > 5:
            self.progress.say(f"note: {len(report.warnings) - 5} more; `mapsto check` lists them all")

    def _config(
        self, opened: Opened | None, given: Mapping | None, started: bool, sources: Dict[str, Source]
    ) -> ModelConfig:
        """The start's shape, or a new one: the ModernBERT shape, sized by the options."""
        options = self.options
        sized = {name: getattr(options, name) for name in ("layers", "width", "heads", "vocabulary")}
        if given is not None or opened is not None:
            fixed = [f"--{name}" for name, value in sized.items() if value is not None]
            if fixed:
                raise UsageError(f"{', '.join(fixed)} cannot change the shape of a start")
            config = given.config if given is not None else opened.start.config if opened is not None else ModelConfig()
            return config
        width = options.width or 256
        shape = TransformerConfig(
            width=width,
            layers=options.layers or 6,
            heads=options.heads or max(1, width // 64),
            hidden=max(64, round(width * 8 / 3 / 64) * 64),
            max_positions=max(512, options.length or 0),
        )
        return ModelConfig(transformer=shape)

    def _mapping(
        self,
        arrow: Arrow,
        config: ModelConfig,
        sources: Dict[str, Source],
        targets: Sequence[Target],
        opened: Opened | None,
        given: Mapping | None,
        started: bool,
    ) -> Mapping:
        """A mapping with the start's weights where it has them, random ones elsewhere."""
        mapping = Mapping(arrow, config, sources, targets)
        if not started:
            return mapping
        if given is not None:
            known = dict(given.named_parameters())
            tensors: dict[str, Tensor] = {k: v.detach() for k, v in known.items() if not k.startswith(("heads.", "pooler."))}
            if given.targets and str(given.arrow) == str(arrow):
                tensors = {k: v.detach() for k, v in known.items()}
            with torch.no_grad():
                for name, parameter in mapping.named_parameters():
                    if name in tensors and tensors[name].shape == parameter.shape:
                        parameter.copy_(tensors[name])
            fresh = "pooler.dense.weight" not in tensors
        else:
            assert opened is not None
            labels = next((t.state()["classes"] for t in targets if t.kind == "label"), None)
            same = labels is None or labels == opened.start.labels
            missing = folder.take(mapping, opened.start.tensors, heads=same)
            body = [name for name in missing if not name.startswith(("heads.", "pooler."))]
            if body:
                raise CheckpointError(f"the start lacks weights of its body: {', '.join(body[:5])}")
            fresh = any(name.startswith("heads.") for name in missing)
        if fresh and mapping.pooler is not None:
            mapping.pooler.pass_through()
        return mapping

    def _longest(self, mapping: Mapping, pretraining: bool) -> int:
        most = mapping.config.transformer.longest
        if self.options.length is not None and self.options.length > most:
            raise UsageError(f"--length {self.options.length} is more than the {most} tokens that this model takes")
        return self.options.length or min(most, PRETRAIN_LENGTH if pretraining else most)

    def _split(self, arrow: Arrow, rows: Rows, pretraining: bool) -> tuple[Rows, Rows]:
        """Rows to learn from and rows held out to watch; equal values never stand on both sides."""
        share = self.options.hold_out
        if share is None:
            enough = len(rows) >= (200 if pretraining else FEWEST_TO_HOLD_OUT)
            share = min(0.02 if pretraining else 0.1, WATCHED_ROWS / len(rows)) if enough else 0.0
        if not share:
            return rows, rows.select(np.zeros(0, np.int64))
        groups = [str(values) for values in zip(*rows.sources, strict=True)]
        strata = None
        if not pretraining and arrow.targets[0].kind == "label":
            strata = rows.targets[0]
        kept, held = tables.split(len(rows), groups, strata, share, self.options.seed)
        return rows.select(kept), rows.select(held)

    def _method(self, arrow: Arrow, mapping: Mapping, started: bool, count: int, pretraining: bool) -> str:
        """Probe alone, probe then full, or full, by the number of labels for a class."""
        if self.options.method != "auto":
            if self.options.method != "full" and not started:
                raise UsageError(f"--method {self.options.method} needs a --start to probe")
            return self.options.method
        if pretraining or not started or mapping.targets[0].way != "pooled":
            return "full"
        return "probe+full"

    def _plan(
        self,
        mapping: Mapping,
        examples: Examples,
        pretraining: bool,
        method: str,
        opened: Opened | None,
        started: bool,
        device: torch.device,
        began: float,
        recorded: dict[str, Any] | None,
    ) -> Plan:
        """The numbers of the run: recorded ones where it goes on, else chosen now."""
        if recorded is not None:
            return Plan(**{**recorded["plan"], "save_every": self.options.save_every or recorded["plan"]["save_every"]})
        options = self.options
        mean = statistics.fmean(sum(map(len, pieces)) for pieces in examples.pieces[:2000])
        batch = options.batch or (max(8, round(PRETRAIN_TOKENS / mean)) if pretraining else FIT_BATCH)
        batch = min(batch, len(examples))
        own = opened is None or opened.trained_with == "muon"
        kind: Literal["adamw", "muon"] = "muon" if (pretraining or not started) and own else "adamw"
        if options.optimizer != "auto":
            kind = options.optimizer
        rate = options.rate or (FINE_TUNING_RATE if started else RATES[kind])
        minutes = options.minutes
        if pretraining and options.steps is None and options.epochs is None and minutes is None:
            minutes = PRETRAIN_MINUTES
        plan = Plan(
            steps=0,
            batch=batch,
            rate=rate,
            optimizer=kind,
            seed=options.seed,
            save_every=0,
            patience=options.patience,
            average=pretraining,
        )
        per_epoch = len(examples) / batch
        if options.steps is not None:
            steps = options.steps
        elif minutes is not None:
            steps = self._calibrate(mapping, examples, plan, device, minutes * 60, began)
        else:
            epochs = options.epochs or max(3.0, min(20.0, 300 / per_epoch))
            steps = max(1, round(epochs * per_epoch))
        if method == "probe":
            steps = 0
        watch_every = 0 if pretraining else max(1, min(round(per_epoch), max(1, steps // 3)))
        return replace(plan, steps=steps, save_every=options.save_every or max(50, -(-steps // 20)), watch_every=watch_every)

    def _calibrate(
        self, mapping: Mapping, examples: Examples, plan: Plan, device: torch.device, seconds: float, began: float
    ) -> int:
        """How many steps fit into `seconds` from `began`: some are run on the side, then every weight is put back."""
        before = {name: parameter.detach().clone() for name, parameter in mapping.named_parameters()}
        trial = Training(mapping, examples, replace(plan, steps=10_000, save_every=10_000), device, workers=0)
        mapping.train()
        taken = []
        for number in range(CALIBRATION_STEPS + 1):
            start = time.monotonic()
            trial.step(number)
            taken.append(time.monotonic() - start)
        with torch.no_grad():
            for name, parameter in mapping.named_parameters():
                parameter.copy_(before[name])
                parameter.grad = None
        left = seconds - (time.monotonic() - began)
        return max(1, int(left / statistics.median(taken[1:])))

    def _facts(
        self,
        arrow: Arrow,
        table: Table,
        opened: Opened | None,
        given: Mapping | None,
        targets: Sequence[Target],
        device: torch.device,
        kept: int,
        held: int,
    ) -> dict[str, Any]:
        """What a resumed run must share with its first part."""
        facts = {
            "arrow": str(arrow),
            "options": asdict(self.options),
            "data": table.fingerprint,
            "rows": kept,
            "held_out": held,
            "start": str(opened.start.folder) if opened is not None else "a mapping in memory" if given is not None else None,
            "start_weights": opened.fingerprint if opened is not None else None,
            "targets": [target.state() for target in targets],
            "seed": self.options.seed,
            "threads": torch.get_num_threads(),
            "versions": folder.versions(),
        }
        plain: dict[str, Any] = json.loads(json.dumps(facts))
        return plain

    def _recorded(self, facts: dict[str, Any]) -> dict[str, Any] | None:
        """The record of an unfinished run in the folder. Raises UsageError when it was another run."""
        if self.folder is None or not (self.folder / folder.RUN).exists():
            return None
        recorded = checkpoint.read_json(self.folder / folder.RUN)
        before = recorded["facts"]
        names = ("arrow", "data", "rows", "start_weights", "targets", "seed")
        differing = [name for name in names if before.get(name) != facts[name]]
        differing += [f"--{name.replace('_', '-')}" for name in self.options.differing(before["options"])]
        if differing:
            raise UsageError(
                f"{self.folder} holds an unfinished run with other {', '.join(differing)}; "
                "run it as before, choose another --out, or add --overwrite"
            )
        for name in ("threads", "versions"):
            if before.get(name) != facts[name]:
                self.progress.say(f"note: {name} changed from {before.get(name)} to {facts[name]}: the bits may differ")
        return recorded


def _open(name: str | Path | None) -> Opened | None:
    return None if name is None else folder.open_start(name)


def probe(mapping: Mapping, examples: Examples, device: torch.device, seed: int) -> None:
    """Set the pooled heads to the best linear ones on the frozen vectors, in one pass over the rows."""
    mapping.eval()
    listed = [examples.example(row, 0, 0.0) for row in range(len(examples))]
    assert mapping.pooler is not None
    pooler = mapping.pooler
    found: np.ndarray[Any, Any] | None = None
    for batch, hidden in over(mapping, listed, device):
        part = pooler(mapping.pool(hidden, batch)).float().cpu().numpy()
        found = np.zeros((len(listed), part.shape[1]), np.float32) if found is None else found
        found[batch.rows] = part
    assert found is not None
    for port, target in enumerate(mapping.targets):
        answers = [example.answers[port] for example in listed]
        known = [i for i, answer in enumerate(answers) if answer is not None]
        values = np.array([answer.values for answer in answers if answer is not None])
        if target.way != "pooled" or (fitted := target.probe(found[known], values, seed)) is None:
            continue
        head = mapping.heads[port]
        with torch.no_grad():
            head.weight.copy_(fitted[0])  # type: ignore[operator, union-attr]
            head.bias.copy_(fitted[1])  # type: ignore[operator, union-attr]


def _watcher(watched: Examples | None, device: torch.device) -> Any:
    """A look at the held-out rows: the mean loss of the first target."""
    if watched is None:
        return None
    listed = as_scored(watched)

    def look(mapping: Mapping) -> dict[str, float]:
        total = count = 0.0
        for batch, hidden in over(mapping, listed, device):
            readout = batch.answers[0]
            if readout is not None:
                total += float(mapping.targets[0].loss(mapping.read(hidden, batch, 0), readout.values))
                count += len(readout.values)
        return {"loss": total / max(count, 1)}

    return look


def _write_rejected(run: Path, rejected: Sequence[Finding]) -> None:
    if not rejected:
        return
    with (run / "rejected.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "row", "column", "value", "reason"])
        writer.writerows([f.file, f.row, f.column, f.value, f.reason] for f in rejected)
