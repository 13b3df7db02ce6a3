"""Hold what turns log-mel frames into a sound again, and the targets whose answers are sounds."""
