"""Help on commands: how it is laid out, which options an arrow can use, and the commands `help` and `completion`."""
