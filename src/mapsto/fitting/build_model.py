"""Building the model of a run, from a starting model or new.

Sources, which turn values into tokens, come from the starting model; in a new model a tokenizer is trained on the
values. The shape (layers, width, heads …) comes from the starting model or from the options. Weights are copied from
the starting model where it has them; the others are random.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Mapping as Dict
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from mapsto import kinds, zoo
from mapsto.data.rows import Rows
from mapsto.errors import CheckpointError, UsageError
from mapsto.evaluation.linear_baseline import why_not_linear
from mapsto.fitting.answer_way import ALIGNED
from mapsto.fitting.starting_model import StartingModel, open_start
from mapsto.model.config import ModelConfig, SentenceConfig
from mapsto.model.mapping import Mapping
from mapsto.options import ModelOptions, ObjectiveOptions, Options, splits_into_heads
from mapsto.pretrained import huggingface, model_folder
from mapsto.task.arrow import Arrow, Port
from mapsto.task.capabilities import require
from mapsto.task.generation import Generated
from mapsto.task.source import KindDefaults, Source
from mapsto.task.source_capabilities import Cased, Spatial, Tokenized, Windowed, linear_source
from mapsto.task.target import Target
from mapsto.task.target_capabilities import Composed, HeadRows, Located

# The width of a head and the default length of a new model; for its other sizes see KindDefaults.
HEAD_WIDTH, LENGTH = 64, 512
# The layers of a new decoder (MAE), as wide as half the model.
DECODER_LAYERS = 2

# Options for the shape of a new model; a starting model has its own shape.
SHAPE_OPTIONS = ("layers", "width", "heads", "vocabulary")


def make_sources(
    start: StartingModel, arrow: Arrow, rows: Rows, options: ModelOptions, say: Callable[[str], None]
) -> dict[str, Source]:
    """Return the source of each kind of value that the arrow reads or generates, by kind, such as {"text": …}.

    They are the starting model's. Those that it lacks are made from the values of `rows`: for texts a tokenizer is trained,
    with a vocabulary of the size in `options`.
    say: prints a line about each new source.
    """
    sources = starting_sources(start, arrow) or {}
    generated = {target.kind for target in kinds.answering(arrow) if issubclass(target, Generated)}
    spelled = {target.lies_in for target in kinds.answering(arrow) if issubclass(target, Located) and target.spells}
    for kind in kinds.embedded(arrow):
        if kind in sources:
            continue
        # Columns of one kind share a source, which is made from the values of all; generated answers take their tokens from it.
        ports = [*zip(arrow.sources, rows.sources, strict=True)]
        ports += zip(arrow.targets, rows.targets, strict=True) if kind in generated and rows.targets else []
        values = list(chain(*(column for port, column in ports if port.kind == kind)))
        cls = kinds.source(kind)
        if kind in spelled:
            if options.vocabulary is not None:
                raise UsageError(f"--vocabulary would change nothing: {arrow} reads single letters")
            sources[kind] = require(cls, Tokenized, "spelled").new_spelled(values)
            say(f"made {sources[kind]}")
            continue
        new = require(cls, Tokenized, "generated").new_reversible if kind in generated else cls.new
        sources[kind] = new(values, options.vocabulary if kind in generated or not generated else None)
        say(f"made {sources[kind]}")
    return _adapt(sources, arrow, options)


def _adapt(sources: dict[str, Source], arrow: Arrow, options: ModelOptions) -> dict[str, Source]:
    """Return the sources by kind, each as the arrow and the options need it.

    If `--size` is set, a source of pictures is replaced by a copy that resizes them to it. A source that a published model
    pads to one length is replaced by one that pads as the answers need.
    If an answer is a position in the picture, such as a box, the copy does not crop, as a crop could cut the position
    off.
    Raises UsageError if `--size` is set and a source reads values without a size, such as text.
    """
    # A crop could cut off the place that an answer names.
    located_in = {target.lies_in for target in kinds.answering(arrow) if issubclass(target, Located)}
    generates = any(issubclass(target, Generated) for target in kinds.answering(arrow))
    sources = {
        kind: source.with_padding(generates) if isinstance(source, Windowed) else source
        for kind, source in sources.items()
    }
    sources = _adapt_case(sources, arrow)
    return {
        kind: require(source, Spatial, "resized: --size is for pictures").resize(options.size)
        if options.size is not None or (kind in located_in and isinstance(source, Spatial))
        else source
        for kind, source in sources.items()
    }


def _adapt_case(sources: dict[str, Source], arrow: Arrow) -> dict[str, Source]:
    """Return the sources by kind, that of texts with the capitals of words if an answer such as a name is found by them."""
    cased = {
        target.lies_in for target in kinds.answering(arrow) if issubclass(target, Located) and target.reads_capitals
    }
    return {
        kind: source.with_capitals(kind in cased) if isinstance(source, Cased) else source
        for kind, source in sources.items()
    }


def require_linear(arrow: Arrow, start: StartingModel) -> None:
    """Raise UsageError unless a linear model can fit the arrow and `start` is empty."""
    if reason := why_not_linear(arrow):
        raise UsageError(reason)
    if start.config is not None:
        raise UsageError("--method linear makes a model of its own; leave --start and --like out")


def linear_sources(arrow: Arrow, rows: Rows, say: Callable[[str], None]) -> dict[str, Source]:
    """Return the one source of a linear model, such as TF-IDF of texts, fitted to the values of the rows, by its kind.

    say: prints a line about the source.
    """
    (port,) = arrow.sources
    cls = linear_source(kinds.source(port.kind))
    assert cls is not None, "why_not_linear was asked first"
    source = cls.new(rows.sources[0])
    say(f"made {source}")
    return {port.kind: source}


def fit_width(config: ModelConfig, targets: Sequence[Target]) -> ModelConfig:
    """Return a linear model's configuration whose width is the total number of outputs of all targets, such as classes."""
    return replace(config, transformer=replace(config.transformer, width=sum(map(_num_outputs, targets))))


def fit_window(config: ModelConfig, targets: Sequence[Target], sources: Dict[str, Source]) -> ModelConfig:
    """Return the configuration of a model that reads long values in windows no longer than a target has learnt from.

    `--length`, and the limit of a published model, hold instead where there is one.
    """
    longest = [target.longest_window for target in targets if isinstance(target, Composed)]
    limits = [count for count in longest if count is not None]
    if not limits or config.length is not None or any(source.max_tokens is not None for source in sources.values()):
        return config
    return replace(config, length=min(config.transformer.max_tokens, *limits))


def _num_outputs(target: Target) -> int:
    """Return the number of outputs of a target's linear head, for example the number of its classes."""
    bias: Any = target.head(1, None).get_parameter("bias")
    return len(bias)


def starting_sources(start: StartingModel, arrow: Arrow) -> dict[str, Source] | None:
    """Return the starting model's sources for the kinds of value that the arrow reads or generates; None if `start` is empty.

    Raises UsageError if the starting model has no source for a kind that the arrow reads, or that it generates.
    """
    if start.sources is None:
        return None
    if missing := {port.kind for port in arrow.sources} - set(start.sources):
        raise UsageError(f"the start reads {', '.join(start.sources)}, it cannot read {', '.join(missing)}")
    if unwritten := set(kinds.embedded(arrow)) - set(start.sources):
        raise UsageError(
            f"the start writes no {', '.join(unwritten)}; begin with one that does, such as Whisper for speech"
        )
    return _adapt_case({kind: source for kind, source in start.sources.items() if kind in kinds.embedded(arrow)}, arrow)


def read_sources(arrow: Arrow, sources: Dict[str, Source]) -> dict[str, Source]:
    """Return the sources, by kind, whose values the arrow reads: not the vocabulary of a text that it only generates."""
    return {port.kind: sources[port.kind] for port in arrow.sources}


def make_config(
    start: StartingModel, options: Options, pretraining: bool, sources: Dict[str, Source] | None = None
) -> ModelConfig:
    """Return the configuration of the run's model: a new one from the options if `start` is empty, else the starting model's.

    The latter is changed as the run needs, for example without dropout in pretraining and without a decoder in a fit.
    pretraining: whether the arrow hides parts of its source with `~`.
    sources: the sources that the model reads, by kind; None before they are made, when only the options are checked.
    Raises UsageError for an impossible shape, and for an option that would change the shape of a starting model.
    """
    # In pretraining the length limits the examples alone: the model keeps all of its positions.
    length = None if pretraining else options.length
    config = _new_config(options, sources or {}) if start.config is None else _starting_config(start.config, options)
    config = replace(config, length=length)
    if start.config is not None:
        for source in (sources or {}).values():
            # Pictures of another size have another number of patches, so positions are adapted to them.
            if source.max_tokens is not None:
                config = replace(config, transformer=replace(config.transformer, max_positions=source.max_tokens))
        if pretraining:
            config = replace(config, transformer=replace(config.transformer, dropout=0.0, attention_dropout=0.0))
    if pretraining and options.hides:
        config = _with_decoder(config, options)
    # A fit reads the encoder alone.
    elif start.config is not None:
        config = replace(config, decoder=None)
    return config if start.config is None else _matching_family(config)


def add_answer_decoder(
    config: ModelConfig, start: StartingModel, options: ModelOptions, targets: Sequence[Target]
) -> ModelConfig:
    """Return the configuration of a new model, with half of its layers in a decoder if the targets and the options want one.

    Raises UsageError if `--architecture` is set and would change nothing.
    """
    is_generating = any(isinstance(target, Generated) for target in targets)
    is_decoder_asked = options.architecture not in ("auto", ALIGNED)
    if is_decoder_asked and (start.config is not None or not is_generating):
        raise UsageError("--architecture is for new models that generate answers such as texts")
    if start.config is not None and not is_generating:
        # A published encoder–decoder is read at its encoder's states.
        return replace(config, answer_decoder=None, answer_start=None)
    if start.config is not None or not is_generating or options.architecture == "prefix":
        return config
    shape = config.transformer
    num_decoder_layers = max(1, shape.layers // 2)
    encoder = replace(shape, layers=max(1, shape.layers - num_decoder_layers))
    decoder = huggingface.make_answer_decoder(shape, num_decoder_layers)
    return replace(config, transformer=encoder, answer_decoder=decoder)


def _new_config(options: ModelOptions, sources: Dict[str, Source]) -> ModelConfig:
    """Return the configuration of a new model that reads `sources`, with the shape (width, layers, heads, length) in the options.

    Raises UsageError if the width cannot be divided among the heads, or for sources of several kinds.
    """
    defaults = next((source.defaults for source in sources.values()), KindDefaults())
    width = options.width or defaults.width
    heads = options.heads or _num_heads(width)
    if not splits_into_heads(width, heads):
        raise UsageError(f"--width {width} does not split into {heads} heads of an even width")
    if len(sources) > 1:
        raise UsageError("models that read values of several kinds are not here yet")
    max_tokens = next((source.max_tokens for source in sources.values() if source.max_tokens is not None), None)
    length = max(LENGTH, options.length or 0) if max_tokens is None else max_tokens
    family = next((source.family for source in sources.values()), Source.family)
    new_config = zoo.get_family(family).new_config
    assert new_config is not None
    return replace(new_config(width, options.layers or defaults.layers, heads, length), family=family)


def _starting_config(config: ModelConfig, options: ModelOptions) -> ModelConfig:
    """Return the starting model's configuration `config` without `sentence`, the pooling of a sentence encoder.

    mapsto's heads have a pooling of their own.
    Raises UsageError if an option of SHAPE_OPTIONS is set, as a starting model already has its shape.
    """
    unusable = [f"--{name}" for name in SHAPE_OPTIONS if getattr(options, name) is not None]
    if unusable:
        raise UsageError(f"{', '.join(unusable)} cannot change the shape of a start")
    return replace(config, sentence=None)


def make_sentence_config(start: StartingModel, config: ModelConfig, options: ModelOptions) -> SentenceConfig:
    """Return the pooling, prompts and maximum length by which values are matched, as the starting model has them.

    Without such a starting model it is the mean of all tokens. Vectors are scaled to length 1.
    """
    published = None if start.config is None else start.config.sentence
    if published is None:
        return SentenceConfig("mean", True, options.length or config.transformer.max_tokens)
    return replace(published, normalize=True, max_tokens=options.length or published.max_tokens)


def _with_decoder(config: ModelConfig, options: ObjectiveOptions) -> ModelConfig:
    """Return the configuration for pretraining with hidden parts; only `--objective mae` adds a decoder that it lacks.

    A new decoder is half as wide as the model. An existing decoder stays, without dropout, as everywhere in
    pretraining.
    """
    shape, decoder = config.transformer, config.decoder
    if decoder is not None:
        return replace(config, decoder=replace(decoder, dropout=0.0, attention_dropout=0.0))
    if options.objective != "mae":
        return config
    # Even, so that it splits into heads of an even width.
    width = max(2, shape.width // 4 * 2)
    sizes = {"width": width, "layers": DECODER_LAYERS, "heads": _num_heads(width)}
    sizes["feed_forward_width"] = max(1, shape.feed_forward_width * width // shape.width)
    return replace(config, decoder=huggingface.make_decoder_config(shape, sizes))


def _matching_family(config: ModelConfig) -> ModelConfig:
    """Return the configuration with `family` set to the model family that has this structure.

    Only the removal of a decoder changes it: a masked autoencoder without its decoder is a plain Vision Transformer.
    """
    encoder_family = zoo.get_family(config.family).without_decoder
    if config.decoder is not None or encoder_family is None:
        return config
    return replace(config, family=encoder_family)


def _num_heads(width: int) -> int:
    """Return the number of attention heads, each about HEAD_WIDTH wide, for a model of width `width`."""
    max_heads = max(1, width // HEAD_WIDTH)
    return next((n for n in range(max_heads, 0, -1) if splits_into_heads(width, n)), max_heads)


def make_mapping(
    arrow: Arrow, config: ModelConfig, sources: Dict[str, Source], targets: Sequence[Target], start: StartingModel
) -> Mapping:
    """Return a mapping with the weights of the starting model; weights that it lacks are random, all of them if `start` is empty.

    A classification head is copied only if its class names are the same, in the same order.
    Raises CheckpointError if the starting model lacks weights of the body (all but heads, pooler, decoder and capitals).
    """
    mapping = Mapping(arrow, config, sources, targets, initialise_body=start.tensors is None)
    if start.tensors is None:
        return mapping
    classes = start.classes
    other_classes = {t.kind for t in targets if isinstance(t, HeadRows) and t.classes != classes.get(t.kind)}
    # Rows of a head are classes in order: with other class names, a copied head would answer the wrong ones.
    missing = model_folder.copy_weights(mapping, start.tensors, other_classes)
    # A decoder may be missing as a whole; if the folder has one, it was checked when the folder was opened.
    new = ("heads.", "pooler.", "decoder.")
    body = [name for name in missing if not name.startswith(new) and not name.endswith(".capitals")]
    if body:
        raise CheckpointError(f"the start lacks weights of its body: {', '.join(body[:5])}")
    # A new head shall read the pooled vector itself at first, not one that a random or foreign pooler has changed.
    if mapping.pooler is not None and any(name.startswith("heads.") for name in missing):
        mapping.pooler.init_identity()
    return mapping


def open_feature_network(name: str) -> Mapping:
    """Open the network of `--features`, whose hidden states measure style and content, as a mapping without targets.

    name: the folder of the network.
    Raises UsageError if there is no such folder or the network reads no pictures, CheckpointError if it is damaged.
    """
    if not Path(name).is_dir():
        raise UsageError(f"--features {name}: there is no such folder")
    start = open_start(name)
    assert start.sources is not None and start.config is not None
    ((kind, source),) = start.sources.items()
    if not isinstance(source, Spatial):
        raise UsageError(f"--features {name} reads {kind}, and no pictures")
    return make_mapping(Arrow((Port(kind),), ()), start.config, start.sources, [], start)
