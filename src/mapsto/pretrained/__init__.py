"""Models saved in folders or published on the hub: open them, and save models so that other libraries open them too."""
