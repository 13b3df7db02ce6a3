"""Fitting a model, from the request to the saved folder, with or without a hyperparameter search."""
