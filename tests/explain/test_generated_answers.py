"""Explanations of generated answers: the score is that of generation, weights are complete, and one token has its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mapsto
from mapsto.data.table import read_table
from mapsto.errors import UsageError
from mapsto.explain.attribution import METHODS, Explainer
from mapsto.explain.faithfulness import measure_faithfulness
from mapsto.explain.report import explanation_page
from mapsto.inference.forward import question_examples
from mapsto.inference.generation import generate_answers
from mapsto.kinds.text import TextSource
from mapsto.model.config import ModelConfig, TransformerConfig
from mapsto.model.mapping import Mapping
from mapsto.pretrained.huggingface import make_answer_decoder
from mapsto.task.arrow import parse
from mapsto.text.generated_text import GeneratedTextTarget

TEXTS = ["ein Haus am See", "二十只小鸟在树上唱歌", "a", "the quick brown fox jumps over the lazy dog again"]
CPU = torch.device("cpu")
ARCHITECTURES = ["prefix", "encoder-decoder", "causal"]


def make_model(architecture: str) -> Mapping:
    """Return a small model with random weights; a causal one goes on with its source, as published decoders do."""
    torch.manual_seed(0)
    is_causal = architecture == "causal"
    config = TransformerConfig(width=32, layers=2, heads=4, feed_forward_width=48, causal=is_causal)
    decoder = make_answer_decoder(config, 2) if architecture == "encoder-decoder" else None
    source = TextSource.new_reversible(TEXTS * 3, 300)
    target = GeneratedTextTarget(opening=[] if is_causal else None, longest=8)
    arrow = parse("source:text -> answer:text")
    mapping = Mapping(arrow, ModelConfig(transformer=config, answer_decoder=decoder), {"text": source}, [target]).eval()
    with torch.no_grad():
        for parameter in mapping.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)
    return mapping


def rows_of(explainer: Explainer) -> Any:
    return explainer.read(read_table([{"source": text} for text in TEXTS]))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_score_is_the_log_probability_of_generation(architecture: str) -> None:
    mapping = make_model(architecture)
    explainer = Explainer(mapping, CPU)
    rows = rows_of(explainer)
    generated = dict(generate_answers(mapping, question_examples(mapping, explainer._encode(rows)), 0, CPU))
    assert len({answer.tokens for (answer,) in generated.values()}) > 1
    target = mapping.targets[0]
    assert isinstance(target, GeneratedTextTarget)
    for row, explanation in enumerate(explainer.explain(rows)):
        (answer,) = generated[row]
        assert explanation.score == pytest.approx(answer.log_probability, abs=1e-3)
        assert explanation.answer["log_probability"] == pytest.approx(answer.log_probability, abs=1e-3)
        assert explanation.answer["text"] == target.to_value(answer.tokens)
        assert explanation.answer["ended"] == ("end" if answer.is_ended else "limit")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_integrated_gradients_are_complete_and_tokens_add_up(architecture: str) -> None:
    mapping = make_model(architecture)
    whole = Explainer(mapping, CPU, "integrated", steps=200)
    rows = rows_of(whole).select(np.array([0]))
    (explanation,) = whole.explain(rows)
    change = explanation.score - explanation.baseline_score
    assert explanation.completeness_gap == pytest.approx(0, abs=0.05 * abs(change) + 0.05)
    (example,) = whole.examples(rows)
    answer = example.answers[0]
    assert answer is not None
    # The log-probability of an answer is the sum of its tokens', and so are the gradients.
    gradient = Explainer(mapping, CPU, "gradient")
    (total,) = gradient.explain(rows)
    single = [
        next(Explainer(mapping, CPU, "gradient", token=number).explain(rows))
        for number in range(1, len(answer.values) + 1)
    ]
    assert sum(part.score for part in single) == pytest.approx(total.score, abs=1e-3)
    weights = np.array([[part.weight for part in explanation.parts] for explanation in single]).sum(0)
    assert np.allclose(weights, [part.weight for part in total.parts], atol=1e-3)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_every_part_a_weight(architecture: str, method: str) -> None:
    explainer = Explainer(make_model(architecture), CPU, method, steps=5)
    for text, explanation in zip(TEXTS, explainer.explain(rows_of(explainer)), strict=True):
        assert explanation.parts and all(np.isfinite(part.weight) for part in explanation.parts)
        regions = [tuple(part.region[0]) for part in explanation.parts]
        assert all(text[int(a) : int(b)] == part.text for (a, b), part in zip(regions, explanation.parts, strict=True))
        assert len(text) == 1 or any(part.weight for part in explanation.parts)


def test_a_token_that_an_answer_lacks_is_named() -> None:
    mapping = make_model("prefix")
    with pytest.raises(UsageError, match=r"token=99: the answer to .*row 1 is .*a number from 1 to \d"):
        list((explainer := Explainer(mapping, CPU, token=99)).explain(rows_of(explainer)))
    with pytest.raises(UsageError, match="token='没有的': "):
        list((explainer := Explainer(mapping, CPU, token="没有的")).explain(rows_of(explainer)))
    # Rows of the sample without the token do not count.
    assert measure_faithfulness(Explainer(mapping, CPU, token="没有的"), rows_of(explainer)) is None
    label = mapsto.fit("text -> label", [{"text": f"a {i}", "label": i % 2} for i in range(8)], steps=1, vocabulary=300)
    with pytest.raises(UsageError, match="token= names a token of a generated answer"):
        label.explain("a 1", token=1)


COUNTS = {"two": "两", "three": "三", "four": "四", "five": "五"}
THINGS = {"dogs": "只狗", "books": "本书", "cars": "辆车", "houses": "座房"}


@pytest.fixture(scope="module", params=["encoder-decoder", "prefix"])
def translator(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, mapsto.Model]:
    """A model whose every token depends on one word."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("translator") / "model"
    rows = []
    for count, thing in rng.permutation([(count, thing) for count in COUNTS for thing in THINGS] * 12).tolist():
        place = rng.choice(["park", "city", "garden"])
        rows.append({"en": f"the {place} has {count} {thing}", "zh": f"{COUNTS[count]}{THINGS[thing]}"})
    model = mapsto.fit(
        "en:text -> zh:text", rows, folder, architecture=request.param, layers=2, width=64, heads=2, vocabulary=300,
        steps=150, batch=32,
    )  # fmt: skip
    return folder, model


def test_the_deciding_words_have_the_largest_weights(translator: tuple[Path, mapsto.Model]) -> None:
    _, model = translator
    rows = [{"en": f"the city has {count} {thing}"} for count in COUNTS for thing in THINGS]
    explanations = model.explain(rows, "occlusion")
    is_right = [
        {part.text for part in sorted(explanation.parts, key=lambda part: -part.weight)[:2]} == set(row["en"].split()[-2:])
        for row, explanation in zip(rows, explanations, strict=True)
    ]  # fmt: skip
    assert np.mean(is_right) > 0.7
    assert explanations.faithfulness is not None and explanations.faithfulness.better_than_random
    assert explanations.faithfulness.quantity == "log-probability"


def test_one_token_is_explained_by_its_own_word(translator: tuple[Path, mapsto.Model]) -> None:
    folder, model = translator
    answer = model("the city has three books")["text"]
    (explanation,) = model.explain("the city has three books", "occlusion", token="三")
    assert answer == "三本书" and "三" in explanation.summary and explanation.summary.endswith("in '三本书'")
    assert max(explanation.parts, key=lambda part: part.weight).text == "three"
    page = explanation_page(model.explain(["the city has three books"]), "model").html()
    assert "三本书" in page and "<mark" in page
    command = ["explain", str(folder), "the city has three books", "--token", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "mapsto", *command], capture_output=True, text=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0 and "in '三本书'" in done.stdout and "log-probability" in done.stdout, done.stderr
