"""Prove that a tokenizer of unknown origin can be opened within limits, before it is opened in this process."""
