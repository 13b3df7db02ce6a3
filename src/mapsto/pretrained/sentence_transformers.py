"""The files of the library sentence-transformers in a model folder: pooling, scaling, prompts and length of a text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mapsto.errors import CheckpointError
from mapsto.files import read_any_json, read_json, write_atomic
from mapsto.model.config import SentenceConfig

MODULES, SETTINGS, POOLING_FILE = "modules.json", "sentence_bert_config.json", "1_Pooling/config.json"
PROMPTS, TOKENIZER = "config_sentence_transformers.json", "tokenizer_config.json"
SENTENCE_FILES = (MODULES, SETTINGS, POOLING_FILE, PROMPTS)

# Supported poolings, by their name in sentence-transformers; and these names, by the flag that older files have instead.
MODES = {"cls": "first", "mean": "mean"}
FLAGS = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean"}

# The prefix of module types, and the supported modules in their order (the last one is optional).
PACKAGE = "sentence_transformers."
STACK = ("Transformer", "Pooling", "Normalize")

BARE = f"remove {MODULES} to open the bare encoder"


def read_sentence_config(folder: Path, max_tokens: int) -> SentenceConfig | None:
    """Return pooling, normalisation, prompts and maximum number of tokens of the sentence encoder in a folder.

    None if the folder holds no sentence encoder. max_tokens: largest number of tokens that the Transformer can read.

    Raises CheckpointError if the folder lists modules, a pooling or prompts that are not supported.
    """
    # Only a sentence encoder lists its modules.
    if not (folder / MODULES).exists():
        return None
    modules = read_any_json(folder / MODULES)
    try:
        types, paths = [str(module["type"]) for module in modules], [str(module["path"]) for module in modules]
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / MODULES} is no list of modules") from error
    names = tuple(name.rpartition(".")[2] for name in types)
    if names not in (STACK[:2], STACK) or not all(name.startswith(PACKAGE) for name in types):
        raise CheckpointError(
            f"{folder / MODULES} lists {', '.join(types) or 'no modules'}; supported are {STACK[0]}, {STACK[1]} and, "
            f"behind them, {STACK[2]}; {BARE}"
        )
    if paths[0] not in ("", ".") or Path(paths[1]).name != paths[1]:
        raise CheckpointError(f"{folder / MODULES} has modules in {paths[0]!r} and {paths[1]!r}, not beside it; {BARE}")
    prompts, default_prompt = _read_prompts(folder / PROMPTS)
    pooling_file = folder / paths[1] / "config.json"
    mode = _read_mode(pooling_file)
    if any(prompts.values()) and read_json(pooling_file).get("include_prompt") is False:
        raise CheckpointError(f"{pooling_file} leaves the tokens of a prompt out of the mean: not supported; {BARE}")
    return SentenceConfig(
        MODES[mode],  # type: ignore[arg-type]
        normalize=len(names) == len(STACK),
        max_tokens=_read_length(folder, max_tokens),
        prompts=tuple(prompts.items()),
        default_prompt=default_prompt,
    )


def _read_prompts(path: Path) -> tuple[dict[str, str], str | None]:
    """Return the texts that are put before a text, by name, and the name of the default one; empty without the file `path`.

    Raises CheckpointError for a file without prompts in this form.
    """
    raw = read_json(path) if path.exists() else {}
    prompts, default_prompt = raw.get("prompts") or {}, raw.get("default_prompt_name")
    if not isinstance(prompts, dict) or not all(isinstance(prompt, str) for prompt in prompts.values()):
        raise CheckpointError(f"{path}: the prompts are no texts by name; {BARE}")
    if default_prompt is not None and default_prompt not in prompts:
        raise CheckpointError(f"{path}: the default prompt {default_prompt!r} is not among the prompts; {BARE}")
    return prompts, default_prompt


def _read_mode(path: Path) -> str:
    """Return the pooling of a sentence encoder, "cls" or "mean", from the config.json of its pooling module (`path`).

    The file names the pooling or, in older versions, has a flag for each one.
    Raises CheckpointError for another pooling, or for several.
    """
    raw = read_json(path)
    pooling = raw.get("pooling_mode")
    if pooling is None:
        flags = [name for name, value in raw.items() if name.startswith("pooling_mode_") and value]
        pooling = [FLAGS.get(name, name) for name in flags] or "mean"
    modes = [pooling] if isinstance(pooling, str) else pooling
    if not isinstance(modes, list) or len(modes) != 1 or modes[0] not in MODES:
        raise CheckpointError(f"{path} pools by {pooling!r}; supported is one of {', '.join(MODES)}; {BARE}")
    return str(modes[0])


def _read_length(folder: Path, max_tokens: int) -> int:
    """Return the maximum number of tokens of a text, at most `max_tokens`.

    It is read from the sentence encoder's settings, else from its tokenizer's; if neither gives it, it is `max_tokens`.
    Raises CheckpointError if the settings demand lower-casing of texts, which is not supported.
    """
    limits = []
    for path in sorted(folder.glob("sentence_*_config.json")):
        raw = read_json(path)
        if raw.get("do_lower_case"):
            raise CheckpointError(f"{path}: do_lower_case is not supported; {BARE}")
        limits.append(raw.get("max_seq_length"))
    if (folder / TOKENIZER).exists():
        limits.append(read_json(folder / TOKENIZER).get("model_max_length"))
    lengths = (limit for limit in limits if isinstance(limit, int | float) and limit >= 1)
    return int(min(max_tokens, next(lengths, max_tokens)))


def write_sentence_config(config: SentenceConfig, width: int, folder: Path) -> None:
    """Write the files of a sentence encoder to `folder`, in the layout that all versions of sentence-transformers open.

    config: pooling, normalisation, prompts and maximum number of tokens. width: width of the sentence vectors.
    """
    stack = STACK if config.normalize else STACK[:2]
    paths = ("", Path(POOLING_FILE).parent.name, "2_Normalize")
    modules = [
        {"idx": i, "name": str(i), "path": paths[i], "type": f"{PACKAGE}models.{name}"} for i, name in enumerate(stack)
    ]
    flags = {flag: MODES[mode] == config.pooling for flag, mode in FLAGS.items()}
    contents: dict[str, Any] = {
        SETTINGS: {"max_seq_length": config.max_tokens, "do_lower_case": False},
        POOLING_FILE: {"word_embedding_dimension": width, **flags},
        PROMPTS: {"prompts": dict(config.prompts), "default_prompt_name": config.default_prompt},
        MODULES: modules,
    }
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / name, (json.dumps(content, indent=1) + "\n").encode())
