"""style: pictures keep what they show, and look as one picture does, as far as a pretrained network sees it.

Style is which features of a network go together, wherever they are (Gatys et al. 2016), and what is shown where they are; a map
learns to change both at once (Johnson et al. 2016). The network is frozen, and no part of the mapping.
Legend of shapes: n pictures, h × w pixels, g × k cells or patches, d width, t tokens, p side of a patch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mapsto.errors import BadCell, UsageError
from mapsto.model.mapping import Mapping
from mapsto.model.transformer import SingleExampleLayout
from mapsto.task.capabilities import Spatial
from mapsto.vision.patch_embedding import PictureEmbedder, laid
from mapsto.vision.patch_source import PatchedSource

DEPTHS = 4  # of a stack at which it is looked into, evenly


class Style:
    """How far pictures are from the style of one, and from what they show themselves. network: what sees both, a bare mapping
    that reads pictures. picture: (1, 3, h, w) from 0 to 1. weight: of style; what is shown weighs 1."""

    def __init__(self, network: Mapping, picture: Tensor, weight: float) -> None:
        self.network, self.weight = network.eval().requires_grad_(False), weight
        with torch.no_grad():
            self.grams = [gram(grid) for grid in grids(self.network, picture)]

    def __call__(self, mapping: Mapping, said: Tensor, truth: Tensor, source: Tensor) -> Tensor:
        """Both as shares of what they are compared with, summed over pictures (n, 3, h, w)."""
        seen = grids(self.network, said)
        middle = len(seen) // 2
        with torch.no_grad():
            shown = grids(self.network, source)[middle]
        content = _apart(seen[middle], shown)
        styles = [_apart(gram(grid), wanted) for grid, wanted in zip(seen, self.grams, strict=True)]
        return (content + self.weight * torch.stack(styles).mean(0)).sum()

    def finish(self, mapping: Mapping) -> None:
        """Nothing: the network never was a part of the mapping."""


def read_style(file: str, mapping: Mapping) -> Tensor:
    """The picture (3, h, w), from 0 to 1, in the size in which the mapping reads pictures. Raises UsageError."""
    source = _pictures(mapping)
    try:
        pixels = source.frame.framed(source.read(file).pixels)[0]
    except BadCell as bad:
        raise UsageError(f"--style {file}: {bad}") from bad
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255


def grids(network: Mapping, pictures: Tensor) -> list[Tensor]:
    """What a network sees of pictures (n, 3, h, w) from 0 to 1 at several depths, (n, d, g, k) each, in fp32; they are brought to
    whole cells or patches of its own, as near to their size as these allow."""
    source = _pictures(network)
    embedder, p = network.embedders[source.kind], source.frame.patch
    rows, columns = (max(1, round(side / p)) for side in pictures.shape[2:])
    size = rows * p, columns * p
    whole = F.interpolate(pictures.float(), size, mode="bilinear", antialias=True, align_corners=False)
    if isinstance(embedder, PictureEmbedder):
        mean, std = (torch.tensor(values, device=whole.device).view(3, 1, 1) for values in (source.mean, source.std))
        return embedder.network.stages((whole - mean) / std)
    tokens = laid(255 * whole, p, source.leading)
    n, t = tokens.shape[:2]
    embedded = embedder(tokens.flatten(0, 1)).view(n, t, -1)
    states = network.transformer(embedded, SingleExampleLayout(tokens[..., 1:3].long()), every_layer=True)
    deep = (round(len(states[1:]) * (at + 1) / DEPTHS) for at in range(DEPTHS))
    return [states[at][:, source.leading :].transpose(1, 2).unflatten(2, (rows, columns)) for at in deep]


def _pictures(mapping: Mapping) -> PatchedSource:
    """Return the one source of a mapping that reads pictures."""
    (source,) = (source for source in mapping.sources.values() if isinstance(source, Spatial))
    assert isinstance(source, PatchedSource)
    return source


def gram(grid: Tensor) -> Tensor:
    """(n, d, d): how strongly each two features of (n, d, g, k) go together, in the mean over places."""
    flat = grid.flatten(2)
    return flat @ flat.transpose(1, 2) / flat.shape[2]


def _apart(found: Tensor, wanted: Tensor) -> Tensor:
    """(n,): the squared distance as a share of what is wanted."""
    return ((found - wanted) ** 2).flatten(1).sum(1) / (wanted**2).flatten(1).sum(1)
