"""What a mapping begins with: a saved start, another mapping, the shape of one, or nothing but the data."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Mapping as Dict
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from mapsto import folder, kinds, lora, published, zoo
from mapsto.arrow import Arrow, Port
from mapsto.corpus import sample
from mapsto.data import Table
from mapsto.errors import CheckpointError, DataError, UsageError
from mapsto.examples import Rows
from mapsto.mapping import Mapping, ModelConfig
from mapsto.options import Options, splits
from mapsto.shards import Shards
from mapsto.source import Source
from mapsto.target import Target

WIDTH, LAYERS, HEAD_WIDTH, LENGTH = 256, 6, 64, 512
DECODER_LAYERS = 2
SIZES = ("layers", "width", "heads", "vocabulary")


@dataclass(frozen=True)
class Beginning:
    """A start: where it is from, what it reads, its shape, and its weights under our names (none: random ones).

    classes: by kind, those that it answers. optimizer, objective: what trained it, where mapsto did. fingerprint: SHA-256 of the
    weights.
    """

    name: str | None = None
    sources: Dict[str, Source] | None = None
    config: ModelConfig | None = None
    tensors: Dict[str, Tensor] | None = None
    classes: Dict[str, list[str]] = field(default_factory=dict)
    optimizer: str | None = None
    objective: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def made_here(self) -> bool:
        """Whether mapsto trains, or trained, it from random weights, and nobody else did."""
        return self.tensors is None or self.optimizer == "muon"

    @property
    def fingerprint(self) -> str | None:
        """SHA-256 over names and bytes of the weights."""
        if self.tensors is None:
            return None
        digest = hashlib.sha256()
        for name in sorted(self.tensors):
            digest.update(name.encode())
            digest.update(self.tensors[name].contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def begin(start: str | Path | Mapping | None, like: str | Path | None) -> Beginning:
    """Open what training begins with. Raises UsageError when both are given, CheckpointError when one does not open."""
    if start is not None and like is not None:
        raise UsageError("give --start (weights too) or --like (shape and tokenizer only), not both")
    if isinstance(start, Mapping):
        return _of_mapping(start)
    if start is None and like is None:
        return Beginning()
    opened = folder.open_start(start if start is not None else str(like))
    found = opened.start
    return Beginning(
        name=str(start if start is not None else like),
        sources=found.sources,
        config=found.config,
        tensors=found.tensors if start is not None else None,
        classes=opened.classes,
        optimizer=opened.trained_with,
        objective=opened.objective if start is not None else None,
        notes=found.notes,
    )


def _of_mapping(mapping: Mapping) -> Beginning:
    tensors = {published.start_name(mapping, name): p.detach().cpu() for name, p in mapping.named_parameters()}
    classes = {target.kind: target.classes for target in reversed(mapping.targets) if hasattr(target, "classes")}
    return Beginning("a mapping in memory", mapping.sources, mapping.config, tensors, classes, mapping.trained_with)


def with_words(beginning: Beginning, words: Sequence[str]) -> Beginning:
    """The start with these words in its vocabulary; each begins as the mean of the tokens that it was cut into.

    Raises UsageError without a start, and for one whose vocabulary takes no words.
    """
    if beginning.sources is None:
        raise UsageError("--words adds to the vocabulary of a start; a new model makes its own from the text")
    ((kind, source),) = beginning.sources.items()
    extended, cut = source.extended(words)
    tensors = None if beginning.tensors is None else dict(beginning.tensors)
    for name in (f"embedders.{kind}.weight", "vocabulary_head.bias"):
        if tensors is not None and name in tensors:
            before = tensors[name]
            more = before.new_zeros(max(0, max(cut, default=0) + 1 - len(before)), *before.shape[1:])
            tensors[name] = torch.cat([before, more])
            for new, old in cut.items():
                tensors[name][new] = before[torch.from_numpy(old).long()].mean(0)
    note = f"{len(cut):,} words are new tokens; others that were named were tokens already"
    return replace(beginning, sources={kind: extended}, tensors=tensors, notes=(*beginning.notes, note))


def read_words(path: str) -> list[str]:
    """The words of a file, one a line. Raises DataError."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: the words cannot be read: not UTF-8 at byte {error.start}") from error
    except OSError as error:
        raise DataError(f"{path}: the words cannot be read: {error.strerror or error}") from error
    words = [line.strip() for line in lines if line.strip()]
    if not words:
        raise DataError(f"{path} has no words")
    return words


def make_sources(
    beginning: Beginning, arrow: Arrow, rows: Rows, options: Options, say: Callable[[str], None]
) -> dict[str, Source]:
    """The sources that the arrow reads: those of the start, or new ones made from the values."""
    if (taken := started_sources(beginning, arrow)) is not None:
        return _read_whole(taken, arrow, options)
    wanted = {port.kind for port in arrow.sources}
    made = {}
    for kind in sorted(wanted):
        values = chain(*(column for port, column in zip(arrow.sources, rows.sources, strict=True) if port.kind == kind))
        made[kind] = kinds.source(kind).new(list(values), options.vocabulary)
    made = _read_whole(made, arrow, options)
    for source in made.values():
        say(f"made {source}")
    return made


def _read_whole(sources: dict[str, Source], arrow: Arrow, options: Options) -> dict[str, Source]:
    """The sources in the size that is asked for; nothing is cut off where answers may lie. Raises UsageError."""
    held = {target.lies_in for target in kinds.answering(arrow)}
    return {
        kind: source.read_whole(options.size) if options.size is not None or kind in held else source
        for kind, source in sources.items()
    }


def started_sources(beginning: Beginning, arrow: Arrow) -> dict[str, Source] | None:
    """The start's sources that the arrow reads; None where there is no start. Raises UsageError when it lacks one."""
    if beginning.sources is None:
        return None
    wanted = {port.kind for port in arrow.sources}
    if missing := wanted - set(beginning.sources):
        raise UsageError(f"the start reads {', '.join(beginning.sources)}, it cannot read {', '.join(missing)}")
    return {kind: source for kind, source in beginning.sources.items() if kind in wanted}


def sampled_source(
    arrow: Arrow,
    parts: Callable[[], Iterable[Table]],
    shards: Shards,
    options: Options,
    say: Callable[[str], None],
) -> Source:
    """The one source of a corpus, made from a sample of it; the one kept beside the shards where an earlier run made it."""
    with suppress(CheckpointError):
        return kept_source(arrow, shards)
    kind = kinds.source(arrow.sources[0].kind)
    values, share = sample(arrow, parts())
    source = kind.new(values, options.vocabulary, share)
    say(f"made {source}" + ("" if share == 1 else f" from {100 * share:.0f} % of the corpus"))
    if shards.folder is not None:
        source.save(shards.folder / kind.kind, LENGTH)
        shards.remember({"source": source.fingerprint})
    return source


def kept_source(arrow: Arrow, shards: Shards) -> Source:
    """The source kept beside the shards. Raises CheckpointError where there is none, or another one."""
    kind = kinds.source(arrow.sources[0].kind)
    if shards.folder is None or "source" not in shards.facts:
        raise CheckpointError(f"no {kind.kind} is kept beside the shards")
    source = kind.open(shards.folder / kind.kind, {})
    if source.fingerprint != shards.facts["source"]:
        raise CheckpointError(f"{shards.folder / kind.kind} is damaged; the same command makes it again")
    return source


def make_config(
    beginning: Beginning, options: Options, pretraining: bool, sources: Dict[str, Source] | None = None
) -> ModelConfig:
    """The start's shape, or a new one for these sources in the size that the options say. Raises UsageError."""
    length, restoring = None if pretraining else options.length, pretraining and options.hides
    if beginning.config is None:
        width = options.width or WIDTH
        heads = options.heads or _heads(width)
        if not splits(width, heads):
            raise UsageError(f"--width {width} does not split into {heads} heads of an even width")
        read = list((sources or {}).values())
        if len({source.kind for source in read}) > 1:
            raise UsageError("models that read values of several kinds are not here yet")
        largest = next((source.longest for source in read if source.longest is not None), None)
        longest = max(LENGTH, options.length or 0) if largest is None else largest
        family = read[0].family if read else Source.family
        made = zoo.family(family).fresh
        assert made is not None
        config = replace(made(width, options.layers or LAYERS, heads, longest), family=family, length=length)
        return _decoded(config, options) if restoring else config
    fixed = [f"--{name}" for name in SIZES if getattr(options, name) is not None]
    if fixed:
        raise UsageError(f"{', '.join(fixed)} cannot change the shape of a start")
    config = replace(beginning.config, sentence=None, length=length)
    for source in (sources or {}).values():
        if source.longest is not None:
            config = replace(config, transformer=replace(config.transformer, max_positions=source.longest))
    if pretraining:
        config = replace(config, transformer=replace(config.transformer, dropout=0.0, attention_dropout=0.0))
    return _undecoded(_decoded(config, options) if restoring else replace(config, decoder=None))


def _decoded(config: ModelConfig, options: Options) -> ModelConfig:
    """With the decoder that it has, and where the options ask for one, a new one of half the width."""
    shape, found = config.transformer, config.decoder
    if found is not None:
        return replace(config, decoder=replace(found, dropout=0.0, attention_dropout=0.0))
    if options.objective != "mae":
        return config
    width = max(2, shape.width // 4 * 2)
    sizes = {"width": width, "layers": DECODER_LAYERS, "heads": _heads(width)}
    sizes["hidden"] = max(1, shape.hidden * width // shape.width)
    return replace(config, decoder=published.decoder_of(shape, sizes))


def _undecoded(config: ModelConfig) -> ModelConfig:
    """Of the family that the stack is in, with its decoder or without one."""
    other = zoo.family(config.family).undecoded
    return config if config.decoder is not None or other is None else replace(config, family=other)


def _heads(width: int) -> int:
    """About HEAD_WIDTH wide."""
    most = max(1, width // HEAD_WIDTH)
    return next((n for n in range(most, 0, -1) if splits(width, n)), most)


def make_mapping(
    arrow: Arrow, config: ModelConfig, sources: Dict[str, Source], targets: Sequence[Target], beginning: Beginning
) -> Mapping:
    """A mapping with the start's weights where it has them, random ones elsewhere.

    What names classes is kept when they are the same, in the same order. Raises CheckpointError.
    """
    mapping = Mapping(arrow, config, sources, targets)
    if beginning.tensors is None:
        return mapping
    known = beginning.classes
    other = {t.kind for t in targets if hasattr(t, "classes") and t.classes != known.get(t.kind)}
    missing = folder.take(mapping, beginning.tensors, other)
    # A start may have no decoder, or as a body alone; one that it has was found whole when it was opened.
    body = [name for name in missing if not name.startswith(("heads.", "pooler.", "decoder."))]
    if body:
        raise CheckpointError(f"the start lacks weights of its body: {', '.join(body[:5])}")
    if mapping.pooler is not None and any(name.startswith("heads.") for name in missing):
        mapping.pooler.pass_through()
    return mapping


def bare(name: str) -> Mapping:
    """What the model in a folder reads pictures by, without answers. Raises UsageError, CheckpointError."""
    if not Path(name).is_dir():
        raise UsageError(f"--features {name}: there is no such folder")
    found = begin(name, None)
    assert found.sources is not None and found.config is not None
    (kind,) = found.sources
    if kind != "image":
        raise UsageError(f"--features {name} reads {kind}, and no pictures")
    return make_mapping(Arrow((Port(kind),), ()), found.config, found.sources, [], found)


def restrict(mapping: Mapping, options: Options, beginning: Beginning) -> None:
    """Leave those weights of the start as they are that the options name. Raises UsageError where they cannot be."""
    given = [f"--{name}" for name in ("lora", "freeze") if getattr(options, name) is not None]
    if not given:
        return
    if beginning.tensors is None:
        raise UsageError(f"{given[0]} leaves weights of a start as they are; it needs a --start")
    if len(given) > 1:
        raise UsageError("give --lora or --freeze, not both: with --lora no weight of the start changes")
    stack, layers = mapping.transformer, mapping.config.transformer.layers
    if options.lora is not None:
        if mapping.arrow.corrupted:
            raise UsageError("--lora fits answers to a start; pretraining changes all weights")
        if not layers:
            raise UsageError(
                "--lora adds to the maps of a Transformer's layers, and the start has none; --freeze all leaves it"
            )
        lora.attach(mapping, options.lora)
        return
    frozen = layers if options.freeze == "all" else int(options.freeze or 0)
    if frozen > layers:
        raise UsageError(
            f"--freeze {frozen} is more than the {layers} layers of the start; --freeze all leaves all of it"
        )
    lowest = [mapping.embedders, stack.position_table, stack.type_table, stack.embedding_norm, *stack.blocks[:frozen]]
    for part in [*lowest, stack.final_norm, mapping.pooled_norm] if options.freeze == "all" else lowest:
        if part is not None:
            part.requires_grad_(False)
