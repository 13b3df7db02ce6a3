"""Model selection: the choice of method and hyperparameters on parts of the training rows, before the final fit."""
