"""Text ↔ token ids: training, opening and saving a tokenizer. Wraps the `tokenizers` library.

Legend of shapes: n tokens of one text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import models, normalizers

from mapsto import vocabulary as vocabularies
from mapsto.errors import CheckpointError, MapstoError, RunError, UsageError, shorten
from mapsto.vocabulary import OWN_SPECIAL, Style, bert_pipeline, no_text, template

Ids = NDArray[np.int32]

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
SPECIAL_FILE = "special_tokens_map.json"
VOCABULARY_FILE = "vocab.txt"
ADDED_FILE = "added_tokens.json"
LARGEST_FILE = 256 << 20
LARGEST_ID = 2**31 - 1
NO_LIMIT = 10**9  # transformers writes 1e30 for "no longest text"

# The names a token of each role goes by where no file says it, in order of preference.
USUAL_NAMES = {
    "pad_token": ("[PAD]", "<pad>"),
    "unk_token": ("[UNK]", "<unk>"),
    "cls_token": ("[CLS]", "<s>"),
    "sep_token": ("[SEP]", "</s>"),
    "mask_token": ("[MASK]", "<mask>"),
    "bos_token": (),
    "eos_token": (),
}
MORE_SPECIAL = ("additional_special_tokens", "extra_special_tokens")
GENERIC_CLASS = "PreTrainedTokenizerFast"  # transformers 4 and 5 open tokenizer.json under it as it stands
GENERIC_CLASSES = (GENERIC_CLASS, "TokenizersBackend")
# Code to import, and paths of another machine.
NEVER_SAVED = ("auto_map", "tokenizer_file", "special_tokens_map_file", "vocab_file")
BERT_SETTINGS = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}

CHUNK = 4096

# First and last code points of scripts that are written without spaces.
UNSPACED = np.array(
    [(0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x30FF), (0x31F0, 0x31FF)]
    + [(0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0xFF66, 0xFF9F), (0x20000, 0x3FFFF)]
)


class Encoded:
    """The tokens of one text, without its frame; the arrays are made when first asked for.

    ids: (n,) int32. offsets: (n, 2) int32, start and end in characters of `text` as it was given; start == end
    marks a token that stands for nothing but space. words: (n,) int32, 0-based and without gaps.
    """

    def __init__(self, text: str, encoding: tokenizers.Encoding) -> None:
        self.text = text
        self._encoding = encoding

    def __len__(self) -> int:
        return len(self._encoding)

    def __repr__(self) -> str:
        return f"Encoded({shorten(self.text)!r}, {len(self)} tokens)"

    @cached_property
    def ids(self) -> Ids:
        return np.array(self._encoding.ids, dtype=np.int32)

    @cached_property
    def offsets(self) -> Ids:
        flat = chain.from_iterable(self._encoding.offsets)
        return np.fromiter(flat, dtype=np.int32, count=2 * len(self)).reshape(-1, 2)

    @cached_property
    def words(self) -> Ids:
        """The word each token is part of.

        A word is what the tokenizer keeps together before it looks for pieces. Where scripts leave no spaces (Chinese,
        Japanese, Thai, …) this may be a whole sentence, so there each token is a word, save that tokens of one
        character stay together.
        """
        if not len(self):
            return np.zeros(0, dtype=np.int32)
        kept_together = [-1 if word is None else word for word in self._encoding.word_ids]
        whole = np.array(kept_together, dtype=np.int32)
        begins = np.concatenate([[True], (whole[1:] != whole[:-1]) | (whole[1:] < 0)])
        if not self.text.isascii():
            apart = self._unspaced()
            begins[1:] |= (apart[1:] | apart[:-1]) & (self.offsets[1:, 0] >= self.offsets[:-1, 1])
        return (np.cumsum(begins) - 1).astype(np.int32)

    def _unspaced(self) -> NDArray[np.bool_]:
        """(n,) True where a token begins with a character of a script without spaces."""
        found = _unspaced(self.text)
        return found[np.minimum(self.offsets[:, 0], len(found) - 1)]


def _unspaced(text: str) -> NDArray[np.bool_]:
    """For each character whether it is of a script without spaces."""
    codes = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    row = np.searchsorted(UNSPACED[:, 0], codes, side="right") - 1
    inside: NDArray[np.bool_] = (row >= 0) & (codes <= UNSPACED[row, 1])
    return inside


class _Frame(NamedTuple):
    opening: tuple[int, ...]
    joining: tuple[int, ...]
    closing: tuple[int, ...]
    second_type: int


class Tokenizer:
    """A trained or published tokenizer.

    `opening`, `joining` and `closing` are the ids that frame the pieces of an example: opening + ids + closing, then
    for each further piece joining + ids + closing (BERT: [CLS] a [SEP] b [SEP]; RoBERTa: <s> a </s></s> b </s>).
    The name of a special token in a text, such as "[MASK]", is read as that token, as transformers does.
    """

    def __init__(self, backend: tokenizers.Tokenizer, config: Mapping[str, Any]) -> None:
        self._backend = backend
        self._config = dict(config)
        backend.no_truncation()
        backend.no_padding()
        vocabulary = backend.get_vocab(with_added_tokens=True)
        self._roles = _roles(self._config, vocabulary)
        self.size: int = max(vocabulary.values(), default=-1) + 1
        if backend.post_processor is None:
            _frame_by_roles(backend, self._roles, self._config)
        self._frame = _read_frame(backend)
        self.opening, self.joining, self.closing = self._frame[:3]

    @classmethod
    def open(cls, path: str | Path) -> Tokenizer:
        """Open a model folder, or the tokenizer.json or vocab.txt in one.

        Raises CheckpointError when there is none, or what is there is damaged.
        """
        file = _find(Path(path))
        config = _read_object(file.parent / SPECIAL_FILE) | _read_object(file.parent / CONFIG_FILE)
        with _refusing(file):
            if file.name.endswith(".json"):
                backend = _from_parts(_read_object(file))
                _apply_bert_settings(backend, config)
            else:
                config.setdefault("tokenizer_class", "BertTokenizer")
                backend = _from_vocabulary(file, config)
            _prove(backend)
            return cls(backend, config)

    @classmethod
    def train(
        cls, texts: Iterable[str], size: int | None = None, style: Style = "wordpiece", share: float = 1.0
    ) -> Tokenizer:
        """Learn a vocabulary from `texts`; the same texts give the same one, bit for bit.

        style "wordpiece": lower-cased, Chinese characters apart, characters seen less than twice unknown.
        style "bytes": byte-level BPE, loses nothing: `decode(ids) == text`.
        size: the most tokens it may have, see `vocabulary_size` for what None gives; fewer when the texts have fewer.
        share: which part of the corpus the texts are.
        Raises UsageError for an unknown style or a size that is too small, DataError when there is no text.
        """
        backend = vocabularies.train(list(texts), size, style, share)
        roles = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), OWN_SPECIAL, strict=True))
        return cls(backend, {**roles, "clean_up_tokenization_spaces": False})

    @classmethod
    def from_state(cls, state: str) -> Tokenizer:
        """The tokenizer that `state()` described. Raises CheckpointError when `state` is damaged."""
        with _refusing("tokenizer state"):
            parts = json.loads(state)
            return cls(_from_parts(parts["tokenizer"]), parts["config"])

    def state(self) -> str:
        """All there is to know about this tokenizer, as JSON."""
        parts = {"config": self._config, "tokenizer": json.loads(self._backend.to_str())}
        return json.dumps(parts, ensure_ascii=False, sort_keys=True)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, hex, of what decides which ids a text gets."""
        decisive = {"roles": self._roles, "tokenizer": json.loads(self._backend.to_str())}
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __len__(self) -> int:
        return self.size

    def __repr__(self) -> str:
        return f"Tokenizer({type(self._backend.model).__name__}, {self.size} tokens)"

    def encode_batch(self, texts: Sequence[str]) -> list[Encoded]:
        """Tokens, offsets and words of each text: whole, without its frame. Raises DataError for what is no text."""
        texts = _checked(texts)
        try:
            found = self._backend.encode_batch(texts, add_special_tokens=False)
        except TypeError as error:
            raise no_text(texts) from error
        return [Encoded(text, encoding) for text, encoding in zip(texts, found, strict=True)]

    def encode_ids(self, texts: Iterable[str]) -> list[Ids]:
        """The ids of `encode_batch` alone: faster, and small enough in memory for a whole corpus."""
        return [np.array(encoding.ids, dtype=np.int32) for encoding in self._fast(texts)]

    def encode_flat(self, texts: Iterable[str]) -> tuple[Ids, NDArray[np.int64]]:
        """The ids of all texts end to end, and how many each text has."""
        lists = [encoding.ids for encoding in self._fast(texts)]
        lengths = np.fromiter(map(len, lists), np.int64, len(lists))
        return np.fromiter(chain.from_iterable(lists), np.int32, int(lengths.sum())), lengths

    def _fast(self, texts: Iterable[str]) -> Iterator[tokenizers.Encoding]:
        """Encodings that know nothing but ids."""
        rest = iter(_checked(texts))
        before = 0
        while chunk := list(islice(rest, CHUNK)):
            try:
                yield from self._backend.encode_batch_fast(chunk, add_special_tokens=False)
            except TypeError as error:
                raise no_text(chunk, before) from error
            before += len(chunk)

    def decode(self, ids: Sequence[int] | NDArray[np.integer[Any]], keep_special: bool = False) -> str:
        """The text that `ids` stand for; special tokens are left out unless `keep_special`."""
        numbers = np.asarray(ids, dtype=np.int64).tolist()
        if not all(0 <= number < self.size for number in numbers):
            raise UsageError(f"token ids must lie in 0 … {self.size - 1}; got {min(numbers)} … {max(numbers)}")
        return self._backend.decode(numbers, skip_special_tokens=not keep_special)

    def token(self, number: int) -> str | None:
        """How the vocabulary writes token `number`, as "##ing"; None where it has a gap."""
        return self._backend.id_to_token(number)

    def extended(self, words: Iterable[str]) -> tuple[Tokenizer, dict[int, Ids]]:
        """A tokenizer that reads each of these words as one token, and by new id the tokens that the word was cut into.

        Words that are one token already stay as they are. A word is found where no letter touches it, but for words of
        scripts without spaces, which are found everywhere.
        """
        wanted = list(dict.fromkeys(word for word in map(str.strip, words) if word))
        cut = {
            word: ids
            for word, ids in zip(wanted, self.encode_ids(wanted), strict=True)
            if len(ids) > 1 or self.unknown_id in ids.tolist()
        }
        backend = _from_parts(json.loads(self._backend.to_str()))
        backend.add_tokens([tokenizers.AddedToken(w, single_word=not _unspaced(w).any(), normalized=True) for w in cut])
        vocabulary = backend.get_vocab(with_added_tokens=True)
        return Tokenizer(backend, self._config), {vocabulary[word]: ids for word, ids in cut.items()}

    @property
    def mask_id(self) -> int:
        """Raises CheckpointError when this tokenizer has no token for hidden text."""
        number = self._id_of("mask_token")
        if number is None:
            raise CheckpointError(
                "this tokenizer has no mask token, so '~text' cannot hide anything: "
                f"name one as mask_token in {SPECIAL_FILE}, or start from a model that was pretrained with masks"
            )
        return number

    @property
    def pad_id(self) -> int:
        """What fills the end of a row, which nothing reads; 0 when the tokenizer names none."""
        return self._id_of("pad_token") or 0

    @property
    def unknown_id(self) -> int | None:
        return self._id_of("unk_token")

    @cached_property
    def special_ids(self) -> tuple[int, ...]:
        """Ids, rising, of tokens that stand for no text; the unknown token is one of them."""
        added = self._backend.get_added_tokens_decoder()
        marked = {number for number, token in added.items() if token.special}
        named = {number for role in self._roles if (number := self._id_of(role)) is not None}
        return tuple(sorted(marked | named))

    @property
    def max_length(self) -> int | None:
        """The longest sequence the published model took, in tokens with their frame; None when it is not said."""
        limit = self._config.get("model_max_length")
        return int(limit) if isinstance(limit, int | float) and 0 < limit < NO_LIMIT else None

    def save(self, folder: str | Path, max_length: int | None = None) -> None:
        """Write files into `folder` that transformers.AutoTokenizer opens with the same ids and frame.

        max_length: what the model takes, in tokens with their frame; None keeps what the opened folder said.
        Raises RunError when `folder` cannot be written.
        """
        config = self._saved_config(max_length)
        special = {role: _described(config[role]) for role in (*self._roles, *MORE_SPECIAL) if config.get(role)}
        files = {TOKENIZER_FILE: self._backend.to_str(), CONFIG_FILE: _as_json(config), SPECIAL_FILE: _as_json(special)}
        target = Path(folder)
        try:
            target.mkdir(parents=True, exist_ok=True)
            for name, text in files.items():
                (target / name).write_bytes(text.encode())
        except OSError as error:
            raise RunError(f"{target}: the tokenizer cannot be saved here ({error.strerror or error})") from error

    def _id_of(self, role: str) -> int | None:
        name = self._roles.get(role)
        return None if name is None else self._backend.token_to_id(name)

    def _saved_config(self, max_length: int | None) -> dict[str, Any]:
        config = {key: value for key, value in self._config.items() if key not in NEVER_SAVED}
        for role, name in self._roles.items():
            config[role] = _described(config.get(role) or name, typed=True)
        if max_length is not None:
            config["model_max_length"] = max_length
        if "tokenizer_class" not in config:
            config["tokenizer_class"] = GENERIC_CLASS
            types = ["token_type_ids"] if self._frame.second_type else []
            config.setdefault("model_input_names", ["input_ids", *types, "attention_mask"])
        if config["tokenizer_class"] not in GENERIC_CLASSES and _is_bert(self._backend.normalizer):
            # transformers builds the normalizer of these classes from the config and lower-cases unless told.
            for setting, attribute in BERT_SETTINGS.items():
                config[setting] = getattr(self._backend.normalizer, attribute)
        return config


def _frame_by_roles(backend: tokenizers.Tokenizer, roles: Mapping[str, str], config: Mapping[str, Any]) -> None:
    """Give a tokenizer that came without a frame the one its cls and sep tokens are made for; none without them."""
    opening, closing = roles.get("cls_token"), roles.get("sep_token")
    if opening is None or closing is None:
        return
    bert = str(config.get("tokenizer_class", "")).startswith(("Bert", "DistilBert")) or opening == "[CLS]"
    backend.post_processor = template(backend, opening, closing, doubled=not bert, second_type=int(bert))


def _read_frame(backend: tokenizers.Tokenizer) -> _Frame:
    """The frame the post-processor puts around one text and between two, read off a text it has framed.

    A pair that is not framed as opening + a + closing + joining + b + closing has no joining we could repeat.
    """
    probe = _probe(backend)
    if probe is None:
        return _Frame((), (), (), 0)
    length = len(probe)
    single = backend.post_process(probe, None, True)
    first = single.special_tokens_mask.index(0)
    opening, closing = tuple(single.ids[:first]), tuple(single.ids[first + length :])
    pair = backend.post_process(probe, probe, True)
    end = pair.special_tokens_mask.index(0) + length
    second = pair.special_tokens_mask.index(0, end)
    middle, tail = tuple(pair.ids[end:second]), tuple(pair.ids[second + length :])
    regular = middle[: len(closing)] == closing == tail
    return _Frame(opening, middle[len(closing) :] if regular else (), closing, pair.type_ids[second])


def _probe(backend: tokenizers.Tokenizer) -> tokenizers.Encoding | None:
    """Some text that gives plain tokens, encoded; None when there is none."""
    known = (backend.id_to_token(number) for number in range(1000))
    for text in chain(("a", "一"), (token for token in known if token)):
        encoding = backend.encode(text, add_special_tokens=False)
        if len(encoding) and not any(encoding.special_tokens_mask):
            return encoding
    return None


def _roles(config: Mapping[str, Any], vocabulary: Mapping[str, int]) -> dict[str, str]:
    """Role → token for the roles that have a token in the vocabulary: what the files say, else the usual names."""
    roles = {}
    for role, usual in USUAL_NAMES.items():
        said = config.get(role)
        said = said.get("content") if isinstance(said, dict) else said
        names = (said,) if isinstance(said, str) else usual
        if found := next((name for name in names if name in vocabulary), None):
            roles[role] = found
    return roles


def _described(token: Any, typed: bool = False) -> Any:
    """A special token as its file writes it: one with properties is marked as such in the config alone."""
    if not isinstance(token, dict):
        return token
    plain = {key: value for key, value in token.items() if key != "__type"}
    return {"__type": "AddedToken", **plain} if typed else plain


def _is_bert(normalizer: object) -> bool:
    return isinstance(normalizer, normalizers.BertNormalizer)


def _apply_bert_settings(backend: tokenizers.Tokenizer, config: Mapping[str, Any]) -> None:
    """Where tokenizer_config.json and tokenizer.json differ on BERT's settings, transformers heeds the former."""
    if config.get("tokenizer_class") in GENERIC_CLASSES or not _is_bert(backend.normalizer):
        return
    normalizer = backend.normalizer
    for setting, attribute in BERT_SETTINGS.items():
        if setting in config:
            setattr(normalizer, attribute, config[setting])
    backend.normalizer = normalizer


def _from_parts(parts: Mapping[str, Any]) -> tokenizers.Tokenizer:
    model = parts["model"]
    prefix = model.get("continuing_subword_prefix")
    if prefix and "merges" in model:
        # The library slices the prefix off unseen; without one it can end the whole process.
        pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
        if not all(second.startswith(prefix) for _, second in pairs):
            raise ValueError(f"a merge whose second part does not begin with {prefix!r}")
    return tokenizers.Tokenizer.from_str(json.dumps(parts))


def _from_vocabulary(file: Path, config: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """BERT's old layout: one token a line, its number is the line's."""
    lines = _read_text(file).removesuffix("\n").split("\n")
    vocabulary = {line.rstrip("\r"): number for number, line in enumerate(lines)}
    roles = _roles(config, vocabulary)
    if "unk_token" not in roles:
        raise CheckpointError(f"{file}: the unknown token ([UNK]) is not among its {len(lines)} lines")
    backend = bert_pipeline(models.WordPiece(vocab=vocabulary, unk_token=roles["unk_token"]), config)
    backend.add_special_tokens(list(roles.values()))
    added = _read_object(file.parent / ADDED_FILE)
    for token, number in sorted(added.items(), key=lambda item: str(item[1]).zfill(12)):
        backend.add_tokens([token])
        if backend.token_to_id(token) != number:
            raise CheckpointError(f"{file.parent / ADDED_FILE}: {token!r} cannot be token {number} of this vocabulary")
    return backend


def _find(path: Path) -> Path:
    """The file that holds the vocabulary."""
    if path.is_file():
        if path.suffix in (".json", ".txt"):
            return path
        raise CheckpointError(f"{path}: no tokenizer; {TOKENIZER_FILE} or {VOCABULARY_FILE} is needed")
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such folder")
    for name in (TOKENIZER_FILE, VOCABULARY_FILE):
        if (path / name).is_file():
            return path / name
    needed = f"{path}: no tokenizer here; {TOKENIZER_FILE} is needed (or the {VOCABULARY_FILE} of a BERT)"
    older = sorted(file.name for file in path.iterdir() if file.suffix == ".model" or file.name == "vocab.json")
    if older:
        needed += (
            f". {older[0]} is an older layout; convert it once with "
            f"transformers.AutoTokenizer.from_pretrained({str(path)!r}).save_pretrained({str(path)!r})"
        )
    raise CheckpointError(needed)


def _read_text(file: Path) -> str:
    try:
        if (size := file.stat().st_size) > LARGEST_FILE:
            raise CheckpointError(f"{file}: {size:,} bytes are too many; at most {LARGEST_FILE:,} are read")
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{file}: not UTF-8 at byte {error.start}") from error
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror or error})") from error


def _read_object(file: Path) -> dict[str, Any]:
    """A JSON object; empty when there is no such file."""
    if not file.exists():
        return {}
    try:
        value = json.loads(_read_text(file))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: broken JSON ({error}); fetch the file again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{file}: a JSON object is needed, not {type(value).__name__}")
    return value


def _as_json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True) + "\n"


def _prove(backend: tokenizers.Tokenizer) -> None:
    """Fail now, not in the middle of a corpus, where a tokenizer lacks its unknown token or has impossible ids."""
    backend.encode("a \U000e0fff一\x07", add_special_tokens=True)
    highest = max(backend.get_vocab(with_added_tokens=True).values(), default=-1)
    if not 0 <= highest <= LARGEST_ID:
        raise ValueError("it has no tokens" if highest < 0 else f"token id {highest} is out of range")


@contextmanager
def _refusing(place: Path | str) -> Iterator[None]:
    try:
        yield
    except (MapstoError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of the Rust library is no Exception
        reason = shorten(str(error), 200) or type(error).__name__
        raise CheckpointError(f"{place}: the tokenizers library cannot open it ({reason}); fetch it again") from error


def _checked(texts: Iterable[str]) -> list[str]:
    if isinstance(texts, str):
        raise UsageError("a list of texts is needed, not one text")
    return list(texts)
