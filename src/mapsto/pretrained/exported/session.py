"""An ONNX Runtime session on the CPU, made of the bytes of a file."""

from __future__ import annotations

import platform
from collections.abc import Mapping as Dict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mapsto.errors import CheckpointError, UsageError
from mapsto.pretrained.exported.interface import Array

INSTALL_EXPORT = "exported models need the package onnxruntime: pip install 'mapsto[export]'"
DTYPES = {"tensor(int64)": np.int64, "tensor(float)": np.float32, "tensor(uint8)": np.uint8}


class Session:
    """A graph that computes named outputs from named inputs. It has no state, so copies of it are the same object.

    content: the bytes of an ONNX file. name: the file's name, for messages.
    Raises UsageError without onnxruntime, and CheckpointError for a graph that it does not take.
    """

    def __init__(self, content: bytes, name: str | Path) -> None:
        runtime = import_runtime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # warnings of the optimizer are not for users
        try:
            self._session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors have no base class of their own
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise CheckpointError(f"{name}: ONNX Runtime {runtime.__version__} does not open it: {reason}") from error
        self._inputs = {entry.name: entry for entry in self._session.get_inputs()}
        self.input_names = list(self._inputs)
        self.output_names = [entry.name for entry in self._session.get_outputs()]

    def __deepcopy__(self, memo: Dict[int, Any]) -> Session:
        return self

    def run(self, inputs: Dict[str, Array]) -> dict[str, Array]:
        """Return the outputs by name. Inputs that the graph does not read are left out, and those that are missing are empty."""
        feeds = {name: self._fit(entry, inputs.get(name)) for name, entry in self._inputs.items()}
        return dict(zip(self.output_names, self._session.run(None, feeds), strict=True))

    def _fit(self, entry: Any, array: Array | None) -> Array:
        """Return an input with as many axes of position as the graph reads, with zeros on axes that the batch has not.

        entry: ONNX Runtime's description of the input. array: the input; None for no tokens.
        """
        if array is None:
            sizes = [size if isinstance(size, int) else 0 for size in entry.shape]
            return np.zeros(sizes, DTYPES[entry.type])
        last = entry.shape[-1]
        if entry.name == "positions" and isinstance(last, int) and array.shape[-1] < last:
            return np.pad(array, [(0, 0), (0, 0), (0, last - array.shape[-1])])
        return array


def import_runtime() -> Any:
    """Return the module onnxruntime. Raises UsageError if it is not installed."""
    try:
        import onnxruntime
    except ImportError as error:
        raise UsageError(INSTALL_EXPORT) from error
    return onnxruntime


def describe_processor() -> str:
    """Return what the numbers of a graph depend on: the processor and the version of ONNX Runtime."""
    name = platform.processor() or platform.machine()
    cpu_info = Path("/proc/cpuinfo")
    if cpu_info.exists():
        lines = cpu_info.read_text(errors="replace").splitlines()
        entries = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
        entries = {key.strip(): value.strip() for key, value in entries.items()}
        flags = sorted(flag for flag in entries.get("flags", "").split() if flag.startswith(("avx", "amx")))
        name = " ".join([entries.get("model name", name), *flags])
    return f"{platform.machine()} {name}, onnxruntime {import_runtime().__version__}"
