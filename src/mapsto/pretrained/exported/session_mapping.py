"""A mapping whose network is an exported graph: it reads and answers like any other, but has no weights in torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mapsto.errors import UsageError
from mapsto.model.encoder_decoder import separate
from mapsto.model.kv_cache import KeyValueCache, KeyValueLayers, Memory, Recorder
from mapsto.model.mapping import Mapping
from mapsto.pretrained.exported.interface import (
    FAMILIARITY,
    HIDDEN,
    IS_STEP,
    KEYS,
    VALUES,
    VECTOR,
    StepInputs,
    batch_inputs,
    head_names,
    to_arrays,
    to_tensors,
)
from mapsto.pretrained.exported.session import Session
from mapsto.sequence.batch import Batch


class States(Tensor):
    """Hidden states (r, l, d) that carry the other outputs of the graph, which computed all of them in one run."""

    outputs: dict[str, Tensor]
    # Operations on the states return plain tensors.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]


class SessionMapping(Mapping):
    """A mapping that computes by a session of an exported graph, on the CPU.

    skeleton: the mapping whose graph it is, with weights on the meta device. session: computes the graph.
    path: the exported file, for messages.
    """

    has_weights = False

    def __init__(self, skeleton: Mapping, session: Session, path: Path) -> None:
        with torch.device("meta"):
            super().__init__(skeleton.arrow, skeleton.config, skeleton.sources, skeleton.targets, False)
        self.session, self.path = session, path
        self.fit_record, self.familiarity = skeleton.fit_record, skeleton.familiarity
        self.trained_with, self.row_filters = skeleton.trained_with, skeleton.row_filters
        self.eval()

    def device_for(self, name: str) -> torch.device:
        """Return the CPU. Raises UsageError for the name of another device."""
        if name not in ("auto", "cpu"):
            raise UsageError(f"{self.path} computes on the CPU, not on {name}: leave --device out")
        return torch.device("cpu")

    def for_prediction(self, device: torch.device, precision: str) -> Mapping:
        """Return the mapping itself, which predicts in the precision of its file. Raises UsageError for another precision."""
        if precision not in ("auto", "fp32"):
            raise UsageError(f"{self.path} computes in its own precision, not in {precision}: leave --precision out")
        return self

    def hidden(self, batch: Batch, embedded: Tensor | None = None) -> Tensor:
        if embedded is not None:
            self.require_weights("compute from embeddings")
        outputs = to_tensors(self.session.run(to_arrays(batch_inputs(self, batch))))
        states = outputs[HIDDEN].as_subclass(States)
        states.outputs = outputs
        return states

    can_share_beginnings = False  # each example is read as a whole

    def start_answers(
        self, batch: Batch, port: int, beginning: KeyValueLayers | None = None
    ) -> tuple[Tensor, KeyValueCache]:
        """Return the logits (n, v) of the first token of each answer, and the cache with which the answers go on.

        The states of other mappings are logits here, since the graph has the head too.
        """
        assert beginning is None
        if self.config.answer_decoder is None:
            lengths = batch.lengths + batch.answer_lengths
            logits, recorder = self._read_sources(batch, port)
            return logits, KeyValueCache(*recorder.gather(batch.starts, lengths), lengths)
        sources, _ = separate(batch)
        _, recorder = self._read_sources(replace(sources.batch, answers=()), port)
        memory = Memory(*recorder.gather(sources.starts(batch.starts), batch.lengths), batch.lengths)
        empty = torch.from_numpy(self.session.empty("past_keys", len(batch.lengths), 1)).flatten(1, 2)
        cache = KeyValueCache(empty, empty, torch.zeros_like(batch.lengths), memory)
        # All answers begin with the same number of tokens.
        kind = self.targets[port].kind
        tokens = torch.zeros(batch.segments.numel(), dtype=torch.long)
        tokens[batch.slots[kind]] = batch.tokens[kind].long()
        for offset in range(int(batch.answer_lengths.max())):
            logits = self.next_states(tokens[batch.starts + batch.lengths + offset], kind, cache)
        return logits, cache

    def _read_sources(self, batch: Batch, port: int) -> tuple[Tensor, Recorder]:
        """Return the logits of the answers of a batch, and a recorder with the keys and values of its tokens."""
        outputs = to_tensors(self.session.run(to_arrays(batch_inputs(self, batch))))
        recorder = Recorder()
        recorder.layers = list(zip(outputs[KEYS], outputs[VALUES], strict=True))
        return outputs[head_names(self)[port]], recorder

    def next_states(self, tokens: Tensor, kind: str, cache: KeyValueCache) -> Tensor:
        """Return the logits (b, v) of the token after the next one of each answer, which is added to the cache."""
        num_examples = len(tokens) if cache.memory is None else len(cache.memory.lengths)
        # Answers to one example, as in a beam search, share the keys and values of its sources.
        grouped = num_examples, len(tokens) // num_examples
        keys, values = (
            kept[:, :, :, : cache.top - 1].view(len(kept), *grouped, *kept.shape[2:3], cache.top - 1, kept.shape[4])
            for kept in (cache.keys, cache.values)
        )
        memory = cache.memory
        of_sources = () if memory is None else (memory.lengths, memory.keys, memory.values)
        step = StepInputs(tokens.view(grouped), cache.lengths.view(grouped), keys, values, *of_sources)
        inputs = {IS_STEP: torch.tensor([True]), **step.named()}
        outputs = to_tensors(self.session.run(to_arrays(inputs)))
        cache.append(outputs[KEYS], outputs[VALUES])
        (name,) = head_names(self).values()
        return outputs[name]

    def next_logits(self, states: Tensor, port: int) -> Tensor:
        return states

    def attention_weights(self, batch: Batch, heads: Sequence[tuple[int, int]]) -> Tensor:
        self.require_weights("say when each word is said")
        raise AssertionError

    def read(self, hidden: Tensor, batch: Batch, port: int) -> Tensor:
        output = _outputs(hidden)[head_names(self)[port]]
        answers = batch.answers[port] if batch.answers else None
        if answers is None or not self.targets[port].readout.pooled:
            return output
        return output[answers.examples]

    def sentence_vectors(self, hidden: Tensor, batch: Batch) -> Tensor:
        return _outputs(hidden)[VECTOR]

    def source_vectors(self, hidden: Tensor, batch: Batch) -> Tensor:
        return _outputs(hidden)[FAMILIARITY]

    def pool(self, hidden: Tensor, batch: Batch, pooling: str | None = None) -> Tensor:
        if pooling is None:
            self.require_weights("pool")
        return self._pool(hidden.as_subclass(Tensor), batch, pooling or self.config.pooling)

    def embed(self, batch: Batch) -> Tensor:
        self.require_weights("compute embeddings of tokens")
        raise AssertionError

    def require_weights(self, purpose: str) -> None:
        raise UsageError(
            f"{self.path} is an exported file, which predicts, embeds and evaluates; to {purpose}, use the folder that it was "
            "exported from"
        )

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Mapping:
        # Moves and conversions of weights come before whatever needs them.
        self.require_weights("explain, train or convert")
        raise AssertionError


def _outputs(hidden: Tensor) -> dict[str, Tensor]:
    """Return the outputs of the run that computed these hidden states."""
    assert isinstance(hidden, States)
    return hidden.outputs
