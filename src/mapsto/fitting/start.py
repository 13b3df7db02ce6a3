"""Start."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping as Dict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from mapsto.errors import DataError, UsageError
from mapsto.model.config import ModelConfig
from mapsto.model.mapping import Mapping
from mapsto.pretrained import model_folder, weight_names
from mapsto.task.capabilities import Classes, Tokenized, require
from mapsto.task.source import Source


@dataclass(frozen=True)
class Beginning:
    """A start: where it is from, what it reads, its shape, and its weights under our names (none: random ones).

    classes: by kind, those that it answers. optimizer, objective: what trained it, where mapsto did. fingerprint: SHA-256 of the
    weights.
    """

    name: str | None = None
    sources: Dict[str, Source] | None = None
    config: ModelConfig | None = None
    tensors: Dict[str, Tensor] | None = None
    classes: Dict[str, list[str]] = field(default_factory=dict)
    optimizer: str | None = None
    objective: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def made_here(self) -> bool:
        """Whether mapsto trains, or trained, it from random weights, and nobody else did."""
        return self.tensors is None or self.optimizer == "muon"

    @property
    def fingerprint(self) -> str | None:
        """SHA-256 over names and bytes of the weights."""
        if self.tensors is None:
            return None
        digest = hashlib.sha256()
        for name in sorted(self.tensors):
            digest.update(name.encode())
            digest.update(self.tensors[name].contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def begin(start: str | Path | Mapping | None, like: str | Path | None) -> Beginning:
    """Open what training begins with. Raises UsageError when both are given, CheckpointError when one does not open."""
    if start is not None and like is not None:
        raise UsageError("give --start (weights too) or --like (shape and tokenizer only), not both")
    if isinstance(start, Mapping):
        return _of_mapping(start)
    if start is None and like is None:
        return Beginning()
    opened = model_folder.open_model_folder(start if start is not None else str(like))
    found = opened.pretrained
    return Beginning(
        name=str(start if start is not None else like),
        sources=found.sources,
        config=found.config,
        tensors=found.tensors if start is not None else None,
        classes=opened.classes,
        optimizer=opened.trained_with,
        objective=opened.objective if start is not None else None,
        notes=found.notes,
    )


def _of_mapping(mapping: Mapping) -> Beginning:
    tensors = {weight_names.weight_name(mapping, name): p.detach().cpu() for name, p in mapping.named_parameters()}
    classes = {target.kind: target.classes for target in reversed(mapping.targets) if isinstance(target, Classes)}
    return Beginning("a mapping in memory", mapping.sources, mapping.config, tensors, classes, mapping.trained_with)


def with_words(beginning: Beginning, words: Sequence[str]) -> Beginning:
    """The start with these words in its vocabulary; each begins as the mean of the tokens that it was cut into.

    Raises UsageError without a start, and for one whose vocabulary takes no words.
    """
    if beginning.sources is None:
        raise UsageError("--words adds to the vocabulary of a start; a new model makes its own from the text")
    ((kind, source),) = beginning.sources.items()
    extended, cut = require(source, Tokenized, "given words (--words): it has no vocabulary").extend_vocabulary(words)
    tensors = None if beginning.tensors is None else dict(beginning.tensors)
    for name in (f"embedders.{kind}.weight", "vocabulary_head.bias"):
        if tensors is not None and name in tensors:
            before = tensors[name]
            more = before.new_zeros(max(0, max(cut, default=0) + 1 - len(before)), *before.shape[1:])
            tensors[name] = torch.cat([before, more])
            for new, old in cut.items():
                tensors[name][new] = before[torch.from_numpy(old).long()].mean(0)
    note = f"{len(cut):,} words are new tokens; others that were named were tokens already"
    return replace(beginning, sources={kind: extended}, tensors=tensors, notes=(*beginning.notes, note))


def read_words(path: str) -> list[str]:
    """The words of a file, one a line. Raises DataError."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: the words cannot be read: not UTF-8 at byte {error.start}") from error
    except OSError as error:
        raise DataError(f"{path}: the words cannot be read: {error.strerror or error}") from error
    words = [line.strip() for line in lines if line.strip()]
    if not words:
        raise DataError(f"{path} has no words")
    return words
