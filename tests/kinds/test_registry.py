"""The registry of kinds: files are entries, and naming the kinds imports none of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mapsto import kinds
from mapsto.errors import UsageError
from mapsto.task.capabilities import require
from mapsto.task.source_capabilities import Augmentable, Spatial, Tokenized

NEW_KIND = "from mapsto.kinds.label import target\n\ntarget: type = target\n"


def test_naming_the_kinds_imports_none_of_them() -> None:
    code = (
        "import sys; from mapsto import kinds; names = kinds.names('source'), kinds.names('target'); "
        "print([m for m in sys.modules if m.startswith('mapsto.kinds.')]); assert 'image' in names[0]"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == "[]", done.stdout + done.stderr


def test_a_file_in_an_added_folder_is_a_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "verdict.py").write_text(NEW_KIND)
    assert "verdict" not in kinds.names("target")
    monkeypatch.setattr(kinds, "__path__", [*kinds.__path__, str(tmp_path)])
    assert "verdict" in kinds.names("target") and "verdict" not in kinds.names("source")
    assert kinds.target("verdict") is kinds.target("label")


def test_require_says_what_a_kind_cannot_do() -> None:
    text = kinds.source("text")
    assert require(text, Tokenized, "read as a corpus") is text
    with pytest.raises(UsageError, match="'text' cannot be mixed"):
        require(text, Augmentable, "mixed")
    with pytest.raises(UsageError, match="'video' cannot be resized"):
        require(kinds.source("video"), Spatial, "resized")
