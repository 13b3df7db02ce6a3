"""Encoded pictures before they are decoded: what their containers hold, their orientation, and the cost of decoding them."""
