"""From files and a start to a mapping and its examples; everything that can be wrong with them is found here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Mapping as Dict
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mapsto import checkpoint, corpus, folder, kinds
from mapsto import data as tables
from mapsto.arrow import Arrow, parse, restores
from mapsto.begin import (
    Beginning,
    kept_source,
    make_config,
    make_mapping,
    make_sources,
    read_words,
    restrict,
    sampled_source,
    started_sources,
    with_words,
)
from mapsto.corrupt import Corruption
from mapsto.data import Table
from mapsto.device import choose_device, choose_precision, describe, seed_all
from mapsto.errors import DataError, Finding, UsageError
from mapsto.examples import (
    Examples,
    Rows,
    bind_to,
    encode,
    lie_in_raw,
    make_examples,
    read_rows,
    require_room,
    require_whole,
    unknown_in,
)
from mapsto.held_out import examined, say_all, share_of, split, unseen
from mapsto.mapping import Mapping, ModelConfig
from mapsto.options import Options, require_choice
from mapsto.ranks import ALONE, Ranks
from mapsto.shards import Kept, Shards
from mapsto.source import Source
from mapsto.target import Target

PRETRAIN_LENGTH = 128


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


@dataclass(frozen=True)
class Material:
    """What a run reads, before there is a model; `examples` gives those to learn from and those to watch.

    data: the fingerprint of it. rows, held_out: how many rows there are of either.
    """

    arrow: Arrow
    config: ModelConfig
    sources: Dict[str, Source]
    targets: Sequence[Target]
    data: str
    rows: int
    held_out: int
    held: Rows | None
    test: Table | None
    rejected: Iterable[Finding]
    examples: Callable[[Mapping], tuple[Examples, Examples]]
    findings: Sequence[Finding] = ()


def prepare(
    wanted: Arrow,
    data: Any,
    test: Any,
    beginning: Beginning,
    options: Options,
    say: Callable[[str], None],
    run: Path | None = None,
    overwrite: bool = False,
    ranks: Ranks = ALONE,
    kept: Kept | None = None,
) -> Work:
    """From files and a start to a mapping and its examples; everything that can be wrong with them is found here.

    kept: the shards that were found in the folder of the `run`, where they were looked at before.
    """
    device = choose_device(options.device, ranks.local)
    precision = choose_precision(options.precision, device)
    tested = None if test is None else tables.read(test, encoding=options.encoding)
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
        "versions": folder.versions(),
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


def _from_table(
    wanted: Arrow, data: Any, tested: Table | None, beginning: Beginning, options: Options, say: Callable[[str], None]
) -> Material:
    """Rows with answers, all in memory."""
    table = tables.read(data, encoding=options.encoding)
    arrow = _bound(wanted, table, options)
    _require_ways(arrow, options)
    targets = made_targets(arrow, options)
    rows = read_rows(arrow, table, kinds.reading(arrow), targets)
    rejected = require_whole(rows, table.rejected, len(table), options.bad_rows)
    sources = make_sources(beginning, arrow, rows, options, say)
    config = _begun(arrow, sources, targets, beginning, options)
    for port, target in enumerate(targets):
        if restores(arrow)[port] is None:
            target.learn(rows.targets[port], options.balance)
            for note in target.notes(rows.targets[port]):
                say(f"note: {note}")
    tested, findings = examined(arrow, rows, tested, targets, options, say)
    kept, held = split(arrow, rows, options)

    def examples(mapping: Mapping) -> tuple[Examples, Examples]:
        watched = _examples(mapping, held, options, options.seed + 1)
        return _examples(mapping, kept, options, options.seed, say), watched

    return Material(
        arrow, config, sources, targets, _fingerprint(arrow, rows, options), len(kept), len(held), held, tested, rejected,
        examples, findings,
    )  # fmt: skip


def _bound(wanted: Arrow, table: Table, options: Options) -> Arrow:
    """The arrow with its columns. With --style a picture is told by the one that is read, so that is its answer."""
    if options.style is None:
        return bind_to(wanted, table)
    kinds_of = {port.kind for port in (*wanted.sources, *wanted.targets)}
    if wanted.corrupted or len(kinds_of) != 1 or len(wanted.targets) != 1 or wanted.targets[0].column is not None:
        raise UsageError(f"--style needs no pairs: it is for arrows such as 'image -> image', not {wanted}")
    if not Path(options.style).is_file():
        raise UsageError(f"--style {options.style}: there is no such file")
    arrow = bind_to(wanted, table, answers=False)
    return replace(arrow, targets=(replace(arrow.targets[0], column=arrow.sources[0].column),))


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
    opened = None if run is None or ranks.main else Shards.opened(run, ranks)
    values = data if opened or tables.is_path(data) else tables.read(data)

    def parts() -> Iterable[Table]:
        return tables.stream(values, options.encoding)

    signs = [] if opened else tables.written(values)
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
            tested = unseen(arrow, parts(), tested, targets, options, say)
        key = _key(arrow, tables.fingerprint(values), started, limits, options)
        begun = run is not None and (run / folder.RUN).exists() and not overwrite
        shards = Shards(run, key, say, begun, kept)
        shards.remember({"arrow": str(arrow)})
        sources = started or {kind: sampled_source(arrow, parts, shards, options, say)}
    config = _begun(arrow, sources, targets, beginning, options)
    if not shards.whole:
        corpus.fill(shards, parts(), arrow, sources[kind], limits)
        if tables.written(values) != signs:
            shards.forget()
            raise DataError(f"{values} changed while it was read; give the same command again when it is complete")
    read = corpus.Corpus(shards, sources[kind], limits, options.bad_rows)
    read.report(say)
    learnt_from, held, count = read.split(share_of(read.rows, True, options), options.seed)

    def examples(mapping: Mapping) -> tuple[Examples, Examples]:
        learnt = Examples(arrow, mapping.sources, learnt_from, None, None, options.seed, _corruption(arrow, options))
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


def fingerprint_of(arrow: Arrow, rows: Rows) -> str:
    """SHA-256 of the table, and of what the files hold that its cells name."""
    read = [kinds.source(port.kind) for port in arrow.sources]
    known: list[type[Source] | type[Target]] = [*read, *kinds.answering(arrow)]
    columns = zip(known, [*rows.sources, *rows.targets], strict=True)
    files = [kind.key(value) for kind, values in columns if kind.suffixes for value in values]
    found = rows.table.fingerprint
    return hashlib.sha256("".join([found, *files]).encode()).hexdigest() if files else found


def _fingerprint(arrow: Arrow, rows: Rows, options: Options) -> str:
    """SHA-256 of the rows, and of the picture as which others shall look."""
    found = fingerprint_of(arrow, rows)
    if options.style is None:
        return found
    return hashlib.sha256((found + checkpoint.hash_file(Path(options.style))).encode()).hexdigest()


def made_targets(arrow: Arrow, options: Options) -> list[Target]:
    """What the arrow answers, before anything is learnt. Raises UsageError for options that these answers have no use for."""
    targets = [target() for target in kinds.answering(arrow)]
    for name in ("balance", "smooth"):
        if getattr(options, name) and not any(target.named for target in targets):
            raise UsageError(f"--{name} is for classes, and {arrow} answers none")
    for target in targets:
        target.smooth = options.smooth
    return targets


def _begun(
    arrow: Arrow, sources: Dict[str, Source], targets: Sequence[Target], beginning: Beginning, options: Options
) -> ModelConfig:
    """The shape of the model; the targets meet their sources. Everything random begins here."""
    seed_all(options.seed)
    if options.length is not None and any(source.longest is not None for source in sources.values()):
        raise UsageError(f"--length would change nothing: {arrow} reads its values whole")
    config = make_config(beginning, options, arrow.corrupted, sources)
    if config.decoder is not None and options.objective != "mae":
        raise UsageError("the start puts back what is hidden with a decoder; go on from it with --objective mae")
    for target, restored in zip(targets, restores(arrow), strict=True):
        target.meet(sources, config.vocabulary_head)
        if restored is not None:
            target.restore(_corruption(arrow, options))
    return config


def _require_ways(arrow: Arrow, options: Options) -> None:
    """Raise UsageError for options that no source of the arrow knows; before anything is read, which may take long."""
    read = [kinds.source(port.kind) for port in arrow.sources]
    for kind in read:
        if kind.alone and sum(port.kind == kind.kind for port in arrow.sources) > 1:
            raise UsageError(
                f"{arrow} reads several values of {kind.kind!r}; it can read one, as nothing would tell them apart"
            )
    if options.varied not in ("auto", "none") and not any(options.varied in kind.augmented for kind in read):
        raise UsageError(f"--augment {options.varied} would change nothing: {arrow} reads nothing that it is about")
    if options.mixed is not None and options.mixed not in (possible := mixings(arrow)):
        instead = f"; there is: {', '.join(possible)}" if possible else ", nor is another mixing"
        raise UsageError(f"--augment {options.mixed} is not for {arrow}{instead}")
    if arrow.corrupted and not all(options.objective in kind.objectives for kind in read):
        raise UsageError(
            f"--objective {options.objective} is not for {arrow}; there is: {', '.join(read[0].objectives)}"
        )


def mixings(arrow: Arrow) -> list[str]:
    """The ways to mix rows that the one value read knows and all answers can follow."""
    if len(arrow.sources) > 1:
        return []  # nothing would say how much of a row is there
    answered = [kinds.target(port.kind).mixes for port in arrow.targets]
    known = kinds.source(arrow.sources[0].kind).mixings
    return [name for name, mixing in known.items() if all(mixing.result in mixes for mixes in answered)]


def _examples(
    mapping: Mapping, rows: Rows, options: Options, seed: int, say: Callable[[str], None] | None = None
) -> Examples:
    """The rows as examples, long ones treated as the options say."""
    arrow = mapping.arrow
    longest, long, aligned = _limits(options, mapping.config, arrow.corrupted, mapping.sources)
    encoded = encode(arrow, rows, mapping.sources, longest, long, aligned or lie_in_raw(mapping.targets))
    if say is not None and len(encoded.long):
        lost = (
            f"{encoded.lost:,} of {encoded.total:,} tokens were cut off"
            if encoded.lost
            else "they were cut into windows"
        )
        say(f"{len(encoded.long):,} of {len(rows):,} rows are longer than {longest} tokens: {lost}")
    if say is not None and (unknown := unknown_in(encoded, mapping.sources)):
        say(f"note: {unknown}")
    corruption = _corruption(arrow, options)
    made = make_examples(arrow, rows, encoded, mapping.sources, mapping.targets, seed, corruption)
    return made if say is None else replace(made, augment=_augment(arrow, options), mixing=options.mixed)


def _corruption(arrow: Arrow, options: Options) -> Corruption:
    known = next((kinds.source(port.kind).objectives for port in arrow.sources if port.corrupted), Source.objectives)
    return Corruption.of(options.objective, options.hide or known[options.objective], options.shape)


def _augment(arrow: Arrow, options: Options) -> str | None:
    """How rows that are learnt from are varied."""
    ways = {way: None for port in arrow.sources for way in kinds.source(port.kind).augmented}
    if options.varied == "auto":
        return next(iter(ways), None)
    return None if options.varied == "none" else options.varied


def _limits(
    options: Options, config: ModelConfig, pretraining: bool, sources: Dict[str, Source] | None = None
) -> tuple[int, str, bool]:
    """The longest example in tokens, what happens to longer rows, and whether words must be known. Raises UsageError."""
    most, units = config.transformer.longest, pretraining and options.shape in ("word", "span")
    if any(source.longest is not None for source in (sources or {}).values()):
        return most, "cut", units
    if options.length is not None and options.length > most:
        raise UsageError(f"--length {options.length} is more than the {most} tokens that this model takes")
    longest = options.length or min(most, PRETRAIN_LENGTH if pretraining else most)
    long: str = options.long if options.long != "auto" else "window" if pretraining else "cut"
    return longest, long, units
