"""Neural networks: layers, attention, the Transformer, convolutional backbones, and the mapping that joins them to kinds."""
