"""How long, how fast, by which method: the numbers of a run, chosen from data, start and options, then recorded."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from typing import Literal

import torch

from mapsto.data.examples import Examples
from mapsto.errors import UsageError
from mapsto.fitting.build import bare
from mapsto.fitting.start import Beginning
from mapsto.model.mapping import Mapping
from mapsto.options import Options
from mapsto.task.capabilities import Classes, LinearProbe, Located, has_exclusive_classes
from mapsto.task.source import Learning
from mapsto.training.data_parallel import ReplicatedWeights
from mapsto.training.loop import Plan, RunContext, Training
from mapsto.training.objectives import Objective
from mapsto.training.objectives.adversarial import AdversarialLoss
from mapsto.training.objectives.image_losses import ImageLoss, ImageObjective, image_port
from mapsto.training.objectives.replaced_token_detection import ReplacedTokenDetection
from mapsto.training.objectives.simclr import SimCLR
from mapsto.training.objectives.style import StyleLoss, read_style_image
from mapsto.training.objectives.supervised_contrastive import SupervisedContrastive

PRETRAIN_MINUTES = 10.0


PRETRAIN_TOKENS = 4096


FIT_BATCH = 32


# Labels a class. Up to the first number the classes are contrasted, then probed: far ahead of a probe and of all weights
# at 4 and 8 labels on TREC-6, level with them on SST-2 (benchmarks/few_labels.py). Up to the second all weights are trained
# from a linear probe; above it a probe only holds them back (SST-2, TREC-6, Banking77). Of pictures, a start made here knows too
# little for either alone: digits at 5 a class 40 and 25 %, all weights 71 %.
FEW_LABELS, MANY_LABELS = 16, 200


CONTRAST_STEPS, CONTRAST_EPOCHS, CONTRAST_RATE = 40, 10, 5e-5


LORA_RATE = 10  # low-rank updates learn best at about ten times the rate of the weights beside them


CALIBRATION_STEPS = 4


RATES = {"muon": 5e-3, "adamw": 1e-3}


# Going on from a published start: after two passes of MiniLM over Banking77's texts a probe on 4 labels a class is as good as
# before at 3e-5, 3 points worse at 1e-4 and 20 worse at 1e-3 (benchmarks/continuing.py).
GOING_ON_RATE = 3e-5


LENGTHS_SEEN = 2000


def choose_method(
    options: Options, mapping: Mapping, beginning: Beginning, count: int, pretraining: bool
) -> tuple[str, str]:
    """The method, and why. Raises UsageError for one that the start, the answers or the other options do not allow."""
    method: str = options.method
    why = "as asked"
    if method == "auto":
        method, why = _measured(options, mapping, beginning, count, pretraining)
    elif method != "full" and (
        beginning.tensors is None or pretraining or not isinstance(mapping.targets[0], LinearProbe)
    ):
        raise UsageError(f"--method {method} needs a --start to probe, and answers such as labels")
    elif method == "contrast" and options.mixture is not None:
        raise UsageError(
            f"--method contrast compares rows of one class, and with --augment {options.mixture} they have several"
        )
    elif without := _without_use(method, options):
        raise UsageError(f"{without} --method {method}")
    if method == "contrast" and contrasted(mapping) is None:
        raise UsageError(f"--method contrast compares the rows of a few classes, and {mapping.arrow} answers none")
    return method, why


def _measured(
    options: Options, mapping: Mapping, beginning: Beginning, count: int, pretraining: bool
) -> tuple[str, str]:
    """The method for as many labels: see FEW_LABELS."""
    if beginning.tensors is None or pretraining:
        return "full", "nothing to probe" if not pretraining else "pretraining"
    port = contrasted(mapping)
    if not isinstance(mapping.targets[0], LinearProbe):
        return "full", "the answers are no classes of whole examples"
    compared = None if port is None else mapping.targets[port]
    a_class = count / (len(compared.classes) if isinstance(compared, Classes) else 1)
    said = f"{a_class:,.0f} labels a class" if port is not None else f"{count:,} answers"
    if a_class > MANY_LABELS:
        return "full", f"{said}, more than {MANY_LABELS}"
    contrasts = all(source.defaults.contrastive_few_labels for source in mapping.sources.values())
    without = ""
    if a_class <= FEW_LABELS and (contrasts or not beginning.made_here):
        method = "contrast" if port is not None and contrasts and a_class > 1 else "probe"
        if not (without := _without_use(method, options)):
            return method, f"{said}, at most {FEW_LABELS}"
        without = f"; {without} {method}"
    return "probe+full", f"{said}, at most {MANY_LABELS}{without}"


def _without_use(method: str, options: Options) -> str:
    """What there is to say, up to the name of the method, where options would change nothing."""
    flags = ", ".join(f"--{name.replace('_', '-')}" for name in idle(method, options))
    return f"{flags} would change nothing with" if flags else ""


def idle(method: str, options: Options) -> list[str]:
    """The fields given that would change nothing, since the weights or the loss that they are about are not there."""
    told = ("steps", "epochs", "minutes", "batch", "rate")
    given = {
        **{name: getattr(options, name) is not None for name in told},
        "lora": options.lora is not None,
        "freeze": options.freeze is not None and (method == "probe" or options.freeze == "all"),
        "layer_decay": options.layer_decay < 1,
        "smooth": options.smooth > 0,
        "average": options.average is not None,
        "optimizer": options.optimizer != "auto",
        "patience": options.patience != Options().patience,
        "augment": options.augment != "auto",
    }
    mixed = ("augment",) if options.mixture is not None else ()
    without = {"probe": tuple(given), "contrast": ("freeze", "smooth", "patience", *mixed)}
    return [name for name in without.get(method, ()) if given[name]]


def learning(mapping: Mapping, beginning: Beginning) -> Learning:
    """How fits are run: as an answer that takes long to learn says, else as the kind that is read does, but for a published
    start, which needs no more than text does."""
    for target in mapping.targets:
        if isinstance(target, Located) and target.learning is not None:
            return target.learning
    return next(iter(mapping.sources.values())).defaults.learning if beginning.made_here else Learning()


def contrasted(mapping: Mapping) -> int | None:
    """The first target with classes that is read from one vector an example."""
    probed = [port for port, target in enumerate(mapping.targets) if isinstance(target, LinearProbe)]
    return next((port for port in probed if has_exclusive_classes(mapping.targets[port])), None)


def make_objective(method: str, options: Options, mapping: Mapping, examples: Examples) -> Objective:
    """What the steps of `method` make small. It may add to the mapping what only training needs."""
    if options.style is not None or options.adversarial:
        return _pictured(options, mapping)
    if mapping.arrow.corrupted and options.objective == "replaced":
        return ReplacedTokenDetection(mapping)
    if mapping.arrow.corrupted and options.objective == "simclr":
        return SimCLR(mapping, options.augmentation)
    port = contrasted(mapping) if method == "contrast" else None
    return Objective() if port is None else SupervisedContrastive(examples, port)


def _pictured(options: Options, mapping: Mapping) -> Objective:
    """What judges pictures as a whole. Raises UsageError for arrows that make none, CheckpointError."""
    image_port(mapping)
    judges: list[ImageLoss] = []
    picture = None
    if options.style is not None:
        device = next(mapping.parameters()).device
        picture = read_style_image(options.style, mapping).to(device)
        judges.append(StyleLoss(bare(str(options.features)).to(device), picture[None], options.style_weight))
    if options.adversarial:
        judges.append(AdversarialLoss(mapping, options.adversarial, picture))
    return ImageObjective(mapping, judges, with_pixel_loss=options.style is None)


def make_plan(
    options: Options,
    mapping: Mapping,
    examples: Examples,
    beginning: Beginning,
    method: str,
    objective: Objective,
    device: torch.device,
    pretraining: bool,
    began: float,
    layout: ReplicatedWeights,
) -> Plan:
    """The numbers of a new run. With `--minutes`, counted from `began`, some steps are tried out on the side."""
    started = beginning.tensors is not None
    seen = range(min(LENGTHS_SEEN, len(examples)))
    mean = statistics.fmean(sum(map(len, examples.pieces[row])) for row in seen)
    batch = options.batch or (max(8, round(PRETRAIN_TOKENS / mean)) if pretraining else FIT_BATCH)
    batch = min(batch, len(examples))
    optimizer: Literal["adamw", "muon"] = "adamw"
    if options.optimizer != "auto":
        optimizer = options.optimizer
    elif layout.supports_muon and (not started or (pretraining and beginning.made_here)):
        optimizer = "muon"
    rate = RATES[optimizer]
    if started and not pretraining:
        rate = learning(mapping, beginning).rate
    elif started and optimizer == "adamw":
        rate = GOING_ON_RATE
    rate = CONTRAST_RATE if method == "contrast" else rate
    plan = Plan(
        steps=0,
        batch=batch,
        rate=options.rate or rate * (1 if options.lora is None else LORA_RATE),
        optimizer=optimizer,
        seed=options.seed,
        save_every=0,
        patience=options.patience,
        average=pretraining if options.average is None else options.average,
        layer_decay=options.layer_decay,
        head=learning(mapping, beginning).head_factor if started and not pretraining and options.lora is None else 1.0,
    )
    layout.check(batch, optimizer)
    per_epoch = len(examples) / batch
    steps = 0
    if method != "probe":
        steps = _steps(options, plan, mapping, examples, objective, device, pretraining, began, layout, beginning)
    watches = objective.trains_heads and not plan.average and not pretraining
    return replace(
        plan,
        steps=steps,
        save_every=options.save_every or max(50, -(-steps // 20)),
        watch_every=max(1, min(round(per_epoch), steps // 3)) if watches else 0,
    )


def _steps(
    options: Options,
    plan: Plan,
    mapping: Mapping,
    examples: Examples,
    objective: Objective,
    device: torch.device,
    pretraining: bool,
    began: float,
    layout: ReplicatedWeights,
    beginning: Beginning,
) -> int:
    if options.steps is not None:
        return options.steps
    per_epoch = len(examples) / plan.batch
    if options.epochs is None and (pretraining or options.minutes is not None):
        seconds = 60 * (options.minutes or PRETRAIN_MINUTES) - (time.monotonic() - began)
        return _calibrate(plan, mapping, examples, objective, device, seconds, layout)
    if options.epochs is None and isinstance(objective, SupervisedContrastive):
        return max(CONTRAST_STEPS, round(CONTRAST_EPOCHS * per_epoch))
    usual = learning(mapping, beginning)
    epochs = options.epochs or max(usual.min_epochs, min(usual.max_epochs, usual.steps / per_epoch))
    return max(1, round(epochs * per_epoch))


def _calibrate(
    plan: Plan,
    mapping: Mapping,
    examples: Examples,
    objective: Objective,
    device: torch.device,
    seconds: float,
    layout: ReplicatedWeights,
) -> int:
    """How many steps fit into `seconds`: some are run, then every weight is put back."""
    started = time.monotonic()
    before = {name: parameter.detach().clone() for name, parameter in mapping.named_parameters()}
    longer = replace(plan, steps=10_000, save_every=10_000)
    trial = Training(mapping, examples, longer, RunContext(device, workers=0, layout=layout), objective)
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
    left = seconds - (time.monotonic() - started)
    return max(1, int(left / statistics.median(taken[1:])))
