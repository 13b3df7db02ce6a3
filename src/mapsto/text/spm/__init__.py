"""Vocabularies of the library sentencepiece, as published folders hold them: *.model and *.spm files."""
