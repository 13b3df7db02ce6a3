"""Open published model folders (Hugging Face), and save models as folders that `transformers` opens.

A family's file in zoo/ holds its names of weights and settings. This module does the same for all families: it reads and
writes the files, checks them, and finds the class names of a head. Only safetensors and JSON files are read, so no code of
a checkpoint is run. Every shape is checked before memory is allocated.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping as Dict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from mapsto import kinds, zoo
from mapsto.errors import CheckpointError, MapstoError
from mapsto.files import (
    CONVERT,
    MAX_CONFIG_BYTES,
    PICKLED,
    open_tensors,
    read_json,
    reading_folder,
    require_space,
    write_atomic,
)
from mapsto.model.config import ModelConfig, TransformerConfig
from mapsto.model.mae_decoder import MAEDecoder
from mapsto.model.mapping import Mapping, SkipInit
from mapsto.model.transformer import Transformer, make_norm
from mapsto.pretrained import sentence_transformers
from mapsto.pretrained.foreign_folders import NO_CONFIG, explain_folder
from mapsto.pretrained.location import find_folder
from mapsto.pretrained.weight_names import (
    all_weights,
    can_save_decoder,
    classifier,
    published_task,
    to_mapsto_names,
    to_published_names,
)
from mapsto.task.capabilities import require
from mapsto.task.generation import Prompted
from mapsto.task.generation_rules import describe_unfollowed
from mapsto.task.source import Source
from mapsto.task.source_capabilities import Spatial, Varied, linear_source
from mapsto.task.target_capabilities import Classes
from mapsto.zoo import Family

WEIGHTS_FILE, INDEX_FILE, CONFIG_FILE = "model.safetensors", "model.safetensors.index.json", "config.json"
# What a fit writes before it saves its model.
UNFINISHED_FILES = ("run.json", "choice.json", "search.json")

# Key of config.json for a pooling that the family's own settings cannot express.
POOLING_KEY = "mapsto_pooling"
# Key of config.json for a decoder that the family's own settings cannot express. Its entries, by field of TransformerConfig.
DECODER_KEY = "mapsto_decoder"
DECODER_SIZES = {"width": "width", "layers": "layers", "heads": "heads", "feed_forward_width": "hidden"}
# Key of config.json for the number of layers of a decoder that generates answers, if the family has none.
ANSWER_DECODER_KEY = "mapsto_answer_layers"
# Key of config.json for the source kind, if it is not the family's.
SOURCE_KEY = "mapsto_source"


@dataclass(frozen=True)
class PretrainedModel:
    """A published or saved model read from a folder.

    config: the shape of the model.
    tensors: the weights in fp32, by the parameter names of mapsto's models.
    sources: {kind: source}: of the values that the model reads, and of those that its decoder writes if they are of another kind.
    labels: class names of the head, in the order of its outputs; None if no head has classes.
    folder: the folder with the files.
    notes: messages for the user, such as that some weights were left out.
    target_kind: the kind of answer to which `labels` belong, such as "label" or "boxes".
    restores: whether the checkpoint has a head that restores tokens of its source, or predicts the next one.
    """

    config: ModelConfig
    tensors: dict[str, Tensor]
    sources: dict[str, Source]
    labels: list[str] | None
    folder: Path
    notes: tuple[str, ...] = ()
    target_kind: str = ""
    restores: bool = False


def open_pretrained(name: str) -> PretrainedModel:
    """Open the model in a local folder, or one of the Hugging Face hub, which is downloaded first.

    name: path of the folder, or `hf:` and the name of the model on the hub.
    Raises CheckpointError if the model does not exist, is damaged or not supported, or would run code.
    """
    folder = find_folder(name)
    with reading_folder(folder):
        return open_folder(folder)


def open_folder(folder: Path, weights: Dict[str, Tensor] | None = None) -> PretrainedModel:
    """Return the model in a folder that exists, as `open_pretrained` does.

    weights: the weights by their published names, for a folder without their file; None reads that file.
    """
    raw, config = _read_config(folder)
    family = zoo.family_of(config)
    for file, remedy in family.required_files.items():
        if not (folder / file).exists():
            raise CheckpointError(f"{folder} has no {file}: {remedy}")
    if DECODER_KEY in raw:
        config = replace(config, decoder=make_decoder_config(config.transformer, _read_decoder_sizes(raw)))
    if ANSWER_DECODER_KEY in raw:
        layers = zoo.read_positive_int(raw, ANSWER_DECODER_KEY)
        config = replace(config, answer_decoder=make_answer_decoder(config.transformer, layers))
    notes: list[str] = []
    published = _read_weights(folder) if weights is None else dict(weights)
    # A damaged config.json may claim any number of layers: no more names are listed than there are weights.
    num_indices = min(config.num_indices, len(published)) + 1
    architectures = raw.get("architectures")
    architecture = architectures[0] if isinstance(architectures, list) and architectures else None
    tensors = to_mapsto_names(config, published, num_indices, folder, notes, architecture)
    # Fitted checkpoints of a family with a decoder often come without its weights.
    if not any(name.startswith("decoder.") for name in tensors):
        config = replace(config, decoder=None)
    # The encoder of an encoder–decoder is published alone too, and fitted alone.
    if not any(name.startswith("answer_decoder.") for name in tensors):
        config = replace(config, answer_decoder=None, answer_start=None)
    config, restores = _choose_vocabulary_head(config, family, tensors, architecture)
    if config.transformer.languages:
        notes.append(f"its table of {config.transformer.languages} languages is kept, but not used")
    target_kind, labels = _read_classes(raw, family, tensors, notes)
    config = _choose_pooling(config, raw, tensors, labels if target_kind == classifier() else None)
    config = replace(config, sentence=sentence_transformers.read_sentence_config(folder, config.transformer.max_tokens))
    source = _open_source(folder, config, _source_class(raw, family, folder), tensors)
    vocabularies = _open_vocabularies(folder, source.kind, tensors, notes)
    if family.answer_kind not in (None, *vocabularies):
        config, restores = replace(config, answer_decoder=None, answer_start=None), False
    if source.max_tokens is not None:
        config = replace(config, transformer=replace(config.transformer, max_positions=source.max_tokens))
    sources = {source.kind: source, **vocabularies}
    _require_body(config, sources, tensors, folder)
    for writer in sources.values():
        if isinstance(writer, Prompted) and (config.answer_decoder is not None or config.transformer.causal):
            notes += filter(None, [describe_unfollowed(writer.generation)])
    restores |= any(name.startswith(f"{kinds.target(source.kind, restored=True).head_name}.") for name in tensors)
    return PretrainedModel(config, tensors, sources, labels, folder, tuple(notes), target_kind, restores)


def save_pretrained(mapping: Mapping, folder: Path, labels: Sequence[str] | None) -> None:
    """Write a model to `folder` as config.json, model.safetensors and the files of its source, so that `transformers` opens it.

    labels: the class names of the saved head, in the order of its outputs; None if it has no classes.
    """
    family, task, config = zoo.family_of(mapping.config), published_task(mapping), mapping.config
    raw: dict[str, Any] = {
        "architectures": [family.architectures[task]],
        "model_type": config.family,
        "dtype": "float32",
    }
    if task == classifier() and config.pooling == "normed_mean":
        raw[POOLING_KEY] = config.pooling
        # `all_weights` adds a layer that computes the mean.
        config = replace(config, transformer=replace(config.transformer, layers=config.transformer.layers + 1))
    kind = next(iter(mapping.sources))
    shape: dict[str, Any] = {}
    for source in mapping.sources.values():
        shape |= source.save(folder, mapping.config.max_tokens)
    shape |= family.write_config(config)
    if kind != family.source_kind:
        raw[SOURCE_KEY] = kind
    if family.tower is not None and task != "body":
        shape = {
            "model_type": family.tower.full_model_type,
            family.tower.config_key: {"model_type": family.tower.model_type, **shape},
        }
    raw |= shape
    if mapping.decoder is not None and not can_save_decoder(config):
        raw[DECODER_KEY] = {key: getattr(config.decoder, field) for field, key in DECODER_SIZES.items()}
    if config.answer_decoder is not None and not family.has_answer_decoder:
        raw[ANSWER_DECODER_KEY] = config.answer_decoder.layers
    if config.answer_decoder is None and family.encoder_architecture is not None:
        raw["architectures"] = [family.encoder_architecture]
    if labels:
        raw["id2label"] = {str(i): label for i, label in enumerate(labels)}
        raw["label2id"] = {label: i for i, label in enumerate(labels)}
    tensors = to_published_names(mapping, all_weights(mapping))
    # `transformers` expects the counters of batch norms in a file.
    if family.step_counter:
        weight_ending, counter_ending = family.step_counter
        stems = [name.removesuffix(weight_ending) for name in tensors if name.endswith(weight_ending)]
        tensors |= {stem + counter_ending: torch.zeros((), dtype=torch.long) for stem in stems}
    content = safetensors.torch.save(tensors, {"format": "pt"})
    require_space(folder, len(content))
    write_atomic(folder / WEIGHTS_FILE, content)
    if config.sentence is not None:
        sentence_transformers.write_sentence_config(config.sentence, config.transformer.width, folder)
    # config.json comes last, so that an interrupted save leaves no folder that looks like a model.
    write_atomic(folder / CONFIG_FILE, (json.dumps(raw, ensure_ascii=False, indent=1) + "\n").encode())


def make_decoder_config(shape: TransformerConfig, sizes: Dict[str, int]) -> TransformerConfig:
    """Return the shape of an MAE decoder: the shape of its encoder (`shape`), but with the values in `sizes`.

    sizes: {field of TransformerConfig: value}, such as width and number of layers.
    """
    return replace(shape, embedding_width=None, vector_norm=False, **sizes)  # type: ignore[arg-type]


def make_answer_decoder(shape: TransformerConfig, layers: int) -> TransformerConfig:
    """Return the shape of a decoder of answers, with cross-attention: the shape of its encoder, but with `layers` layers."""
    return replace(
        shape, layers=layers, embedding_width=None, vector_norm=False, token_types=0, window=None, cross_attention=True
    )


def _read_config(folder: Path) -> tuple[dict[str, Any], ModelConfig]:
    """Return the content of the config.json in a folder, and the model shape that it describes.

    Raises CheckpointError if the file is missing or invalid, names a family that is not supported, or asks to run code.
    """
    path = folder / CONFIG_FILE
    if not path.exists():
        unfinished = any((folder / name).exists() for name in UNFINISHED_FILES)
        reason = "the fit in it is unfinished; run the same command again" if unfinished else explain_folder(folder)
        raise CheckpointError(f"{folder} is no model folder: {reason}")
    raw = read_json(path, MAX_CONFIG_BYTES)
    # transformers would import Python code from the checkpoint for this entry.
    if "auto_map" in raw:
        raise CheckpointError(
            f"{path} asks to run code of the checkpoint (auto_map), which mapsto never does; "
            "if its model_type is supported, remove auto_map from config.json"
        )
    model_type = raw.get("model_type")
    if not isinstance(model_type, str):
        reason = explain_folder(folder)
        hint = "" if reason == NO_CONFIG else f"; {reason}"
        raise CheckpointError(f"{path} names no model_type{hint}; supported are: {', '.join(zoo.family_names())}")
    family = zoo.get_family(model_type)
    try:
        return raw, _family_config(family, raw, model_type)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        if isinstance(error, MapstoError):
            raise
        raise CheckpointError(f"{path} is no configuration of {model_type}: {error!r}") from error


def _family_config(family: Family, raw: Dict[str, Any], model_type: str) -> ModelConfig:
    """Return the model shape that `raw`, the content of a config.json, describes.

    For a family with an image and a text tower (CLIP), it is the shape of the image tower.
    model_type: the name of the architecture in config.json.
    """
    tower = family.tower
    if tower is None:
        return replace(family.read_config(raw), family=model_type)
    tower_config = raw[tower.config_key] if model_type == tower.full_model_type else raw
    return replace(family.read_config(tower_config), family=tower.model_type)


def _read_decoder_sizes(raw: Dict[str, Any]) -> dict[str, int]:
    """Return {field of TransformerConfig: value} of an MAE decoder, from the entry DECODER_KEY of a config.json.

    raw: the content of config.json. Raises CheckpointError if the entry is invalid.
    """
    sizes = raw[DECODER_KEY]
    if not isinstance(sizes, dict):
        raise CheckpointError(f"config.json: {DECODER_KEY} says no sizes, but {sizes!r}")
    return {field: zoo.read_positive_int(sizes, key) for field, key in DECODER_SIZES.items()}


def _read_weights(folder: Path) -> dict[str, Tensor]:
    """Return all weights in a folder by their published names, from model.safetensors or from the files that its index lists.

    Raises CheckpointError if neither exists, or if the index lists a file outside the folder or not in safetensors format.
    """
    if os.path.lexists(folder / WEIGHTS_FILE):
        return open_tensors(folder / WEIGHTS_FILE)
    if (folder / INDEX_FILE).exists():
        weight_map = read_json(folder / INDEX_FILE, MAX_CONFIG_BYTES).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise CheckpointError(f"{folder / INDEX_FILE} lists no files of weights")
        files = sorted({str(file) for file in weight_map.values()})
        # An index from anywhere must not lead to files outside the folder, or to pickles.
        for file in files:
            if Path(file).name != file or not file.endswith(".safetensors"):
                raise CheckpointError(
                    f"{folder / INDEX_FILE} names the file {file!r}, which is no safetensors file beside it"
                )
        return {key: tensor for file in files for key, tensor in open_tensors(folder / file).items()}
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLED)
    if pickled:
        raise CheckpointError(f"{folder} has no {WEIGHTS_FILE}, only {', '.join(pickled[:3])}: {CONVERT}")
    reason = explain_folder(folder)
    raise CheckpointError(f"{folder} has no {WEIGHTS_FILE}" + ("" if reason == NO_CONFIG else f": {reason}"))


def _source_kind(raw: Dict[str, Any], family: Family, folder: Path) -> str:
    """Return the name of the kind of values that a model reads: the one in its config.json, else the family's.

    raw: the content of config.json, in which mapsto names the kind if it is not the family's.
    Raises CheckpointError if there is no such source kind.
    """
    # Looked up among installed kinds, since config.json of unknown origin must not name a module to import.
    kind = raw.get(SOURCE_KEY, family.source_kind)
    if kind not in kinds.names("source"):
        raise CheckpointError(f"{folder} reads values of the kind {kind!r}, which is not installed here")
    return str(kind)


def _source_class(raw: Dict[str, Any], family: Family, folder: Path) -> type[Source]:
    """Return the source class by which a model reads its values: the kind's own, the one of linear models, or a variant.

    raw: the content of config.json. Raises CheckpointError if there is no such class.
    """
    kind = kinds.source(_source_kind(raw, family, folder))
    if family.linear:
        linear_class = linear_source(kind)
        if linear_class is None:
            raise CheckpointError(f"{folder}: no linear model reads values of the kind {kind.kind!r}")
        return linear_class
    if family.source_variant is None or kind.kind != family.source_kind:
        return kind
    return require(kind, Varied, "read in several ways").variants[family.source_variant]


def _open_source(folder: Path, config: ModelConfig, cls: type[Source], tensors: Dict[str, Tensor]) -> Source:
    """Return the source in a model folder, as an object of `cls`. Raises CheckpointError if its files or weights are invalid.

    It also checks that config.json gives the numbers of learnt queries, and of layers with position embeddings, that the
    weights have.
    """
    stem = f"embedders.{cls.kind}."
    source_weights = {name.removeprefix(stem): tensor for name, tensor in tensors.items() if name.startswith(stem)}
    source = cls.open(folder, source_weights, config.backbone)
    num_layers = (config.transformer.layers - 1) * config.mid_positions
    queries, layer_positions = (source.queries, source.layer_positions) if isinstance(source, Spatial) else (0, 0)
    if (queries, layer_positions) != (config.num_queries, num_layers):
        raise CheckpointError(
            f"{folder}: config.json says {config.num_queries} learnt queries, and positions added behind {num_layers} "
            f"layers; the weights have {queries}, and positions for {layer_positions}"
        )
    return source


def _open_vocabularies(folder: Path, read: str, tensors: dict[str, Tensor], notes: list[str]) -> dict[str, Source]:
    """Return {kind: source} of the kinds that a model only writes, those with embeddings of tokens that it does not read.

    Without the files of a vocabulary the decoder is removed from `tensors`, and `notes` gets a message about this.
    read: the kind that the model reads.
    """
    stems = {name.split(".")[1] for name in tensors if name.startswith("embedders.")} - {read}
    vocabularies: dict[str, Source] = {}
    for kind in sorted(stems & set(kinds.names("source"))):
        stem = f"embedders.{kind}."
        weights = {name.removeprefix(stem): tensor for name, tensor in tensors.items() if name.startswith(stem)}
        try:
            vocabularies[kind] = kinds.source(kind).open(folder, weights)
        except CheckpointError as error:
            for name in [name for name in tensors if name.startswith((stem, "answer_decoder."))]:
                del tensors[name]
            notes.append(f"its decoder is left out, so that it writes no {kind}: {error}")
    return vocabularies


def _read_classes(
    raw: Dict[str, Any], family: Family, tensors: dict[str, Tensor], notes: list[str]
) -> tuple[str, list[str] | None]:
    """Return the kind of a checkpoint's head with classes, such as "label" or "boxes", and its class names in order.

    ("label", None) if no head has classes. A message on a head that is left out is added to `notes`.
    raw: content of config.json. tensors: weights by mapsto's names; those of the head that is left out are removed.
    """
    for task in family.weight_names:
        target = kinds.target(task, restored=True) if task not in ("body", classifier()) else None
        if target is not None and issubclass(target, Classes):
            count = target.count_published_classes(tensors)
            if count is not None:
                return task, _read_class_names(raw, count, notes)
    return classifier(), _read_labels(raw, family, tensors, notes)


def _read_labels(raw: Dict[str, Any], family: Family, tensors: dict[str, Tensor], notes: list[str]) -> list[str] | None:
    """Return the class names of a checkpoint's single-label classifier, in order; None if it has none.

    The head is removed from `tensors` if it is for another task, such as regression, and `notes` gets a message about this.
    raw: content of config.json. tensors: weights by mapsto's names.
    """
    target = kinds.target(classifier())
    assert issubclass(target, Classes)
    num_classes = target.count_published_classes(tensors)
    if num_classes is None:
        return None
    published = family.architectures.get(classifier())
    architectures = raw.get("architectures") or [published]
    if not isinstance(architectures, list):
        raise CheckpointError(f"architectures in config.json is no list, but {architectures!r}")
    # Regression has one output, and several labels at once have another loss; both look like a classifier's weights.
    is_single_label = raw.get("problem_type") in (None, "single_label_classification") and num_classes > 1
    if published not in (None, architectures[0]) or not is_single_label or not family.reads_classifier(raw):
        for name in [name for name in tensors if name.startswith((f"{target.head_name}.", "pooler."))]:
            del tensors[name]
        notes.append(f"the head of {architectures[0]} is for another task and was left out")
        return None
    return _read_class_names(raw, num_classes, notes)


def _read_class_names(raw: Dict[str, Any], num_classes: int, notes: list[str]) -> list[str]:
    """Return the class names in a config.json, in order of the class numbers. If there are none, they are "LABEL_0" and so on.

    A name of several classes gets each class's number added, and `notes` gets a message about this.
    Raises CheckpointError if these are not `num_classes` different names. raw: content of config.json.
    """
    names = raw.get("id2label") or {str(i): f"LABEL_{i}" for i in range(num_classes)}
    try:
        labels = [str(names[str(i)]) for i in range(num_classes)]
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"id2label in config.json does not name {num_classes} classes") from error
    repeated = {label for label, count in Counter(labels).items() if count > 1}
    if repeated:  # ImageNet has two cranes
        labels = [f"{label} ({i})" if label in repeated else label for i, label in enumerate(labels)]
        notes.append(f"several classes are called {', '.join(sorted(repeated)[:5])}; their numbers are added")
    if len(set(labels)) < len(labels) or len(names) != num_classes:
        raise CheckpointError(f"id2label in config.json does not name {num_classes} different classes")
    return labels


def _choose_pooling(
    config: ModelConfig, raw: Dict[str, Any], tensors: dict[str, Tensor], labels: list[str] | None
) -> ModelConfig:
    """Return `config` with the pooling that suits the checkpoint: for a post-norm model without classifier, the normalised mean.

    The first token of such a model holds little information before a classifier is trained on it. Models whose layers all
    share their weights keep the pooling of `config`. If mapsto saved the model with a last layer that computes the normalised
    mean for other libraries (`weight_names.all_weights`), this layer is removed from `tensors` and `config`.
    """
    if raw.get(POOLING_KEY) == "normed_mean":
        last = config.transformer.layers - 1
        for name in [name for name in tensors if name.startswith(f"transformer.blocks.{last}.")]:
            del tensors[name]
        return replace(config, pooling="normed_mean", transformer=replace(config.transformer, layers=last))
    is_post_norm = config.transformer.norm_place == "post" and not config.transformer.shared_layers
    if labels is None and is_post_norm and config.pooling == "first":
        return replace(config, pooling="normed_mean")
    return config


def _choose_vocabulary_head(
    config: ModelConfig, family: Family, tensors: Dict[str, Tensor], architecture: object
) -> tuple[ModelConfig, bool]:
    """Return `config` with the kind of vocabulary head that the checkpoint has, and whether it has one without weights.

    If the output weights differ from the embeddings they are not tied, whatever config.json says, as in `transformers`.
    architecture: the class of `transformers` that the checkpoint names.
    """
    head = config.vocabulary_head
    if head is None:
        return config, False
    if any(name in tensors for name in family.untied_weights.values()) and not head.head_weight:
        return replace(config, vocabulary_head=replace(head, head_weight=True)), True
    written = family.answer_kind or family.source_kind
    is_published = architecture is not None and architecture == family.architectures.get(written)
    return config, head.is_empty and is_published


def _require_body(config: ModelConfig, sources: Dict[str, Source], tensors: Dict[str, Tensor], folder: Path) -> None:
    """Raise CheckpointError unless `tensors` has every weight of the model without heads, in the shape that config.json gives.

    No memory is allocated for weights, since a damaged config.json may describe a model of any size.
    """
    depth = sum(config.backbone.depths) if config.backbone else 0
    for stack in filter(None, (config.transformer, config.decoder, config.answer_decoder)):
        splits = stack.fits_heads if stack.layers else stack.width % stack.heads == 0
        if not splits or max(stack.num_blocks, depth) > len(tensors):
            raise CheckpointError(
                f"{folder}: config.json does not fit the weights ({stack.layers} layers, {stack.heads} heads)"
            )
    shapes = _body_shapes(config, sources)
    decoders = ("decoder.", "answer_decoder.")
    unexpected = [name for name in tensors if name.startswith(decoders) and name not in shapes]
    if unexpected:
        raise CheckpointError(
            f"{folder} has weights of a decoder that is not in config.json: {', '.join(unexpected[:5])}"
        )
    for name, shape in shapes.items():
        if name not in tensors:
            raise CheckpointError(f"{folder} lacks the weight {name}")
        if tensors[name].shape != shape:
            raise CheckpointError(
                f"{folder}: {name} has shape {tuple(tensors[name].shape)}, config.json says {tuple(shape)}"
            )


def _body_shapes(config: ModelConfig, sources: Dict[str, Source]) -> dict[str, torch.Size]:
    """Return {name: shape} of every weight of the model without heads.

    The modules are built on the meta device, which allocates no memory.
    """
    shape = config.transformer
    source = next(iter(sources.values()))
    with torch.device("meta"), SkipInit():
        modules: dict[str, torch.nn.Module] = {"transformer": Transformer(shape)}
        for kind, embedded in sources.items():
            width = (shape if embedded is source else config.answer_stack).input_width
            modules[f"embedders.{kind}"] = embedded.embedder(width)
        if config.answer_decoder is not None:
            modules["answer_decoder"] = Transformer(config.answer_decoder)
        if config.pooled_norm:
            modules["pooled_norm"] = make_norm(shape)
        if config.decoder is not None:
            positions = {source.kind: source.decoder_positions(config.decoder.width)}
            modules["decoder"] = MAEDecoder(shape.width, config.decoder, positions)
        return {f"{part}.{name}": p.shape for part, module in modules.items() for name, p in module.named_parameters()}
