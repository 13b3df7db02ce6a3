"""Sound: decoding, log-mel frames as tokens, features, augmentation and pictures of spectrograms."""
