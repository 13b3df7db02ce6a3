"""Reading the data of a pretraining run from a corpus of any size, through shards of tokens in the run's folder.

The corpus is read once. Without a starting model a tokenizer is first trained on a sample of it. With several processes
the main one writes the shards, and the others open them. After a kill only missing shards are written again.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Mapping as Dict
from contextlib import suppress
from dataclasses import replace
from functools import cache
from typing import Any

from mapsto import kinds
from mapsto.data import corpus
from mapsto.data.corpus import sample_values
from mapsto.data.encoding import require_room
from mapsto.data.examples import Examples
from mapsto.data.files import is_path
from mapsto.data.rows import bind_to
from mapsto.data.shards import CorpusShards, FoundShards
from mapsto.data.split import drop_rows_in_corpus, held_out_share, report_findings
from mapsto.data.table import Table, file_signatures, fingerprint_source, read_table, stream_tables
from mapsto.errors import CheckpointError, DataError
from mapsto.fitting.build_model import LENGTH, make_config, starting_sources
from mapsto.fitting.request import FitRequest
from mapsto.fitting.run_data import (
    RunData,
    bind_targets,
    length_limits,
    make_corruption,
    make_targets,
    require_useful_options,
)
from mapsto.fitting.starting_model import StartingModel
from mapsto.options import DataOptions, Options
from mapsto.pretrained import model_folder
from mapsto.sequence.corruption import CAUSAL_SHARES
from mapsto.task.arrow import Arrow, parse
from mapsto.task.capabilities import require
from mapsto.task.source import Source
from mapsto.task.source_capabilities import Tokenized


def read_corpus_data(request: FitRequest, start: StartingModel, shards_record: FoundShards | None) -> RunData:
    """Read the corpus in the request into shards of tokens, or open its existing shards, and return the data of the run.

    start: the starting model; if it is empty, a tokenizer is trained on the corpus.
    shards_record: the state of the shards in the run's folder if it has been inspected before, else None.
    Raises UsageError for options that do not suit the arrow or the model, DataError for a corpus that cannot be read.
    """
    options, say, test = request.options, request.say, None
    if request.test is not None:
        test = read_table(request.test, options.text_format)
    # The main process writes the shards; the others open them, and do not read the corpus.
    shards = (
        None if request.folder is None or request.ranks.is_main else CorpusShards.opened(request.folder, request.ranks)
    )
    data = request.data if shards or is_path(request.data) else read_table(request.data)
    # Sizes and times of the files before reading, to notice a change.
    signatures = [] if shards else file_signatures(data)
    if shards:
        # The main process has bound the arrow to the columns of the corpus.
        arrow = parse(shards.facts["arrow"])
    else:
        first = next(iter(_stream(data, options)))
        arrow = bind_to(request.arrow, first)
        report_findings(first.remarks_on(), say)
    require_useful_options(arrow, options)
    targets = make_targets(arrow, options)
    limits = length_limits(options, make_config(start, options, pretraining=True), pretraining=True)
    require_room(arrow, limits.longest)
    sources = starting_sources(start, arrow)
    kind = arrow.sources[0].kind
    if shards:
        sources = sources or {kind: _open_source(arrow, shards)}
    else:
        if test is not None:
            test = drop_rows_in_corpus(arrow, _stream(data, options), test, options, say)
        shards = _new_shards(
            request, _shards_key(arrow, fingerprint_source(data), sources, limits, options), shards_record
        )
        shards.remember({"arrow": str(arrow)})
        sources = sources or {kind: _train_source(request, arrow, data, shards)}
    config = bind_targets(arrow, sources, targets, start, options)
    source = require(sources[kind], Tokenized, "read as a corpus")
    if not shards.whole:
        corpus.write_shards(shards, _stream(data, options), arrow, source, limits)
        # Shards of a file that was still being written would mix two versions of it.
        if file_signatures(data) != signatures:
            shards.forget()
            raise DataError(f"{data} changed while it was read; give the same command again when it is complete")
    read = corpus.Corpus(shards, source, limits, options.row_policy)
    read.report(say)
    training, held_out, num_held_out = read.split(held_out_share(read.rows, True, options), options.seed)

    def encode() -> tuple[Examples, Examples]:
        corruption = make_corruption(arrow, options)
        examples = Examples(arrow, sources, training, None, options.seed, corruption)
        # Another seed, so that held-out rows do not repeat the masks of training rows.
        return examples, replace(examples, pieces=held_out, seed=options.seed + 1)

    return RunData(
        start=start,
        arrow=arrow,
        config=config,
        sources=sources,
        targets=targets,
        fingerprint=shards.key["data"],
        num_rows=read.rows - num_held_out,
        num_held_out=num_held_out,
        training_rows=None,
        held_out_rows=None,
        test=test,
        rejected=read.faults(),
        encode=cache(encode),
    )


def _stream(data: Any, options: DataOptions) -> Iterable[Table]:
    """Return an iterator over the rows of the corpus `data` as tables of a limited number of rows, to bound memory."""
    return stream_tables(data, options.text_format)


def _new_shards(request: FitRequest, key: dict[str, Any], shards_record: FoundShards | None) -> CorpusShards:
    """Open the shards in the run's folder for writing; shards with another key are deleted and written anew.

    key: the facts that the content of the shards depends on.
    shards_record: the state of the shards in the folder if it has been inspected before, else None.
    Raises UsageError if an unfinished run depends on shards with another key.
    """
    folder = request.folder
    unfinished = folder is not None and (folder / model_folder.RUN_FILE).exists() and not request.overwrite
    return CorpusShards(folder, key, request.say, unfinished, shards_record)


def _shards_key(
    arrow: Arrow, fingerprint: str, sources: Dict[str, Source] | None, limits: corpus.ExampleLimits, options: Options
) -> dict[str, Any]:
    """Return the facts that the content of a corpus's shards depends on, by name; shards are reused only if all are the same.

    fingerprint: of the corpus. sources: the starting model's by kind; None if the tokenizer is trained on the corpus.
    limits: the length limit of an example, and what is done with longer ones.
    """
    return {
        "data": fingerprint,
        "column": arrow.sources[0].column,
        "tokenizer": None if sources is None else {kind: source.fingerprint for kind, source in sources.items()},
        "--vocabulary": options.vocabulary,
        "--encoding": options.encoding,
        "--delimiter": options.delimiter,
        "--length": limits.longest,
        "--long": limits.long,
        "--shape": "words" if limits.units else "tokens",
    }


def _train_source(request: FitRequest, arrow: Arrow, data: Any, shards: CorpusShards) -> Source:
    """Return the source (with its tokenizer) that is saved beside the shards.

    If there is none, the tokenizer is trained on a sample of the corpus, and the source is saved.
    """
    # A damaged source is trained again, as a missing one is.
    with suppress(CheckpointError):
        return _open_source(arrow, shards)
    kind = kinds.source(arrow.sources[0].kind)
    values, share = sample_values(arrow, _stream(data, request.options))
    # A model that also learns to continue a value can go on to generate values, which needs their tokens to be reversible.
    is_causal = CAUSAL_SHARES.get(request.options.objective, 0.0) > 0
    new = require(kind, Tokenized, "generated").new_reversible if is_causal else kind.new
    source = new(values, request.options.vocabulary, share)
    request.say(f"made {source}" + ("" if share == 1 else f" from {100 * share:.0f} % of the corpus"))
    if shards.folder is not None:
        # Saved before the shards are written, so that a run that is killed resumes with the same tokenizer.
        source.save(shards.folder / kind.kind, LENGTH)
        shards.remember({"source": source.fingerprint})
    return source


def _open_source(arrow: Arrow, shards: CorpusShards) -> Source:
    """Return the source (with its tokenizer) that is saved beside the shards.

    Raises CheckpointError when there is none, or it is damaged.
    """
    kind = kinds.source(arrow.sources[0].kind)
    if shards.folder is None or "source" not in shards.facts:
        raise CheckpointError(f"no {kind.kind} is kept beside the shards")
    source = kind.open(shards.folder / kind.kind, {})
    if source.fingerprint != shards.facts["source"]:
        raise CheckpointError(f"{shards.folder / kind.kind} is damaged; the same command makes it again")
    return source
