"""The folder of a run: checks that it can be used, its lock, and the records of runs and searches in it.

run.json is written before the first step, mapsto.json after the last one. A folder with run.json but no mapsto.json
holds an unfinished run. That run is resumed only if IDENTITY_FACTS and the options are the same as recorded.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Mapping as Dict
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from mapsto import files
from mapsto.data import shards
from mapsto.errors import RunError, UsageError
from mapsto.options import Options
from mapsto.pretrained import sentence_transformers
from mapsto.pretrained.manifest import MANIFEST_FILE
from mapsto.pretrained.model_folder import CARD_FILE, FAMILIARITY_FILE, MODEL_FILES, ROW_FILTERS_FILE, RUN_FILE
from mapsto.training.loggers import METRICS_FILE
from mapsto.training.trackers.tensorboard import EVENTS_FOLDER
from mapsto.training.trackers.tracking import TRACKING_FILE

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]


SEARCH, CHOICE, REPORT, LOCK = "search.json", "choice.json", "report.html", "run.lock"
# The record of a cross-validation, the folder of its fits while they last, and the answers to the rows of all folds.
FOLDS, FOLDS_FOLDER, FOLD_ANSWERS = "folds.json", "folds", "folds.csv"
# What a person reads of a finished run.
PAGES = (REPORT, CARD_FILE)
# The arguments and options of the run, which `--config` takes.
CONFIG = "run.toml"
# The subfolder of a trained model that a linear one has replaced.
TRAINED = "trained"
# The answers to the rows without a label.
UNLABELLED = "unlabelled.csv"

# The facts that must be equal for a run to be resumed.
IDENTITY_FACTS = ("arrow", "data", "rows", "start_weights", "tokenizer", "targets", "seed", "choice")

# The files and folders of a run. Those that identify a run are last: `clear` deletes in this order, and after a kill in
# the middle of it the folder is still known as a run and can be cleared again.
RUN_FILES: tuple[str, ...] = (
    CARD_FILE,
    REPORT,
    CONFIG,
    "report_files",
    METRICS_FILE,
    TRACKING_FILE,
    "rejected.csv",
    UNLABELLED,
    FOLD_ANSWERS,
    *MODEL_FILES,
    *sentence_transformers.SENTENCE_FILES,
    ROW_FILTERS_FILE,
    FAMILIARITY_FILE,
    "checkpoints",
    EVENTS_FOLDER,
    "adapter",
    TRAINED,
    FOLDS_FOLDER,
    FOLDS,
    SEARCH,
    CHOICE,
    RUN_FILE,
    MANIFEST_FILE,
)

# The files that a run writes before run.json; a folder with only these counts as empty. The corpus shards among them
# are kept for the next run, also when a run is cleared.
BEFORE_RUN = {LOCK, "rejected.csv", shards.CORPUS_FOLDER}


def require_free(folder: Path, overwrite: bool, searched: bool = False) -> None:
    """Raise UsageError unless a run can use `folder`, which must be new, empty or hold an unfinished run.

    overwrite: also accept a folder with any run, finished or not, which will be replaced.
    searched: whether the new run has a hyperparameter search; if it has, an unfinished run in the folder must have one
        too, and if not, none.
    Nothing is written. A folder with only the files of BEFORE_RUN counts as empty.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; --out needs a folder")
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    names = {name for name in names if not files.is_temporary(name)}
    if names <= BEFORE_RUN:
        return
    if not names & {MANIFEST_FILE, RUN_FILE, SEARCH, CHOICE, FOLDS}:
        raise UsageError(f"{folder} holds other files and no run of mapsto; choose another --out")
    if overwrite:
        return
    if MANIFEST_FILE in names:
        raise UsageError(f"{folder} holds a finished run; choose another --out, or add --overwrite")
    if searched != (SEARCH in names):
        content = "an unfinished run without a search" if searched else "a search; give --search as before"
        raise UsageError(f"{folder} holds {content}, choose another --out, or add --overwrite")


def clear(folder: Path) -> None:
    """Delete the files of a run in `folder`, which `require_free` must have accepted; files of other names stay."""
    for name in RUN_FILES:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def set_trained_aside(folder: Path) -> None:
    """Move the files of the finished run in `folder` to its subfolder TRAINED, all but the recorded choice and the folds."""
    (folder / TRAINED).mkdir(exist_ok=True)
    for name in RUN_FILES:
        if name not in (CHOICE, TRAINED, FOLDS, FOLD_ANSWERS) and (folder / name).exists():
            (folder / name).replace(folder / TRAINED / name)


@contextmanager
def locked(folder: Path | None, say: Callable[[str], None]) -> Iterator[None]:
    """Create the folder of a run if necessary, and lock it against other runs during the `with` block.

    The operating system releases the lock when the process ends, also after a crash. If `folder` is None, nothing is
    created or locked.
    say: prints a note if the file system cannot lock files.
    Raises RunError if another process has the lock or the folder cannot be written.
    """
    if folder is None:
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stream = os.fdopen(files.open_lock_file(folder / LOCK), "r+")
    except OSError as error:
        path = folder / LOCK
        reason = (
            f"{LOCK} in it is no file of mapsto" if os.path.lexists(path) and not _is_regular(path) else error.strerror
        )
        raise RunError(f"{folder} cannot be written: {reason}") from error
    with stream:
        _lock(folder, stream, say)
        try:
            yield
        finally:
            (folder / LOCK).unlink(missing_ok=True)
            with suppress(OSError):  # removes an empty folder, of a run that could not begin; fails for any other
                folder.rmdir()


def _is_regular(path: Path) -> bool:
    """Return whether a path is that of a regular file, and of no link."""
    return path.is_file() and not path.is_symlink()


def _lock(folder: Path, stream: IO[str], say: Callable[[str], None]) -> None:
    """Lock the open lock file `stream` of `folder`. Raises RunError if another process has locked it.

    A process that ends deletes its lock file, and another process can then create and lock a new one. So the locked
    file is compared with the one that is now in the folder.
    say: prints a note if the file system cannot lock files.
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
    """Raise UsageError if this process does not see the lock file that the main process has made in the folder."""
    if not (folder / LOCK).exists():
        raise UsageError(f"{folder} is not shared by all processes; choose an --out that all of them see")


def record_run(folder: Path, facts: Dict[str, Any], plan: Dict[str, Any]) -> None:
    """Record the facts and the plan of a run in run.json, before its first step."""
    files.write_atomic(folder / RUN_FILE, files.seal({"facts": facts, "plan": plan}))


def record_config(folder: Path, values: Dict[str, Any]) -> None:
    """Write run.toml with the arguments and options of a run by name, as `--config` takes them; None is left out.

    The keys and values are written so that TOML and JSON agree on them: texts, numbers, truth values and lists of texts.
    """
    lines = ["# mapsto fit --config run.toml --out FOLDER repeats this run; paths are from where it was started."]
    lines += [
        f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in values.items() if value is not None
    ]
    # Half a character, as of a file name in bytes that are no text, cannot be written.
    files.write_atomic(folder / CONFIG, ("\n".join(lines) + "\n").encode("utf-8", "replace"))


def recorded_run(
    folder: Path, facts: Dict[str, Any], options: Options, say: Callable[[str], None]
) -> dict[str, Any] | None:
    """Return the plan, as recorded in run.json, of the unfinished run in the folder; None if there is none.

    facts, options: of the run that is to resume it. say: prints a note if device or package versions differ.
    Raises UsageError, which names the facts and options that differ, if the folder holds another run.
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
    """Return whether the folder holds the finished run with these facts and options.

    Raises UsageError if it holds another finished run.
    """
    if not (folder / MANIFEST_FILE).exists():
        return False
    # The manifest of a finished model has the facts of the run in its provenance.
    recorded = files.read_sealed(folder / MANIFEST_FILE)["provenance"]
    _require_same(f"{folder} holds a finished run", IDENTITY_FACTS, recorded, facts, options)
    return True


def holds_another(folder: Path, facts: Dict[str, Any], options: Options) -> bool:
    """Return whether the folder holds a run, finished or not, with other facts or options than these."""
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
    """Return the finished trials of the search in the folder, as recorded in search.json; None if there is no search.

    facts, options: of the search that is to continue it.
    Raises UsageError, which names the facts and options that differ, if the folder holds another search.
    """
    if not (folder / SEARCH).exists():
        return None
    recorded = files.read_sealed(folder / SEARCH)
    names = (*IDENTITY_FACTS, "--search", "--search-minutes")
    _require_same(f"{folder} holds an unfinished search", names, recorded["facts"], facts, options)
    trials: list[dict[str, Any]] = recorded["trials"]
    return trials


def record_folds(folder: Path, facts: Dict[str, Any], folds: Sequence[Dict[str, Any]]) -> None:
    """Record the facts of a cross-validation and what is known of its finished folds in folds.json."""
    files.write_atomic(folder / FOLDS, files.seal({"facts": facts, "folds": folds}))


def recorded_folds(folder: Path, facts: Dict[str, Any], options: Options) -> list[dict[str, Any]] | None:
    """Return the finished folds of the cross-validation in the folder, as folds.json records them; None if there is none.

    facts, options: of the cross-validation that is to continue it.
    Raises UsageError, which names the facts and options that differ, if the folder holds another one.
    """
    if not (folder / FOLDS).exists():
        return None
    recorded = files.read_sealed(folder / FOLDS)
    names = (*IDENTITY_FACTS, "--folds")
    _require_same(f"{folder} holds an unfinished cross-validation", names, recorded["facts"], facts, options)
    folds: list[dict[str, Any]] = recorded["folds"]
    return folds


def record_choice(folder: Path, facts: Dict[str, Any], choice: Dict[str, Any]) -> None:
    """Record the choice of a run's method in choice.json, with the facts of the run, before run.json is written.

    choice: as plain JSON: the finished choice, or what has been measured for it so far.
    """
    files.write_atomic(folder / CHOICE, files.seal({"facts": facts, "choice": choice}))


def recorded_choice(folder: Path, facts: Dict[str, Any], options: Options) -> dict[str, Any] | None:
    """Return what `record_choice` has recorded for the unfinished run in the folder; None if there is nothing.

    facts, options: of the run that is to resume it.
    Raises UsageError, which names the facts and options that differ, if the folder holds another run.
    """
    if not (folder / CHOICE).exists():
        return None
    recorded = files.read_sealed(folder / CHOICE)
    _require_same(f"{folder} holds an unfinished run", IDENTITY_FACTS, recorded["facts"], facts, options)
    choice: dict[str, Any] = recorded["choice"]
    return choice


def holds_run(folder: Path) -> bool:
    """Return whether the folder holds a run, finished or not, whose training has begun."""
    return any((folder / name).exists() for name in (RUN_FILE, MANIFEST_FILE))


def _require_same(
    subject: str, names: tuple[str, ...], recorded: Dict[str, Any], facts: Dict[str, Any], options: Options
) -> None:
    """Raise UsageError if a fact among `names`, or any option, differs from the recorded one.

    subject: the beginning of the message.
    recorded: the recorded facts by name, with the recorded options under "options".
    facts, options: those to compare, of the new run or search.
    """
    differing = [name for name in names if recorded.get(name) != facts[name]]
    differing += [f"--{name.replace('_', '-')}" for name in options.differing(recorded["options"])]
    if differing:
        raise UsageError(
            f"{subject} with other {', '.join(differing)}; run it as before, choose another --out, or add --overwrite"
        )
