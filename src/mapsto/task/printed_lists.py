"""Parse lists in the cells of a text table, as JSON has them and as Python, NumPy and pandas print them.

Examples are ["a", "b"], ['a', 'b'], ['a' 'b'], [1. 2. 3.], array([1, 2]), ('a',), {'a', 'b'} and [{'start': 0, 'end': 3}]. Only
values are read, never code, in one pass over the text.
"""

from __future__ import annotations

import ast
import json
import re
from typing import Any

# Largest number of characters of a list, and of lists within each other.
LONGEST_LIST, MAX_DEPTH = 2**24, 32
# A list, a set, a tuple, or an array by the names under which NumPy, pandas and PyTorch print it.
OPENING = r"(?:(?:np\.|numpy\.)?array|tensor|set|frozenset|list|tuple|Index|Series)\("
# A single value that its type surrounds, as NumPy 2 and Python's decimals print it: np.float64(1.5), Decimal('2').
WRAPPED = r"(?:np\.|numpy\.)?(?:float|int|uint|str|bool|bytes)_?\d*\(|Decimal\("
TOKEN = re.compile(
    rf"""\s*(?:(?P<open>{OPENING}|[\[({{])|(?P<wrap>{WRAPPED})|(?P<close>[\])}}])|(?P<comma>,)|(?P<colon>:)
    |(?P<quoted>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")
    |(?P<numeral>[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?(?![\w.]))
    |(?P<word>(?:np\.)?(?:True|False|None|nan|NaN|NA|NaT|null|true|false|[-+]?inf))\b
    |(?P<setting>(?:dtype|device|name|shape|requires_grad)=(?:'[^']*'|"[^"]*"|[\w.<>|]+|\([^()]*\)))
    |(?P<dots>\.\.\.))""",
    re.VERBOSE | re.DOTALL,
)
WORDS = {"True": True, "true": True, "False": False, "false": False, "inf": float("inf"), "-inf": float("-inf")}
CLOSING = {"[": "]", "(": ")", "{": "}"}
BEGINNINGS = re.compile(rf"\s*(?:{OPENING}|[\[({{])")


def is_printed_list(text: str) -> bool:
    """Return whether a text begins with a bracket, or with the name of an array and a bracket."""
    return BEGINNINGS.match(text) is not None


def parse_list(text: str) -> Any:
    """Return the list, dict or value that a text spells: as JSON, or as Python, NumPy or pandas print it.

    Tuples, sets and arrays become lists. Raises ValueError, with the reason in words.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass  # the printed forms are tried
    if len(text) > LONGEST_LIST:
        raise ValueError(f"the list is longer than {LONGEST_LIST:,} characters")
    return _Parser(text).parse()


class _Parser:
    """A parser of one printed value. text: what was printed."""

    def __init__(self, text: str) -> None:
        self.text, self.position, self.depth = text.strip(), 0, 0

    def parse(self) -> Any:
        """Return the value of the whole text. Raises ValueError if it is none."""
        value = self._value(self._next())
        if self.position < len(self.text):
            raise self._error("there is more behind the list")
        return value

    def _next(self) -> tuple[str, str]:
        """Return the kind and the text of the next token. Raises ValueError if there is none."""
        match = TOKEN.match(self.text, self.position)
        if match is None:
            rest = self.text[self.position :].split(None, 1)
            raise self._error(
                f"{rest[0][:20]!r} is no value in quotes and no number" if rest else "the list does not end"
            )
        self.position = match.end()
        assert match.lastgroup is not None
        return match.lastgroup, match[match.lastgroup]

    def _error(self, reason: str) -> ValueError:
        return ValueError(f"{reason} (at character {self.position + 1})")

    def _value(self, token: tuple[str, str]) -> Any:
        """Return the value that begins with a token."""
        kind, text = token
        if kind == "open":
            return self._items(text)
        if kind == "wrap":
            value = self._value(self._next())
            if self._next() != ("close", ")"):
                raise self._error("a bracket does not close")
            is_number = isinstance(value, str) and "str" not in text and "bytes" not in text
            return float(value) if is_number else value
        if kind == "quoted":
            return str(ast.literal_eval(text))
        if kind == "numeral":
            return int(text) if re.fullmatch(r"[-+]?\d{1,4000}", text) else float(text)
        if kind == "word":
            return WORDS.get(text.removeprefix("np."))
        if kind == "dots":
            raise self._error("the list was shortened with ... when it was printed, and its values are lost")
        raise self._error(f"{text!r} stands where a value should")

    def _items(self, opening: str) -> Any:
        """Return the values up to the bracket that closes the list, set, tuple, array or dict; commas between them may lack."""
        closing = CLOSING[opening[-1]]
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self._error(f"lists are nested more than {MAX_DEPTH} deep")
        items: list[Any] = []
        pairs: dict[Any, Any] = {}
        has_comma = False
        while (token := self._next()) != ("close", closing):
            if token[0] == "comma":
                has_comma = True
            elif token[0] == "colon" and opening == "{" and items:
                pairs[str(items.pop())] = self._value(self._next())
            elif token[0] != "setting":
                items.append(self._value(token))
        self.depth -= 1
        if opening == "{" and (pairs or not items):
            if items:
                raise self._error("a key has no value")
            return pairs
        # An array or a set is printed as a bracket around the bracket of its values.
        if len(opening) > 1 and len(items) == 1 and isinstance(items[0], list):
            return items[0]
        # Python writes a tuple of one value with a comma; without it the brackets only surround a value.
        return items[0] if opening == "(" and len(items) == 1 and not has_comma else items
