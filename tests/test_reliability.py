"""Every promise of docs/reliability.md has a test that exists, and slow ones are marked as such."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
# `tests/package/file.py::test_name`, and whether all or some of its cases are slow.
NAMED_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`(?: \((partly )?(slow)\))?")
PROMISES = [line for line in PAGE.splitlines() if line.startswith("|") and not line.startswith(("| promise", "|---"))]


@cache
def decorators(path: str) -> dict[str, str]:
    """Return the decorators of each test function of a file as source text, by the name of the function."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {
        node.name: "\n".join(map(ast.unparse, node.decorator_list))
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
    }


@pytest.mark.parametrize("match", NAMED_TEST.finditer(PAGE), ids=lambda match: match[2])
def test_a_named_test_exists_and_is_marked_as_it_runs(match: re.Match[str]) -> None:
    path, name, partly, slow = match.groups()
    assert name in decorators(path), f"{path} has no test {name}"
    marks = decorators(path)[name]
    is_slow, has_slow_cases = "pytest.mark.slow" in marks.splitlines(), "pytest.mark.slow" in marks
    assert is_slow == bool(slow and not partly)
    assert has_slow_cases or not slow


@pytest.mark.parametrize("line", PROMISES, ids=lambda line: line.split("|")[1].strip()[:40])
def test_a_promise_has_a_test(line: str) -> None:
    cells = re.split(r"(?<!\\)\|", line)
    assert len(cells) == 5 and cells[1].strip() and NAMED_TEST.search(cells[3])
