"""Inference: answers, vectors and filled-in values for rows without labels."""
