"""Setup corpus."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from collections.abc import Mapping as Dict
from dataclasses import replace
from pathlib import Path
from typing import Any

from mapsto.data import corpus
from mapsto.data.encoding import require_room
from mapsto.data.examples import Examples
from mapsto.data.rows import bind_to
from mapsto.data.shards import Kept, Shards
from mapsto.data.split import say_all, share_of, unseen
from mapsto.data.table import Table, file_signatures, fingerprint_source, is_path, read_table, stream_tables
from mapsto.distributed import Ranks
from mapsto.errors import DataError
from mapsto.fitting.build import make_config, started_sources
from mapsto.fitting.corpus_tokenizer import kept_source, sampled_source
from mapsto.fitting.setup_checks import Material, _begun, _corruption, _limits, _require_ways, made_targets
from mapsto.fitting.start import Beginning
from mapsto.model.mapping import Mapping
from mapsto.options import Options, require_choice
from mapsto.pretrained import model_folder
from mapsto.task.arrow import Arrow, parse
from mapsto.task.capabilities import Tokenized, require
from mapsto.task.source import Source


def _from_corpus(
    wanted: Arrow,
    data: Any,
    tested: Table | None,
    beginning: Beginning,
    options: Options,
    say: Callable[[str], None],
    run: Path | None,
    overwrite: bool,
    ranks: Ranks,
    kept: Kept | None,
) -> Material:
    """Values of one corrupted source, as many as there are, in the run's folder: the main process makes what is missing there,
    the others open it and read no corpus."""
    require_choice("bad_rows", options.bad_rows)
    opened = None if run is None or ranks.is_main else Shards.opened(run, ranks)
    values = data if opened or is_path(data) else read_table(data)

    def parts() -> Iterable[Table]:
        return stream_tables(values, options.encoding)

    signs = [] if opened else file_signatures(values)
    if opened:
        arrow = parse(opened.facts["arrow"])
    else:
        first = next(iter(parts()))
        arrow = bind_to(wanted, first)
        say_all(first.remarks_on(), say)
    _require_ways(arrow, options)
    targets = made_targets(arrow, options)
    config = make_config(beginning, options, pretraining=True)
    limits = corpus.Limits(*_limits(options, config, pretraining=True))
    require_room(arrow, limits.longest)
    started = started_sources(beginning, arrow)
    kind = arrow.sources[0].kind
    if opened:
        shards, sources = opened, started or {kind: kept_source(arrow, opened)}
    else:
        if tested is not None:
            tested = unseen(arrow, parts(), tested, options, say)
        key = _key(arrow, fingerprint_source(values), started, limits, options)
        begun = run is not None and (run / model_folder.RUN_FILE).exists() and not overwrite
        shards = Shards(run, key, say, begun, kept)
        shards.remember({"arrow": str(arrow)})
        sources = started or {kind: sampled_source(arrow, parts, shards, options, say)}
    config = _begun(arrow, sources, targets, beginning, options)
    source = require(sources[kind], Tokenized, "read as a corpus")
    if not shards.whole:
        corpus.fill(shards, parts(), arrow, source, limits)
        if file_signatures(values) != signs:
            shards.forget()
            raise DataError(f"{values} changed while it was read; give the same command again when it is complete")
    read = corpus.Corpus(shards, source, limits, options.bad_rows)
    read.report(say)
    learnt_from, held, count = read.split(share_of(read.rows, True, options), options.seed)

    def examples(mapping: Mapping) -> tuple[Examples, Examples]:
        learnt = Examples(arrow, mapping.sources, learnt_from, None, options.seed, _corruption(arrow, options))
        return learnt, replace(learnt, pieces=held, seed=options.seed + 1)

    rows, made_of = read.rows - count, shards.key["data"]
    return Material(arrow, config, sources, targets, made_of, rows, count, None, tested, read.faults(), examples)


def _key(
    arrow: Arrow, fingerprint: str, started: Dict[str, Source] | None, limits: corpus.Limits, options: Options
) -> dict[str, Any]:
    """What the shards of a corpus are a function of."""
    return {
        "data": fingerprint,
        "column": arrow.sources[0].column,
        "tokenizer": None if started is None else {kind: source.fingerprint for kind, source in started.items()},
        "--vocabulary": options.vocabulary,
        "--encoding": options.encoding,
        "--length": limits.longest,
        "--long": limits.long,
        "--shape": "words" if limits.units else "tokens",
    }
