"""Convolutional network over a waveform, the front of wav2vec 2.0 (Baevski et al. 2020), HuBERT, WavLM and Moonshine.

No convolution is padded, so a token depends on the samples of its receptive field alone (25 ms), with one exception: with a group
or clip norm, the first layer standardises over all of the clip, samples behind the last token included.
It holds about 2 kB of activations for each sample, and computes clips one at a time.

Legend of shapes: n clips, c channels, s samples, t tokens, d channels of the last layer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from mapsto.model.convolution import ConvolutionConfig, Network
from mapsto.model.layers import ACTIVATIONS, Activation, LayerNorm


@dataclass(frozen=True)
class WaveConfig(ConvolutionConfig):
    """Shape of a convolutional network over samples of one channel, with one convolution in each stage."""

    # Samples of the kernel and of the stride of each convolution.
    kernels: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    # Whether the convolutions have biases, and whether the first one has, if that differs.
    bias: bool = False
    first_bias: bool | None = None
    # A group norm of each channel over time behind the first convolution ("group"), a layer norm over channels behind each
    # ("layer"), or one norm over all channels and all of the clip, behind the activation of the first layer ("clip").
    norm: Literal["group", "layer", "clip"] = "group"
    # Activation of the layers, and of the first one, if that differs.
    activation: Activation = "gelu"
    first_activation: Activation | None = None
    # Whether a linear map to the width of the Transformer follows, and the epsilon of the layer norm before it; None: no norm.
    projected: bool = True
    projection_epsilon: float | None = 1e-5

    def __str__(self) -> str:
        return f"a convolutional network over samples: one token for {self.stride}, which reads {self.field}"

    @property
    def num_indices(self) -> int:
        # Published names number the convolutions in one sequence.
        return len(self.widths)

    @property
    def stride(self) -> int:
        """Samples from one token to the next."""
        return math.prod(self.strides)

    @property
    def field(self) -> int:
        """Samples that a token depends on (its receptive field)."""
        size, stride = 1, 1
        for kernel, step in zip(self.kernels, self.strides, strict=True):
            size, stride = size + (kernel - 1) * stride, stride * step
        return size

    def has_bias(self, layer: int) -> bool:
        """Return whether the convolution of a layer, from 0, has a bias."""
        return self.bias if layer or self.first_bias is None else self.first_bias

    def activation_of(self, layer: int) -> Activation:
        """Return the activation of a layer, from 0."""
        return self.activation if layer or self.first_activation is None else self.first_activation

    def num_tokens(self, num_samples: int) -> int:
        """Return the number of tokens of a clip of at least `field` samples."""
        return (num_samples - self.field) // self.stride + 1

    def network(self) -> Network:
        return WaveNetwork(self)


class WaveLayer(nn.Module):
    """A convolution and an activation, with a norm if the configuration has one in this layer: (n, c, s) → (n, d, t)."""

    def __init__(self, config: WaveConfig, layer: int) -> None:
        super().__init__()
        width, self.activation = config.widths[layer], config.activation_of(layer)
        in_channels = config.widths[layer - 1] if layer else 1
        kernel, stride = config.kernels[layer], config.strides[layer]
        self.conv = nn.Conv1d(in_channels, width, kernel, stride, bias=config.has_bias(layer))
        nn.init.kaiming_normal_(self.conv.weight)
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)
        self.norm: nn.Module | None = None
        if config.norm == "layer":
            self.norm = LayerNorm(width)
        elif layer == 0:
            self.norm = nn.GroupNorm(1 if config.norm == "clip" else width, width)
        self.is_normed_last = config.norm == "clip"

    def forward(self, x: Tensor) -> Tensor:
        x, activate = self.conv(x), ACTIVATIONS[self.activation]
        return self._normalise(activate(x)) if self.is_normed_last else activate(self._normalise(x))

    def _normalise(self, x: Tensor) -> Tensor:
        """Return x (n, d, t) behind the norm, or x itself if the layer has none."""
        if self.norm is None:
            return x
        normed: Tensor = (
            self.norm(x.transpose(1, 2)).transpose(1, 2) if isinstance(self.norm, LayerNorm) else self.norm(x)
        )
        return normed


class WaveNetwork(Network):
    """The convolutions over a waveform, (n, 1, s) → (n, d, t)."""

    def __init__(self, config: WaveConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(WaveLayer(config, layer) for layer in range(len(config.widths)))

    def forward(self, x: Tensor) -> Tensor:
        # Not by `stages`, which would keep the outputs of all layers.
        for layer in self.blocks:
            x = layer(x)
        return x

    def stages(self, x: Tensor) -> list[Tensor]:
        outputs = []
        for layer in self.blocks:
            x = layer(x)
            outputs.append(x)
        return outputs
