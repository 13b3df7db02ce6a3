"""Sounds: decoding of files, mixing to one channel, resampling, and the table cells that hold them."""
