"""Open published model folders (Hugging Face), and save models as folders that `transformers` opens.

The names of a family's weights and settings are in its file in zoo/. This module has what is the same for all families: the
files of a folder, the checks, and the class names of a head. Only safetensors and JSON files are read, so no code of a checkpoint
is run. Every shape is checked before memory is allocated.
"""

from __future__ import annotations

import json
import re
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
from mapsto.errors import CheckpointError, MapstoError, UsageError
from mapsto.files import CONVERT, PICKLED, open_tensors, read_json, require_space, write_atomic
from mapsto.model.config import ModelConfig, TransformerConfig
from mapsto.model.mae_decoder import MAEDecoder
from mapsto.model.mapping import Mapping, SkipInit
from mapsto.model.transformer import Transformer, make_norm
from mapsto.pretrained import sentence_transformers
from mapsto.pretrained.weight_names import (
    all_weights,
    can_save_decoder,
    classifier,
    published_task,
    to_mapsto_names,
    to_published_names,
)
from mapsto.task.capabilities import Classes, Describable, LinearFeatures, Spatial
from mapsto.task.source import Source
from mapsto.zoo import Family

WEIGHTS_FILE, INDEX_FILE, CONFIG_FILE = "model.safetensors", "model.safetensors.index.json", "config.json"

# Key of config.json for a pooling that the family's own settings cannot express.
POOLING_KEY = "mapsto_pooling"
# Key of config.json for a decoder that the family's own settings cannot express. Its entries, by field of TransformerConfig.
DECODER_KEY = "mapsto_decoder"
DECODER_SIZES = {"width": "width", "layers": "layers", "heads": "heads", "feed_forward_width": "hidden"}
# Key of config.json for the source kind, if it is not the family's.
SOURCE_KEY = "mapsto_source"

HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
# The files that are downloaded from the hub.
HUB_FILES = ["*.json", "*.safetensors", "vocab.txt", "1_Pooling/config.json"]


@dataclass(frozen=True)
class PretrainedModel:
    """An opened checkpoint.

    config: the shape of the model.
    tensors: weights under mapsto's names, in fp32.
    sources: the model's only source, by kind.
    labels: class names of the classifier or detector, in order; None if there is none.
    folder: the folder of the checkpoint on disk.
    notes: messages for the user, such as which weights were left out.
    target_kind: the kind of answer to which `labels` belong, such as "label" or "boxes".
    """

    config: ModelConfig
    tensors: dict[str, Tensor]
    sources: dict[str, Source]
    labels: list[str] | None
    folder: Path
    notes: tuple[str, ...] = ()
    target_kind: str = ""


def open_pretrained(name: str) -> PretrainedModel:
    """Open a model folder, or download a model of the Hugging Face hub and open it.

    name: path of the folder, or name on the hub. Raises CheckpointError for anything unsafe, damaged or not supported.
    """
    folder = _find_folder(name)
    raw, config = _read_config(folder)
    family = zoo.family_of(config)
    for file, remedy in family.required_files.items():
        if not (folder / file).exists():
            raise CheckpointError(f"{folder} has no {file}: {remedy}")
    if DECODER_KEY in raw:
        config = replace(config, decoder=make_decoder_config(config.transformer, _read_decoder_sizes(raw)))
    notes: list[str] = []
    published = _read_weights(folder)
    # A damaged config.json may claim any number of layers: no more names are listed than there are weights.
    num_indices = min(config.num_indices, len(published)) + 1
    tensors = to_mapsto_names(family, published, num_indices, folder, notes)
    # Fitted checkpoints of a family with a decoder often come without its weights.
    if not any(name.startswith("decoder.") for name in tensors):
        config = replace(config, decoder=None)
    if config.transformer.languages:
        notes.append(f"its table of {config.transformer.languages} languages is kept, but not used")
    target_kind, labels = _read_classes(raw, family, tensors, notes)
    config = _choose_pooling(config, raw, tensors, labels)
    config = replace(config, sentence=sentence_transformers.read_sentence_config(folder, config.transformer.max_tokens))
    source_class = kinds.source(_source_kind(raw, family, folder))
    if family.linear:
        source_class = linear_source(source_class)
    source = _open_source(folder, config, source_class, tensors)
    if source.max_tokens is not None:
        config = replace(config, transformer=replace(config.transformer, max_positions=source.max_tokens))
    _require_body(config, source, tensors, folder)
    return PretrainedModel(config, tensors, {source.kind: source}, labels, folder, tuple(notes), target_kind)


def save_pretrained(mapping: Mapping, folder: Path, labels: Sequence[str] | None) -> None:
    """Write config.json, model.safetensors and the files of the source, so that `transformers` opens the folder.

    labels: the class names of the published head, in order.
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
    ((kind, source),) = mapping.sources.items()
    shape = {**source.save(folder, mapping.config.max_tokens), **family.write_config(config)}
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
    """Return the shape of a decoder, which is that of its encoder (`shape`) except for `sizes`, by field of TransformerConfig."""
    return replace(shape, embedding_width=None, vector_norm=False, **sizes)  # type: ignore[arg-type]


def _find_folder(name: str) -> Path:
    """Return the folder at the path `name`, or else the folder of the hub's model `name`, downloaded if needed.

    Raises CheckpointError if neither such a folder nor such a model exists.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        raise CheckpointError(
            f"{name}: {CONVERT}" if path.suffix in PICKLED else f"{name} is a file; a model is a folder"
        )
    parent = Path(path.parts[0]) if len(path.parts) > 1 else None
    # A mistyped local path is never asked of the hub.
    if not HUB_NAME.fullmatch(name) or (parent is not None and parent.exists()):
        raise CheckpointError(f"there is no folder {name}")
    from huggingface_hub import errors, snapshot_download  # takes half a second, and local folders do not need it

    hub_errors = (
        errors.HfHubHTTPError,
        errors.HFValidationError,
        errors.LocalEntryNotFoundError,
        errors.OfflineModeIsEnabled,
    )
    try:
        return Path(snapshot_download(name, allow_patterns=HUB_FILES))
    except (*hub_errors, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"there is no folder {name!r}, and the hub did not give it: {reason}") from error


def _read_config(folder: Path) -> tuple[dict[str, Any], ModelConfig]:
    """Return the content of a folder's config.json, and the model shape that it describes. Raises CheckpointError."""
    path = folder / CONFIG_FILE
    if not path.exists():
        raise CheckpointError(f"{folder} is no model folder: it has no {CONFIG_FILE}")
    raw = read_json(path)
    # transformers would import Python code from the checkpoint for this entry.
    if "auto_map" in raw:
        raise CheckpointError(
            f"{path} asks to run code of the checkpoint (auto_map), which mapsto never does; "
            "if its model_type is supported, remove auto_map from config.json"
        )
    model_type = raw.get("model_type")
    if not isinstance(model_type, str):
        raise CheckpointError(f"{path} names no model_type; supported are: {', '.join(zoo.family_names())}")
    family = zoo.get_family(model_type)
    try:
        return raw, _family_config(family, raw, model_type)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        if isinstance(error, MapstoError):
            raise
        raise CheckpointError(f"{path} is no configuration of {model_type}: {error!r}") from error


def _family_config(family: Family, raw: Dict[str, Any], model_type: str) -> ModelConfig:
    """Return the model shape that a config.json describes; of a model with several towers (CLIP), the image tower's."""
    tower = family.tower
    if tower is None:
        return replace(family.read_config(raw), family=model_type)
    tower_config = raw[tower.config_key] if model_type == tower.full_model_type else raw
    return replace(family.read_config(tower_config), family=tower.model_type)


def _read_decoder_sizes(raw: Dict[str, Any]) -> dict[str, int]:
    """Return the sizes under DECODER_KEY in a config.json, by field of TransformerConfig. Raises CheckpointError."""
    sizes = raw[DECODER_KEY]
    if not isinstance(sizes, dict):
        raise CheckpointError(f"config.json: {DECODER_KEY} says no sizes, but {sizes!r}")
    return {field: zoo.read_positive_int(sizes, key) for field, key in DECODER_SIZES.items()}


def _read_weights(folder: Path) -> dict[str, Tensor]:
    """Return all weights of a folder under their published names, from model.safetensors or the files that its index lists.

    Raises CheckpointError if the folder has neither, or if a file cannot be opened safely.
    """
    if (folder / WEIGHTS_FILE).exists():
        return open_tensors(folder / WEIGHTS_FILE)
    if (folder / INDEX_FILE).exists():
        files = sorted({str(file) for file in dict(read_json(folder / INDEX_FILE).get("weight_map") or {}).values()})
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
    raise CheckpointError(f"{folder} has no {WEIGHTS_FILE}")


def _source_kind(raw: Dict[str, Any], family: Family, folder: Path) -> str:
    """Return the kind of value that a model reads. Raises CheckpointError for a kind that is not installed here.

    It is the family's kind, unless config.json names another: mapsto may save a model of another kind in a family's format.
    """
    # Looked up among installed kinds, since config.json of unknown origin must not name a module to import.
    kind = raw.get(SOURCE_KEY, family.source_kind)
    if kind not in kinds.names("source"):
        raise CheckpointError(f"{folder} reads values of the kind {kind!r}, which is not installed here")
    return str(kind)


def linear_source(kind: type[Source]) -> type[LinearFeatures]:
    """Return the Source class by which a linear model reads values of a kind. Raises UsageError if there is none."""
    cls = kind.linear_source() if issubclass(kind, Describable) else None
    if cls is None:
        raise UsageError(f"there is no linear model that reads values of the kind {kind.kind!r}")
    return cls


def _open_source(folder: Path, config: ModelConfig, cls: type[Source], tensors: Dict[str, Tensor]) -> Source:
    """Open the source of a model folder. Raises CheckpointError.

    The numbers of learnt queries, and of layers that add position embeddings, must be equal in the weights and config.json.
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


def _read_classes(
    raw: Dict[str, Any], family: Family, tensors: dict[str, Tensor], notes: list[str]
) -> tuple[str, list[str] | None]:
    """Return the kind of answer that a checkpoint's head gives, and the names of its classes in order.

    Without a head that has classes, the kind is "label" and the names are None.
    """
    for task in family.weight_names:
        target = kinds.target(task, restored=True) if task not in ("body", classifier()) else None
        if target is not None and issubclass(target, Classes):
            count = target.count_published_classes(tensors)
            if count is not None:
                return task, _read_class_names(raw, count, notes)
    return classifier(), _read_labels(raw, family, tensors, notes)


def _read_labels(raw: Dict[str, Any], family: Family, tensors: dict[str, Tensor], notes: list[str]) -> list[str] | None:
    """Return the class names of a checkpoint's classifier, in order; None if it has no classifier.

    A head for another task, such as regression, is removed from `tensors`, and a message about this is added to `notes`.
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
    if published not in (None, architectures[0]) or not is_single_label:
        for name in [name for name in tensors if name.startswith((f"{target.head_name}.", "pooler."))]:
            del tensors[name]
        notes.append(f"the head of {architectures[0]} is for another task and was left out")
        return None
    return _read_class_names(raw, num_classes, notes)


def _read_class_names(raw: Dict[str, Any], num_classes: int, notes: list[str]) -> list[str]:
    """Return the class names in config.json, in order. Raises CheckpointError if they are not `num_classes` different names.

    Classes with the same name are told apart by their class numbers, and a message about this is added to `notes`.
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
    """Return `config` with the pooling that suits the checkpoint: the normalised mean for a post-norm model without classifier.

    Before a classifier is trained on it, the first token of such a model holds little information. Models whose layers all
    share their weights keep the pooling of `config`. A folder saved with the normalised mean has one more layer, which computes
    this mean for other libraries; the layer is removed from `tensors` and `config` here.
    """
    if raw.get(POOLING_KEY) == "normed_mean":
        last = config.transformer.layers - 1
        for name in [name for name in tensors if name.startswith(f"transformer.blocks.{last}.")]:
            del tensors[name]
        return replace(config, pooling="normed_mean", transformer=replace(config.transformer, layers=last))
    if labels is None and config.transformer.norm_place == "post" and not config.transformer.shared_layers:
        return replace(config, pooling="normed_mean")
    return config


def _require_body(config: ModelConfig, source: Source, tensors: Dict[str, Tensor], folder: Path) -> None:
    """Raise CheckpointError if a weight of the body is missing, or has another shape than config.json says.

    The check allocates no memory for weights, since a damaged config.json may describe a model of any size.
    """
    depth = sum(config.backbone.depths) if config.backbone else 0
    for stack in filter(None, (config.transformer, config.decoder)):
        # Heads have an even width, for rotary positions.
        splits = stack.width % (2 * stack.heads if stack.layers else stack.heads) == 0
        if not splits or max(stack.num_blocks, depth) > len(tensors):
            raise CheckpointError(
                f"{folder}: config.json does not fit the weights ({stack.layers} layers, {stack.heads} heads)"
            )
    shapes = _body_shapes(config, source)
    unexpected = [name for name in tensors if name.startswith("decoder.") and name not in shapes]
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


def _body_shapes(config: ModelConfig, source: Source) -> dict[str, torch.Size]:
    """Return the shape of every weight of the body, by name. The modules are built on the meta device, without memory."""
    shape = config.transformer
    with torch.device("meta"), SkipInit():
        modules: dict[str, torch.nn.Module] = {
            "transformer": Transformer(shape),
            f"embedders.{source.kind}": source.embedder(shape.input_width),
        }
        if config.pooled_norm:
            modules["pooled_norm"] = make_norm(shape)
        if config.decoder is not None:
            positions = {source.kind: source.decoder_positions(config.decoder.width)}
            modules["decoder"] = MAEDecoder(shape.width, config.decoder, positions)
        return {f"{part}.{name}": p.shape for part, module in modules.items() for name, p in module.named_parameters()}
