"""Laws of generation: an answer is what its tokens' probabilities say, alone, beside others, and with kept keys and values."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from generators import SHAPES, TEXTS, examples_of, make_model

from mapsto.inference.generation import MIN_SHARED_TOKENS, generate_answers, stream_text
from mapsto.model.layers import Linear
from mapsto.model.mapping import Mapping
from mapsto.model.matmul import Int4Weight
from mapsto.sequence.batch import Example
from mapsto.sequence.packing import collate
from mapsto.task.generation import Decoding, GeneratedAnswer
from mapsto.text.generated_text import GeneratedTextTarget

CPU = torch.device("cpu")


def answers_of(mapping: Mapping, examples: list[Example], decoding: Decoding | None = None) -> dict[int, Any]:
    return dict(generate_answers(mapping, examples, 0, CPU, decoding))


@torch.inference_mode()
def without_cache(mapping: Mapping, example: Example) -> GeneratedAnswer:
    """Return the greedy answer, with all tokens computed anew for each token."""
    target = mapping.targets[0]
    assert isinstance(target, GeneratedTextTarget)
    tokens: list[int] = []
    total = 0.0
    while True:
        question = target.questions(example.pieces)
        answer = replace(question, piece=target.answer_piece(tokens), at=question.at + len(tokens))
        (logits,) = mapping(collate([Example(example.pieces, (answer,))]))
        logits[:, list(target.banned)] = -torch.inf
        best = logits[0].float().log_softmax(0).max(0)
        total += float(best.values)
        if int(best.indices) == target.ends[0]:
            return GeneratedAnswer(tuple(tokens), total, True)
        tokens.append(int(best.indices))
        if len(tokens) == target.longest:
            return GeneratedAnswer(tuple(tokens), total, False)


@pytest.mark.parametrize("cross", [False, True], ids=["prefix", "cross"])
@pytest.mark.parametrize("shape", SHAPES)
def test_an_answer_is_the_same_with_kept_keys_and_without(shape: str, cross: bool) -> None:
    mapping = make_model(shape, cross)
    examples = examples_of(mapping)
    generated = answers_of(mapping, examples)
    assert len({answer.tokens for (answer,) in generated.values()}) > 1, "the answers do not depend on the sources"
    for example in examples:
        expected, (answer,) = without_cache(mapping, example), generated[example.row]
        assert (answer.tokens, answer.is_ended) == (expected.tokens, expected.is_ended)
        assert answer.log_probability == pytest.approx(expected.log_probability, abs=1e-3)


@pytest.mark.parametrize("cross", [False, True], ids=["prefix", "cross"])
@pytest.mark.parametrize("precision", ["bf16", "int4"])
def test_answers_of_a_packed_model_have_the_probabilities_of_its_rounded_weights(precision: str, cross: bool) -> None:
    """Steps with kept keys and values in fp32 are as likely as a pass over all tokens, whatever the format of the weights."""
    if precision == "int4" and torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        pytest.skip("this CPU has no fast products with weights of 4 bits")
    mapping = make_model("grouped", cross).for_prediction(CPU, precision)
    is_quantized = [isinstance(layer.packed, Int4Weight) for layer in mapping.modules() if isinstance(layer, Linear)]
    assert any(is_quantized) == (precision == "int4")
    for example in examples_of(mapping):
        (answer,) = answers_of(mapping, [example])[example.row]
        with torch.inference_mode():
            target = mapping.targets[0]
            assert isinstance(target, GeneratedTextTarget)
            total, ends = 0.0, [target.ends[0]] if answer.is_ended else []
            for place, token in enumerate([*answer.tokens, *ends]):
                question = target.questions(example.pieces)
                known = replace(
                    question, piece=target.answer_piece(list(answer.tokens[:place])), at=question.at + place
                )
                (logits,) = mapping(collate([Example(example.pieces, (known,))]))
                logits[:, list(target.banned)] = -torch.inf
                total += float(logits[0].float().log_softmax(0)[token])
        assert answer.log_probability == pytest.approx(total, abs=0.05 * (1 + abs(total)))


@pytest.mark.parametrize("cross", [False, True], ids=["prefix", "cross"])
@pytest.mark.parametrize(
    "decoding", [Decoding(), Decoding(beams=3), Decoding(samples=2, seed=5)], ids=["greedy", "beams", "samples"]
)
def test_an_answer_does_not_depend_on_its_neighbours(
    decoding: Decoding, cross: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    mapping = make_model("rotary", cross)
    examples = examples_of(mapping)
    together = answers_of(mapping, examples, decoding)
    # With few places, examples wait for those before them to end.
    monkeypatch.setattr("mapsto.inference.generation.ANSWERS_AT_ONCE", 2)
    refilled = answers_of(mapping, examples, decoding)
    for example in examples:
        (alone,) = answers_of(mapping, [example], decoding).values()
        for others in (together, refilled):
            assert [answer.tokens for answer in others[example.row]] == [answer.tokens for answer in alone]


@pytest.mark.parametrize(
    "decoding", [Decoding(), Decoding(beams=3), Decoding(samples=2, seed=5)], ids=["greedy", "beams", "samples"]
)
@pytest.mark.parametrize("shape", ["causal", "causal, absolute"])
def test_prompts_that_begin_alike_are_answered_as_alone(
    shape: str, decoding: Decoding, monkeypatch: pytest.MonkeyPatch
) -> None:
    mapping = make_model(shape, cross=False)
    instruction = "translate what follows, and nothing else, 翻译下面的句子: "
    pieces = mapping.sources["text"].encode([instruction + text for text in TEXTS], 0)
    examples = [Example((piece,), (mapping.targets[0].questions((piece,)),), row) for row, piece in enumerate(pieces)]
    num_tokens: list[int] = []
    embed = mapping.embed
    monkeypatch.setattr(mapping, "embed", lambda batch: (num_tokens.append(batch.real_tokens), embed(batch))[1])
    together = answers_of(mapping, examples, decoding)
    read_once, separately = sum(num_tokens), sum(len(piece) + 1 for piece in pieces)
    assert read_once <= separately - (len(pieces) - 1) * MIN_SHARED_TOKENS
    for example in examples:
        (alone,) = answers_of(mapping, [example], decoding).values()
        assert [answer.tokens for answer in together[example.row]] == [answer.tokens for answer in alone]


def test_a_wide_beam_finds_the_likeliest_answer() -> None:
    """Among all answers of up to two tokens, scored one by one."""
    mapping = make_model("rotary", False)
    target = mapping.targets[0]
    assert isinstance(target, GeneratedTextTarget)
    (example,) = examples_of(mapping)[:1]
    allowed = sorted({3, target.ends[0], 7, 11, 13})
    target.banned = tuple(sorted(set(range(mapping.sources["text"].vocabulary)) - set(allowed)))  # type: ignore[attr-defined]
    (best, *_) = answers_of(mapping, [example], Decoding(beams=25, longest=2, length_penalty=1.0))[0]
    log_probabilities: dict[tuple[int, ...], float] = {}
    words = [token for token in allowed if token != target.ends[0]]
    with torch.inference_mode():
        for tokens in [(), *((a,) for a in words)]:
            answer = replace(
                target.questions(example.pieces),
                piece=target.answer_piece(tokens),
                at=torch.tensor([len(tokens)]).numpy(),
            )
            (logits,) = mapping(collate([Example(example.pieces, (answer,))]))
            logits[:, list(target.banned)] = -torch.inf
            scores = logits[0].float().log_softmax(0)
            start = log_probabilities.get(tokens, 0.0)
            log_probabilities |= {(*tokens, token): start + float(scores[token]) for token in allowed}
    # An answer at the limit counts without an end.
    scores_of = {
        tokens[:-1] if tokens[-1] == target.ends[0] else tokens: value / len(tokens)
        for tokens, value in log_probabilities.items()
        if tokens[-1] == target.ends[0] or len(tokens) == 2
    }
    assert best.tokens == max(scores_of, key=scores_of.__getitem__)


def test_greedy_is_a_beam_of_one_and_streams_the_same_text() -> None:
    mapping = make_model("rotary", True)
    target = mapping.targets[0]
    assert isinstance(target, GeneratedTextTarget)
    for example in examples_of(mapping):
        ((answer,),) = answers_of(mapping, [example]).values()
        parts = list(stream_text(mapping, example, CPU, Decoding()))
        assert "".join(parts) == target.to_value(answer.tokens)
        assert parts


def test_samples_depend_on_the_seed_and_follow_the_probabilities() -> None:
    mapping = make_model("rotary", False)
    examples = examples_of(mapping)[:1]
    first, again, other = (answers_of(mapping, examples, Decoding(samples=8, seed=seed))[0] for seed in (1, 1, 2000))
    assert first == again
    assert first != other
    # Another seed gives other samples, not the same ones in another order.
    shifted = answers_of(mapping, examples, Decoding(samples=8, seed=2))[0]
    assert not {answer.tokens for answer in first} & {answer.tokens for answer in shifted}
    # At a low temperature every sample is the greedy answer.
    cold = answers_of(mapping, examples, Decoding(samples=3, temperature=1e-4))[0]
    assert {answer.tokens for answer in cold} == {answers_of(mapping, examples)[0][0].tokens}
