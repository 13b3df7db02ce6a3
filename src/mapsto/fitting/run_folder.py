"""The folder of a run: which folders can take a run, the lock on it, and the records of runs and searches.

run.json is written before the first step, mapsto.json after the last one; a folder with run.json alone holds an unfinished run. A
run is continued only when everything that its bits depend on (IDENTITY_FACTS, the options) is as recorded.
"""

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


SEARCH, REPORT, LOCK = "search.json", "report.html", "run.lock"

# The facts that must be equal for a run to be continued.
IDENTITY_FACTS = ("arrow", "data", "rows", "start_weights", "tokenizer", "targets", "seed")

# The files and folders of a run. The ones that identify a run are last, so that a kill in the middle of `clear` leaves a folder
# that can be cleared again.
RUN_FILES: tuple[str, ...] = (
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

# The files that a kill leaves before the run is recorded; the corpus is kept for the next run, also when a run is cleared.
BEFORE_RUN = {
    LOCK,
    "rejected.csv",
    *(f"{files.TEMPORARY_PREFIX}{name}" for name in (SEARCH, RUN_FILE, "rejected.csv")),
    shards.CORPUS_FOLDER,
}


def require_free(folder: Path, overwrite: bool, searched: bool = False) -> None:
    """Raise UsageError unless `folder` can take a run: it is new, empty, or holds an unfinished run; with `overwrite` any run.

    searched: whether the run begins with a search; an unfinished run that did not is another run.
    Nothing is written. Files of a run that was killed before it was recorded count as nothing.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; --out needs a folder")
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if names <= BEFORE_RUN:
        return
    if not names & {MANIFEST_FILE, RUN_FILE, SEARCH}:
        raise UsageError(f"{folder} holds other files and no run of mapsto; choose another --out")
    if overwrite:
        return
    if MANIFEST_FILE in names:
        raise UsageError(f"{folder} holds a finished run; choose another --out, or add --overwrite")
    if searched != (SEARCH in names):
        content = "an unfinished run without a search" if searched else "a search; give --search as before"
        raise UsageError(f"{folder} holds {content}, choose another --out, or add --overwrite")


def clear(folder: Path) -> None:
    """Remove the run in a folder that `require_free` has accepted; other files there stay."""
    for name in RUN_FILES:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path | None, say: Callable[[str], None]) -> Iterator[None]:
    """Lock the folder of a run, which is created, against other processes. Raises RunError.

    The lock ends with the process, however that ends.
    """
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
            with suppress(OSError):  # fails for a folder with files; a run that could not begin leaves no empty one
                folder.rmdir()


def _lock(folder: Path, stream: IO[str], say: Callable[[str], None]) -> None:
    """Lock the open file. Raises RunError where another process has locked it.

    A process that ends deletes its lock file, so the locked file must still be the one of that name.
    """
    if fcntl is None:
        return
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_locked = os.path.samestat(os.fstat(stream.fileno()), (folder / LOCK).stat())
    except (BlockingIOError, PermissionError, FileNotFoundError):
        is_locked = False
    except OSError as error:
        say(f"note: files cannot be locked in {folder} ({error.strerror}), so start no second run there")
        return
    if not is_locked:
        raise RunError(f"{folder} is in use by another process")


def require_shared(folder: Path) -> None:
    """Raise UsageError where this process does not see the folder that the main process has locked."""
    if not (folder / LOCK).exists():
        raise UsageError(f"{folder} is not shared by all processes; choose an --out that all of them see")


def record_run(folder: Path, facts: Dict[str, Any], plan: Dict[str, Any]) -> None:
    """Record the facts and the plan of a run in run.json, before its first step."""
    files.write_atomic(folder / RUN_FILE, files.seal({"facts": facts, "plan": plan}))


def recorded_run(
    folder: Path, facts: Dict[str, Any], options: Options, say: Callable[[str], None]
) -> dict[str, Any] | None:
    """Return the plan of the unfinished run in the folder; None if there is none.

    Raises UsageError, naming the facts and options that differ, where it is another run.
    """
    if not (folder / RUN_FILE).exists():
        return None
    recorded = files.read_sealed(folder / RUN_FILE)
    recorded_facts = recorded["facts"]
    _require_same(f"{folder} holds an unfinished run", IDENTITY_FACTS, recorded_facts, facts, options)
    for name in ("device", "versions"):
        if recorded_facts.get(name) != facts[name]:
            say(f"note: {name} changed from {recorded_facts.get(name)} to {facts[name]}: the bits may differ")
    plan: dict[str, Any] = recorded["plan"]
    return plan


def finished_run(folder: Path, facts: Dict[str, Any], options: Options) -> bool:
    """Return whether the folder holds this run, finished. Raises UsageError when it holds another finished run."""
    if not (folder / MANIFEST_FILE).exists():
        return False
    recorded = files.read_sealed(folder / MANIFEST_FILE)["provenance"]
    _require_same(f"{folder} holds a finished run", IDENTITY_FACTS, recorded, facts, options)
    return True


def holds_another(folder: Path, facts: Dict[str, Any], options: Options) -> bool:
    """Return whether the folder holds another run than this one, finished or not."""
    try:
        finished_run(folder, facts, options)
        recorded_run(folder, facts, options, lambda text: None)
    except UsageError:
        return True
    return False


def record_search(folder: Path, facts: Dict[str, Any], trials: list[dict[str, Any]]) -> None:
    """Record the facts of a search and its finished trials in search.json."""
    files.write_atomic(folder / SEARCH, files.seal({"facts": facts, "trials": trials}))


def recorded_search(folder: Path, facts: Dict[str, Any], options: Options) -> list[dict[str, Any]] | None:
    """Return the finished trials of the search in the folder; None if there is none.

    Raises UsageError, naming the facts and options that differ, where it is another search.
    """
    if not (folder / SEARCH).exists():
        return None
    recorded = files.read_sealed(folder / SEARCH)
    names = (*IDENTITY_FACTS, "--search", "--search-minutes")
    _require_same(f"{folder} holds an unfinished search", names, recorded["facts"], facts, options)
    trials: list[dict[str, Any]] = recorded["trials"]
    return trials


def _require_same(
    subject: str, names: tuple[str, ...], recorded: Dict[str, Any], facts: Dict[str, Any], options: Options
) -> None:
    """Raise UsageError where a recorded fact or option differs; `subject` begins the message."""
    differing = [name for name in names if recorded.get(name) != facts[name]]
    differing += [f"--{name.replace('_', '-')}" for name in options.differing(recorded["options"])]
    if differing:
        raise UsageError(
            f"{subject} with other {', '.join(differing)}; run it as before, choose another --out, or add --overwrite"
        )
