"""A step of the answers that a model writes, as a graph computes it: from kept keys and values to logits and new ones.

Legend of shapes: m layers, n examples, k answers of each, b = n · k, h key/value heads, c kept tokens, e width of a head,
v vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping as Dict
from dataclasses import replace

import torch
from torch import Tensor

from mapsto.model.kv_cache import KeyValueCache, Memory
from mapsto.model.mapping import Mapping
from mapsto.pretrained.exported.interface import KEYS, VALUES, StepInputs, head_names

# What a step is traced with: so many examples, answers of each, and earlier tokens. Sizes of 1 would be taken for constants.
EXAMPLES, ANSWERS, EARLIER_TOKENS = 3, 2, 5


class GraphCache(KeyValueCache):
    """A cache for a single step in a graph: it writes into no buffer, and answers may be differently long.

    new: keys and values (b, 1, h, e) of the new tokens by layer.
    """

    def _measure(self) -> None:
        # The buffers have no spare places.
        self.top, self.is_even = self.keys.shape[3] + 1, False
        self.new: list[tuple[Tensor, Tensor]] = []

    def begin_step(self) -> None:
        """Do nothing: there is no buffer to make room in."""

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return the keys and values of all tokens, (b, top, h, e), with the new ones (b, 1, h, e) at their answers' ends."""
        self.new.append((keys, values))
        is_new = (torch.arange(self.top, device=keys.device) == self.lengths[:, None])[:, :, None, None]
        first, second = (
            torch.where(is_new, new, torch.cat([kept[layer].transpose(1, 2), new], 1))
            for kept, new in ((self.keys, keys), (self.values, values))
        )
        return first, second

    def advance(self) -> None:
        """Do nothing: the cache is for one step."""


def compute_step(mapping: Mapping, inputs: Dict[str, Tensor], axes: int) -> dict[str, Tensor]:
    """Return the outputs of a step by name: logits (b, v), and keys and values (m, b, 1, h, e) of the tokens that it read.

    axes: number of axes of the positions of the tokens before.
    """
    step = StepInputs(**inputs)
    memory = None
    if step.memory_lengths is not None and step.memory_keys is not None and step.memory_values is not None:
        memory = Memory(step.memory_keys, step.memory_values, step.memory_lengths)
    keys, values = step.past_keys.flatten(1, 2), step.past_values.flatten(1, 2)
    cache = GraphCache(keys, values, step.past_lengths.flatten(), memory, axes)
    ((port, name),) = head_names(mapping).items()
    states = mapping.next_states(step.step_tokens.flatten(), mapping.targets[port].kind, cache)
    new_keys, new_values = map(torch.stack, zip(*cache.new, strict=True))
    return {name: mapping.next_logits(states, port), KEYS: new_keys, VALUES: new_values}


def step_inputs(mapping: Mapping) -> dict[str, Tensor]:
    """Return inputs of a step from which it is traced, with zeros for keys and values."""
    stack = mapping.config.answer_stack
    lengths = torch.arange(EXAMPLES * ANSWERS).clamp(max=EARLIER_TOKENS).view(EXAMPLES, ANSWERS)
    kept = torch.zeros(stack.layers, EXAMPLES, ANSWERS, stack.num_kv_heads, EARLIER_TOKENS, stack.width_per_head)
    inputs = StepInputs(0 * lengths, lengths, kept, kept.clone())
    if mapping.answer_decoder is not None:
        memory = torch.zeros(stack.layers, EXAMPLES, stack.heads, EARLIER_TOKENS + 1, stack.width_per_head)
        inputs = replace(
            inputs, memory_lengths=torch.arange(EXAMPLES) + 1, memory_keys=memory, memory_values=memory.clone()
        )
    return inputs.named()


def step_axes(tensor: Tensor) -> dict[int, object]:
    """Return the axes of an input of a step whose sizes differ between steps: numbers of examples, answers, and tokens."""
    first = 1 if tensor.ndim > 2 else 0  # behind the layers
    others = {1: (), 2: (1,), 5: (3,), 6: (2, 4)}[tensor.ndim]
    # Named, since all inputs have the same number of examples.
    return {first: torch.export.Dim("examples"), **dict.fromkeys(others, torch.export.Dim.DYNAMIC)}
