"""Find pairs of a text and its answer that are probably wrong: copied, swapped, in another language or script, cut or joined.

All checks compare a row with the other rows, so that they hold for any pair of languages and for any task. They report rows that
are rare and clear; what is common in a column is taken as the task.
Legend of shapes: n rows.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np

from mapsto.task.target_capabilities import RowFault
from mapsto.text.pairs.language_profile import compare_columns

# Fewer rows say too little about what is usual.
MIN_ROWS = 20
# The share of rows whose two texts the profiles must assign to different columns.
MIN_SEPARATED = 0.9
# The distance of the columns' medians, in robust standard deviations, from which a row may be swapped, and from which a single
# text may be in the wrong language. Questions and answers of one language are about 2 apart, two languages 6 and more.
SWAPPED_DISTANCE, LANGUAGE_DISTANCE = 2.0, 5.0
# The log-likelihood ratio of a whole text, in nats, from which it is written like the other column.
MIN_EVIDENCE = 10.0
# The share of rows that have a column's script, and the share of the letters of a row that must be of another one.
MIN_SCRIPT_ROWS, MIN_SCRIPT_LETTERS = 0.95, 0.8
# The fewest letters of such a row. In all languages names and formulas are written in Latin letters, but no sentences.
MIN_LETTERS, MIN_LATIN_LETTERS = 5, 30
SCRIPT_NAMES = {"CJK": "Chinese or Japanese"}
# The robust z-score of log ratios of lengths, and the factor between a row's ratio and the median, from which both are unusual.
MAX_LENGTH_Z, MIN_LENGTH_FACTOR = 6.0, 3.0
# Added to lengths, in characters, since the ratio of two short texts says little.
LENGTH_OFFSET = 10
# 1.4826 times the median absolute deviation is the standard deviation of a normal distribution.
MAD_SCALE = 1.4826


def find_faults(sources: Sequence[Sequence[str] | None], answers: Sequence[str | None]) -> list[RowFault]:
    """Return the pairs that are probably wrong, sorted by row, each with its clearest fault.

    sources: the source texts of each row, which count as one text. answers: the answer of each row. None for a row that cannot
    be read, which is skipped.
    """
    rows = [row for row, pair in enumerate(zip(sources, answers, strict=True)) if None not in pair]
    pairs = [("\n".join(sources[row] or ()), answers[row] or "") for row in rows]
    faults = _copies(pairs)
    # A copy is in the wrong language and script too, which need not be said.
    for check in (_other_columns, _other_scripts, _lengths) if len(rows) >= MIN_ROWS else ():
        faulty_rows = {fault.row for fault in faults}
        faults += [fault for fault in check(pairs) if fault.row not in faulty_rows]
    faults += _several_answers(pairs)
    index_of: dict[int | None, int | None] = {None: None, **dict(enumerate(rows))}
    placed = [fault._replace(row=rows[fault.row], earlier_row=index_of[fault.earlier_row]) for fault in faults]
    return sorted(placed, key=lambda fault: fault.row)


def _copies(pairs: Sequence[tuple[str, str]]) -> list[RowFault]:
    """Return the rows whose answer is their source, but for white space."""
    copies = [row for row, (source, answer) in enumerate(pairs) if source.split() == answer.split()]
    share = 100 * len(copies) / max(1, len(pairs))
    reason = f"the answer is the same as its source, as in {len(copies):,} of {len(pairs):,} rows ({share:.1f} %)"
    return [RowFault(row, reason) for row in copies]


def _several_answers(pairs: Sequence[tuple[str, str]]) -> list[RowFault]:
    """Return the first row whose source stands in an earlier row with another answer, with the number of such rows."""
    first_rows: dict[str, int] = {}
    repeated = [
        (row, first)
        for row, (source, answer) in enumerate(pairs)
        if pairs[first := first_rows.setdefault(" ".join(source.split()), row)][1].split() != answer.split()
    ]
    if not repeated:
        return []
    reason = (
        f"{len(repeated):,} of {len(pairs):,} rows have the source of an earlier row and another answer; "
        "a split keeps them on one side, and a model learns no single answer. This one has the source of"
    )
    return [RowFault(repeated[0][0], reason, repeated[0][1])]


def _other_columns(pairs: Sequence[tuple[str, str]]) -> list[RowFault]:
    """Return the rows whose texts are written like those of the other column, where both columns have languages of their own."""
    columns = list(zip(*pairs, strict=True))
    scores = compare_columns(*columns)
    centres = [float(np.median(column)) for column in scores]
    # A swapped row is no sign that the columns are alike.
    separated = float(np.mean(np.sign(scores[0]) == -np.sign(scores[1])))
    spread = math.hypot(*(_deviation(column) for column in scores))
    distance = (centres[0] - centres[1]) / max(spread, 1e-9)
    if separated < MIN_SEPARATED or distance < SWAPPED_DISTANCE:
        return []
    # More than half of the way from 0 to the other column's median.
    lengths = [np.array([len(text) for text in column]) for column in columns]
    source_is_odd = (scores[0] < centres[1] / 2) & (-scores[0] * lengths[0] > MIN_EVIDENCE)
    answer_is_odd = (scores[1] > centres[0] / 2) & (scores[1] * lengths[1] > MIN_EVIDENCE)
    is_swapped = source_is_odd & answer_is_odd
    swapped = "the source is written like the answers and the answer like the sources: swapped?"
    untranslated = "the answer is written like the sources: not translated?"
    wrong_language = "the source is written like the answers: wrong language?"
    reasons = [(is_swapped, swapped)]
    if distance >= LANGUAGE_DISTANCE:
        reasons += [(answer_is_odd & ~is_swapped, untranslated), (source_is_odd & ~is_swapped, wrong_language)]
    return [RowFault(int(row), reason) for is_fault, reason in reasons for row in np.flatnonzero(is_fault)]


def _other_scripts(pairs: Sequence[tuple[str, str]]) -> list[RowFault]:
    """Return the rows of which a text has mostly letters of a script that is not the script of its column."""
    faults = []
    for name, texts in zip(("source", "answer"), zip(*pairs, strict=True), strict=True):
        scripts = [_main_script(text) for text in texts]
        counts = Counter(script for script, _ in scripts if script)
        column_script, count = max(counts.items(), key=lambda entry: entry[1], default=("", 0))
        if count < MIN_SCRIPT_ROWS * counts.total():
            continue
        faults += [
            RowFault(
                row,
                f"the {name} is in {_script_name(script)} letters, nearly all others in {_script_name(column_script)} ones",
            )
            for row, (script, num_letters) in enumerate(scripts)
            if script not in ("", column_script)
            and num_letters >= (MIN_LATIN_LETTERS if script == "LATIN" else MIN_LETTERS)
        ]
    return faults


def _main_script(text: str) -> tuple[str, int]:
    """Return the script, by its name in Unicode, of nearly all letters of a text, and their number; ("", 0) if there is none."""
    counts: Counter[str] = Counter()
    for character, count in Counter(text).items():
        if character.isalpha():
            counts[_script(character)] += count
    script, count = max(counts.items(), key=lambda entry: entry[1], default=("", 0))
    return (script, count) if count >= MIN_SCRIPT_LETTERS * counts.total() else ("", 0)


@lru_cache(2**16)
def _script(letter: str) -> str:
    """Return the script of a letter, as its name in Unicode begins. The several scripts of Japanese count as Chinese."""
    name = unicodedata.name(letter, "unnamed").split()[0].split("-")[0]
    return "CJK" if name in ("HIRAGANA", "KATAKANA") else name


def _script_name(script: str) -> str:
    return SCRIPT_NAMES.get(script, script.title())


def _lengths(pairs: Sequence[tuple[str, str]]) -> list[RowFault]:
    """Return the rows whose answer is far too long or too short for its source."""
    lengths = np.array([[len(text) for text in pair] for pair in pairs], np.float64) + LENGTH_OFFSET
    log_ratios = np.log(lengths[:, 1] / lengths[:, 0])
    centre, spread = float(np.median(log_ratios)), _deviation(log_ratios)
    deviations = np.abs(log_ratios - centre)
    is_unusual = (deviations > MAX_LENGTH_Z * spread) & (deviations > np.log(MIN_LENGTH_FACTOR))
    return [
        RowFault(
            row,
            f"{len(pairs[row][1]):,} characters answer {len(pairs[row][0]):,}, {np.exp(deviations[row]):.1f} times "
            f"{'more' if log_ratios[row] > centre else 'less'} than usual",
        )
        for row in np.flatnonzero(is_unusual).tolist()
    ]


def _deviation(values: Iterable[float]) -> float:
    """Return a robust standard deviation: the scaled median absolute deviation from the median."""
    array = np.asarray(values, np.float64)
    return MAD_SCALE * float(np.median(np.abs(array - np.median(array))))
