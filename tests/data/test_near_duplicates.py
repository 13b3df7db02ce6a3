"""The search for near-duplicates: what it finds, what a batch of hashes is, and what it holds in memory."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from mapsto.data.duplicates.near_duplicates import HashBatch, find_near_duplicates
from mapsto.task.shingles import MAX_SHINGLES, shingle_batch, shingles

SYLLABLES = [first + vowel + last for first in "bdfgklmnprst" for vowel in "aeiou" for last in ("", "n", "r", "st")]
CHARACTERS = [chr(0x4E00 + 7 * i) for i in range(1200)]


def texts(count: int, seed: int, characters: bool = False) -> list[str]:
    rng = random.Random(seed)
    if characters:
        return ["".join(rng.choices(CHARACTERS, k=rng.randint(40, 120))) for _ in range(count)]
    return [
        " ".join("".join(rng.choices(SYLLABLES, k=rng.randint(1, 3))) for _ in range(rng.randint(12, 40)))
        for _ in range(count)
    ]


def batches(values: Sequence[str], size: int = 64) -> Iterator[HashBatch]:
    for start in range(0, len(values), size):
        hashes, counts = shingle_batch(values[start : start + size])
        yield HashBatch(np.arange(start, start + len(counts)), hashes, counts)


def find(references: list[str], queries: list[str], threshold: float = 0.7) -> list[tuple[int, int, float]]:
    return find_near_duplicates(
        batches(references),
        batches(queries),
        lambda row: shingles(references[row]),
        lambda row: shingles(queries[row]),
        threshold,
    )


@pytest.mark.parametrize("characters", [False, True], ids=["syllables", "Chinese"])
def test_near_duplicates_are_found_and_others_are_not(characters: bool) -> None:
    references = texts(2000, 0, characters)
    changed = [text[:20] + "x" + text[21:] for text in references[::10]]
    near = find(references, [*changed, *texts(2000, 1, characters)])
    assert [(query, reference) for query, reference, _ in near] == [(i, 10 * i) for i in range(len(changed))]


def test_the_most_similar_reference_is_returned() -> None:
    query = texts(1, 3)[0]
    references = [query[:10] + "xx" + query[12:], query, query[:-3]]
    assert find(references, [query]) == [(0, 1, 1.0)]


@pytest.mark.parametrize(
    "values",
    [
        texts(50, 4),
        texts(50, 5, characters=True),
        ["", "a", "abcd", "abcde", "  A  B\tc\nd e ", "ﬁne ｆｉｎｅ fine", ""],
        ["", "", ""],
        ["x" * 9000, texts(1, 6)[0] * 200, "short text"],
        ["half a character \ud800 in a text", "é" * 30],
    ],
    ids=["syllables", "Chinese", "short", "empty", "long", "surrogate"],
)
def test_hashes_in_a_batch_are_those_of_each_text(values: list[str]) -> None:
    hashes, counts = shingle_batch(values)
    parts = np.split(hashes, np.cumsum(counts)[:-1])
    for text, part in zip(values, parts, strict=True):
        assert np.array_equal(np.unique(part)[:MAX_SHINGLES], shingles(text))


def test_boilerplate_is_no_quadratic_search() -> None:
    text = texts(1, 7)[0]
    near = find([text] * 3000, [text] * 3000)
    assert near and all(similarity == 1 for _, _, similarity in near)


MILLION = """
import random, resource, time
from test_near_duplicates import batches, find_near_duplicates, shingles, SYLLABLES
rng = random.Random(0)
words = ["".join(rng.choices(SYLLABLES, k=rng.randint(1, 3))) for _ in range(20_000)]
references = [" ".join(rng.choices(words, k=16)) for _ in range(1_000_000)]
queries = [text[:20] + "x" + text[21:] for text in references[:: 1000]]
before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
near = find_near_duplicates(batches(references, 2048), batches(queries, 2048), lambda r: shingles(references[r]),
    lambda q: shingles(queries[q]), 0.7)
print(len(near), time.process_time() - start, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.slow
def test_a_million_rows_take_a_minute_and_a_gigabyte() -> None:
    from pathlib import Path

    outcome = subprocess.run(
        [sys.executable, "-c", MILLION], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
    )
    count, seconds, megabytes = map(float, outcome.stdout.split())
    assert count == 1000 and seconds < 60 and megabytes < 1000
