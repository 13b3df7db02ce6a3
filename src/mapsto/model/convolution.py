"""Published convolutional networks, as what stands in front of a Transformer: from pictures to a grid of features.

A network has a `stem`, where there is one, and `blocks`, so that rates by layer and names of weights find its stages.
Legend of shapes: n pictures, c channels, h rows, w columns, d width of the last grid.
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


BOTTLENECK, WIDENED = 4, 4


class Network(nn.Module, ABC):
    """What makes a grid of features of pictures."""

    @abstractmethod
    def stages(self, x: Tensor) -> list[Tensor]:
        """What each stage makes of pictures (n, 3, h, w), (n, c, h, w) each; of a VGG before it is halved."""


@dataclass(frozen=True)
class ConvolutionConfig(ABC):
    """What the networks share. widths, depths: channels and layers of each stage."""

    widths: tuple[int, ...]
    depths: tuple[int, ...]

    def __str__(self) -> str:
        layers = ", ".join(map(str, self.depths))
        return f"a convolutional network of {layers} layers, one cell for {self.stride} × {self.stride} pixels"

    @property
    def width(self) -> int:
        """Channels of the last grid."""
        return self.widths[-1]

    @property
    def counted(self) -> int:
        """How far names of weights count what stands in one stage."""
        return max(self.depths)

    @property
    @abstractmethod
    def stride(self) -> int:
        """Pixels along a side of what one cell of the last grid stands for."""

    @abstractmethod
    def network(self) -> Network:
        """(n, 3, h, w) → (n, d, h / stride, w / stride), for sides that are multiples of the stride."""


@dataclass(frozen=True)
class PlainConfig(ConvolutionConfig):
    """VGG (Simonyan & Zisserman 2015) up to its classifier. normed: whether each convolution is normalised."""

    normed: bool = False

    @property
    def counted(self) -> int:
        return sum(self.depths) * (3 if self.normed else 2) + len(self.depths)

    @property
    def stride(self) -> int:
        return 1 << len(self.depths)

    def network(self) -> Network:
        return Plain(self)


@dataclass(frozen=True)
class ResidualConfig(ConvolutionConfig):
    """ResNet (He et al. 2016). stem: channels in front of the stages. bottleneck: layers of three convolutions, not two.
    halved_at_once: the first stage halves the grid too. halved_early: a bottleneck does it in its first convolution."""

    stem: int = 64
    bottleneck: bool = True
    halved_at_once: bool = False
    halved_early: bool = False

    @property
    def stride(self) -> int:
        return 1 << (len(self.depths) + 1 + self.halved_at_once)

    def network(self) -> Network:
        return Residual(self)


@dataclass(frozen=True)
class ConvNextConfig(ConvolutionConfig):
    """ConvNeXt (Liu et al. 2022). patch: pixels along a side of what the stem maps. scale: what each layer is multiplied by at
    first before it is added; None where it is added as it is."""

    patch: int = 4
    activation: Activation = "gelu"
    scale: float | None = 1e-6

    @property
    def stride(self) -> int:
        return self.patch << (len(self.depths) - 1)

    def network(self) -> Network:
        return ConvNext(self)


class BatchNorm(nn.Module):
    """Batch normalisation by the statistics that come with the weights, in training too, as in DETR (Carion et al. 2020): scale
    and shift learn, the statistics stay, so that no picture depends on those beside it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.running_mean = nn.Parameter(torch.zeros(width), requires_grad=False)
        self.running_var = nn.Parameter(torch.ones(width), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=NORM_EPSILON["batch"])


def _convolution(into: int, out: int, side: int, stride: int = 1, bias: bool = False) -> nn.Conv2d:
    """One that keeps the grid, but for its stride, and at first the spread of what goes through a ReLU (He et al. 2015)."""
    made = nn.Conv2d(into, out, side, stride, padding=side // 2, bias=bias)
    nn.init.kaiming_normal_(made.weight, mode="fan_out", nonlinearity="relu")
    if made.bias is not None:
        nn.init.zeros_(made.bias)
    return made


class Plain(Network):
    """Stages of 3 × 3 convolutions, each stage halved at its end; numbered through, as they are published."""

    def __init__(self, config: PlainConfig) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        into = 3
        for width, depth in zip(config.widths, config.depths, strict=True):
            for _ in range(depth):
                parts.append(_convolution(into, width, 3, bias=True))
                parts += [BatchNorm(width)] if config.normed else []
                parts.append(nn.ReLU())
                into = width
            parts.append(nn.MaxPool2d(2))
        self.blocks = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.blocks(x)
        return out

    def stages(self, x: Tensor) -> list[Tensor]:
        found = []
        for part in self.blocks:
            if isinstance(part, nn.MaxPool2d):
                found.append(x)
            x = part(x)
        return found


class Normed(nn.Module):
    """A convolution without bias, normalised."""

    def __init__(self, into: int, out: int, side: int, stride: int = 1) -> None:
        super().__init__()
        self.convolution = _convolution(into, out, side, stride)
        self.norm = BatchNorm(out)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.convolution(x))
        return out


class ResidualLayer(nn.Module):
    """Convolutions whose result is added to what came in; nothing at first, so that random weights of any depth can learn
    although nothing is normalised by its own statistics (Goyal et al. 2017)."""

    def __init__(self, config: ResidualConfig, into: int, out: int, stride: int) -> None:
        super().__init__()
        if config.bottleneck:
            inner = out // BOTTLENECK
            first, second = (stride, 1) if config.halved_early else (1, stride)
            parts = [Normed(into, inner, 1, first), Normed(inner, inner, 3, second), Normed(inner, out, 1)]
        else:
            parts = [Normed(into, out, 3, stride), Normed(out, out, 3)]
        self.parts = nn.ModuleList(parts)
        self.shortcut = Normed(into, out, 1, stride) if into != out or stride > 1 else nn.Identity()
        nn.init.zeros_(parts[-1].norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        *inner, last = self.parts
        y = x
        for part in inner:
            y = F.relu(part(y))
        return F.relu(last(y) + self.shortcut(x))


class Residual(Network):
    """A wide convolution and a pool, which make the grid four times smaller, and the stages."""

    def __init__(self, config: ResidualConfig) -> None:
        super().__init__()
        self.stem = Normed(3, config.stem, 7, 2)
        stages = []
        into = config.stem
        for stage, (width, depth) in enumerate(zip(config.widths, config.depths, strict=True)):
            stride = 2 if stage or config.halved_at_once else 1
            first = ResidualLayer(config, into, width, stride)
            stages.append(nn.Sequential(first, *(ResidualLayer(config, width, width, 1) for _ in range(depth - 1))))
            into = width
        self.blocks = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> Tensor:
        return self.stages(x)[-1]

    def stages(self, x: Tensor) -> list[Tensor]:
        x = F.max_pool2d(F.relu(self.stem(x)), 3, stride=2, padding=1)
        return _each(self.blocks, x)


def _shrinking(into: int, out: int, side: int) -> nn.Conv2d:
    """A linear map of what stands in squares of `side`."""
    made = nn.Conv2d(into, out, side, side)
    nn.init.normal_(made.weight, std=0.02)
    nn.init.zeros_(made.bias)  # type: ignore[arg-type]
    return made


def _each(stages: Iterable[nn.Module], x: Tensor) -> list[Tensor]:
    """What each stage makes of what the one before it made."""
    found = []
    for stage in stages:
        x = stage(x)
        found.append(x)
    return found


def _of_channels(norm: nn.Module, x: Tensor) -> Tensor:
    """`norm` over the channels of (n, c, h, w)."""
    out: Tensor = norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return out


class ConvNextLayer(nn.Module):
    """What each channel has around it, normalised, through a wide layer, added to what came in."""

    def __init__(self, config: ConvNextConfig, width: int) -> None:
        super().__init__()
        self.activation = config.activation
        self.around = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = LayerNorm(width, NORM_EPSILON["layer"])
        self.up, self.down = Linear(width, WIDENED * width), Linear(WIDENED * width, width)
        self.scale = None if config.scale is None else nn.Parameter(torch.full((width,), config.scale))
        for part in (self.around, self.up, self.down):
            nn.init.normal_(part.weight, std=0.02)
            nn.init.zeros_(part.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        y = self.down(self.up(self.norm(self.around(x).permute(0, 2, 3, 1)), self.activation))
        y = y if self.scale is None else y * self.scale
        return torch.add(x, y.permute(0, 3, 1, 2))


class ConvNextStage(nn.Module):
    """Layers behind a normalised halving of the grid, where it is halved."""

    def __init__(self, config: ConvNextConfig, into: int | None, width: int, depth: int) -> None:
        super().__init__()
        self.norm = None if into is None else LayerNorm(into, NORM_EPSILON["layer"])
        self.halving = None if into is None else _shrinking(into, width, 2)
        self.layers = nn.Sequential(*(ConvNextLayer(config, width) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        if self.norm is not None and self.halving is not None:
            x = self.halving(_of_channels(self.norm, x))
        out: Tensor = self.layers(x)
        return out


class ConvNext(Network):
    """A linear map of small patches, normalised, and the stages."""

    def __init__(self, config: ConvNextConfig) -> None:
        super().__init__()
        self.stem = _shrinking(3, config.widths[0], config.patch)
        self.norm = LayerNorm(config.widths[0], NORM_EPSILON["layer"])
        before = (None, *config.widths[:-1])
        shapes = zip(before, config.widths, config.depths, strict=True)
        self.blocks = nn.ModuleList(ConvNextStage(config, *shape) for shape in shapes)

    def forward(self, x: Tensor) -> Tensor:
        return self.stages(x)[-1]

    def stages(self, x: Tensor) -> list[Tensor]:
        return _each(self.blocks, _of_channels(self.norm, self.stem(x)))
