"""The ways of `mapsto predict`: rows and their answers, filled-in values, subtitles, and recordings while they grow."""
