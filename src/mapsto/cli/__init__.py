"""The command line, one file per command.

Importing a command file registers it with `app`, in the order of `mapsto --help`. Modules that need torch are imported inside
functions, so that `--help` stays quick.
"""

from __future__ import annotations

# isort: off
from mapsto.cli.app import app, main
from mapsto.cli import fit, compare, predict, evaluate, explain, suggest, check, info, demo
# isort: on

__all__ = ["app", "check", "compare", "demo", "evaluate", "explain", "fit", "info", "main", "predict", "suggest"]
