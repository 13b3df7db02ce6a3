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
BOOLEANS = {"true": True, "True": True, "false": False, "False": False}
NUMBER = re.compile(r"[+-]?(\d{1,4000}\.?\d*|\.\d+)(e[+-]?\d{1,9})?")


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


def same_value(name: str, classes: Iterable[str]) -> str | None:
    """Return the class that is the same number or boolean as `name`, as 1.0 is "1" and True "true"; None if none is."""
    value = _value(name)
    return None if value is None else next((known for known in classes if _value(known) == value), None)


def _value(name: str) -> tuple[bool, float] | None:
    """Return (whether it is a boolean, value) of a name that spells a boolean or a number; None for any other name."""
    if name in BOOLEANS:
        return True, BOOLEANS[name]
    text = name.strip()
    return (False, float(text)) if NUMBER.fullmatch(text.casefold()) else None


def describe_alike(name: str, classes: Iterable[str]) -> str:
    """Return the end of a message about a label that training never saw: the classes that look like it; "" if none does."""
    look = appearance(name)
    alike = ", ".join(repr(known) for known in classes if appearance(known) == look)
    return f"; it looks like {alike} of the training rows: --fold-labels takes them as one" if alike else ""


def distinct_spellings(names: Iterable[str]) -> dict[str, str]:
    """Return each name as it is shown beside the others: in quotes if another one looks like it."""
    names = list(names)
    return {name: name for name in names} | {name: repr(name) for group in look_alikes(names) for name in group}


def merged_spellings(counts: Mapping[str, int]) -> dict[str, str]:
    """Return {name: the commonest name that looks like it} for each name that is not the commonest.

    counts: the number of rows of each name. Of two as common the one that is first in order is taken.
    """
    spellings: dict[str, str] = {}
    for group in look_alikes(counts):
        commonest = min(group, key=lambda name: (-counts[name], name))
        spellings |= {name: commonest for name in group if name != commonest}
    return spellings
