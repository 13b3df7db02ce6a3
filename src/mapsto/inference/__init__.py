"""Inference: outputs, answers and vectors of rows that have no labels."""
