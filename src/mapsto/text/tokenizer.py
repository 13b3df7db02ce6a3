"""Text ↔ token ids: training, opening and saving a tokenizer. Wraps the `tokenizers` library.

Legend of shapes: n tokens of one text.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tokenizers
from numpy.typing import NDArray

from mapsto.errors import CheckpointError, RunError, UsageError
from mapsto.text import tokenizer_files, vocabulary
from mapsto.text.encoding import Encoded, Ids, unspaced
from mapsto.text.vocabulary import OWN_SPECIAL, Style, invalid_text_error, template

CHUNK = 4096  # texts that are encoded at a time
# Shows whether a tokenizer encodes words apart as it does together.
PROBE = "the old river mill, 17 times past a WISE 今天 season, don't end ſo"


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
        token_ids = backend.get_vocab(with_added_tokens=True)
        self._roles = tokenizer_files.roles_of(self._config, token_ids)
        self.size: int = max(token_ids.values(), default=-1) + 1
        if backend.post_processor is None:
            _frame_by_roles(backend, self._roles, self._config)
        self._frame = _read_frame(backend)
        self.opening, self.joining, self.closing = self._frame[:3]

    @classmethod
    def open(cls, path: str | Path) -> Tokenizer:
        """Open a model folder, or the tokenizer.json or vocab.txt in one.

        Raises CheckpointError when there is none, or what is there is damaged.
        """
        backend, config = tokenizer_files.open_backend(Path(path))
        with tokenizer_files.refusing(path):
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
        backend = vocabulary.train(list(texts), size, style, share)
        roles = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), OWN_SPECIAL, strict=True))
        return cls(backend, {**roles, "clean_up_tokenization_spaces": False})

    @cached_property
    def fingerprint(self) -> str:
        """Return the SHA-256, in hex, of all that decides which ids a text gets."""
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
        """Return tokens, offsets and words of each text, without special tokens. Raises DataError for values that are no text."""
        texts = _checked(texts)
        try:
            encodings = self._backend.encode_batch(texts, add_special_tokens=False)
        except TypeError as error:
            raise invalid_text_error(texts) from error
        return [Encoded(text, encoding) for text, encoding in zip(texts, encodings, strict=True)]

    def encode_ids(self, texts: Iterable[str]) -> list[Ids]:
        """Return the ids alone of `encode_batch`: faster, and small enough in memory for a whole corpus."""
        return [np.array(ids, dtype=np.int32) for ids in self._fast(texts)]

    def encode_flat(self, texts: Iterable[str]) -> tuple[Ids, NDArray[np.int64]]:
        """Return the ids of all texts end to end, and the number of ids of each text."""
        lists = list(self._fast(texts))
        lengths = np.fromiter(map(len, lists), np.int64, len(lists))
        return np.fromiter(chain.from_iterable(lists), np.int32, int(lengths.sum())), lengths

    def _fast(self, texts: Iterable[str]) -> Iterator[Sequence[int] | Ids]:
        """Yield the ids of each text; a long text is encoded in parts where that gives the same ids."""
        remaining = iter(_checked(texts))
        num_encoded = 0
        while chunk := list(islice(remaining, CHUNK)):
            try:
                if max(map(len, chunk)) > vocabulary.AT_ONCE and self._is_splittable:
                    for text in chunk:
                        part_ids = (self._ids([part])[0] for part in vocabulary.parts(text))
                        yield np.concatenate([np.array(ids, np.int32) for ids in part_ids])
                else:
                    yield from self._ids(chunk)
            except TypeError as error:
                raise invalid_text_error(chunk, num_encoded) from error
            num_encoded += len(chunk)

    def _ids(self, texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._backend.encode_batch_fast(texts, add_special_tokens=False)]

    @cached_property
    def _is_splittable(self) -> bool:
        """Return whether a text may be cut at spaces: the ids after a space do not depend on the text before it."""
        if any(" " in token.content.strip() for token in self._backend.get_added_tokens_decoder().values()):
            return False
        ids, *part_ids = self._ids([PROBE, *re.split(r"(?= )", PROBE)])
        return ids == list(chain.from_iterable(part_ids))

    def decode(self, ids: Sequence[int] | NDArray[np.integer[Any]], keep_special: bool = False) -> str:
        """Return the text of `ids`; special tokens are left out unless `keep_special`."""
        numbers = np.asarray(ids, dtype=np.int64).tolist()
        if not all(0 <= number < self.size for number in numbers):
            raise UsageError(f"token ids must lie in 0 … {self.size - 1}; got {min(numbers)} … {max(numbers)}")
        return self._backend.decode(numbers, skip_special_tokens=not keep_special)

    def token(self, number: int) -> str | None:
        """Return how the vocabulary writes a token, such as "##ing"; None where it has a gap."""
        return self._backend.id_to_token(number)

    def extended(self, words: Iterable[str]) -> tuple[Tokenizer, dict[int, Ids]]:
        """Return a tokenizer that reads each of these words as one token, and the previous tokens of each word by its new id.

        Words that are one token already stay as they are. A word matches only between non-letters, except in scripts without
        spaces, where it matches everywhere.
        """
        unique_words = list(dict.fromkeys(words))
        old_tokens = {
            word: ids
            for word, ids in zip(unique_words, self.encode_ids(unique_words), strict=True)
            if len(ids) > 1 or self.unknown_id in ids.tolist()
        }
        backend = tokenizers.Tokenizer.from_str(self._backend.to_str())
        backend.add_tokens(
            [tokenizers.AddedToken(w, single_word=not unspaced(w).any(), normalized=True) for w in old_tokens]
        )
        token_ids = backend.get_vocab(with_added_tokens=True)
        return Tokenizer(backend, self._config), {token_ids[word]: ids for word, ids in old_tokens.items()}

    @property
    def mask_id(self) -> int:
        """Return the id that stands for hidden text. Raises CheckpointError where the tokenizer has none."""
        number = self._id_of("mask_token")
        if number is None:
            raise CheckpointError(
                "this tokenizer has no mask token, so '~text' cannot hide anything: "
                f"name one as mask_token in {tokenizer_files.SPECIAL_FILE}, or start from a model that was pretrained with masks"
            )
        return number

    @property
    def pad_id(self) -> int:
        """Return the id that fills the end of a row, which nothing reads; 0 where the tokenizer names none."""
        return self._id_of("pad_token") or 0

    @property
    def unknown_id(self) -> int | None:
        """Return the id of text that the vocabulary cannot write; None where it can write everything."""
        return self._id_of("unk_token")

    @property
    def max_length(self) -> int | None:
        """Return the longest sequence of the published model, in tokens with special ones; None where its files do not say."""
        limit = self._config.get("model_max_length")
        return int(limit) if isinstance(limit, int | float) and 0 < limit < tokenizer_files.NO_LIMIT else None

    def save(self, folder: str | Path, max_length: int | None = None) -> None:
        """Write files into `folder` that transformers.AutoTokenizer opens with the same ids and frame.

        max_length: what the model takes, in tokens with their frame; None keeps what the opened folder said.
        Raises RunError when `folder` cannot be written.
        """
        config = self._saved_config(max_length)
        special = {
            role: tokenizer_files.describe_token(config[role])
            for role in (*self._roles, *tokenizer_files.MORE_SPECIAL)
            if config.get(role)
        }
        files = {
            tokenizer_files.TOKENIZER_FILE: self._backend.to_str(),
            tokenizer_files.CONFIG_FILE: tokenizer_files.format_json(config),
            tokenizer_files.SPECIAL_FILE: tokenizer_files.format_json(special),
        }
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
        config = {key: value for key, value in self._config.items() if key not in tokenizer_files.NEVER_SAVED}
        for role, name in self._roles.items():
            config[role] = tokenizer_files.describe_token(config.get(role) or name, typed=True)
        if max_length is not None:
            config["model_max_length"] = max_length
        if "tokenizer_class" not in config:
            config["tokenizer_class"] = tokenizer_files.GENERIC_CLASS
            types = ["token_type_ids"] if self._frame.second_type else []
            config.setdefault("model_input_names", ["input_ids", *types, "attention_mask"])
        if config["tokenizer_class"] not in tokenizer_files.GENERIC_CLASSES and tokenizer_files.is_bert(
            self._backend.normalizer
        ):
            # transformers builds the normalizer of these classes from the config and lower-cases unless told.
            for setting, attribute in tokenizer_files.BERT_SETTINGS.items():
                config[setting] = getattr(self._backend.normalizer, attribute)
        return config


def _frame_by_roles(backend: tokenizers.Tokenizer, roles: Mapping[str, str], config: Mapping[str, Any]) -> None:
    """Frame texts by the cls and sep tokens of a tokenizer that came without a post-processor; not without these tokens."""
    opening, closing = roles.get("cls_token"), roles.get("sep_token")
    if opening is None or closing is None:
        return
    bert = str(config.get("tokenizer_class", "")).startswith(("Bert", "DistilBert")) or opening == "[CLS]"
    backend.post_processor = template(backend, opening, closing, doubled=not bert, second_type=int(bert))


def _read_frame(backend: tokenizers.Tokenizer) -> _Frame:
    """Return the frame that the post-processor puts around one text and between two, read off a framed text.

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
    """Encode some text that gives tokens without a special one; None when there is none."""
    vocabulary_tokens = (backend.id_to_token(number) for number in range(1000))
    for text in chain(("a", "一"), (token for token in vocabulary_tokens if token)):
        encoding = backend.encode(text, add_special_tokens=False)
        if len(encoding) and not any(encoding.special_tokens_mask):
            return encoding
    return None


def _checked(texts: Iterable[str]) -> list[str]:
    if isinstance(texts, str):
        raise UsageError("a list of texts is needed, not one text")
    return list(texts)
