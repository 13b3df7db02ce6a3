"""The packages that a report needs, looked for before the work that it reports on."""

from __future__ import annotations

from importlib.util import find_spec

from mapsto.errors import UsageError
from mapsto.report.chart import INSTALL_MATPLOTLIB


def require_charts() -> None:
    """Raise UsageError if matplotlib, which draws the figures of reports, is not installed."""
    if find_spec("matplotlib") is None:
        raise UsageError(INSTALL_MATPLOTLIB)
