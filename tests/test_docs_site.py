"""Tests of the pages of the docs site (`make docs`): every link leads somewhere within it, and nothing public is missing."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

import mapsto

ROOT = Path(__file__).resolve().parents[1]


def test_the_pages_link_to_each_other_and_the_reference_has_what_is_public(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import docs

    monkeypatch.setattr(docs, "TARGET", tmp_path)
    docs.write_pages()
    docs.write_reference()
    sys.modules.pop("docs", None)
    pages = list(tmp_path.rglob("*.md"))
    assert {f"{page.stem}.md" for page in (ROOT / "docs").glob("*.md")} <= {page.name for page in pages}
    for page in pages:
        for target in re.findall(r"\]\(([^)#\s]+)[)#]", page.read_text(encoding="utf-8")):
            assert re.match(r"[a-z]+:", target) or (page.parent / target).is_file(), f"{page.name} → {target}"
    reference = (tmp_path / "reference-python.md").read_text(encoding="utf-8")
    names = {line.rpartition(".")[2] for line in reference.splitlines() if line.startswith("::: ")}
    assert set(mapsto.__all__) - {"__version__"} <= names
    commands = (tmp_path / "reference-commands.md").read_text(encoding="utf-8")
    assert {"## `mapsto fit`", "## `mapsto push`"} <= set(commands.splitlines())
