"""Importing mapsto and `--help` import nothing heavy; the public names; no network connection is opened."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import mapsto


def imported_by(code: str) -> set[str]:
    """Return the names of the modules that a fresh Python has imported after running `code`."""
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
    assert not imported_by(code) & {"torch", "numpy", "sklearn", "pyarrow", "tokenizers"}


@pytest.mark.parametrize(
    ("running", "is_busy"), [("1/200", False), ("2/200", True), ("3/200", True), ("nonsense", False)]
)
def test_processors_that_others_use_are_seen(
    running: str, is_busy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "loadavg").write_text(f"0.10 0.20 0.30 {running} 4711\n", encoding="ascii")
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert mapsto._is_busy(str(tmp_path / "loadavg")) == is_busy
    assert not mapsto._is_busy(str(tmp_path / "missing"))


def test_opening_a_model_does_not_import_the_compiler(tmp_path: Path) -> None:
    mapsto.fit(
        "text -> label", [{"text": f"word {i}", "label": "ab"[i % 2]} for i in range(20)], tmp_path / "clf", steps=1
    )
    code = f"import mapsto; print(mapsto.load({str(tmp_path / 'clf')!r}).predict(['word'])[0].keys())"
    assert not imported_by(code) & {"torch._dynamo", "sklearn", "huggingface_hub"}


def test_the_public_names() -> None:
    assert mapsto.__all__ == [
        "Decoding", "MapstoError", "MapstoWarning", "Model", "Options", "__version__", "compare", "fit", "load",
        "pretrain", "push",
    ]  # fmt: skip
    assert all(getattr(mapsto, name) is not None for name in mapsto.__all__)
    assert set(dir(mapsto)) == set(mapsto.__all__)


def test_nothing_opens_a_socket(tmp_path: Path) -> None:
    """This holds from pretraining to answers, and even for a name on the hub if HF_HUB_OFFLINE is set."""
    code = f"""
import os, socket
os.environ["HF_HUB_OFFLINE"] = "1"
opened = []
real = socket.socket.__init__
def noted(self, *given, **named):
    opened.append(given)
    real(self, *given, **named)
socket.socket.__init__ = noted
socket.getaddrinfo = lambda *given, **named: opened.append(given) or []
import mapsto
rows = [{{"text": f"{{i}} {{'good' if i % 2 else 'bad'}} words", "label": str(i % 2)}} for i in range(40)]
base, clf = {str(tmp_path / "base")!r}, {str(tmp_path / "clf")!r}
mapsto.pretrain("text", rows, base, steps=2, layers=1, width=64, vocabulary=300)
mapsto.fit("text -> label", rows, clf, start=base, test=[{{"text": "new words", "label": "0"}}], steps=2, method="full")
model = mapsto.load(clf)
model.predict(["good"]), model.evaluate(rows), model.explain("good words"), model.embed(["good"])
try:
    mapsto.load("hf:nobody/has-this-model")
    raise SystemExit("a model that is nowhere was opened")
except mapsto.MapstoError:
    pass
assert not opened, opened
"""
    imported_by(code)
