"""Spellings of class names: which names look alike, as "Yes" and "yes ", and the one spelling to write all of them with."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping

# Letters of Cyrillic and Greek, each with the Latin letter that it cannot be told from (Unicode Technical Standard 39).
TWINS = str.maketrans(
    "АВЕКМНОРСТУХІЈЅаеорсухіјѕһԁԛԝΑΒΕΖΗΙΚΜΝΟΡΤΥΧο",
    "ABEKMHOPCTYXIJSaeopcyxijshdqwABEZHIKMNOPTYXo",
)
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?")


def appearance(name: str) -> str:
    """Return a string that is the same for all names that look like `name`.

    Alike are names that differ by case, spaces, full width, characters that cannot be seen, or letters of another script that
    look the same, and ways to write the same number.
    """
    letters = unicodedata.normalize("NFKC", name).translate(TWINS).casefold()
    # Format characters, such as the zero-width space.
    text = " ".join("".join(letter for letter in letters if unicodedata.category(letter) != "Cf").split())
    return repr(float(text)) if NUMBER.fullmatch(text) and len(text) < 16 else text


def look_alikes(names: Iterable[str]) -> list[list[str]]:
    """Return the groups of names that look alike, of two names or more."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(appearance(name), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def merged_spellings(counts: Mapping[str, int]) -> dict[str, str]:
    """Return {name: the commonest name that looks like it} for each name that is not the commonest.

    counts: the number of rows of each name. Of two as common the one that is first in order is taken.
    """
    spellings: dict[str, str] = {}
    for group in look_alikes(counts):
        commonest = min(group, key=lambda name: (-counts[name], name))
        spellings |= {name: commonest for name in group if name != commonest}
    return spellings
