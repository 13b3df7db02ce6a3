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
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from mapsto.errors import CheckpointError, near
from mapsto.mapping import ModelConfig

Task = str
Names = tuple[tuple[str, str | tuple[str, ...]], ...]
LARGEST_NUMBER = 2**24
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}


@dataclass(frozen=True)
class Family:
    """One published family.

    architectures: their class for each task, "body" or the kind that is answered; of several the last one named counts.
    reads: the source kind. prefix: stands before body weights in files with a head. names: our module
    (or weight) ↔ theirs, `{i}` for the layer; several of theirs are laid one below the other in ours. untied: their
    copies of weights that we hold once. ignored: patterns of weights that are no part of any task here. requires: files
    that folders of this family often lack, and what to do then. fresh: the shape of a new model, from its width, layers,
    heads and longest example. renamed: patterns of names that `transformers` has in memory, and what it writes for them.
    undecoded: for a family with a decoder, the one that the same stack is without it.
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
