"""Experiment trackers (`--track`): services and programs that show the numbers, options, pages and models of runs.

Each module here is one tracker, with its name, and has one subclass of `Tracker`, which speaks to the tracker's own library. To
add one, write such a module and add its name to the choices of the option `track`. What all have in common is in `tracking`.
"""

from __future__ import annotations

from mapsto.training.trackers.tracker import TrackedRun, Tracker
from mapsto.training.trackers.tracking import NO_TRACKER, Tracking, require_tracker

__all__ = ["NO_TRACKER", "TrackedRun", "Tracker", "Tracking", "require_tracker"]
