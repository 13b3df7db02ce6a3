"""The training loop: one for every arrow and every objective, and exact to the bit when a run is killed and started again.

A step reads its rows, packs them, sums the losses of all packed batches, divides by the number of answers of all processes,
clips the gradient and updates the weights. Rows and random numbers are functions of (seed, step), so a run that goes on from
a checkpoint computes what an unbroken one would have. The next steps' batches are packed by threads while the current one
computes; checkpoints, scores of held-out rows and logging are the only other work.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor

from mapsto.data.examples import Examples
from mapsto.device import seed_all
from mapsto.distributed import SINGLE_PROCESS
from mapsto.errors import RunError
from mapsto.model.mapping import Mapping
from mapsto.progress import StepReport
from mapsto.training.checkpoint import (
    checkpoint_folder,
    load_newest_checkpoint,
    prune_checkpoints,
    save_checkpoint,
)
from mapsto.training.data_parallel import ReplicatedWeights
from mapsto.training.loader import Loader
from mapsto.training.loggers import Loggers
from mapsto.training.objectives import Objective
from mapsto.training.optimizer import Optimizers, decay_end, rate_factor
from mapsto.training.plan import KEPT_CHECKPOINTS, Plan, RunContext, TrainingState

# The gradient is scaled down to this norm.
MAX_GRADIENT_NORM = 1.0

# So many steps in a row without a finite loss and gradient end a run.
MAX_SKIPPED_STEPS = 3

# The share of the steps, at the end, over which `Plan.average` averages the weights.
AVERAGED_TAIL = 0.20

# The parts of a checkpoint's tensor names, `part/parameter`.
CHECKPOINT_PARTS = ("model", "optimizer", "average", "best")


class Interrupted(RunError):
    """A signal stopped the run after a whole step, which was saved."""

    def __init__(self, signum: int, step: int, folder: Path | None) -> None:
        self.exit_status = 128 + signum
        hint = f"; the same command goes on from there ({folder})" if folder else ""
        super().__init__(f"stopped by {signal.Signals(signum).name} after step {step}{hint}")


class Training:
    """One run of the loop over a mapping."""

    def __init__(
        self,
        mapping: Mapping,
        examples: Examples,
        plan: Plan,
        context: RunContext,
        objective: Objective | None = None,
    ) -> None:
        self.mapping, self.plan, self.context = mapping, plan, context
        self.device, self.folder = context.device, context.folder
        self.logger = Loggers(context.loggers)
        self.layout = context.layout or ReplicatedWeights(SINGLE_PROCESS, mapping)
        self.layout.check(plan.batch, plan.optimizer)
        self.ranks = self.layout.ranks
        self.objective = objective or Objective()
        self.optimizers = Optimizers(mapping, plan.optimizer, plan.rate, plan.layer_decay, plan.head)
        self.loader = Loader(examples, plan, context.workers, self.objective, self.ranks)
        self.state = TrainingState()
        self.average: dict[str, Tensor] = {}
        self.best: dict[str, Tensor] = {}

    @property
    def last_step(self) -> int:
        """Return the planned last step, or an earlier one where the learning rate decays early."""
        return self.plan.steps if self.state.end is None else self.state.end

    def run(self) -> TrainingState:
        """Train to the last step; leave the best weights in the mapping, else the averaged, else the last ones.

        Raises Interrupted after a signal, RunError when losses stay not finite or a file cannot be written.
        """
        self.resume()
        started, seconds_before = time.monotonic(), self.state.seconds
        self.mapping.train()
        try:
            with _collected_signals() as signals:
                self.logger.start(self.state.step)
                while self.state.step < self.last_step:
                    loss, learning_rate = self.step(self.state.step)
                    self.state.seconds = seconds_before + time.monotonic() - started
                    self.logger.step(self._report(loss, learning_rate))
                    # All processes stop after the same step, whichever of them got the signal.
                    if signum := self.ranks.maximum(signals[0] if signals else 0):
                        self.save()
                        raise Interrupted(signum, self.state.step, self.folder)
                    if self._is_due(self.plan.save_every):
                        self.save()
        finally:
            self.loader.close()
            self.logger.close()
        self._finish()
        return self.state

    def step(self, number: int) -> tuple[float, float]:
        """Make one update over the rows of step `number`, from 0; return (loss, learning rate).

        Every answer weighs the same, however the rows are packed and divided among processes.
        """
        step_batches = self.ranks.run_on_all(lambda: self.loader.get_batches(number))
        seed_all(self.plan.seed, number, *([self.ranks.rank] if self.ranks.rank else []))
        self.objective.begin_step(self.mapping, step_batches)
        own_counts: Counter[int] = Counter()
        for batch in step_batches:
            own_counts.update(self.objective.counts(batch))
        terms = range(self.objective.num_terms(self.mapping))
        own_tokens = sum(batch.real_tokens for batch in step_batches)
        *counts, tokens = self.ranks.sum([*(own_counts[term] for term in terms), own_tokens])
        loss = torch.zeros((), device=self.device)
        for batch, weight in self.layout.iterate_batches(step_batches):
            losses = self.objective.losses(self.mapping, batch.to(self.device))
            shares = (total / max(counts[term], 1) for term, total in losses)
            share = weight * sum(shares, torch.zeros((), device=self.device))
            if share.requires_grad:
                share.backward()  # type: ignore[no-untyped-call]
            loss += share.detach()
        loss = self.layout.sum_over_processes(loss)
        norm = self._clip_gradients()
        factor = rate_factor(number, self.last_step)
        self._update(factor, loss.isfinite() & norm.isfinite())
        self.state.step = number + 1
        self.state.tokens += int(tokens)
        self._update_average()
        if self.context.score_held_out and self.plan.watch_every and self._is_due(self.plan.watch_every):
            self._score_held_out(self.context.score_held_out)
        return float(loss), self.plan.rate * factor

    def _is_due(self, interval: int) -> bool:
        """Return whether work that is done every `interval` steps, and after the last one, is due."""
        return self.state.step % interval == 0 or self.state.step == self.last_step

    def _clip_gradients(self) -> Tensor:
        """Scale the gradients down to MAX_GRADIENT_NORM where their norm is larger; return the norm before that."""
        parameters = [parameter for parameter in self.mapping.parameters() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        whole_norm = self.layout.gather(norm)
        if whole_norm > MAX_GRADIENT_NORM:
            torch.nn.utils.clip_grads_with_norm_(parameters, MAX_GRADIENT_NORM, norm)
        return whole_norm

    def _update(self, factor: float, is_finite: Tensor) -> None:
        """Update the weights where loss and gradient are finite. Raises RunError when too many steps in a row are not."""
        if is_finite:
            self.optimizers.step(factor)
            self.state.skipped = 0
            return
        self.optimizers.drop_gradients()
        self.state.skipped += 1
        rows = sorted(self.loader.rows_of_step(self.state.step))
        row_list = ", ".join(map(str, rows[:8])) + (", …" if len(rows) > 8 else "")
        text = f"step {self.state.step + 1}: loss or gradient is not finite; no update (examples {row_list})"
        self.logger.note(text)
        if self.state.skipped >= MAX_SKIPPED_STEPS:
            raise RunError(
                f"{text}. {MAX_SKIPPED_STEPS} such steps in a row: a lower --rate or --precision fp32 may help"
            )

    def _update_average(self) -> None:
        """Update the running mean of the weights over the tail of the run."""
        if not self.plan.average or self.state.step <= (1 - AVERAGED_TAIL) * self.plan.steps:
            return
        self.state.averaged += 1
        with torch.no_grad():
            for name, weight in self.mapping.named_parameters():
                if name in self.average:
                    self.average[name].lerp_(weight, 1 / self.state.averaged)
                else:
                    self.average[name] = weight.detach().clone()

    def _score_held_out(self, score: Callable[[Mapping], dict[str, float]]) -> None:
        """Score the held-out rows, keep the weights where their error is the lowest, and decay early where it stays.

        The learning rate decays when neither error nor loss (which few rows tell more exactly) has improved for `patience`
        scores. The scores improve once more while it decays, so a decay is never broken off.
        """
        self.mapping.eval()
        scores = score(self.layout.gather_mapping(self.mapping))
        self.mapping.train()
        lowest_loss = min((earlier["loss"] for earlier in self.state.watched), default=math.inf)
        self.state.watched.append({"step": self.state.step, **scores})
        score_list = ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
        self.logger.note(f"step {self.state.step}: held out: {score_list}")
        error = scores["error"]
        has_improved = error < self.state.best or scores["loss"] < lowest_loss
        self.state.stale = 0 if has_improved else self.state.stale + 1
        if error <= self.state.best:  # of equally good weights the later ones: the learning rate has decayed further
            self.state.best = error
            self.best = {name: weight.detach().clone() for name, weight in self.mapping.named_parameters()}
        end = decay_end(self.state.step)
        if self.state.stale >= self.plan.patience and end < self.last_step:
            self.state.end = end
            self.logger.note(
                f"step {self.state.step}: the held-out rows get no better; the learning rate decays until step {end}"
            )

    def _finish(self) -> None:
        """Copy the best weights into the mapping where held-out rows chose some, else the averaged ones where there are some."""
        final = self.best or self.average
        with torch.no_grad():
            for name, weight in self.mapping.named_parameters():
                if name in final:
                    weight.copy_(final[name])
        self.mapping = self.layout.gather_mapping(self.mapping).eval()

    def _report(self, loss: float, learning_rate: float) -> StepReport:
        state = self.state
        held_out = state.watched[-1] if state.watched and state.watched[-1]["step"] == state.step else {}
        return StepReport(
            step=state.step,
            last_step=self.last_step,
            tokens=state.tokens,
            seconds=state.seconds,
            loss=loss,
            learning_rate=learning_rate,
            held_out={name: value for name, value in held_out.items() if name != "step"},
        )

    def save(self) -> None:
        """Write a checkpoint of everything that a run needs to go on, and delete older ones."""
        if self.folder is None:
            return
        parts: tuple[dict[str, Tensor], ...] = (
            dict(self.mapping.named_parameters()),
            self.optimizers.tensors(),
            self.average,
            self.best,
        )
        tensors = {}
        for part, named_tensors in zip(CHECKPOINT_PARTS, parts, strict=True):
            for name, tensor in named_tensors.items():
                gathered_tensor = self.layout.gather(tensor.detach())  # by all processes together
                if self.ranks.is_main:
                    tensors[f"{part}/{name}"] = gathered_tensor.cpu()
        folder = checkpoint_folder(self.folder, self.state.step)
        self.ranks.run_on_main(lambda: save_checkpoint(folder, tensors, asdict(self.state)))
        if self.ranks.is_main:
            prune_checkpoints(self.folder, self.state.step, KEPT_CHECKPOINTS)

    def resume(self) -> None:
        """Load the newest whole checkpoint, where there is one; the main process reads it for all."""
        run, note = self.folder, self.logger.note
        loaded = None if run is None else self.ranks.run_on_main(lambda: load_newest_checkpoint(run, note))
        name_and_state = self.ranks.broadcast_json(loaded and [loaded[0].name, loaded[2]])
        if name_and_state is None:
            return
        self.state = TrainingState.restore(name_and_state[1])
        parameters = dict(self.mapping.named_parameters())
        parts: dict[str, dict[str, Tensor]] = {part: {} for part in CHECKPOINT_PARTS}
        for key, tensor in self.ranks.broadcast_tensors(loaded[1] if loaded else {}).items():
            part, _, name = key.partition("/")
            # The optimizer's tensors are called parameter/field.
            parameter = parameters[name if name in parameters else name.rpartition("/")[0]]
            parts[part][name] = self.layout.shard_like(tensor.to(self.device), parameter)
        with torch.no_grad():
            for name, weight in parameters.items():
                weight.copy_(parts["model"][name])
        self.optimizers.load({name: t.cpu() if name.endswith("/step") else t for name, t in parts["optimizer"].items()})
        self.average, self.best = parts["average"], parts["best"]
        self.logger.note(f"going on from {name_and_state[0]} of {self.last_step}")


@contextmanager
def _collected_signals() -> Iterator[list[int]]:
    """Collect SIGTERM and SIGINT, so that the current step is finished first; a second Ctrl-C stops at once.

    Yields the list of signals received so far. Outside the main thread, where Python has no signal handlers, it stays empty.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def collect(signum: int, frame: FrameType | None) -> None:
        if received and signum == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(signum)

    previous_handlers = {number: signal.signal(number, collect) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous_handlers.items():
            signal.signal(number, handler)
