"""The mapping: sources → Transformer → targets, and the loss.

The pieces of an example are embedded and packed end to end. One Transformer computes the hidden states of all tokens. Each target
reads vectors from these states (task/readout.py), from which its head computes the outputs. With a decoder (MAE, He et al. 2022)
the Transformer reads only the visible tokens, which saves most of a step when three quarters of the tokens are hidden.

Legend of shapes: r rows, l row length, d width, n examples, m answers of one target.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping as Dict
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mapsto.device import INT4, choose_device, choose_prediction_precision
from mapsto.errors import UsageError
from mapsto.model.config import ModelConfig
from mapsto.model.encoder_decoder import attention_weights, encode_and_decode, start_decoding
from mapsto.model.familiarity import Familiarity
from mapsto.model.fit_record import FitRecord
from mapsto.model.kv_cache import Continuation, KeyValueCache, KeyValueLayers, Recorder
from mapsto.model.layers import Transform
from mapsto.model.mae_decoder import MAEDecoder
from mapsto.model.row_filter import RowFilter
from mapsto.model.transformer import Transformer, make_norm
from mapsto.model.vocabulary_head import VocabularyHead
from mapsto.sequence.batch import Batch
from mapsto.sequence.packing import drop_tokens
from mapsto.task.arrow import Arrow
from mapsto.task.generation import Generated, bind_target
from mapsto.task.source import Source
from mapsto.task.target import Target


class SkipInit(TorchFunctionMode):
    """A context in which torch.nn.init does nothing, so that new modules keep uninitialised weights.

    It saves a second when a saved model is opened, because the saved weights replace the initial ones anyway.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        # Functions of torch.nn.init return the tensor they fill; here they return it as it is.
        return kwargs["tensor"] if getattr(func, "__module__", "") == nn.init.__name__ else func(*args, **kwargs)


class Mapping(nn.Module):
    """The neural network of an arrow: an embedder for each source kind, one Transformer, and a head for each target port.

    sources: the source of each kind that is read, and then of each that is only generated, whose tokens it has.
    targets: the target of each target port, in the order of the ports.
    initialise_body: False leaves the weights of embedders and Transformer uninitialised, for the caller to fill.
    """

    # Whether the network's weights are here; an exported file computes without them.
    has_weights = True

    def __init__(
        self,
        arrow: Arrow,
        config: ModelConfig,
        sources: Dict[str, Source],
        targets: Sequence[Target],
        initialise_body: bool = True,
    ) -> None:
        super().__init__()
        self.arrow, self.config, self.sources, self.targets = arrow, config, dict(sources), list(targets)
        self.precision = torch.float32
        self.trained_with: str | None = None  # name of the optimizer, if mapsto trained the weights
        self.row_filters: tuple[RowFilter, ...] = ()  # of the rows that it and its starting models were fitted to
        self.fit_record: FitRecord | None = None  # of the fit that saved it, if it was opened from a folder
        self.familiarity: Familiarity | None = None  # with its training rows; None before a fit
        width = config.transformer.width
        read = {port.kind for port in arrow.sources}
        widths = {kind: (config.transformer if kind in read else config.answer_stack).input_width for kind in sources}
        with nullcontext() if initialise_body else SkipInit():
            self.embedders = nn.ModuleDict({kind: source.embedder(widths[kind]) for kind, source in sources.items()})
            self.transformer = Transformer(config.transformer)
            self.answer_decoder = None if config.answer_decoder is None else Transformer(config.answer_decoder)
        self.pooled_norm = make_norm(config.transformer) if config.pooled_norm else None
        is_restored = [port.restores is not None for port in arrow.targets]
        self.decoder: MAEDecoder | None = None
        if config.decoder is not None and any(is_restored):
            decoder_width = config.decoder.width
            positions = {kind: source.decoder_positions(decoder_width) for kind, source in self.sources.items()}
            self.decoder = MAEDecoder(width, config.decoder, positions)
        self.decoded_ports = [
            port for port, restored in enumerate(is_restored) if restored and self.decoder is not None
        ]
        has_pooled = any(target.readout.pooled for target in self.targets)
        self.pooler = Transform(width, config.pooler) if has_pooled and config.pooler else None
        # A head may depend on a source, such as on the size of its vocabulary, so targets are bound before heads are built.
        for target in self.targets:
            bind_target(target, self.sources, config, arrow)
        self.heads = nn.ModuleList(map(self._make_head, range(len(self.targets))))
        # Published weights that are never trained, such as a table of languages that is kept for other libraries.
        self.fixed = frozenset(name for name, parameter in self.named_parameters() if not parameter.requires_grad)

    @property
    def stacks(self) -> list[Transformer]:
        """Return the Transformer, and for an encoder–decoder the decoder of answers behind it."""
        return [self.transformer] if self.answer_decoder is None else [self.transformer, self.answer_decoder]

    @property
    def ports_per_example(self) -> list[int]:
        """Return the numbers of the target ports with exactly one answer for each example, such as label ports."""
        return [port for port, target in enumerate(self.targets) if target.readout.per_example]

    def forward(self, batch: Batch) -> list[Tensor]:
        """Return for each target port, in order, the outputs of its head, (m, …): one for each answer in the batch.

        For a batch without answers, as in prediction, the outputs are one for each example.
        """
        hidden = self.hidden(batch)
        return [self.read(hidden, batch, port) for port in range(len(self.targets))]

    def hidden(self, batch: Batch, embedded: Tensor | None = None) -> Tensor:
        """Return the hidden states (r, l, d) after the Transformer's last layer.

        They are zero for hidden tokens that a decoder restores, since the Transformer does not read these tokens.

        embedded: embedded tokens (r, l, input_width) to read instead of the batch's own; not allowed with an MAE decoder.
        """
        if self.answer_decoder is not None and bool(batch.is_answer.any()):
            x = self.embed(batch) if embedded is None else embedded
            return encode_and_decode(self.transformer, self.answer_decoder, x, batch)
        decoded_places = self.decoded_places(batch)
        if decoded_places is None:
            return self._last_states(self.embed(batch) if embedded is None else embedded, batch)
        assert embedded is None
        # The Transformer reads shorter rows without the hidden tokens. Its states then go back to the places of their tokens.
        visible, places = drop_tokens(batch, decoded_places)
        tokens = (visible.segments > 0).flatten().nonzero()[:, 0]
        states = F.embedding(tokens, self._last_states(self.embed(visible), visible).flatten(0, 1))
        hidden = states.new_zeros(batch.segments.numel(), states.shape[1])
        return hidden.index_copy(0, places, states).view(*batch.segments.shape, -1)

    def start_answers(
        self, batch: Batch, port: int, beginning: KeyValueLayers | None = None
    ) -> tuple[Tensor, KeyValueCache]:
        """Return the states (n, d) from which the first tokens of answers are predicted, and the cache with which they go on.

        batch: examples with the first tokens of their answers. port: number of the target port that is answered.
        beginning: from `read_beginning`, if the examples of the batch are what follows a shared beginning.
        """
        questions = batch.answers[port]
        assert questions is not None and questions.at is not None
        x = self.embed(batch)
        if self.answer_decoder is not None:
            hidden, cache = start_decoding(self.transformer, self.answer_decoder, x, batch)
        else:
            recorder = Recorder() if beginning is None else Continuation(beginning)
            lengths = batch.lengths + batch.answer_lengths
            hidden = self.transformer(x, batch, store=recorder)
            keys, values = recorder.gather(batch.starts, lengths)
            cache = KeyValueCache(keys, values, lengths + recorder.num_earlier, axes=batch.positions.shape[-1])
        return hidden.flatten(0, 1)[questions.at], cache

    def next_logits(self, states: Tensor, port: int) -> Tensor:
        """Return the logits (b, v) of the next token of each answer in fp32, from the states (b, d) that predict it."""
        logits: Tensor = self.heads[port](states)
        return logits.float()

    def read_sources(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return the hidden states (r, l, d) of a batch, and the keys and values of its tokens, (m, r, l, h, e) each.

        They are those that the tokens of an answer attend to in the m layers of the stack that writes it: by its self-attention,
        or by cross-attention in an encoder–decoder, whose batch has no tokens of answers.
        """
        recorder = Recorder()
        x = self.embed(batch)
        if self.answer_decoder is None:
            hidden = self.transformer(x, batch, store=recorder)
        else:
            hidden = self.transformer(x, batch)
            self.answer_decoder.record_sources(hidden, recorder)
        keys, values = map(torch.stack, zip(*recorder.layers, strict=True))
        return hidden, keys, values

    def attention_weights(self, batch: Batch, heads: Sequence[tuple[int, int]]) -> Tensor:
        """Return the weights (k, l, s) of heads of cross-attention; see `encoder_decoder.attention_weights`."""
        assert self.answer_decoder is not None, "only an encoder-decoder has cross-attention"
        return attention_weights(self.transformer, self.answer_decoder, self.embed(batch), batch, heads)

    @property
    def can_share_beginnings(self) -> bool:
        """Return whether the keys and values of a source's first tokens do not depend on what follows, nor on a distance."""
        config = self.config.transformer
        is_causal = config.causal and self.answer_decoder is None
        return is_causal and config.positions != "relative" and config.window is None

    def read_beginning(self, batch: Batch) -> KeyValueLayers:
        """Return the keys and values in all m layers, (m, 1, h, p, e) each, of the p tokens of a batch with one example.

        For a model with `can_share_beginnings`.
        """
        recorder = Recorder()
        self.transformer(self.embed(batch), batch, store=recorder)
        return recorder.gather(batch.starts, batch.lengths)

    def next_states(self, tokens: Tensor, kind: str, cache: KeyValueCache) -> Tensor:
        """Return the hidden states (b, d) of the next token of each answer, from which the token after it is predicted.

        tokens: (b,), ids of the kind `kind`. cache: keys and values of all earlier tokens, to which the new ones are added.
        """
        x = self.embedders[kind](tokens).to(self.precision)
        stack = self.transformer if self.answer_decoder is None else self.answer_decoder
        return stack.step(x, len(self.arrow.sources), cache)

    def decoded_places(self, batch: Batch) -> Tensor | None:
        """Return the indices (m,), among all r × l tokens, of hidden tokens that a decoder restores; None if there are none."""
        answers = [batch.answers[port] for port in self.decoded_ports] if batch.answers else []
        places = [answer.at for answer in answers if answer is not None and answer.at is not None]
        return torch.cat(places) if places else None

    def _make_head(self, port: int) -> nn.Module:
        """Return a new head for target port number `port`, without a bias if the family's heads of pooled vectors have none."""
        target, pooler = self.targets[port], self.config.pooler
        head = target.head(self._head_width(port), self.embedders[target.kind] if target.kind in self.sources else None)
        if target.readout.pooled and pooler is not None and not pooler.head_bias and isinstance(head, nn.Linear):
            head.register_parameter("bias", None)
        return head

    def _head_width(self, port: int) -> int:
        """Return the width of the vectors that the head of target port number `port` reads."""
        stack = self.config.decoder if port in self.decoded_ports else None
        token_width = (stack or self.config.transformer).width
        return self.targets[port].readout.width(self.config.pooled_width, token_width)

    def _last_states(self, x: Tensor, batch: Batch) -> Tensor:
        """Return the hidden states (r, l, d) after the last layer. x: embedded tokens of the batch, (r, l, input_width)."""
        states = self.states(x, batch)
        assert isinstance(states, Tensor)
        return states

    def states(self, x: Tensor, batch: Batch, every_layer: bool = False) -> Tensor | list[Tensor]:
        """Return the hidden states (r, l, d) after the last layer and its norm.

        x: embedded tokens of the batch, (r, l, input_width).
        every_layer: whether to return instead the list of the first layer's input and each layer's output, the last one normed.
        """
        mid_positions = self._mid_positions(batch) if self.config.mid_positions else None
        states: Tensor | list[Tensor] = self.transformer(x, batch, every_layer=every_layer, mid_positions=mid_positions)
        return states

    def _mid_positions(self, batch: Batch) -> Tensor:
        """Return the position embeddings that are added after each layer but the last (YOLOS), (layers - 1, r, l, d)."""
        shape, config = batch.segments.shape, self.config.transformer
        x = torch.zeros(
            config.layers - 1, shape.numel(), config.width, dtype=self.precision, device=batch.segments.device
        )
        for kind, tokens in batch.tokens.items():
            embedder: Any = self.embedders[kind]
            x = x.index_copy(1, batch.slots[kind], embedder.layer_positions(tokens).to(x.dtype))
        return x.view(config.layers - 1, *shape, -1)

    def embed(self, batch: Batch) -> Tensor:
        """Return the embedded tokens of a batch, (r, l, input_width); zero in padding."""
        r, length = batch.segments.shape
        device = batch.segments.device
        x = torch.zeros(r * length, self.config.transformer.input_width, dtype=self.precision, device=device)
        for kind, tokens in batch.tokens.items():
            x = x.index_copy(0, batch.slots[kind], self.embedders[kind](tokens).to(x.dtype))
        return x.view(r, length, -1)

    def read(self, hidden: Tensor, batch: Batch, port: int) -> Tensor:
        """Return the outputs of the head of target port number `port`: (m, …), one for each answer of the port in the batch.

        For a batch without answers, as in prediction, one for each example.
        hidden: hidden states (r, l, d) from `hidden`.
        """
        answers = batch.answers[port] if batch.answers else None
        pooled, tokens = partial(self.pooled_vectors, hidden, batch), partial(self._token_states, hidden, batch, port)
        vectors = self.targets[port].readout.vectors(pooled, tokens, answers)
        output: Tensor = self.heads[port](vectors)
        # A readout may pad the vectors, so the outputs of padding are cut off here.
        return output if answers is None else output[: answers.values.shape[0]]

    def _token_states(self, hidden: Tensor, batch: Batch, port: int) -> Tensor:
        """Return the states (r × l, d) of all tokens as the head of target port number `port` reads them.

        They are `hidden`, or the decoder's states, with d its width, if a decoder restores the hidden tokens of this port.
        """
        if self.decoder is not None and port in self.decoded_ports:
            places = self.decoded_places(batch)
            assert places is not None
            hidden = self.decoder(hidden, batch, places)
        return hidden.flatten(0, 1)

    def pooled_vectors(self, hidden: Tensor, batch: Batch) -> Tensor:
        """Return one vector for each example, as the heads read it: pooled, then mapped by the pooler if the model has one.

        The shape is (n, d), or (n, 2d) with the pooling "first_mean". hidden: hidden states (r, l, d) from `hidden`.
        """
        vectors = self.pool(hidden, batch)
        return vectors if self.pooler is None else self.pooler(vectors)

    def source_vectors(self, hidden: Tensor, batch: Batch) -> Tensor:
        """Return one vector for each example that stands for its sources, (n, d) or (n, 2d), such as for its familiarity.

        It is the pooled vector if a head reads that. Heads of tokens and generated answers train all hidden states alike, so
        there it is the mean over the tokens of the sources. hidden: hidden states (r, l, d) from `hidden`.
        """
        if any(target.readout.pooled for target in self.targets):
            return self.pooled_vectors(hidden, batch)
        return self.pool(hidden, batch, "mean")

    def sentence_vectors(self, hidden: Tensor, batch: Batch) -> Tensor:
        """Return one vector for each example, (n, d), for use outside this model, such as search.

        A published sentence encoder, or CLIP without heads, pools as in its own training. Any other model uses its own pooling,
        without the pooler, which is (n, 2d) for "first_mean".
        """
        sentence, norm = self.config.sentence, self.transformer.vector_norm
        # A published model without heads (CLIP) returns the first token after this norm. Heads read the states before it.
        if norm is not None and not self.targets:
            vectors: Tensor = norm(self.pool(hidden, batch, "first"))
            return vectors
        if sentence is None:
            return self.pool(hidden, batch)
        vectors = self.pool(hidden, batch, sentence.pooling)
        return F.normalize(vectors, dim=-1) if sentence.normalize else vectors

    def pool(self, hidden: Tensor, batch: Batch, pooling: str | None = None) -> Tensor:
        """Return one vector for each example, pooled from its hidden states, (n, d) in fp32, or (n, 2d) for "first_mean".

        pooling: name of the pooling, from `Pooling` in model/config.py. By default it is the model's own, followed by the trained
        norm that ConvNeXt has after its pooling.
        """
        vectors = self._pool(hidden, batch, pooling or self.config.pooling)
        if pooling is None and self.pooled_norm is not None:
            vectors = self.pooled_norm(vectors)
        return vectors

    def _pool(self, hidden: Tensor, batch: Batch, pooling: str) -> Tensor:
        """Return one vector for each example, pooled from its hidden states, in fp32: (n, d), or (n, 2d) for "first_mean".

        pooling: name of the pooling, from `Pooling` in model/config.py.
        """
        states = hidden.flatten(0, 1)
        first = states[batch.starts].float()
        if pooling == "first":
            return first
        if pooling == "last":
            return states[batch.starts + batch.lengths - 1].float()
        n = batch.starts.shape[0]
        # Tokens that are not source tokens, padding too, have the owner n; their sum is not used.
        sums = torch.zeros(n + 1, states.shape[1], device=states.device)
        sums = sums.index_add_(0, batch.owner.flatten(), states.float())
        # All tokens of a value without special tokens may be hidden. Its mean is then zero, not 0/0.
        lengths = batch.lengths_without(self.decoded_places(batch)).clamp(min=1)
        if pooling in ("prefix_mean", "rest_mean", "first_mean"):
            num_prefix = self.config.num_prefix_tokens
            prefix = torch.stack([states[batch.starts + offset].float() for offset in range(num_prefix)])
            if pooling == "prefix_mean":
                return prefix.mean(0)
            rest = sums[:n] - prefix.sum(0)
            rest = rest / (lengths - num_prefix).clamp(min=1)[:, None]
            return rest if pooling == "rest_mean" else torch.cat([first, rest], dim=-1)
        if pooling == "sum":
            return sums[:n]
        mean = sums[:n] / lengths[:, None]
        if pooling == "normed_mean":
            mean = F.layer_norm(mean, mean.shape[1:], eps=self.config.transformer.norm_epsilon)
        return mean

    def losses(self, batch: Batch) -> list[tuple[int, Tensor]]:
        """Return (number of the target port, weighted sum of its answers' losses) for each port that has answers in the batch."""
        hidden = self.hidden(batch)
        return [
            (port, answers.sum_weighted(self.targets[port].loss, self.read(hidden, batch, port)))
            for port, answers in enumerate(batch.answers)
            if answers is not None
        ]

    def device_for(self, name: str) -> torch.device:
        """Return the device called `name` on which the mapping predicts; "auto" chooses what suits the machine."""
        return choose_device(name)

    def for_prediction(self, device: torch.device, precision: str) -> Mapping:
        """Return a copy on `device` whose weights are converted once to `precision`, a name such as "auto" or "bf16".

        A copy, since the conversion changes the weights, and the caller may go on training.
        Raises UsageError for "int4" if no answer is generated: only steps of one token at a time gain by it.
        """
        quantize = precision == INT4
        if quantize and not any(isinstance(target, Generated) for target in self.targets):
            raise UsageError(
                f"--precision int4 is for models that generate their answers, unlike {self.arrow}; use auto, bf16 or fp32"
            )
        dtype = choose_prediction_precision(precision, device)
        mapping = copy.deepcopy(self).to(device).eval().compute_in(dtype)
        for stack in mapping.stacks:
            # An encoder reads many tokens at once.
            stack.pack(dtype, quantize=quantize and stack is mapping.stacks[-1])
        for head in mapping.heads:
            if isinstance(head, VocabularyHead):
                head.pack(dtype, quantize)
        return mapping

    def require_weights(self, purpose: str) -> None:
        """Raise UsageError if the mapping has no weights (an exported file), which are needed to do what `purpose` says."""

    def compute_in(self, precision: torch.dtype) -> Mapping:
        """Let all layers compute in `precision`, with the weights still in fp32, and return the mapping itself.

        A linear model always computes in fp32: it has no matrix product that another precision speeds up.
        """
        self.precision = torch.float32 if self.config.is_linear else precision
        return self
