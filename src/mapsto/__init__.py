"""mapsto (↦): pretrain, fit, check and use models on your own data.

A task is written as an arrow from what a model reads to what it answers, such as "text -> label".
"""

from __future__ import annotations

import importlib
import os
import sys
import time
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


def _is_busy(path: str = "/proc/loadavg") -> bool:
    """Return whether other processes keep at least half of the processors busy at this moment; False where nothing tells it.

    path: the file in which Linux says how many threads run or wait for a processor, this one included.
    """
    for look in range(4):
        # Processes that start beside this one, as in a pipe of a shell, soon sleep.
        time.sleep(0.005 if look else 0)
        try:
            with open(path, encoding="ascii") as stream:
                others = int(stream.read().split()[3].split("/")[0]) - 1
        except (OSError, ValueError, IndexError):
            return False
        if 2 * others < (os.cpu_count() or 1):
            return False
    return True


# Threads of torch wait for one another at the end of each product, and look 300,000 times whether the others are ready before
# they sleep. On a processor that another process needs too, this holds up the very thread that is waited for; on an idle one,
# sleeping costs up to a fifth of the speed (benchmarks/beside.py). GNU's OpenMP reads this when torch is imported.
if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys() and "torch" not in sys.modules and _is_busy():
    os.environ["GOMP_SPINCOUNT"] = "1000"


def __getattr__(name: str) -> Any:
    """Return a name of `mapsto.api`, such as `fit`, importing that module only now, because its import of torch is slow.

    Raises AttributeError for a name that is not public.
    """
    if name in __all__:
        return getattr(importlib.import_module("mapsto.api"), name)
    raise AttributeError(f"module 'mapsto' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
