"""Laws of generation_config.json: its rules give the tokens of `transformers`, alone and beside others; the rest is named."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from models import SEQ2SEQ, TEXTS
from models import make_model as make_decoder
from transformers import AutoModelForCausalLM, BartConfig, BartForConditionalGeneration

import mapsto
from mapsto.cli import app
from mapsto.errors import CheckpointError
from mapsto.inference.generation import generate_answers
from mapsto.model.mapping import Mapping
from mapsto.pretrained import huggingface, model_folder
from mapsto.sequence.batch import Example
from mapsto.task.generation import Decoding, Generated
from mapsto.task.generation_rules import describe_unfollowed, read_rules
from mapsto.text.tokenizer import Tokenizer

CPU = torch.device("cpu")
PAD, END, START = 1, 2, 0
LONGEST = 9
RULES: dict[str, dict[str, Any]] = {
    "no rule": {},
    "bad words": {"bad_words_ids": [[PAD], [30], [5, 6], [END]]},
    "shortest answer": {"min_new_tokens": 6},
    "shortest context": {"min_length": 7},
    "language": {"forced_bos_token_id": 17},
    "after a language": {"forced_bos_token_id": 17, "begin_suppress_tokens": [END, 40], "min_new_tokens": 3},
    "end at the limit": {"forced_eos_token_id": END},
    "no repeated pair": {"no_repeat_ngram_size": 2},
    "nothing of the source": {"encoder_no_repeat_ngram_size": 1},
    "repetition penalty": {"repetition_penalty": 1.7},
    "suppressed": {"suppress_tokens": [END, 5]},
    "long beams": {"length_penalty": 2.0},
    "first beams": {"early_stopping": True},
    "all beams": {"early_stopping": "never", "length_penalty": 1.5},
    "several": {
        "forced_bos_token_id": 17,
        "forced_eos_token_id": END,
        "no_repeat_ngram_size": 2,
        "repetition_penalty": 1.3,
        "min_length": 4,
        "bad_words_ids": [[PAD], [9, 9]],
    },
}


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a random encoder–decoder of transformers, whose end token is likely, and its folder."""
    folder = tmp_path_factory.mktemp("writer")
    Tokenizer.train(TEXTS * 9, 300, "bytes").save(folder)
    ids = {"vocab_size": 320, "pad_token_id": PAD, "eos_token_id": END, "decoder_start_token_id": START}
    torch.manual_seed(0)
    model = BartForConditionalGeneration(
        BartConfig(**{**SEQ2SEQ["bart"], **ids, "decoder_layers": 1, "forced_eos_token_id": None})
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.4)
        model.final_logits_bias.normal_(std=2.0)
        model.final_logits_bias[0, END] = 6.0
    model.save_pretrained(folder)
    return model, folder


def obey(folder: Path, rules: dict[str, Any], model: Any) -> Mapping:
    """Write generation rules to a folder and to the model of transformers, and open it."""
    settings = {"eos_token_id": END, "pad_token_id": PAD, "decoder_start_token_id": START, **rules}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    model.generation_config = type(model.generation_config).from_pretrained(folder)
    return model_folder.load_mapping(folder)


def answers_of(mapping: Mapping, rows: list[int], decoding: Decoding) -> dict[int, Any]:
    target, pieces = mapping.targets[0], mapping.sources["text"].encode(TEXTS, 0)
    assert isinstance(target, Generated)
    examples = [Example((pieces[i],), (target.questions((pieces[i],)),), i) for i in rows]
    return dict(generate_answers(mapping, examples, 0, CPU, decoding))


def tokens_of(mapping: Mapping, answer: Any) -> list[int]:
    """Return the tokens of an answer as transformers writes them: with the forced one, and the end token."""
    target: Any = mapping.targets[0]
    tokens = [*target.opening[len(target.opening) - target.num_forced :], *answer.tokens]
    # An end that the limit forces is no end of the model's own.
    is_cut = bool(target.rules.forced_eos_token_id) and len(tokens) == LONGEST - 1
    assert not (is_cut and answer.is_ended)
    return [*tokens, *[END] * (answer.is_ended or is_cut)]


@pytest.mark.parametrize("name", RULES)
def test_an_encoder_decoder_writes_the_tokens_of_transformers(name: str, writer: Any) -> None:
    model, folder = writer
    mapping = obey(folder, RULES[name], model)
    pieces = mapping.sources["text"].encode(TEXTS, 0)
    for beams in (1, 3):
        decoding = Decoding(beams=beams, longest=LONGEST)
        together = answers_of(mapping, [*range(len(TEXTS))], decoding)
        for i, piece in enumerate(pieces):
            expected = model.generate(
                torch.tensor(piece.tokens)[None], num_beams=beams, max_new_tokens=LONGEST, do_sample=False
            )
            tokens = [token for token in expected[0, 1:].tolist() if token != PAD]
            assert tokens_of(mapping, together[i][0]) == tokens
        # Alone as beside others.
        ((alone, *_),) = answers_of(mapping, [1], decoding).values()
        assert alone.tokens == together[1][0].tokens


@pytest.mark.parametrize(
    "name", ["bad words", "shortest context", "no repeated pair", "nothing of the source", "repetition penalty"]
)
def test_the_prompt_of_a_decoder_is_part_of_its_context(name: str, tmp_path: Path) -> None:
    make_decoder("llama", "text", tmp_path)
    settings = {"eos_token_id": END, "pad_token_id": PAD, **RULES[name]}
    (tmp_path / "generation_config.json").write_text(json.dumps(settings))
    model = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    mapping = model_folder.load_mapping(tmp_path)
    pieces = mapping.sources["text"].encode(TEXTS, 0)
    for beams in (1, 3):
        generated = answers_of(mapping, [*range(len(TEXTS))], Decoding(beams=beams, longest=LONGEST))
        for i, piece in enumerate(pieces):
            prompt = torch.tensor(piece.tokens)[None]
            expected = model.generate(prompt, num_beams=beams, max_new_tokens=LONGEST, do_sample=False)
            tokens = [token for token in expected[0, len(piece) :].tolist() if token != PAD]
            assert tokens_of(mapping, generated[i][0]) == tokens


def test_samples_obey_and_depend_on_their_row_alone(writer: Any) -> None:
    model, folder = writer
    mapping = obey(folder, {**RULES["several"], "min_new_tokens": 5, "suppress_tokens": [40, 41]}, model)
    decoding = Decoding(samples=6, temperature=3.0, longest=LONGEST, seed=4)
    together = answers_of(mapping, [*range(len(TEXTS))], decoding)
    for answers in together.values():
        for answer in answers:
            tokens = tokens_of(mapping, answer)
            pairs = [*zip([START, *tokens], tokens, strict=False)]
            assert tokens[0] == 17 and len(set(pairs)) == len(pairs) and not {PAD, 40, 41} & {*tokens}
            assert 5 < len(tokens) <= LONGEST and tokens[-1] == END
            assert answer.log_probability < 0
    alone = answers_of(mapping, [2], decoding)[2]
    assert [answer.tokens for answer in alone] == [answer.tokens for answer in together[2]]


def test_an_answer_learns_behind_the_forced_token_and_keeps_to_a_list_of_answers(writer: Any) -> None:
    model, folder = writer
    mapping = obey(folder, {"forced_bos_token_id": 17, "min_new_tokens": 8}, model)
    target: Any = mapping.targets[0]
    answer = target.encode("Yes", ())
    assert answer.piece.tokens[:2].tolist() == [START, 17] and answer.at[0] == 1
    decoding = Decoding(answers=["Yes", "A short one."])
    rows = mapsto.load(folder, device="cpu", precision="fp32").predict(TEXTS, decoding=decoding)
    assert {row["text"] for row in rows} <= {"Yes", "A short one."}


def test_rules_of_config_json_count_where_there_is_no_other_file(tmp_path: Path) -> None:
    make_decoder("gpt2", "text", tmp_path)
    (tmp_path / "generation_config.json").unlink()
    raw = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(raw | {"no_repeat_ngram_size": 3, "num_beams": 4}))
    target: Any = model_folder.load_mapping(tmp_path).targets[0]
    assert target.rules.no_repeat_ngram_size == 3


def test_settings_that_are_not_followed_are_named_once(
    writer: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, folder = writer
    settings = {"num_beams": 4, "encoder_repetition_penalty": 1.5, "guidance_scale": 1.0}
    obey(folder, {}, model)
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    note = describe_unfollowed(settings)
    assert note is not None and "num_beams=4, encoder_repetition_penalty=1.5," in note and "--beams 4" in note
    assert note in huggingface.open_pretrained(str(folder)).notes
    for options, expected in ([], note), (["--beams", "4"], "encoder_repetition_penalty=1.5"):
        command = ["mapsto", "predict", str(folder), "--text", "Yes", "--text", "No", "--device", "cpu", *options]
        monkeypatch.setattr(sys, "argv", command)
        monkeypatch.setattr(app, "exit_process", lambda status: None)
        with pytest.raises(SystemExit):
            app.main()
        error = capsys.readouterr().err
        assert error.count("note: generation_config.json asks for") == 1 and expected in error
        assert ("num_beams" in error) == (not options)
    sampling = describe_unfollowed({"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 1.0})
    assert sampling is not None and "--samples 1 --temperature 0.6" in sampling and "top_k=20" in sampling
    assert describe_unfollowed({"do_sample": False, "temperature": 0.6, "top_k": 20, "repetition_penalty": 1.2}) is None


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"bad_words_ids": [[]]}, "at least one token"),
        ({"bad_words_ids": [7]}, "a list is needed"),
        ({"suppress_tokens": [320]}, "whole number from 0 to 319"),
        ({"forced_bos_token_id": "fr"}, "whole number from 0 to 319"),
        ({"no_repeat_ngram_size": -1}, "from 0 on"),
        ({"repetition_penalty": 0}, "above 0"),
        ({"early_stopping": "soon"}, "true, false or 'never'"),
        ({"min_length": True}, "a number is needed"),
    ],
)
def test_a_rule_with_an_impossible_value_is_refused(rule: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as refusal:
        read_rules(rule, 320)
    assert next(iter(rule)) in str(refusal.value)
