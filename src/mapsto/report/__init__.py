"""HTML reports: the page, and the figures and sections that several reports share."""
