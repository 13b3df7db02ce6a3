"""Push a finished model with its card to the Hugging Face hub, from where `hf:user/name` opens it.

Only the files of the model and its card are sent, never checkpoints, reports or lists of rows. What they tell of the data they
were made from is said before anything is sent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mapsto import files
from mapsto.errors import CheckpointError, MapstoError, RunError, UsageError
from mapsto.pretrained.location import HUB_NAME, HUB_PREFIX
from mapsto.pretrained.manifest import MANIFEST_FILE, read_manifest
from mapsto.pretrained.model_folder import (
    CARD_FILE,
    FAMILIARITY_FILE,
    ROW_FILTERS_FILE,
    model_files,
    open_model_folder,
)
from mapsto.progress import byte_size
from mapsto.text.tokenizer_files import TOKENIZER_FILE

# Facts of mapsto.json that are not sent: where the training file lies on this machine.
PRIVATE_FACTS = ("data_file",)
# Stands for the name of the training file in messages about rows that were among the training rows.
UNNAMED_DATA = "training rows"


@dataclass(frozen=True)
class Parcel:
    """Hold the files of a model folder that are sent to the hub.

    content: the bytes or the path of each file, by its name there. omitted: the names in the folder that are not sent.
    """

    folder: Path
    content: dict[str, bytes | Path]
    omitted: list[str]

    @property
    def size(self) -> int:
        """The bytes of all files."""
        return sum(len(item) if isinstance(item, bytes) else item.stat().st_size for item in self.content.values())

    def describe(self, name: str, is_public: bool) -> list[str]:
        """Return the lines that say what goes where, what it tells of the data, and what is left out."""
        visibility = "public: everyone may read it" if is_public else "private"
        contents = ["names of columns and classes", "scores", "what the card says of rows on which it fails"]
        if TOKENIZER_FILE in self.content:
            contents.append("a vocabulary, which was made from the data unless the starting model had it")
        if ROW_FILTERS_FILE in self.content:
            contents.append(f"{ROW_FILTERS_FILE}, by which one may ask whether a given row was among the training rows")
        if FAMILIARITY_FILE in self.content:
            contents.append(f"{FAMILIARITY_FILE}, the vectors of some training rows")
        return [
            f"{name} ({visibility}) gets {len(self.content)} files, {byte_size(self.size)}: {', '.join(self.content)}",
            f"of the data they tell: {'; '.join(contents)}",
            *([f"left out: {', '.join(self.omitted)}"] if self.omitted else []),
        ]


def pack(folder: Path) -> Parcel:
    """Return what is sent of the finished model in a folder, whose files are verified first.

    Raises CheckpointError if the folder holds no finished model of mapsto, or if a file is damaged.
    """
    manifest = read_manifest(folder) if folder.is_dir() else None
    if manifest is None:
        open_model_folder(folder)  # raises the error that names what it is, unless others published the model
        raise CheckpointError(f"{folder} was not saved by mapsto: push it with the tools of its makers")
    files.verify(folder, manifest["files"])
    paths = [*model_files(folder), *([card] if (card := folder / CARD_FILE).is_file() else [])]
    content: dict[str, bytes | Path] = {path.relative_to(folder).as_posix(): path for path in paths}
    facts = {key: value for key, value in manifest["provenance"].items() if key not in PRIVATE_FACTS}
    filters = [{**entry, "data": UNNAMED_DATA} for entry in manifest.get("row_filters", ())]
    content[MANIFEST_FILE] = files.seal({**manifest, "provenance": facts, "row_filters": filters})
    sent = {name.split("/")[0] for name in content}
    return Parcel(folder, content, sorted(path.name for path in folder.iterdir() if path.name not in sent))


def push(folder: Path, name: str, *, public: bool = False, say: Callable[[str], None] = print) -> str:
    """Send the finished model in a folder to the hub's `user/name`, which is made if it does not exist; return its address.

    public: let everyone read it. say: prints what is sent, before it is.
    Raises UsageError for a wrong name and for a public model where `public` is not set, CheckpointError as `pack`, and RunError
    if the hub does not take it.
    """
    name = name.removeprefix(HUB_PREFIX)
    if not HUB_NAME.fullmatch(name) or "/" not in name:
        raise UsageError(f"a model of the hub is named user/name, not {name!r}")
    parcel = pack(folder)
    for line in parcel.describe(name, public):
        say(line)
    from huggingface_hub import CommitOperationAdd, HfApi  # takes half a second

    api = HfApi()
    try:
        address = str(api.create_repo(name, private=not public, exist_ok=True))
        if not public and not api.model_info(name).private:
            raise UsageError(f"{name} exists and is public: add --public, or choose another name")
        operations = [
            CommitOperationAdd(path, item if isinstance(item, bytes) else str(item))
            for path, item in parcel.content.items()
        ]
        api.create_commit(name, operations, commit_message="Push a model of mapsto")
    except MapstoError:
        raise
    except Exception as error:  # also those of the library below, which differs between versions of huggingface_hub
        raise RunError(_explain(error, name)) from error
    return address


def _explain(error: Any, name: str) -> str:
    """Return in words why the hub did not take a model."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return f"the hub did not take {name}: it wants a token that may write there; log in with: hf auth login"
    reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return f"the hub did not take {name}: {reason}"
