"""Tests of the lock files: every file that CI installs has its hash, in the version that constraints.txt names."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LOCKS = sorted((ROOT / "locks").glob("*.txt"))
PINNED = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^ +]+)(\+\w+)?( --hash=sha256:[0-9a-f]{64})*")


def read_versions(path: Path) -> dict[str, str]:
    """Return the version of each package that a file pins, by its normalised name."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    pinned = [PINNED.fullmatch(line) for line in lines]
    assert all(pinned), [line for line, match in zip(lines, pinned, strict=True) if not match]
    return {re.sub(r"[-_.]+", "-", match["name"]).lower(): match["version"] for match in pinned if match}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.stem)
def test_a_lock_names_the_hash_of_every_file_in_the_version_of_the_constraints(lock):
    lines = lock.read_text(encoding="utf-8").splitlines()
    assert all(" --hash=sha256:" in line for line in lines if not line.startswith("#"))
    versions, constraints = read_versions(lock), read_versions(ROOT / "constraints.txt")
    assert {name: versions.get(name) for name in constraints} == constraints
    assert {"torch", "pytest", "mypy", "hatchling", "editables"} <= versions.keys()


def test_there_is_a_lock_of_the_platform_of_ci():
    assert "linux-x86_64-cp311" in [path.stem for path in LOCKS]
    assert "LOCKED=1" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
