"""Translate mapsto's names of weights to the names in a published family, and back. A family's file in zoo/ lists both.

Several published weights (such as query, key and value) may be one weight here. They are joined when a checkpoint is read,
and split again when it is saved. Published weights that the family's file does not list are refused. A weight without a
published name is saved under mapsto's name with the prefix `mapsto.`. So a folder holds all weights, and other libraries
still open it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
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
from mapsto.pretrained.foreign_folders import refuse_adapter_weights
from mapsto.task.target_capabilities import has_exclusive_classes
from mapsto.zoo import Family, RowOrder, Task

# The prefix of weights that the family has no name for.
OWN_PREFIX = "mapsto."

# Factor of the attention's output in the mean layer. The residual that is added to it is lost in rounding (fp32).
MEAN_SCALE = 1e6

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def published_task(mapping: Mapping) -> Task:
    """Return the task under which a mapping is saved. It decides which class of `transformers` opens the folder.

    The task is the kind of a target whose head the family publishes, such as "label"; "body" if there is no such target.
    """
    tasks, saves_decoder = zoo.get_family(mapping.config.family).architectures, can_save_decoder(mapping.config)
    ports = zip(mapping.targets, mapping.arrow.targets, strict=True)
    published = {target.kind for target, port in ports if target.head_name and (saves_decoder or port.restores is None)}
    return next((task for task in reversed(list(tasks)) if task in published), "body")


@cache
def classifier() -> str:
    """Return "label", the name of the kind whose answer is exactly one of several classes.

    It is found by this property, so that the kind's name is written only in its own file.
    """
    return next(target.kind for target in kinds.targets() if has_exclusive_classes(target))


def can_save_decoder(config: ModelConfig) -> bool:
    """Return whether the family's published format can store the decoder of this model, with which it restores hidden tokens.

    True if neither the family nor the model has a decoder, or if the family's config.json can describe the model's decoder.
    """
    family, decoder = zoo.get_family(config.family), config.decoder
    if family.without_decoder is None or decoder is None:
        return family.without_decoder is None and decoder is None
    published = family.read_config(family.write_config(config)).decoder
    return published is not None and replace(published, max_positions=decoder.max_positions) == decoder


def all_weights(mapping: Mapping) -> dict[str, Tensor]:
    """Return all weights of a mapping in fp32, by mapsto's names, as they are to be saved.

    Published classifiers read the first token. For a classifier of the normalised mean of all hidden states, a last layer is
    added that writes this mean into every token, so that other libraries give the same answers.
    """
    weights = {weight_name(mapping, name): p.detach().float().cpu() for name, p in mapping.named_parameters()}
    needs_mean = published_task(mapping) == classifier() and mapping.config.pooling == "normed_mean"
    return weights | _mean_layer(mapping.config.transformer) if needs_mean else weights


def weight_name(mapping: Mapping, name: str) -> str:
    """Return the name under which a parameter of a mapping is saved.

    name: the parameter's name in the mapping. In a head it begins with the number of the target port (`heads.0`). For the first
    target of a kind this is replaced by the kind's head name, such as `classifier`.
    """
    if not name.startswith("heads."):
        return name
    _, port, rest = name.split(".", 2)
    kind = mapping.targets[int(port)].kind
    is_first = all(target.kind != kind for target in mapping.targets[: int(port)])
    stem = mapping.targets[int(port)].head_name if is_first else ""
    return f"{stem}.{rest}" if stem else name


def to_published_names(mapping: Mapping, weights: Dict[str, Tensor], transposes: bool = True) -> dict[str, Tensor]:
    """Return {published name: weight}. A weight that is several in the family (query, key, value) is split by rows.

    mapping: the model, which determines family and task. weights: its weights by mapsto's names, or other matrices with as many
    rows, such as LoRA's B.
    transposes: whether matrices that the family stores transposed are transposed; LoRA's are not.
    """
    family, task = zoo.family_of(mapping.config), published_task(mapping)
    num_indices = mapping.config.num_indices + 1
    orders = family.row_orders(mapping.config)
    published_names = _expand_names(family.weight_names["body"], num_indices)
    if task != "body":
        published_names |= _expand_names(family.weight_names[task], num_indices)
    is_bare = task == "body" and family.tower is None  # a body alone is published without the prefix
    tensors: dict[str, Tensor] = {}
    for own_name, weight in weights.items():
        names = published_names.get(own_name, (OWN_PREFIX + own_name,))
        if transposes and own_name.endswith(family.transposed):
            weight = weight.T
        for name, part in zip(names, _split_rows(mapping.config, own_name, weight, len(names)), strict=True):
            # The published weight lacks these leading axes of size 1, or has more of them.
            num_ones = family.leading_ones.get(own_name, 0)
            part = _order_rows(orders, name, part, to_published=True)
            part = part.reshape((1,) * -num_ones + part.shape[max(0, num_ones) :])
            tensors[name.removeprefix(family.prefix) if is_bare else name] = part.contiguous().clone()
    return tensors


def _split_rows(config: ModelConfig, own_name: str, weight: Tensor, count: int) -> Sequence[Tensor]:
    """Return the `count` published parts of a weight, which were concatenated by rows.

    With grouped queries there are fewer rows of keys and of values than of queries; all other parts have equally many.
    """
    if own_name.startswith("transformer.") and ".attention.qkv." in own_name and count == 3:
        stack = config.transformer
        parts: Sequence[Tensor] = torch.split(weight, [stack.query_width, stack.key_width, stack.key_width])
        return parts
    return weight.chunk(count)


def _order_rows(orders: Dict[str, RowOrder], name: str, weight: Tensor, to_published: bool = False) -> Tensor:
    """Return a published weight with its rows in the order of ours, or one of ours in the published order.

    orders: from `Family.row_orders`. name: the published name; without an order for it the weight is returned as it is.
    """
    find_order = next((order for pattern, order in orders.items() if re.match(pattern, name)), None)
    if find_order is None:
        return weight
    order = find_order(torch.arange(len(weight)))
    return weight.index_select(0, (order.argsort() if to_published else order).to(weight.device))


def to_mapsto_names(
    config: ModelConfig,
    published: Dict[str, Tensor],
    num_indices: int,
    folder: Path,
    notes: list[str],
    architecture: object = None,
) -> dict[str, Tensor]:
    """Return the weights of a checkpoint in fp32, by mapsto's names.

    Published weights that are one weight in mapsto, such as those of query, key and value, are concatenated.

    config: shape of the model, which determines family and order of rows.
    published: weights by published name. num_indices: one more than the highest layer number in the names.
    folder: the folder to name in error messages. notes: gets a message if weights of another task are left out.
    architecture: the class of `transformers` that the checkpoint names; heads of several classes share names of weights.

    Raises CheckpointError for a weight that the family does not have, for one that is not floating point, and if only some of
    the weights to concatenate are there.
    """
    refuse_adapter_weights(folder, published)
    family = zoo.family_of(config)
    orders = family.row_orders(config)
    remaining = _normalise_names(family, _without_shared_prefix(family, published, num_indices, notes))
    _require_finite(family, remaining, folder)
    weights = {
        key.removeprefix(OWN_PREFIX): remaining.pop(key) for key in list(remaining) if key.startswith(OWN_PREFIX)
    }
    for task in _tasks_in_order(family, remaining, architecture):
        for own_name, names in _expand_names(family.weight_names[task], num_indices).items():
            parts = [_order_rows(orders, name, remaining.pop(name)) for name in names if name in remaining]
            if parts and len(parts) != len(names):
                raise CheckpointError(f"{folder} has only {len(parts)} of the weights {', '.join(names)}")
            if parts:
                weight = torch.cat(parts) if len(parts) > 1 else parts[0]
                weight = weight.T if own_name.endswith(family.transposed) else weight
                num_ones = family.leading_ones.get(own_name, 0)
                weights[own_name] = weight.flatten(0, -num_ones) if num_ones < 0 else weight[(None,) * num_ones]
    # Tied weights are stored once here, so a published copy must be equal, unless the family can have two tables.
    for copy, own_name in family.tied_weights.items():
        tensor = remaining.pop(copy, None)
        if tensor is not None and not torch.equal(weights.setdefault(own_name, tensor), tensor):
            if copy not in family.untied_weights:
                raise CheckpointError(f"{folder}: {copy} is not tied to the embeddings, which is not supported")
            weights[family.untied_weights[copy]] = tensor
    _refuse_unknown(family, remaining, folder, notes)
    for name, tensor in weights.items():
        if tensor.dtype not in FLOATS:
            raise CheckpointError(f"{folder}: {name} is {tensor.dtype}; only floating-point weights are supported")
    return {name: tensor.float() for name, tensor in weights.items()}


def _without_shared_prefix(
    family: Family, published: Dict[str, Tensor], num_indices: int, notes: list[str]
) -> Dict[str, Tensor]:
    """Return the weights without the parts in front of all names that a wrapper adds, such as `module.` or `_orig_mod.`.

    A part is taken off only where the family knows more of the names without it; `notes` gets a message about this.
    """
    names = [name for task in family.weight_names.values() for name in _expand_names(task, num_indices).values()]
    known_names = {name for group in names for name in group}

    def count_known(tensors: Dict[str, Tensor]) -> int:
        return len(known_names & _normalise_names(family, tensors).keys())

    shared, prefix, best = "", "", published
    tensors, most_known = published, count_known(published)
    while len(parts := {name.partition(".")[0] for name in tensors}) == 1 and all("." in name for name in tensors):
        (part,) = parts
        tensors = {name.removeprefix(f"{part}."): tensor for name, tensor in tensors.items()}
        shared += f"{part}."
        if (num_known := count_known(tensors)) > most_known:
            prefix, best, most_known = shared, tensors, num_known
    if prefix:
        notes.append(f"all weights were named {prefix}…; the names were read without it")
    return best


def _require_finite(family: Family, published: Dict[str, Tensor], folder: Path) -> None:
    """Raise CheckpointError, which names the weight, if a weight has a number that is not finite (in fp32).

    A sum is not finite if one of its terms is not, and takes a fraction of the time of looking at each number.
    """
    for name, tensor in published.items():
        # Weights on the meta device, of an exported file, have no numbers.
        if tensor.is_meta or not tensor.is_floating_point() or torch.isfinite(tensor.sum(dtype=torch.float32)):
            continue
        is_finite = torch.isfinite(tensor.float())
        if not is_finite.all() and not any(re.match(pattern, name) for pattern in family.ignored_weights):
            count = int((~is_finite).sum())
            raise CheckpointError(
                f"{folder}: the weight {name} has {count:,} of {tensor.numel():,} numbers that are not finite (nan or inf): "
                "the training that wrote it had failed; use an earlier checkpoint"
            )


def _normalise_names(family: Family, published: Dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a checkpoint by the names that the family's file lists: current names, with the family's prefix.

    published: weights by their names in the checkpoint. Step counters of batch norms, which are no weights, are left out.
    """
    tensors = {_modern_name(key, family): tensor for key, tensor in published.items()}
    if family.step_counter:
        tensors = {key: tensor for key, tensor in tensors.items() if not key.endswith(family.step_counter[1])}
    if any(key.startswith(family.prefix) for key in tensors):
        return tensors
    # A body alone is published without the prefix.
    without_prefix = (OWN_PREFIX, *(f"{name.split('.')[0]}." for name in _head_names(family)))
    return {key if key.startswith(without_prefix) else family.prefix + key: t for key, t in tensors.items()}


def _modern_name(key: str, family: Family) -> str:
    """Return the name in the family's file for the name `key` of a published weight, which may be an old one or an alias.

    The first BERTs call the weight of a norm `gamma` and its bias `beta`. The family's file lists its aliases.
    """
    if key.startswith(OWN_PREFIX):
        return key
    for pattern, name in ((r"\.gamma$", ".weight"), (r"\.beta$", ".bias"), *family.aliases):
        key = re.sub(pattern, name, key)
    return key


def _tasks_in_order(family: Family, tensors: Dict[str, Tensor], architecture: object) -> list[Task]:
    """Return the tasks, "body" and kinds of heads, in the order in which their weights are looked for among `tensors`.

    Several heads may share published names, and the first that is looked for takes the weights. It is the head of the class that
    the checkpoint names, or else the classifier, if the checkpoint has it.
    tensors: weights of the checkpoint by published names. architecture: the class of `transformers` that it names.
    """
    tasks = list(family.weight_names)
    named = next((task for task, name in family.architectures.items() if name == architecture and task != "body"), None)
    preferred = named or classifier()
    last_entry = _expand_names(family.weight_names.get(preferred, ())[-1:], 1)
    if any(name in tensors for names in last_entry.values() for name in names):
        tasks.sort(key=lambda task: task != preferred)
    return tasks


def _refuse_unknown(family: Family, remaining: Dict[str, Tensor], folder: Path, notes: list[str]) -> None:
    """Raise CheckpointError if one of the remaining weights belongs to the body of the model; else add a message to `notes`.

    remaining: weights by published names that the family's file does not list. Those outside the body are of another task.
    folder: the folder to name in the error message.
    """
    unknown = [key for key in remaining if not any(re.match(pattern, key) for pattern in family.ignored_weights)]
    body_names = [name for _, names in family.weight_names["body"] for name in _as_tuple(names)]
    body = tuple(f"{name.split('.')[0]}." for name in body_names)
    other_task = [key for key in unknown if not key.startswith(body)]
    if len(other_task) < len(unknown):
        in_body = [key for key in unknown if key not in other_task]
        raise CheckpointError(f"{folder} has weights that this family does not know: {', '.join(in_body[:5])}")
    if other_task:
        names = ", ".join(sorted(other_task)[:5])
        notes.append(f"weights of another task were left out ({len(other_task)} in all): {names}")


def _head_names(family: Family) -> list[str]:
    """Return the published names of head weights without the family's prefix, and of copies of tied weights."""
    entries = [entry for task, names in family.weight_names.items() if task != "body" for entry in names]
    names = [name for _, published in entries for name in _as_tuple(published)]
    return [*(name for name in names if not name.startswith(family.prefix)), *family.tied_weights]


def _expand_names(entries: Iterable[tuple[str, str | tuple[str, ...]]], num_indices: int) -> dict[str, tuple[str, ...]]:
    """Return {mapsto's name: published names} of single weights, from entries for modules and layers of any number.

    entries: pairs (mapsto's name, published name or names), in which {i} stands for the number of a layer. Each is written out
        for the numbers from 0 to num_indices − 1, and with the suffixes ".weight" and ".bias" and without a suffix.
    """
    expanded: dict[str, tuple[str, ...]] = {}
    for own_name, published in entries:
        for i in range(num_indices) if "{i}" in own_name else [0]:
            weight = own_name.replace("{i}", str(i))
            names = tuple(name.replace("{i}", str(i)) for name in _as_tuple(published))
            # An entry may name a module or a weight, so all suffixes are tried; names that do not exist do no harm.
            for suffix in ("",) if own_name.endswith(".bias") else (".weight", ".bias", ""):
                expanded[weight + suffix] = tuple(name + suffix for name in names)
    return expanded


def _as_tuple(names: str | tuple[str, ...]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names


def _mean_layer(shape: TransformerConfig) -> dict[str, Tensor]:
    """Return the weights of one more post-norm layer, whose output at every token is the normalised mean of all tokens' states.

    Queries and keys are zero, so attention averages the values. The average is scaled up so far that the residual added to it
    vanishes in rounding, and the norm undoes the scale. The feed-forward part adds zero. So a published classifier, which reads
    the first token, reads the mean.
    """
    d, prefix = shape.width, f"transformer.blocks.{shape.layers}."
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
    return {prefix + name: tensor for name, tensor in layer.items()}
