"""Measures of the code's structure: folders, layers, contracts, sizes of functions, and plain language.

The limits are the project's; a failing test prints the offenders. What a linter measures already is not here: `make lint` checks
import layers (import-linter) and names (tools/language.py, which is also run here).
"""

from __future__ import annotations

import ast
import re
import statistics
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from mapsto import kinds
from mapsto.task.source import Source
from mapsto.task.target import Target

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "mapsto"

MAX_TOP_FILES, MAX_FOLDER_FILES, MAX_LAYERS = 10, 18, 18
MAX_CONTRACT_MEMBERS = 20
MAX_PARAMETERS, MAX_SHARE_OVER_PARAMETERS = 6, 0.003
MAX_MEDIAN_LINES, MAX_P90_LINES, MAX_LINES = 6, 18, 95

# Packages that may name a kind: the kinds, what the kinds of a medium share, published families, and the demo's own data.
KIND_PACKAGES = ("kinds", "vision", "text", "audio", "zoo", "demo")

# Strings that equal the name of a kind but mean something else: file or folder, string, and what it means.
NOT_KINDS = {
    ("task/arrow.py", "label"): "port of `<->` by which rows are grouped: a part of the notation",
    ("active_learning", "label"): "column of the rows that suggest writes",
    ("active_learning", "labels"): "key and type of spans in tasks of Label Studio",
    ("active_learning", "text"): "key of a text in tasks of Label Studio",
    ("api.py", "labels"): "keyword of compare: numbers of labelled rows",
    ("cli", "labels"): "keyword of compare: numbers of labelled rows",
    ("cli", "text"): "subject of the demo",
    ("cli", "image"): "subject of the demo",
    ("cli", "tags"): "subject of the demo",
    ("cli", "sound"): "subject of the demo",
    ("fitting/run_data.py", "span"): "shape of hidden tokens: runs of words",
    ("serve/routes/page.py", "tags"): "key of OpenAPI: groups of routes",
    ("task/target_capabilities.py", "labels"): "what answers consist of: a word on pages",
    ("options.py", "labels"): "keyword of compare: numbers of labelled rows",
    ("evaluation/suspects.py", "label"): "column of the table of suspects",
    ("sklearn.py", "text"): "what estimators of scikit-learn read by default",
    ("sklearn.py", "label"): "answers of the classifier for scikit-learn",
    ("sklearn.py", "number"): "answers of the regressor for scikit-learn",
    ("sklearn.py", "vector"): "name of a column of scikit-learn's vectors",
    ("options.py", "span"): "shape of hidden tokens: runs of words",
    ("sequence/corruption.py", "span"): "shape of hidden tokens: runs of words",
    ("comparison", "labels"): "entry and column of results: number of labelled rows",
    ("data/formats/conll.py", "text"): "column of the texts of sentences",
    ("data/formats/conll.py", "tags"): "column of the spans of sentences",
    ("data/formats/recording_lists.py", "sound"): "column of the recordings in lists without a header",
    ("data/formats/recording_lists.py", "text"): "column of their texts",
    ("data/files.py", "label"): "column that holds the names of class folders",
    ("data/readers.py", "text"): "column that holds the lines of a plain text file",
    ("data/formats/header_hints.py", "text"): "column that holds the lines of a plain text file",
    ("evaluation/report.py", "label"): "heading of a column of true answers",
    ("evaluation/report_sections.py", "label"): "heading of a column of true answers",
    ("serve/labelling/questions.py", "labels"): "type of spans in tasks of Label Studio",
    ("serve", "vector"): "key of an embedding in answers",
    ("serve", "text"): "key of a document or of a part of a streamed text, in the forms of other services",
    ("serve", "label"): "key of a class in Hugging Face's form",
    ("inference/embedder.py", "vector"): "key of an embedding in the output",
}


@cache
def modules() -> tuple[tuple[Path, ast.Module], ...]:
    """Return the path and the syntax tree of every module of the package."""
    return tuple((path, ast.parse(path.read_text(encoding="utf-8"))) for path in sorted(PACKAGE.rglob("*.py")))


def locate(path: Path, node: ast.AST) -> str:
    """Return the place of a node as `package/module.py:line`."""
    return f"{path.relative_to(PACKAGE)}:{getattr(node, 'lineno', 1)}"


def functions() -> Iterator[tuple[Path, ast.FunctionDef | ast.AsyncFunctionDef, bool]]:
    """Yield every function with its file, and whether it is a method."""
    for path, tree in modules():
        methods = {
            child for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for child in ast.iter_child_nodes(node)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield path, node, node in methods


def test_few_files_lie_flat_at_the_top() -> None:
    files = sorted(path.name for path in PACKAGE.glob("*.py"))
    assert len(files) <= MAX_TOP_FILES, files


def test_no_folder_is_crowded() -> None:
    """zoo/ may be larger, since it has one file for each published family."""
    folders = {path.parent for path, _ in modules()} - {PACKAGE / "zoo"}
    counts = {folder.relative_to(ROOT): len(list(folder.glob("*.py"))) for folder in folders}
    assert max(counts.values()) <= MAX_FOLDER_FILES, counts


def test_layers_are_packages() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    assert len(layers) <= MAX_LAYERS, layers
    names = [name.strip() for layer in layers for name in layer.split("|")]
    inner = [name for name in names if name.count(".") != 1]
    assert not inner, f"a layer is a package or a module at the top: {inner}"
    listed = {name.removeprefix("mapsto.") for name in names}
    existing = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert listed <= existing, listed - existing


@pytest.mark.parametrize("contract", [Source, Target])
def test_contracts_are_small(contract: type) -> None:
    """Inherited members and annotated fields without a value are counted too, private ones are not."""
    annotated = {name for parent in contract.__mro__ for name in vars(parent).get("__annotations__", {})}
    members = {name for name in {*dir(contract), *annotated} if not name.startswith("_")}
    assert len(members) <= MAX_CONTRACT_MEMBERS, sorted(members)


def is_public_face(path: Path, function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Return whether a function is Python's or the command line's public API, whose parameters are the user's options."""
    place = path.relative_to(PACKAGE).parts
    return place == ("api.py",) or (place[0] == "cli" and bool(function.decorator_list))


def test_functions_have_few_parameters() -> None:
    """`self`, `cls` and the `ctx` of an autograd function do not count."""
    offenders, total = [], 0
    for path, function, is_method in functions():
        total += 1
        names = [arg.arg for arg in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)]
        names = names[1:] if is_method and names[:1] in (["self"], ["cls"], ["ctx"]) else names
        if len(names) > MAX_PARAMETERS and not is_public_face(path, function):
            offenders.append(f"{locate(path, function)} {function.name}: {len(names)} parameters")
    assert len(offenders) / total <= MAX_SHARE_OVER_PARAMETERS, "\n".join(offenders)


def count_code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count the lines of a function without its docstring: explaining an argument must not cost anything."""
    lines = (function.end_lineno or function.lineno) - function.lineno + 1
    if ast.get_docstring(function) is not None:
        docstring = function.body[0]
        lines -= (docstring.end_lineno or docstring.lineno) - docstring.lineno + 1
    return lines


def test_functions_are_short() -> None:
    measured = sorted(
        (count_code_lines(function), locate(path, function), function.name) for path, function, _ in functions()
    )
    lines = [count for count, _, _ in measured]
    p90 = lines[int(0.9 * len(lines))]
    longest = "\n".join(f"{count} lines: {place} {name}" for count, place, name in reversed(measured[-10:]))
    assert lines[-1] <= MAX_LINES, longest
    assert statistics.median(lines) <= MAX_MEDIAN_LINES and p90 <= MAX_P90_LINES, f"p90 {p90}; longest:\n{longest}"


def test_readouts_are_not_compared() -> None:
    """Code calls a target's `readout` instead of comparing it, so that what differs between readouts stays in one place."""
    pattern = re.compile(r"\.way\s*(==|!=|\bin\b)|\breadout\s*==")
    offenders = [
        f"{path.relative_to(PACKAGE)}:{number}: {line.strip()}"
        for path, _ in modules()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if pattern.search(line)
    ]
    assert not offenders, "\n".join(offenders)


def is_known_string(path: Path, value: str) -> bool:
    """Return whether NOT_KINDS lists the string for this file or its package."""
    place = path.relative_to(PACKAGE)
    return any((name, value) in NOT_KINDS for name in (place.as_posix(), place.parts[0]))


def test_kinds_are_named_by_their_packages_only() -> None:
    """Other packages ask a kind for its capabilities (task/capabilities.py), so that a new kind needs no edit there."""
    names = {*kinds.names("source"), *kinds.names("target")}
    offenders = []
    for path, tree in modules():
        if path.relative_to(PACKAGE).parts[0] in KIND_PACKAGES:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and node.value in names and not is_known_string(path, node.value):
                offenders.append(f"{locate(path, node)} {node.value!r}")
    assert not offenders, "\n".join(offenders)


def test_language_is_plain(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import language

    assert language.main([]) == 0, capsys.readouterr().out
    sys.modules.pop("language", None)
