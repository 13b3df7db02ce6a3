"""The inputs and outputs of an exported graph by name: the tensors of a packed batch, and what the model computes from them.

A model that writes its answers token by token has two graphs in its file: one reads the sources, the other one computes a step of
the answers. The names are part of the file format (docs/exporting.md lists them). All integers but the bytes of pixels are int64,
so that every runtime can make them.
Legend of shapes: r rows, l row length, t tokens of a kind, n examples, m tokens or points that are read, a axes, d width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping as Dict
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mapsto.model.mapping import Mapping
from mapsto.sequence.batch import Batch, Example, PackedAnswers
from mapsto.task.generation import Generated

# The fields of a batch that have one value for each token or example; see `Batch`.
LAYOUT = ("segments", "roles", "places", "positions", "owner", "starts", "lengths")
# Outputs that are not those of a head: hidden states (r, l, d), the vector of each example as `embed` gives it (n, d), and the
# one that its familiarity with the training rows is measured by (n, d).
HIDDEN, VECTOR, FAMILIARITY = "hidden_states", "embedding_vector", "familiarity_vector"

# Of a model that writes its answers: the input that chooses the graph, true for a step (`StepInputs`), and the outputs that both
# graphs have: keys and values (m, r, l, h, e) of the tokens that they read, in all m layers. In a step each answer is a row.
IS_STEP, KEYS, VALUES = "is_step", "keys", "values"

Array = NDArray[Any]
# What the inputs of a step are: tensors, or arrays.
Values = TypeVar("Values")


@dataclass(frozen=True)
class StepInputs(Generic[Values]):
    """The inputs of a step of k answers to each of n examples, by their names in the graph.

    step_tokens: (n, k), the last token of each answer. past_lengths: (n, k), the number of tokens before it.
    past_keys, past_values: (m, n, k, h, c, e), of these, in all m layers.
    memory_lengths: (n,), of an encoder–decoder the number of source tokens; else None, as the two below.
    memory_keys, memory_values: (m, n, h, s, e), of the source tokens.
    """

    step_tokens: Values
    past_lengths: Values
    past_keys: Values
    past_values: Values
    memory_lengths: Values | None = None
    memory_keys: Values | None = None
    memory_values: Values | None = None

    def named(self) -> dict[str, Values]:
        """Return the inputs that there are, by name."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


def head_names(mapping: Mapping) -> dict[int, str]:
    """Return {number of the target port: output name of its head}: its kind, with a number if several ports have that kind."""
    kinds = [target.kind for target in mapping.targets]
    repeated = {kind for kind, count in Counter(kinds).items() if count > 1}
    names = {port: f"{kind}_{port}" if kind in repeated else kind for port, kind in enumerate(kinds)}
    # A matching arrow compares vectors, which no head reads.
    return {} if mapping.arrow.symmetric else names


def writes_answers(mapping: Mapping) -> bool:
    """Return whether a mapping writes its answers token by token, so that its file has two graphs."""
    return any(isinstance(target, Generated) for target in mapping.targets)


def output_names(mapping: Mapping) -> list[str]:
    """Return the names of the outputs of a mapping's graph, in order."""
    kept = [KEYS, VALUES] if writes_answers(mapping) else []
    has_familiarity = mapping.familiarity is not None
    return [*head_names(mapping).values(), *kept, VECTOR, *([FAMILIARITY] if has_familiarity else []), HIDDEN]


def source_examples(mapping: Mapping, examples: Sequence[Example]) -> list[Example]:
    """Return examples as the graph takes them that reads the sources: in an encoder–decoder without tokens of answers."""
    return [replace(example, answers=()) for example in examples] if mapping.config.answer_decoder else list(examples)


def batch_inputs(mapping: Mapping, batch: Batch) -> dict[str, Tensor]:
    """Return the inputs of a mapping's graph for a batch, by name.

    They are `KIND_tokens` and `KIND_slots` of each kind in the batch, the LAYOUT, and for each target that is read at tokens
    `OUTPUT_places` (m,), or (m, k) with `OUTPUT_shares` for points between k tokens.
    """
    inputs: dict[str, Tensor] = {}
    for kind in sorted(batch.tokens):
        inputs |= {f"{kind}_tokens": batch.tokens[kind], f"{kind}_slots": batch.slots[kind]}
    inputs |= {name: getattr(batch, name) for name in LAYOUT}
    for port, name in head_names(mapping).items():
        answers = batch.answers[port] if batch.answers else None
        if answers is not None and answers.at is not None:
            inputs[f"{name}_places"] = answers.at
            if answers.shares is not None:
                inputs[f"{name}_shares"] = answers.shares.float()
    # Pixels stay bytes.
    is_kept = {name: tensor.is_floating_point() or tensor.dtype == torch.uint8 for name, tensor in inputs.items()}
    return {name: tensor if is_kept[name] else tensor.long() for name, tensor in inputs.items()}


def inputs_batch(mapping: Mapping, inputs: Dict[str, Tensor]) -> Batch:
    """Return the batch from whose tensors `batch_inputs` made these inputs, with questions in place of answers."""
    kinds = [name.removesuffix("_tokens") for name in inputs if name.endswith("_tokens")]
    answers: list[PackedAnswers | None] = []
    for name in head_names(mapping).values():
        places = inputs.get(f"{name}_places")
        # The values of a question are not read, only their number is.
        question = None if places is None else PackedAnswers(places, places, places, inputs.get(f"{name}_shares"))
        answers.append(question)
    return Batch(
        tokens={kind: inputs[f"{kind}_tokens"] for kind in kinds},
        slots={kind: inputs[f"{kind}_slots"] for kind in kinds},
        **{name: inputs[name] for name in LAYOUT},  # type: ignore[arg-type]
        rows=np.zeros(0, np.int64),
        answers=tuple(answers),
    )


def compute_outputs(mapping: Mapping, inputs: Dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the outputs of a mapping for these inputs, by name: what its graph computes.

    An output of a head that is read at tokens is left out if the inputs name no tokens for it. Of a model that writes its answers
    it is what the graph computes that reads the sources.
    """
    batch = inputs_batch(mapping, inputs)
    kept: dict[str, Tensor] = {}
    if writes_answers(mapping):
        hidden, kept[KEYS], kept[VALUES] = mapping.read_sources(batch)
    else:
        hidden = mapping.hidden(batch)
    outputs = kept | {
        name: mapping.read(hidden, batch, port).float()
        for port, name in head_names(mapping).items()
        if mapping.targets[port].readout.pooled or f"{name}_places" in inputs
    }
    outputs[VECTOR] = mapping.sentence_vectors(hidden, batch)
    if mapping.familiarity is not None:
        outputs[FAMILIARITY] = mapping.source_vectors(hidden, batch).float()
    return {**outputs, HIDDEN: hidden}


def to_arrays(inputs: Dict[str, Tensor]) -> dict[str, Array]:
    """Return tensors as arrays, by the same names."""
    return {name: np.ascontiguousarray(tensor.detach().cpu().numpy()) for name, tensor in inputs.items()}


def to_tensors(arrays: Dict[str, Array]) -> dict[str, Tensor]:
    """Return arrays as tensors that share their memory, by the same names."""
    return {name: torch.from_numpy(array) for name, array in arrays.items()}
