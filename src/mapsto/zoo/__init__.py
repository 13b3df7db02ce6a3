"""Published model families: translation of their config.json and names of weights to ours and back.

A family is one file here, named after the model_type of its config.json ("-" written as "_"), that defines `family`, a Family.
Nothing else is edited, and no other package knows foreign names. The file's four parts:

- `read(raw)`: the ModelConfig of a config.json. Raises CheckpointError for settings that are not supported, and for numbers
  that are not sound, since the file may come from anywhere.
- `write(config)`: its inverse, `read(write(config)) == config`.
- `fresh(...)`, if new models take this shape.
- `family`: names of weights and the classes of `transformers` they belong to.

Our names of weights: `embedders.KIND`, `transformer.*`, `decoder.*`, `pooler.*`, `classifier.*` (head of a label),
`vocabulary_head.*` (head of hidden text), `patch_head.*` (head of hidden patches), `box_head.*`. docs/adding-a-family.md shows
the steps.
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

# "body", or the kind that a head answers.
Task = str

# Pairs of our module (or weight) and theirs, `{i}` standing for the layer. Several of theirs are concatenated in ours by rows.
# Of two entries for the same module the later one counts, so that a family can replace one of another's.
Names = tuple[tuple[str, str | tuple[str, ...]], ...]

# Sizes in a config.json above this are refused before memory is taken for them.
MAX_SIZE = 2**24

# Published names of activations, and ours.
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
    """One tower of a model with several, such as CLIP's for pictures.

    Weights have the same prefix in a folder of the tower and in one of the full model. A tower with a head is published as
    the full model.
    """

    # model_type of a folder that holds the tower alone.
    model_type: str
    # model_type of a folder that holds the full model.
    full_model_type: str
    # Key in the full model's config.json that holds the tower's configuration.
    config_key: str


@dataclass(frozen=True)
class Family:
    """Translation between a published family and our models."""

    # Class of `transformers` for each task; of several tasks that a model could have the last one counts.
    architectures: Dict[Task, str]
    # Start of the names of body weights in files that have a head; files of a bare body leave it out.
    prefix: str
    # Names of weights for each task.
    weight_names: Dict[Task, Names]
    # The ModelConfig of a config.json, and its inverse.
    read_config: Callable[[Dict[str, Any]], ModelConfig]
    write_config: Callable[[ModelConfig], dict[str, Any]]
    # Their copies of weights that we store once: their name, and ours.
    tied_weights: Dict[str, str]
    # Patterns of weights that no task here uses.
    ignored_weights: tuple[str, ...] = ()
    # Files that folders of this family often lack: name, and what the error says about how to get it.
    required_files: Dict[str, str] = field(default_factory=dict)
    # Kind that the body reads.
    source_kind: str = "text"
    # ModelConfig of a new model of a width, layers, heads and longest example; None: new models do not take this shape.
    new_config: Callable[[int, int, int, int], ModelConfig] | None = None
    # Other names of the same weights, in other libraries or in the memory of `transformers`: pattern, and replacement.
    aliases: tuple[tuple[str, str], ...] = ()
    # Names of the body that differ where its feed-forward part is gated.
    gated_names: Names = ()
    # Weights of ours that they store with leading axes of length 1, and how many of those.
    leading_ones: Dict[str, int] = field(default_factory=dict)
    tower: Tower | None = None
    # Endings of two names: where a weight ends in the first, they store an integer that nothing reads under the second (the
    # batches a batch norm has seen). It is dropped when read, and written as 0.
    step_counter: tuple[str, str] | None = None
    # For a family with a decoder, the family of the same stack without it, possibly the same. A decoder of another shape than
    # the family can express is saved under our names.
    without_decoder: str | None = None


def family_names() -> tuple[str, ...]:
    """Return the model types that can be opened and saved."""
    return tuple(sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__)))


@cache
def get_family(model_type: str) -> Family:
    """Return the family of a model_type. Raises CheckpointError with the supported ones."""
    names = family_names()
    if model_type.replace("_", "-") not in names:
        hint = near(model_type, names)
        raise CheckpointError(f"model_type {model_type!r} is not supported{hint}; supported are: {', '.join(names)}")
    family: Family = importlib.import_module(f"{__name__}.{model_type.replace('-', '_')}").family
    return family


def family_of(config: ModelConfig) -> Family:
    """Return the family of a model, with the names that a model of its shape has."""
    family = get_family(config.family)
    if not config.transformer.gated:
        return family
    body = (*family.weight_names["body"], *family.gated_names)
    return replace(family, weight_names={**family.weight_names, "body": body})


def read_activation(name: object) -> Any:
    """Return our name of a published activation. Raises CheckpointError."""
    if name not in ACTIVATIONS:
        raise CheckpointError(f"activation {name!r} is not supported; supported are: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[str(name)]


def write_activation(name: str) -> str:
    """Return the published name of one of our activations."""
    return next(published for published, activation in ACTIVATIONS.items() if activation == name)


def read_positive_int(raw: Dict[str, Any], name: str, default: int | None = None) -> int:
    """Return a positive integer of a config.json. Raises CheckpointError if it is missing, not one, or too large."""
    value = raw.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= MAX_SIZE:
        raise CheckpointError(f"config.json: {name} must be a whole number from 1 to {MAX_SIZE:,}, not {value!r}")
    return value


def read_fraction(raw: Dict[str, Any], name: str, default: float) -> float:
    """Return a number from 0 to below 1 of a config.json, such as a dropout rate. Raises CheckpointError."""
    value = raw.get(name, default)
    if not isinstance(value, int | float) or not 0 <= value < 1:
        raise CheckpointError(f"config.json: {name} must be from 0 to below 1, not {value!r}")
    return float(value)
