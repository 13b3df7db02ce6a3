"""The index of vectors in which `find` searches: built, kept in files, and opened again."""
