"""Linear models: sources of classical features, and the tables that embed them."""
