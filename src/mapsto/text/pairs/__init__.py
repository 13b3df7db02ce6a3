"""Pairs of texts, as translation, summaries and dialogue have them: the forms in which data sets write them, and their faults."""
