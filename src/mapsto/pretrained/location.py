"""Find the folder of a model: a local one by its path, or one of the Hugging Face hub by its name, `hf:user/name`."""

from __future__ import annotations

import os
import re
from pathlib import Path

from mapsto.errors import CheckpointError
from mapsto.files import open_regular
from mapsto.pretrained.foreign_folders import explain_file, explain_missing
from mapsto.text.spm import layouts

# The prefix of the names of models that are asked of the hub.
HUB_PREFIX = "hf:"
HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
# The files that are downloaded from the hub.
HUB_FILES = [
    *("*.json", "*.safetensors", "vocab.txt", "*.spm", *layouts.FILES),
    *("chat_template.jinja", "1_Pooling/config.json"),
]


def find_folder(name: str) -> Path:
    """Return the folder of a model, by its path; for `hf:user/name` that of the hub's model, downloaded if needed.

    The hub is asked for names with HUB_PREFIX alone, never for a path with a typing error.
    Raises CheckpointError if there is no such folder, or the hub has no such model.
    """
    if name.startswith(HUB_PREFIX):
        return _download(name.removeprefix(HUB_PREFIX))
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if os.path.lexists(path) and not path.is_file():
        open_regular(path).close()  # raises the error that names what it is
    if path.is_file():
        raise CheckpointError(f"{name} is a file, and a model is a folder. It is {explain_file(path)}")
    raise explain_missing(name)


def _download(name: str) -> Path:
    """Return the folder in the cache to which the hub's model `name` is downloaded, unless it is there.

    Raises CheckpointError if the hub has no such model or cannot be reached, or the name is none.
    """
    if not HUB_NAME.fullmatch(name):
        raise CheckpointError(f"{HUB_PREFIX}{name} names no model of the hub; a name is {HUB_PREFIX}user/name")
    from huggingface_hub import errors, snapshot_download  # takes half a second, and local folders do not need it

    hub_errors = (
        errors.HfHubHTTPError,
        errors.HFValidationError,
        errors.LocalEntryNotFoundError,
        errors.OfflineModeIsEnabled,
    )
    try:
        return Path(snapshot_download(name, allow_patterns=HUB_FILES))
    except (*hub_errors, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"the hub did not give {name}: {reason}") from error
