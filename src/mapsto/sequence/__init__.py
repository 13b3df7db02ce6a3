"""Sequences of tokens: the pieces of a row, their corruption, and the packed batches that a model reads."""
