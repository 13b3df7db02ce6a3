"""The data of a run, and checks of the options against the task.

Data from a table (table_data.py) and from a corpus (corpus_data.py) are both returned as RunData. Options that would
change nothing raise an error before the data is read, which may take long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from collections.abc import Mapping as Dict
from dataclasses import dataclass, replace
from typing import Any

from mapsto import kinds
from mapsto.class_weights import WEIGHTS_FILE_HINT, read_class_weights
from mapsto.data import corpus
from mapsto.data.duplicates.overlap import filter_rows
from mapsto.data.examples import Examples
from mapsto.data.rows import Rows
from mapsto.data.table import Table
from mapsto.errors import Finding, UsageError, near
from mapsto.fitting.build_model import add_answer_decoder, make_config, make_sentence_config, read_sources
from mapsto.fitting.starting_model import StartingModel
from mapsto.model.config import ModelConfig
from mapsto.model.row_filter import RowFilter
from mapsto.options import ObjectiveOptions, OptimizationOptions, Options, flag
from mapsto.sequence.corruption import Corruption
from mapsto.task.arrow import Arrow
from mapsto.task.generation import Generated, bind_target
from mapsto.task.label_spelling import same_value
from mapsto.task.source import Source
from mapsto.task.source_capabilities import Augmentable, Tokenized
from mapsto.task.target import Target
from mapsto.task.target_capabilities import Classes, Mixable, Reconstruction, WeightedClasses, has_exclusive_classes

# Label smoothing of generated answers of new models, as usual in translation from random weights.
NEW_SMOOTHING = 0.1

# The default length of the longest example in pretraining, in tokens.
PRETRAIN_LENGTH = 128


@dataclass(frozen=True)
class RunData:
    """The data of a run and the configuration of its model; several runs may train on the same data.

    start: the starting model. sources: the model's sources by kind. targets: one for each answer of the arrow.
    fingerprint: SHA-256 of the data.
    num_rows, num_held_out: the numbers of training rows and of held-out rows.
    training_rows, held_out_rows: the rows of a table to train on, and the held-out ones; None for a corpus.
    test: the rows to score at the end, without those that are also in the training data; None without a test.
    rejected: the problems of unreadable rows that were skipped.
    encode: returns (training examples, held-out examples); the first call encodes them, later calls return the same.
    findings: warnings about the data that do not stop the run.
    unlabelled: the rows without a label, which are not learnt from (`--unlabelled`); None if there are none.
    """

    start: StartingModel
    arrow: Arrow
    config: ModelConfig
    sources: Dict[str, Source]
    targets: Sequence[Target]
    fingerprint: str
    num_rows: int
    num_held_out: int
    training_rows: Rows | None
    held_out_rows: Rows | None
    test: Table | None
    rejected: Iterable[Finding]
    encode: Callable[[], tuple[Examples, Examples]]
    findings: Sequence[Finding] = ()
    unlabelled: Table | None = None

    def make_row_filters(self) -> tuple[RowFilter, ...]:
        """Return the filters of the rows that the trained model will have been fitted to, its starting models' included.

        Held-out rows count too: they choose the weights and the temperature. Pretraining sees no labels and adds no filter.
        """
        if self.arrow.corrupted or self.training_rows is None or self.held_out_rows is None:
            return self.start.row_filters
        row_filter = filter_rows(self.training_rows, self.held_out_rows)
        # Fitted to the same rows twice, a model needs one filter of them.
        return tuple(dict.fromkeys((*self.start.row_filters, row_filter)))


def make_targets(arrow: Arrow, options: OptimizationOptions) -> list[Target]:
    """Return a new target object for each target port of the arrow, in order.

    Raises UsageError if `--balance`, `--class-weights` or `--smooth` is set and no answer is a class.
    """
    targets = [target() for target in kinds.answering(arrow)]
    has_weights = any(isinstance(target, WeightedClasses) for target in targets)
    can_smooth = any(isinstance(target, Generated) or has_exclusive_classes(target) for target in targets)
    for name, is_useful in {"balance": has_weights, "class_weights": has_weights, "smooth": can_smooth}.items():
        if getattr(options, name) and not is_useful:
            raise UsageError(f"{flag(name)} is for classes, and {arrow} answers none")
    for target in targets:
        if isinstance(target, Classes | Generated):
            target.label_smoothing = options.smooth
    return targets


def learn_answers(target: Target, answers: Sequence[Any], options: OptimizationOptions) -> None:
    """Let a target learn from the training answers, and weigh its classes as `--balance` or `--class-weights` say.

    Raises DataError if the answers do not suffice, UsageError for the weight of a class that none of them has.
    """
    target.learn(answers, options.is_balanced)
    weights = read_class_weights(options.class_weights)
    if weights is not None and isinstance(target, WeightedClasses):
        target.weigh_classes(answers, _weights_by_class(target.classes, weights))


def _weights_by_class(classes: Sequence[str], weights: Dict[str, float]) -> dict[str, float]:
    """Return weights by the names of the classes that they are given for, where `1` is the class `1.0`, as it is in a cell.

    Raises UsageError for the weight of a class that there is not, and for two weights of one class.
    """
    by_class: dict[str, float] = {}
    for given, weight in weights.items():
        name = given if given in classes else same_value(given, classes)
        if name is None:
            names = ", ".join(map(repr, classes[:10]))
            hint = f"; {WEIGHTS_FILE_HINT}" if any(mark in given for mark in "=,;") else ""
            raise UsageError(
                f"--class-weights: no class {given!r}{near(given, classes)}; the classes are: {names}{hint}"
            )
        if name in by_class:
            raise UsageError(f"--class-weights: {name!r} is there twice, also as {given!r}")
        by_class[name] = weight
    return by_class


def bind_targets(
    arrow: Arrow, sources: Dict[str, Source], targets: Sequence[Target], start: StartingModel, options: Options
) -> ModelConfig:
    """Give each target the facts about the sources that it needs, such as the vocabulary; return the new model's configuration.

    Raises UsageError for options that do not suit the sources or the starting model, such as `--length` with pictures.
    """
    if options.length is not None and any(source.max_tokens is not None for source in sources.values()):
        raise UsageError(f"--length would change nothing: {arrow} reads its values whole")
    read = read_sources(arrow, sources)
    config = add_answer_decoder(make_config(start, options, arrow.corrupted, read), start, options, targets)
    if arrow.symmetric:
        config = replace(config, sentence=make_sentence_config(start, config, options))
    if config.decoder is not None and options.objective != "mae":
        raise UsageError("the start fills in hidden parts with a decoder; continue its training with --objective mae")
    if config.transformer.causal and arrow.corrupted and options.objective != "causal":
        raise UsageError(
            "each token of the start sees those before it alone; continue its training with --objective causal"
        )
    for target, port in zip(targets, arrow.targets, strict=True):
        bind_target(target, sources, config, arrow)
        if isinstance(target, Generated) and start.tensors is None and not options.smooth:
            target.label_smoothing = NEW_SMOOTHING
        if port.restores is not None:
            assert isinstance(target, Reconstruction)
            target.restore(make_corruption(arrow, options))
    return config


def require_useful_options(arrow: Arrow, options: Options) -> None:
    """Raise UsageError for options that would change nothing for this arrow, such as an augmentation of pictures for texts.

    Also raise it if several sources have the same kind and the model could not tell their values apart.
    """
    read = [kinds.source(port.kind) for port in arrow.sources]
    if arrow.symmetric and len(set(read)) > 1:
        names = " and ".join(dict.fromkeys(kind.kind for kind in read))
        raise UsageError(f"{arrow} matches values of {names}; only values of one kind can be matched here")
    for kind in read if not arrow.symmetric else ():
        if not issubclass(kind, Tokenized) and sum(port.kind == kind.kind for port in arrow.sources) > 1:
            raise UsageError(
                f"{arrow} reads several values of {kind.kind!r}; it can read one, as nothing would tell them apart"
            )
    if arrow.symmetric and options.batch == 1:
        raise UsageError(
            "--batch 1 has nothing to compare a pair with: the other rows of a step are what does not match"
        )
    if options.weight is not None and (arrow.is_scored or options.style is not None or options.adversarial):
        loss = "pairs with scores are compared with each other" if arrow.is_scored else "whole pictures are judged"
        raise UsageError(f"--weight {options.weight!r}: {loss}, so no row has a loss of its own to be weighed")
    if options.sizes is not None and not arrow.symmetric:
        raise UsageError(f"--sizes would change nothing: {arrow} matches no values")
    if options.augmentation not in ("auto", "none") and not any(
        issubclass(kind, Augmentable) and options.augmentation in kind.augmentations for kind in read
    ):
        raise UsageError(f"--augment {options.augmentation} would change nothing: {arrow} reads no values of its kind")
    if options.mixture is not None and options.mixture not in (possible := possible_mixtures(arrow)):
        instead = f"; there is: {', '.join(possible)}" if possible else ", nor is another mixing"
        raise UsageError(f"--augment {options.mixture} is not for {arrow}{instead}")
    if arrow.corrupted and not all(options.objective in kind.objectives for kind in read):
        raise UsageError(
            f"--objective {options.objective} is not for {arrow}; there is: {', '.join(read[0].objectives)}"
        )


def possible_mixtures(arrow: Arrow) -> list[str]:
    """Return the values of `--augment` that mix rows, such as "mixup", and that the source and all targets support."""
    if len(arrow.sources) > 1:
        return []  # the shares of the mixed rows would be unknown
    supported = [target.mixture_layouts if issubclass(target, Mixable) else () for target in kinds.answering(arrow)]
    source = kinds.source(arrow.sources[0].kind)
    if not issubclass(source, Augmentable):
        return []
    return [
        name for name, mixture in source.mixtures.items() if all(mixture.layout in layouts for layouts in supported)
    ]


def make_corruption(arrow: Arrow, options: ObjectiveOptions) -> Corruption:
    """Return the corruption (objective, share and shape of hidden tokens) that `~` stands for in the arrow.

    Without `--hide`, the share is the default of the kind of value.
    """
    corrupted = [kinds.source(port.kind).objectives for port in arrow.sources if port.corrupted]
    default_shares = next(iter(corrupted), Source.objectives)
    return Corruption.of(options.objective, options.hide or default_shares[options.objective], options.shape)


def length_limits(
    options: Options, config: ModelConfig, pretraining: bool, sources: Dict[str, Source] | None = None
) -> corpus.ExampleLimits:
    """Return the maximum length of an example in tokens, special ones included, and what is done with longer examples.

    config: of the model. pretraining: whether the arrow hides parts of its source with `~`.
    sources: the model's sources by kind, or None for a corpus. Values with a fixed number of tokens, such as pictures,
        are always read whole.

    Raises UsageError for a `--length` that is more than the model can read.
    """
    max_length, units = config.transformer.max_tokens, pretraining and options.shape in ("word", "span")
    if any(source.max_tokens is not None for source in (sources or {}).values()):
        return corpus.ExampleLimits(max_length, "cut", units)
    if options.length is not None and options.length > max_length:
        raise UsageError(f"--length {options.length} is more than the {max_length} tokens that this model takes")
    # Shorter examples make pretraining faster; a fit reads as much of each value as the model can.
    longest = options.length or min(max_length, PRETRAIN_LENGTH if pretraining else max_length)
    # Pretraining learns from every part of a long value; in a fit the answers decide.
    long: str = "window" if options.long == "auto" and pretraining else options.long
    return corpus.ExampleLimits(longest, long, units)
