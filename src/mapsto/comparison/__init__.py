"""Comparison of starting models and fitting methods, with few and with many labels, on the same test rows."""
