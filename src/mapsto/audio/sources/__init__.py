"""Sources of sounds: what all have in common, and those of published families that read waves or patches of spectrograms."""
