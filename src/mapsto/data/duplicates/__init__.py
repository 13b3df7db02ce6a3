"""Rows that stand twice: nearly equal values, and rows that a model was fitted to."""
