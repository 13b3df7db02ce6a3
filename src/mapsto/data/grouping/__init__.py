"""Groups of rows that belong together, such as those of one speaker."""
