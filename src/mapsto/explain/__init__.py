"""Explanations: attribution of an answer to parts of the input, its faithfulness, and the report."""
