"""The files of published tokenizers: read them into a tokenizer of the `tokenizers` library and its configuration."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import models, normalizers

from mapsto.errors import CheckpointError, MapstoError, shorten
from mapsto.files import read_bytes
from mapsto.text.proof.process import require_usable
from mapsto.text.spm import layouts, marian
from mapsto.text.vocabulary import bert_pipeline

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
SPECIAL_FILE = "special_tokens_map.json"
VOCABULARY_FILE = "vocab.txt"
ADDED_FILE = "added_tokens.json"
SPM_SUFFIXES = (".model", ".spm")
# The chat template, which older folders have in the settings, by the same key.
TEMPLATE_FILE, TEMPLATE_KEY = "chat_template.jinja", "chat_template"
# Bytes; larger files are refused.
LARGEST_FILE = 64 << 20
LARGEST_ID = 2**31 - 1
NO_LIMIT = 10**9  # transformers writes 1e30 as maximum length if there is no limit
# The usual tokens of each role, for tokenizers whose files name none, in order of preference.
USUAL_NAMES = {
    "pad_token": ("[PAD]", "<pad>"),
    "unk_token": ("[UNK]", "<unk>"),
    "cls_token": ("[CLS]", "<s>"),
    "sep_token": ("[SEP]", "</s>"),
    "mask_token": ("[MASK]", "<mask>"),
    "bos_token": (),
    "eos_token": (),
}
# Settings that list further special tokens, which have no role.
MORE_SPECIAL = ("additional_special_tokens", "extra_special_tokens")
GENERIC_CLASS = "PreTrainedTokenizerFast"  # with this class transformers 4 and 5 read tokenizer.json unchanged
GENERIC_CLASSES = (GENERIC_CLASS, "TokenizersBackend")
# Settings that name code to import, or paths on the machine of the publisher.
NEVER_SAVED = ("auto_map", "tokenizer_file", "special_tokens_map_file", "vocab_file")
# The attribute of the BERT normalizer for each setting of tokenizer_config.json.
BERT_SETTINGS = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}


def open_backend(path: Path) -> tuple[tokenizers.Tokenizer, dict[str, Any], marian.MarianVocabulary | None]:
    """Return (tokenizer of the `tokenizers` library, its settings, files of Marian) from a model folder, or from one file.

    The settings are those of special_tokens_map.json and tokenizer_config.json together, and the chat template.
    path: the folder, or a tokenizer.json, vocab.txt or sentencepiece model.
    Raises CheckpointError if the folder or file does not exist, is damaged, or holds a tokenizer that cannot be used.
    """
    file = _find(path)
    config = _read_object(file.parent / SPECIAL_FILE) | _read_object(file.parent / CONFIG_FILE)
    if (file.parent / TEMPLATE_FILE).is_file():
        config[TEMPLATE_KEY] = _read_text(file.parent / TEMPLATE_FILE)
    vocabulary = None
    with refusing(file):
        if file.name == marian.SOURCE_FILE and (file.parent / marian.VOCABULARY_FILE).is_file():
            vocabulary = marian.open_marian(file.parent, _read_object(file.parent / marian.VOCABULARY_FILE), config)
            backend = vocabulary.backend
        elif file.suffix in SPM_SUFFIXES:
            backend = layouts.open_spm(file, config, _read_object(file.parent / "config.json"))
            _add_tokens(backend, file.parent, config)
        elif file.suffix == ".json":
            backend = from_parts(_read_object(file))
            _apply_bert_settings(backend, config)
        else:
            config.setdefault("tokenizer_class", "BertTokenizer")
            backend = _from_vocabulary(file, config)
        _check_usable(backend)
    return backend, config, vocabulary


def roles_of(config: Mapping[str, Any], vocabulary: Mapping[str, int]) -> dict[str, str]:
    """Return {role: name of the special token}, such as {"mask_token": "[MASK]"}, for the roles whose token is in the vocabulary.

    config: the tokenizer's settings. If they name no token for a role, the first of USUAL_NAMES in the vocabulary is taken.
    """
    roles = {}
    for role, common_names in USUAL_NAMES.items():
        token = config.get(role)
        token = token.get("content") if isinstance(token, dict) else token
        names = (token,) if isinstance(token, str) else common_names
        if match := next((name for name in names if name in vocabulary), None):
            roles[role] = match
    return roles


def describe_token(token: Any, typed: bool = False) -> Any:
    """Return a special token as tokenizer files store it: by its name, or as a dict of its properties, whichever `token` is.

    typed: whether the dict has the entry "__type", as in tokenizer_config.json but not in special_tokens_map.json.
    """
    if not isinstance(token, dict):
        return token
    properties = {key: value for key, value in token.items() if key != "__type"}
    return {"__type": "AddedToken", **properties} if typed else properties


def is_bert(normalizer: object) -> bool:
    """Return whether a normalizer is BERT's. Settings of tokenizer_config.json, such as do_lower_case, apply only to this one."""
    return isinstance(normalizer, normalizers.BertNormalizer)


def _apply_bert_settings(backend: tokenizers.Tokenizer, config: Mapping[str, Any]) -> None:
    """Change the settings of a BERT normalizer to those in tokenizer_config.json, as transformers does.

    Nothing is done for other normalizers, and for tokenizer classes that read tokenizer.json unchanged.
    config: content of tokenizer_config.json.
    """
    if config.get("tokenizer_class") in GENERIC_CLASSES or not is_bert(backend.normalizer):
        return
    normalizer = backend.normalizer
    for setting, attribute in BERT_SETTINGS.items():
        if setting in config:
            setattr(normalizer, attribute, config[setting])
    backend.normalizer = normalizer


def from_parts(parts: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """Return the tokenizer described by `parts`, the content of a tokenizer.json.

    Raises ValueError, KeyError, or any error of the library if the content is invalid.
    """
    model = parts["model"]
    prefix = model.get("continuing_subword_prefix")
    if prefix and "merges" in model:
        # The library cuts off the prefix without a check. If it is missing, the whole process may crash.
        pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
        if not all(second.startswith(prefix) for _, second in pairs):
            raise ValueError(f"a merge whose second part does not begin with {prefix!r}")
    # Padding and truncation are not used here, and with a padding of a billion tokens the library ends the process.
    plain_parts = {**parts, "padding": None, "truncation": None}
    require_usable(plain_parts)
    return tokenizers.Tokenizer.from_str(json.dumps(plain_parts))


def hide_special(parts: dict[str, Any]) -> None:
    """Rename the special tokens among the pieces of a model, so that no text gives them, in the content of a tokenizer.json.

    A Unigram model takes any piece for the text that it spells, and so does BPE that looks up words before it merges.
    """
    model = parts["model"]
    is_unigram = model["type"] == "Unigram"
    if not is_unigram and not model.get("ignore_merges"):
        return
    pieces = model["vocab"]
    special = [
        token
        for token in parts["added_tokens"]
        if token["special"] and (token["id"] < len(pieces) if is_unigram else token["content"] in pieces)
    ]
    for token in special:
        # A piece that begins with a blank is in no text, whose blanks have become "▁" or "Ġ".
        hidden = f" {token['content']}"
        if is_unigram:
            pieces[token["id"]][0] = hidden
        else:
            pieces[hidden] = pieces.pop(token["content"])
        if model.get("unk_token") == token["content"]:
            model["unk_token"] = hidden
    parts["added_tokens"] = [token for token in parts["added_tokens"] if token not in special]


def _from_vocabulary(file: Path, config: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """Return the tokenizer of a vocab.txt, BERT's old format: the line with number i (from 0) is the token with id i.

    config: settings that name the special tokens, and those of the normalizer. Tokens in added_tokens.json are added.
    Raises CheckpointError if the file cannot be read or has no unknown token, or if added tokens do not fit.
    """
    lines = _read_text(file).removesuffix("\n").split("\n")
    vocabulary = {line.rstrip("\r"): number for number, line in enumerate(lines)}
    roles = roles_of(config, vocabulary)
    if "unk_token" not in roles:
        raise CheckpointError(f"{file}: the unknown token ([UNK]) is not among its {len(lines)} lines")
    backend = bert_pipeline(models.WordPiece(vocab=vocabulary, unk_token=roles["unk_token"]), config)
    backend.add_special_tokens(list(roles.values()))
    _add_tokens(backend, file.parent, {})
    return backend


def _add_tokens(backend: tokenizers.Tokenizer, folder: Path, config: Mapping[str, Any]) -> None:
    """Add the tokens of added_tokens.json, and of added_tokens_decoder in a tokenizer's settings, which its vocabulary lacks.

    Raises CheckpointError if a token cannot have the id that the files give it.
    """
    added: dict[str, Any] = dict(_read_object(folder / ADDED_FILE))
    properties: dict[str, dict[str, Any]] = {}
    for number, token in dict(config.get("added_tokens_decoder") or {}).items():
        if not isinstance(token, dict) or not isinstance(token.get("content"), str) or not str(number).isdecimal():
            raise CheckpointError(f"{folder / CONFIG_FILE}: added_tokens_decoder has no token for {number!r}")
        properties[token["content"]] = token
        added[token["content"]] = int(number)
    # The library numbers added tokens in the order of the calls.
    for content, number in sorted(added.items(), key=lambda item: str(item[1]).zfill(12)):
        if content not in properties:
            backend.add_tokens([tokenizers.AddedToken(content, normalized=not marks_beginnings(backend))])
        elif backend.token_to_id(content) is None:
            options = ("lstrip", "rstrip", "single_word", "normalized", "special")
            settings = {name: bool(properties[content].get(name)) for name in options}
            backend.add_tokens([tokenizers.AddedToken(content, **settings)])
        if backend.token_to_id(content) != number:
            raise CheckpointError(f"{folder / ADDED_FILE}: {content!r} cannot be token {number} of this vocabulary")


def marks_beginnings(backend: tokenizers.Tokenizer) -> bool:
    """Return whether the normalizer puts "▁" before a text, so that it would put it before the name of an added token too."""
    normalizer = backend.normalizer
    return normalizer is not None and normalizer.normalize_str("a").startswith("▁")


def _find(path: Path) -> Path:
    """Return the path of the tokenizer file: in a folder tokenizer.json, vocab.txt or a sentencepiece model; else `path` itself.

    Raises CheckpointError if there is no such file.
    """
    if path.is_file():
        if path.suffix in (".json", ".txt", *SPM_SUFFIXES):
            return path
        raise CheckpointError(
            f"{path}: no tokenizer; {TOKENIZER_FILE}, {VOCABULARY_FILE} or a sentencepiece model is needed"
        )
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such folder")
    for name in (TOKENIZER_FILE, VOCABULARY_FILE, marian.SOURCE_FILE, *layouts.FILES):
        if (path / name).exists():
            return path / name
    needed = (
        f"{path}: no tokenizer here; {TOKENIZER_FILE} is needed (or a BERT's {VOCABULARY_FILE}, Marian's {marian.SOURCE_FILE}, "
        f"or a sentencepiece model: {', '.join(layouts.FILES)})"
    )
    older = sorted(file.name for file in path.iterdir() if file.suffix == ".model" or file.name == "vocab.json")
    if older:
        needed += (
            f". {older[0]} is an older layout; convert it once with "
            f"transformers.AutoTokenizer.from_pretrained({str(path)!r}).save_pretrained({str(path)!r})"
        )
    raise CheckpointError(needed)


def _read_text(file: Path) -> str:
    """Return the text of a file. Raises CheckpointError if it cannot be read, is too large, or is not UTF-8."""
    try:
        return read_bytes(file, LARGEST_FILE).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{file}: not UTF-8 at byte {error.start}") from error


def _read_object(file: Path) -> dict[str, Any]:
    """Return the object in a JSON file; {} if there is no such file.

    Raises CheckpointError if the file cannot be read, is no valid JSON, or holds something else than an object.
    """
    if not file.exists():
        return {}
    try:
        value = json.loads(_read_text(file))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: broken JSON ({error}); fetch the file again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{file}: a JSON object is needed, not {type(value).__name__}")
    return value


def format_json(value: Mapping[str, Any]) -> str:
    """Return `value` as JSON text in the layout of tokenizer files: indented, with sorted keys."""
    return json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True) + "\n"


def _check_usable(backend: tokenizers.Tokenizer) -> None:
    """Raise ValueError if the tokenizer has no tokens or an id above LARGEST_ID; raise the library's error if it cannot encode.

    A text with unusual characters is encoded when a tokenizer is opened, so that no run fails in the middle of a corpus.
    """
    backend.encode("a \U000e0fff一\x07", add_special_tokens=True)
    highest = max(backend.get_vocab(with_added_tokens=True).values(), default=-1)
    if not 0 <= highest <= LARGEST_ID:
        raise ValueError("it has no tokens" if highest < 0 else f"token id {highest} is out of range")


@contextmanager
def refusing(place: Path | str) -> Iterator[None]:
    """Turn any error of the `tokenizers` library in the `with` block into a CheckpointError.

    place: the file or folder to name in its message.
    """
    try:
        yield
    except (MapstoError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of the Rust library is no Exception
        reason = shorten(str(error), 200) or type(error).__name__
        raise CheckpointError(f"{place}: the tokenizers library cannot open it ({reason}); fetch it again") from error
