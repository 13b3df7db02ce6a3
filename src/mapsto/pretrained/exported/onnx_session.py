"""The engine ONNX Runtime: a session made of the bytes of an ONNX file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mapsto.errors import CheckpointError, UsageError
from mapsto.pretrained.exported.container import Graph
from mapsto.pretrained.exported.interface import Array
from mapsto.pretrained.exported.session import GraphInput, Session

INSTALL_EXPORT = "exported models need the package onnxruntime: pip install 'mapsto[export]'"
DTYPES = {"tensor(int64)": np.int64, "tensor(float)": np.float32, "tensor(uint8)": np.uint8, "tensor(bool)": np.bool_}


class OnnxSession(Session):
    """A session of ONNX Runtime.

    graph: in ONNX. name: the file's name, for messages.
    Raises UsageError without onnxruntime, and CheckpointError for a graph that it does not take.
    """

    def __init__(self, graph: Graph, name: str | Path) -> None:
        runtime = import_runtime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # warnings of the optimizer are not for users
        try:
            self._session = runtime.InferenceSession(graph.content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors have no base class of their own
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise CheckpointError(f"{name}: ONNX Runtime {runtime.__version__} does not open it: {reason}") from error
        inputs = [
            GraphInput(
                entry.name,
                tuple(size if isinstance(size, int) else None for size in entry.shape),
                np.dtype(DTYPES[entry.type]),
            )
            for entry in self._session.get_inputs()
        ]
        super().__init__(inputs, [entry.name for entry in self._session.get_outputs()])

    def _compute(self, feeds: dict[str, Array]) -> Sequence[Array]:
        outputs: list[Array] = self._session.run(None, feeds)
        return outputs

    @classmethod
    def describe_engine(cls) -> str:
        return f"onnxruntime {import_runtime().__version__}"


def import_runtime() -> Any:
    """Return the module onnxruntime. Raises UsageError if it is not installed."""
    try:
        import onnxruntime
    except ImportError as error:
        raise UsageError(INSTALL_EXPORT) from error
    return onnxruntime
