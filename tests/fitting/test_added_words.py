"""Words added to the vocabulary of a starting model are one token, whose embedding is the mean of its former tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from models import TEXTS, make_model
from runs import run
from transformers import AutoModelForMaskedLM, AutoTokenizer

import mapsto
from mapsto.errors import UsageError
from mapsto.fitting.starting_model import add_words, open_start
from mapsto.kinds.text import TextSource

WORDS = ["foolhardiness", "态度", "Wisdom-Mill", "the", "foolhardiness"]
SAYING = "Foolhardiness! unfoolhardiness, 服务态度很差; a wisdom-mill"


def published(family: str, folder: Path) -> Path:
    make_model(family, "text", folder)
    return folder


def source_of(start: object) -> TextSource:
    found = start.sources["text"]  # type: ignore[attr-defined]
    assert isinstance(found, TextSource)
    return found


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_new_word_begins_as_the_mean_of_its_parts(family: str, tmp_path: Path) -> None:
    before = open_start(published(family, tmp_path / family), None)
    after = add_words(before, WORDS)
    old, new = source_of(before).tokenizer, source_of(after).tokenizer
    assert before.tensors is not None and after.tensors is not None
    tables = [start.tensors["embedders.text.weight"] for start in (before, after)]
    for word in ("foolhardiness", "态度"):
        (number,) = new.encode_ids([word])[0].tolist()
        parts = old.encode_ids([word])[0].tolist()
        torch.testing.assert_close(tables[1][number], tables[0][parts].mean(0))
        assert number in new.encode_ids([f"so {word} is"])[0]
    assert torch.equal(tables[1][: len(tables[0])][: len(old)], tables[0][: len(old)])
    assert new.encode_ids(TEXTS[:1])[0].tolist() == old.encode_ids(TEXTS[:1])[0].tolist(), (
        "other text is read as before"
    )
    assert before.tensors["embedders.text.weight"] is tables[0], "the start itself is as it was"


def test_words_are_found_where_no_letter_touches_them(tmp_path: Path) -> None:
    tokenizer = source_of(add_words(open_start(published("bert", tmp_path / "bert"), None), WORDS)).tokenizer
    ids = {word: tokenizer.encode_ids([word])[0].tolist() for word in WORDS}
    found = tokenizer.encode_ids([SAYING])[0].tolist()
    assert all(len(tokens) == 1 for tokens in ids.values())
    assert found.count(ids["foolhardiness"][0]) == 1, "not within unfoolhardiness"
    assert found.count(ids["态度"][0]) == found.count(ids["Wisdom-Mill"][0]) == 1


def test_the_command_writes_a_folder_that_transformers_reads_alike(tmp_path: Path) -> None:
    start = published("bert", tmp_path / "bert")
    (tmp_path / "words.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    (tmp_path / "corpus.txt").write_text("\n".join(TEXTS * 4) + "\n", encoding="utf-8")
    arguments = [str(tmp_path / "corpus.txt"), "--start", str(start), "--words", str(tmp_path / "words.txt")]
    done = run("pretrain", "text", *arguments, "--out", str(tmp_path / "more"), "--steps", "2", "--hold-out", "0")
    assert done.returncode == 0, done.stderr
    assert "3 words are new tokens" in done.stdout + done.stderr
    ours = mapsto.load(tmp_path / "more", precision="fp32").mapping
    source = ours.sources["text"]
    assert isinstance(source, TextSource)
    theirs = AutoTokenizer.from_pretrained(tmp_path / "more")
    assert theirs(SAYING)["input_ids"][1:-1] == source.tokenizer.encode_ids([SAYING])[0].tolist()
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "more")
    assert model.get_input_embeddings().num_embeddings == source.vocabulary
    torch.testing.assert_close(model.get_input_embeddings().weight, ours.embedders["text"].weight)


def test_words_need_a_start_and_a_file(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("\n", encoding="utf-8")
    rows = [{"text": text} for text in TEXTS]
    with pytest.raises(UsageError, match="a new model makes its own"):
        add_words(open_start(None, None), WORDS)
    start = published("bert", tmp_path / "bert")
    for name, says in (("words.txt", "has no words"), ("none.txt", "cannot be read")):
        with pytest.raises(ValueError, match=says):
            mapsto.pretrain("text", rows, start=start, words=str(tmp_path / name), steps=1)
    with pytest.raises(UsageError, match="in a separate run"):
        mapsto.fit("text -> label", rows, start=start, words="words.txt", lora=2)
