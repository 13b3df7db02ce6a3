"""The data doctor: leaks between training and test are found, and clean data gives no alarm."""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Callable

import pytest

from mapsto import check, data, kinds
from mapsto.arrow import parse
from mapsto.examples import Rows, read_rows

ENGLISH = re.findall(
    r"\w+",
    "the old river mill stood near a quiet field where children played until winter came and snow covered every roof "
    "while farmers carried wood along narrow roads toward the town market selling apples bread cheese candles wool "
    "under grey morning light as bells rang over distant hills and boats returned slowly from the cold northern sea",
)
CHINESE = (
    "春夏秋冬山川河流城市乡村学校医院工厂商店老师学生朋友家人早晨夜晚天气温度雨雪风云花草树木书本纸笔电话电脑音乐电影"
)


def text(rng: random.Random, language: str) -> str:
    if language == "english":
        return " ".join(rng.choice(ENGLISH) for _ in range(rng.randint(12, 40)))
    return "".join(rng.choice(CHINESE) for _ in range(rng.randint(40, 120)))


def a_typo(rng: random.Random, text: str) -> str:
    at = rng.randrange(1, len(text) - 1)
    return text[:at] + rng.choice("xyz谢") + text[at + 1 :]


NEAR: dict[str, Callable[[random.Random, str], str]] = {
    "a typo": a_typo,
    "another case": lambda rng, text: text.upper(),
    "full width": lambda rng, text: "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text),
    "a full stop": lambda rng, text: text + "。",
    "a letter left out": lambda rng, text: text[: len(text) // 2] + text[len(text) // 2 + 1 :],
    "something before it": lambda rng, text: "re: " + text,
}
SAME: dict[str, Callable[[str], str]] = {
    "as it is": lambda text: text,
    "spaces around": lambda text: f"  {text}\t",
    "double spaces": lambda text: text.replace(" ", "  "),
    "decomposed": lambda text: unicodedata.normalize("NFD", text),
}


def examined(texts: list[str], tested: list[str]) -> check.Report:
    """What the doctor says of these texts beside those of a test."""
    arrow = parse("text:text -> label:label")

    def rows(texts: list[str]) -> Rows:
        table = data.read([{"text": text, "label": "ab"[i % 2]} for i, text in enumerate(texts)])
        return read_rows(arrow, table, {"text": kinds.source("text")}, [kinds.target("label")])

    return check.doctor(arrow, rows(texts), rows(tested))


@pytest.mark.parametrize("language", ["english", "chinese"])
def test_near_duplicates_are_found_and_strangers_are_not(language: str) -> None:
    """RELIABILITY.md: at least 90 % of them, with at most 0.5 % false alarms."""
    rng = random.Random(language)
    known, strangers = ([text(rng, language) for _ in range(600)] for _ in range(2))
    edits = list(NEAR.values())
    twins = [edits[i % len(edits)](rng, one) for i, one in enumerate(known)]
    report = examined(known, twins + strangers)
    warned = {finding.row for finding in report.warnings if "almost the same" in finding.reason}
    leaked = {finding.row for finding in report.leaks}
    rows = range(1, len(twins) + 1)
    found = sum(row in warned | leaked for row in rows)
    alarms = len((warned | leaked) - set(rows))
    assert found >= 0.9 * len(twins), f"{found} of {len(twins)}"
    assert alarms <= 0.005 * len(strangers), f"{alarms} false alarms"


@pytest.mark.parametrize("change", SAME)
def test_every_exact_duplicate_is_found(change: str) -> None:
    rng = random.Random(1)
    known = [text(rng, language) + "é" for language in ("english", "chinese") for _ in range(50)]
    report = examined(known, [SAME[change](one) for one in known])
    assert len(report.leaks) == len(known) and report.leaks == report.errors


def test_clean_data_gives_no_alarm() -> None:
    rng = random.Random(2)
    rows = [text(rng, language) for language in ("english", "chinese") for _ in range(200)]
    report = examined(rows[::2], rows[1::2])
    assert not report.errors and not report.warnings
