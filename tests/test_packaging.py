"""Tests of what is handed out: the wheel, its installation in a new environment, and the size of the container's image."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from runs import write_labelled

import mapsto

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
# The limit of the image, and what the base image of the Dockerfile, Debian with Python, may have of it (it has about 130 MB).
MOST_BYTES, BASE_BYTES = 1_500_000_000, 160_000_000


def build_wheel(folder: Path) -> Path:
    """Build the wheel with the build backend of this environment, without the network; return its path."""
    pytest.importorskip("hatchling")
    pytest.importorskip("build")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--quiet", "--outdir", str(folder)]
    subprocess.run([*command, str(ROOT)], check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def test_the_wheel_has_every_file_of_the_package(tmp_path: Path) -> None:
    """Templates, scripts and py.typed among them; nothing else, such as tests."""
    with zipfile.ZipFile(build_wheel(tmp_path)) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        entry_points = wheel.read(f"mapsto-{mapsto.__version__}.dist-info/entry_points.txt").decode()
    package = ROOT / "src"
    files = {
        path.relative_to(package).as_posix()
        for path in (package / "mapsto").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert names == files and "mapsto/py.typed" in names
    assert "mapsto = mapsto.cli:main" in entry_points


def requirement_names(lines: list[str]) -> set[str]:
    """Return the normalised names of the packages in a list of requirements, without mapsto's own extras."""
    names = {re.split(r"[\[<>=!~ ;]", line)[0] for line in lines}
    return {re.sub(r"[-_.]+", "-", name).lower() for name in names} - {"mapsto", ""}


def requirements_of(extra: str) -> list[str]:
    """Return the requirements of an extra, with those of the extras that it names."""
    lines = SETTINGS["optional-dependencies"][extra]
    inner = [
        name.strip() for line in lines for name in re.findall(r"^mapsto\[(.+)\]$", line) for name in name.split(",")
    ]
    return [*lines, *(line for name in inner for line in requirements_of(name))]


def test_constraints_name_every_package_that_the_lock_is_made_of() -> None:
    """Those of the extra `dev`, which has all that the tests need; versions that pyproject.toml fixes are not repeated."""
    lines = [line for line in (*SETTINGS["dependencies"], *requirements_of("dev")) if "==" not in line]
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    constrained = requirement_names([line for line in constraints if not line.startswith("#")])
    assert requirement_names(lines) - constrained == set()


def test_the_image_starts_mapsto_as_an_ordinary_user_and_is_asked_for_its_health() -> None:
    """The rest of the Dockerfile is read by hadolint (`make lint`); no daemon builds it here."""
    final = DOCKERFILE[DOCKERFILE.rindex("\nFROM ") :]
    assert re.search(r"^USER 10001:10001$", final, re.MULTILINE)
    assert re.search(r'^ENTRYPOINT \["mapsto"\]$', final, re.MULTILINE)
    assert "HEALTHCHECK" in final and "/health/live" in final
    context = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    copied = {
        word for line in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE) for word in line.split()
    }
    assert context[0] == "*" and {f"!{name}" for name in copied} <= set(context)
    assert all((ROOT / name).exists() for name in copied)


@pytest.mark.slow
def test_the_wheel_installs_in_a_new_environment_and_fits_within_the_image(tmp_path: Path) -> None:
    """As the Dockerfile does: install, delete what no run reads, run; needs the package index."""
    wheel, folder = build_wheel(tmp_path), tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    extras = re.search(r"^ARG EXTRAS=(.+)$", DOCKERFILE, re.MULTILINE)
    assert extras is not None and set(extras[1].split(",")) <= set(SETTINGS["optional-dependencies"])
    pip = [str(folder / "bin" / "pip"), "install", "--quiet", "-c", str(ROOT / "constraints.txt")]
    subprocess.run([*pip, f"{wheel}[{extras[1]}]"], check=True, cwd=tmp_path)
    subprocess.run([str(ROOT / "tools" / "trim.sh"), str(folder)], check=True)
    size = sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() or path.is_symlink())
    assert size <= MOST_BYTES - BASE_BYTES, f"{size / 1e6:,.0f} MB"
    program = str(folder / "bin" / "mapsto")

    def run(*words: str) -> str:
        done = subprocess.run(
            [program, *words], check=True, capture_output=True, text=True, cwd=tmp_path, env={"LANG": "C"}
        )
        return done.stdout

    assert run("--version") == f"mapsto {mapsto.__version__}\n"
    write_labelled(tmp_path / "train.csv", 40)
    run("fit", "text -> label", "train.csv", "--out", "clf", "--steps", "2", "--layers", "1", "--width", "32")
    assert run("predict", "clf", "--text", "今天天气真好").splitlines()[0].startswith("text,label")
