"""Images and videos: decoding, resizing to patches, augmentation, classical features, patch targets and detection heads."""
