"""Published and saved models: opened from folders and the hub, and written so that other libraries open them too."""
