"""The mapping: sources → Transformer → targets, and the loss.

Legend of shapes: r rows, l row length, d width, n examples, m answers of one target.
"""

from __future__ import annotations

from collections.abc import Mapping as Dict
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mapsto.model.config import ModelConfig
from mapsto.model.layers import Transform
from mapsto.model.mae_decoder import MAEDecoder
from mapsto.model.transformer import Transformer, make_norm
from mapsto.sequence.batch import Batch
from mapsto.sequence.packing import shown
from mapsto.task.arrow import Arrow
from mapsto.task.source import Source
from mapsto.task.target import Target


class Unset(TorchFunctionMode):
    """Modules made inside get no first values, which cost time (a second of a cold start), for weights that are read anyway."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        return kwargs["tensor"] if getattr(func, "__module__", "") == nn.init.__name__ else func(*args, **kwargs)


class Mapping(nn.Module):
    """An arrow made flesh. `sources` has one entry for each source kind, `targets` one for each target port."""

    def __init__(
        self, arrow: Arrow, config: ModelConfig, sources: Dict[str, Source], targets: Sequence[Target]
    ) -> None:
        super().__init__()
        self.arrow, self.config, self.sources, self.targets = arrow, config, dict(sources), list(targets)
        self.precision = torch.float32
        self.trained_with: str | None = None  # the optimizer, where mapsto trained it
        width = config.transformer.width
        embedded = config.transformer.input_width
        self.embedders = nn.ModuleDict({kind: source.embedder(embedded) for kind, source in self.sources.items()})
        self.transformer = Transformer(config.transformer)
        self.pooled_norm = make_norm(config.transformer) if config.pooled_norm else None
        small, restored = config.decoder, [port.restores is not None for port in arrow.targets]
        self.decoder: MAEDecoder | None = None
        if small is not None and any(restored):
            places = {kind: source.decoder_positions(small.width) for kind, source in self.sources.items()}
            self.decoder = MAEDecoder(width, small, places)
        self.decoded = [port for port, hidden in enumerate(restored) if hidden and self.decoder is not None]
        pooled = any(target.readout.pooled for target in self.targets)
        self.pooler = Transform(width, config.pooler) if pooled and config.pooler else None
        for target in self.targets:
            target.bind(self.sources, config.vocabulary_head)
        self.heads = nn.ModuleList(
            target.head(
                self._read_width(port),
                self.embedders[target.kind] if target.kind in self.sources else None,
            )
            for port, target in enumerate(self.targets)
        )
        # Published weights that no training changes, such as a table of languages that is kept for others.
        self.fixed = frozenset(name for name, parameter in self.named_parameters() if not parameter.requires_grad)

    @property
    def ports_per_example(self) -> list[int]:
        """Return the target ports that give one answer an example."""
        return [port for port, target in enumerate(self.targets) if target.readout.per_example]

    def forward(self, batch: Batch) -> list[Tensor]:
        """The output (m, …) of every target: embed the pieces, run the Transformer, read out."""
        hidden = self.hidden(batch)
        return [self.read(hidden, batch, port) for port in range(len(self.targets))]

    def hidden(self, batch: Batch, embedded: Tensor | None = None) -> Tensor:
        """Hidden states (r, l, d); of `embedded` (r, l, input_width) where that stands in for the batch's own tokens. What a
        decoder puts back is not read, and zero."""
        at = self.taken(batch)
        if at is None:
            x = self.embed(batch) if embedded is None else embedded
            return self._last(x, batch)
        assert embedded is None
        left, stood = shown(batch, at)
        states = F.embedding(
            (left.segments > 0).flatten().nonzero()[:, 0], self._last(self.embed(left), left).flatten(0, 1)
        )
        room = states.new_zeros(batch.segments.numel(), states.shape[1])
        return room.index_copy(0, stood, states).view(*batch.segments.shape, -1)

    def taken(self, batch: Batch) -> Tensor | None:
        """The flat places (m,) of hidden tokens that a decoder puts back; None without a decoder, or such tokens."""
        asked = [readout.at for port in self.decoded if batch.answers and (readout := batch.answers[port]) is not None]
        found = [at for at in asked if at is not None]
        return torch.cat(found) if found else None

    def _read_width(self, port: int) -> int:
        """Width of the vectors that the head of a target port reads."""
        shape = self.config.decoder if port in self.decoded else None
        token_width = (shape or self.config.transformer).width
        return self.targets[port].readout.width(self.config.pooled_width, token_width)

    def _last(self, x: Tensor, batch: Batch) -> Tensor:
        out = self.states(x, batch)
        assert isinstance(out, Tensor)
        return out

    def states(self, x: Tensor, batch: Batch, every_layer: bool = False) -> Tensor | list[Tensor]:
        """What the Transformer makes of embedded tokens `x`; see there."""
        between = self._between(batch) if self.config.mid_positions else None
        out: Tensor | list[Tensor] = self.transformer(x, batch, every_layer=every_layer, mid_positions=between)
        return out

    def _between(self, batch: Batch) -> Tensor:
        """What is added behind every layer but the last, (layers - 1, r, l, d)."""
        shape, config = batch.segments.shape, self.config.transformer
        x = torch.zeros(
            config.layers - 1, shape.numel(), config.width, dtype=self.precision, device=batch.segments.device
        )
        for kind, tokens in batch.tokens.items():
            embedder: Any = self.embedders[kind]
            x = x.index_copy(1, batch.slots[kind], embedder.layer_positions(tokens).to(x.dtype))
        return x.view(config.layers - 1, *shape, -1)

    def embed(self, batch: Batch) -> Tensor:
        """Embedded tokens of all kinds, (r, l, input_width), zero in padding."""
        r, length = batch.segments.shape
        device = batch.segments.device
        x = torch.zeros(r * length, self.config.transformer.input_width, dtype=self.precision, device=device)
        for kind, tokens in batch.tokens.items():
            x = x.index_copy(0, batch.slots[kind], self.embedders[kind](tokens).to(x.dtype))
        return x.view(r, length, -1)

    def read(self, hidden: Tensor, batch: Batch, port: int) -> Tensor:
        """Return the outputs (m, …) of target `port`: where the batch asks it, or for every example."""
        answers = batch.answers[port] if batch.answers else None
        pooled, tokens = partial(self.summary, hidden, batch), partial(self._token_states, hidden, batch, port)
        vectors = self.targets[port].readout.vectors(pooled, tokens, answers)
        out: Tensor = self.heads[port](vectors)
        return out if answers is None else out[: len(answers.values)]

    def _token_states(self, hidden: Tensor, batch: Batch, port: int) -> Tensor:
        """Return the states (r·l, d) of all places that the head of target `port` reads, behind the decoder where it has one."""
        if self.decoder is not None and port in self.decoded:
            places = self.taken(batch)
            assert places is not None
            hidden = self.decoder(hidden, batch, places)
        return hidden.flatten(0, 1)

    def summary(self, hidden: Tensor, batch: Batch) -> Tensor:
        """What pooled heads read of every example, (n, d): its pooled vector, through the pooler where there is one."""
        vectors = self.pool(hidden, batch)
        return vectors if self.pooler is None else self.pooler(vectors)

    def sentence(self, hidden: Tensor, batch: Batch) -> Tensor:
        """One vector an example, (n, d), as the sentence encoder or the bare model was trained to give it, else as the model
        pools."""
        said, norm = self.config.sentence, self.transformer.vector_norm
        if norm is not None and not self.targets:
            of_first: Tensor = norm(self.pool(hidden, batch, "first"))
            return of_first
        if said is None:
            return self.pool(hidden, batch)
        vectors = self.pool(hidden, batch, said.pooling)
        return F.normalize(vectors, dim=-1) if said.normalize else vectors

    def pool(self, hidden: Tensor, batch: Batch, pooling: str | None = None) -> Tensor:
        """One vector an example, (n, d) in fp32, read as `pooling` says; by default as the model does, through its norm too."""
        vectors = self._pooled(hidden, batch, pooling or self.config.pooling)
        if pooling is None and self.pooled_norm is not None:
            vectors = self.pooled_norm(vectors)
        return vectors

    def _pooled(self, hidden: Tensor, batch: Batch, pooling: str) -> Tensor:
        flat = hidden.flatten(0, 1)
        first = flat[batch.starts].float()
        if pooling == "first":
            return first
        n = len(batch.starts)
        sums = torch.zeros(n + 1, flat.shape[1], device=flat.device).index_add_(0, batch.owner.flatten(), flat.float())
        # Of values without a frame everything may be hidden.
        lengths = batch.lengths_without(self.taken(batch)).clamp(min=1)
        if pooling in ("rest_mean", "first_mean"):
            frames = [flat[batch.starts + at].float() for at in range(self.config.num_prefix_tokens)]
            rest = sums[:n] - torch.stack(frames).sum(0)
            rest = rest / (lengths - self.config.num_prefix_tokens).clamp(min=1)[:, None]
            return rest if pooling == "rest_mean" else torch.cat([first, rest], dim=-1)
        mean = sums[:n] / lengths[:, None]
        if pooling == "normed_mean":
            mean = F.layer_norm(mean, mean.shape[1:], eps=self.config.transformer.norm_epsilon)
        return mean

    def losses(self, batch: Batch) -> list[tuple[int, Tensor]]:
        """For every target port the batch has answers for, the sum of its losses."""
        hidden = self.hidden(batch)
        return [
            (port, self.targets[port].loss(self.read(hidden, batch, port), readout.values))
            for port, readout in enumerate(batch.answers)
            if readout is not None
        ]

    def computing_in(self, precision: torch.dtype) -> Mapping:
        """Compute in `precision`; the weights stay as they are (see transformer.Linear)."""
        self.precision = precision
        return self
