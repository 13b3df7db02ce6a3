"""`mapsto serve`: models as an HTTP service, with a page on which a person tries them (the extra `serve`)."""
