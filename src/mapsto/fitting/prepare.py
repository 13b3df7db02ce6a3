"""Preparing a run before its first step: from a request to a mapping (the model) and its training examples.

All errors in files, starting model and options are raised here. The work has two parts, so that all trials of a search
share one reading of the data: `read_data` is slow and does not depend on hyperparameters, and `build_run` makes a new
mapping.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from mapsto.data import corpus
from mapsto.data.examples import Examples
from mapsto.data.shards import FoundShards
from mapsto.device import choose_device, choose_precision, describe, seed_all
from mapsto.distributed import Ranks
from mapsto.errors import UsageError
from mapsto.fitting.answer_way import choose_answer_way
from mapsto.fitting.build_model import make_mapping, require_linear
from mapsto.fitting.corpus_data import read_corpus_data
from mapsto.fitting.freeze import freeze_weights
from mapsto.fitting.request import FitRequest
from mapsto.fitting.run_data import RunData
from mapsto.fitting.starting_model import StartingModel, add_words, open_start, read_words
from mapsto.fitting.table_data import read_table_data
from mapsto.fitting.transcript_beginning import choose_beginnings
from mapsto.model.mapping import Mapping
from mapsto.options import Options, RunOptions
from mapsto.pretrained import model_folder


@dataclass(frozen=True)
class PreparedRun:
    """The model and the examples of a run before training; they depend only on data, starting model and options.

    mapping: the model. data: the data that the examples were made from.
    examples: the training examples. held_out: examples to choose the best weights with; None without held-out rows.
    facts: the facts that identify the run, as plain JSON; recorded in run.json and mapsto.json.
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
        """The starting model; an empty StartingModel without `--start` and `--like`."""
        return self.data.start

    @property
    def is_pretraining(self) -> bool:
        """Return whether the run is pretraining: the arrow hides parts of its source with `~`."""
        return self.mapping.arrow.corrupted


def prepare(request: FitRequest, shards_record: FoundShards | None = None) -> PreparedRun:
    """Read the data of a request and build its model; return both as a PreparedRun.

    shards_record: the state of the corpus shards in the run's folder, if it has been inspected before.

    Raises UsageError for unsuitable options, DataError for unusable rows, CheckpointError for a damaged starting model.
    """
    return build_run(request, read_data(request, shards_record))


def read_data(request: FitRequest, shards_record: FoundShards | None = None) -> RunData:
    """Open the starting model named by a request and read the request's data; return both as a RunData.

    shards_record: the state of the corpus shards in the run's folder, if it has been inspected before.
    """
    options, say = request.options, request.say
    _choose_device(options, request.ranks)  # raises for a wrong device before the data is read, which may take long
    start = open_start(request.start, request.like)
    if options.words is not None:
        start = add_words(start, read_words(options.words))
    for note in start.notes:
        say(f"note: {note}")
    arrow = choose_answer_way(request.arrow, start, options.architecture, say)
    request = replace(request, arrow=arrow)
    options.require_use(arrow.corrupted)
    if options.method == "linear":
        require_linear(request.arrow, start)
    if request.arrow.corrupted and start.objective not in (None, options.objective):
        say(f"note: the start was trained with --objective {start.objective}; this run uses {options.objective}")
    is_corpus = corpus.is_corpus_arrow(request.arrow)
    data = read_corpus_data(request, start, shards_record) if is_corpus else read_table_data(request, start)
    if options.hold_out and not data.num_held_out:
        say(f"note: --hold-out {options.hold_out:g} of {data.num_rows:,} rows is none, so no row is held out")
    return data


def build_run(request: FitRequest, data: RunData) -> PreparedRun:
    """Build a new mapping for data that has been read; return it with its training examples as a PreparedRun.

    Weights that the starting model does not have are random numbers that depend only on the seed.
    """
    options = request.options
    device, precision = _choose_device(options, request.ranks)
    # Directly before the random weights, so that reading the data does not change them.
    seed_all(options.seed)
    mapping = make_mapping(data.arrow, data.config, data.sources, data.targets, data.start)
    freeze_weights(mapping, options, data.start)
    mapping = mapping.to(device).compute_in(precision)
    if data.start.sources is not None and data.training_rows is not None:
        choose_beginnings(mapping, data.start.sources, data.training_rows, options.language, options.task, request.say)
    elif options.language is not None or options.task is not None:
        raise UsageError("--language and --task are for starts that recognize speech")
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
        "choice": None if request.choice is None else request.choice.record(),
        "seed": options.seed,
        "device": describe(device, precision, request.ranks.size),
        "versions": model_folder.versions(data.sources),
    }
    return PreparedRun(
        options=options,
        device=device,
        mapping=mapping,
        data=data,
        examples=examples,
        held_out=held_out if data.num_held_out else None,
        facts=json.loads(json.dumps(facts)),  # as they are read from run.json, so that both can be compared
    )


def _choose_device(options: RunOptions, ranks: Ranks) -> tuple[torch.device, torch.dtype]:
    """Return (device, precision) of this process. Raises UsageError if this machine does not have what the options name."""
    device = choose_device(options.device, ranks.local_rank)
    return device, choose_precision(options.precision, device)
