"""The arrow notation of tasks, and the contracts of the kinds of values that stand in arrows."""
