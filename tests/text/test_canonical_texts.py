"""Laws of Unicode: canonically equal texts are one text, a letter is not parted from its marks, and nothing visible is blank."""

from __future__ import annotations

import sys
import unicodedata
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

import mapsto
from mapsto import kinds
from mapsto.data.encoding import describe_dropped
from mapsto.data.rows import bind_to, load_rows
from mapsto.data.table import read_table
from mapsto.demo.data import minilm
from mapsto.errors import BadCell
from mapsto.kinds.text import TextSource
from mapsto.task.arrow import parse
from mapsto.text.characters import JOINING, _cluster_splitter, canonical, canonical_places, grapheme_starts, widen
from mapsto.text.ngram_source import NgramSource
from mapsto.text.tokenizer import Tokenizer

TEXTS = [
    "cafe\u0301 cre\u0300me bru\u0302le\u0301e",
    "น้ำ ที่นี่ สวย",
    "हिन्दी में क\u093c",
    "\u1112\u1161\u11ab 한국어 각",
    "Tiê\u0301ng Viê\u0323t",
    "だ か\u3099 ハ\u309a",
    "👨\u200d👩\u200d👧 🇩🇪🇫🇷 👍🏽 ❤\ufe0f 1\ufe0f\u20e3",
    "line\r\nline, 好的。",
    "A\u030angstro\u0308m \u212b",
]
anything = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=30)


def make_tokenizers() -> dict[str, Tokenizer]:
    return {
        "published": Tokenizer.open(minilm()),
        "wordpiece": Tokenizer.train(TEXTS * 3, 400),
        "bytes": Tokenizer.train(TEXTS * 3, 500, "bytes"),
    }


TOKENIZERS = make_tokenizers()


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("text", TEXTS)
def test_canonically_equal_texts_have_the_same_tokens(name: str, text: str) -> None:
    tokenizer = TOKENIZERS[name]
    forms = [unicodedata.normalize(form, text) for form in ("NFC", "NFD")] + [text]
    batches = [tokenizer.encode_ids([form, "plain"]) for form in forms]
    batches += [[encoded.ids for encoded in tokenizer.encode_batch([form, "plain"])] for form in forms]
    batches += [tokenizer.encode_literally([form, "plain"]) for form in forms]
    for batch in batches:
        assert [ids.tolist() for ids in batch] == [ids.tolist() for ids in batches[0]]


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_no_region_ends_within_a_letter(name: str, form: str) -> None:
    for text in (unicodedata.normalize(form, text) for text in TEXTS):  # type: ignore[arg-type]
        edges = {*grapheme_starts(text).tolist(), len(text)}
        (encoded,) = TOKENIZERS[name].encode_batch([text])
        assert {int(edge) for region in encoded.regions for edge in region} <= edges
        first_tokens = np.flatnonzero(np.diff(encoded.words, prepend=-1))
        assert set(encoded.offsets[first_tokens, 0].tolist()) <= edges, "a word begins within a letter"


@given(anything)
def test_places_of_the_composition_cover_the_text(text: str) -> None:
    places, composed = canonical_places(text), canonical(text)
    assert len(places) == len(composed)
    assert canonical("".join(text[a:b] for a, b in dict.fromkeys(map(tuple, places.tolist())))) == composed


@given(anything, st.data())
def test_places_are_widened_to_clusters(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    starts = grapheme_starts(text)
    ((first, last),) = widen(np.array([[start, end]]), starts, len(text))
    assert first <= start and end <= last
    if start < end:
        edges = {*starts.tolist(), len(text)}
        assert {int(first), int(last)} <= edges
        assert not [edge for edge in edges if first < edge <= start or end <= edge < last]


def test_characters_out_of_clusters_are_known() -> None:
    splitter = _cluster_splitter()
    alone = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
    alone = [character for character in alone if JOINING.match(character) is None]
    for text in ("".join(alone), "a".join(alone)):
        assert len(splitter.pre_tokenize_str(text)) == len(text)


def test_linear_models_read_canonically_equal_texts_alike() -> None:
    source = NgramSource.new(TEXTS)
    for text in TEXTS:
        one, other = (source.encode([unicodedata.normalize(form, text)], 0)[0] for form in ("NFC", "NFD"))  # type: ignore[arg-type]
        assert one.tokens.tolist() == other.tokens.tolist()
        for form in ("NFC", "NFD"):
            value = unicodedata.normalize(form, text)  # type: ignore[arg-type]
            edges = {*grapheme_starts(value).tolist(), len(value)}
            (piece,) = source.encode([value], 0, aligned=True)
            assert piece.alignment is not None
            assert set(piece.alignment.regions.flatten().tolist()) <= edges


@pytest.mark.parametrize("method", ["linear", "probe"])
def test_answers_and_explanations(method: str) -> None:
    rows = [
        {"text": f"{text} {i}", "label": label} for i in range(8) for text, label in (("café", "né"), ("thé", "ok"))
    ]
    rows = [{name: unicodedata.normalize("NFD" if i % 2 else "NFC", cell) for name, cell in row.items()}
            for i, row in enumerate(rows)]  # fmt: skip
    model = mapsto.fit("text -> label", rows, start=None if method == "linear" else minilm(), method=method)
    assert sorted(model.mapping.targets[0].classes) == ["né", "ok"]
    one, other = (model.predict([unicodedata.normalize(form, "le café")])[0] for form in ("NFC", "NFD"))  # type: ignore[arg-type]
    assert one["scores"] == other["scores"]
    for text in TEXTS:
        edges = {*grapheme_starts(text).tolist(), len(text)}
        (explanation,) = model.explain(text)
        assert {int(edge) for part in explanation.parts for edge in part.region[0]} <= edges


INVISIBLE = [
    "",
    " \n",
    "\u200b",
    "\u2060\ufeff",
    "\u00ad",
    "\u3164 \u115f",
    "\u2800",
    "\ufe0f",
    "\u200e\u202c",
    "\t\u3000",
]


@pytest.mark.parametrize("kind", ["text", "label"])
@pytest.mark.parametrize("cell", INVISIBLE)
def test_what_cannot_be_seen_is_blank(kind: str, cell: Any) -> None:
    read = kinds.source("text").read if kind == "text" else kinds.target("label").read
    with pytest.raises(BadCell, match="blank"):
        read(cell)
    for visible in ("!", "好", "😀", "e\u0301", "\u0301", "\ufe0fa"):
        assert read(visible)


def dropping(texts: list[str], normalizer: tokenizers.normalizers.Normalizer | None = None) -> TextSource:
    """Return a source whose tokenizer has no unknown token: what its characters do not have is dropped."""
    characters = sorted({character for text in texts for character in text})
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={c: i for i, c in enumerate(characters)}, merges=[]))
    if normalizer is not None:
        backend.normalizer = normalizer
    return TextSource(Tokenizer(backend, {}))


def test_dropped_characters_are_counted() -> None:
    source = dropping(["abc de"])
    assert source.count_dropped(["abc abc", "ab好好", "a"]) == (2, 11)
    marks = tokenizers.normalizers.Sequence([tokenizers.normalizers.NFD(), tokenizers.normalizers.StripAccents()])
    source = dropping(["cafe हनद"], marks)
    # The vowel signs of Devanagari that take no room of their own, and the sign that takes the vowel away.
    assert source.count_dropped(["हिन्दी"])[0] > 0
    assert source.count_dropped(["café", "cafe\u0301"])[0] <= 1
    for tokenizer in TOKENIZERS.values():
        assert TextSource(tokenizer).count_dropped(["plain words, 今天", "café"])[0] == 0


def test_what_a_tokenizer_drops_is_said() -> None:
    table = read_table([{"text": f"{word} {i} 好的好的", "label": word} for i in range(4) for word in ("good", "bad")])
    rows = load_rows(bind_to(parse("text -> label"), table), table)
    assert "drops 4" in str(describe_dropped(rows, {"text": dropping(["good bad 0123"])}))
    assert describe_dropped(rows, {"text": dropping(["good bad 0123 好的"])}) is None


@pytest.mark.parametrize("style", ["wordpiece", "bytes"])
def test_a_vocabulary_is_made_of_composed_texts(style: Any) -> None:
    composed = [unicodedata.normalize("NFC", text) for text in TEXTS * 3]
    tokenizer = Tokenizer.train([unicodedata.normalize("NFD", text) for text in composed], 500, style)
    assert tokenizer == Tokenizer.train(composed, 500, style)
