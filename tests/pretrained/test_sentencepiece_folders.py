"""Published folders whose tokenizer is a sentencepiece model: the ids, frames and answers of `transformers`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sentencepieces import ENGLISH, OTHERS, TEXTS, make_marian, train
from transformers import AutoTokenizer, MarianMTModel

import mapsto
from mapsto.errors import CheckpointError, UsageError
from mapsto.pretrained import model_folder
from mapsto.text.tokenizer import Tokenizer

CPU: dict[str, Any] = {"device": "cpu", "precision": "fp32"}
T5_IDS = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
LANGUAGES = [">>fra<<", ">>cmn_Hans<<"]


def write(folder: Path, file: str, content: bytes, config: dict[str, Any], settings: dict[str, Any]) -> None:
    (folder / file).write_bytes(content)
    (folder / "config.json").write_text(json.dumps(config))
    if settings:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def tokens_of(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return the tokens of a text between the special ones."""
    return [*tokenizer.opening, *tokenizer.encode_ids([text])[0].tolist(), *tokenizer.closing]


@pytest.mark.parametrize(
    ("file", "family", "settings", "ids"),
    [
        ("spiece.model", "t5", {}, T5_IDS),
        ("spiece.model", "t5", {"tokenizer_class": "T5Tokenizer", "extra_ids": 7}, T5_IDS),
        ("spiece.model", "mt5", {"tokenizer_class": "T5Tokenizer", "extra_ids": 0}, T5_IDS),
        ("sentencepiece.bpe.model", "xlm-roberta", {}, {}),
    ],
)
def test_ids_are_those_of_transformers(
    file: str, family: str, settings: dict[str, Any], ids: dict[str, int], tmp_path: Path
) -> None:
    write(tmp_path, file, train(**ids), {"model_type": family}, settings)
    reference, tokenizer = AutoTokenizer.from_pretrained(tmp_path), Tokenizer.open(tmp_path)
    tokenizer.save(tmp_path / "saved")
    saved = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert tokenizer.size == len(reference) and Tokenizer.open(tmp_path / "saved") == tokenizer
    for text in [*TEXTS, "a <extra_id_0> b <mask> c </s>"]:
        tokens = tokens_of(tokenizer, text)
        assert tokens == reference(text)["input_ids"] == saved(text)["input_ids"]
        assert tokenizer.decode(tokens) == reference.decode(tokens, skip_special_tokens=True)


def test_sentinels_that_the_embeddings_have_no_room_for_are_left_out(tmp_path: Path) -> None:
    write(tmp_path, "spiece.model", train(**T5_IDS), {"model_type": "mt5", "vocab_size": 100}, {})
    assert Tokenizer.open(tmp_path).id_of("<extra_id_0>") is None


@pytest.mark.parametrize(
    ("name", "language", "num_languages"), [("MBartTokenizer", "en_XX", 25), ("MBart50Tokenizer", "de_DE", 52)]
)
def test_mbart_has_the_ids_of_fairseq_and_its_languages(
    name: str, language: str, num_languages: int, tmp_path: Path
) -> None:
    content = train()
    import sentencepiece

    oracle = sentencepiece.SentencePieceProcessor(model_proto=content)
    settings = {"tokenizer_class": name, "src_lang": language}
    write(tmp_path, "sentencepiece.bpe.model", content, {"model_type": "mbart"}, settings)
    reference, tokenizer = AutoTokenizer.from_pretrained(tmp_path), Tokenizer.open(tmp_path)
    # The class of transformers does not normalise texts, as the model itself does.
    special = [*reference.all_special_tokens, "ar_AR", "zh_CN", language]
    assert [tokenizer.id_of(token) for token in special] == reference.convert_tokens_to_ids(special)
    assert tokenizer.size == len(reference) == oracle.get_piece_size() + 1 + num_languages + 1
    frame = ((), (2, tokenizer.id_of(language))) if num_languages == 25 else ((tokenizer.id_of(language),), (2,))
    assert (tokenizer.opening, tokenizer.closing) == frame
    # An answer ends before the language.
    assert tokenizer.end_id == 2 and tokenizer.frame_ids["eos_token_id"] == 2
    for text in TEXTS:
        expected = [3 if token == oracle.unk_id() else token + 1 for token in oracle.encode(text)]
        assert tokenizer.encode_ids([text])[0].tolist() == expected


def test_llama_begins_with_its_token(tmp_path: Path) -> None:
    write(tmp_path, "tokenizer.model", train(model_type="bpe"), {"model_type": "llama"}, {})
    tokenizer = Tokenizer.open(tmp_path)
    assert (tokenizer.opening, tokenizer.closing) == ((1,), ())


def test_tokens_that_were_added_to_the_vocabulary_keep_their_ids(tmp_path: Path) -> None:
    content = train(model_type="bpe")
    write(tmp_path, "tokenizer.model", content, {"model_type": "llama"}, {})
    size = Tokenizer.open(tmp_path).size
    (tmp_path / "added_tokens.json").write_text(json.dumps({"Mühlrad": size}))
    token = {"content": "[PAD]", "special": True, "normalized": False}
    settings = {"pad_token": "[PAD]", "added_tokens_decoder": {"0": {"content": "<unk>"}, str(size + 1): token}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = Tokenizer.open(tmp_path)
    assert (tokenizer.id_of("Mühlrad"), tokenizer.pad_id, tokenizer.size) == (size, size + 1, size + 2)
    assert {size, size + 1} <= {*tokenizer.encode_ids(["am Mühlrad [PAD]"])[0].tolist()}
    more, _ = tokenizer.extended(["Wehr", "水车"])
    for text, word in (("am Wehr", "Wehr"), ("那水车好", "水车")):
        assert more.id_of(word) in more.encode_ids([text])[0]
    assert size + 1 not in tokenizer.encode_literally(["Mühlrad [PAD]"])[0]
    (tmp_path / "added_tokens.json").write_text(json.dumps({"Mühlrad": size + 5}))
    with pytest.raises(CheckpointError, match=r"'\[PAD\]' cannot be token"):
        Tokenizer.open(tmp_path)


def test_families_that_change_texts_before_are_refused(tmp_path: Path) -> None:
    settings = {"tokenizer_class": "AlbertTokenizer"}
    write(tmp_path, "spiece.model", train(), {"model_type": "albert"}, settings)
    with pytest.raises(CheckpointError, match=r"AlbertTokenizer change texts before .*save_pretrained"):
        Tokenizer.open(tmp_path)
    write(
        tmp_path,
        "spiece.model",
        train(),
        {"model_type": "mbart"},
        {"tokenizer_class": "MBartTokenizer", "src_lang": "en"},
    )
    with pytest.raises(CheckpointError, match="src_lang of tokenizer_config.json is none of ar_AR"):
        Tokenizer.open(tmp_path)


def test_marian_has_two_models_and_one_vocabulary(tmp_path: Path) -> None:
    make_marian(tmp_path, LANGUAGES, missing=["e", "▁t"])
    reference, tokenizer = AutoTokenizer.from_pretrained(tmp_path), Tokenizer.open(tmp_path)
    sources = [*TEXTS, *(f"{name} The river" for name in (*LANGUAGES, ">>deu<<")), ">> a << b", ">>open", "a </s> b"]
    for text in sources:
        tokens = tokens_of(tokenizer, text)
        assert tokens == reference(text)["input_ids"], text
        assert tokenizer.decode(tokens).strip() == reference.decode(tokens, skip_special_tokens=True)
    encoded = tokenizer.encode_batch(sources)
    assert [e.ids.tolist() for e in encoded] == [tokens_of(tokenizer, text)[:-1] for text in sources]
    (aligned,) = tokenizer.encode_batch([">>fra<< The river"])
    assert aligned.offsets[0].tolist() == [0, 7] and aligned.offsets[-1, 1] == 17 and aligned.words[0] == 0
    # Answers are split by the other model.
    answers = tokenizer.encode_literally(TEXTS)
    assert [[*ids, 0] for ids in answers] == [reference(text_target=text)["input_ids"] for text in TEXTS]
    assert any(len(answer) != len(source) for answer, source in zip(answers, encoded, strict=False))
    with pytest.raises(UsageError, match="vocabulary of Marian"):
        tokenizer.extended(["Mühlrad"])


def test_marian_writes_the_tokens_of_transformers_and_is_saved_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    reference = make_marian(tmp_path / "theirs", LANGUAGES)
    model_folder.save_mapping(model_folder.load_mapping(tmp_path / "theirs"), tmp_path / "ours", {})
    for file in ("source.spm", "target.spm", "vocab.json", "generation_config.json"):
        assert json_or_bytes(tmp_path / "ours" / file) == json_or_bytes(tmp_path / "theirs" / file)
    assert not (tmp_path / "ours" / "tokenizer.json").exists()
    saved = MarianMTModel.from_pretrained(tmp_path / "ours").eval()
    for folder in ("theirs", "ours"):
        model = mapsto.load(tmp_path / folder, **CPU)
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / folder)
        for beams in (1, 3):
            answers = model.predict([ENGLISH[0], f">>fra<< {ENGLISH[1]}"], decoding=mapsto.Decoding(beams=beams))
            for text, answer in zip([ENGLISH[0], f">>fra<< {ENGLISH[1]}"], answers, strict=True):
                for other in (reference, saved):
                    inputs = tokenizer(text, return_tensors="pt")
                    (tokens,) = other.generate(**inputs, num_beams=beams, do_sample=False)
                    assert answer["text"] == tokenizer.decode(tokens, skip_special_tokens=True)


def test_marian_is_trained_further(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    make_marian(tmp_path / "theirs")
    pairs = [{"en": text, "de": answer} for text, answer in zip(ENGLISH * 4, OTHERS * 2, strict=True)]
    options = {"start": tmp_path / "theirs", "steps": 1, "method": "full", **CPU}
    writer = mapsto.fit("en:text -> de:text", pairs, tmp_path / "fitted", **options)
    again = mapsto.load(tmp_path / "fitted", **CPU)
    assert again(ENGLISH[0])["text"] == writer(ENGLISH[0])["text"]
    assert (tmp_path / "fitted" / "target.spm").exists()


def json_or_bytes(file: Path) -> Any:
    return json.loads(file.read_text()) if file.suffix == ".json" else file.read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab.json": {"</s>": 0, "<unk>": 1, "a": 3, "<pad>": 2, "b": 7}}, r"ids of its 5 pieces are not 0 … 4"),
        ({"vocab.json": {"</s>": 0, "<unk>": 1}}, "the special token '<pad>' is not among"),
        ({"tokenizer_config.json": {"separate_vocabs": True}}, "two vocabularies, one for each language"),
        ({"config.json": {"share_encoder_decoder_embeddings": False}}, "vocabularies of two languages"),
        ({"target.spm": None}, "target.spm: cannot be read"),
    ],
)
def test_marian_folders_that_cannot_be_read_are_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    make_marian(tmp_path)
    for name, content in change.items():
        if content is None:
            (tmp_path / name).unlink()
        else:
            whole = {} if name == "vocab.json" else json.loads((tmp_path / name).read_text())
            (tmp_path / name).write_text(json.dumps(whole | content))
    with pytest.raises(CheckpointError, match=message):
        mapsto.load(tmp_path, **CPU)
