"""The folder a run leaves: a Hugging Face model folder, and beside it mapsto.json, which says what the mapping means."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from collections.abc import Mapping as Dict
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

from mapsto import __version__, checkpoint, kinds, metrics, published, sentence, shards
from mapsto import arrow as arrows
from mapsto.arrow import Arrow, Port
from mapsto.card import card
from mapsto.corrupt import Corruption
from mapsto.errors import CheckpointError, RunError, UsageError
from mapsto.mapping import Mapping, Unset
from mapsto.options import Options
from mapsto.scores import Score
from mapsto.target import Target

FORMAT = 1
MANIFEST = "mapsto.json"
RUN = "run.json"
SEARCH = "search.json"
CARD = "README.md"
REPORT = "report.html"
LOCK = "run.lock"
SAME = ("arrow", "data", "rows", "start_weights", "tokenizer", "targets", "seed")
MODEL = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "preprocessor_config.json",
)
# What says that a run is here goes last, so that a kill in the middle of `clear` leaves a folder that can be cleared again.
OWN: tuple[str, ...] = (
    CARD,
    REPORT,
    "report_files",
    metrics.METRICS,
    "rejected.csv",
    *MODEL,
    *sentence.FILES,
    "checkpoints",
    "tensorboard",
    "adapter",
    SEARCH,
    RUN,
    MANIFEST,
)
# What a kill leaves before the run is recorded; the corpus is kept for the next one, also when a run is cleared.
BEFORE_RUN = {
    LOCK,
    "rejected.csv",
    *(f"{checkpoint.TEMPORARY}{name}" for name in (SEARCH, RUN, "rejected.csv")),
    shards.FOLDER,
}


@dataclass(frozen=True)
class Opened:
    """A start of training or prediction: a published model, or a mapping that mapsto saved (then `manifest` is there)."""

    start: published.Start
    manifest: dict[str, Any] | None

    @property
    def classes(self) -> dict[str, list[str]]:
        """The classes that it answers, by kind; of several answers of a kind those of the first."""
        if self.manifest is None:
            return {self.start.answered: self.start.labels} if self.start.labels else {}
        told = [(entry["kind"], entry["state"].get("classes")) for entry in self.manifest["targets"]]
        return {kind: classes for kind, classes in reversed(told) if classes is not None}

    @property
    def trained_with(self) -> str | None:
        """The optimizer of the run that made it, if mapsto did."""
        return None if self.manifest is None else self.manifest["provenance"].get("optimizer")

    @property
    def objective(self) -> str | None:
        """By what it learnt to put back what is hidden, if mapsto taught it that last."""
        return None if self.manifest is None else self.manifest["provenance"].get("objective")


def versions() -> dict[str, str]:
    """What computed: a run is exact on the same machine with the same of these."""
    names = ("torch", "tokenizers", "numpy")
    return {"python": platform.python_version(), "mapsto": __version__, **{name: version(name) for name in names}}


def open_start(name: str | Path) -> Opened:
    """Open a run's folder (its hashes are verified first), a model folder, or a hub name. Raises CheckpointError."""
    path = Path(name)
    manifest = None
    if (path / MANIFEST).exists():
        manifest = checkpoint.read_sealed(path / MANIFEST)
        if manifest.get("format") != FORMAT:
            raise CheckpointError(
                f"{path / MANIFEST} has format {manifest.get('format')!r}; this version reads {FORMAT}"
            )
        checkpoint.verify(path, manifest["files"])
    elif (path / RUN).exists():
        raise CheckpointError(f"{path} holds an unfinished run; run the same command again to finish it")
    return Opened(published.open(str(name)), manifest)


def load(name: str | Path) -> Mapping:
    """The mapping saved in a folder, or the one a published checkpoint amounts to, ready to predict in fp32."""
    opened = open_start(name)
    (kind,) = opened.start.sources
    if opened.manifest is not None:
        said = opened.manifest["arrow"]
        arrow = arrows.parse(said) if opened.manifest["targets"] else Arrow(arrows.parse_ports(said), ())
        states = [entry["state"] for entry in opened.manifest["targets"]]
        targets = [_target(*told) for told in zip(kinds.answering(arrow), states, strict=True)]
    elif opened.start.labels:
        arrow = Arrow((Port(kind),), (Port(opened.start.answered),))
        targets = [_target(kinds.target(opened.start.answered), {"classes": opened.start.labels})]
    elif any(key.startswith(f"{kinds.target(kind, restored=True).stem}.") for key in opened.start.tensors):
        arrow = arrows.parse(f"~{kind} -> {kind}")
        targets = [target() for target in kinds.answering(arrow)]
        objective = "masked" if opened.start.config.decoder is None else "mae"
        targets[0].restore(Corruption.of(objective, kinds.source(kind).objectives[objective], "token"))
    else:
        arrow, targets = Arrow((Port(kind),), ()), []
    length = None if opened.manifest is None else opened.manifest.get("length")
    with Unset():
        mapping = Mapping(arrow, replace(opened.start.config, length=length), opened.start.sources, targets)
    mapping.trained_with = opened.trained_with
    missing = take(mapping, opened.start.tensors)
    if missing:
        raise CheckpointError(f"{name} lacks weights that its arrow needs: {', '.join(missing[:5])}")
    return mapping.eval()


def _target(kind: type[Target], state: Dict[str, Any]) -> Target:
    """A target as it was saved. Raises CheckpointError."""
    try:
        return kind(**state)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{MANIFEST} holds no answers of kind {kind.kind!r}: {error}") from error


def take(mapping: Mapping, tensors: Dict[str, Tensor], other: Collection[str] = ()) -> list[str]:
    """Copy every weight of a start that the mapping has a place for; the names of those that stay new.

    A head is taken when it has the shape of the target's; of the kinds `other`, which have other classes than in the start,
    without what names these.
    """
    wanted = dict(mapping.named_parameters())
    missing = []
    with torch.no_grad():
        for name, parameter in wanted.items():
            found = tensors.get(published.start_name(mapping, name))
            head = name.startswith(("heads.", "pooler."))
            if found is None or (head and (_names_classes(mapping, name, other) or found.shape != parameter.shape)):
                missing.append(name)
            elif found.shape != parameter.shape:
                raise CheckpointError(f"{name} has shape {tuple(found.shape)}, expected {tuple(parameter.shape)}")
            else:
                parameter.copy_(found)
    return missing


def _names_classes(mapping: Mapping, name: str, kinds: Collection[str]) -> bool:
    """Whether a weight of a head, or of the pooler before heads, is there to name the classes of one of these kinds."""
    if name.startswith("pooler."):
        return any(target.kind in kinds and target.way == "pooled" for target in mapping.targets)
    _, port, rest = name.split(".", 2)
    target = mapping.targets[int(port)]
    return target.kind in kinds and rest.startswith(target.naming)


def save(
    mapping: Mapping,
    folder: Path,
    provenance: Dict[str, Any],
    scores: Dict[str, Score] | None = None,
    findings: Sequence[str] = (),
) -> None:
    """Write the mapping so that `transformers` opens it too; mapsto.json comes last and makes the folder complete.

    findings: what the card says of where it fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    task = published.task_of(mapping)
    telling = [t for t in mapping.targets if t.named or (t.kind == task and hasattr(t, "classes"))]
    labels = next((target.classes for target in sorted(telling, key=lambda t: t.kind != task)), None)
    published.save(mapping, folder, labels)
    checkpoint.write_atomic(folder / CARD, card(mapping, provenance, scores or {}, findings).encode())
    names = (*MODEL, *sentence.FILES)
    manifest = {
        "format": FORMAT,
        "arrow": str(mapping.arrow),
        "length": mapping.config.length,
        "targets": [{"kind": target.kind, "state": _plain_state(target)} for target in mapping.targets],
        "provenance": {**provenance, "versions": versions()},
        "scores": {name: asdict(value) for name, value in (scores or {}).items()},
        "files": {name: checkpoint.hash_file(folder / name) for name in names if (folder / name).exists()},
    }
    checkpoint.write_atomic(folder / MANIFEST, checkpoint.sealed(manifest))


def _plain_state(target: Target) -> dict[str, Any]:
    state: dict[str, Any] = json.loads(json.dumps(target.state()))
    return state


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
    if not held & {MANIFEST, RUN, SEARCH}:
        raise UsageError(f"{folder} holds other files and no run of mapsto; choose another --out")
    if overwrite:
        return
    if MANIFEST in held:
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
    checkpoint.write_atomic(folder / RUN, checkpoint.sealed({"facts": facts, "plan": plan}))


def recorded_run(
    folder: Path, facts: Dict[str, Any], options: Options, say: Callable[[str], None]
) -> dict[str, Any] | None:
    """The plan of the unfinished run in the folder. Raises UsageError naming the fields in which it was another run."""
    if not (folder / RUN).exists():
        return None
    recorded = checkpoint.read_sealed(folder / RUN)
    before = recorded["facts"]
    _require_same(folder, "an unfinished run", SAME, before, facts, options)
    for name in ("device", "versions"):
        if before.get(name) != facts[name]:
            say(f"note: {name} changed from {before.get(name)} to {facts[name]}: the bits may differ")
    plan: dict[str, Any] = recorded["plan"]
    return plan


def finished_run(folder: Path, facts: Dict[str, Any], options: Options) -> bool:
    """Whether the folder holds this run, finished. Raises UsageError when it holds another finished one."""
    if not (folder / MANIFEST).exists():
        return False
    _require_same(
        folder, "a finished run", SAME, checkpoint.read_sealed(folder / MANIFEST)["provenance"], facts, options
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
    checkpoint.write_atomic(folder / SEARCH, checkpoint.sealed({"facts": facts, "trials": trials}))


def recorded_search(folder: Path, facts: Dict[str, Any], options: Options) -> list[dict[str, Any]] | None:
    """The finished trials of the search in the folder. Raises UsageError naming the fields in which it was another one."""
    if not (folder / SEARCH).exists():
        return None
    recorded = checkpoint.read_sealed(folder / SEARCH)
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
