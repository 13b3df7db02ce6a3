"""Style loss: predicted images keep the content of their source and take the style of one given image.

Style is measured by Gram matrices of a frozen network's feature maps, which say which features occur together, wherever
they are (Gatys et al. 2016, https://arxiv.org/abs/1508.06576). Content is measured by a feature map itself. The mapping
is trained to transfer the style in one forward pass (perceptual losses, Johnson et al. 2016,
https://arxiv.org/abs/1603.08155). A step costs three passes through the frozen network.
Legend of shapes: n images, h × w pixels, g × k cells or patches, d width, t tokens, p edge length of a patch in pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mapsto.errors import BadCell, UsageError
from mapsto.model.mapping import Mapping
from mapsto.model.transformer import SingleExampleLayout
from mapsto.task.source_capabilities import Spatial
from mapsto.vision.patch_embedding import ConvolutionEmbedder, to_tokens
from mapsto.vision.patch_source import PatchSource

# The number of layers, evenly spaced over a Transformer, whose outputs are compared.
NUM_DEPTHS = 4


class StyleLoss:
    """The loss that compares predicted images with the style of `image` and with the content of their source.

    network: the frozen network for the features, a mapping without heads that reads images.
    image: the style image (1, 3, h, w) from 0 to 1. weight: the weight of the style distance; the content distance has
        1.
    """

    def __init__(self, network: Mapping, image: Tensor, weight: float) -> None:
        self.network, self.weight = network.eval().requires_grad_(False), weight
        with torch.no_grad():
            self.style_grams = [gram_matrix(features) for features in feature_maps(self.network, image)]

    def __call__(self, mapping: Mapping, predicted: Tensor, target: Tensor, source: Tensor) -> Tensor:
        """Return content distance + weight · style distance, summed over images; both are relative, as in `_relative_distance`.

        predicted, source: images (n, 3, h, w) from 0 to 1. target: ignored, as the style image takes its place.
        """
        features = feature_maps(self.network, predicted)
        # Early layers encode texture, and late ones lose the positions of things, so a middle layer stands for content.
        middle = len(features) // 2
        with torch.no_grad():
            source_features = feature_maps(self.network, source)[middle]
        content = _relative_distance(features[middle], source_features)
        styles = [
            _relative_distance(gram_matrix(predicted_features), style_gram)
            for predicted_features, style_gram in zip(features, self.style_grams, strict=True)
        ]
        return (content + self.weight * torch.stack(styles).mean(0)).sum()

    def finish(self, mapping: Mapping) -> None:
        """Do nothing: the feature network was never a module of the mapping."""


def read_style_image(file: str, mapping: Mapping) -> Tensor:
    """Return the image in a file, (3, h, w) from 0 to 1, resized to the size in which the mapping reads images.

    Raises UsageError for a file that cannot be read as an image.
    """
    source = _image_source(mapping)
    try:
        pixels = source.resizer.resize(source.read(file).pixels)[0]
    except BadCell as bad:
        raise UsageError(f"--style {file}: {bad}") from bad
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255


def feature_maps(network: Mapping, images: Tensor) -> list[Tensor]:
    """Return the feature maps (n, d, g, k) of images (n, 3, h, w) from 0 to 1 at several depths of a network, in fp32.

    Images are resized so that height and width are whole multiples of the edge of the network's cells or patches.
    """
    source = _image_source(network)
    embedder, p = network.embedders[source.kind], source.resizer.patch
    rows, columns = (max(1, round(side / p)) for side in images.shape[2:])
    size = rows * p, columns * p
    resized = F.interpolate(images.float(), size, mode="bilinear", antialias=True, align_corners=False)
    if isinstance(embedder, ConvolutionEmbedder):
        mean, std = (torch.tensor(values, device=resized.device).view(3, 1, 1) for values in (source.mean, source.std))
        # A convolutional network has one feature map per stage.
        return embedder.network.stages((resized - mean) / std)
    # A Vision Transformer: a block's outputs become a feature map when arranged in rows and columns again.
    tokens = to_tokens(255 * resized, p, source.leading)
    n, t = tokens.shape[:2]
    embedded = embedder(tokens.flatten(0, 1)).view(n, t, -1)
    states = network.transformer(embedded, SingleExampleLayout(tokens[..., 1:3].long()), every_layer=True)
    layers = (round(len(states[1:]) * (depth + 1) / NUM_DEPTHS) for depth in range(NUM_DEPTHS))
    return [states[layer][:, source.leading :].transpose(1, 2).unflatten(2, (rows, columns)) for layer in layers]


def _image_source(mapping: Mapping) -> PatchSource:
    """Return the one source of the mapping that reads images."""
    (source,) = (source for source in mapping.sources.values() if isinstance(source, Spatial))
    assert isinstance(source, PatchSource)
    return source


def gram_matrix(features: Tensor) -> Tensor:
    """Return the Gram matrices (n, d, d) of feature maps (n, d, g, k): products of two features, averaged over positions."""
    flat = features.flatten(2)
    return flat @ flat.transpose(1, 2) / flat.shape[2]


def _relative_distance(values: Tensor, reference: Tensor) -> Tensor:
    """Return each image's squared distance of `values` from `reference`, (n,), divided by the reference's squared norm."""
    return ((values - reference) ** 2).flatten(1).sum(1) / (reference**2).flatten(1).sum(1)
