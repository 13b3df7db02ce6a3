"""Decoding: which token of an answer follows, what an answer can be, and the answers of rows that are read in windows."""
