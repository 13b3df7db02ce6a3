"""Run the command line as `python -m mapsto`."""

from __future__ import annotations

from mapsto.cli import main

main()
