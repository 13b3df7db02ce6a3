"""Metrics of predictions, and their 95 % intervals."""
