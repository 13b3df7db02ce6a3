"""Train the vocabulary of a tokenizer: WordPiece with each Chinese character as a word, single letters, or byte-level BPE.

Wraps `tokenizers`.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, Literal

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from mapsto.errors import DataError, UsageError, near
from mapsto.text.characters import canonical

Style = Literal["wordpiece", "letters", "bytes"]
STYLES: tuple[Style, ...] = ("wordpiece", "letters", "bytes")
OWN_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# The smallest and the largest default size of a vocabulary, in tokens.
SMALLEST_SIZE, LARGEST_SIZE = 4096, 16384
SIZE_STEP = 64  # default sizes are multiples of this
LARGEST_ALPHABET = 0.75  # share of the vocabulary that single characters may take
LEAST_SEEN = 2  # number of occurrences from which a character or subword gets a token
AT_ONCE = 2**20  # characters given to the library at once; it needs 170 bytes of memory for each


BETWEEN_WORDS = re.compile(r"(?<=\w) (?=\w)")


# Merging the subwords of a word takes quadratic time: five minutes for a megabyte without a space.
ENDLESS = re.compile(r"(\S{1000})(?=\S)")


def train(texts: Sequence[str], size: int | None, style: Style, share: float = 1.0) -> tokenizers.Tokenizer:
    """Return a tokenizer trained on texts.

    size: largest number of tokens; None for the result of `vocabulary_size`. style: "wordpiece", "letters" for single letters, or
        "bytes" for byte-level BPE.
    share: the texts' share of the corpus, if they are a sample of it; used to estimate the size of the corpus.
    Raises UsageError for an unknown style or too small a size, DataError if all texts are empty.
    """
    if style not in STYLES:
        raise UsageError(f"no tokenizer style {style!r}{near(style, STYLES)}; there are: {', '.join(STYLES)}")
    # The special tokens, all bytes, and one token more.
    least = len(OWN_SPECIAL) + 256 + 1
    if size is not None and not least <= size:
        raise UsageError(f"a vocabulary of {size} tokens is too small; at least {least} are needed")
    if not any(text.strip() for text in texts):
        raise DataError("no text to learn a vocabulary from: all texts are empty")
    corpus = round(sum(len(text.encode("utf-8", "replace")) for text in texts) / share)
    # Composed, as texts are when they are encoded.
    texts = [part for text in texts for part in parts(ENDLESS.sub(r"\1 ", canonical(text)))]
    if style == "bytes":
        return _train_bytes(texts, size, corpus)
    return _train_letters(texts) if style == "letters" else _train_wordpiece(texts, size, corpus)


def parts(text: str) -> Iterator[str]:
    """Split a text before spaces into parts of little more than AT_ONCE characters, and yield them in order.

    A part is longer if no space follows.
    """
    start = 0
    while match := BETWEEN_WORDS.search(text, start + AT_ONCE):
        yield text[start : match.start()]
        start = match.start()
    yield text[start:]


def vocabulary_size(corpus_bytes: int, characters: int = 0) -> int:
    """Return the default number of tokens for a corpus: 2 √bytes, but at least 4,096 and at most 16,384.

    The number of distinct words grows about as the square root of the length of a text (Heaps' law): 4 MB give 4,096 tokens,
    16 MB 8,000, 67 MB 16,384.

    corpus_bytes: length of the corpus in UTF-8.
    characters: number of tokens for single characters. The result is raised so that they are at most three quarters of it.
    """
    num_tokens = max(2 * math.sqrt(corpus_bytes), characters / LARGEST_ALPHABET, SMALLEST_SIZE)
    return min(math.ceil(num_tokens / SIZE_STEP) * SIZE_STEP, LARGEST_SIZE)


def _train_wordpiece(texts: Sequence[str], size: int | None, corpus: int) -> tokenizers.Tokenizer:
    """Return a WordPiece tokenizer trained on texts.

    size: largest number of tokens; None for the result of `vocabulary_size`. corpus: length of the whole corpus in bytes.
    """
    backend = _untrained()
    initial, inner = _alphabet(backend, texts, int(LARGEST_ALPHABET * (size or LARGEST_SIZE)))
    size = size or vocabulary_size(corpus, len(initial) + len(inner))
    # The trainer numbers the subwords "##c" in the order of a hash map and breaks ties by number, so each run would learn
    # another vocabulary. As special tokens they get fixed numbers. Below they become plain tokens again.
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        min_frequency=LEAST_SEEN,
        special_tokens=[*OWN_SPECIAL, *initial, *(f"##{character}" for character in inner)],
        initial_alphabet=initial,
        limit_alphabet=len(initial),
        show_progress=False,
    )
    with reading(texts):
        backend.train_from_iterator(texts, trainer, length=len(texts))
    return _finish(models.WordPiece(vocab=backend.get_vocab(with_added_tokens=False), unk_token="[UNK]"))


def _train_letters(texts: Sequence[str]) -> tokenizers.Tokenizer:
    """Return a tokenizer with a token for each letter of texts, and another one for it inside of words, as "##a"."""
    initial, inner = _alphabet(_untrained(), texts, LARGEST_SIZE)
    tokens = [*OWN_SPECIAL, *initial, *(f"##{character}" for character in inner)]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    # Not WordPiece, to which a whole word is unknown that has one unknown letter.
    return _finish(models.BPE(vocab=vocabulary, merges=[], unk_token="[UNK]", continuing_subword_prefix="##"))


def _untrained() -> tokenizers.Tokenizer:
    """Return the tokenizer of `_train_wordpiece` before training."""
    return bert_pipeline(models.WordPiece(vocab={}, unk_token="[UNK]"), {"strip_accents": False})


def _finish(model: models.Model) -> tokenizers.Tokenizer:
    """Return a tokenizer with a trained model, and with the special tokens of BERT."""
    finished = bert_pipeline(model, {"strip_accents": False})
    finished.add_special_tokens(list(OWN_SPECIAL))
    finished.post_processor = template(finished, "[CLS]", "[SEP]")
    return finished


def _train_bytes(texts: Sequence[str], size: int | None, corpus: int) -> tokenizers.Tokenizer:
    """Return a byte-level BPE tokenizer trained on texts.

    size: largest number of tokens; None for the result of `vocabulary_size`. corpus: length of the whole corpus in bytes.
    """
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size or vocabulary_size(corpus),
        min_frequency=LEAST_SEEN,
        special_tokens=list(OWN_SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    with reading(texts):
        backend.train_from_iterator(texts, trainer, length=len(texts))
    trim = processors.ByteLevel(trim_offsets=True, add_prefix_space=False)
    backend.post_processor = processors.Sequence([trim, template(backend, "[CLS]", "[SEP]")])
    return backend


def _alphabet(backend: tokenizers.Tokenizer, texts: Sequence[str], max_tokens: int) -> tuple[list[str], list[str]]:
    """Return two sorted lists: characters that get a token, and those of them that also get one for use inside words, as "##a".

    The most frequent characters are chosen, so that both lists together have at most `max_tokens` entries. Characters seen
    only once are left out, unless there are no others.
    """
    words: Counter[str] = Counter()
    waiting: list[str] = []
    size = 0
    with reading(texts):
        # Normalise in blocks of bounded size, since the library needs much memory for each character.
        for number, text in enumerate(texts, 1):
            waiting.append(text)
            size += len(text)
            if size >= AT_ONCE or number == len(texts):
                words.update(backend.normalizer.normalize_str("\n".join(waiting)).split())
                waiting, size = [], 0
    counts, inner = _count_characters(backend, words)
    frequent = {character for character, count in counts.items() if count >= LEAST_SEEN} or set(counts)
    initial: list[str] = []
    room = max_tokens
    for character in sorted(frequent, key=lambda character: (-counts[character], character)):
        # A character inside words takes two tokens: "a" and "##a".
        room -= 1 + (character in inner)
        if room < 0:
            break
        initial.append(character)
    return sorted(initial), sorted(inner.intersection(initial))


def _count_characters(backend: tokenizers.Tokenizer, words: Mapping[str, int]) -> tuple[Counter[str], set[str]]:
    """Return the number of occurrences of each character, and the set of characters that follow another one within a word.

    Characters that are a word by themselves, such as Chinese ones, are not in the set.
    words: {word: its number of occurrences}.
    """
    counts: Counter[str] = Counter()
    pairs: set[tuple[str, str]] = set()
    for word, count in words.items():
        for character in word:
            counts[character] += count
        pairs.update(pairwise(word))
    split = backend.pre_tokenizer.pre_tokenize_str
    # Other characters, such as Chinese ones, are words by themselves and so never follow another within a word.
    joins = {character for character in counts if len(split(f"a{character}a")) == 1}
    return counts, {second for first, second in pairs if first in joins and second in joins}


def bert_pipeline(model: models.Model, settings: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """Return a tokenizer that consists of `model` and the normalizer, pre-tokenizer and decoder of BERT.

    settings: content of tokenizer_config.json, which sets up the normalizer, such as by "do_lower_case".
    """
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
        strip_accents=settings.get("strip_accents"),
        lowercase=settings.get("do_lower_case", True),
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    return backend


def template(
    backend: tokenizers.Tokenizer, opening: str, closing: str, doubled: bool = False, second_type: int = 0
) -> processors.TemplateProcessing:
    """Return a post-processor that adds special tokens to one text, or to a pair of texts.

    opening, closing: names of the tokens before the first text and after each text.
    doubled: whether a second closing token stands between the texts of a pair, as in RoBERTa.
    second_type: the token type id (BERT's segment id) of the second text.
    """
    single = [f"{opening}:0", "$A:0", f"{closing}:0"]
    joining = [f"{closing}:0"] if doubled else []
    return processors.TemplateProcessing(
        single=single,
        pair=[*single, *joining, f"$B:{second_type}", f"{closing}:{second_type}"],
        special_tokens=[(name, backend.token_to_id(name)) for name in dict.fromkeys((opening, closing))],
    )


@contextmanager
def reading(texts: Sequence[str]) -> Iterator[None]:
    """Turn an error of the `tokenizers` library in the `with` block into a DataError on the first invalid text of `texts`."""
    try:
        yield
    except (TypeError, UnicodeError) as error:
        raise invalid_text_error(texts) from error


def invalid_text_error(texts: Sequence[object], offset: int = 0) -> Exception:
    """Return a DataError on the first of `texts` that is no string, or that cannot be encoded in UTF-8.

    The message gives its number.
    offset: the number of the first of `texts`. Returns AssertionError if all texts are valid.
    """
    for number, text in enumerate(texts, start=offset):
        if not isinstance(text, str):
            return DataError(f"text {number} (counted from 0) is a {type(text).__name__}, not a text")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            broken = f"U+{ord(text[error.start]):04X}"
            return DataError(f"text {number} (counted from 0) holds half a character, {broken} at {error.start}")
    return AssertionError("every text is one")
