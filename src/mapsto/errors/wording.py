"""Name options in messages as the user writes them: `--bad-rows skip` on the command line, `bad_rows="skip"` in Python.

Messages are written with the flags of the command line. `worded` is called where a message reaches the user: when an error is
turned into text, and when a note is printed or warned of. Which flags have a keyword in Python is registered by those who
define the keywords, so that a flag of the command line alone, such as `--csv-safe`, stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

# Quoted text is the user's own, so flags in it stay. An apostrophe within a word opens no quotation.
_MENTION = re.compile(
    r"""(?P<quoted>(?<!\w)'(?:[^'\\]|\\.)*'|(?<!\w)"(?:[^"\\]|\\.)*")"""
    r"""|(?<![\w-])--(?P<name>[a-z][a-z-]*[a-z]|[a-z])(?![\w-])(?:[ =](?P<value>'[^']*'|"[^"]*"|[\w.+-]*\w))?"""
)
_NUMBER = re.compile(r"-?\d[\d.,]*(e-?\d+)?")

# The values that a keyword takes, by its name: words; () for a keyword without words; ANY_WORD for any word behind it.
ANY_WORD = ("",)
_KEYWORDS: dict[str, Sequence[str]] = {}
_SWITCHES: set[str] = set()
_is_command_line = False


def register_keywords(words: Mapping[str, Sequence[str]], switches: Iterable[str] = ()) -> None:
    """Register keywords of the Python API, such as "bad_rows", with the words that each can be followed by in a message.

    switches: keywords whose flag stands alone and means True.
    """
    for name, choices in words.items():
        _KEYWORDS[name] = choices or _KEYWORDS.get(name, ())
    _SWITCHES.update(switches)


@contextmanager
def on_command_line() -> Iterator[None]:
    """Name options by their flags during the `with` block, as the command line does."""
    global _is_command_line
    previous, _is_command_line = _is_command_line, True
    try:
        yield
    finally:
        _is_command_line = previous


def worded(text: str) -> str:
    """Return a message with its options as the user writes them; on the command line it is unchanged."""
    return text if _is_command_line or "--" not in text else _MENTION.sub(_in_python, text)


def _in_python(mention: re.Match[str]) -> str:
    """Return a mentioned flag, with the value behind it, as a keyword of Python; anything else as it stands."""
    if mention["quoted"] is not None:
        return mention[0]
    name, value = mention["name"].replace("-", "_"), mention["value"]
    suffix = mention[0][len(f"--{name}") :]
    if name.startswith("no_") and name.removeprefix("no_") in _KEYWORDS:
        return f"{name.removeprefix('no_')}=False{suffix}"
    if name not in _KEYWORDS:
        return mention[0]
    if name in _SWITCHES:
        return f"{name}=True{suffix}"
    if value is None:  # an equals sign shows that it is a keyword and no plain word
        return f"{name}="
    if _NUMBER.fullmatch(value) or value[0] in "'\"":
        return f"{name}={value}"
    return f'{name}="{value}"' if value in _KEYWORDS[name] or _KEYWORDS[name] == ANY_WORD else f"{name}={suffix}"
