"""The command line: one module per command, or per few that belong together. Nothing imports this package."""

from __future__ import annotations

# Importing a module registers its commands; `mapsto --help` lists them in this order.
# isort: off
from mapsto.cli import fit, compare, predict, evaluate, explain, suggest, check, info, demo  # noqa: F401

# isort: on
from mapsto.cli.app import main

__all__ = ["main"]
