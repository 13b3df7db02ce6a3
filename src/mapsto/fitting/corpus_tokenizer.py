"""Corpus tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress

from mapsto import kinds
from mapsto.data.corpus import sample
from mapsto.data.shards import Shards
from mapsto.data.table import Table
from mapsto.errors import CheckpointError
from mapsto.fitting.build import LENGTH
from mapsto.options import Options
from mapsto.task.arrow import Arrow
from mapsto.task.source import Source


def sampled_source(
    arrow: Arrow,
    parts: Callable[[], Iterable[Table]],
    shards: Shards,
    options: Options,
    say: Callable[[str], None],
) -> Source:
    """The one source of a corpus, made from a sample of it; the one kept beside the shards where an earlier run made it."""
    with suppress(CheckpointError):
        return kept_source(arrow, shards)
    kind = kinds.source(arrow.sources[0].kind)
    values, share = sample(arrow, parts())
    source = kind.new(values, options.vocabulary, share)
    say(f"made {source}" + ("" if share == 1 else f" from {100 * share:.0f} % of the corpus"))
    if shards.folder is not None:
        source.save(shards.folder / kind.kind, LENGTH)
        shards.remember({"source": source.fingerprint})
    return source


def kept_source(arrow: Arrow, shards: Shards) -> Source:
    """The source kept beside the shards. Raises CheckpointError where there is none, or another one."""
    kind = kinds.source(arrow.sources[0].kind)
    if shards.folder is None or "source" not in shards.facts:
        raise CheckpointError(f"no {kind.kind} is kept beside the shards")
    source = kind.open(shards.folder / kind.kind, {})
    if source.fingerprint != shards.facts["source"]:
        raise CheckpointError(f"{shards.folder / kind.kind} is damaged; the same command makes it again")
    return source
