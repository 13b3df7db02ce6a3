"""Laws over published encoder–decoders: both stacks compute what `transformers` computes, and write the same answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from models import CLOSE, SEQ2SEQ, TEXTS
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM

import mapsto
from mapsto import zoo
from mapsto.errors import CheckpointError
from mapsto.inference.generation import generate_answers
from mapsto.model.cross_attention import EncodedSources, cross_mask
from mapsto.model.encoder_decoder import separate
from mapsto.model.mapping import Mapping
from mapsto.pretrained import huggingface, model_folder, weight_names
from mapsto.sequence.batch import Batch, Example
from mapsto.sequence.packing import collate
from mapsto.task.generation import Decoding, Generated

CLASSES = {"body": AutoModel, "text": AutoModelForSeq2SeqLM}
ANSWERS = [*TEXTS[3:], *TEXTS[:3]]
START, PAD, END = 0, 1, 2
CPU = torch.device("cpu")


def make_tokenizer(folder: Path) -> None:
    """Train a tokenizer that ends every text, and save it in `folder`."""
    backend = Backend(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<s>", "<pad>", "</s>", "<unk>"], initial_alphabet=alphabet
    )
    backend.train_from_iterator(TEXTS * 20, trainer)
    backend.post_processor = processors.TemplateProcessing("$A </s>", "$A </s> $B:1 </s>:1", [("</s>", END)])
    backend.save(str(folder / "tokenizer.json"))
    roles = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **roles}))


def make_model(shape: str, task: str, folder: Path, **changes: Any) -> Any:
    """Make a model of transformers with random weights, of which none are equal; save it with its tokenizer and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    make_tokenizer(folder)
    ids = {"vocab_size": 420, "pad_token_id": PAD, "eos_token_id": END, "decoder_start_token_id": START}
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        shape.split(":")[0], **{**ids, "forced_eos_token_id": None, **SEQ2SEQ[shape], **changes}
    )
    model = CLASSES[task].from_config(config, attn_implementation="eager")
    has_two_tables = task == "text" and SEQ2SEQ[shape].get("tie_word_embeddings") is False
    with torch.no_grad():
        if has_two_tables:
            model.lm_head.weight = torch.nn.Parameter(0.1 * torch.randn_like(model.shared.weight))
        for parameter in model.parameters():
            if parameter.requires_grad:  # sines and cosines have none
                parameter.add_(torch.randn_like(parameter) * 0.05)
        if hasattr(model, "final_logits_bias"):
            model.final_logits_bias.normal_(std=0.2)
    model.eval().save_pretrained(folder)
    if has_two_tables:
        tensors = safetensors.torch.load_file(folder / "model.safetensors")
        safetensors.torch.save_file(
            tensors | {"lm_head.weight": model.lm_head.weight.detach()}, folder / "model.safetensors"
        )
    return model


def pack_pairs(mapping: Mapping) -> Batch:
    """Return a batch of all TEXTS, with ANSWERS as their true answers."""
    target, pieces = mapping.targets[0], mapping.sources["text"].encode(TEXTS, 0)
    pairs = zip(pieces, ANSWERS, strict=True)
    return collate(
        [Example((piece,), (target.encode(answer, (piece,)),), i) for i, (piece, answer) in enumerate(pairs)]
    )


def reference_inputs(mapping: Mapping) -> list[dict[str, torch.Tensor]]:
    """Return the tokens of each pair of TEXTS and ANSWERS, as arguments of a reference."""
    tokenizer = mapping.sources["text"].tokenizer  # type: ignore[attr-defined]
    return [
        {
            "input_ids": torch.tensor([[*source.tolist(), END]]),
            "decoder_input_ids": torch.tensor([[START, *answer.tolist()]]),
        }
        for source, answer in zip(tokenizer.encode_ids(TEXTS), tokenizer.encode_ids(ANSWERS), strict=True)
    ]


@pytest.mark.parametrize("shape", SEQ2SEQ)
def test_hidden_states_of_both_stacks_and_count_of_parameters(shape: str, tmp_path: Path) -> None:
    reference = make_model(shape, "text", tmp_path)
    mapping = model_folder.load_mapping(tmp_path)
    # The bias of the output is a buffer there, and sines and cosines are weights that are never trained.
    bias = getattr(reference, "final_logits_bias", torch.zeros(0)).numel()
    expected_count = bias + sum(parameter.numel() for parameter in reference.parameters() if parameter.requires_grad)
    assert sum(parameter.numel() for parameter in mapping.parameters()) == expected_count
    batch = pack_pairs(mapping)
    x = mapping.embed(batch)
    sources, answers = separate(batch)
    encoder_states = mapping.transformer(sources.take(x), sources.batch, every_layer=True)
    mask = cross_mask(answers.batch.segments, sources.batch.segments, torch.float32)
    attended = EncodedSources(encoder_states[-1], mask)
    assert mapping.answer_decoder is not None
    decoder_states = mapping.answer_decoder(answers.take(x), answers.batch, every_layer=True, sources=attended)
    assert sources.batch.segments.max() > 1 and answers.batch.segments.max() > 1, "the texts must share rows"
    for i, inputs in enumerate(reference_inputs(mapping)):
        outputs = reference(**inputs, output_hidden_states=True)
        for part, states, expected in (
            (sources, encoder_states, outputs.encoder_hidden_states),
            (answers, decoder_states, outputs.decoder_hidden_states),
        ):
            assert len(states) == len(expected)
            start = (
                int(part.batch.starts[i])
                if part is sources
                else int(answers.starts(batch.starts[i] + batch.lengths[i]))
            )
            for states_rld, reference_nld in zip(states, expected, strict=True):
                length = reference_nld.shape[1]
                torch.testing.assert_close(states_rld.flatten(0, 1)[start : start + length], reference_nld[0], **CLOSE)


@pytest.mark.parametrize("shape", SEQ2SEQ)
def test_logits_and_every_gradient(shape: str, tmp_path: Path) -> None:
    reference = make_model(shape, "text", tmp_path)
    mapping = model_folder.load_mapping(tmp_path)
    assert str(mapping.arrow) == "text -> text"
    batch = pack_pairs(mapping)
    expected = torch.cat([reference(**inputs).logits[0] for inputs in reference_inputs(mapping)])
    torch.testing.assert_close(mapping(batch)[0], expected, **CLOSE)
    (_, loss), *_ = mapping.losses(batch)
    values = batch.answers[0].values  # type: ignore[union-attr]
    expected_loss = torch.nn.functional.cross_entropy(expected, values, reduction="sum")
    torch.testing.assert_close(loss, expected_loss, **CLOSE)
    loss.backward()
    expected_loss.backward()
    gradients = {name: p.grad for name, p in reference.named_parameters() if p.grad is not None}
    renamed = weight_names.to_mapsto_names(mapping.config, gradients, 99, tmp_path, [])
    trained = {weight_names.weight_name(mapping, name): p.grad for name, p in mapping.named_parameters()}
    assert set(trained) == {*renamed, *(["vocabulary_head.bias"] if hasattr(reference, "final_logits_bias") else [])}
    for name, gradient in renamed.items():
        scale = max(1.0, float(gradient.abs().max()))
        own = trained[name]
        assert own is not None
        torch.testing.assert_close(own / scale, gradient / scale, **CLOSE, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("task", CLASSES)
@pytest.mark.parametrize("shape", SEQ2SEQ)
def test_saved_again_is_the_same_and_opens_elsewhere(shape: str, task: str, tmp_path: Path) -> None:
    reference = make_model(shape, task, tmp_path / "theirs")
    mapping = model_folder.load_mapping(tmp_path / "theirs")
    model_folder.save_mapping(mapping, tmp_path / "ours", {})
    reloaded = model_folder.load_mapping(tmp_path / "ours")
    assert reloaded.config == mapping.config and str(reloaded.arrow) == str(mapping.arrow)
    for (name, original), (_, current) in zip(mapping.named_parameters(), reloaded.named_parameters(), strict=True):
        assert torch.equal(original, current), name
    model_folder.save_mapping(reloaded, tmp_path / "twice", {})
    for file in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "ours" / file).read_bytes() == (tmp_path / "twice" / file).read_bytes()
    loaded, report = CLASSES[task].from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert type(loaded) is type(reference)
    # Marian's sines and cosines are computed.
    missing = [name for name in report["missing_keys"] if not name.endswith("embed_positions.weight")]
    assert not missing and not report["unexpected_keys"]
    key = "last_hidden_state" if task == "body" else "logits"
    for inputs in reference_inputs(mapping):
        torch.testing.assert_close(loaded.eval()(**inputs)[key], reference(**inputs)[key], **CLOSE)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("shape", SEQ2SEQ)
def test_the_same_answers_are_written(shape: str, beams: int, tmp_path: Path) -> None:
    reference = make_model(shape, "text", tmp_path)
    mapping = model_folder.load_mapping(tmp_path)
    target = mapping.targets[0]
    assert isinstance(target, Generated) and target.opening == (START,) and target.ends == (END,)
    # Rows of the table without a token may be the likeliest, and are no text.
    assert target.to_value([300, 419, 301]) == target.to_value([300, 301])
    pieces = mapping.sources["text"].encode(TEXTS, 0)
    examples = [Example((piece,), (target.questions((piece,)),), i) for i, piece in enumerate(pieces)]
    generated = dict(generate_answers(mapping, examples, 0, CPU, Decoding(beams=beams, longest=10)))
    for i, inputs in enumerate(reference_inputs(mapping)):
        expected = reference.generate(
            inputs["input_ids"], num_beams=beams, max_new_tokens=10, do_sample=False, use_cache=False
        )[0, 1:].tolist()
        assert [*generated[i][0].tokens, *[END] * generated[i][0].is_ended] == [
            token for token in expected if token != PAD
        ]


@pytest.mark.parametrize("shape", ["t5:gated, two tables", "bart", "marian"])
def test_one_is_trained_further_and_its_encoder_classifies(shape: str, tmp_path: Path) -> None:
    make_model(shape, "text", tmp_path / "start")
    rows = [
        {"en": text, "de": answer, "label": "ab"[i % 2]}
        for i, (text, answer) in enumerate(zip(TEXTS, ANSWERS, strict=True))
    ]
    options: dict[str, Any] = {
        "start": tmp_path / "start",
        "steps": 2,
        "device": "cpu",
        "precision": "fp32",
        "method": "full",
    }
    pairs = [{"en": row["en"], "de": row["de"]} for row in rows * 4]
    writer = mapsto.fit("en:text -> de:text", pairs, tmp_path / "writer", **options)
    loaded, report = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "writer", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    batch = pack_pairs(writer.mapping)
    expected = torch.cat([loaded.eval()(**inputs).logits[0] for inputs in reference_inputs(writer.mapping)])
    torch.testing.assert_close(writer.mapping.float().eval()(batch)[0], expected, **CLOSE)
    classifier = mapsto.fit(
        "en:text -> label", [{"en": r["en"], "label": r["label"]} for r in rows * 4], tmp_path / "clf", **options
    )
    assert classifier.mapping.answer_decoder is None
    raw = json.loads((tmp_path / "clf" / "config.json").read_text())
    assert raw["architectures"] == [zoo.get_family(shape.split(":")[0]).encoder_architecture]
    reopened = mapsto.load(tmp_path / "clf", device="cpu", precision="fp32")
    for field in ("transformer", "answer_decoder", "pooling"):
        assert getattr(reopened.mapping.config, field) == getattr(classifier.mapping.config, field)
    for answer, again in zip(classifier.predict(TEXTS), reopened.predict(TEXTS), strict=True):
        assert answer["scores"] == pytest.approx(again["scores"], abs=1e-6)


@pytest.mark.parametrize(
    ("shape", "fields", "message"),
    [
        ("t5", {"feed_forward_proj": "gated-os.system"}, "activation"),
        ("t5", {"relative_attention_num_buckets": 10}, "multiple of 4"),
        ("t5", {"num_decoder_layers": 4}, "lacks the weight answer_decoder"),
        ("bart", {"normalize_before": True}, "normalize_before"),
        ("bart", {"decoder_start_token_id": None}, "decoder_start_token_id must be the id of a token"),
        ("marian", {"share_encoder_decoder_embeddings": False}, "vocabularies of two languages"),
    ],
)
def test_settings_that_are_not_supported_are_refused(
    shape: str, fields: dict[str, Any], message: str, tmp_path: Path
) -> None:
    make_model(shape, "text", tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(raw | fields))
    with pytest.raises(CheckpointError, match=message):
        huggingface.open_pretrained(str(tmp_path))
