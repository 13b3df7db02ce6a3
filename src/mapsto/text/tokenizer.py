"""The class Tokenizer, from texts to token ids and back: train, open, extend and save. It wraps the `tokenizers` library.

Legend of shapes: n tokens of one text.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
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
from mapsto.text.pairs.chat_template import ChatTemplate, find_template
from mapsto.text.spm.marian import MarianVocabulary, Pieces
from mapsto.text.vocabulary import OWN_SPECIAL, Style, invalid_text_error, template

CHUNK = 4096  # number of texts that are encoded at once
# A text to test whether a tokenizer encodes single words in the same way as a sentence of them.
PROBE = "the old river mill, 17 times past a WISE 今天 season, don't end ſo"


class _Frame(NamedTuple):
    """The ids of the special tokens that are added to the texts of an example.

    opening: before the first text. joining: before each further text. closing: after each text.
    second_type: the token type id (BERT's segment id) of a second text.
    """

    opening: tuple[int, ...]
    joining: tuple[int, ...]
    closing: tuple[int, ...]
    second_type: int


class Tokenizer:
    """A tokenizer that mapsto trained, or that was published with a model.

    `opening`, `joining` and `closing` are ids of special tokens. The first text of an example is opening + ids + closing, each
    further one joining + ids + closing (BERT: [CLS] a [SEP] b [SEP]; RoBERTa: <s> a </s></s> b </s>).
    Canonically equal texts (Unicode), as with "é" in one character or two, have the same tokens: those of their composition.
    Where a text contains the name of a special token, such as "[MASK]", this is read as that token, as in transformers.
    """

    def __init__(
        self, backend: tokenizers.Tokenizer, config: Mapping[str, Any], marian: MarianVocabulary | None = None
    ) -> None:
        self._backend, self._marian = backend, marian
        self._config = dict(config)
        # Packing needs all tokens, and no padding.
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
        """Return the tokenizer in a model folder, or in one file.

        path: the folder, or a tokenizer.json, a vocab.txt, or a model of sentencepiece (.model, .spm).
        Raises CheckpointError if no such file exists or one is damaged.
        """
        backend, config, marian = tokenizer_files.open_backend(Path(path))
        with tokenizer_files.refusing(path):
            return cls(backend, config, marian)

    @classmethod
    def train(
        cls, texts: Iterable[str], size: int | None = None, style: Style = "wordpiece", share: float = 1.0
    ) -> Tokenizer:
        """Return a tokenizer trained on texts. The same texts always give exactly the same tokenizer.

        style: "wordpiece" lower-cases, makes each Chinese character a word, and has no token for characters seen only once.
            "letters" is the same with a token for each letter, and none for several.
            "bytes" is byte-level BPE, which loses nothing: decode(ids) == text.
        size: largest number of tokens (a small corpus gives fewer); None for the result of `vocabulary.vocabulary_size`.
        share: the texts' share of the corpus, if they are a sample of it; used to estimate the size of the corpus.
        Raises UsageError for an unknown style or too small a size, DataError if all texts are empty.
        """
        backend = vocabulary.train(list(texts), size, style, share)
        roles = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), OWN_SPECIAL, strict=True))
        return cls(backend, {**roles, "clean_up_tokenization_spaces": False})

    @cached_property
    def fingerprint(self) -> str:
        """Return the SHA-256, in hex, of all settings of the tokenizer.

        Tokenizers with equal hashes give equal ids for a text.
        """
        decisive = {"roles": self._roles, "tokenizer": json.loads(self._backend.to_str())}
        if self._marian is not None:
            decisive |= {name: hashlib.sha256(content).hexdigest() for name, content in self._marian.files.items()}
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()

    @property
    def folds_case(self) -> bool:
        """Return whether capitals are read as small letters."""
        normalizer = self._backend.normalizer
        return normalizer is not None and str(normalizer.normalize_str("A")).strip() == "a"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __len__(self) -> int:
        return self.size

    def __repr__(self) -> str:
        return f"Tokenizer({type(self._backend.model).__name__}, {self.size} tokens)"

    def encode_batch(self, texts: Sequence[str]) -> list[Encoded]:
        """Return the tokens of each text, with their offsets and words, but without special tokens.

        Raises UsageError for a single string in place of a list, DataError for an item that is no valid text.
        """
        texts = _checked(texts)
        try:
            encodings = self._encode(texts)
        except TypeError as error:
            raise invalid_text_error(texts) from error
        return [Encoded(text, encoding) for text, encoding in zip(texts, encodings, strict=True)]

    def encode_ids(self, texts: Iterable[str]) -> list[Ids]:
        """Return the token ids of each text, without special tokens. It is faster and needs less memory than `encode_batch`.

        Raises the same errors as `encode_batch`.
        """
        return [np.array(ids, dtype=np.int32) for ids in self._fast(texts)]

    def encode_flat(self, texts: Iterable[str]) -> tuple[Ids, NDArray[np.int64]]:
        """Return the token ids of all texts in one array, without special tokens, and the number of ids of each text.

        Raises the same errors as `encode_batch`.
        """
        lists = list(self._fast(texts))
        lengths = np.fromiter(map(len, lists), np.int64, len(lists))
        return np.fromiter(chain.from_iterable(lists), np.int32, int(lengths.sum())), lengths

    def _fast(self, texts: Iterable[str]) -> Iterator[Sequence[int] | Ids]:
        """Yield the token ids of each text, without special tokens, and without computing offsets to save time.

        A long text is encoded in parts, since the library needs much memory for long texts; not if this could change the ids.
        """
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
        """Return the token ids of each text, without special tokens; all texts are passed to the library whole and at once."""
        if self._marian is not None:
            return [pieces.ids for pieces in self._marian.source.encode_batch(texts)]
        encodings = self._backend_of(texts).encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def _backend_of(self, texts: Sequence[str]) -> tokenizers.Tokenizer:
        """Return the library's tokenizer for these texts, which gives canonically equal ones the same tokens."""
        # The check takes a thousandth of the time of encoding, and composition much more.
        is_composed = all(unicodedata.is_normalized("NFC", text) for text in texts)
        return self._backend if is_composed else self._composing

    @cached_property
    def _composing(self) -> tokenizers.Tokenizer:
        """A copy of the library's tokenizer that composes texts (NFC) first; its offsets are those of the texts as they are."""
        backend = tokenizers.Tokenizer.from_str(self.to_json())
        steps = [tokenizers.normalizers.NFC(), backend.normalizer]
        backend.normalizer = tokenizers.normalizers.Sequence([step for step in steps if step is not None])
        return backend

    def _encode(self, texts: list[str], literally: bool = False) -> Sequence[tokenizers.Encoding | Pieces]:
        """Return the encodings of texts, with offsets and words. literally: whether names of special tokens are other text."""
        if self._marian is not None:
            return self._marian.source.encode_batch(texts, literally)
        backend = self._literal_copy if literally else self._backend_of(texts)
        return backend.encode_batch(texts, add_special_tokens=False)

    @cached_property
    def _is_splittable(self) -> bool:
        """Return whether splitting a text before its spaces leaves the token ids unchanged.

        It is tested with one sample text; False if an added token contains a space.
        """
        # A cut could split an added token that contains a space.
        if any(" " in token.content.strip() for token in self._backend.get_added_tokens_decoder().values()):
            return False
        ids, *part_ids = self._ids([PROBE, *re.split(r"(?= )", PROBE)])
        return ids == list(chain.from_iterable(part_ids))

    def decode(self, ids: Sequence[int] | NDArray[np.integer[Any]], keep_special: bool = False) -> str:
        """Return the text that token ids stand for. Raises UsageError for ids outside the vocabulary.

        keep_special: whether special tokens appear in the text by their names, such as "[SEP]"; else they are left out.
        """
        numbers = np.asarray(ids, dtype=np.int64).tolist()
        if not all(0 <= number < self.size for number in numbers):
            raise UsageError(f"token ids must lie in 0 … {self.size - 1}; got {min(numbers)} … {max(numbers)}")
        return self._backend.decode(numbers, skip_special_tokens=not keep_special)

    def id_of(self, token: str) -> int | None:
        """Return the id of the token with this spelling in the vocabulary; None if there is none."""
        return self._backend.token_to_id(token)

    def token(self, number: int) -> str | None:
        """Return the spelling of the token with this id in the vocabulary, such as "##ing"; None if no token has this id."""
        return self._backend.id_to_token(number)

    def extended(self, words: Iterable[str]) -> tuple[Tokenizer, dict[int, Ids]]:
        """Return a tokenizer that reads each of `words` as one token, and {id of each new token: ids of the tokens it replaces}.

        The replaced tokens are those into which the word was split. A word that already is a single token gets no new id.
        A new word is recognised only between characters that are not letters; in scripts without spaces, anywhere.
        Raises UsageError for the vocabulary of a Marian folder.
        """
        if self._marian is not None:
            raise UsageError("words cannot be added to the vocabulary of Marian, which two sentencepiece models share")
        unique_words = list(dict.fromkeys(words))
        old_tokens = {
            word: ids
            for word, ids in zip(unique_words, self.encode_ids(unique_words), strict=True)
            if len(ids) > 1 or self.unknown_id in ids.tolist()
        }
        # A copy, as the library adds tokens in place.
        backend = tokenizers.Tokenizer.from_str(self._backend.to_str())
        is_normalized = not tokenizer_files.marks_beginnings(backend)
        backend.add_tokens(
            [
                tokenizers.AddedToken(word, single_word=not unspaced(word).any(), normalized=is_normalized)
                for word in old_tokens
            ]
        )
        token_ids = backend.get_vocab(with_added_tokens=True)
        return Tokenizer(backend, self._config), {token_ids[word]: ids for word, ids in old_tokens.items()}

    @property
    def mask_id(self) -> int:
        """Return the id of the mask token, which takes the place of hidden tokens.

        Raises CheckpointError if the tokenizer has none.
        """
        number = self._id_of("mask_token")
        if number is None:
            raise CheckpointError(
                "this tokenizer has no mask token, so nothing in a text can be hidden: "
                f"name one as mask_token in {tokenizer_files.SPECIAL_FILE}, or start from a model that was pretrained with masks"
            )
        return number

    @property
    def pad_id(self) -> int:
        """Return the id of the padding token, which fills the unused end of a row and is ignored.

        A tokenizer without one has the token that ends a text in its place, or else 0.
        """
        numbers = (self._id_of(role) for role in ("pad_token", "eos_token"))
        return next((number for number in numbers if number is not None), 0)

    @property
    def blank_id(self) -> int:
        """Return the id of the token that says least: the mask token, or else the unknown token, or else the padding token."""
        numbers = (self._id_of("mask_token"), self.unknown_id, self.pad_id)
        return next(number for number in numbers if number is not None)

    @property
    def frame_ids(self) -> dict[str, int]:
        """Return the ids of the tokens that begin and end a text, by their names in config.json."""
        ids: dict[str, int] = {}
        end = (self.end_id,) if self.closing else ()
        for role, alternative, frame in (("bos", "cls", self.opening[:1]), ("eos", "sep", end)):
            ids |= {f"{name}_token_id": int(token) for name in (role, alternative) for token in frame}
            # Decoder-only models often have such tokens without adding them to every text.
            number = self._id_of(f"{role}_token")
            if not frame and number is not None:
                ids[f"{role}_token_id"] = number
        return ids

    @property
    def unknown_id(self) -> int | None:
        """Return the id of the unknown token, which stands for text outside the vocabulary; None if there is no such token."""
        return self._id_of("unk_token")

    @property
    def end_id(self) -> int:
        """Return the id of the token that ends a text: the end-of-text token if it, or nothing, stands behind every text.

        Else it is the last token behind every text. (mBART has the language behind the end-of-text token.)
        Raises CheckpointError if the tokenizer has neither.
        """
        number = self._id_of("eos_token")
        if self.closing and number not in self.closing:
            return self.closing[-1]
        if number is None:
            raise CheckpointError(
                f"this tokenizer has no token that ends a text: name one as eos_token in {tokenizer_files.SPECIAL_FILE}"
            )
        return number

    @property
    def special_ids(self) -> tuple[int, ...]:
        """Return the ids of all special tokens, sorted."""
        numbers = (self._id_of(role) for role in self._roles)
        return tuple(sorted({number for number in numbers if number is not None}))

    @property
    def max_length(self) -> int | None:
        """Return the largest number of tokens that the published model reads, with special tokens, from tokenizer_config.json.

        None if the file does not give it.
        """
        limit = self._config.get("model_max_length")
        return int(limit) if isinstance(limit, int | float) and 0 < limit < tokenizer_files.NO_LIMIT else None

    @cached_property
    def chat_template(self) -> ChatTemplate | None:
        """The template by which the published model reads dialogues; None if it has none."""
        source = find_template(self._config.get(tokenizer_files.TEMPLATE_KEY))
        if source is None:
            return None
        added = self._backend.get_added_tokens_decoder().values()
        return ChatTemplate(source, self._roles, [token.content for token in added if token.special])

    def encode_sections(self, sections: Sequence[tuple[str, bool]]) -> list[Encoded]:
        """Return the tokens of each section of a text.

        sections: (text, whether the names of special tokens in it are read as these tokens; else they are encoded as other text).
        """
        return [Encoded(text, self._encode([text], not has_markers)[0]) for text, has_markers in sections]

    def encode_literally(self, texts: Sequence[str]) -> list[Ids]:
        """Return the token ids of each text as an answer, in which the name of a special token is text like any other."""
        if self._marian is not None:
            answers = self._marian.target.encode_batch(_checked(texts), literally=True)
            return [np.array(pieces.ids, dtype=np.int32) for pieces in answers]
        encodings = self._literal_copy.encode_batch_fast(_checked(texts), add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]

    @cached_property
    def _literal_copy(self) -> tokenizers.Tokenizer:
        """A copy of the library's tokenizer that composes texts, and to which the names of special tokens are text."""
        parts = json.loads(self._composing.to_str())
        tokenizer_files.hide_special(parts)
        backend = tokenizers.Tokenizer.from_str(json.dumps(parts))
        # Set before any thread encodes: the library refuses changes meanwhile.
        backend.encode_special_tokens = True
        return backend

    def __getstate__(self) -> dict[str, Any]:
        # The library loses `encode_special_tokens` when it copies a tokenizer, so a copy makes this one anew.
        return {name: value for name, value in self.__dict__.items() if name != "_literal_copy"}

    def to_json(self) -> str:
        """Return the content of a tokenizer.json, which other libraries read."""
        return self._backend.to_str()

    def save(self, folder: str | Path, max_length: int | None = None) -> None:
        """Write the files from which transformers.AutoTokenizer opens a tokenizer with the same ids and special tokens.

        max_length: largest number of tokens that the model reads, with special tokens; None for the value in the opened files.
        Raises RunError if `folder` cannot be written.
        """
        config = self._saved_config(max_length)
        special = {
            role: tokenizer_files.describe_token(config[role])
            for role in (*self._roles, *tokenizer_files.MORE_SPECIAL)
            if config.get(role)
        }
        files = {
            tokenizer_files.CONFIG_FILE: tokenizer_files.format_json(config).encode(),
            tokenizer_files.SPECIAL_FILE: tokenizer_files.format_json(special).encode(),
            # No tokenizer.json says what the files of Marian say.
            **(
                {tokenizer_files.TOKENIZER_FILE: self.to_json().encode()}
                if self._marian is None
                else self._marian.files
            ),
        }
        target = Path(folder)
        try:
            target.mkdir(parents=True, exist_ok=True)
            for name, content in files.items():
                (target / name).write_bytes(content)
        except OSError as error:
            raise RunError(f"{target}: the tokenizer cannot be saved here ({error.strerror or error})") from error

    def _id_of(self, role: str) -> int | None:
        """Return the id of the special token for a role, such as "mask_token"; None if there is no token for this role."""
        name = self._roles.get(role)
        return None if name is None else self._backend.token_to_id(name)

    def _saved_config(self, max_length: int | None) -> dict[str, Any]:
        """Return the settings to be saved in tokenizer_config.json.

        max_length: largest number of tokens that the model reads; None for the value in the opened files.
        """
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
            # transformers builds the normalizer of these classes from the config, and lower-cases unless it says otherwise.
            for setting, attribute in tokenizer_files.BERT_SETTINGS.items():
                config[setting] = getattr(self._backend.normalizer, attribute)
        return config


def _frame_by_roles(backend: tokenizers.Tokenizer, roles: Mapping[str, str], config: Mapping[str, Any]) -> None:
    """Set the post-processor of `backend` to one that adds the cls and sep tokens around texts.

    Nothing is done if one of these tokens is missing.
    roles: {role: name of the special token}, such as {"cls_token": "[CLS]"}. config: content of tokenizer_config.json.
    """
    opening, closing = roles.get("cls_token"), roles.get("sep_token")
    if opening is None or closing is None:
        return
    bert = str(config.get("tokenizer_class", "")).startswith(("Bert", "DistilBert")) or opening == "[CLS]"
    backend.post_processor = template(backend, opening, closing, doubled=not bert, second_type=int(bert))


def _read_frame(backend: tokenizers.Tokenizer) -> _Frame:
    """Return the special tokens that the post-processor adds to one text and to a pair, found by encoding a sample text.

    If a pair a, b does not become opening + a + closing + joining + b + closing, no rule for further texts can be derived, and
    joining is empty.
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
    """Return the encoding of a sample text that gives tokens, none of them special; None if no such text is found."""
    vocabulary_tokens = (backend.id_to_token(number) for number in range(1000))
    for text in chain(("a", "一"), (token for token in vocabulary_tokens if token)):
        encoding = backend.encode(text, add_special_tokens=False)
        if len(encoding) and not any(encoding.special_tokens_mask):
            return encoding
    return None


def _checked(texts: Iterable[str]) -> list[str]:
    """Return the texts as a list. Raises UsageError for a single string, which would be taken as a list of its characters."""
    if isinstance(texts, str):
        raise UsageError("a list of texts is needed, not one text")
    return list(texts)
