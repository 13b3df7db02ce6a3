"""What a mapping begins with: a saved start, another mapping, the shape of one, or nothing but the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Mapping as Dict
from dataclasses import replace
from itertools import chain
from pathlib import Path

from mapsto import kinds, zoo
from mapsto.data.rows import Rows
from mapsto.errors import CheckpointError, UsageError
from mapsto.fitting.start import Beginning, begin
from mapsto.model.config import ModelConfig
from mapsto.model.mapping import Mapping
from mapsto.options import Options, splits_into_heads
from mapsto.pretrained import huggingface, model_folder
from mapsto.task.arrow import Arrow, Port
from mapsto.task.capabilities import Classes, Located, Spatial, require
from mapsto.task.source import Source
from mapsto.task.target import Target

WIDTH, LAYERS, HEAD_WIDTH, LENGTH = 256, 6, 64, 512


DECODER_LAYERS = 2


SIZES = ("layers", "width", "heads", "vocabulary")


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
    held = {target.lies_in for target in kinds.answering(arrow) if issubclass(target, Located)}
    return {
        kind: require(source, Spatial, "resized: --size is for pictures").resize(options.size)
        if options.size is not None or kind in held
        else source
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


def make_config(
    beginning: Beginning, options: Options, pretraining: bool, sources: Dict[str, Source] | None = None
) -> ModelConfig:
    """The start's shape, or a new one for these sources in the size that the options say. Raises UsageError."""
    length, restoring = None if pretraining else options.length, pretraining and options.hides
    if beginning.config is None:
        width = options.width or WIDTH
        heads = options.heads or _heads(width)
        if not splits_into_heads(width, heads):
            raise UsageError(f"--width {width} does not split into {heads} heads of an even width")
        read = list((sources or {}).values())
        if len({source.kind for source in read}) > 1:
            raise UsageError("models that read values of several kinds are not here yet")
        largest = next((source.max_tokens for source in read if source.max_tokens is not None), None)
        longest = max(LENGTH, options.length or 0) if largest is None else largest
        family = read[0].family if read else Source.family
        made = zoo.get_family(family).new_config
        assert made is not None
        config = replace(made(width, options.layers or LAYERS, heads, longest), family=family, length=length)
        return _decoded(config, options) if restoring else config
    fixed = [f"--{name}" for name in SIZES if getattr(options, name) is not None]
    if fixed:
        raise UsageError(f"{', '.join(fixed)} cannot change the shape of a start")
    config = replace(beginning.config, sentence=None, length=length)
    for source in (sources or {}).values():
        if source.max_tokens is not None:
            config = replace(config, transformer=replace(config.transformer, max_positions=source.max_tokens))
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
    sizes["feed_forward_width"] = max(1, shape.feed_forward_width * width // shape.width)
    return replace(config, decoder=huggingface.decoder_of(shape, sizes))


def _undecoded(config: ModelConfig) -> ModelConfig:
    """Of the family that the stack is in, with its decoder or without one."""
    other = zoo.get_family(config.family).without_decoder
    return config if config.decoder is not None or other is None else replace(config, family=other)


def _heads(width: int) -> int:
    """About HEAD_WIDTH wide."""
    most = max(1, width // HEAD_WIDTH)
    return next((n for n in range(most, 0, -1) if splits_into_heads(width, n)), most)


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
    other = {t.kind for t in targets if isinstance(t, Classes) and t.classes != known.get(t.kind)}
    missing = model_folder.copy_weights(mapping, beginning.tensors, other)
    # A start may have no decoder, or as a body alone; one that it has was found whole when it was opened.
    body = [name for name in missing if not name.startswith(("heads.", "pooler.", "decoder."))]
    if body:
        raise CheckpointError(f"the start lacks weights of its body: {', '.join(body[:5])}")
    if mapping.pooler is not None and any(name.startswith("heads.") for name in missing):
        mapping.pooler.init_identity()
    return mapping


def bare(name: str) -> Mapping:
    """What the model in a folder reads pictures by, without answers. Raises UsageError, CheckpointError."""
    if not Path(name).is_dir():
        raise UsageError(f"--features {name}: there is no such folder")
    found = begin(name, None)
    assert found.sources is not None and found.config is not None
    ((kind, source),) = found.sources.items()
    if not isinstance(source, Spatial):
        raise UsageError(f"--features {name} reads {kind}, and no pictures")
    return make_mapping(Arrow((Port(kind),), ()), found.config, found.sources, [], found)
