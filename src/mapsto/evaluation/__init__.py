"""Evaluation: scores on labelled rows, error analysis, and the report."""
