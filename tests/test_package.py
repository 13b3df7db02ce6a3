"""What importing and asking for help costs, and what is public."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import mapsto


def imported_by(code: str) -> set[str]:
    """The modules that a fresh Python holds after `code`."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(' '.join(sys.modules))"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return set(done.stdout.splitlines()[-1].split())


def test_importing_mapsto_imports_nothing_heavy() -> None:
    held = imported_by("import mapsto")
    assert not held & {"torch", "numpy", "sklearn", "pyarrow", "tokenizers", "typer"}


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nsys.argv = ['mapsto', '--help']\nfrom mapsto import cli\ntry: cli.main()\nexcept SystemExit: pass"
    )
    assert not imported_by(code) & {"torch", "sklearn", "pyarrow", "tokenizers"}


def test_opening_a_model_does_not_import_the_compiler(tmp_path: Path) -> None:
    mapsto.fit(
        "text -> label", [{"text": f"word {i}", "label": "ab"[i % 2]} for i in range(20)], tmp_path / "clf", steps=1
    )
    code = f"import mapsto; print(mapsto.load({str(tmp_path / 'clf')!r}).predict(['word'])[0].keys())"
    assert not imported_by(code) & {"torch._dynamo", "sklearn", "huggingface_hub"}


def test_the_public_names() -> None:
    assert mapsto.__all__ == ["MapstoError", "Model", "__version__", "compare", "fit", "load", "pretrain"]
    assert all(getattr(mapsto, name) is not None for name in mapsto.__all__)
    assert set(dir(mapsto)) == set(mapsto.__all__)


def test_nothing_opens_a_socket(tmp_path: object) -> None:
    """A whole fit, prediction and evaluation with the network forbidden."""
    code = """
import socket
def refuse(*a, **k): raise AssertionError("a socket was opened")
socket.socket.connect = refuse
socket.create_connection = refuse
socket.getaddrinfo = refuse
from pathlib import Path

import mapsto
rows = [{"text": f"{i} {'good' if i % 2 else 'bad'} words", "label": str(i % 2)} for i in range(40)]
clf = mapsto.fit("text -> label", rows, steps=2, layers=1, width=64, vocabulary=300)
clf.predict(["good"]), clf.evaluate(rows)
"""
    imported_by(code)
