"""Preparing a run: from a request to a mapping and its examples.

Everything that can be wrong with files, starting model and options is found here, before the first step. `read_data` takes long
and does not depend on the numbers of training; `build_run` makes a new mapping for data that has been read, so that the trials
of a search share one reading.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import torch

from mapsto.data import corpus
from mapsto.data.examples import Examples
from mapsto.data.shards import FoundShards
from mapsto.device import choose_device, choose_precision, describe, seed_all
from mapsto.distributed import Ranks
from mapsto.fitting.build_model import make_mapping
from mapsto.fitting.corpus_data import read_corpus_data
from mapsto.fitting.freeze import freeze_weights
from mapsto.fitting.request import FitRequest
from mapsto.fitting.run_data import RunData
from mapsto.fitting.starting_model import StartingModel, add_words, open_start, read_words
from mapsto.fitting.table_data import read_table_data
from mapsto.model.mapping import Mapping
from mapsto.options import Options, RunOptions
from mapsto.pretrained import model_folder


@dataclass(frozen=True)
class PreparedRun:
    """The mapping and the examples of a run before training, a function of the data, the starting model and the options alone.

    examples: to learn from. held_out: to choose the best weights by; None where there are none.
    facts: what the run is, in plain JSON, as run.json and mapsto.json record it.
    """

    options: Options
    device: torch.device
    mapping: Mapping
    data: RunData
    examples: Examples
    held_out: Examples | None
    facts: dict[str, Any]

    @property
    def start(self) -> StartingModel:
        """The model that training starts from."""
        return self.data.start

    @property
    def is_pretraining(self) -> bool:
        """Return whether the arrow fills in what `~` hides."""
        return self.mapping.arrow.corrupted


def prepare(request: FitRequest, shards_record: FoundShards | None = None) -> PreparedRun:
    """Read the data and build the model of a request.

    shards_record: the record of the shards in the run's folder, where a corpus is read into it.

    Raises UsageError, DataError, CheckpointError.
    """
    return build_run(request, read_data(request, shards_record))


def read_data(request: FitRequest, shards_record: FoundShards | None = None) -> RunData:
    """Open the starting model and read the data."""
    options, say = request.options, request.say
    _choose_device(options, request.ranks)  # refused before reading, which may take long
    start = open_start(request.start, request.like)
    if options.words is not None:
        start = add_words(start, read_words(options.words))
    for note in start.notes:
        say(f"note: {note}")
    options.require_use(request.arrow.corrupted)
    if request.arrow.corrupted and start.objective not in (None, options.objective):
        say(f"note: the start was trained with --objective {start.objective}; this run uses {options.objective}")
    is_corpus = corpus.is_corpus_arrow(request.arrow)
    data = read_corpus_data(request, start, shards_record) if is_corpus else read_table_data(request, start)
    if options.hold_out and not data.num_held_out:
        say(f"note: --hold-out {options.hold_out:g} of {data.num_rows:,} rows is none, so no row is held out")
    return data


def build_run(request: FitRequest, data: RunData) -> PreparedRun:
    """Build a new mapping for data that has been read; its random weights are a function of the seed alone."""
    options = request.options
    device, precision = _choose_device(options, request.ranks)
    seed_all(options.seed)
    mapping = make_mapping(data.arrow, data.config, data.sources, data.targets, data.start)
    freeze_weights(mapping, options, data.start)
    mapping = mapping.to(device).compute_in(precision)
    examples, held_out = data.encode()
    facts = {
        "arrow": str(data.arrow),
        "options": asdict(options),
        "data": data.fingerprint,
        "rows": data.num_rows,
        "held_out": data.num_held_out,
        "start": data.start.name,
        "start_weights": data.start.fingerprint,
        "tokenizer": {kind: source.fingerprint for kind, source in data.sources.items()},
        "targets": [target.state() for target in data.targets],
        "seed": options.seed,
        "device": describe(device, precision, request.ranks.size),
        "versions": model_folder.versions(),
    }
    return PreparedRun(
        options=options,
        device=device,
        mapping=mapping,
        data=data,
        examples=examples,
        held_out=held_out if data.num_held_out else None,
        facts=json.loads(json.dumps(facts)),
    )


def _choose_device(options: RunOptions, ranks: Ranks) -> tuple[torch.device, torch.dtype]:
    device = choose_device(options.device, ranks.local_rank)
    return device, choose_precision(options.precision, device)
