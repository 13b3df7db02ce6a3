"""Labelling: people answer the rows of a pool on a page (`mapsto label`), and the answers are a table that `fit` reads."""
