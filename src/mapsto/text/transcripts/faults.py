"""Find transcripts that are probably wrong: too long or too short for their recording, or written in several ways.

Speech has 4 to 35 characters a second, but for pauses. A character of a script without spaces, such as Chinese, counts as three.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from mapsto.errors import shorten
from mapsto.metrics.word_errors import split_normalised_words
from mapsto.task.target_capabilities import RowFault
from mapsto.text.encoding import unspaced

# Characters a second of speech, and how many letters a character of a script without spaces stands for.
MIN_PACE, MAX_PACE, LETTERS_OF_SYLLABLE = 4.0, 35.0, 3
# Seconds of a recording that its text may leave unexplained, as pauses, and characters that it may have too many.
MAX_PAUSE, MAX_SURPLUS = 4.0, 10
# The fewest rows, and the shares of them between which a form of writing is a second one beside that of the rest.
MIN_ROWS, MIN_SHARE, MAX_SHARE = 20, 0.05, 0.5


def find_faults(seconds: Sequence[float | None], answers: Sequence[str | None]) -> list[RowFault]:
    """Return the transcripts that are probably wrong, sorted by row.

    seconds: the length of each recording. answers: its text. None for a row that cannot be read, which is skipped.
    """
    rows = [row for row, pair in enumerate(zip(seconds, answers, strict=True)) if None not in pair]
    texts = {row: answers[row] or "" for row in rows}
    faults = [fault for row in rows for fault in _pace(row, float(seconds[row] or 0.0), texts[row])]
    if len(rows) >= MIN_ROWS:
        faults += _minority(texts, str.isupper, "all in capitals")
        faults += _minority(texts, str.islower, "without capitals")
        faults += _minority(texts, lambda text: any(map(str.isdecimal, text)), "with digits")
    return sorted([*faults, *_spellings(texts)], key=lambda fault: fault.row)


def _pace(row: int, seconds: float, text: str) -> list[RowFault]:
    """Return the fault of a text that is too long or too short to be said in a number of seconds, if it is."""
    count = len(text) + (LETTERS_OF_SYLLABLE - 1) * int(unspaced(text).sum())
    if count > MAX_PACE * seconds + MAX_SURPLUS:
        limit = f"more than {MAX_PACE:.0f}"
    elif text.strip() and seconds > count / MIN_PACE + MAX_PAUSE:
        limit = f"fewer than {MIN_PACE:.0f}"
    else:
        return []
    pace = f"{len(text):,} characters for {seconds:.2f} s of sound are {limit} a second"
    return [RowFault(row, f"{pace}: probably not what is said in it, or a part of it")]


def _minority(texts: dict[int, str], has_form: Callable[[str], bool], name: str) -> list[RowFault]:
    """Return a fault at the first of the texts that are written in another form than most. name: of the form, in words."""
    rows = [row for row, text in texts.items() if has_form(text)]
    if not MIN_SHARE * len(texts) <= len(rows) <= MAX_SHARE * len(texts):
        return []
    count = f"{len(rows):,} of {len(texts):,} transcripts are {name}"
    return [RowFault(rows[0], f"{count}, and the others are not: a recognizer learns to write in one way")]


def _spellings(texts: dict[int, str]) -> list[RowFault]:
    """Return a fault at the first text that is written in several ways, such as in capitals too. Punctuation does not count."""
    spellings: defaultdict[tuple[str, ...], dict[str, int]] = defaultdict(dict)
    for row, text in texts.items():
        if words := tuple(split_normalised_words(text)):
            letters = "".join(character if character.isalnum() else " " for character in text)
            spellings[words].setdefault(" ".join(letters.split()), row)
    several = [group for group in spellings.values() if len(group) > 1]
    if not several:
        return []
    first, second = [shorten(text) for text in several[0]][:2]
    count = "one sentence is" if len(several) == 1 else f"{len(several):,} sentences are"
    return [
        RowFault(
            next(iter(several[0].values())),
            f"{count} written in several ways, such as {first!r} and {second!r}: a recognizer learns to write in one way",
        )
    ]
