"""Laws over every published family: it opens, computes what `transformers` computes, and goes back as it came."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from models import (
    CAUSAL,
    CLASSES,
    CLOSE,
    DECODED,
    DETECTORS,
    HEAD_CLASSES,
    LABELS,
    NETWORKS,
    SEQ2SEQ,
    SHAPES,
    SOUNDS,
    TEXTS,
    VIDEOS,
    VISION,
    make_model,
    pad_texts,
    reference_class,
)
from torch import Tensor
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

import mapsto
from mapsto import files, zoo
from mapsto.errors import CheckpointError
from mapsto.inference.forward import make_questions
from mapsto.model.mapping import Mapping
from mapsto.pretrained import huggingface, model_folder, weight_names
from mapsto.sequence.batch import Answer, Example
from mapsto.sequence.packing import collate

# The linear family is mapsto's own; tests/fitting/test_linear.py is about it.
FAMILIES = [name for name in zoo.family_names() if not zoo.get_family(name).linear]


# A shape and a task that its family publishes a head for, which reads one text.
HEADS = [
    (shape, task)
    for task in ("text", "label", "tags")
    for shape in SHAPES
    if task in zoo.get_family(shape.split(":")[0]).architectures
]


def pack_texts(mapping: Mapping, texts: list[str], answers: list[tuple[Answer | None, ...]] | None = None) -> Any:
    pieces = mapping.sources["text"].encode(texts, 0, aligned=True)
    examples = [
        Example((piece,), answers[i] if answers else make_questions(mapping, (piece,)), i)
        for i, piece in enumerate(pieces)
    ]
    return collate(examples), pieces


def test_all_promised_families_are_here() -> None:
    promised = {"bert", "roberta", "xlm-roberta", "distilbert", "modernbert", "xlm", "electra", "albert", *CAUSAL}
    assert set(FAMILIES) >= promised
    covered = {
        shape.split(":")[0] for shape in (*SHAPES, *SEQ2SEQ, *VISION, *NETWORKS, *DECODED, *DETECTORS, *VIDEOS, *SOUNDS)
    }
    covered |= {
        tower.model_type for name in covered if (tower := zoo.get_family(name).tower) is not None
    }  # as which their bodies are held
    assert set(FAMILIES) == {name.replace("_", "-") for name in covered}, "every family is held to its laws"


@pytest.mark.parametrize("shape", SHAPES)
def test_hidden_states_and_count_of_parameters(shape: str, tmp_path: Path) -> None:
    reference = make_model(shape, "body", tmp_path)
    mapping = model_folder.load_mapping(tmp_path)
    parameters = dict(mapping.named_parameters())
    # BERT's body brings its pooler, RoBERTa's an unused one; neither is part of ours until a label is read.
    expected = {name: p for name, p in reference.named_parameters() if not name.startswith("pooler.")}
    assert sum(p.numel() for p in parameters.values()) == sum(p.numel() for p in expected.values())
    batch, _ = pack_texts(mapping, TEXTS)
    assert batch.segments.max() > 1, "the texts must share rows"
    states = mapping.transformer(mapping.embed(batch), batch, every_layer=True)
    inputs = pad_texts(tmp_path, TEXTS)
    expected = reference(**inputs, output_hidden_states=True).hidden_states
    assert len(states) == len(expected)
    for states_rld, expected_nld in zip(states, expected, strict=True):
        for i, start in enumerate(batch.starts.tolist()):
            length = int(inputs["attention_mask"][i].sum())
            torch.testing.assert_close(
                states_rld.flatten(0, 1)[start : start + length], expected_nld[i, :length], **CLOSE
            )


@pytest.mark.parametrize(("shape", "task"), HEADS)
def test_logits_and_every_gradient(shape: str, task: str, tmp_path: Path) -> None:
    reference = make_model(shape, task, tmp_path)
    mapping = model_folder.load_mapping(tmp_path)
    unique = {id(p): p.numel() for p in reference.parameters()}
    assert sum(p.numel() for p in mapping.parameters()) == sum(unique.values())
    inputs = pad_texts(tmp_path, TEXTS)
    rng = np.random.default_rng(0)
    _, pieces = pack_texts(mapping, TEXTS)
    if task == "label":
        truth = rng.integers(0, len(LABELS), len(TEXTS))
        answers: list[Any] = [(Answer(np.asarray(t)),) for t in truth]
        logits = reference(**inputs).logits
        expected_loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(truth), reduction="sum")
        expected = logits
    else:
        places = [np.sort(rng.permutation(len(piece))[:2]) for piece in pieces]
        if task == "tags":
            asked = [make_questions(mapping, (piece,))[0] for piece in pieces]
            places = [answer.at for answer in asked if answer is not None and answer.at is not None]
        num_ids = len(LABELS) if task == "tags" else mapping.sources["text"].vocabulary  # type: ignore[attr-defined]
        target_ids = [rng.integers(0, num_ids, len(positions)) for positions in places]
        answers = [(Answer(ids, positions),) for ids, positions in zip(target_ids, places, strict=True)]
        all_logits = reference(**inputs).logits
        expected = torch.cat([all_logits[i, positions] for i, positions in enumerate(places)])
        flat = torch.from_numpy(np.concatenate(target_ids))
        expected_loss = torch.nn.functional.cross_entropy(expected, flat, reduction="sum")
    batch, _ = pack_texts(mapping, TEXTS, answers)
    torch.testing.assert_close(mapping(batch)[0], expected, **CLOSE)
    (_, loss), *_ = mapping.losses(batch)
    torch.testing.assert_close(loss, expected_loss, **CLOSE)
    loss.backward()
    expected_loss.backward()
    gradients = {name: p.grad for name, p in reference.named_parameters() if p.grad is not None}
    family = zoo.get_family(shape.split(":")[0])
    renamed = weight_names.to_mapsto_names(mapping.config, gradients, 99, tmp_path, [], family.architectures[task])
    compared = 0
    trainable = {name: parameter for name, parameter in mapping.named_parameters() if parameter.requires_grad}
    assert {weight_names.weight_name(mapping, name) for name in trainable} == set(renamed)
    for name, parameter in trainable.items():
        gradient = renamed[weight_names.weight_name(mapping, name)]
        assert parameter.grad is not None
        scale = max(1.0, float(gradient.abs().max()))
        torch.testing.assert_close(parameter.grad / scale, gradient / scale, **CLOSE, msg=lambda m, n=name: f"{n}: {m}")
        compared += 1
    assert compared == len(trainable)


@pytest.mark.parametrize("shape", [shape for shape, task in HEADS if task == "tags"])
def test_start_and_end_of_a_span_equal_the_published(shape: str, tmp_path: Path) -> None:
    """Of pairs of texts; and what is saved again opens as the published class."""
    reference = make_model(shape, "span", tmp_path / "theirs")
    mapping = model_folder.load_mapping(tmp_path / "theirs")
    assert str(mapping.arrow) == "question:text, passage:text -> span"
    source, pairs = mapping.sources["text"], [("Yes", TEXTS[0]), (TEXTS[1], TEXTS[4]), (TEXTS[2], TEXTS[3])]
    columns = [
        source.encode(list(column), place, aligned=True) for place, column in enumerate(zip(*pairs, strict=True))
    ]
    examples = [
        Example(pieces, make_questions(mapping, pieces), i) for i, pieces in enumerate(zip(*columns, strict=True))
    ]
    output = mapping(collate(examples))[0]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "theirs")
    starts, ends = [], []
    for example, pair in zip(examples, pairs, strict=True):
        inputs = dict(tokenizer(*pair, return_tensors="pt"))
        if getattr(reference.config, "type_vocab_size", 1) > 1:
            inputs["token_type_ids"] = torch.tensor(
                [[i for i, piece in enumerate(example.pieces) for _ in range(len(piece))]]
            )
        published = reference(**inputs)
        answer = example.answers[0]
        assert answer is not None and answer.at is not None and published.start_logits.shape[1] == len(example)
        starts.append(published.start_logits[0, answer.at])
        ends.append(published.end_logits[0, answer.at])
    torch.testing.assert_close(output, torch.stack([torch.cat(starts), torch.cat(ends)], 1), **CLOSE)
    model_folder.save_mapping(mapping, tmp_path / "ours", {})
    loaded, report = CLASSES["span"].from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    torch.testing.assert_close(loaded.eval()(**inputs).start_logits, published.start_logits, **CLOSE)


@pytest.mark.parametrize(("shape", "task"), [*((shape, "body") for shape in SHAPES), *HEADS])
def test_saved_again_is_the_same_and_opens_elsewhere(shape: str, task: str, tmp_path: Path) -> None:
    reference = make_model(shape, task, tmp_path / "theirs")
    mapping = model_folder.load_mapping(tmp_path / "theirs")
    model_folder.save_mapping(mapping, tmp_path / "ours", {})
    reloaded = model_folder.load_mapping(tmp_path / "ours")
    for (name, original), (_, current) in zip(mapping.named_parameters(), reloaded.named_parameters(), strict=True):
        assert torch.equal(original, current), name
    model_folder.save_mapping(reloaded, tmp_path / "twice", {})
    for file in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "ours" / file).read_bytes() == (tmp_path / "twice" / file).read_bytes()
    inputs = pad_texts(tmp_path / "ours", TEXTS)
    loaded, report = reference_class(shape, task).from_pretrained(tmp_path / "ours", output_loading_info=True)
    missing = {name for name in report["missing_keys"] if task != "body" or not name.startswith("pooler.")}
    assert not missing and not report["unexpected_keys"]
    real = ... if task == "label" else inputs["attention_mask"].bool()
    key = "last_hidden_state" if task == "body" else "logits"
    torch.testing.assert_close(loaded.eval()(**inputs)[key][real], reference(**inputs)[key][real], **CLOSE)
    if names := HEAD_CLASSES.get(task):
        assert [loaded.config.id2label[i] for i in range(3)] == names == reloaded.targets[0].state()["classes"]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_classifier_on_the_mean_gives_the_same_probabilities_elsewhere(shape: str, tmp_path: Path) -> None:
    """A start without a head is read at its (normalised) mean; what is saved must still be the published architecture."""
    make_model(shape, "body", tmp_path / "start")
    loaded = model_folder.open_model_folder(tmp_path / "start")
    from mapsto import kinds
    from mapsto.task import arrow

    target = kinds.target("label")(classes=["no", "yes", "ja"])
    mapping = Mapping(
        arrow.parse("text -> label"), loaded.pretrained.config, loaded.pretrained.sources, [target]
    ).eval()
    model_folder.copy_weights(mapping, loaded.pretrained.tensors)
    with torch.no_grad():
        mapping.heads[0].weight.normal_(std=0.2)
    model_folder.save_mapping(mapping, tmp_path / "ours", {})
    batch, _ = pack_texts(mapping, TEXTS)
    probabilities = mapping(batch)[0].softmax(-1)
    published, report = AutoModelForSequenceClassification.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    expected = published.eval()(**pad_texts(tmp_path / "ours", TEXTS)).logits.softmax(-1)
    torch.testing.assert_close(probabilities, expected, atol=1e-5, rtol=0)
    assert probabilities.std(dim=0).min() > 1e-3, "the answers must differ for this to say anything"
    reloaded = model_folder.load_mapping(tmp_path / "ours")
    assert reloaded.config == mapping.config
    assert torch.equal(reloaded(pack_texts(reloaded, TEXTS)[0])[0], mapping(batch)[0])


def edit_config(folder: Path, **fields: Any) -> None:
    raw = json.loads((folder / "config.json").read_text())
    raw |= fields
    (folder / "config.json").write_text(json.dumps({k: v for k, v in raw.items() if v is not None}))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    make_model("bert", "label", folder)
    return folder


@pytest.fixture
def copy(bert: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bert, tmp_path / "copy"))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"auto_map": {"AutoModel": "modeling_evil.Evil"}}, "auto_map"),
        ({"model_type": "mamba"}, "supported are: albert, audio-spectrogram-transformer, bart, bert"),
        ({"model_type": "bertt"}, "did you mean 'bert'"),
        ({"model_type": None}, "names no model_type"),
        ({"hidden_size": "os.system"}, "hidden_size"),
        ({"hidden_size": 10**12}, "hidden_size"),
        ({"num_hidden_layers": 10**6}, "does not fit"),
        ({"num_hidden_layers": 4}, "lacks the weight"),
        ({"intermediate_size": 128}, "has shape"),
        ({"num_attention_heads": 7}, "does not fit"),
        ({"hidden_act": "__import__('os')"}, "activation"),
        ({"position_embedding_type": "relative_key"}, "relative"),
        ({"id2label": {"0": "a", "1": "a", "2": "a (0)"}}, "different classes"),
        ({"id2label": {"0": "a"}}, "classes"),
        ({"architectures": True}, "architectures"),
        ({"architectures": {"a": 1}}, "architectures"),
    ],
)
def test_configs_are_data_and_are_checked(copy: Path, fields: dict[str, Any], says: str) -> None:
    edit_config(copy, **fields)
    with pytest.raises(CheckpointError, match=says):
        huggingface.open_pretrained(str(copy))


def test_classes_of_one_name_are_told_apart_by_their_numbers(copy: Path) -> None:
    edit_config(copy, id2label={"0": "crane", "1": "heron", "2": "crane"})
    start = huggingface.open_pretrained(str(copy))
    assert start.labels == ["crane (0)", "heron", "crane (2)"] and "several classes are called crane" in start.notes[-1]


def test_heads_of_other_tasks_are_no_part(tmp_path: Path) -> None:
    make_model("electra", "pairs", tmp_path / "discriminator")
    assert not model_folder.load_mapping(tmp_path / "discriminator").targets
    make_model("albert", "pairs", tmp_path / "order")
    assert model_folder.load_mapping(tmp_path / "order").targets[0].kind == "text"


@pytest.mark.parametrize(
    ("shape", "fields", "says"),
    [
        ("albert", {"num_hidden_groups": 3}, "num_hidden_groups must be 1, one layer shared by all, not 3"),
        ("albert", {"inner_group_num": 2}, "inner_group_num must be 1"),
        ("albert", {"embedding_size": 48}, "has shape"),
        ("electra", {"embedding_size": 0}, "embedding_size must be a whole number"),
        ("electra", {"embedding_size": 64}, "has shape"),
        ("xlm", {"causal": True}, "causal True is not supported, only False"),
        ("xlm", {"asm": True}, "asm True"),
        ("xlm", {"summary_type": "mean"}, "summary_type 'mean'"),
        ("xlm", {"n_langs": 4}, "lacks the weight transformer.language_table"),
    ],
)
def test_what_a_family_does_not_support_is_refused(
    shape: str, fields: dict[str, Any], says: str, tmp_path: Path
) -> None:
    make_model(shape, "label", tmp_path)
    edit_config(tmp_path, **fields)
    with pytest.raises(CheckpointError, match=says):
        huggingface.open_pretrained(str(tmp_path))


def test_languages_that_are_not_named_are_noted(tmp_path: Path) -> None:
    make_model("xlm:languages", "text", tmp_path)
    assert any("3 languages" in note for note in huggingface.open_pretrained(str(tmp_path)).notes)


def test_where_layers_are_shared_a_bare_start_is_read_at_its_first_token(tmp_path: Path) -> None:
    for shape, pooling in (("albert", "first"), ("electra", "normed_mean")):
        make_model(shape, "body", tmp_path / shape)
        assert huggingface.open_pretrained(str(tmp_path / shape)).config.pooling == pooling


def test_xlm_says_what_to_do_without_a_tokenizer_file(tmp_path: Path) -> None:
    make_model("xlm", "text", tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(CheckpointError, match=r"has no tokenizer\.json: .* make one with the tokenizers library"):
        huggingface.open_pretrained(str(tmp_path))


@pytest.mark.parametrize("shape", SHAPES)
def test_every_family_is_pretrained_further_and_then_fitted(shape: str, tmp_path: Path) -> None:
    make_model(shape, "text", tmp_path / "start")
    rows = [{"text": text, "label": LABELS[i % 2]} for i, text in enumerate(TEXTS * 4)]
    options: dict[str, Any] = {"steps": 3, "device": "cpu", "precision": "fp32"}
    objective = "causal" if shape.split(":")[0] in CAUSAL else "masked"
    texts = [{"text": row["text"]} for row in rows]
    pretrained = mapsto.pretrain("text", texts, start=tmp_path / "start", objective=objective, **options)
    original, current = model_folder.load_mapping(tmp_path / "start"), pretrained.mapping
    frozen = {name for name, parameter in current.named_parameters() if not parameter.requires_grad}
    changed = {
        n
        for (n, first), (_, second) in zip(original.named_parameters(), current.named_parameters(), strict=True)
        if not torch.equal(first, second)
    }
    assert changed == {name for name, _ in current.named_parameters()} - frozen
    fitted = mapsto.fit("text -> label", rows, start=pretrained, **options)
    fitted.save(tmp_path / "fitted")
    published = AutoModelForSequenceClassification.from_pretrained(tmp_path / "fitted").eval()
    probabilities = published(**pad_texts(tmp_path / "fitted", TEXTS)).logits.softmax(-1).detach()
    for row, answer in zip(probabilities, fitted.predict(TEXTS), strict=True):
        assert [answer["scores"][published.config.id2label[i]] for i in range(2)] == pytest.approx(
            row.tolist(), abs=1e-5
        )


def edit_weights(folder: Path, edit: Any) -> None:
    tensors: dict[str, Tensor] = safetensors.torch.load_file(folder / "model.safetensors")
    edit(tensors)
    safetensors.torch.save_file(tensors, folder / "model.safetensors")


def test_unknown_weights_are_refused_and_other_tasks_are_noted(copy: Path) -> None:
    edit_weights(copy, lambda t: t.update({"nsp_outputs.weight": torch.zeros(2, 64)}))
    assert "nsp_outputs" in huggingface.open_pretrained(str(copy)).notes[0]
    edit_weights(copy, lambda t: t.update({"bert.encoder.surprise.weight": torch.zeros(2)}))
    with pytest.raises(CheckpointError, match=r"surprise"):
        huggingface.open_pretrained(str(copy))


def test_the_named_class_decides_which_head_is_read(copy: Path) -> None:
    edit_config(copy, architectures=["BertForTokenClassification"])
    start = huggingface.open_pretrained(str(copy))
    assert start.target_kind == "tags" and start.labels == LABELS and "tagger.weight" in start.tensors
    edit_config(copy, architectures=["BertForNextSentencePrediction"])
    start = huggingface.open_pretrained(str(copy))
    assert start.labels is None and not any(name.startswith("classifier") for name in start.tensors)
    assert "another task" in start.notes[0]


def test_old_names_of_norms_and_half_precision_open(copy: Path) -> None:
    original = huggingface.open_pretrained(str(copy)).tensors

    def rename_norms(tensors: dict[str, Tensor]) -> None:
        for name in list(tensors):
            tensor = tensors.pop(name)
            for new, legacy in (("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta")):
                name = name.replace(new, legacy)
            tensors[name] = tensor

    edit_weights(copy, rename_norms)
    current = huggingface.open_pretrained(str(copy)).tensors
    assert all(torch.equal(original[name], current[name]) for name in original)
    edit_weights(copy, lambda t: t.update({name: tensor.half() for name, tensor in t.items()}))
    assert all(tensor.dtype == torch.float32 for tensor in huggingface.open_pretrained(str(copy)).tensors.values())
    edit_weights(copy, lambda t: t.update({"classifier.weight": torch.zeros(3, 64, dtype=torch.int8)}))
    with pytest.raises(CheckpointError, match="int8"):
        huggingface.open_pretrained(str(copy))


def test_shards_open_and_their_names_are_checked(copy: Path) -> None:
    original = huggingface.open_pretrained(str(copy)).tensors
    tensors = safetensors.torch.load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[:9], "model-00002-of-00002.safetensors": names[9:]}
    for file, part in parts.items():
        safetensors.torch.save_file({name: tensors[name] for name in part}, copy / file)
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    current = huggingface.open_pretrained(str(copy)).tensors
    assert all(torch.equal(original[name], current[name]) for name in original)
    for bad_file in ("../model.safetensors", "pytorch_model.bin", "/etc/passwd"):
        index["weight_map"][names[0]] = bad_file
        (copy / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(CheckpointError, match="no safetensors file beside it"):
            huggingface.open_pretrained(str(copy))


def test_a_header_whose_size_looks_like_a_pickle_is_opened(tmp_path: Path) -> None:
    """896 is 0x380: its first two bytes are those of a pickle of protocol 3."""
    for size in range(900):
        content = safetensors.torch.save({"a": torch.ones(2)}, {"padding": "x" * size})
        if content[:2] == b"\x80\x03":
            break
    (tmp_path / "model.safetensors").write_bytes(content)
    assert content[:2] == b"\x80\x03" and files.open_tensors(tmp_path / "model.safetensors")["a"].tolist() == [1, 1]


def test_pickles_are_never_opened(copy: Path) -> None:
    torch.save({"a": torch.zeros(2)}, copy / "pytorch_model.bin")
    shutil.copy(copy / "pytorch_model.bin", copy / "model.safetensors")
    with pytest.raises(CheckpointError, match="pickle under another name"):
        huggingface.open_pretrained(str(copy))
    (copy / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="safe_serialization"):
        huggingface.open_pretrained(str(copy))
    with pytest.raises(CheckpointError, match="may run code"):
        huggingface.open_pretrained(str(copy / "pytorch_model.bin"))


@pytest.mark.parametrize("content", [b"", b"12345678", b"\xff" * 64, (10**9).to_bytes(8, "little") + b"{}"])
def test_files_that_are_no_safetensors(copy: Path, content: bytes) -> None:
    (copy / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="no whole safetensors"):
        huggingface.open_pretrained(str(copy))


def test_a_tokenizer_that_does_not_fit(copy: Path) -> None:
    from mapsto.text.tokenizer import Tokenizer

    Tokenizer.train([f"word{i} {chr(0x4E00 + i)}" for i in range(3000)], 3000).save(copy)
    with pytest.raises(CheckpointError, match="the model only"):
        huggingface.open_pretrained(str(copy))


def test_a_misspelt_folder_never_reaches_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **k: pytest.fail("the network was asked"))
    for name in ("runs/bsae", "./somewhere", "/nowhere/at/all", "../up"):
        with pytest.raises(CheckpointError, match="there is no folder"):
            huggingface.open_pretrained(name)


def test_the_real_minilm_gives_the_same_sentence_vectors(minilm: Path) -> None:
    from transformers import AutoModel

    texts = [*TEXTS, "MiniLM is small.", "A dog chases a ball in the park. " * 12]
    vectors = mapsto.load(minilm, device="cpu", precision="fp32").embed(texts, pooling="mean")
    inputs = pad_texts(minilm, texts)
    hidden = AutoModel.from_pretrained(minilm).eval()(**inputs).last_hidden_state
    mask = inputs["attention_mask"][:, :, None]
    expected = ((hidden * mask).sum(1) / mask.sum(1)).detach()
    cosine = torch.nn.functional.cosine_similarity(torch.from_numpy(vectors), expected)
    assert cosine.min() > 0.99999


def test_a_masked_model_predicts_the_same_words(tmp_path: Path) -> None:
    make_model("modernbert", "text", tmp_path)
    mapping = model_folder.load_mapping(tmp_path)
    reference = AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    inputs = tokenizer(["the [MASK] runs past"], return_tensors="pt")
    position = int((inputs["input_ids"][0] == tokenizer.mask_token_id).nonzero()[0])
    batch, _ = pack_texts(mapping, ["the [MASK] runs past"])
    torch.testing.assert_close(mapping(batch)[0], reference(**inputs).logits[0, [position]], **CLOSE)
