"""Reading the data of a run from a table with answers, which is held in memory as a whole."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from mapsto import kinds
from mapsto.data.encoding import describe_dropped, encode_sides, encode_to_answer, require_short_answers, require_whole
from mapsto.data.examples import Examples, make_examples
from mapsto.data.rows import (
    Rows,
    bind_to,
    fingerprint_rows,
    fold_labels,
    load_rows,
    report_skipped,
    require_readable,
    set_aside_unlabelled,
    side_keys,
)
from mapsto.data.split import check_data, split_rows
from mapsto.data.table import Table, read_table
from mapsto.data.weights import Weights, describe_weightless, leave_out_weights, normalise_weights, read_row_weights
from mapsto.errors import DataError, UsageError
from mapsto.files import hash_file
from mapsto.fitting.build_model import fit_width, fit_window, linear_sources, make_sources
from mapsto.fitting.request import FitRequest
from mapsto.fitting.run_data import (
    RunData,
    bind_targets,
    learn_answers,
    length_limits,
    make_corruption,
    make_targets,
    require_useful_options,
)
from mapsto.fitting.starting_model import StartingModel
from mapsto.options import DataOptions, ObjectiveOptions, Options
from mapsto.task.arrow import Arrow
from mapsto.task.source_capabilities import Augmentable
from mapsto.task.target import Target
from mapsto.task.target_capabilities import Classes, Confident, HeadRows


def read_table_data(request: FitRequest, start: StartingModel) -> RunData:
    """Read the table in the request and return the data of the run, split into training and held-out rows.

    On the way the arrow gets the names of the table's columns, the targets learn from the answers (such as the
    classes), and training and test rows are checked.
    Raises UsageError for options that do not suit the arrow or the model, DataError for rows that cannot be used.
    """
    options, say = request.options, request.say
    test = None if request.test is None else read_table(request.test, options.text_format)
    table = read_table(request.data, options.text_format)
    arrow = _bind(request.arrow, table, options)
    table, unlabelled = set_aside_unlabelled(arrow, table, options.unlabelled)
    if test is not None:
        test, unlabelled_test = set_aside_unlabelled(arrow, test, options.unlabelled)
        _report_unlabelled(unlabelled_test, "of the test have no label and are not scored", say)
    rest = "; they are answered at the end" if options.unlabelled == "predict" else ""
    _report_unlabelled(unlabelled, f"have no label and are not learnt from{rest}", say)
    require_useful_options(arrow, options)
    targets = make_targets(arrow, options)
    table, test = fold_labels(arrow, table, test, say) if options.fold_labels else (table, test)
    rows = load_rows(arrow, table)
    rejected = require_readable(rows, options.row_policy)
    report_skipped(rejected, "the training rows", say)
    if arrow.symmetric:
        _require_different_pairs(rows)
    is_linear = options.method == "linear"
    sources = linear_sources(arrow, rows, say) if is_linear else make_sources(start, arrow, rows, options, say)
    config = bind_targets(arrow, sources, targets, start, options)
    known_classes = request.classes or [()] * len(targets)
    for target, port, answers, classes in zip(targets, arrow.targets, rows.targets, known_classes, strict=True):
        # A restored source is its own answer: no classes are to be learnt.
        if port.restores is None:
            if classes and isinstance(target, HeadRows):
                target.classes = list(classes)
            keep_head(target, start, answers, say)
            if isinstance(target, Classes):
                target.folds = options.fold_labels
            learn_answers(target, answers, options)
            for note in target.notes(answers) if isinstance(target, Confident) else ():
                say(f"note: {note}")
    if is_linear:
        config = fit_width(config, targets)
    config = fit_window(config, targets, sources)
    test, findings = check_data(rows, test, options, say)
    read_row_weights(rows, options.weight)  # raises for wrong ones
    training, held_out = split_rows(rows, options, say)
    for sentence in describe_weightless(training, options.weight):
        say(f"note: {sentence}")
    data = RunData(
        start=start,
        arrow=arrow,
        config=config,
        sources=sources,
        targets=targets,
        fingerprint=_fingerprint(rows, options),
        num_rows=len(training),
        num_held_out=len(held_out),
        training_rows=training,
        held_out_rows=held_out,
        test=test,
        rejected=rejected,
        encode=cache(lambda: _encode(data, training, held_out, options, say)),
        findings=findings,
        unlabelled=unlabelled,
    )
    return data


def keep_head(target: Target, start: StartingModel, answers: Sequence[Any], say: Callable[[str], None]) -> None:
    """Give a target the classes of the start's head, in their order, if these include all classes of the training answers.

    Then the weights of the head are kept. If they do not, `say` tells that the head is not used.
    """
    published = start.classes.get(target.kind)
    if not published or not isinstance(target, HeadRows) or target.classes:
        return
    target.classes = list(published)
    if unknown := target.unknown_names(answers):
        names = target.known_names if isinstance(target, Classes) else target.classes
        answered = _quote_first(list(names))
        target.classes = []
        say(
            f"note: the head of the start is not used: it answers {answered}, and the rows have "
            f"{_quote_first(unknown)}; labels written as the head's keep it"
        )


def _quote_first(names: Sequence[str]) -> str:
    """Return the first few of several names, quoted, for a message."""
    return ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5:,} more" if len(names) > 5 else "")


def _report_unlabelled(table: Table | None, words: str, say: Callable[[str], None]) -> None:
    """Print the number of rows without a label, if there are some. words: what happens to them."""
    if table is not None:
        say(f"note: {len(table):,} rows {words}")


def _require_different_pairs(rows: Rows) -> None:
    """Raise DataError if all values on one side of the pairs are equal: there is nothing to tell apart."""
    for port, keys in list(zip(rows.arrow.sources, side_keys(rows), strict=True))[:2]:
        if len(set(keys)) == 1 < len(keys):
            raise DataError(
                f"column {port.column!r}: only one value in {len(keys):,} rows; pairs are learnt by telling values apart"
            )


def _bind(arrow: Arrow, table: Table, options: Options) -> Arrow:
    """Return the arrow with the name of the table's column for each source and target.

    With `--style` the target gets the column of the source, since the style loss needs no pairs of pictures.
    Raises UsageError for missing columns, and with `--style` for an arrow that does not turn a picture into a picture,
    or a missing style picture.
    """
    if options.style is None:
        return bind_to(arrow, leave_out_weights(arrow, table, options.weight))
    kinds_used = {port.kind for port in (*arrow.sources, *arrow.targets)}
    if arrow.corrupted or len(kinds_used) != 1 or len(arrow.targets) != 1 or arrow.targets[0].column is not None:
        raise UsageError(f"--style needs no pairs: it is for arrows such as 'image -> image', not {arrow}")
    if not Path(options.style).is_file():
        raise UsageError(f"--style {options.style}: there is no such file")
    bound = bind_to(arrow, table, answers=False)
    return replace(bound, targets=(replace(bound.targets[0], column=bound.sources[0].column),))


def _fingerprint(rows: Rows, options: ObjectiveOptions) -> str:
    """Return one SHA-256 of the rows, the files that they name, and the picture of `--style`."""
    fingerprint = fingerprint_rows(rows)
    if options.style is None:
        return fingerprint
    return hashlib.sha256((fingerprint + hash_file(Path(options.style))).encode()).hexdigest()


def _encode(
    data: RunData, training: Rows, held_out: Rows, options: Options, say: Callable[[str], None]
) -> tuple[Examples, Examples]:
    """Encode the rows; return (training examples, held-out examples), of which only the training examples are augmented.

    training, held_out: the training rows and the held-out rows.
    say: prints how many training rows are too long and how many of their tokens are unknown.
    """
    weights, held_out_weights = normalise_weights(
        *(read_row_weights(rows, options.weight) for rows in (training, held_out))
    )
    held_out_examples = _encode_rows(data, held_out, held_out_weights, options, lambda text: None)
    examples = _encode_rows(data, training, weights, options, say)
    augmented = replace(examples, augment=_augmentation(data.arrow, options), mixing=options.mixture)
    # Another seed, so that held-out rows do not repeat the masks of training rows.
    return augmented, replace(held_out_examples, seed=options.seed + 1)


def _encode_rows(
    data: RunData, rows: Rows, weights: Weights | None, options: Options, say: Callable[[str], None]
) -> Examples:
    """Return the rows as encoded examples.

    weights: of the rows in the loss; None if all count alike.
    say: prints how many rows are longer than the model reads and how many tokens are unknown.
    """
    arrow, sources, targets = data.arrow, data.sources, data.targets
    limits = length_limits(options, data.config, arrow.corrupted, sources)
    if arrow.symmetric:
        assert data.config.sentence is not None
        encoded = encode_sides(rows, sources, data.config.sentence, limits.long)
    else:
        require_short_answers(rows, targets, min(limits.longest, data.config.answer_stack.max_tokens))
        encoded = encode_to_answer(rows, sources, targets, limits.longest, limits.long, limits.units)
        require_whole(rows, encoded, targets)
    if len(encoded.long_rows):
        effect = f"{encoded.describe_cut()} were cut off" if encoded.num_cut else "they were cut into windows"
        longest = data.config.sentence.max_tokens if data.config.sentence else limits.longest
        say(f"{len(encoded.long_rows):,} of {len(rows):,} rows are longer than {longest} tokens: {effect}")
    for loss in (encoded.describe_unknown_tokens(sources), describe_dropped(rows, sources)):
        if loss:
            say(f"note: {loss}")
    corruption = make_corruption(arrow, options)
    return make_examples(rows, encoded, sources, targets, options.seed, corruption, weights)


def _augmentation(arrow: Arrow, options: DataOptions) -> str | None:
    """Return the augmentation of training rows, such as "mirror"; None for no augmentation.

    The option `--augment` names it; "auto" takes the first one in the list of the first source that has augmentations.
    """
    sources = [kinds.source(port.kind) for port in arrow.sources]
    methods = [method for source in sources if issubclass(source, Augmentable) for method in source.augmentations]
    if options.augmentation == "auto":
        return next(iter(methods), None)
    return None if options.augmentation == "none" else options.augmentation
