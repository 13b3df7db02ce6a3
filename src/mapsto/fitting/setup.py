"""From files and a start to a mapping and its examples; everything that can be wrong with them is found here."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from mapsto.data import corpus
from mapsto.data.examples import Examples
from mapsto.data.rows import Rows
from mapsto.data.shards import Kept
from mapsto.data.table import Table, read_table
from mapsto.device import choose_device, choose_precision, describe
from mapsto.distributed import SINGLE_PROCESS, Ranks
from mapsto.errors import Finding
from mapsto.fitting.build import make_mapping
from mapsto.fitting.freeze import restrict
from mapsto.fitting.setup_corpus import _from_corpus
from mapsto.fitting.setup_table import _from_table
from mapsto.fitting.start import Beginning, read_words, with_words
from mapsto.model.mapping import Mapping
from mapsto.options import Options
from mapsto.pretrained import model_folder
from mapsto.task.arrow import Arrow


@dataclass(frozen=True)
class Work:
    """Everything a run needs, made from the data and the start alone.

    held: rows of a table kept aside to watch. findings: what looks wrong in the data, though it stops nothing.
    """

    options: Options
    mapping: Mapping
    beginning: Beginning
    device: torch.device
    examples: Examples
    held: Rows | None
    watched: Examples | None
    test: Table | None
    rejected: Iterable[Finding]
    facts: dict[str, Any]
    findings: Sequence[Finding] = ()

    @property
    def pretraining(self) -> bool:
        """Whether the arrow puts back what it hides."""
        return self.mapping.arrow.corrupted


def prepare(
    wanted: Arrow,
    data: Any,
    test: Any,
    beginning: Beginning,
    options: Options,
    say: Callable[[str], None],
    run: Path | None = None,
    overwrite: bool = False,
    ranks: Ranks = SINGLE_PROCESS,
    kept: Kept | None = None,
) -> Work:
    """From files and a start to a mapping and its examples; everything that can be wrong with them is found here.

    kept: the shards that were found in the folder of the `run`, where they were looked at before.
    """
    device = choose_device(options.device, ranks.local_rank)
    precision = choose_precision(options.precision, device)
    tested = None if test is None else read_table(test, encoding=options.encoding)
    if options.words is not None:
        beginning = with_words(beginning, read_words(options.words))
    for note in beginning.notes:
        say(f"note: {note}")
    options.require_use(wanted.corrupted)
    if wanted.corrupted and beginning.objective not in (None, options.objective):
        say(f"note: the start learnt by --objective {beginning.objective}; this run goes on by {options.objective}")
    if corpus.takes(wanted):
        made = _from_corpus(wanted, data, tested, beginning, options, say, run, overwrite, ranks, kept)
    else:
        made = _from_table(wanted, data, tested, beginning, options, say)
    if options.hold_out and not made.held_out:
        say(f"note: --hold-out {options.hold_out:g} of {made.rows:,} rows is none, so nothing watches the run")
    mapping = make_mapping(made.arrow, made.config, made.sources, made.targets, beginning)
    restrict(mapping, options, beginning)
    mapping = mapping.to(device).computing_in(precision)
    examples, watched = made.examples(mapping)
    facts = {
        "arrow": str(made.arrow),
        "options": asdict(options),
        "data": made.data,
        "rows": made.rows,
        "held_out": made.held_out,
        "start": beginning.name,
        "start_weights": beginning.fingerprint,
        "tokenizer": {kind: source.fingerprint for kind, source in made.sources.items()},
        "targets": [target.state() for target in made.targets],
        "seed": options.seed,
        "device": describe(device, precision, ranks.size),
        "versions": model_folder.versions(),
    }
    return Work(
        options=options,
        mapping=mapping,
        beginning=beginning,
        device=device,
        examples=examples,
        held=made.held,
        watched=watched if made.held_out else None,
        test=made.test,
        rejected=made.rejected,
        facts=json.loads(json.dumps(facts)),
        findings=made.findings,
    )
