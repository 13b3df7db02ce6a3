"""Published folders: opened into weights under our names, and written so that `transformers` opens them as they stand.

What a family calls its weights and settings is told by its file in zoo/; which files a folder has, what is refused and
what a classifier's head means is the same for all of them.
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
from mapsto.errors import CheckpointError, MapstoError
from mapsto.files import CONVERT, PICKLED, open_tensors, read_json, require_space, write_atomic
from mapsto.model.config import ModelConfig, TransformerConfig
from mapsto.model.mae_decoder import MAEDecoder
from mapsto.model.mapping import Mapping, Unset
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
from mapsto.task.capabilities import Classes, Spatial
from mapsto.task.source import Source
from mapsto.zoo import Family

WEIGHTS, INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"


# The source kind, where it is not the one that the family reads.
SOURCE_KEY = "mapsto_source"
POOLING_KEY = "mapsto_pooling"


# Key of config.json for a decoder the family cannot express, and its entries by the field of TransformerConfig they hold.
DECODER_KEY = "mapsto_decoder"
DECODER_SIZES = {"width": "width", "layers": "layers", "heads": "heads", "feed_forward_width": "hidden"}


HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


HUB_FILES = ["*.json", "*.safetensors", "vocab.txt", "1_Pooling/config.json"]


@dataclass(frozen=True)
class PretrainedModel:
    """An opened checkpoint. `labels` are the classes of its classifier, in order, and `answered` the kind that this answers."""

    config: ModelConfig
    tensors: dict[str, Tensor]
    sources: dict[str, Source]
    labels: list[str] | None
    folder: Path
    notes: tuple[str, ...] = ()
    answered: str = ""


def open_pretrained(name: str) -> PretrainedModel:
    """Open a model folder or a hub name. Raises CheckpointError for anything unsafe, damaged or not supported."""
    folder = _find(name)
    if not (folder / CONFIG).exists():
        raise CheckpointError(f"{folder} is no model folder: it has no {CONFIG}")
    raw = read_json(folder / CONFIG)
    if "auto_map" in raw:
        raise CheckpointError(
            f"{folder / CONFIG} asks to run code that the checkpoint brings (auto_map), which mapsto never does; "
            "where its model_type is one of the supported ones, take auto_map out of config.json"
        )
    kind = raw.get("model_type")
    if not isinstance(kind, str):
        raise CheckpointError(f"{folder / CONFIG} names no model_type; supported are: {', '.join(zoo.family_names())}")
    family = zoo.get_family(kind)
    try:
        config = _config(family, raw, kind)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        if isinstance(error, MapstoError):
            raise
        raise CheckpointError(f"{folder / CONFIG} is no configuration of {kind}: {error!r}") from error
    chosen = zoo.family_of(config)
    for file, remedy in chosen.required_files.items():
        if not (folder / file).exists():
            raise CheckpointError(f"{folder} has no {file}: {remedy}")
    if DECODER_KEY in raw:
        config = replace(config, decoder=decoder_of(config.transformer, _decoder_sizes(raw)))
    notes: list[str] = []
    given = _weights(folder)
    tensors = to_mapsto_names(chosen, given, min(config.num_indices, len(given)) + 1, folder, notes)
    if not any(name.startswith("decoder.") for name in tensors):
        config = replace(config, decoder=None)
    if config.transformer.languages:
        notes.append(f"its table of {config.transformer.languages} languages is kept, but no language is named to it")
    answered, labels = _classes(raw, chosen, tensors, notes)
    config = _pooled(config, raw, tensors, labels)
    config = replace(config, sentence=sentence_transformers.read_sentence_config(folder, config.transformer.max_tokens))
    source_kind = _source_kind(raw, chosen, folder)
    stem = f"embedders.{source_kind}."
    source_weights = {name.removeprefix(stem): tensor for name, tensor in tensors.items() if name.startswith(stem)}
    source = kinds.source(source_kind).open(folder, source_weights, config.backbone)
    if source.max_tokens is not None:
        config = replace(config, transformer=replace(config.transformer, max_positions=source.max_tokens))
    layers = (config.transformer.layers - 1) * config.mid_positions
    queries, layer_positions = (source.queries, source.layer_positions) if isinstance(source, Spatial) else (0, 0)
    if (queries, layer_positions) != (config.num_queries, layers):
        raise CheckpointError(
            f"{folder}: config.json says {config.num_queries} learnt queries, and positions again behind {layers} layers; "
            f"the weights have {queries}, and those for {layer_positions}"
        )
    _require_body(config, source, tensors, folder)
    return PretrainedModel(config, tensors, {source_kind: source}, labels, folder, tuple(notes), answered)


def _source_kind(raw: Dict[str, Any], family: Family, folder: Path) -> str:
    """Return the kind that a model reads: the family's, unless mapsto saved one of another kind under this family.

    Raises CheckpointError for a kind that is not installed here.
    """
    kind = raw.get(SOURCE_KEY, family.source_kind)
    if kind not in kinds.names("source"):
        raise CheckpointError(f"{folder} reads values of the kind {kind!r}, which is not installed here")
    return str(kind)


def save_pretrained(mapping: Mapping, folder: Path, labels: Sequence[str] | None) -> None:
    """Write config.json, model.safetensors and the files of its source, so that `transformers` opens the folder."""
    chosen, task, config = zoo.family_of(mapping.config), published_task(mapping), mapping.config
    raw: dict[str, Any] = {
        "architectures": [chosen.architectures[task]],
        "model_type": config.family,
        "dtype": "float32",
    }
    if task == classifier() and config.pooling == "normed_mean":
        raw[POOLING_KEY] = config.pooling
        config = replace(config, transformer=replace(config.transformer, layers=config.transformer.layers + 1))
    ((kind, source),) = mapping.sources.items()
    shape = {**source.save(folder, mapping.config.max_tokens), **chosen.write_config(config)}
    if kind != chosen.source_kind:
        raw[SOURCE_KEY] = kind
    if chosen.tower is not None and task != "body":
        shape = {
            "model_type": chosen.tower.full_model_type,
            chosen.tower.config_key: {"model_type": chosen.tower.model_type, **shape},
        }
    raw |= shape
    if mapping.decoder is not None and not can_save_decoder(config):
        raw[DECODER_KEY] = {key: getattr(config.decoder, field) for field, key in DECODER_SIZES.items()}
    if labels:
        raw["id2label"] = {str(i): label for i, label in enumerate(labels)}
        raw["label2id"] = {label: i for i, label in enumerate(labels)}
    tensors = to_published_names(mapping, all_weights(mapping))
    if chosen.step_counter:
        beside, end = chosen.step_counter
        stems = [name.removesuffix(beside) for name in tensors if name.endswith(beside)]
        tensors |= {stem + end: torch.zeros((), dtype=torch.long) for stem in stems}
    content = safetensors.torch.save(tensors, {"format": "pt"})
    require_space(folder, len(content))
    write_atomic(folder / WEIGHTS, content)
    if config.sentence is not None:
        sentence_transformers.write_sentence_config(config.sentence, config.transformer.width, folder)
    write_atomic(folder / CONFIG, (json.dumps(raw, ensure_ascii=False, indent=1) + "\n").encode())


def decoder_of(shape: TransformerConfig, sizes: Dict[str, int]) -> TransformerConfig:
    """A decoder of these DECODER_SIZES for a stack, and otherwise like it."""
    return replace(shape, embedding_width=None, vector_norm=False, **sizes)  # type: ignore[arg-type]


def _decoder_sizes(raw: Dict[str, Any]) -> dict[str, int]:
    said = raw[DECODER_KEY]
    if not isinstance(said, dict):
        raise CheckpointError(f"config.json: {DECODER_KEY} says no sizes, but {said!r}")
    return {field: zoo.read_positive_int(said, key) for field, key in DECODER_SIZES.items()}


def _find(name: str) -> Path:
    """The folder called `name`, or the hub's snapshot of it; the network is asked for nothing else."""
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        raise CheckpointError(
            f"{name}: {CONVERT}" if path.suffix in PICKLED else f"{name} is a file; a model is a folder"
        )
    first = Path(path.parts[0]) if len(path.parts) > 1 else None
    if not HUB_NAME.fullmatch(name) or (first is not None and first.exists()):
        raise CheckpointError(f"there is no folder {name}")
    from huggingface_hub import (
        errors,
        snapshot_download,
    )  # half a second to import, for nothing where a folder is named

    away = (
        errors.HfHubHTTPError,
        errors.HFValidationError,
        errors.LocalEntryNotFoundError,
        errors.OfflineModeIsEnabled,
    )
    try:
        return Path(snapshot_download(name, allow_patterns=HUB_FILES))
    except (*away, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"there is no folder {name!r}, and the hub did not give it: {reason}") from error


def _config(family: Family, raw: Dict[str, Any], kind: str) -> ModelConfig:
    """What a config.json of model_type `kind` says, if of several towers, of the one that is read."""
    tower = family.tower
    if tower is None:
        return replace(family.read_config(raw), family=kind)
    return replace(
        family.read_config(raw[tower.config_key] if kind == tower.full_model_type else raw), family=tower.model_type
    )


def _weights(folder: Path) -> dict[str, Tensor]:
    if (folder / WEIGHTS).exists():
        return open_tensors(folder / WEIGHTS)
    if (folder / INDEX).exists():
        files = sorted({str(file) for file in dict(read_json(folder / INDEX).get("weight_map") or {}).values()})
        for file in files:
            if Path(file).name != file or not file.endswith(".safetensors"):
                raise CheckpointError(
                    f"{folder / INDEX} names the file {file!r}, which is no safetensors file beside it"
                )
        return {key: tensor for file in files for key, tensor in open_tensors(folder / file).items()}
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLED)
    if pickled:
        raise CheckpointError(f"{folder} has no {WEIGHTS}, only {', '.join(pickled[:3])}: {CONVERT}")
    raise CheckpointError(f"{folder} has no {WEIGHTS}")


def _classes(
    raw: Dict[str, Any], chosen: Family, tensors: dict[str, Tensor], notes: list[str]
) -> tuple[str, list[str] | None]:
    """Return the kind that a checkpoint's head answers, and its classes in order; no classes where it has no such head."""
    for task in chosen.weight_names:
        target = kinds.target(task, restored=True) if task not in ("body", classifier()) else None
        if target is not None and issubclass(target, Classes):
            count = target.count_published_classes(tensors)
            if count is not None:
                return task, _names(raw, count, notes)
    return classifier(), _labels(raw, chosen, tensors, notes)


def _labels(raw: Dict[str, Any], chosen: Family, tensors: dict[str, Tensor], notes: list[str]) -> list[str] | None:
    """The classes of a classifier over whole texts; the head of any other task is left out, with a note."""
    target = kinds.target(classifier())
    assert issubclass(target, Classes)
    classes = target.count_published_classes(tensors)
    if classes is None:
        return None
    published = chosen.architectures.get(classifier())
    architectures = raw.get("architectures") or [published]
    if not isinstance(architectures, list):
        raise CheckpointError(f"architectures in config.json is no list, but {architectures!r}")
    single = raw.get("problem_type") in (None, "single_label_classification") and classes > 1
    if published not in (None, architectures[0]) or not single:
        for name in [name for name in tensors if name.startswith((f"{target.head_name}.", "pooler."))]:
            del tensors[name]
        notes.append(f"the head of {architectures[0]} is for another task and was left out")
        return None
    return _names(raw, classes, notes)


def _names(raw: Dict[str, Any], classes: int, notes: list[str]) -> list[str]:
    """What config.json calls so many classes."""
    names = raw.get("id2label") or {str(i): f"LABEL_{i}" for i in range(classes)}
    try:
        labels = [str(names[str(i)]) for i in range(classes)]
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"id2label in config.json does not name {classes} classes") from error
    repeated = {label for label, count in Counter(labels).items() if count > 1}
    if repeated:  # ImageNet has two cranes
        labels = [f"{label} ({i})" if label in repeated else label for i, label in enumerate(labels)]
        notes.append(f"several classes are called {', '.join(sorted(repeated)[:5])}; their numbers tell them apart")
    if len(set(labels)) < len(labels) or len(names) != classes:
        raise CheckpointError(f"id2label in config.json does not name {classes} different classes")
    return labels


def _pooled(
    config: ModelConfig, raw: Dict[str, Any], tensors: dict[str, Tensor], labels: list[str] | None
) -> ModelConfig:
    """Where this checkpoint is read. A post-norm stack without a classifier is read at its normalised mean, which tells
    more than its first token until that was trained to; the layer that `_mean_layer` wrote is taken out again. Where all
    layers share their weights no such layer can be written, so the first token is read."""
    if raw.get(POOLING_KEY) == "normed_mean":
        last = config.transformer.layers - 1
        for name in [name for name in tensors if name.startswith(f"transformer.blocks.{last}.")]:
            del tensors[name]
        return replace(config, pooling="normed_mean", transformer=replace(config.transformer, layers=last))
    if labels is None and config.transformer.norm_place == "post" and not config.transformer.shared_layers:
        return replace(config, pooling="normed_mean")
    return config


def _require_body(config: ModelConfig, source: Source, tensors: Dict[str, Tensor], folder: Path) -> None:
    """Raise CheckpointError unless every weight of the body is there in its shape, before memory is taken for it."""
    shape = config.transformer
    deep = sum(config.backbone.depths) if config.backbone else 0
    for stack in filter(None, (shape, config.decoder)):
        splits = stack.width % (2 * stack.heads if stack.layers else stack.heads) == 0  # into heads of an even width
        if not splits or max(stack.num_blocks, deep) > len(tensors):
            raise CheckpointError(
                f"{folder}: config.json does not fit the weights ({stack.layers} layers, {stack.heads} heads)"
            )
    with torch.device("meta"), Unset():
        embedder = source.embedder(shape.input_width)
        parts: dict[str, torch.nn.Module] = {"transformer": Transformer(shape), f"embedders.{source.kind}": embedder}
        parts |= {"pooled_norm": make_norm(shape)} if config.pooled_norm else {}
        if config.decoder is not None:
            places = {source.kind: source.decoder_positions(config.decoder.width)}
            parts["decoder"] = MAEDecoder(shape.width, config.decoder, places)
        wanted = {f"{part}.{name}": p.shape for part, module in parts.items() for name, p in module.named_parameters()}
    more = [name for name in tensors if name.startswith("decoder.") and name not in wanted]
    if more:
        raise CheckpointError(f"{folder} has weights of a decoder that config.json does not say: {', '.join(more[:5])}")
    for name, size in wanted.items():
        if name not in tensors:
            raise CheckpointError(f"{folder} lacks the weight {name}")
        if tensors[name].shape != size:
            raise CheckpointError(
                f"{folder}: {name} has shape {tuple(tensors[name].shape)}, config.json says {tuple(size)}"
            )
