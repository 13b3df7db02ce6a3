"""English sentences with their Chinese translations, made by a small grammar, for the demo of translation.

The languages order the parts of a sentence differently ("… in the park yesterday", 昨天…在公园里…), and Chinese puts a measure
word between a number and its noun, so that a translation is more than a replacement of words.
"""

from __future__ import annotations

import random
from typing import NamedTuple


def _read_lexicon(text: str) -> list[tuple[str, ...]]:
    """Return the entries of a lexicon, which are separated by commas, and the words of each, separated by slashes."""
    return [tuple(word.strip() for word in entry.split("/")) for entry in text.split(",")]


# English word, plural, measure word and Chinese word.
NOUNS = _read_lexicon(
    "dog/dogs/只/狗, cat/cats/只/猫, bird/birds/只/鸟, horse/horses/匹/马, house/houses/座/房子, book/books/本/书,"
    "letter/letters/封/信, car/cars/辆/汽车, bicycle/bicycles/辆/自行车, chair/chairs/把/椅子, table/tables/张/桌子,"
    "picture/pictures/张/照片, teacher/teachers/位/老师, doctor/doctors/位/医生, student/students/个/学生,"
    "child/children/个/孩子, apple/apples/个/苹果, hat/hats/顶/帽子, flower/flowers/朵/花, boat/boats/条/船"
)
NUMBERS = _read_lexicon("a/一, two/两, three/三, four/四, five/五, nine/九")
ADJECTIVES = _read_lexicon("small/小, big/大, old/旧, new/新, red/红色的, blue/蓝色的, beautiful/漂亮的, heavy/很重的")
VERBS = _read_lexicon(
    "saw/看见了, bought/买了, found/找到了, lost/丢了, sold/卖了, drew/画了, remembered/想起了, hid/藏了"
)
PLACES = _read_lexicon(
    "in the park/在公园里, at the station/在车站, on the bridge/在桥上, at school/在学校, by the river/在河边,"
    "in the garden/在花园里, at the market/在市场上, in the city/在城里"
)
TIMES = _read_lexicon("yesterday/昨天, today/今天, last week/上周, this morning/今天早上, last year/去年")


class Phrase(NamedTuple):
    """A noun with its number and adjective, in English and in Chinese."""

    english: str
    chinese: str


def make_pairs(count: int, seed: int) -> list[dict[str, str]]:
    """Return `count` different sentences as rows with the cells `en` and `zh`, the same ones for the same seed."""
    rng = random.Random(seed)
    rows: dict[str, dict[str, str]] = {}
    while len(rows) < count:
        subject, thing = _make_phrase(rng), _make_phrase(rng)
        (verb, zh_verb), (place, zh_place), (time, zh_time) = map(rng.choice, (VERBS, PLACES, TIMES))
        english = f"{subject.english} {verb} {thing.english} {place} {time}."
        chinese = f"{zh_time}{subject.chinese}{zh_place}{zh_verb}{thing.chinese}。"
        rows[english] = {"en": english[0].upper() + english[1:], "zh": chinese}
    return list(rows.values())


def _make_phrase(rng: random.Random) -> Phrase:
    """Return a random phrase such as "two red hats", 两顶红色的帽子."""
    (number, zh_number), (adjective, zh_adjective) = rng.choice(NUMBERS), rng.choice(ADJECTIVES)
    single, plural, measure, zh_noun = rng.choice(NOUNS)
    article = "an" if number == "a" and adjective[0] in "aeiou" else number
    english = f"{article} {adjective} {single if number == 'a' else plural}"
    return Phrase(english, f"{zh_number}{measure}{zh_adjective}{zh_noun}")
