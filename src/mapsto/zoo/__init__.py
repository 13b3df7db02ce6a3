"""Published families: their configuration and names of weights ↔ ours. The file name is the model_type ("-" or "_" as "_").

A family is one file here that defines `family`, a Family. Foreign names stop at this door. Names on our side:
embedders.KIND, transformer.*, decoder.*, pooler.*, classifier.* (of a label), vocabulary_head.* (of hidden text), patch_head.*
(of hidden patches).
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from collections.abc import Mapping as Dict
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from mapsto.errors import CheckpointError, near
from mapsto.model.config import ModelConfig

Task = str


Names = tuple[tuple[str, str | tuple[str, ...]], ...]  # of two entries for the same, the later one counts


LARGEST_NUMBER = 2**24


ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}


@dataclass(frozen=True)
class Tower:
    """One tower of a model of several: its own model_type, that of the whole, and the key under which the config.json of the
    whole holds the tower's. Weights keep their prefix in both. What has a head is published as the whole."""

    own: str
    whole: str
    key: str


@dataclass(frozen=True)
class Family:
    """One published family.

    architectures: their class for each task, "body" or the kind that is answered; of several the last one named counts.
    reads: the source kind. prefix: stands before body weights in files with a head. names: our module
    (or weight) ↔ theirs, `{i}` for the layer; several of theirs are laid one below the other in ours. untied: their
    copies of weights that we hold once. ignored: patterns of weights that are no part of any task here. requires: files
    that folders of this family often lack, and what to do then. fresh: the shape of a new model, from its width, layers,
    heads and longest example. renamed: patterns of names that others give, or that `transformers` has in
    memory, and what it writes for them. gated: names of the body where its feed-forward part is gated, where those are others.
    flat: our weights that they hold without leading axes of length one, and how many of these. tower: where the family is one
    tower of a larger model. counter: how names end of weights beside which a whole number stands that nothing reads, and how
    the name of that ends; it is left out, and written as 0. undecoded: for a family with a decoder, the one that the same stack
    is without it, which may be itself; where a decoder is of another shape, its weights keep our names.
    """

    architectures: Dict[Task, str]
    prefix: str
    names: Dict[Task, Names]
    read: Callable[[Dict[str, Any]], ModelConfig]
    write: Callable[[ModelConfig], dict[str, Any]]
    untied: Dict[str, str]
    ignored: tuple[str, ...] = ()
    requires: Dict[str, str] = field(default_factory=dict)
    reads: str = "text"
    fresh: Callable[[int, int, int, int], ModelConfig] | None = None
    renamed: tuple[tuple[str, str], ...] = ()
    gated: Names = ()
    flat: Dict[str, int] = field(default_factory=dict)
    tower: Tower | None = None
    counter: tuple[str, str] | None = None
    undecoded: str | None = None


def families() -> tuple[str, ...]:
    """The model types that can be opened and saved."""
    return tuple(sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__)))


@cache
def family(name: str) -> Family:
    """The family of a model_type. Raises CheckpointError naming the supported ones."""
    if name.replace("_", "-") not in families():
        hint = near(name, families())
        raise CheckpointError(f"model_type {name!r} is not supported{hint}; supported are: {', '.join(families())}")
    found: Family = importlib.import_module(f"{__name__}.{name.replace('-', '_')}").family
    return found


def of(config: ModelConfig) -> Family:
    """The family of a model, with the names that its shape has."""
    found = family(config.family)
    if not config.transformer.gated:
        return found
    return replace(found, names={**found.names, "body": (*found.names["body"], *found.gated)})


def activation(name: object) -> Any:
    """Our name of an activation. Raises CheckpointError."""
    if name not in ACTIVATIONS:
        raise CheckpointError(f"activation {name!r} is not supported; supported are: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[str(name)]


def whole(raw: Dict[str, Any], name: str, default: int | None = None) -> int:
    """A positive whole number out of a config. Raises CheckpointError."""
    value = raw.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= LARGEST_NUMBER:
        raise CheckpointError(f"config.json: {name} must be a whole number from 1 to {LARGEST_NUMBER:,}, not {value!r}")
    return value


def share(raw: Dict[str, Any], name: str, default: float) -> float:
    """A share from 0 to below 1 out of a config. Raises CheckpointError."""
    value = raw.get(name, default)
    if not isinstance(value, int | float) or not 0 <= value < 1:
        raise CheckpointError(f"config.json: {name} must be from 0 to below 1, not {value!r}")
    return float(value)
