"""The starting model of a run (`--start`, `--like`): its sources (tokenizers), its configuration and its weights.

`--start` names a model whose weights training begins with: a folder, a hub name or a mapping in memory. `--like` uses
only the configuration and the tokenizer of a model. Without either the model is new. `--words` adds words to the
vocabulary; the embedding of a new word is the mean of the embeddings of the tokens that it was split into before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping as Dict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from mapsto.errors import DataError, UsageError
from mapsto.model.config import ModelConfig
from mapsto.model.mapping import Mapping
from mapsto.model.row_filter import RowFilter
from mapsto.pretrained import model_folder, weight_names
from mapsto.task.capabilities import require
from mapsto.task.source import Source
from mapsto.task.source_capabilities import Tokenized
from mapsto.task.target_capabilities import HeadRows


@dataclass(frozen=True)
class StartingModel:
    """The model that training starts from; for a new model with random weights all fields are empty.

    name: the folder or hub name, to be recorded.
    sources: the sources (with tokenizers) by the kind of value that they read. config: the model's configuration.
    tensors: the weights under mapsto's names; None for `--like`, which does not use them.
    classes: the class names that the model answers with, by kind of target.
    optimizer, objective: optimizer and objective of the run that trained the model; None if mapsto did not train it.
    notes: messages for the user about what was noticed when the model was opened.
    row_filters: of the rows that the model and its own starting models were fitted to.
    """

    name: str | None = None
    sources: Dict[str, Source] | None = None
    config: ModelConfig | None = None
    tensors: Dict[str, Tensor] | None = None
    classes: Dict[str, list[str]] = field(default_factory=dict)
    optimizer: str | None = None
    objective: str | None = None
    notes: tuple[str, ...] = ()
    row_filters: tuple[RowFilter, ...] = ()

    @property
    def is_from_scratch(self) -> bool:
        """Return whether only mapsto has trained the weights, from random ones, or there are no weights yet.

        Only models that began with random weights are trained with Muon, so the recorded optimizer tells.
        """
        return self.tensors is None or self.optimizer == "muon"

    @cached_property
    def fingerprint(self) -> str | None:
        """SHA-256 over the names and bytes of the weights; None without weights."""
        if self.tensors is None:
            return None
        digest = hashlib.sha256()
        # Sorted, so that the order of the weights in a file does not matter.
        for name in sorted(self.tensors):
            digest.update(name.encode())
            digest.update(self.tensors[name].contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def open_start(start: str | Path | Mapping | None, like: str | Path | None = None) -> StartingModel:
    """Open the starting model of a run; without `start` and `like` return an empty one.

    start: a folder, hub name or mapping, used with its weights.
    like: a folder or hub name of which only configuration and tokenizer are used.

    Raises UsageError when both are given, CheckpointError for a model that cannot be opened.
    """
    if start is not None and like is not None:
        raise UsageError("give --start (weights too) or --like (shape and tokenizer only), not both")
    if isinstance(start, Mapping):
        return _from_mapping(start)
    if start is None and like is None:
        return StartingModel()
    folder = model_folder.open_model_folder(start if start is not None else str(like))
    pretrained = folder.pretrained
    _require_body(pretrained.config)
    return StartingModel(
        name=str(start if start is not None else like),
        sources=pretrained.sources,
        config=pretrained.config,
        tensors=pretrained.tensors if start is not None else None,
        classes=folder.classes,
        optimizer=folder.trained_with,
        objective=folder.objective if start is not None else None,
        notes=pretrained.notes,
        row_filters=folder.row_filters if start is not None else (),
    )


def _require_body(config: ModelConfig) -> None:
    """Raise UsageError for a linear model, which has no layers to start from."""
    if config.is_linear:
        raise UsageError(
            "the start is a linear model, which has nothing to train further; fit anew with --method linear"
        )


def _from_mapping(mapping: Mapping) -> StartingModel:
    """Return a StartingModel with the sources, configuration, weights and classes of a mapping in memory.

    Raises UsageError for a linear model.
    """
    _require_body(mapping.config)
    tensors = {weight_names.weight_name(mapping, name): p.detach().cpu() for name, p in mapping.named_parameters()}
    # Reversed, so that the first of several targets of one kind determines the class names, as in a saved folder.
    classes = {target.kind: target.classes for target in reversed(mapping.targets) if isinstance(target, HeadRows)}
    return StartingModel(
        name="a mapping in memory",
        sources=mapping.sources,
        config=mapping.config,
        tensors=tensors,
        classes=classes,
        optimizer=mapping.trained_with,
        row_filters=mapping.row_filters,
    )


def add_words(start: StartingModel, words: Sequence[str]) -> StartingModel:
    """Return a copy of the starting model with `words` added to its vocabulary.

    The embedding of a new word is the mean of the embeddings of the tokens that it was split into before.
    Raises UsageError if `start` is empty, as for a new model, and for a model whose vocabulary cannot be extended.
    """
    if start.sources is None:
        raise UsageError("--words adds to the vocabulary of a start; a new model makes its own from the text")
    ((kind, source),) = start.sources.items()
    tokenized = require(source, Tokenized, "given words (--words): it has no vocabulary")
    # former_tokens: by id of a new token, the ids that its word was split into before.
    extended, former_tokens = tokenized.extend_vocabulary(words)
    tensors = None if start.tensors is None else dict(start.tensors)
    for name in (f"embedders.{kind}.weight", "vocabulary_head.weight", "vocabulary_head.bias"):
        if tensors is not None and name in tensors:
            table = tensors[name]
            # Vocabularies often have spare rows for ids that no token uses, which new tokens take first.
            num_new = max(0, max(former_tokens, default=0) + 1 - len(table))
            tensors[name] = torch.cat([table, table.new_zeros(num_new, *table.shape[1:])])
            for token, former in former_tokens.items():
                tensors[name][token] = table[torch.from_numpy(former).long()].mean(0)
    note = f"{len(former_tokens):,} words are new tokens; the other words were tokens already"
    return replace(start, sources={kind: extended}, tensors=tensors, notes=(*start.notes, note))


def read_words(path: str) -> list[str]:
    """Return the words in a UTF-8 file with one word per line. Raises DataError if it has none or cannot be read."""
    try:
        # utf-8-sig drops the byte order mark that some editors write.
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: the words cannot be read: not UTF-8 at byte {error.start}") from error
    except OSError as error:
        raise DataError(f"{path}: the words cannot be read: {error.strerror or error}") from error
    words = [line.strip() for line in lines if line.strip()]
    if not words:
        raise DataError(f"{path} has no words")
    return words
