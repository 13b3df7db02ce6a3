"""Published model families: translation of their config.json and names of weights to ours and back.

A family is one file here, named after the model_type of its config.json ("-" written as "_"), that defines `family`, a
Family. Nothing else is edited to add one, and no other package knows published names. The file has up to four parts:

- `read(raw)`: returns the ModelConfig that a config.json describes. Raises CheckpointError for settings that are not
supported and for numbers that make no sense, since the file may come from anywhere.
- `write(config)`: the inverse, `read(write(config)) == config`.
- `fresh(...)`: returns the ModelConfig of a new model, if new models take this family's shape.
- `family`: names of weights, and the classes of `transformers` that they belong to.

Our names of weights: `embedders.KIND`, `transformer.*`, `decoder.*`, `pooler.*`, `classifier.*` (head of a label),
`vocabulary_head.*` (head of hidden text), `patch_head.*` (head of hidden patches), `box_head.*`. docs/adding-a-family.md
shows the steps.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Callable
from collections.abc import Mapping as Dict
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from torch import Tensor

from mapsto.errors import CheckpointError, near
from mapsto.model.config import ModelConfig

# "body", or the kind that a head answers.
Task = str

# Pairs (our name, published name) of a module or weight; `{i}` stands for the number of the layer. If there are several published
# names, our weight is the concatenation of theirs by rows. Of two entries for the same module the later one counts, so that a
# family can reuse another family's entries and replace some.
Names = tuple[tuple[str, str | tuple[str, ...]], ...]

# Sizes above this in a config.json are refused before memory is allocated for them.
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


# Function from the numbers of published rows, (n,) from 0 on, to the published row of each of our rows, (n,).
RowOrder = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Tower:
    """The encoder of one kind of value (a tower) in a published model with several encoders, such as CLIP's for pictures.

    Folders may hold the tower alone or the full model; the tower's weights have the same prefix in both. A tower with a head
    is published as a full model.
    """

    # model_type of a folder that holds the tower alone.
    model_type: str
    # model_type of a folder that holds the full model.
    full_model_type: str
    # Key in the full model's config.json that holds the tower's configuration.
    config_key: str


@dataclass(frozen=True)
class Family:
    """Translation of config.json and names of weights between a published family and our models."""

    # Class of `transformers` for each task. A model with heads for several of these tasks is saved as the last of them.
    architectures: Dict[Task, str]
    # Prefix of the names of body weights in files that also have a head. Files without a head leave it out.
    prefix: str
    # Names of weights for each task.
    weight_names: Dict[Task, Names]
    # Function from a parsed config.json to a ModelConfig, and its inverse.
    read_config: Callable[[Dict[str, Any]], ModelConfig]
    write_config: Callable[[ModelConfig], dict[str, Any]]
    # Published copies of weights that we store once: name of the copy → our name of the weight.
    tied_weights: Dict[str, str]
    # Published copies that are weights of their own in some models → our name of such a weight.
    untied_weights: Dict[str, str] = field(default_factory=dict)
    # Ends of our names of matrices whose published ones are transposed.
    transposed: tuple[str, ...] = ()
    # Regular expressions for published weights that no task here uses.
    ignored_weights: tuple[str, ...] = ()
    # Files that folders of this family often lack: name → part of the error message that says how to get the file.
    required_files: Dict[str, str] = field(default_factory=dict)
    # Kind of value that the body reads.
    source_kind: str = "text"
    # Kind of value that the decoder writes, if it is another one.
    answer_kind: str | None = None
    # Whether the model is linear: its source is the kind's source of classical features, not that of tokens.
    linear: bool = False
    # Function from width, layers, heads and maximum number of tokens to the ModelConfig of a new model; None: new models do not
    # take this shape.
    new_config: Callable[[int, int, int, int], ModelConfig] | None = None
    # Other published names of the same weights, in other libraries or in models of `transformers`: regular expression, and its
    # replacement.
    aliases: tuple[tuple[str, str], ...] = ()
    # Names of the body that differ if its feed-forward part is gated.
    gated_names: Names = ()
    # Names of the body that depend on where the norms of a layer stand, by TransformerConfig.norm_place.
    norm_names: Dict[str, Names] = field(default_factory=dict)
    # Function from a parsed config.json to whether its classifier is one that we compute; if not, the classifier is left out.
    reads_classifier: Callable[[Dict[str, Any]], bool] = lambda raw: True
    # Of a kind with several sources, the name of the one that reads the family's values; None for the kind's own.
    source_variant: str | None = None
    # Our weights that have leading axes of size 1 which the published ones lack → the number of these axes; negative if the
    # published ones have them.
    leading_ones: Dict[str, int] = field(default_factory=dict)
    tower: Tower | None = None
    # Function from a ModelConfig to the order of published weights whose rows ours have in another order: regular expression for
    # their names → RowOrder.
    row_orders: Callable[[ModelConfig], Dict[str, RowOrder]] = lambda config: {}
    # Suffixes of two names: for each weight with the first one, published files have an integer with the second one, the number
    # of batches that a batch norm has seen. Nothing uses it, so it is dropped when read, and written as 0.
    step_counter: tuple[str, str] | None = None
    # Class of `transformers` for the encoder of an encoder–decoder alone.
    encoder_architecture: str | None = None
    # For a family with a decoder of hidden tokens: name of the family of the same model without decoder, possibly the same
    # family. A decoder whose shape the family cannot express is saved under our names.
    without_decoder: str | None = None

    @property
    def has_answer_decoder(self) -> bool:
        """Return whether published models of the family are encoder–decoders."""
        return self.encoder_architecture is not None or self.answer_kind is not None


def family_names() -> tuple[str, ...]:
    """Return the supported model types, sorted, as config.json writes them."""
    return tuple(sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__)))


@cache
def get_family(model_type: str) -> Family:
    """Return the Family of a model_type. Raises CheckpointError if it is not supported; the message lists those that are."""
    names = family_names()
    if model_type.replace("_", "-") not in names:
        hint = near(model_type, names)
        raise CheckpointError(f"model_type {model_type!r} is not supported{hint}; supported are: {', '.join(names)}")
    family: Family = importlib.import_module(f"{__name__}.{model_type.replace('-', '_')}").family
    return family


def family_of(config: ModelConfig) -> Family:
    """Return the Family of a model, with the names of the weights that this model has of those that vary within a family.

    A gated model's names of the feed-forward weights replace those of the ungated one. Output weights over the vocabulary that
    are not tied to the embeddings get their own names.
    """
    family, head = get_family(config.family), config.vocabulary_head
    if head is not None and head.head_weight:
        own_names = tuple((own_name, copy) for copy, own_name in family.untied_weights.items())
        names = {**family.weight_names, "text": (*family.weight_names["text"], *own_names)}
        tied = {copy: name for copy, name in family.tied_weights.items() if copy not in family.untied_weights}
        family = replace(family, weight_names=names, tied_weights=tied)
    gated_names = family.gated_names if config.transformer.gated else ()
    # Later entries replace earlier ones, so the gated names come last.
    body = (*family.weight_names["body"], *family.norm_names.get(config.transformer.norm_place, ()), *gated_names)
    return replace(family, weight_names={**family.weight_names, "body": body})


def read_activation(name: object) -> Any:
    """Return our name of an activation, such as "gelu_tanh", given the published one. Raises CheckpointError if it is unknown."""
    if name not in ACTIVATIONS:
        raise CheckpointError(f"activation {name!r} is not supported; supported are: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[str(name)]


def write_activation(name: str) -> str:
    """Return the published name of an activation, such as "gelu_new", given our name.

    Of several published names it is the first one in ACTIVATIONS.
    """
    # Several published names mean the same function; the first one is written.
    return next(published for published, activation in ACTIVATIONS.items() if activation == name)


def read_positive_int(raw: Dict[str, Any], name: str, default: int | None = None) -> int:
    """Return the setting `name` of a config.json, which must be a positive integer.

    raw: the parsed config.json. default: value of a missing setting; None if the setting must not be missing.
    Raises CheckpointError if it is no positive integer, too large (above MAX_SIZE), or missing without a default.
    """
    value = raw.get(name, default)
    # In Python True is an integer too.
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= MAX_SIZE:
        raise CheckpointError(f"config.json: {name} must be a whole number from 1 to {MAX_SIZE:,}, not {value!r}")
    return value


def read_positive_number(raw: Dict[str, Any], name: str, default: float | None = None) -> float:
    """Return the setting `name` of a config.json, which must be a finite number above 0, such as the base of rotary angles.

    raw: the parsed config.json. default: value of a missing setting; None if the setting must not be missing.
    Raises CheckpointError for other values.
    """
    value = raw.get(name, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
        raise CheckpointError(f"config.json: {name} must be a number above 0, not {value!r}")
    return float(value)


def read_fraction(raw: Dict[str, Any], name: str, default: float) -> float:
    """Return the setting `name` of a config.json, which must be a number in [0, 1), such as a dropout rate.

    raw: the parsed config.json. default: value of a missing setting. Raises CheckpointError for other values.
    """
    value = raw.get(name, default)
    if not isinstance(value, int | float) or not 0 <= value < 1:
        raise CheckpointError(f"config.json: {name} must be from 0 to below 1, not {value!r}")
    return float(value)
