"""Prepare the pages of the docs site in build/docs, from README.md, docs/ and the docstrings; `make docs` then builds the site.

Pages stay as they are, but for links that lead out of docs/: what they name is copied to build/docs/source, so that every link of
the site leads somewhere, which the build checks. The reference of Python is made from the docstrings by mkdocstrings, that of the
command line from the commands' help.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "build" / "docs"
LINK = re.compile(r"(?<=\]\()([^)#\s]+)(?=[)#])")
TEXT_LINK = re.compile(r"\[([^\]]*)\]\(\)")
# What the reference shows, by its place in the package.
REFERENCE = {
    "Functions": ["api.fit", "api.pretrain", "api.compare", "api.load", "api.push"],
    "Models": ["api.Model", "task.generation.Decoding"],
    "Options": ["options.Options"],
    "Errors": [
        "errors.MapstoError",
        "progress.python.MapstoWarning",
        "errors.UsageError",
        "errors.DataError",
        "errors.CheckpointError",
        "errors.RunError",
    ],
    "Contracts of kinds": ["task.source.Source", "task.target.Target"],
}


def site_path(path: Path) -> Path:
    """Return the place in the site of a file of the project: pages of docs/ at the top, README.md as the first page."""
    relative = path.relative_to(ROOT)
    if relative == Path("README.md"):
        return Path("index.md")
    return relative.relative_to("docs") if relative.parts[0] == "docs" else Path("source") / relative


def convert_page(path: Path) -> tuple[str, set[Path]]:
    """Return a page with links to places in the site, and the files of the project that it links to."""
    targets: set[Path] = set()

    def convert_link(match: re.Match[str]) -> str:
        if re.match(r"[a-z]+:", match[1]):
            return match[1]
        target = (path.parent / match[1]).resolve()
        if not target.is_file() or not target.is_relative_to(ROOT):
            return ""  # a folder, which a site does not show
        targets.add(target)
        return Path(os.path.relpath(site_path(target), site_path(path).parent)).as_posix()

    text = LINK.sub(convert_link, path.read_text(encoding="utf-8"))
    return TEXT_LINK.sub(r"\1", text), targets


def write_pages() -> None:
    """Write all pages, and what they link to, to TARGET."""
    waiting = {ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")}
    finished: set[Path] = set()
    while waiting:
        path = waiting.pop()
        finished.add(path)
        target = TARGET / site_path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".md":
            text, linked = convert_page(path)
            target.write_text(text, encoding="utf-8")
            waiting |= linked - finished
        else:
            shutil.copyfile(path, target)


def write_reference() -> None:
    """Write the reference of Python, which mkdocstrings fills in, and that of the command line."""
    lines = ["# Reference of the Python API", ""]
    for title, names in REFERENCE.items():
        lines += [f"## {title}", "", *(line for name in names for line in (f"::: mapsto.{name}", ""))]
    (TARGET / "reference-python.md").write_text("\n".join(lines), encoding="utf-8")
    from typer import Context
    from typer.cli import get_docs_for_click
    from typer.main import get_command

    import mapsto.cli  # registers all commands
    from mapsto.cli.app import app

    assert mapsto.cli.main is not None
    group = get_command(app)
    text = get_docs_for_click(obj=group, ctx=Context(group), name="mapsto", title="Reference of the command line")
    (TARGET / "reference-commands.md").write_text(text, encoding="utf-8")


def main() -> None:
    """Write the pages anew."""
    shutil.rmtree(TARGET, ignore_errors=True)
    write_pages()
    write_reference()


if __name__ == "__main__":
    main()
