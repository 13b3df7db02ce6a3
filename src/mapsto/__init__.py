"""mapsto (↦): pretrain, fit, check and use models on your own data.

A task is written as an arrow from what a model reads to what it answers, such as "text -> label".
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from mapsto.errors import MapstoError

if TYPE_CHECKING:
    from mapsto.api import Model, Options, compare, fit, load, pretrain, push
    from mapsto.progress.python import MapstoWarning
    from mapsto.task.generation import Decoding

__all__ = [
    "Decoding",
    "MapstoError",
    "MapstoWarning",
    "Model",
    "Options",
    "__version__",
    "compare",
    "fit",
    "load",
    "pretrain",
    "push",
]
__version__ = "0.1.0"

# Threads of torch wait for one another at the end of each product. They look this often whether the others are ready, and then
# sleep. GNU's OpenMP, which reads this when torch is imported, looks 300 times as often by default, which on a core that
# another process uses holds up the very thread that is waited for (benchmarks/beside.py).
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def __getattr__(name: str) -> Any:
    """Return a name of `mapsto.api`, such as `fit`, importing that module only now, because its import of torch is slow.

    Raises AttributeError for a name that is not public.
    """
    if name in __all__:
        return getattr(importlib.import_module("mapsto.api"), name)
    raise AttributeError(f"module 'mapsto' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
