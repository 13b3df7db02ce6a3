"""Write the lock file of this platform: every package of the extra `dev` with its version and the SHA-256 of its file.

pip resolves the project's own requirements under constraints.txt without installing anything, and its report names the file of
each package. Files differ between platforms and versions of Python, so each has a lock file of its own in `locks/`.

    make lock                  resolve anew and write the lock file of this platform
    make test LOCKED=1         install exactly these files (`pip --require-hashes`), as CI does
"""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

ROOT = Path(__file__).resolve().parent.parent
BUILD_REQUIREMENTS = ["hatchling", "editables"]  # an editable install without build isolation needs them beforehand


def lock_path() -> Path:
    """Return the lock file of this platform and Python, as `locks/linux-x86_64-cp311.txt`."""
    version = f"cp{sys.version_info.major}{sys.version_info.minor}"
    return ROOT / "locks" / f"{platform.system().lower()}-{platform.machine().lower()}-{version}.txt"


def resolve() -> dict[str, Any]:
    """Return pip's report of what an install would take, without installing."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--dry-run",
            "--ignore-installed",
            "--report",
            str(report),
        ]
        command += ["-c", str(ROOT / "constraints.txt"), f"{ROOT}[dev]", *BUILD_REQUIREMENTS]
        subprocess.run(command, check=True)
        content: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
        return content


def sha256_of(download: dict[str, Any]) -> str:
    """Return the SHA-256 of a package's file: as the index states it, or computed where the file lies on this disk."""
    hashes: dict[str, str] = download["archive_info"].get("hashes", {})
    if "sha256" in hashes:
        return hashes["sha256"]
    url = urlparse(download["url"])
    if url.scheme != "file":
        raise SystemExit(f"the index states no SHA-256 for {download['url']}")
    return hashlib.sha256(Path(unquote(url.path)).read_bytes()).hexdigest()


def lines_of(report: dict[str, Any]) -> list[str]:
    """Return a requirement with its hash for each package but mapsto itself, by name."""
    pinned = {}
    for package in report["install"]:
        metadata = package["metadata"]
        if metadata["name"] != "mapsto":
            pinned[metadata["name"].lower()] = (
                f"{metadata['name']}=={metadata['version']} --hash=sha256:{sha256_of(package['download_info'])}"
            )
    return [pinned[name] for name in sorted(pinned)]


def main() -> None:
    """Write the lock file, or print its path (`--path`)."""
    path = lock_path()
    if sys.argv[1:] == ["--path"]:
        print(path.relative_to(ROOT))
        return
    lines = lines_of(resolve())
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        "# Written by `make lock`: what CI installs, by the SHA-256 of each file.\n" + "\n".join(lines) + "\n",
        encoding="utf-8",
    )
    print(f"{path.relative_to(ROOT)}: {len(lines)} packages")


if __name__ == "__main__":
    main()
