"""Two graphs in one ONNX file: an input says which of them is computed, and weights that are equal are there once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping as Dict
from collections.abc import Sequence
from typing import Any

import numpy as np


def join_graphs(first: Any, second: Any, chooser: str, outputs: Sequence[str]) -> Any:
    """Return an `onnx.ModelProto` that computes the second graph where its input `chooser` is true, and else the first one.

    first, second: models whose inputs have different names; both are taken apart. outputs: names of the outputs of the joined
    model, in order. Those that the chosen graph does not compute are empty.
    """
    from onnx import TensorProto, helper

    types = {value.name: value.type.tensor_type for model in (first, second) for value in model.graph.output}
    weights: dict[bytes, Any] = {}
    branches = []
    for model, prefix in ((first, "sources"), (second, "step")):
        names = {}
        for weight in model.graph.initializer:
            digest = _digest(weight)
            if digest not in weights:
                weights[digest] = weight
                names[weight.name] = weight.name = f"{prefix}.{weight.name}"
            names.setdefault(weight.name, weights[digest].name)
        branches.append(_branch(model.graph, prefix, names, outputs, types))
    choice = helper.make_node(
        "If", [chooser], list(outputs), "choice", then_branch=branches[1], else_branch=branches[0]
    )
    graph = helper.make_graph(
        [choice],
        "mapsto",
        [helper.make_tensor_value_info(chooser, TensorProto.BOOL, [1]), *first.graph.input, *second.graph.input],
        [_open_value(name, types[name]) for name in outputs],
        list(weights.values()),
    )
    return helper.make_model(graph, opset_imports=first.opset_import, ir_version=first.ir_version)


def _digest(weight: Any) -> bytes:
    """Return the hash of a weight's numbers and shape."""
    from onnx import numpy_helper

    array = numpy_helper.to_array(weight)
    return hashlib.sha256(f"{array.dtype} {array.shape}".encode() + array.tobytes()).digest()


def _branch(
    graph: Any, prefix: str, weight_names: Dict[str, str], outputs: Sequence[str], types: Dict[str, Any]
) -> Any:
    """Return a graph as a branch of an If, which reads inputs and weights from outside and has no name twice.

    weight_names: name of each weight outside. outputs: those of both branches, in order. types: of all outputs by name.
    """
    from onnx import helper, numpy_helper

    computed = {value.name for value in graph.output}
    inputs = {value.name for value in graph.input}
    nodes = list(graph.node)
    _rename(nodes, prefix, weight_names, inputs)
    for name in outputs:
        if name not in computed:
            # Not as a constant without numbers, which OpenVINO takes for one number.
            sizes, shape = f"{prefix}.{name}.shape", np.zeros(len(types[name].shape.dim), np.int64)
            zero = np.zeros(1, helper.tensor_dtype_to_np_dtype(types[name].elem_type))
            nodes += [
                helper.make_node("Constant", [], [sizes], value=numpy_helper.from_array(shape)),
                helper.make_node("ConstantOfShape", [sizes], [f"{prefix}.{name}"], value=numpy_helper.from_array(zero)),
            ]
    results = [_open_value(f"{prefix}.{name}", types[name]) for name in outputs]
    return helper.make_graph(nodes, prefix, [], results)


def _open_value(name: str, tensor_type: Any) -> Any:
    """Return the description of an output with the number of its axes; their sizes differ between the graphs."""
    from onnx import helper

    return helper.make_tensor_value_info(name, tensor_type.elem_type, [None] * len(tensor_type.shape.dim))


def _rename(nodes: Sequence[Any], prefix: str, weight_names: Dict[str, str], inputs: set[str]) -> None:
    """Put a prefix before the names of all values of some nodes but the inputs of the model, and rename the weights."""

    def renamed(name: str) -> str:
        return weight_names.get(name) or (name if not name or name in inputs else f"{prefix}.{name}")

    for node in nodes:
        node.input[:] = map(renamed, node.input)
        node.output[:] = map(renamed, node.output)
        for attribute in node.attribute:
            assert not attribute.g.node, "a graph within a graph is not renamed"
