"""Texts that are read along the tokens of a sound, character by character."""
