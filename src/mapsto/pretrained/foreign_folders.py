"""Say what a folder or file is that is no model which mapsto opens, and what to do with it.

The files in it tell: each format has a name, a suffix or first bytes of its own. Nothing is opened but small JSON files.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from mapsto.errors import CheckpointError
from mapsto.files import CONVERT, MAX_CONFIG_BYTES, PICKLED, open_regular, read_json
from mapsto.files.tensors import POINTER_START
from mapsto.pretrained.exported.container import SUFFIX, has_seal
from mapsto.pretrained.exported.ir_files import IR_SUFFIX, WEIGHTS_SUFFIX

ADAPTER_CONFIG = "adapter_config.json"
# The folders in which a Trainer saves a model every so many steps.
CHECKPOINT_FOLDER = re.compile(r"checkpoint-(\d+)")
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".heic", ".avif")
VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi")
SOUNDS = (".wav", ".mp3", ".flac", ".ogg", ".m4a")
TABLES = (".csv", ".tsv", ".jsonl", ".parquet", ".txt", ".conll", ".xlsx", ".arrow", ".ndjson")
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".xz", ".bz2", ".zst", ".7z", ".rar")
UNPACK = "an archive: unpack it, and name the folder of the model in it"
# What a folder is, by a file that only such folders have; and what to do. Special files come before general ones.
FOLDERS = {
    "model_index.json": "a pipeline of diffusers, which makes pictures; mapsto reads encoders and decoders of transformers",
    "meta.json": "a pipeline of spaCy; start from the transformers model that it was made from",
    "config.cfg": "a pipeline of spaCy; start from the transformers model that it was made from",
    "saved_model.pb": "a SavedModel of TensorFlow; mapsto reads safetensors and config.json, as transformers saves them",
    "keras_metadata.pb": "a model of Keras; mapsto reads safetensors and config.json, as transformers saves them",
    "dataset_dict.json": "a saved data set, which holds rows and no model",
    "dataset_info.json": "a saved data set, which holds rows and no model",
    "open_clip_config.json": "a model of open_clip; use the repository of the same model for transformers",
    "params.json": "the original weights of a language model; use the repository of the same model for transformers",
}
# The format of a file, by its suffix.
FORMATS = {
    ".gguf": "a GGUF, quantised for llama.cpp; use the model in safetensors that it was made from",
    ".ggml": "a GGML, quantised for llama.cpp; use the model in safetensors that it was made from",
    ".onnx": "an ONNX, which holds a computation for use alone; use the model in safetensors that it was exported from",
    ".tflite": "a model of TensorFlow Lite; use the model in safetensors that it was made from",
    ".keras": "a model of Keras; mapsto reads safetensors and config.json, as transformers saves them",
    ".ftz": "a model of fastText, which is none of transformers; fit a model of mapsto with --method linear",
    ".vec": "word vectors of fastText; mapsto reads models of transformers",
    ".joblib": "a pickle of scikit-learn, which may run code when opened, so mapsto never opens it",
    ".mlmodel": "a model of Core ML; use the model in safetensors that it was made from",
    ".nemo": "an archive of NeMo; convert the model in it to transformers",
}
# The reason where nothing else is known.
NO_CONFIG = "it has no config.json"
FASTTEXT_START = (793_712_314).to_bytes(4, "little")


def explain_folder(folder: Path) -> str:
    """Return what a folder is that cannot be opened as a model, and what to do, as the end of "FOLDER is no model folder: "."""
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    names = {path.name for path in paths}
    if not names:
        return "it is empty"
    return (
        _explain_adapter(folder, names)
        or _explain_checkpoints(folder, names)
        or next((f"it is {reason}" for name, reason in FOLDERS.items() if name in names), "")
        or _explain_formats(paths)
        or _explain_inner(paths)
        or _explain_contents(paths)
    )


def explain_file(path: Path) -> str:
    """Return what a file is that was named as a model, and what to do, as the end of "PATH is a file, and …: "."""
    suffix = path.suffix.lower()
    start = _first_bytes(path)
    if start.startswith(POINTER_START):
        return "a pointer of Git LFS: run `git lfs pull` in its folder, and name the folder"
    if path.name in ("adapter_model.safetensors", ADAPTER_CONFIG):
        return _explain_adapter(path.parent, {ADAPTER_CONFIG}).removeprefix("it is ")
    if suffix == ".safetensors" or path.name in ("config.json", "tokenizer.json", "mapsto.json"):
        return f"part of a model: name its folder, {path.parent}"
    if start.startswith(b"GGUF"):
        return FORMATS[".gguf"]
    if start.startswith(FASTTEXT_START):
        return FORMATS[".ftz"]
    if (graph := path.with_suffix(IR_SUFFIX)).is_file() and suffix == WEIGHTS_SUFFIX:
        return f"the weights of an exported model: name {graph}"
    if has_seal(path):
        return f"a file that `mapsto export` wrote: give it its ending {SUFFIX} again (.xml for OpenVINO)"
    if suffix in FORMATS:
        return FORMATS[suffix]
    if suffix in ARCHIVES:
        return UNPACK
    if suffix in PICKLED:
        return f"a pickle or may hold one: {CONVERT}"
    kinds = {PICTURES: "a picture", VIDEOS: "a video", SOUNDS: "a recording", TABLES: "a table"}
    kind = next((kind for suffixes, kind in kinds.items() if suffix in suffixes), "no model")
    return f"{kind}: name the folder of a model, or hf:user/name for one of the hub"


def explain_missing(name: str) -> CheckpointError:
    """Return the error for a model of which no folder exists, with the nearest path that does, and how to name the hub's."""
    path = Path(name).expanduser()
    existing = path
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    part = (
        path.parts[len(existing.parts)]
        if existing.parts != path.parts and len(path.parts) > len(existing.parts)
        else ""
    )
    hint = ""
    try:
        siblings = [entry.name for entry in existing.iterdir() if entry.is_dir()] if existing.is_dir() else []
    except OSError:
        siblings = []
    if matches := difflib.get_close_matches(part, siblings, n=1, cutoff=0.6):
        hint = f"; the nearest is {existing.joinpath(matches[0], *path.parts[len(existing.parts) + 1 :])}"
    hub = (
        f"; a model of the Hugging Face hub is named hf:{name}"
        if re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name)
        else ""
    )
    if path.suffix.lower() in (SUFFIX, IR_SUFFIX):
        return CheckpointError(f"there is no file {name}")
    return CheckpointError(f"there is no folder {name}{hint}{hub}")


def refuse_adapter_weights(folder: Path, names: Collection[str]) -> None:
    """Raise CheckpointError if weights have the names of a model into which peft has put an adapter that is not merged."""
    mark = next(
        (mark for mark in (".lora_", ".base_layer.", ".modules_to_save.") for name in names if mark in name), None
    )
    if mark is not None:
        raise CheckpointError(
            f"{folder} holds a model with an adapter of peft that is not merged (weights named *{mark}*): open it with peft, "
            "and save model.merge_and_unload() with save_pretrained"
        )


def _explain_adapter(folder: Path, names: Collection[str]) -> str:
    """Return what to do with an adapter of peft; "" if the folder is none."""
    if ADAPTER_CONFIG not in names:
        return ""
    if (folder.parent / "mapsto.json").is_file():
        return f"it is the adapter alone; the model with the adapter merged is in {folder.parent}"
    try:
        base = read_json(folder / ADAPTER_CONFIG, MAX_CONFIG_BYTES).get("base_model_name_or_path")
    except CheckpointError:
        base = None
    base = base if isinstance(base, str) and base else "its base model"
    return (
        f"it is an adapter of {base}, which peft merges into that model: PeftModel.from_pretrained(BASE, {str(folder)!r})"
        ".merge_and_unload().save_pretrained(NEW_FOLDER); then name the new folder"
    )


def _explain_checkpoints(folder: Path, names: Collection[str]) -> str:
    """Return which folder to name in place of one with checkpoints of a training; "" if there are none."""
    steps = {int(match[1]): name for name in names if (match := CHECKPOINT_FOLDER.fullmatch(name))}
    if steps:
        return f"it holds checkpoints of a Trainer, not a model; name the newest: {folder / steps[max(steps)]}"
    if "state.safetensors" in names:
        return f"it is a checkpoint of an unfinished run in {folder.parent.parent}; run the same command again to finish it"
    if "checkpoints" in names and any(name in names for name in ("run.lock", "metrics.jsonl")):
        return "the run in it is unfinished; run the same command again"
    return ""


def _explain_formats(paths: Collection[Path]) -> str:
    """Return the format of the first file in `paths` that holds a model in another format; "" if there is none."""
    for path in paths:
        if path.suffix.lower() in FORMATS:
            return f"{path.name} in it is {FORMATS[path.suffix.lower()]}"
    for path in paths:
        if path.suffix.lower() == ".bin" and _first_bytes(path).startswith(FASTTEXT_START):
            return f"{path.name} in it is {FORMATS['.ftz']}"
    pickled = [path.name for path in paths if path.suffix.lower() in PICKLED]
    if pickled:
        return f"it has no model.safetensors, only {', '.join(pickled[:3])}: {CONVERT}"
    return ""


def _explain_inner(paths: Collection[Path]) -> str:
    """Return which folder in the folder is a model; "" if none is."""
    inner = [path for path in paths if path.is_dir() and (path / "config.json").is_file()]
    if not inner:
        return ""
    several = f" ({len(inner)} folders in it are models)" if len(inner) > 1 else ""
    return f"the model is in a folder within: name {inner[0]}{several}"


def _explain_contents(paths: Collection[Path]) -> str:
    """Return what the files of a folder are that holds no model: weights without settings, pictures, rows or others."""
    suffixes = Counter(path.suffix.lower() for path in paths if path.is_file())
    if suffixes[".safetensors"]:
        return "it has weights, but no config.json; copy that of the model beside them"
    for kinds, noun in ((PICTURES, "pictures"), (VIDEOS, "videos"), (SOUNDS, "recordings"), (TABLES, "tables")):
        count = sum(suffixes[suffix] for suffix in kinds)
        if count and 2 * count >= suffixes.total():
            return f"it is a folder of {noun}, which hold data: name the folder of a model"
    if any(path.suffix.lower() in ARCHIVES for path in paths):
        return f"it holds {UNPACK}"
    folders = [path for path in paths if path.is_dir()]
    inner = Counter(file.suffix.lower() for path in folders[:20] for file in _some_files(path))
    if sum(inner[suffix] for suffix in PICTURES) > sum(inner.values()) / 2:
        return "it holds folders of pictures, which are data: name the folder of a model"
    return NO_CONFIG


def _some_files(folder: Path) -> list[Path]:
    """Return the first hundred files of a folder; none if it cannot be read."""
    try:
        return [path for path, _ in zip(folder.iterdir(), range(100), strict=False)]
    except OSError:
        return []


def _first_bytes(path: Path) -> bytes:
    """Return the first bytes of a regular file; b"" if it cannot be read."""
    try:
        with open_regular(path) as stream:
            return stream.read(64) or b""
    except (OSError, CheckpointError):
        return b""
