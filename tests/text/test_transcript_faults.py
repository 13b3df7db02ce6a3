"""Transcripts that cannot be what is said, and those that are written in several ways, are found; others are not."""

import numpy as np
import pytest

from mapsto.text.transcripts.faults import find_faults

SENTENCES = [f"The {animal} sleeps in the {place}." for animal in ("cat", "dog", "fox") for place in range(10)]


def reasons(seconds: list[float | None], texts: list[str | None]) -> dict[int, str]:
    return {fault.row: fault.reason for fault in find_faults(seconds, texts)}


@pytest.mark.parametrize(
    ("text", "seconds", "is_found"),
    [
        ("No.", 1.5, False),
        ("No.", 9.0, True),
        ("", 9.0, False),
        ("Peter Piper picked a peck of pickled peppers.", 1.4, False),
        ("Peter Piper picked a peck of pickled peppers.", 0.9, True),
        ("Peter Piper picked a peck of pickled peppers.", 14.0, False),
        ("Peter Piper picked a peck of pickled peppers.", 17.0, True),
        ("今天天气真好，我们去公园吧。", 3.0, False),
        ("今天天气真好，我们去公园吧。", 0.7, True),
        ("今天天气真好，我们去公园吧。", 20.0, True),
    ],
)
def test_the_pace_of_speech_has_limits(text: str, seconds: float, is_found: bool) -> None:
    found = reasons([seconds, None, 2.0], [text, "Nobody reads this row of very many words.", None])
    assert list(found) == ([0] if is_found else [])
    if is_found:
        assert f"{len(text)} characters for {seconds:.2f} s of sound are" in found[0]


def test_two_ways_of_writing_are_named() -> None:
    texts = [sentence.replace("0", "zero") for sentence in SENTENCES]
    letters = ["".join(c if not c.isdigit() else "park" for c in text) for text in texts]
    seconds: list[float | None] = [2.0] * 30
    assert not reasons(seconds, list(letters))
    some = [text.upper() if row % 10 == 7 else text for row, text in enumerate(letters)]
    assert reasons(seconds, list(some))[7] == (
        "3 of 30 transcripts are all in capitals, and the others are not: a recognizer learns to write in one way"
    )
    some = [text.replace("park", "5") if row % 10 == 3 else text for row, text in enumerate(letters)]
    assert "3 of 30 transcripts are with digits" in reasons(seconds, list(some))[3]
    # In few rows, and where all are alike, nothing is said.
    assert not reasons(seconds, [text.upper() for text in letters])
    assert not reasons(seconds[:5], [letters[0].upper(), *letters[10:14]])


def test_a_sentence_in_several_spellings_is_named() -> None:
    found = reasons([2.0] * 4, ["I am OK", "Is it ok?", "I am ok!", "Is it OK?"])
    assert list(found) == [0] and found[0].startswith(
        "2 sentences are written in several ways, such as 'I am OK' and 'I am ok'"
    )
    assert not reasons([2.0] * 2, ["Come here!", "Come here."])


def test_the_check_of_a_table_names_them() -> None:
    pytest.importorskip("soundfile", reason="the extra [sound] is not here")
    from mapsto.data.checks import check_rows
    from mapsto.data.rows import bind_to, load_rows
    from mapsto.data.table import read_table
    from mapsto.task.arrow import parse

    rng = np.random.default_rng(0)
    texts = ["open the door", "close the window", "a very long text that nobody says so fast " * 3]
    rows = [{"sound": (0.1 * rng.standard_normal(16_000), 16_000), "text": text} for text in texts]
    table = read_table(rows)
    warnings = check_rows(load_rows(bind_to(parse("sound -> text"), table), table)).warnings
    assert [(finding.row, finding.column) for finding in warnings if "a second" in finding.reason] == [(3, "text")]
