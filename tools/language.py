"""Measure plain language in the package: docstrings that do not say what is done, and names that say nothing (`make lint`).

Prints each offender with its place, and then both shares; exits with 1 if a share is above its limit. Usage:
tools/language.py [FILE …], by default all files of src/.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MOST_RIDDLES, MOST_VAGUE_NAMES = 0.01, 0.005

# First words of docstrings that do not say what is done. A docstring that opens with one of them is called a riddle.
RIDDLES = frozenset(
    [
        "what",
        "how",
        "whether",
        "where",
        "which",
        "those",
        "that",
        "these",
        "as",
        "of",
        "none",
        "why",
        "who",
        "whose",
        "when",
        "such",
        "nothing",
        "everything",
        "anything",
        "whatever",
        "if",
        "for",
        "in",
        "by",
        "with",
        "without",
    ]
)

# Participles, adverbs, pronouns and prepositions that stand for what has a name. Terms of the field (hidden, masked, packed,
# encoded, shared …) are not among them.
VAGUE = frozenset(
    [
        "found",
        "said",
        "told",
        "shown",
        "made",
        "given",
        "seen",
        "held",
        "kept",
        "known",
        "chosen",
        "taken",
        "wanted",
        "asked",
        "drawn",
        "named",
        "laid",
        "listed",
        "opened",
        "begun",
        "began",
        "ended",
        "done",
        "left",
        "meant",
        "lost",
        "learnt",
        "learned",
        "answered",
        "tested",
        "watched",
        "filled",
        "moved",
        "changed",
        "turned",
        "spent",
        "joined",
        "written",
        "foretold",
        "brought",
        "got",
        "put",
        "gone",
        "come",
        "called",
        "tried",
        "stood",
        "lain",
        "borne",
        "spelt",
        "heard",
        "noted",
        "marked",
        "settled",
        "gathered",
        "thrown",
        "at",
        "of",
        "how",
        "what",
        "where",
        "why",
        "which",
        "who",
        "whose",
        "whole",
        "own",
        "one",
        "ones",
        "other",
        "others",
        "ours",
        "theirs",
        "mine",
        "both",
        "each",
        "every",
        "some",
        "none",
        "here",
        "there",
        "now",
        "then",
        "away",
        "apart",
        "beside",
        "besides",
        "behind",
        "before",
        "after",
        "again",
        "about",
        "within",
        "inside",
        "into",
        "over",
        "by",
        "along",
        "around",
        "without",
        "near",
        "more",
        "most",
        "few",
        "usual",
        "same",
        "different",
        "sure",
        "plain",
        "such",
        "again",
        "already",
        "still",
        "aside",
        "together",
        "ahead",
        "onwards",
    ]
)


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of every docstring in a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield getattr(node, "lineno", 1), text


def bound_names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield (line, name) of everything that gets a name: variables, parameters, attributes, functions, classes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name


def is_riddle(docstring: str) -> bool:
    """Return whether a docstring opens with a word of RIDDLES."""
    return docstring.split()[0].strip(".,:;…`'\"").lower() in RIDDLES


def main(paths: list[str]) -> int:
    """Check the files at `paths`, by default all of src/: print the offenders and both shares; return the exit status."""
    files = [Path(path) for path in paths] or sorted((ROOT / "src").rglob("*.py"))
    num_docstrings = num_riddles = num_names = num_vague = 0
    for file in files:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for line, text in docstrings(tree):
            num_docstrings += 1
            if is_riddle(text):
                num_riddles += 1
                print(f"{file}:{line}: docstring opens with {text.split()[0]!r}")
        for line, name in bound_names(tree):
            num_names += 1
            if name.strip("_").lower() in VAGUE:
                num_vague += 1
                print(f"{file}:{line}: name {name!r}")
    riddles, vague = num_riddles / max(1, num_docstrings), num_vague / max(1, num_names)
    print(
        f"docstrings that open with a riddle: {num_riddles} of {num_docstrings} ({riddles:.1%}; at most {MOST_RIDDLES:.0%})"
    )
    print(f"names that say nothing: {num_vague} of {num_names} ({vague:.1%}; at most {MOST_VAGUE_NAMES:.1%})")
    return int(riddles > MOST_RIDDLES or vague > MOST_VAGUE_NAMES)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
