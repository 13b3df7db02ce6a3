"""The data doctor: leaks between training and test are found, and clean data gives no alarm."""

from __future__ import annotations

import io
import random
import re
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mapsto.data import checks
from mapsto.data.rows import Rows, load_rows
from mapsto.data.table import read_table
from mapsto.task.arrow import parse

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


def examined(values: Sequence[Any], tested: Sequence[Any], kind: str = "text") -> checks.DataReport:
    """What the doctor says of these values beside those of a test."""
    arrow = parse(f"{kind}:{kind} -> label:label")

    def rows(values: Sequence[Any]) -> Rows:
        table = read_table([{kind: value, "label": "ab"[i % 2]} for i, value in enumerate(values)])
        return load_rows(arrow, table)

    return checks.check_rows(rows(values), rows(tested))


def require_rates(known: Sequence[Any], twins: Sequence[Any], strangers: Sequence[Any], kind: str) -> None:
    """RELIABILITY.md: at least 90 % of near duplicates are found, with at most 0.5 % false alarms."""
    report = examined(known, [*twins, *strangers], kind)
    warned = {finding.row for finding in report.warnings if f"almost the same {kind}" in finding.reason}
    leaked = {finding.row for finding in report.leaks}
    rows = range(1, len(twins) + 1)
    found = sum(row in warned | leaked for row in rows)
    alarms = len((warned | leaked) - set(rows))
    assert found >= 0.9 * len(twins), f"{found} of {len(twins)}"
    assert alarms <= 0.005 * len(strangers), f"{alarms} false alarms among {len(strangers)}"


@pytest.mark.parametrize("language", ["english", "chinese"])
def test_near_duplicates_are_found_and_strangers_are_not(language: str) -> None:
    rng = random.Random(language)
    known, strangers = ([text(rng, language) for _ in range(600)] for _ in range(2))
    edits = list(NEAR.values())
    require_rates(known, [edits[i % len(edits)](rng, one) for i, one in enumerate(known)], strangers, "text")


def encoded(image: Image.Image, kind: str = "PNG", **how: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **how)
    return stream.getvalue()


def brighter(image: Image.Image) -> Image.Image:
    return image.point([min(255, round(1.15 * value)) for value in range(256)] * 3)


TWIN = "BloodImage_00037"
ALIKE: dict[str, Callable[[Image.Image], bytes]] = {
    "half as large": lambda image: encoded(image.resize((image.width // 2, image.height // 2))),
    "larger": lambda image: encoded(image.resize((image.width * 3 // 2, image.height * 3 // 2))),
    "as a JPEG": lambda image: encoded(image, "JPEG", quality=60),
    "brighter": lambda image: encoded(brighter(image)),
    "all of it": lambda image: encoded(brighter(image).resize((image.width * 3 // 4,) * 2), "JPEG", quality=60),
}


def cifar(folder: Path) -> tuple[list[bytes], list[bytes]]:
    """8,000 pictures of 32 × 32 pixels and 2,000 others."""
    parts = (read_table(folder / "cifar10" / f"{part}.parquet").column("image") for part in ("train", "test"))
    known, strangers = ([cell["bytes"] for cell in cells] for cells in parts)
    return known, strangers


def blood(folder: Path) -> tuple[list[bytes], list[bytes]]:
    """Pictures of blood cells of 224 × 224 pixels, half of them known; without one that shows the cells of the next one again."""
    paths = sorted((folder / "bccd" / "JPEGImages").glob("*.jpg"))
    found = [encoded(Image.open(path).resize((224, 224)), "JPEG", quality=95) for path in paths]
    return found[::2], [one for path, one in zip(paths[1::2], found[1::2], strict=True) if path.stem != TWIN]


@pytest.mark.parametrize("read", [pytest.param(cifar, marks=pytest.mark.slow), blood])
def test_near_duplicates_of_real_pictures_are_found(read: Any, shared_data: Path) -> None:
    known, strangers = read(shared_data / "image")
    changes = list(ALIKE.values())
    twins = [changes[i % 5](Image.open(io.BytesIO(one)).convert("RGB")) for i, one in enumerate(known[:500])]
    require_rates(known, twins, strangers, "image")


@pytest.mark.parametrize("change", ALIKE)
def test_near_duplicates_of_pictures_are_found(change: str) -> None:
    """Of clouds of light, each of its own."""
    clouds = [cloud(number) for number in range(400)]
    known, strangers = ([encoded(image) for image in half] for half in (clouds[::2], clouds[1::2]))
    require_rates(known, [ALIKE[change](image) for image in clouds[::2]], strangers, "image")


def cloud(number: int) -> Image.Image:
    """Noise, the stronger the coarser, as pictures have it."""
    rng = np.random.default_rng(number)
    found = np.zeros((48, 48, 3))
    for side in (3, 6, 12, 24, 48):
        layer = Image.fromarray(rng.integers(0, 256, (side, side, 3)).astype(np.uint8))
        found += np.asarray(layer.resize((48, 48), Image.Resampling.BICUBIC)) / side
    return Image.fromarray((255 * (found - found.min()) / np.ptp(found)).astype(np.uint8))


def test_pictures_without_anything_in_them_are_not_alike() -> None:
    flat = [np.full((32, 32, 3), 3 * i, np.uint8) for i in range(40)]
    report = examined(flat[::2], flat[1::2], "image")
    assert not report.leaks and not [finding for finding in report.warnings if "almost" in finding.reason]


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
