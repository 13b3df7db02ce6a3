"""Laws of constrained generation: an answer that has ended is one of the list, or JSON that the schema describes."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
import torch
from generators import TEXTS, examples_of, make_model

from mapsto.data.table import read_table
from mapsto.errors import UsageError
from mapsto.inference.decoding.constraints import AnswerTrie, make_constraint
from mapsto.inference.generation import generate_answers, stream_text
from mapsto.inference.predictor import Predictor
from mapsto.model.mapping import Mapping
from mapsto.sequence.batch import Example
from mapsto.sequence.packing import collate
from mapsto.task.generation import Decoding, GeneratedAnswer
from mapsto.text.generated_text import GeneratedTextTarget

CPU = torch.device("cpu")
ANSWERS = ("Haus", "Hausboot", "ein Haus am See", "二十", "二十只小鸟", "no")
SEARCHES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "samples": {"samples": 3, "temperature": 2.0, "seed": 4},
    "beams": {"beams": 4},
}
SCHEMA = {
    "type": "object",
    "properties": {
        "colour": {"enum": ["red", "绿", "blue"]},
        "size": {"type": "integer", "minimum": 0, "maximum": 99},
        "tags": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 2},
    },
    "required": ["colour", "size", "tags"],
    "additionalProperties": False,
}


def target_of(mapping: Mapping) -> GeneratedTextTarget:
    target = mapping.targets[0]
    assert isinstance(target, GeneratedTextTarget)
    return target


def constrained(mapping: Mapping, decoding: Decoding) -> dict[int, list[GeneratedAnswer]]:
    constraint = make_constraint(decoding, target_of(mapping))
    return dict(generate_answers(mapping, examples_of(mapping), 0, CPU, decoding, constraint=constraint))


@torch.inference_mode()
def log_probability(mapping: Mapping, example: Example, answer: str) -> float:
    """Return the model's log-probability of an answer, from one pass over all its tokens."""
    encoded = target_of(mapping).encode(answer, example.pieces)
    (logits,) = mapping(collate([Example(example.pieces, (encoded,))]))
    logits[:, list(target_of(mapping).banned)] = -torch.inf
    scores = logits.float().log_softmax(-1)
    return float(scores.gather(1, torch.from_numpy(encoded.values)[:, None]).sum())


@pytest.mark.parametrize("cross", [False, True], ids=["prefix", "cross"])
@pytest.mark.parametrize("search", SEARCHES)
def test_every_answer_is_one_of_the_list(search: str, cross: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # With few places, examples wait for those before them to end.
    monkeypatch.setattr("mapsto.inference.generation.ANSWERS_AT_ONCE", 8)
    mapping = make_model("rotary", cross, longest=30)
    generated = constrained(mapping, Decoding(answers=ANSWERS, **SEARCHES[search]))
    for example in examples_of(mapping):
        for answer in generated[example.row]:
            text = target_of(mapping).to_value(answer.tokens)
            assert answer.is_ended and text in ANSWERS
            # The probability is the model's own, not one among the allowed answers.
            assert answer.log_probability == pytest.approx(log_probability(mapping, example, text), abs=2e-3)


def test_a_wide_beam_finds_the_likeliest_answer_of_the_list() -> None:
    mapping = make_model("rotary", False, longest=30)
    # More beams than answers, and than tokens that are allowed at a step.
    generated = constrained(mapping, Decoding(answers=ANSWERS, beams=9, length_penalty=1e-9))
    for example in examples_of(mapping):
        likeliest = max(ANSWERS, key=lambda answer: log_probability(mapping, example, answer))
        texts = [target_of(mapping).to_value(answer.tokens) for answer in generated[example.row]]
        assert texts[0] == likeliest and sorted(texts) == sorted(ANSWERS)


def test_samples_draw_every_allowed_answer() -> None:
    mapping = make_model("rotary", False, longest=30)
    generated = constrained(mapping, Decoding(answers=ANSWERS, samples=60, temperature=30.0))
    assert {target_of(mapping).to_value(answer.tokens) for answer in generated[0]} == set(ANSWERS)


@pytest.mark.parametrize("search", SEARCHES)
def test_every_complete_answer_is_json_that_the_schema_describes(search: str) -> None:
    mapping = make_model("rotary", True, longest=120)
    generated = constrained(mapping, Decoding(schema=SCHEMA, **SEARCHES[search]))
    values = []
    for answers in generated.values():
        for answer in answers:
            assert answer.is_ended
            values.append(json.loads(target_of(mapping).to_value(answer.tokens)))
            jsonschema.validate(values[-1], SCHEMA)
    assert len({json.dumps(value) for value in values}) > 1, "the answers do not depend on the sources"


def test_an_answer_does_not_depend_on_which_matchers_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    mapping = make_model("rotary", False, longest=120)
    decoding = Decoding(schema=SCHEMA, beams=3)
    kept = constrained(mapping, decoding)
    monkeypatch.setattr("mapsto.inference.decoding.constraints.MATCHERS", 2)
    assert constrained(mapping, decoding) == kept


def test_constraints_hold_in_predictions_and_streams() -> None:
    mapping = make_model("rotary", False, longest=30)
    decoding = Decoding(answers=["no", "二十"])
    rows = [{"source": text} for text in TEXTS]
    predictor = Predictor(mapping, "cpu", "fp32", decoding=decoding)
    answers = [answer["text"] for _, part in predictor.answer_tables([read_table(rows)]) for answer in part]
    assert set(answers) <= {"no", "二十"}
    assert ["".join(parts) for parts in predictor.stream(rows)] == answers
    constraint = make_constraint(decoding, target_of(mapping))
    (example, *_) = examples_of(mapping)
    assert "".join(stream_text(mapping, example, CPU, Decoding(), constraint)) == answers[0]
    unconstrained = predictor.with_settings(0.0, 0.0)
    assert {answer["text"] for answer in unconstrained.answer(read_table(rows))} != set(answers)


def test_the_trie_allows_the_end_only_behind_an_answer() -> None:
    trie = AnswerTrie([[3, 4], [3, 4, 5], [6]], ends=(0, 1), size=8)
    allowed = {tokens: trie.mask(tokens).nonzero()[0].tolist() for tokens in [(), (3,), (3, 4), (3, 4, 5), (6,)]}
    assert allowed == {(): [3, 6], (3,): [4], (3, 4): [0, 1, 5], (3, 4, 5): [0, 1], (6,): [0, 1]}


def test_constraints_that_nothing_can_satisfy_are_refused() -> None:
    mapping = make_model("rotary", False, longest=8)
    target = target_of(mapping)
    refused: list[tuple[dict[str, Any], str]] = [
        ({"answers": []}, "at least one text"),
        ({"answers": "yes"}, "a list"),
        ({"answers": ["a"], "schema": {}}, "not both"),
        ({"answers": ["no", " "]}, "answer 2 of answers=, ' ', has no tokens"),
        ({"answers": ["a" * 40]}, r"answer 1 .* has \d+ tokens, and an answer at most 7; allow more by longest="),
        ({"schema": {"type": "strin"}}, "Invalid type: strin"),
        ({"schema": {"type": "integer", "minimum": 5, "maximum": 3}}, r"minimum \(5\) is greater than maximum"),
        ({"schema": {"enum": []}}, "this schema= cannot be used"),
        ({"schema": {"type": "string", "pattern": "("}}, "unclosed group"),
        ({"schema": {"not": {"type": "string"}}}, "Unimplemented"),
        ({"schema": {"$ref": "#"}}, "this schema= cannot be used: NoExt"),
    ]
    for settings, message in refused:
        with pytest.raises(UsageError, match=message):
            make_constraint(Decoding(**settings), target)
    assert make_constraint(Decoding(beams=2), target) is None
