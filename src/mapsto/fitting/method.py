"""The method of a fit where it is not measured: chosen by the number of labelled rows per class (see FEW_LABELS).

The methods are: train all weights ("full"), only fit linear heads ("probe"), first the heads and then all weights
("probe+full"), supervised contrastive learning and then linear heads ("contrast"), or a linear model of classical
features such as TF-IDF, which uses no starting model ("linear").
"""

from __future__ import annotations

from mapsto.data.examples import Examples
from mapsto.errors import UsageError
from mapsto.fitting.build_model import SHAPE_OPTIONS, open_feature_network
from mapsto.fitting.prepare import PreparedRun
from mapsto.model.mapping import Mapping
from mapsto.options import Method, ObjectiveOptions, Options
from mapsto.task.target_capabilities import Classes, LinearProbe, has_exclusive_classes
from mapsto.training.objectives import Objective
from mapsto.training.objectives.adversarial import AdversarialLoss
from mapsto.training.objectives.image_losses import ImageLoss, ImageObjective, image_port
from mapsto.training.objectives.matching import Matching
from mapsto.training.objectives.replaced_token_detection import ReplacedTokenDetection
from mapsto.training.objectives.simclr import SimCLR
from mapsto.training.objectives.style import StyleLoss, read_style_image
from mapsto.training.objectives.supervised_contrastive import SupervisedContrastive

# Labels per class. Up to FEW_LABELS the method is "contrast": on TREC-6 with 4 and 8 labels it is far better than
# "probe" and "full", on SST-2 equal (benchmarks/few_labels.py). Up to MANY_LABELS it is "probe+full"; with more labels
# "full" is better (SST-2, TREC-6, Banking77). For pictures, starting models pretrained by mapsto are too weak for
# "contrast" or "probe": 40 and 25 % on digits with 5 labels per class, where training all weights gives 71 %.
FEW_LABELS, MANY_LABELS = 16, 200

# The description of each method in the first line of a run; {} stands for the number of training steps.
METHODS = {
    "full": "{}",
    "probe": "a linear probe",
    "probe+full": "a linear probe, then {}",
    "contrast": "{}, then a linear probe",
    "linear": "a linear model",
}
# The methods that take no training step.
STEPLESS_METHODS = ("probe", "linear")


def choose_method(run: PreparedRun) -> tuple[Method, str]:
    """Return (method, reason in words) of the run; the option "auto" chooses by the number of labelled rows per class.

    Raises UsageError for a method that the starting model, the answers or the other options do not allow.
    """
    options, mapping = run.options, run.mapping
    method = options.method
    reason = "as asked"
    if method == "auto":
        method, reason = method_by_labels(run)
    elif method not in ("full", "linear") and run.is_pretraining:
        raise UsageError(f"--method {method} is for answers, and {mapping.arrow} is pretraining")
    elif method not in ("full", "linear") and not isinstance(mapping.targets[0], LinearProbe):
        raise UsageError(
            f"--method {method} is for answers such as labels and numbers, one of a whole example; {mapping.targets[0].kind} "
            "cannot be probed"
        )
    elif method not in ("full", "linear") and run.start.tensors is None:
        raise UsageError(f"--method {method} needs a --start to probe")
    elif method == "contrast" and options.mixture is not None:
        raise UsageError(
            f"--method contrast compares rows of one class, and with --augment {options.mixture} they have several"
        )
    elif unused := _unused_flags(method, options):
        raise UsageError(f"{unused} --method {method}")
    if method == "contrast" and contrast_port(mapping) is None:
        raise UsageError(f"--method contrast compares the rows of a few classes, and {mapping.arrow} answers none")
    return method, reason


def method_by_labels(run: PreparedRun) -> tuple[Method, str]:
    """Return (method, reason in words) for the run's number of labelled rows per class.

    Up to FEW_LABELS it is "contrast" for classes and a suitable kind of value, else "probe"; up to MANY_LABELS, or if
    an option would then have no effect, "probe+full"; above "full".
    It is always "full" in pretraining, without starting weights, and for answers that no linear probe can give.
    """
    mapping, num_rows = run.mapping, run.data.num_rows
    if run.start.tensors is None or run.is_pretraining:
        return "full", "nothing to probe" if not run.is_pretraining else "pretraining"
    port = contrast_port(mapping)
    if mapping.arrow.symmetric:
        return "full", "pairs move the vectors themselves"
    if not isinstance(mapping.targets[0], LinearProbe):
        return "full", "the answers are no classes of whole examples"
    contrasted = None if port is None else mapping.targets[port]
    # Without classes, as for numbers, all answers count as one class.
    per_class = num_rows / (len(contrasted.classes) if isinstance(contrasted, Classes) else 1)
    amount = f"{per_class:,.0f} labels a class" if port is not None else f"{num_rows:,} answers"
    if per_class > MANY_LABELS:
        return "full", f"{amount}, more than {MANY_LABELS}"
    can_contrast = all(source.defaults.contrastive_few_labels for source in mapping.sources.values())
    unused = ""
    if per_class <= FEW_LABELS and (can_contrast or not run.start.is_from_scratch):
        # A single label per class gives no pair of rows to contrast.
        method: Method = "contrast" if port is not None and can_contrast and per_class > 1 else "probe"
        if not (unused := _unused_flags(method, run.options)):
            return method, f"{amount}, at most {FEW_LABELS}"
        unused = f"; {unused} {method}"
    return "probe+full", f"{amount}, at most {MANY_LABELS}{unused}"


def _unused_flags(method: str, options: Options) -> str:
    """Return "--steps, --rate would change nothing with" for the options set that `method` ignores; "" if there are none.

    The caller appends the name of the method.
    """
    flags = ", ".join(f"--{name.replace('_', '-')}" for name in unused_options(method, options))
    return f"{flags} would change nothing with" if flags else ""


def unused_options(method: str, options: Options) -> list[str]:
    """Return the names of options that the user has set and `method` would ignore.

    For example, a linear probe has no training steps, so `steps` and `rate` would change nothing.
    """
    numbers = ("steps", "epochs", "minutes", "batch", "rate")
    shape = {name: getattr(options, name) is not None for name in (*SHAPE_OPTIONS, "length", "words", "size")}
    is_set = {
        **{name: getattr(options, name) is not None for name in numbers},
        "lora": options.lora is not None,
        "freeze": options.freeze is not None and (method in STEPLESS_METHODS or options.freeze == "all"),
        "layer_decay": options.layer_decay < 1,
        "smooth": options.smooth > 0,
        "average": options.average is not None,
        "optimizer": options.optimizer != "auto",
        "patience": options.patience != Options().patience,
        "augment": options.augment != "auto",
        "metric": options.metric is not None,
    }
    mixing = ("augment",) if options.mixture is not None else ()
    without_use = {
        "probe": (*(name for name in is_set if name != "augment"), *mixing),
        "contrast": ("freeze", "smooth", "patience", "metric", *mixing),
        "linear": (*is_set, *shape),
    }
    return [name for name in without_use.get(method, ()) if {**is_set, **shape}[name]]


def contrast_port(mapping: Mapping) -> int | None:
    """Return the index of the target whose classes contrastive learning compares; None if there is no such target.

    It is the first target that answers exactly one class per example.
    """
    probed = [port for port, target in enumerate(mapping.targets) if isinstance(target, LinearProbe)]
    return next((port for port in probed if has_exclusive_classes(mapping.targets[port])), None)


def make_objective(method: str, options: Options, mapping: Mapping, examples: Examples) -> Objective:
    """Return the training objective for `method` and `options`.

    The objective may add modules to the mapping that only training needs, such as a discriminator; its method `finish`
    removes them.
    examples: the training examples, whose classes contrastive learning compares.
    """
    if options.style is not None or options.adversarial:
        return _image_objective(options, mapping)
    if mapping.arrow.corrupted and options.objective == "replaced":
        return ReplacedTokenDetection(mapping)
    if mapping.arrow.corrupted and options.objective == "simclr":
        return SimCLR(mapping, options.augmentation)
    if mapping.arrow.symmetric:
        return Matching(mapping, examples, options.vector_sizes)
    port = contrast_port(mapping) if method == "contrast" else None
    return Objective() if port is None else SupervisedContrastive(examples, port)


def _image_objective(options: ObjectiveOptions, mapping: Mapping) -> Objective:
    """Return the objective with losses of whole generated pictures: a style loss (`--style`), an adversarial one, or both.

    Raises UsageError for arrows that generate no pictures, CheckpointError if the feature network is damaged.
    """
    # Raises before the style image and the feature network are opened.
    image_port(mapping)
    judges: list[ImageLoss] = []
    picture = None
    if options.style is not None:
        device = next(mapping.parameters()).device
        picture = read_style_image(options.style, mapping).to(device)
        network = open_feature_network(str(options.features)).to(device)
        judges.append(StyleLoss(network, picture[None], options.style_weight))
    if options.adversarial:
        judges.append(AdversarialLoss(mapping, options.adversarial, picture))
    # With a style the target image is the source itself, so a loss by pixel would hold the picture as it is.
    return ImageObjective(mapping, judges, with_pixel_loss=options.style is None)
