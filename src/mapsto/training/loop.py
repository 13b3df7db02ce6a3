"""The training loop for every task and every objective.

A step reads its rows, packs them, sums the losses of all packed batches, divides by the number of answers in all
processes, clips the gradient and updates the weights. Rows and random numbers are functions of (seed, step), so a run
that resumes from a checkpoint gives bit for bit the weights of an uninterrupted run. Threads pack the next steps'
batches while the current step computes. The loop also writes checkpoints, scores the held-out rows and logs.
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
from functools import cached_property
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
from mapsto.training.optimizer import DECAY, Optimizers, decay_end, rate_factor
from mapsto.training.plan import KEPT_CHECKPOINTS, Plan, RunContext, TrainingState

# The gradient is scaled down to this norm.
MAX_GRADIENT_NORM = 1.0

# The run fails after this many steps in a row whose loss or gradient is not finite.
MAX_SKIPPED_STEPS = 3

# The share of the steps, at the end, over which `Plan.average` averages the weights.
AVERAGED_TAIL = 0.20

# The most checkpoints of a run with more steps than were planned.
MOST_SAVES = 20

# At these shares of the steps or of the time, the number of steps is corrected to fit the time. After the last one the learning
# rate decays.
REVIEWS = (0.1, 0.25, 0.4, 1 - DECAY)

# The parts of a checkpoint's tensor names, `part/parameter`.
CHECKPOINT_PARTS = ("model", "optimizer", "average", "best")


class Interrupted(RunError):
    """The error of a run that a signal stopped, after the current step was finished and a checkpoint written.

    signum: number of the signal: SIGINT, SIGTERM, SIGHUP, or SIGPIPE where the reader of the progress has gone.
    folder: the run's folder; None for a run in memory, which has no checkpoint and cannot be resumed.
    reason: the signal and the step in words, without what to do next.
    """

    def __init__(self, signum: int, step: int, folder: Path | None) -> None:
        self.exit_status = 128 + signum
        self.reason = f"stopped by {signal.Signals(signum).name} after step {step}"
        hint = f"; the same command goes on from there ({folder})" if folder else ""
        super().__init__(f"{self.reason}{hint}")


class Training:
    """One training run of a model.

    mapping: the model, trained in place. examples: the training examples.
    plan: the hyperparameters. context: the device, folder, loggers and processes of the run.
    objective: the losses to minimise; None for the losses of the mapping's targets.
    """

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
        self.loader = Loader(examples, plan, context.workers, self.objective, self.ranks)
        self.state = TrainingState()
        self.average: dict[str, Tensor] = {}
        self.best: dict[str, Tensor] = {}

    @cached_property
    def optimizers(self) -> Optimizers:
        """The optimizers of the weights, created when they are first used: this takes seconds, and a probe has no steps."""
        plan = self.plan
        return Optimizers(self.mapping, plan.optimizer, plan.rate, plan.layer_decay, plan.head, plan.muon_precision)

    @property
    def last_step(self) -> int:
        """The number of steps of the run: as planned or corrected, or fewer when the learning rate decays early."""
        return self.num_steps if self.state.end is None else self.state.end

    @property
    def num_steps(self) -> int:
        """The number of steps as planned, or as corrected to fit the time."""
        return self.plan.steps if self.state.steps is None else self.state.steps

    def run(self) -> TrainingState:
        """Train to the last step, from a checkpoint if there is one, and return the final state.

        The mapping ends with the weights that scored best on the held-out rows; if none were scored, with the averaged
        weights; without an average, with those of the last step.
        Raises Interrupted after a signal, RunError after MAX_SKIPPED_STEPS skipped updates in a row or when a file
        cannot be written.
        """
        self.resume()
        started, seconds_before = time.monotonic(), self.state.seconds
        self.mapping.train()
        try:
            with _collected_signals() as signals:
                self.logger.start(self.state.step)
                if self.context.scores_start and self.state.step == 0:
                    self._score_at_start()
                while self.state.step < self.last_step:
                    loss, learning_rate = self.step(self.state.step)
                    self.state.seconds = seconds_before + time.monotonic() - started
                    self.logger.step(self._report(loss, learning_rate))
                    # All processes must stop after the same step, so they share the signal that any of them received.
                    if signum := self.ranks.maximum(signals[0] if signals else self.logger.hang_up):
                        self.save()
                        raise Interrupted(signum, self.state.step, self.folder)
                    if self._review_steps() or self._is_due(self._save_interval):
                        self.save()
        finally:
            self.loader.close()
            self.logger.close()
        self._finish()
        return self.state

    def step(self, number: int) -> tuple[float, float]:
        """Update the weights once with the rows of step `number`, from 0; return (loss, learning rate).

        The loss is a sum of terms, one for each target or as the objective defines. Each term is the mean over all
        answers in the step, however the rows are packed and divided among processes.
        """
        step_batches = self.ranks.run_on_all(lambda: self.loader.get_batches(number))
        # Each process draws its own dropout; the main one draws as a single process would.
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
            # The counts are of all batches and processes, so the sum of the shares is the mean over all answers.
            shares = (total / max(counts[term], 1) for term, total in losses)
            share = weight * sum(shares, torch.zeros((), device=self.device))
            if share.requires_grad:
                share.backward()  # type: ignore[no-untyped-call]
            loss += share.detach()
        loss = self.layout.sum_over_processes(loss)
        norm = self._clip_gradients()
        # A run that turns out to have more steps does not warm up twice.
        warm_up = self.plan.warm_up * min(1.0, self.plan.steps / self.last_step)
        factor = rate_factor(number, self.last_step, warm_up)
        self._update(factor, loss.isfinite() & norm.isfinite())
        self.state.step = number + 1
        self.state.tokens += int(tokens)
        self._update_average()
        if self.context.score_held_out and self.plan.watch_every and self._is_due(self._watch_interval):
            self._score_held_out(self.context.score_held_out)
        return float(loss), self.plan.rate * factor

    @property
    def _watch_interval(self) -> int:
        """Return the number of steps between scores of the held-out rows: the plan's, but at least three scores a run."""
        return max(1, min(self.plan.watch_every, self.num_steps // 3))

    @property
    def _save_interval(self) -> int:
        """Return the number of steps between checkpoints: the plan's, but at most MOST_SAVES where the steps may grow."""
        may_grow = self.plan.seconds is not None
        return max(self.plan.save_every, self.num_steps // MOST_SAVES) if may_grow else self.plan.save_every

    def _review_steps(self) -> bool:
        """Correct the number of steps to fit the plan's time, if a review is due; return whether one was.

        Steps that were timed before the run may have been slower or faster than most, as beside other work. A review saves
        a checkpoint, so that a resumed run has the same number of steps.
        """
        state, seconds = self.state, self.plan.seconds
        # Zero seconds are left where reading the data took all of the time; then a single step is planned.
        if not seconds or state.end is not None or state.reviews == len(REVIEWS):
            return False
        if max(state.step / self.num_steps, state.seconds / seconds) < REVIEWS[state.reviews]:
            return False
        reviewed_step, reviewed_seconds = state.reviewed
        pace = (state.seconds - reviewed_seconds) / (state.step - reviewed_step)
        # A decay that is due at once is still completed.
        steps = max(decay_end(state.step), state.step + int((seconds - state.seconds) / pace))
        state.steps = int(self.ranks.broadcast_json(steps))
        progress = max(state.step / state.steps, state.seconds / seconds)
        state.reviews, state.reviewed = sum(share <= progress for share in REVIEWS), (state.step, state.seconds)
        self.loader.set_num_steps(state.steps)
        return True

    def _is_due(self, interval: int) -> bool:
        """Return whether work done every `interval` steps, and after the last one, is due after the current step."""
        return self.state.step % interval == 0 or self.state.step == self.last_step

    def _clip_gradients(self) -> Tensor:
        """Clip the gradients to a total norm of MAX_GRADIENT_NORM; return their total norm before clipping."""
        parameters = [parameter for parameter in self.mapping.parameters() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        whole_norm = self.layout.gather(norm)
        if whole_norm > MAX_GRADIENT_NORM:
            torch.nn.utils.clip_grads_with_norm_(parameters, MAX_GRADIENT_NORM, norm)
        return whole_norm

    def _update(self, factor: float, is_finite: Tensor) -> None:
        """Update the weights, or skip the update when loss or gradient is not finite.

        factor: learning rate as a share of its peak. is_finite: whether both loss and gradient are finite.
        Raises RunError after MAX_SKIPPED_STEPS skipped updates in a row.
        """
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
        """Add the current weights to their running mean in the last AVERAGED_TAIL of all steps, if the plan asks for it."""
        if not self.plan.average or self.state.step <= (1 - AVERAGED_TAIL) * self.num_steps:
            return
        self.state.averaged += 1
        with torch.no_grad():
            for name, weight in self.mapping.named_parameters():
                if name in self.average:
                    self.average[name].lerp_(weight, 1 / self.state.averaged)
                else:
                    self.average[name] = weight.detach().clone()

    def _score_at_start(self) -> None:
        """Score the held-out rows before the first step, so that training does not end with more mistakes on them than before."""
        if self.context.score_held_out and self.plan.watch_every:
            self._score_held_out(self.context.score_held_out)

    def _score_held_out(self, score: Callable[[Mapping], dict[str, float]]) -> None:
        """Score the held-out rows, remember the weights with the lowest error, and decide whether to decay early.

        score: returns {"loss": …, "error": …} of a mapping on the held-out rows. The learning rate starts to decay when
            neither has improved for `patience` scores: on few rows the loss is more precise than the error. A decay is
            always completed, because scores improve once more during it. A watched metric takes the place of the error.
        """
        self.mapping.eval()
        scores = score(self.layout.gather_mapping(self.mapping))
        self.mapping.train()
        lowest_loss = min((earlier["loss"] for earlier in self.state.watched), default=math.inf)
        self.state.watched.append({"step": self.state.step, **scores})
        score_list = ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
        self.logger.note(f"step {self.state.step}: held out: {score_list}")
        error = self.context.watched_error(scores)
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
        """Copy the best weights into the mapping, or without any the averaged weights; without both, keep the last ones."""
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
        """Write a checkpoint with everything that the run needs to resume, and delete older checkpoints.

        A run without a folder writes none.
        """
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
                gathered_tensor = self.layout.gather(tensor.detach())  # a collective operation: all processes call it
                if self.ranks.is_main:
                    tensors[f"{part}/{name}"] = gathered_tensor.cpu()
        folder = checkpoint_folder(self.folder, self.state.step)
        self.ranks.run_on_main(lambda: save_checkpoint(folder, tensors, asdict(self.state)))
        if self.ranks.is_main:
            prune_checkpoints(self.folder, self.state.step, KEPT_CHECKPOINTS)

    def resume(self) -> None:
        """Restore the newest undamaged checkpoint, if there is one. The main process reads it and sends it to the others."""
        run, note = self.folder, self.logger.note
        loaded = None if run is None else self.ranks.run_on_main(lambda: load_newest_checkpoint(run, note))
        name_and_state = self.ranks.broadcast_json(loaded and [loaded[0].name, loaded[2]])
        if name_and_state is None:
            return
        self.state = TrainingState.restore(name_and_state[1])
        self.loader.set_num_steps(self.num_steps)
        parameters = dict(self.mapping.named_parameters())
        parts: dict[str, dict[str, Tensor]] = {part: {} for part in CHECKPOINT_PARTS}
        for key, tensor in self.ranks.broadcast_tensors(loaded[1] if loaded else {}).items():
            part, _, name = key.partition("/")
            # The optimizer's tensors are named parameter/field, all others by the parameter alone.
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
    """Collect SIGTERM, SIGINT and SIGHUP during the `with` block instead of stopping, so that the loop can finish its step.

    Yields the list of signal numbers received so far, which grows. A second Ctrl-C stops at once. Outside the main
    thread the list stays empty, because Python handles signals in the main thread only.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def collect(signum: int, frame: FrameType | None) -> None:
        if received and signum == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(signum)

    numbers = [signal.SIGINT, signal.SIGTERM]
    # The signal of a closed terminal, unless `nohup` has asked to ignore it. Windows has none.
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    previous_handlers = {number: signal.signal(number, collect) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in previous_handlers.items():
            signal.signal(number, handler)
