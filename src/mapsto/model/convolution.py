"""Convolutional networks (VGG, ResNet, ConvNeXt) as the backbone in front of a Transformer: pictures → grid of features.

The first layers of a network are its attribute `stem` (VGG has none), the stages are `blocks`. Learning rates by layer and the
names of published weights rely on these attributes. A run can be resumed only if its settings are unchanged. They include the
field names and defaults of the configurations here, so a change of one of these ends the resuming of older runs.

Legend of shapes: n pictures, c channels, h height, w width, d channels of the last grid.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mapsto.model.layers import Activation, LayerNorm, Linear

NORM_EPSILON = {"batch": 1e-5, "layer": 1e-6}
# A bottleneck of ResNet is this many times narrower inside; a layer of ConvNeXt this many times wider.
BOTTLENECK, EXPANSION = 4, 4


class Network(nn.Module, ABC):
    """Base class of convolutional networks from pictures (n, 3, h, w) to a grid of features (n, d, h / stride, w / stride)."""

    @abstractmethod
    def stages(self, x: Tensor) -> list[Tensor]:
        """Return the output grid (n, c, h, w) of each stage; in a VGG, before the pooling at the end of the stage."""


@dataclass(frozen=True)
class ConvolutionConfig(ABC):
    """Shape of a convolutional network; the base class of PlainConfig, ResidualConfig and ConvNextConfig."""

    # Number of channels of each stage.
    widths: tuple[int, ...]
    # Number of layers of each stage.
    depths: tuple[int, ...]

    def __str__(self) -> str:
        layers = ", ".join(map(str, self.depths))
        return f"a convolutional network of {layers} layers, one cell for {self.stride} × {self.stride} pixels"

    @property
    def width(self) -> int:
        """Number of channels of the last grid."""
        return self.widths[-1]

    @property
    def num_indices(self) -> int:
        """Exclusive upper bound of the numbers that published names of weights give to the modules of a stage."""
        return max(self.depths)

    @property
    @abstractmethod
    def stride(self) -> int:
        """Height and width, in pixels of the picture, of the square that one cell of the last grid stands for."""

    @abstractmethod
    def network(self) -> Network:
        """Build the network, (n, 3, h, w) → (n, d, h / stride, w / stride). h and w must be multiples of the stride."""


@dataclass(frozen=True)
class PlainConfig(ConvolutionConfig):
    """Shape of a VGG (Simonyan & Zisserman 2015) without its classifier."""

    # Whether a batch norm follows each convolution.
    normed: bool = False

    @property
    def num_indices(self) -> int:
        # Published weights of VGG number all its modules in one sequence: convolution, norm, ReLU, and a pooling per stage.
        return sum(self.depths) * (3 if self.normed else 2) + len(self.depths)

    @property
    def stride(self) -> int:
        return 1 << len(self.depths)

    def network(self) -> Network:
        return PlainNetwork(self)


@dataclass(frozen=True)
class ResidualConfig(ConvolutionConfig):
    """Shape of a ResNet (He et al. 2016)."""

    # Channels of the first convolution.
    stem: int = 64
    # Whether layers are bottlenecks of three convolutions, rather than two convolutions.
    bottleneck: bool = True
    # Whether the first stage halves the grid too, and not only the later ones.
    halved_at_once: bool = False
    # Whether a bottleneck halves the grid in its first convolution, rather than in its second.
    halved_early: bool = False

    @property
    def stride(self) -> int:
        return 1 << (len(self.depths) + 1 + self.halved_at_once)

    def network(self) -> Network:
        return ResidualNetwork(self)


@dataclass(frozen=True)
class ConvNextConfig(ConvolutionConfig):
    """Shape of a ConvNeXt (Liu et al. 2022)."""

    # Pixels along a side of the patches that the stem maps.
    patch: int = 4
    activation: Activation = "gelu"
    # Initial scale, per channel, of what a layer adds; None: no scale.
    scale: float | None = 1e-6

    @property
    def stride(self) -> int:
        return self.patch << (len(self.depths) - 1)

    def network(self) -> Network:
        return ConvNextNetwork(self)


class BatchNorm(nn.Module):
    """Batch norm that uses the saved mean and variance in training too, as in DETR (Carion et al. 2020).

    Only scale and shift are trained. Thus the features of a picture do not depend on the other pictures of its batch.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        # Parameters and not buffers, so that they are copied and saved as all other weights are.
        self.running_mean = nn.Parameter(torch.zeros(width), requires_grad=False)
        self.running_var = nn.Parameter(torch.ones(width), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=NORM_EPSILON["batch"])


def _convolution(in_channels: int, out: int, side: int, stride: int = 1, bias: bool = False) -> nn.Conv2d:
    """Build a square convolution, padded so that with stride 1 the grid keeps its height and width; He initialisation for ReLUs.

    side: height and width of the kernel, an odd number. Initialisation: He et al. 2015.
    """
    convolution = nn.Conv2d(in_channels, out, side, stride, padding=side // 2, bias=bias)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    return convolution


class PlainNetwork(Network):
    """VGG: stages of 3 × 3 convolutions, each with a max pooling at its end.

    All modules form one sequence, because the published weights are numbered that way.
    """

    def __init__(self, config: PlainConfig) -> None:
        super().__init__()
        modules: list[nn.Module] = []
        in_channels = 3
        for width, depth in zip(config.widths, config.depths, strict=True):
            for _ in range(depth):
                modules.append(_convolution(in_channels, width, 3, bias=True))
                modules += [BatchNorm(width)] if config.normed else []
                modules.append(nn.ReLU())
                in_channels = width
            modules.append(nn.MaxPool2d(2))
        self.blocks = nn.Sequential(*modules)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.blocks(x)
        return out

    def stages(self, x: Tensor) -> list[Tensor]:
        grids = []
        for module in self.blocks:
            # A pooling ends each stage.
            if isinstance(module, nn.MaxPool2d):
                grids.append(x)
            x = module(x)
        return grids


class NormedConvolution(nn.Module):
    """Convolution without bias, followed by a batch norm."""

    def __init__(self, in_channels: int, out: int, side: int, stride: int = 1) -> None:
        super().__init__()
        self.convolution = _convolution(in_channels, out, side, stride)
        self.norm = BatchNorm(out)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.convolution(x))
        return out


class ResidualLayer(nn.Module):
    """Layer of a ResNet: two or three convolutions, and a shortcut around them.

    The scale of the last norm starts at zero (Goyal et al. 2017), so that a new layer passes on only its shortcut. This lets
    deep networks learn from random weights, although the batch norms do not use the statistics of the batch.
    """

    def __init__(self, config: ResidualConfig, in_channels: int, out: int, stride: int) -> None:
        super().__init__()
        if config.bottleneck:
            inner = out // BOTTLENECK
            first, second = (stride, 1) if config.halved_early else (1, stride)
            parts = [
                NormedConvolution(in_channels, inner, 1, first),
                NormedConvolution(inner, inner, 3, second),
                NormedConvolution(inner, out, 1),
            ]
        else:
            parts = [NormedConvolution(in_channels, out, 3, stride), NormedConvolution(out, out, 3)]
        self.parts = nn.ModuleList(parts)
        # A shortcut can only be the identity if the grid keeps its shape.
        has_new_shape = in_channels != out or stride > 1
        self.shortcut = NormedConvolution(in_channels, out, 1, stride) if has_new_shape else nn.Identity()
        nn.init.zeros_(parts[-1].norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        *inner, last = self.parts
        y = x
        for part in inner:
            y = F.relu(part(y))
        return F.relu(last(y) + self.shortcut(x))


class ResidualNetwork(Network):
    """ResNet: a 7 × 7 convolution and a max pooling, each halving the sides of the grid, and then the stages."""

    def __init__(self, config: ResidualConfig) -> None:
        super().__init__()
        self.stem = NormedConvolution(3, config.stem, 7, 2)
        stages = []
        in_channels = config.stem
        for stage, (width, depth) in enumerate(zip(config.widths, config.depths, strict=True)):
            stride = 2 if stage or config.halved_at_once else 1
            first = ResidualLayer(config, in_channels, width, stride)
            stages.append(nn.Sequential(first, *(ResidualLayer(config, width, width, 1) for _ in range(depth - 1))))
            in_channels = width
        self.blocks = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> Tensor:
        return self.stages(x)[-1]

    def stages(self, x: Tensor) -> list[Tensor]:
        x = F.max_pool2d(F.relu(self.stem(x)), 3, stride=2, padding=1)
        return _run_stages(self.blocks, x)


def _patch_projection(in_channels: int, out: int, side: int) -> nn.Conv2d:
    """Build a convolution that maps each square of `side` × `side` cells to one cell, (n, c, h, w) → (n, out, h/side, w/side)."""
    projection = nn.Conv2d(in_channels, out, side, side)
    nn.init.normal_(projection.weight, std=0.02)
    nn.init.zeros_(projection.bias)  # type: ignore[arg-type]
    return projection


def _run_stages(stages: Iterable[nn.Module], x: Tensor) -> list[Tensor]:
    """Return the output of each stage. A stage reads the output of the stage before it, the first one reads x."""
    grids = []
    for stage in stages:
        x = stage(x)
        grids.append(x)
    return grids


def _norm_channels(norm: nn.Module, x: Tensor) -> Tensor:
    """Return x (n, c, h, w) with `norm` applied over the channels of each cell."""
    out: Tensor = norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return out


class ConvNextLayer(nn.Module):
    """Layer of a ConvNeXt: depthwise 7 × 7 convolution, norm and feed-forward part, with a residual connection."""

    def __init__(self, config: ConvNextConfig, width: int) -> None:
        super().__init__()
        self.activation = config.activation
        self.around = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = LayerNorm(width, NORM_EPSILON["layer"])
        self.up, self.down = Linear(width, EXPANSION * width), Linear(EXPANSION * width, width)
        self.scale = None if config.scale is None else nn.Parameter(torch.full((width,), config.scale))
        for module in (self.around, self.up, self.down):
            nn.init.normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        # The norm and the feed-forward part work on the channels, which must be the last axis.
        y = self.down(self.up(self.norm(self.around(x).permute(0, 2, 3, 1)), self.activation))
        y = y if self.scale is None else y * self.scale
        return torch.add(x, y.permute(0, 3, 1, 2))


class ConvNextStage(nn.Module):
    """Stage of a ConvNeXt: a norm and a halving of the grid's sides (both not in the first stage), and then the layers.

    in_channels: number of channels of the stage before; None for the first stage.
    """

    def __init__(self, config: ConvNextConfig, in_channels: int | None, width: int, depth: int) -> None:
        super().__init__()
        self.norm = None if in_channels is None else LayerNorm(in_channels, NORM_EPSILON["layer"])
        self.halving = None if in_channels is None else _patch_projection(in_channels, width, 2)
        self.layers = nn.Sequential(*(ConvNextLayer(config, width) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        if self.norm is not None and self.halving is not None:
            x = self.halving(_norm_channels(self.norm, x))
        out: Tensor = self.layers(x)
        return out


class ConvNextNetwork(Network):
    """ConvNeXt: a linear map of small patches, a norm, and then the stages."""

    def __init__(self, config: ConvNextConfig) -> None:
        super().__init__()
        self.stem = _patch_projection(3, config.widths[0], config.patch)
        self.norm = LayerNorm(config.widths[0], NORM_EPSILON["layer"])
        in_channels = (None, *config.widths[:-1])
        shapes = zip(in_channels, config.widths, config.depths, strict=True)
        self.blocks = nn.ModuleList(ConvNextStage(config, *shape) for shape in shapes)

    def forward(self, x: Tensor) -> Tensor:
        return self.stages(x)[-1]

    def stages(self, x: Tensor) -> list[Tensor]:
        return _run_stages(self.blocks, _norm_channels(self.norm, self.stem(x)))
