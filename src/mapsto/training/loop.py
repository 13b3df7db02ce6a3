"""The one loop: every arrow, every objective, exact to the bit when killed and run again."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import torch
from torch import Tensor

from mapsto.data.examples import Examples
from mapsto.device import seed_all
from mapsto.distributed import ALONE, Ranks
from mapsto.errors import RunError
from mapsto.model.mapping import Mapping
from mapsto.progress import Progress
from mapsto.sequence.batch import Batch
from mapsto.sequence.packing import batches
from mapsto.training import checkpoint, metrics_log
from mapsto.training.data_parallel import Replicas
from mapsto.training.objectives import Objective
from mapsto.training.optimizer import Optimizers, end_of_fall, schedule

LARGEST_NORM = 1.0


MOST_SKIPPED_STEPS = 3


TOKENS_AT_ONCE = 8192


# Rows of 128 hold five titles of 25 tokens where rows of 64 hold two: 97 % full for 94, and 8 % more real tokens a second.
# Without a backward pass what attention costs in longer rows is more than that (sequence.SHORTEST_ROW).
SHORTEST_TRAINING_ROW = 128


AVERAGED_TAIL = 0.20


KEPT_CHECKPOINTS = 2


# What a checkpoint holds at most: weights, two moments of each, their average or the best ones.
COPIES = 4


class Interrupted(RunError):
    """Stopped by a signal after a whole step was saved."""

    def __init__(self, signum: int, step: int, folder: Path | None) -> None:
        self.exit_status = 128 + signum
        how = f"; the same command goes on from there ({folder})" if folder else ""
        super().__init__(f"stopped by {signal.Signals(signum).name} after step {step}{how}")


@dataclass(frozen=True)
class Plan:
    """The numbers of a run, fixed before its first step and recorded. watch_every: steps between looks at held-out rows."""

    steps: int
    batch: int
    rate: float
    optimizer: Literal["adamw", "muon"]
    seed: int
    save_every: int
    watch_every: int = 0
    patience: int = 3
    average: bool = False
    layer_decay: float = 1.0
    head: float = 1.0


@dataclass
class State:
    """Where a run is. `stale`: looks at the held-out rows since they last got better. `end`: the last step, where it is not
    the planned one."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    skipped: int = 0
    averaged: int = 0
    best: float = math.inf
    best_step: int = 0
    stale: int = 0
    end: int | None = None
    watched: list[dict[str, float]] = field(default_factory=list)


def space(mapping: Mapping, plan: Plan) -> int:
    """The bytes that a run writes at most: its checkpoints, one more while it is written, and the mapping itself."""
    weights = sum(parameter.numel() * parameter.element_size() for parameter in mapping.parameters())
    return weights * (1 + (COPIES * (KEPT_CHECKPOINTS + 1) if plan.steps else 0))


class Loader:
    """The batches of a step, made ahead by `workers` threads; what they hold depends on (seed, step) and the rank alone."""

    def __init__(
        self, examples: Examples, plan: Plan, workers: int, objective: Objective, ranks: Ranks = ALONE
    ) -> None:
        self.examples, self.plan, self.ahead, self.ranks = objective.asked(examples), plan, workers, ranks
        self.objective = objective
        self.pool = ThreadPoolExecutor(workers) if workers else None
        self.waiting: dict[int, Future[list[Batch]]] = {}

    def rows(self, step: int) -> list[int]:
        """The rows of `step`, those of all processes."""
        rows: list[int] = self.objective.rows(self.plan.seed, step, self.plan.batch, len(self.examples)).tolist()
        return rows

    def make(self, step: int) -> list[Batch]:
        """The batches of `step` in this process."""
        progress = step / self.plan.steps
        rows, views = self.ranks.part(self.rows(step)), self.objective.views
        seen = [self.examples.example(row, step, progress, view) for view in range(views) for row in rows]
        return batches(seen, TOKENS_AT_ONCE, SHORTEST_TRAINING_ROW, views)

    def get(self, step: int) -> list[Batch]:
        """The batches of `step`, while those behind it are being made."""
        if self.pool is None:
            return self.make(step)
        for wanted in range(step, min(step + self.ahead + 1, self.plan.steps)):
            if wanted not in self.waiting:
                self.waiting[wanted] = self.pool.submit(self.make, wanted)
        return self.waiting.pop(step).result()

    def close(self) -> None:
        """Stop the threads."""
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)


class Training:
    """One run of the loop over a mapping; `folder` None keeps everything in memory."""

    def __init__(
        self,
        mapping: Mapping,
        examples: Examples,
        plan: Plan,
        device: torch.device,
        folder: Path | None = None,
        watch: Callable[[Mapping], dict[str, float]] | None = None,
        progress: Progress | None = None,
        workers: int = 1,
        listener: Callable[[dict[str, Any]], None] | None = None,
        layout: Replicas | None = None,
        objective: Objective | None = None,
    ) -> None:
        self.layout = layout or Replicas(ALONE, mapping)
        self.layout.require(plan.batch, plan.optimizer)
        self.ranks = self.layout.ranks
        self.objective = objective or Objective()
        self.mapping, self.plan, self.device, self.folder, self.watch = mapping, plan, device, folder, watch
        self.progress, self.listener = progress or Progress(), listener
        self.optimizers = Optimizers(mapping, plan.optimizer, plan.rate, plan.layer_decay, plan.head)
        self.loader = Loader(examples, plan, workers, self.objective, self.ranks)
        self.state = State()
        self.average: dict[str, Tensor] = {}
        self.best: dict[str, Tensor] = {}

    def run(self) -> State:
        """Train to the end, or to early stopping; the mapping is left with its final (best or averaged) weights."""
        self.resume()
        started, before = time.monotonic(), self.state.seconds
        folder = self.folder if self.ranks.main else None
        self.mapping.train()
        try:
            with _signals() as received, metrics_log.writing(folder, self.state.step, self.progress.say) as write:
                while self.state.step < self.end:
                    loss, rate = self.step(self.state.step)
                    self.state.seconds = before + time.monotonic() - started
                    record = self._record(loss, rate)
                    write(record)
                    if self.listener:
                        self.listener(record)
                    self.progress.step(self.state.step, self.end, self.state.tokens, self.state.seconds, loss, rate)
                    if stopped := self.ranks.most(received[0] if received else 0):
                        self.save()
                        raise Interrupted(stopped, self.state.step, self.folder)
                    if self.state.step % self.plan.save_every == 0 or self.state.step == self.end:
                        self.save()
        finally:
            self.loader.close()
            self.progress.close()
        self._finish()
        return self.state

    def step(self, number: int) -> tuple[float, float]:
        """One update over the rows of step `number`: (loss, learning rate). Every answer weighs the same, however packed."""
        made = self.ranks.each(lambda: self.loader.get(number))
        seed_all(self.plan.seed, number, *([self.ranks.rank] if self.ranks.rank else []))
        self.objective.meet(self.mapping, made)
        here: Counter[int] = Counter()
        for batch in made:
            here.update(self.objective.counts(batch))
        terms = range(self.objective.terms(self.mapping))
        *counts, tokens = self.ranks.sum([*(here[term] for term in terms), sum(batch.real_tokens for batch in made)])
        loss = torch.zeros((), device=self.device)
        for batch, weight in self.layout.turns(made):
            parts = self.objective.losses(self.mapping, batch.to(self.device))
            shares = (total / max(counts[term], 1) for term, total in parts)
            share = weight * sum(shares, torch.zeros((), device=self.device))
            if share.requires_grad:
                share.backward()  # type: ignore[no-untyped-call]
            loss += share.detach()
        loss = self.layout.summed(loss)
        norm = self._clip()
        factor = schedule(number, self.end)
        self._update(factor, loss.isfinite() & norm.isfinite())
        self.state.step = number + 1
        self.state.tokens += int(tokens)
        self._average()
        every = self.plan.watch_every
        if self.watch and every and (self.state.step % every == 0 or self.state.step == self.end):
            self._look(self.watch)
        return float(loss), self.plan.rate * factor

    def _clip(self) -> Tensor:
        """Scale the gradients down to LARGEST_NORM where they are longer; their norm before that."""
        parameters = [parameter for parameter in self.mapping.parameters() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        whole = self.layout.gathered(norm)
        if whole > LARGEST_NORM:
            torch.nn.utils.clip_grads_with_norm_(parameters, LARGEST_NORM, norm)
        return whole

    def _update(self, factor: float, finite: Tensor) -> None:
        """Apply the gradients, unless they or the loss are not finite; stop when that goes on."""
        if finite:
            self.optimizers.step(factor)
            self.state.skipped = 0
            return
        self.optimizers.drop_gradients()
        self.state.skipped += 1
        rows = sorted(self.loader.rows(self.state.step))
        shown = ", ".join(map(str, rows[:8])) + (", …" if len(rows) > 8 else "")
        text = f"step {self.state.step + 1}: loss or gradient is not finite; no update (examples {shown})"
        self.progress.say(text)
        if self.state.skipped >= MOST_SKIPPED_STEPS:
            raise RunError(
                f"{text}. {MOST_SKIPPED_STEPS} such steps in a row: a lower --rate or --precision fp32 may help"
            )

    def _average(self) -> None:
        """Keep the running mean of the weights over the tail of the run."""
        if not self.plan.average or self.state.step <= (1 - AVERAGED_TAIL) * self.plan.steps:
            return
        self.state.averaged += 1
        with torch.no_grad():
            for name, weight in self.mapping.named_parameters():
                if name in self.average:
                    self.average[name].lerp_(weight, 1 / self.state.averaged)
                else:
                    self.average[name] = weight.detach().clone()

    def _look(self, watch: Callable[[Mapping], dict[str, float]]) -> None:
        """Score the held-out rows; remember the weights when they are the best so far. Where they got no better for long, in
        their loss either (few rows tell it more exactly than an error), the rate begins to fall, in which they get better once
        more; a fall is never broken off."""
        self.mapping.eval()
        scores = watch(self.layout.whole(self.mapping))
        self.mapping.train()
        least = min((look["loss"] for look in self.state.watched), default=math.inf)
        self.state.watched.append({"step": self.state.step, **scores})
        shown = ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
        self.progress.say(f"step {self.state.step}: held out: {shown}")
        error = scores["error"]
        better = error < self.state.best or scores["loss"] < least
        self.state.stale = 0 if better else self.state.stale + 1
        if error <= self.state.best:  # of equally good weights the later ones: the rate has fallen further
            self.state.best, self.state.best_step = error, self.state.step
            self.best = {name: weight.detach().clone() for name, weight in self.mapping.named_parameters()}
        last = end_of_fall(self.state.step)
        if self.state.stale >= self.plan.patience and last < self.end:
            self.state.end = last
            self.progress.say(
                f"step {self.state.step}: the held-out rows get no better; the rate falls until step {last}"
            )

    @property
    def end(self) -> int:
        """The last step: the planned one, or an earlier one where the rate fell early."""
        return self.plan.steps if self.state.end is None else self.state.end

    def _finish(self) -> None:
        """Take the best weights where a held-out part chose them, else the average of the tail where there is one."""
        chosen = self.best or self.average
        with torch.no_grad():
            for name, weight in self.mapping.named_parameters():
                if name in chosen:
                    weight.copy_(chosen[name])
        self.mapping = self.layout.whole(self.mapping).eval()

    def _record(self, loss: float, rate: float) -> dict[str, Any]:
        state = self.state
        record = {
            "step": state.step,
            "tokens": state.tokens,
            "seconds": round(state.seconds, 3),
            "loss": loss,
            "lr": rate,
        }
        if state.watched and state.watched[-1]["step"] == state.step:
            record |= {f"held_out_{name}": value for name, value in state.watched[-1].items() if name != "step"}
        return record

    def save(self) -> None:
        """Write the whole state as checkpoints/step-…, and drop all but the newest."""
        if self.folder is None:
            return
        parts: dict[str, dict[str, Tensor]] = {
            "model": dict(self.mapping.named_parameters()),
            "optimizer": self.optimizers.tensors(),
            "average": self.average,
            "best": self.best,
        }
        tensors = {}
        for part, named in parts.items():
            for name, tensor in named.items():
                whole = self.layout.gathered(tensor.detach())
                if self.ranks.main:
                    tensors[f"{part}/{name}"] = whole.cpu()
        path = checkpoint.place(self.folder, self.state.step)
        self.ranks.on_main(lambda: checkpoint.save(path, tensors, asdict(self.state)))
        if self.ranks.main:
            checkpoint.prune(self.folder, self.state.step, KEPT_CHECKPOINTS)

    def resume(self) -> None:
        """Go on from the newest whole checkpoint, where there is one; only the main process opens the folder."""
        run, say = self.folder, self.progress.say
        found = None if run is None else self.ranks.on_main(lambda: checkpoint.newest(run, say))
        told = self.ranks.tell(found and [found[0].name, found[2]])
        if told is None:
            return
        self.state = State(**told[1])
        parameters = dict(self.mapping.named_parameters())
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}, "average": {}, "best": {}}
        for key, tensor in self.ranks.share(found[1] if found else {}).items():
            part, _, name = key.partition("/")
            owner = parameters[name if name in parameters else name.rpartition("/")[0]]
            parts[part][name] = self.layout.own(tensor.to(self.device), owner)
        with torch.no_grad():
            for name, weight in parameters.items():
                weight.copy_(parts["model"][name])
        self.optimizers.load({name: t.cpu() if name.endswith("/step") else t for name, t in parts["optimizer"].items()})
        self.average, self.best = parts["average"], parts["best"]
        self.progress.say(f"going on from {told[0]} of {self.end}")


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGTERM and SIGINT, so that the step at hand is finished; a second Ctrl-C stops at once."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def note(signum: int, frame: FrameType | None) -> None:
        if received and signum == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(signum)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
