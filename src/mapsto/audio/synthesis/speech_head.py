"""Compute the log-mel frames of speech, and how long each token is spoken, from the hidden states of a text's tokens.

The frames of a token begin as copies of its hidden state (the length regulator of FastSpeech, Ren et al. 2019), with the place
of each frame in its token. Layers of ConvNeXt (Liu et al. 2022) along time, as in Vocos (Siuzdak 2023), then make them a sound.
Legend of shapes: m rows that are read (the tokens of an example, then its steps of time, and so on for the next one), d width, k
places (the steps of all examples, with empty places between examples), f numbers of a step of time.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mapsto.model.layers import LayerNorm, Linear
from mapsto.task.readout import NUM_TIMES

# Layers of the head, steps of time that a layer reads, and the factor by which its feed-forward part is wider than the head.
LAYERS, KERNEL, EXPANSION = 6, 7, 4


class SpeechLayer(nn.Module):
    """Layer of the head: depthwise convolution along time, norm and feed-forward part, with a residual connection."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(width, width, KERNEL, padding=KERNEL // 2, groups=width)
        self.norm = LayerNorm(width)
        self.up, self.down = Linear(width, EXPANSION * width), Linear(EXPANSION * width, width)
        for module in (self.up, self.down):
            nn.init.normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)

    def forward(self, x: Tensor, is_step: Tensor) -> Tensor:
        """Return the next states (k, d). is_step: (k, 1), 1 where a place holds a step of time, and 0 where it is empty."""
        kernel, bias = self.convolution.weight.to(x.dtype), self.convolution.bias
        assert bias is not None
        steps = (x * is_step).T[None]
        surroundings = F.conv1d(steps, kernel, bias.to(x.dtype), padding=KERNEL // 2, groups=x.shape[1])[0].T
        out: Tensor = x + self.down(self.up(self.norm(surroundings), "gelu"))
        return out


class SpeechHead(nn.Module):
    """The head of spoken texts: (m, d + NUM_TIMES) → (m, f).

    A token's output is the logarithm of 1 + its frames, in the first of f numbers; that of a step of time are its log-mel frames,
    standardised. width: d. out: f.
    """

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.projection, self.place = Linear(width, width), Linear(NUM_TIMES - 1, width)
        self.blocks = nn.ModuleList(SpeechLayer(width) for _ in range(LAYERS))
        self.norm, self.frames = LayerNorm(width), Linear(width, out)
        self.duration_hidden, self.duration = Linear(width, width), Linear(width, 1)

    def forward(self, vectors: Tensor) -> Tensor:
        states, times = vectors[:, :-NUM_TIMES], vectors[:, -NUM_TIMES:]
        durations = self.duration(self.duration_hidden(states, "gelu")).float()
        output = F.pad(durations, (0, self.frames.out_features - 1))
        is_step = times[:, 0] > 0
        steps = is_step.nonzero()[:, 0]
        if not len(steps):
            return output
        # Behind the tokens of an example its steps begin. As many places as a step reads around itself stay empty before them, so
        # that none reads another example.
        begins = is_step & ~F.pad(is_step[:-1], (1, 0))
        places = torch.arange(len(steps), device=steps.device) + KERNEL // 2 * begins.cumsum(0)[steps]
        x = self.projection(F.embedding(steps, states)) + self.place(F.embedding(steps, times[:, 1:].contiguous()))
        x = x.new_zeros(int(places[-1]) + 1, x.shape[1]).index_copy(0, places, x)
        mask = x.new_zeros(len(x), 1).index_fill(0, places, 1.0)
        for block in self.blocks:
            x = block(x, mask)
        return output.index_copy(0, steps, self.frames(self.norm(F.embedding(places, x))).float())
