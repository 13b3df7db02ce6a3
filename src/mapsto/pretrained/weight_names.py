"""Weight names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from collections.abc import Mapping as Dict
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from mapsto import kinds, zoo
from mapsto.errors import CheckpointError
from mapsto.model.config import ModelConfig, TransformerConfig
from mapsto.model.mapping import Mapping
from mapsto.task.capabilities import Reconstruction, has_exclusive_classes
from mapsto.zoo import Family, Task

OWN_PREFIX = "mapsto."


MEAN_SCALE = 1e6


FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def published_task(mapping: Mapping) -> Task:
    """The task as which the family publishes such a mapping."""
    tasks, alike = zoo.get_family(mapping.config.family).architectures, can_save_decoder(mapping.config)
    ports = zip(mapping.targets, mapping.arrow.targets, strict=True)
    answered = {target.kind for target, port in ports if target.head_name and (alike or port.restores is None)}
    return next((task for task in reversed(list(tasks)) if task in answered), "body")


@cache
def classifier() -> str:
    """Return the kind that published classifiers answer: one out of several classes."""
    return next(target.kind for target in kinds.targets() if has_exclusive_classes(target))


def can_save_decoder(config: ModelConfig) -> bool:
    """Whether the family puts hidden tokens back as this model does: by a decoder that its config.json can say, or by none."""
    chosen, found = zoo.get_family(config.family), config.decoder
    if chosen.without_decoder is None or found is None:
        return chosen.without_decoder is None and found is None
    said = chosen.read_config(chosen.write_config(config)).decoder
    return said is not None and replace(said, max_positions=found.max_positions) == found


def all_weights(mapping: Mapping) -> dict[str, Tensor]:
    """All weights that a folder holds, in fp32 under our names: with the layer that takes the mean, where one is needed."""
    held = {weight_name(mapping, name): p.detach().float().cpu() for name, p in mapping.named_parameters()}
    mean = published_task(mapping) == classifier() and mapping.config.pooling == "normed_mean"
    return held | _mean_layer(mapping.config.transformer) if mean else held


def to_published_names(mapping: Mapping, held: Dict[str, Tensor]) -> dict[str, Tensor]:
    """Some of these weights under the names of the family; what is fused in ours is split by rows."""
    return _named(zoo.family_of(mapping.config), held, published_task(mapping), mapping.config.num_indices + 1)


def weight_name(mapping: Mapping, name: str) -> str:
    """The name in a start of a weight of the mapping: the first head of a kind stands without its port number."""
    if not name.startswith("heads."):
        return name
    _, port, rest = name.split(".", 2)
    kind = mapping.targets[int(port)].kind
    first = all(target.kind != kind for target in mapping.targets[: int(port)])
    stem = mapping.targets[int(port)].head_name if first else ""
    return f"{stem}.{rest}" if stem else name


def _expanded(names: Iterable[tuple[str, str | tuple[str, ...]]], layers: int) -> dict[str, tuple[str, ...]]:
    """Our weight → theirs, every layer and both suffixes written out."""
    found: dict[str, tuple[str, ...]] = {}
    for ours, theirs in names:
        parts = _parts(theirs)
        for i in range(layers) if "{i}" in ours else [0]:
            bare = ours.replace("{i}", str(i)), tuple(part.replace("{i}", str(i)) for part in parts)
            for suffix in ("",) if ours.endswith(".bias") else (".weight", ".bias", ""):
                found[bare[0] + suffix] = tuple(part + suffix for part in bare[1])
    return found


def _parts(theirs: str | tuple[str, ...]) -> tuple[str, ...]:
    return (theirs,) if isinstance(theirs, str) else theirs


def to_mapsto_names(
    chosen: Family, given: Dict[str, Tensor], layers: int, folder: Path, notes: list[str]
) -> dict[str, Tensor]:
    """A file's weights under our names, in fp32. Raises CheckpointError for weights that nobody expects."""
    left = {_modern_name(key, chosen): tensor for key, tensor in given.items()}
    if chosen.step_counter:
        left = {key: tensor for key, tensor in left.items() if not key.endswith(chosen.step_counter[1])}
    if not any(key.startswith(chosen.prefix) for key in left):
        heads = tuple(name.split(".")[0] + "." for name in _head_names(chosen))
        left = {
            key if key.startswith((OWN_PREFIX, *heads)) else chosen.prefix + key: tensor for key, tensor in left.items()
        }
    head = _expanded(chosen.weight_names.get(classifier(), ())[-1:], 1)
    has_classifier = any(name in left for names in head.values() for name in names)
    tasks = [task for task in chosen.weight_names if not (has_classifier and _yields_to_classifier(task))]
    found: dict[str, Tensor] = {
        key.removeprefix(OWN_PREFIX): left.pop(key) for key in list(left) if key.startswith(OWN_PREFIX)
    }
    for task in tasks:
        for ours, theirs in _expanded(chosen.weight_names[task], layers).items():
            parts = [left.pop(name) for name in theirs if name in left]
            if parts and len(parts) != len(theirs):
                raise CheckpointError(f"{folder} has only {len(parts)} of the weights {', '.join(theirs)}")
            if parts:
                whole = torch.cat(parts) if len(parts) > 1 else parts[0]
                found[ours] = whole[(None,) * chosen.leading_ones.get(ours, 0)]
    for copy, ours in chosen.tied_weights.items():
        tensor = left.pop(copy, None)
        if tensor is not None and not torch.equal(found.setdefault(ours, tensor), tensor):
            raise CheckpointError(f"{folder}: {copy} is not tied to the embeddings, which is not supported")
    unknown = [key for key in left if not any(re.match(pattern, key) for pattern in chosen.ignored_weights)]
    body = tuple(f"{name.split('.')[0]}." for _, theirs in chosen.weight_names["body"] for name in _parts(theirs))
    other_task = [key for key in unknown if not key.startswith(body)]
    if len(other_task) < len(unknown):
        strange = [key for key in unknown if key not in other_task]
        raise CheckpointError(f"{folder} has weights that this family does not know: {', '.join(strange[:5])}")
    if other_task:
        names = ", ".join(sorted(other_task)[:5])
        notes.append(f"weights of another task were left out ({len(other_task)} in all): {names}")
    for name, tensor in found.items():
        if tensor.dtype not in FLOATS:
            raise CheckpointError(f"{folder}: {name} is {tensor.dtype}; only floating-point weights are supported")
    return {name: tensor.float() for name, tensor in found.items()}


def _yields_to_classifier(task: Task) -> bool:
    """Return whether weights that both this task's head and a classifier could have are the classifier's."""
    target = None if task == "body" else kinds.target(task, restored=True)
    return target is not None and issubclass(target, Reconstruction) and target.yields_to_classifier


def _head_names(chosen: Family) -> list[str]:
    """Their names outside the body."""
    names = [name for task, named in chosen.weight_names.items() if task != "body" for name in named]
    flat = [part for _, theirs in names for part in _parts(theirs)]
    return [*(name for name in flat if not name.startswith(chosen.prefix)), *chosen.tied_weights]


def _modern_name(key: str, chosen: Family) -> str:
    """Norms of the first published BERTs have a gamma and a beta; a family may have names of its own, but for what is ours."""
    if key.startswith(OWN_PREFIX):
        return key
    for pattern, name in ((r"\.gamma$", ".weight"), (r"\.beta$", ".bias"), *chosen.aliases):
        key = re.sub(pattern, name, key)
    return key


def _named(chosen: Family, held: Dict[str, Tensor], task: Task, layers: int) -> dict[str, Tensor]:
    """Our weights under their names; what they have no place for keeps ours behind `mapsto.`."""
    names = {
        **_expanded(chosen.weight_names["body"], layers),
        **(_expanded(chosen.weight_names[task], layers) if task != "body" else {}),
    }
    found: dict[str, Tensor] = {}
    for ours, tensor in held.items():
        theirs = names.get(ours, (OWN_PREFIX + ours,))
        for name, part in zip(theirs, tensor.chunk(len(theirs)), strict=True):
            bare = task == "body" and chosen.tower is None
            part = part.reshape(part.shape[chosen.leading_ones.get(ours, 0) :])
            found[name.removeprefix(chosen.prefix) if bare else name] = part.contiguous().clone()
    return found


def _mean_layer(shape: TransformerConfig) -> dict[str, Tensor]:
    """One more post-norm layer after which every token is the normalised mean of all.

    Attention is uniform (zero queries and keys), its values pass through at a scale beside which the residual is nothing,
    the norm undoes the scale, and the feed-forward part adds zero. So classes that read the first token read the mean.
    """
    d, at = shape.width, f"transformer.blocks.{shape.layers}."
    identity, zero = torch.eye(d), torch.zeros
    layer = {
        "attention.qkv.weight": torch.cat([zero(2 * d, d), identity]),
        "attention.qkv.bias": zero(3 * d),
        "attention.out.weight": MEAN_SCALE * identity,
        "attention.out.bias": zero(d),
        "attention_norm.weight": torch.ones(d),
        "attention_norm.bias": zero(d),
        "feed.up.weight": zero(shape.feed_forward_width, d),
        "feed.up.bias": zero(shape.feed_forward_width),
        "feed.down.weight": zero(d, shape.feed_forward_width),
        "feed.down.bias": zero(d),
        "feed_norm.weight": torch.ones(d),
        "feed_norm.bias": zero(d),
    }
    return {at + name: tensor for name, tensor in layer.items()}
