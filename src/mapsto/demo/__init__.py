"""The demo: pretrain, fit and compare on data that comes with installed Python packages."""
