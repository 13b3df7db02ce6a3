"""Fitting a model, from the request to the saved folder."""
