"""The graph of a mapping in ONNX: traced by torch.export through the same modules, with dynamic numbers of rows and tokens."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Mapping as Dict
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from mapsto.errors import UsageError
from mapsto.export.joined_graphs import join_graphs
from mapsto.export.step import compute_step, step_axes, step_inputs
from mapsto.model.mapping import Mapping
from mapsto.pretrained.exported.interface import (
    IS_STEP,
    batch_inputs,
    compute_outputs,
    output_names,
    source_examples,
    writes_answers,
)
from mapsto.pretrained.exported.onnx_session import INSTALL_EXPORT
from mapsto.sequence.batch import Batch, Example
from mapsto.sequence.packing import collate, row_length

# torch.export takes a size of 1 for a constant, so there are at least two rows, and two examples in one of them.
MIN_EXAMPLES = 3
OPSET = 20

# Returns outputs of a mapping by name from inputs by name.
Compute = Callable[[Mapping, Dict[str, Tensor]], Dict[str, Tensor]]


@runtime_checkable
class ShapeBound(Protocol):
    """An embedder whose computation depends on the shape of values, of which a graph has one, such as that of pictures."""

    def fix_shape(self, tokens: Tensor) -> None:
        """Read from now on only values of the shape that these tokens have. Raises UsageError for tokens of several shapes."""


@runtime_checkable
class Untraceable(Protocol):
    """An embedder that cannot be traced. untraceable: the reason, as the end of a sentence about its model."""

    untraceable: str


def fix_shapes(mapping: Mapping, examples: Sequence[Example]) -> None:
    """Let each embedder of a mapping that is bound to a shape read only that of its values in the examples."""
    for kind, embedder in mapping.embedders.items():
        pieces = [piece for example in examples for piece in example.pieces if piece.kind == kind]
        if isinstance(embedder, ShapeBound) and pieces:
            # The tokens of a value all say its shape.
            embedder.fix_shape(torch.from_numpy(np.stack([piece.tokens[0] for piece in pieces])))


class Graph(nn.Module):
    """The module that is traced: named outputs of a mapping from named inputs, both as flat tuples of tensors.

    compute: returns the outputs by name. inputs: from which it is traced; they say which outputs there are.
    """

    def __init__(self, mapping: Mapping, compute: Compute, inputs: Dict[str, Tensor]) -> None:
        super().__init__()
        self.mapping, self.compute, self.input_names = mapping, compute, list(inputs)
        with torch.no_grad():
            computed = compute(mapping, inputs)
        self.output_names = [name for name in output_names(mapping) if name in computed]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        outputs = self.compute(self.mapping, dict(zip(self.input_names, inputs, strict=True)))
        return tuple(outputs[name] for name in self.output_names)


def trace(mapping: Mapping, examples: Sequence[Example]) -> Any:
    """Return the graph of a mapping as an `onnx.ModelProto` in fp32; for one that writes its answers, both its graphs.

    mapping: on the CPU in evaluation mode. examples: examples with questions for all target ports, of which a few are traced.
    Raises UsageError without the packages of the extra `export`, and for a model whose computation cannot be traced.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UsageError(INSTALL_EXPORT.replace("package onnxruntime", "packages onnx and onnxscript")) from error
    inputs = batch_inputs(mapping, _example_batch(source_examples(mapping, examples)))
    reading = _trace(mapping, compute_outputs, inputs, [_dynamic_axes(*entry) for entry in inputs.items()])
    if not writes_answers(mapping):
        return reading
    compute = partial(compute_step, axes=inputs["positions"].shape[-1])
    inputs = step_inputs(mapping)
    step = _trace(mapping, compute, inputs, [step_axes(tensor) for tensor in inputs.values()])
    return join_graphs(reading, step, IS_STEP, output_names(mapping))


def _trace(
    mapping: Mapping, compute: Compute, inputs: Dict[str, Tensor], dynamic_axes: Sequence[Dict[int, Any]]
) -> Any:
    """Return the graph of a computation as an `onnx.ModelProto`. dynamic_axes: those of each input whose sizes differ."""
    graph_module = Graph(mapping, compute, inputs)
    try:
        with torch.no_grad(), quiet():
            # torch.onnx would try other ways to trace where this one fails, which take sizes and roles for constants.
            traced = torch.export.export(
                graph_module.eval(),
                tuple(inputs.values()),
                dynamic_shapes=(tuple(dynamic_axes),),
                strict=False,
            )
            program = torch.onnx.export(
                traced,
                dynamo=True,
                input_names=list(inputs),
                output_names=graph_module.output_names,
                opset_version=OPSET,
                verbose=False,
            )
    except Exception as error:  # errors of the tracer have no common base
        cause = _first_line(error)
        raise UsageError(
            f"the computation of {mapping.arrow} ({mapping.config.family}) cannot be exported: {cause}"
        ) from error
    assert program is not None
    graph = program.model.graph
    # Fields of the layout that this model does not read.
    for value in [value for value in graph.inputs if not value.uses()]:
        graph.inputs.remove(value)
    return program.model_proto


def _example_batch(examples: Sequence[Example]) -> Batch:
    """Return a batch of two rows or more, of which the first has two examples."""
    several = [examples[number % len(examples)] for number in range(MIN_EXAMPLES)]
    sizes = sorted(map(len, several))
    return collate(several, row_length(2 * sizes[-1]), rows=[[0, 1], [2]])


def _dynamic_axes(name: str, tensor: Tensor) -> dict[int, Any]:
    """Return the axes of an input whose sizes differ between batches: rows and lengths, but not features or axes of position."""
    is_grid = name in ("segments", "roles", "places", "positions", "owner")
    return dict.fromkeys(range(2 if is_grid else 1), torch.export.Dim.DYNAMIC)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what the tracer and the quantizer print of their stages, and their warnings, from the user."""
    loggers = [logging.getLogger(name) for name in (None, "torch.onnx")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _first_line(error: BaseException) -> str:
    """Return the first line of the message of an error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200]
