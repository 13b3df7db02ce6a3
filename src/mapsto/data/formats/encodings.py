"""Tell which encodings the bytes of a text may be in, for a reader to choose by a sample of each.

An encoding is plausible if most of its characters that are not ASCII are common ones of its languages, in words of one script
and in the usual case. In encodings of Chinese, Japanese and Korean the first byte tells the common characters (level 1).
"""

from __future__ import annotations

import codecs
import re
from typing import NamedTuple

# Number of bytes by which encodings are compared; largest number of them that are named, and of characters of a sample.
NUM_COMPARED, MOST_NAMED, SAMPLE_SIZE = 2**14, 6, 24
# The plausibility, and its share of the best one, below which an encoding is not named.
MIN_PLAUSIBILITY, MIN_SHARE = 0.4, 0.5
# Signs that texts in every language have.
SIGNS = "“”„‘’‚–—…«»°€£§©®·¿¡•™№"
WESTERN = "àâäáãåæçèéêëìíîïñòóôöõøœùúûüýßªº"


class Encoding(NamedTuple):
    """An encoding and the characters by which a text in it is known.

    leads: for two-byte encodings the first bytes of common characters. letters: for all others the letters of its languages.
    frequent: the letters that make up most of a text.
    """

    name: str
    leads: tuple[tuple[int, int], ...] = ()
    letters: str = ""
    frequent: str = ""


CYRILLIC = "абвгдежзийклмнопрстуфхцчшщъыьэюяёіїєґў"
GREEK = "αβγδεζηθικλμνξοπρσςτυφχψωάέήίόύώϊϋΐΰ"
HEBREW = "אבגדהוזחטיךכלםמןנסעףפץצקרשת"
ARABIC = "".join(map(chr, (*range(0x621, 0x63B), *range(0x640, 0x653)))) + "پچگژی،؟"
THAI = "".join(map(chr, (*range(0xE01, 0xE3B), *range(0xE40, 0xE5A))))
# The common ones of equal plausibility first.
ENCODINGS = (
    Encoding("cp1252", (), WESTERN, WESTERN),
    Encoding("gb18030", ((0xA1, 0xA1), (0xA3, 0xA3), (0xB0, 0xD7))),
    Encoding("big5", ((0xA1, 0xA1), (0xA4, 0xC6))),
    Encoding("shift_jis", ((0x81, 0x83), (0x88, 0x97))),
    Encoding("euc_jp", ((0xA1, 0xA1), (0xA4, 0xA5), (0xB0, 0xCF))),
    Encoding("euc_kr", ((0xA1, 0xA1), (0xB0, 0xC8))),
    Encoding("cp1251", (), CYRILLIC, "оеаинтсрвлкм"),
    Encoding("koi8-r", (), CYRILLIC, "оеаинтсрвлкм"),
    Encoding("cp866", (), CYRILLIC, "оеаинтсрвлкм"),
    Encoding("cp1253", (), GREEK, "αοιετνσςρκπυ"),
    Encoding("cp1254", (), "çğıiöşüâîû", "çğıöşü"),
    Encoding("cp1255", (), HEBREW, "יוהלאתרמשבנם"),
    Encoding("cp1256", (), ARABIC, "اليمونرتبةعد"),
    Encoding("cp874", (), THAI, "านรกอเงมยลวท่้ีั็ิ"),
    Encoding("cp1250", (), "ąćęłńóśźżáčďéěíňřšťúůýžäöüßőűăîâşţđ", "ąćęłńóśźżáčéěířšúůýž"),
    Encoding("cp850", (), WESTERN, WESTERN),
)
WORD = re.compile(r"[^\W\d_]+")
# Vowels and tones of Thai are no letters by their category.
THAI_WORD = re.compile(f"[a-zA-Z{THAI}]+")


def advise_encodings(content: bytes, is_whole: bool) -> str:
    """Return the plausible encodings of bytes with a sample of each, as advice to name one with `--encoding`; "" if none is.

    content: bytes from the beginning of a line on. is_whole: whether no bytes follow, so that the last character is whole.
    """
    cut = content[:NUM_COMPARED]
    candidates: dict[str, tuple[float, str]] = {}
    for encoding in ENCODINGS:
        try:
            text = codecs.getincrementaldecoder(encoding.name)().decode(cut, is_whole and len(cut) == len(content))
        except UnicodeDecodeError:
            continue
        # Encodings that give the same text are one.
        candidates.setdefault(text, (_measure(text, encoding), encoding.name))
    best = max((plausibility for plausibility, _ in candidates.values()), default=0.0)
    least = max(MIN_PLAUSIBILITY, MIN_SHARE * best)
    ranked = sorted(candidates.items(), key=lambda item: -item[1][0])[:MOST_NAMED]
    samples = [(name, _sample(text)) for text, (plausibility, name) in ranked if plausibility >= least]
    if len(samples) == 1:
        return f"; if {samples[0][1]!r} reads right, say --encoding {samples[0][0]}"
    listing = ", ".join(f"--encoding {name} gives {sample!r}" for name, sample in samples)
    return f"; look which one reads right: {listing}" if samples else ""


def _measure(text: str, encoding: Encoding) -> float:
    """Return the plausibility of a text in an encoding, from 0 to 1."""
    non_ascii = [character for character in text if not character.isascii()]
    if not non_ascii:
        return 0.0
    if encoding.leads:
        pairs = [character.encode(encoding.name) for character in non_ascii]
        common = [len(pair) == 2 and any(low <= pair[0] <= high for low, high in encoding.leads) for pair in pairs]
        return sum(common) / len(non_ascii)
    num_usual = sum(character in SIGNS for character in non_ascii)
    words = THAI_WORD if encoding.letters == THAI else WORD
    num_usual += sum(_count_usual(word[0], encoding) for word in words.finditer(text))
    letters = [character.lower() for character in non_ascii if character not in SIGNS]
    frequent = sum(letter in encoding.frequent for letter in letters) / max(1, len(letters))
    return num_usual / len(non_ascii) * (1 + frequent) / 2


def _count_usual(word: str, encoding: Encoding) -> int:
    """Return the number of letters of a word that are not ASCII, if it may be one of the languages of an encoding; else 0."""
    non_ascii = [letter for letter in word if not letter.isascii()]
    if not all(letter.lower() in encoding.letters for letter in non_ascii):
        return 0
    is_latin = "ü" in encoding.letters
    # A Latin word has few letters with marks; one of another script has no Latin letter.
    if len(non_ascii) > max(1, 0.6 * len(word)) if is_latin else len(non_ascii) < len(word):
        return 0
    has_usual_case = word.isupper() or word[1:] == word[1:].lower()
    return len(non_ascii) if has_usual_case and (is_latin or len(word) > 1) else 0


def _sample(text: str) -> str:
    """Return the characters of a text around the first one that is not ASCII, in its line."""
    first = next((index for index, character in enumerate(text) if not character.isascii()), 0)
    start = max(text.rfind("\n", 0, first) + 1, text.rfind("\r", 0, first) + 1, first - SAMPLE_SIZE // 3)
    return (text[start : start + SAMPLE_SIZE].splitlines() or [""])[0]
