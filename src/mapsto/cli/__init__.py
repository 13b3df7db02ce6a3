"""The command line: one module per command, or per few related commands. No other package imports this one."""

from __future__ import annotations

# Importing a module registers its commands; `mapsto --help` lists them in this order.
# isort: off
from mapsto.cli import fit, compare, predict, find, evaluate, explain, suggest, label, check  # noqa: F401
from mapsto.cli import export, push, serve, info, demo  # noqa: F401
from mapsto.cli.help import commands  # noqa: F401

# isort: on
from mapsto.cli.app import main

__all__ = ["main"]
