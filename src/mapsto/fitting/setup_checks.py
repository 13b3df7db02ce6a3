"""Setup checks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from collections.abc import Mapping as Dict
from dataclasses import dataclass

from mapsto import kinds
from mapsto.data.examples import Examples
from mapsto.data.rows import Rows
from mapsto.data.table import Table
from mapsto.device import seed_all
from mapsto.errors import Finding, UsageError
from mapsto.fitting.build import make_config
from mapsto.fitting.start import Beginning
from mapsto.model.config import ModelConfig
from mapsto.model.mapping import Mapping
from mapsto.options import Options
from mapsto.sequence.corruption import Corruption
from mapsto.task.arrow import Arrow
from mapsto.task.capabilities import Augmentable, Classes, Mixable, Reconstruction, Tokenized, has_exclusive_classes
from mapsto.task.source import Source
from mapsto.task.target import Target

PRETRAIN_LENGTH = 128


@dataclass(frozen=True)
class Material:
    """What a run reads, before there is a model; `examples` gives those to learn from and those to watch.

    data: the fingerprint of it. rows, held_out: how many rows there are of either.
    """

    arrow: Arrow
    config: ModelConfig
    sources: Dict[str, Source]
    targets: Sequence[Target]
    data: str
    rows: int
    held_out: int
    held: Rows | None
    test: Table | None
    rejected: Iterable[Finding]
    examples: Callable[[Mapping], tuple[Examples, Examples]]
    findings: Sequence[Finding] = ()


def made_targets(arrow: Arrow, options: Options) -> list[Target]:
    """What the arrow answers, before anything is learnt. Raises UsageError for options that these answers have no use for."""
    targets = [target() for target in kinds.answering(arrow)]
    for name in ("balance", "smooth"):
        if getattr(options, name) and not any(map(has_exclusive_classes, targets)):
            raise UsageError(f"--{name} is for classes, and {arrow} answers none")
    for target in targets:
        if isinstance(target, Classes):
            target.label_smoothing = options.smooth
    return targets


def _begun(
    arrow: Arrow, sources: Dict[str, Source], targets: Sequence[Target], beginning: Beginning, options: Options
) -> ModelConfig:
    """The shape of the model; the targets meet their sources. Everything random begins here."""
    seed_all(options.seed)
    if options.length is not None and any(source.max_tokens is not None for source in sources.values()):
        raise UsageError(f"--length would change nothing: {arrow} reads its values whole")
    config = make_config(beginning, options, arrow.corrupted, sources)
    if config.decoder is not None and options.objective != "mae":
        raise UsageError("the start puts back what is hidden with a decoder; go on from it with --objective mae")
    for target, port in zip(targets, arrow.targets, strict=True):
        target.bind(sources, config.vocabulary_head)
        if port.restores is not None:
            assert isinstance(target, Reconstruction)
            target.restore(_corruption(arrow, options))
    return config


def _require_ways(arrow: Arrow, options: Options) -> None:
    """Raise UsageError for options that no source of the arrow knows; before anything is read, which may take long."""
    read = [kinds.source(port.kind) for port in arrow.sources]
    for kind in read:
        if not issubclass(kind, Tokenized) and sum(port.kind == kind.kind for port in arrow.sources) > 1:
            raise UsageError(
                f"{arrow} reads several values of {kind.kind!r}; it can read one, as nothing would tell them apart"
            )
    if options.augmentation not in ("auto", "none") and not any(
        issubclass(kind, Augmentable) and options.augmentation in kind.augmentations for kind in read
    ):
        raise UsageError(
            f"--augment {options.augmentation} would change nothing: {arrow} reads nothing that it is about"
        )
    if options.mixture is not None and options.mixture not in (possible := mixings(arrow)):
        instead = f"; there is: {', '.join(possible)}" if possible else ", nor is another mixing"
        raise UsageError(f"--augment {options.mixture} is not for {arrow}{instead}")
    if arrow.corrupted and not all(options.objective in kind.objectives for kind in read):
        raise UsageError(
            f"--objective {options.objective} is not for {arrow}; there is: {', '.join(read[0].objectives)}"
        )


def mixings(arrow: Arrow) -> list[str]:
    """The ways to mix rows that the one value read knows and all answers can follow."""
    if len(arrow.sources) > 1:
        return []  # nothing would say how much of a row is there
    targets = [kinds.target(port.kind, restored=arrow.corrupted) for port in arrow.targets]
    answered = [target.mixture_layouts if issubclass(target, Mixable) else () for target in targets]
    source = kinds.source(arrow.sources[0].kind)
    if not issubclass(source, Augmentable):
        return []
    return [name for name, mixture in source.mixtures.items() if all(mixture.layout in mixes for mixes in answered)]


def _corruption(arrow: Arrow, options: Options) -> Corruption:
    known = next((kinds.source(port.kind).objectives for port in arrow.sources if port.corrupted), Source.objectives)
    return Corruption.of(options.objective, options.hide or known[options.objective], options.shape)


def _limits(
    options: Options, config: ModelConfig, pretraining: bool, sources: Dict[str, Source] | None = None
) -> tuple[int, str, bool]:
    """The longest example in tokens, what happens to longer rows, and whether words must be known. Raises UsageError."""
    most, units = config.transformer.max_tokens, pretraining and options.shape in ("word", "span")
    if any(source.max_tokens is not None for source in (sources or {}).values()):
        return most, "cut", units
    if options.length is not None and options.length > most:
        raise UsageError(f"--length {options.length} is more than the {most} tokens that this model takes")
    longest = options.length or min(most, PRETRAIN_LENGTH if pretraining else most)
    long: str = options.long if options.long != "auto" else "window" if pretraining else "cut"
    return longest, long, units
