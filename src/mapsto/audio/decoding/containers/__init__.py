"""Containers of sound files: how long a recording is by its header, and by the bytes and frames that are there."""
