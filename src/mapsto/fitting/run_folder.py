"""The folder a run leaves: a Hugging Face model folder, and beside it mapsto.json, which says what the mapping means."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from collections.abc import Mapping as Dict
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from mapsto import files
from mapsto.data import shards
from mapsto.errors import RunError, UsageError
from mapsto.options import Options
from mapsto.pretrained import sentence_transformers
from mapsto.pretrained.model_folder import CARD_FILE, MANIFEST_FILE, MODEL_FILES, RUN_FILE
from mapsto.training.loggers import METRICS_FILE

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]


SEARCH = "search.json"


REPORT = "report.html"


LOCK = "run.lock"


SAME = ("arrow", "data", "rows", "start_weights", "tokenizer", "targets", "seed")


# What says that a run is here goes last, so that a kill in the middle of `clear` leaves a folder that can be cleared again.
OWN: tuple[str, ...] = (
    CARD_FILE,
    REPORT,
    "report_files",
    METRICS_FILE,
    "rejected.csv",
    *MODEL_FILES,
    *sentence_transformers.SENTENCE_FILES,
    "checkpoints",
    "tensorboard",
    "adapter",
    SEARCH,
    RUN_FILE,
    MANIFEST_FILE,
)


# What a kill leaves before the run is recorded; the corpus is kept for the next one, also when a run is cleared.
BEFORE_RUN = {
    LOCK,
    "rejected.csv",
    *(f"{files.TEMPORARY_PREFIX}{name}" for name in (SEARCH, RUN_FILE, "rejected.csv")),
    shards.FOLDER,
}


def require_free(folder: Path, overwrite: bool, searched: bool = False) -> None:
    """Make sure `folder` can take a run: it is new, empty, or holds an unfinished run; with `overwrite` any run.

    searched: whether the run begins, or began, with a search; an unfinished run that did not is another one. Nothing is
    touched. What a kill before the run was recorded leaves there counts as nothing. Raises UsageError.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; --out needs a folder")
    held = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if held <= BEFORE_RUN:
        return
    if not held & {MANIFEST_FILE, RUN_FILE, SEARCH}:
        raise UsageError(f"{folder} holds other files and no run of mapsto; choose another --out")
    if overwrite:
        return
    if MANIFEST_FILE in held:
        raise UsageError(f"{folder} holds a finished run; choose another --out, or add --overwrite")
    if searched != (SEARCH in held):
        found = "an unfinished run without a search" if searched else "a search; give --search as before"
        raise UsageError(f"{folder} holds {found}, choose another --out, or add --overwrite")


def clear(folder: Path) -> None:
    """Remove the run in a folder that `require_free` let pass; other files there are left alone."""
    for name in OWN:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path | None, say: Callable[[str], None]) -> Iterator[None]:
    """Keep other processes from writing to the same run; the lock goes with the process. Raises RunError."""
    if folder is None:
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stream = (folder / LOCK).open("w")
    except OSError as error:
        raise RunError(f"{folder} cannot be written: {error.strerror}") from error
    with stream:
        _lock(folder, stream, say)
        try:
            yield
        finally:
            (folder / LOCK).unlink(missing_ok=True)
            with suppress(OSError):  # of a run that could not begin nothing is left
                folder.rmdir()


def _lock(folder: Path, stream: IO[str], say: Callable[[str], None]) -> None:
    """Lock the file, or raise RunError where another process has; one that ends takes the file's name away with the lock."""
    if fcntl is None:
        return
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        ours = os.path.samestat(os.fstat(stream.fileno()), (folder / LOCK).stat())
    except (BlockingIOError, PermissionError, FileNotFoundError):
        ours = False
    except OSError as error:
        say(f"note: files cannot be locked in {folder} ({error.strerror}), so start no second run there")
        return
    if not ours:
        raise RunError(f"{folder} is in use by another process")


def require_shared(folder: Path) -> None:
    """Raise UsageError where the folder that a process has locked is not to be seen."""
    if not (folder / LOCK).exists():
        raise UsageError(f"{folder} is no folder that all processes share; give an --out that is one")


def record_run(folder: Path, facts: Dict[str, Any], plan: Dict[str, Any]) -> None:
    """Write down what a run is, before its first step."""
    files.write_atomic(folder / RUN_FILE, files.seal({"facts": facts, "plan": plan}))


def recorded_run(
    folder: Path, facts: Dict[str, Any], options: Options, say: Callable[[str], None]
) -> dict[str, Any] | None:
    """The plan of the unfinished run in the folder. Raises UsageError naming the fields in which it was another run."""
    if not (folder / RUN_FILE).exists():
        return None
    recorded = files.read_sealed(folder / RUN_FILE)
    before = recorded["facts"]
    _require_same(folder, "an unfinished run", SAME, before, facts, options)
    for name in ("device", "versions"):
        if before.get(name) != facts[name]:
            say(f"note: {name} changed from {before.get(name)} to {facts[name]}: the bits may differ")
    plan: dict[str, Any] = recorded["plan"]
    return plan


def finished_run(folder: Path, facts: Dict[str, Any], options: Options) -> bool:
    """Whether the folder holds this run, finished. Raises UsageError when it holds another finished one."""
    if not (folder / MANIFEST_FILE).exists():
        return False
    _require_same(
        folder, "a finished run", SAME, files.read_sealed(folder / MANIFEST_FILE)["provenance"], facts, options
    )
    return True


def holds_another(folder: Path, facts: Dict[str, Any], options: Options) -> bool:
    """Whether the run in the folder, finished or not, is another one than this."""
    try:
        finished_run(folder, facts, options)
        recorded_run(folder, facts, options, lambda text: None)
    except UsageError:
        return True
    return False


def record_search(folder: Path, facts: Dict[str, Any], trials: list[dict[str, Any]]) -> None:
    """Write down what a search is, and its finished trials."""
    files.write_atomic(folder / SEARCH, files.seal({"facts": facts, "trials": trials}))


def recorded_search(folder: Path, facts: Dict[str, Any], options: Options) -> list[dict[str, Any]] | None:
    """The finished trials of the search in the folder. Raises UsageError naming the fields in which it was another one."""
    if not (folder / SEARCH).exists():
        return None
    recorded = files.read_sealed(folder / SEARCH)
    _require_same(
        folder, "an unfinished search", (*SAME, "--search", "--search-minutes"), recorded["facts"], facts, options
    )
    trials: list[dict[str, Any]] = recorded["trials"]
    return trials


def _require_same(
    folder: Path, what: str, names: tuple[str, ...], before: Dict[str, Any], facts: Dict[str, Any], options: Options
) -> None:
    differing = [name for name in names if before.get(name) != facts[name]]
    differing += [f"--{name.replace('_', '-')}" for name in options.differing(before["options"])]
    if differing:
        raise UsageError(
            f"{folder} holds {what} with other {', '.join(differing)}; "
            "run it as before, choose another --out, or add --overwrite"
        )
