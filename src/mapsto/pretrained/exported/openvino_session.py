"""The engine OpenVINO: a session made of an ONNX file, or of a file of OpenVINO's own form with its weights.

It computes in fp32: by default OpenVINO computes in bf16 on processors that have it, which changes answers.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mapsto.errors import CheckpointError, UsageError
from mapsto.pretrained.exported.container import Graph
from mapsto.pretrained.exported.interface import Array
from mapsto.pretrained.exported.session import GraphInput, Session

INSTALL_OPENVINO = "the engine OpenVINO needs the package openvino: pip install 'mapsto[openvino]'"
TELEMETRY = "openvino_telemetry"


class OpenVinoSession(Session):
    """A session of OpenVINO.

    graph: in ONNX or in OpenVINO's form. name: the file's name, for messages.
    Raises UsageError without openvino, and CheckpointError for a graph that it does not take.
    """

    def __init__(self, graph: Graph, name: str | Path) -> None:
        openvino = import_openvino()
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            # All threads on one batch: with several batches at a time its heap was corrupted (benchmarks/engines.py).
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            # Pinned threads of several processes would all share the first cores.
            "ENABLE_CPU_PINNING": False,
        }
        try:
            core = openvino.Core()
            model = core.read_model(graph.content, graph.weights or b"")
            compiled = core.compile_model(model, "CPU", settings)
        except RuntimeError as error:  # its errors have no base class of their own
            raise CheckpointError(f"{name}: {self.describe_engine()} does not open it: {first_line(error)}") from error
        # A request computes one batch at a time, for whichever thread holds the lock.
        self._request, self._lock = compiled.create_infer_request(), threading.Lock()
        inputs = [
            GraphInput(
                entry.any_name,
                tuple(None if size.is_dynamic else size.get_length() for size in entry.partial_shape),
                np.dtype(entry.element_type.to_dtype()),
            )
            for entry in model.inputs
        ]
        super().__init__(inputs, [entry.any_name for entry in model.outputs])

    def _compute(self, feeds: dict[str, Array]) -> Sequence[Array]:
        with self._lock:
            return list(self._request.infer(feeds).to_tuple())

    @classmethod
    def describe_engine(cls) -> str:
        return f"openvino {import_openvino().__version__.split('-')[0]}"


def import_openvino() -> Any:
    """Return the module openvino, without its telemetry. Raises UsageError if it is not installed."""
    with _without_telemetry():
        try:
            import openvino
        except ImportError as error:
            raise UsageError(INSTALL_OPENVINO) from error
    return openvino


def first_line(error: BaseException) -> str:
    """Return the first line of an error of OpenVINO that says what failed, without the place in its source."""
    lines = [line.strip() for line in str(error).splitlines()]
    lines = [line for line in lines if line and not line.startswith(("Exception from", "Check ", "While validating"))]
    return (lines[0] if lines else type(error).__name__)[:200]


@contextmanager
def _without_telemetry() -> Iterator[None]:
    """Hide the package by which openvino reports its use to a server, unless the program itself has imported it before.

    openvino does without it where it is not installed.
    """
    if TELEMETRY in sys.modules:
        yield
        return
    sys.modules[TELEMETRY] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.modules.pop(TELEMETRY, None)
