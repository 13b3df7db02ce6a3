"""Tokenizers, vocabularies, and features of text that need no model."""
