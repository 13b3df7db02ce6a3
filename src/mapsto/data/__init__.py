"""Read, check and split data: from files to tables, rows, pieces of tokens and training examples."""
