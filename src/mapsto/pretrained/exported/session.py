"""The session of an exported graph: named arrays in, named arrays out, on the CPU. Each engine has a session of its own."""

from __future__ import annotations

import platform
from abc import ABC, abstractmethod
from collections.abc import Mapping as Dict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mapsto.pretrained.exported.interface import Array


@dataclass(frozen=True)
class GraphInput:
    """An input that a graph reads. shape: the size of each axis; None where it differs between batches. dtype: of its numbers."""

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]


class Session(ABC):
    """A graph that computes named outputs from named inputs. It has no state, so copies of it are the same object.

    inputs: those that the graph reads. output_names: the names of its outputs, in order.
    """

    def __init__(self, inputs: Sequence[GraphInput], output_names: Sequence[str]) -> None:
        self.inputs, self.output_names = list(inputs), list(output_names)

    def __deepcopy__(self, memo: Dict[int, Any]) -> Session:
        return self

    @property
    def input_names(self) -> list[str]:
        """The names of the inputs that the graph reads."""
        return [entry.name for entry in self.inputs]

    @property
    def reads_memory(self) -> bool:
        """Whether a step reads keys and values of source tokens, as in an encoder–decoder."""
        return "memory_keys" in self.input_names

    def run(self, inputs: Dict[str, Array]) -> dict[str, Array]:
        """Return the outputs by name. Inputs that the graph does not read are left out, and those that are missing are empty."""
        feeds = {entry.name: _fit(entry, inputs.get(entry.name)) for entry in self.inputs}
        return dict(zip(self.output_names, self._compute(feeds), strict=True))

    def empty(self, name: str, *sizes: int) -> Array:
        """Return an empty array for an input. sizes: of its first axes of open size; those behind them are 0."""
        (entry,) = (entry for entry in self.inputs if entry.name == name)
        given = iter(sizes)
        return np.zeros([next(given, 0) if size is None else size for size in entry.shape], entry.dtype)

    @abstractmethod
    def _compute(self, feeds: dict[str, Array]) -> Sequence[Array]:
        """Return the outputs in order. feeds: one array for each of `inputs`, by name."""

    @classmethod
    @abstractmethod
    def describe_engine(cls) -> str:
        """Return the name and the version of the engine. Raises UsageError if it is not installed."""

    @classmethod
    def describe_processor(cls) -> str:
        """Return what the numbers of a graph depend on: the processor and the version of the engine."""
        return f"{_describe_machine()}, {cls.describe_engine()}"


def _fit(entry: GraphInput, array: Array | None) -> Array:
    """Return an input with as many axes of position as the graph reads, with zeros on axes that the batch has not.

    array: the input; None for no tokens.
    """
    if array is None:
        return np.zeros([size or 0 for size in entry.shape], entry.dtype)
    if entry.name == "positions" and (size := entry.shape[-1]) is not None and array.shape[-1] < size:
        return np.pad(array, [(0, 0), (0, 0), (0, size - array.shape[-1])])
    return array


def _describe_machine() -> str:
    """Return the processor of this machine with its extensions for products, such as "x86_64 Intel Xeon avx2 amx_bf16"."""
    name = platform.processor() or platform.machine()
    cpu_info = Path("/proc/cpuinfo")
    if cpu_info.exists():
        lines = cpu_info.read_text(errors="replace").splitlines()
        entries = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
        entries = {key.strip(): value.strip() for key, value in entries.items()}
        flags = sorted(flag for flag in entries.get("flags", "").split() if flag.startswith(("avx", "amx")))
        name = " ".join([entries.get("model name", name), *flags])
    return f"{platform.machine()} {name}"
