"""Setup table."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from mapsto import kinds
from mapsto.data.encoding import encode_rows, need_alignment
from mapsto.data.examples import Examples, make_examples
from mapsto.data.rows import Rows, bind_to, load_rows, require_readable
from mapsto.data.split import examined, split
from mapsto.data.table import Table, read_table
from mapsto.errors import UsageError
from mapsto.files import hash_file
from mapsto.fitting.build import make_sources
from mapsto.fitting.setup_checks import Material, _begun, _corruption, _limits, _require_ways, made_targets
from mapsto.fitting.start import Beginning
from mapsto.model.mapping import Mapping
from mapsto.options import Options
from mapsto.task.arrow import Arrow
from mapsto.task.capabilities import Augmentable, Classes, FileBacked
from mapsto.task.source import Source
from mapsto.task.target import Target


def _from_table(
    wanted: Arrow, data: Any, tested: Table | None, beginning: Beginning, options: Options, say: Callable[[str], None]
) -> Material:
    """Rows with answers, all in memory."""
    table = read_table(data, encoding=options.encoding)
    arrow = _bound(wanted, table, options)
    _require_ways(arrow, options)
    targets = made_targets(arrow, options)
    rows = load_rows(arrow, table)
    rejected = require_readable(rows, options.bad_rows)
    sources = make_sources(beginning, arrow, rows, options, say)
    config = _begun(arrow, sources, targets, beginning, options)
    for port, target in enumerate(targets):
        if arrow.targets[port].restores is None:
            target.learn(rows.targets[port], options.balance)
            for note in target.notes(rows.targets[port]) if isinstance(target, Classes) else ():
                say(f"note: {note}")
    tested, findings = examined(rows, tested, options, say)
    kept, held = split(rows, options)

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


def fingerprint_of(arrow: Arrow, rows: Rows) -> str:
    """SHA-256 of the table, and of what the files hold that its cells name."""
    read = [kinds.source(port.kind) for port in arrow.sources]
    known: list[type[Source] | type[Target]] = [*read, *kinds.answering(arrow)]
    columns = zip(known, [*rows.sources, *rows.targets], strict=True)
    files = [kind.key(value) for kind, values in columns if issubclass(kind, FileBacked) for value in values]
    found = rows.table.fingerprint
    return hashlib.sha256("".join([found, *files]).encode()).hexdigest() if files else found


def _fingerprint(arrow: Arrow, rows: Rows, options: Options) -> str:
    """SHA-256 of the rows, and of the picture as which others shall look."""
    found = fingerprint_of(arrow, rows)
    if options.style is None:
        return found
    return hashlib.sha256((found + hash_file(Path(options.style))).encode()).hexdigest()


def _examples(
    mapping: Mapping, rows: Rows, options: Options, seed: int, say: Callable[[str], None] | None = None
) -> Examples:
    """The rows as examples, long ones treated as the options say."""
    arrow = mapping.arrow
    longest, long, aligned = _limits(options, mapping.config, arrow.corrupted, mapping.sources)
    encoded = encode_rows(rows, mapping.sources, longest, long, aligned or need_alignment(mapping.targets))
    if say is not None and len(encoded.long_rows):
        lost = (
            f"{encoded.num_cut:,} of {encoded.num_tokens:,} tokens were cut off"
            if encoded.num_cut
            else "they were cut into windows"
        )
        say(f"{len(encoded.long_rows):,} of {len(rows):,} rows are longer than {longest} tokens: {lost}")
    if say is not None and (unknown := encoded.describe_unknown_tokens(mapping.sources)):
        say(f"note: {unknown}")
    corruption = _corruption(arrow, options)
    made = make_examples(rows, encoded, mapping.sources, mapping.targets, seed, corruption)
    return made if say is None else replace(made, augment=_augment(arrow, options), mixing=options.mixture)


def _augment(arrow: Arrow, options: Options) -> str | None:
    """How rows that are learnt from are varied."""
    sources = (kinds.source(port.kind) for port in arrow.sources)
    ways = {way: None for source in sources if issubclass(source, Augmentable) for way in source.augmentations}
    if options.augmentation == "auto":
        return next(iter(ways), None)
    return None if options.augmentation == "none" else options.augmentation
