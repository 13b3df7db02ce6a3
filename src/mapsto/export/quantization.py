"""int8 for the large matrix products of the Transformer: weights by output channel, activations by range, after smoothing.

Activations have a few channels with large numbers, for which all others would be rounded coarsely. Smoothing (Xiao et al. 2023)
divides each input channel by a factor and multiplies the weights by it: s = max |x|^α / max |w|^(1 − α), measured on some rows.
The products behind a nonlinearity (`down`) stay in fp32: their inputs are so uneven that smoothing makes them worse.
Legend of shapes: r rows, l row length, k inputs of a product.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from mapsto.export.graph import quiet, trace
from mapsto.inference.forward import TOKENS_PER_BATCH
from mapsto.model.layers import Activation, Linear
from mapsto.model.mapping import Mapping
from mapsto.pretrained.exported.onnx_session import import_runtime
from mapsto.sequence.batch import Batch, Example
from mapsto.sequence.packing import make_batches

# The products of a layer that are computed in int8, and the number of examples whose activations are measured.
QUANTIZED, CALIBRATION_EXAMPLES = ("qkv", "out", "up"), 256
SMOOTHING = 0.5
HIGHER_PRECISION = (
    "In fp32 stay the products behind the nonlinearity (down), whose inputs are too uneven for int8, attention itself, the "
    "embeddings and the heads."
)


class SmoothedLinear(Linear):
    """A linear map whose input channels are divided by factors, with which its weights are multiplied: the same function.

    factors: (k,).
    """

    inverse: Tensor

    def __init__(self, linear: Linear, factors: Tensor) -> None:
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None)
        self.weight = nn.Parameter(linear.weight.detach() * factors)
        self.bias = linear.bias
        self.register_buffer("inverse", 1 / factors)

    def forward(self, x: Tensor, activation: Activation | None = None) -> Tensor:
        return super().forward(x * self.inverse.to(x.dtype), activation)


def trace_int8(mapping: Mapping, examples: Sequence[Example]) -> Any:
    """Return the graph of a mapping with its large products in int8, as an `onnx.ModelProto`; arguments as for `smooth`."""
    proto = trace(smooth(mapping, examples), examples)
    return quantize(proto, quantized_nodes(proto))


def smooth(mapping: Mapping, examples: Sequence[Example]) -> Mapping:
    """Return a copy of a mapping, which computes the same, whose quantized products have smoothed inputs.

    mapping: in fp32 on the CPU. examples: those whose activations are measured, of which CALIBRATION_EXAMPLES are taken.
    """
    smoothed = copy.deepcopy(mapping)
    linears = dict(_quantized_linears(smoothed))
    ranges: dict[str, Tensor] = {}
    for batch in make_batches(examples[:CALIBRATION_EXAMPLES], TOKENS_PER_BATCH):
        with torch.inference_mode(), _measuring(linears, batch, ranges):
            smoothed.hidden(batch)
    for name, linear in linears.items():
        # A channel that is always zero must not divide by zero.
        inputs, weights = ranges[name].clone().clamp(min=1e-5), linear.weight.detach().abs().amax(0).clamp(min=1e-5)
        factors = inputs**SMOOTHING / weights ** (1 - SMOOTHING)
        parent, _, last = name.rpartition(".")
        setattr(smoothed.get_submodule(parent), last, SmoothedLinear(linear, factors))
    return smoothed


def quantize(proto: Any, names: Sequence[str]) -> Any:
    """Return a graph whose products `names` (of nodes) are computed in int8, as an `onnx.ModelProto`."""
    import_runtime()
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with TemporaryDirectory() as folder, quiet():
        path = Path(folder) / "int8.onnx"
        quantize_dynamic(
            proto,
            path,
            op_types_to_quantize=["MatMul", "Gemm"],
            nodes_to_quantize=list(names),
            per_channel=True,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
        return onnx.load(path)


def quantized_nodes(proto: Any) -> list[str]:
    """Return the names of the nodes of a traced graph that are the quantized products of its layers."""
    names = []
    for node in proto.graph.node:
        scopes = next((entry.value for entry in node.metadata_props if entry.key == "pkg.torch.onnx.name_scopes"), "")
        is_quantized = any(f".{product}'" in scopes for product in QUANTIZED) and ".blocks." in scopes
        if node.op_type in ("MatMul", "Gemm") and is_quantized:
            names.append(node.name)
    return names


def _quantized_linears(mapping: Mapping) -> Iterator[tuple[str, Linear]]:
    """Yield (name, linear map) of the products of the Transformer's layers that are quantized."""
    for name, module in mapping.named_modules():
        if ".blocks." in name and name.rpartition(".")[2] in QUANTIZED and isinstance(module, Linear):
            yield name, module


@contextmanager
def _measuring(linears: dict[str, Linear], batch: Batch, ranges: dict[str, Tensor]) -> Iterator[None]:
    """Keep in `ranges` the largest absolute number (k,) of each input channel of the linear maps, over the tokens of a batch."""
    is_token = batch.segments > 0

    def measure(name: str, x: Tensor) -> None:
        largest = x[is_token].abs().amax(0)
        ranges[name] = torch.maximum(ranges[name], largest) if name in ranges else largest

    handles = [
        linear.register_forward_pre_hook(lambda module, inputs, name=name: measure(name, inputs[0]))
        for name, linear in linears.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
