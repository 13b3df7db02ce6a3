"""Active learning: choose the rows to label next, and show them on a page."""
