"""The formats of table files, one module each. A reader yields the rows of a file in parts of bounded size (`FilePart`)."""
