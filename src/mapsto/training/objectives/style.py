"""Style loss: predicted images keep the content of their source and take the style of one image.

Style is which features of a frozen network occur together, wherever they are: the Gram matrix of its feature maps (Gatys et
al. 2016, https://arxiv.org/abs/1508.06576). Content is the feature map itself. A mapping learns to change both at once
(perceptual losses, Johnson et al. 2016, https://arxiv.org/abs/1603.08155). The network is no part of the mapping; a step
costs three passes through it.
Legend of shapes: n images, h × w pixels, g × k cells or patches, d width, t tokens, p side of a patch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mapsto.errors import BadCell, UsageError
from mapsto.model.mapping import Mapping
from mapsto.model.transformer import SingleExampleLayout
from mapsto.task.capabilities import Spatial
from mapsto.vision.patch_embedding import ConvolutionEmbedder, to_tokens
from mapsto.vision.patch_source import PatchSource

# The number of layers, evenly spaced over a Transformer, whose outputs are compared.
NUM_DEPTHS = 4


class StyleLoss:
    """The distance of images from the style of `image` and from the content of their source.

    network: computes the features; a mapping without heads that reads images. image: (1, 3, h, w) from 0 to 1. weight: of
    style; content weighs 1.
    """

    def __init__(self, network: Mapping, image: Tensor, weight: float) -> None:
        self.network, self.weight = network.eval().requires_grad_(False), weight
        with torch.no_grad():
            self.style_grams = [gram_matrix(features) for features in feature_maps(self.network, image)]

    def __call__(self, mapping: Mapping, predicted: Tensor, target: Tensor, source: Tensor) -> Tensor:
        """Return both distances as shares of what they are measured from, summed over images (n, 3, h, w)."""
        features = feature_maps(self.network, predicted)
        # Early layers hold texture, late ones hardly any place: the middle one stands for content.
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
        """Do nothing: the network was never part of the mapping."""


def read_style_image(file: str, mapping: Mapping) -> Tensor:
    """Read an image (3, h, w) from 0 to 1, in the size in which the mapping reads images. Raises UsageError."""
    source = _image_source(mapping)
    try:
        pixels = source.resizer.resize(source.read(file).pixels)[0]
    except BadCell as bad:
        raise UsageError(f"--style {file}: {bad}") from bad
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255


def feature_maps(network: Mapping, images: Tensor) -> list[Tensor]:
    """Compute a network's feature maps (n, d, g, k) of images (n, 3, h, w) from 0 to 1 at several depths, in fp32.

    Images are resized to the nearest whole number of the network's cells or patches.
    """
    source = _image_source(network)
    embedder, p = network.embedders[source.kind], source.resizer.patch
    rows, columns = (max(1, round(side / p)) for side in images.shape[2:])
    size = rows * p, columns * p
    resized = F.interpolate(images.float(), size, mode="bilinear", antialias=True, align_corners=False)
    if isinstance(embedder, ConvolutionEmbedder):
        mean, std = (torch.tensor(values, device=resized.device).view(3, 1, 1) for values in (source.mean, source.std))
        # A convolutional network: each of its stages gives a feature map.
        return embedder.network.stages((resized - mean) / std)
    # A Vision Transformer: its blocks' outputs are feature maps once they lie in rows and columns again.
    tokens = to_tokens(255 * resized, p, source.leading)
    n, t = tokens.shape[:2]
    embedded = embedder(tokens.flatten(0, 1)).view(n, t, -1)
    states = network.transformer(embedded, SingleExampleLayout(tokens[..., 1:3].long()), every_layer=True)
    layers = (round(len(states[1:]) * (depth + 1) / NUM_DEPTHS) for depth in range(NUM_DEPTHS))
    return [states[layer][:, source.leading :].transpose(1, 2).unflatten(2, (rows, columns)) for layer in layers]


def _image_source(mapping: Mapping) -> PatchSource:
    """Return the one source of a mapping that reads images."""
    (source,) = (source for source in mapping.sources.values() if isinstance(source, Spatial))
    assert isinstance(source, PatchSource)
    return source


def gram_matrix(features: Tensor) -> Tensor:
    """Return how strongly each two features occur together, (n, d, d): the mean over places of (n, d, g, k)."""
    flat = features.flatten(2)
    return flat @ flat.transpose(1, 2) / flat.shape[2]


def _relative_distance(values: Tensor, reference: Tensor) -> Tensor:
    """Return the squared distance as a share of the squared norm of the reference, (n,)."""
    return ((values - reference) ** 2).flatten(1).sum(1) / (reference**2).flatten(1).sum(1)
