"""The demo: pretrain, fit and compare on data that Python packages carry."""
