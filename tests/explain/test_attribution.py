"""Explanations: equal to the reference, complete, in raw coordinates, and measured against chance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import LABELS, TEXTS, make_model
from runs import run, sentences

import mapsto
from mapsto.data.table import read_table
from mapsto.explain.attnlrp import AttnLRP
from mapsto.explain.attribution import METHODS, Explainer, split_parts
from mapsto.model.config import TransformerConfig
from mapsto.model.layers import ACTIVATIONS, Activation
from mapsto.model.transformer import FeedForward
from mapsto.progress import Progress
from mapsto.sequence.packing import collate

CPU = torch.device("cpu")


def explainer(folder: Path, method: str, **options: Any) -> Explainer:
    return Explainer(mapsto.load(folder, precision="fp32").mapping, CPU, method, **options)


@pytest.fixture(scope="module")
def clf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose answer depends on one word."""
    folder = tmp_path_factory.mktemp("explained") / "clf"
    rows = [{"text": text, "label": "cold" if "winter" in text else "warm"} for text in sentences(400)]
    mapsto.fit("text -> label", rows, folder, layers=2, width=64, vocabulary=300, epochs=12, balance=True)
    return folder


@pytest.mark.parametrize("shape", ["bert", "distilbert", "electra"])
def test_integrated_gradients_equal_captum(shape: str, tmp_path: Path) -> None:
    from captum.attr import IntegratedGradients

    reference = make_model(shape, "label", tmp_path / "model")
    explained = explainer(tmp_path / "model", "integrated", steps=20)
    rows = explained.read(read_table([{"text": text} for text in TEXTS]))
    examples = explained.examples(rows)
    outputs = explained.outputs(examples)
    token_weights = explained.token_weights(examples, outputs)
    embeddings = reference.get_input_embeddings()
    for example, weights, output in zip(examples, token_weights, outputs, strict=True):
        ids = torch.from_numpy(example.pieces[0].tokens)[None]
        base = torch.from_numpy(explained.blank(example).pieces[0].tokens)[None]

        def answer_score(embedded: torch.Tensor, output: torch.Tensor = output) -> torch.Tensor:
            logits = reference(inputs_embeds=embedded).logits
            return explained.target.answer_score(logits, output[None].expand(len(logits), -1))

        expected = IntegratedGradients(answer_score).attribute(
            embeddings(ids), embeddings(base), n_steps=20, method="gausslegendre"
        )
        assert np.allclose(weights, expected.sum(-1)[0].detach().numpy(), atol=1e-4)


def test_integrated_gradients_are_complete(clf: Path) -> None:
    rows = [{"text": text} for text in sentences(6, 3)]
    for explanation in mapsto.load(clf, precision="fp32").explain(rows, "integrated", steps=100):
        total = sum(part.weight for part in explanation.parts)
        assert (
            explanation.completeness_gap is not None
            and abs(explanation.completeness_gap) < 0.02 * abs(explanation.score - explanation.baseline_score) + 0.01
        )
        assert total == pytest.approx(
            explanation.score - explanation.baseline_score + explanation.completeness_gap, abs=1e-3
        )


@pytest.mark.parametrize("shape", ["bert", "modernbert", "electra", "llama:grouped", "qwen3"])
def test_relevance_leaves_the_forward_pass_unchanged(shape: str, tmp_path: Path) -> None:
    make_model(shape, "label", tmp_path / "model")
    explained = explainer(tmp_path / "model", "relevance")
    batch = collate(explained.examples(explained.read(read_table([{"text": text} for text in TEXTS]))))
    x = explained.mapping.embed(batch).detach()
    expected = explained.mapping.hidden(batch, x)
    with AttnLRP():
        hidden = explained.mapping.hidden(batch, x)
    assert torch.allclose(expected, hidden, atol=1e-5)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("gated", [False, True])
def test_relevance_of_linear_maps_and_norms_is_conserved(activation: Activation, gated: bool) -> None:
    """Without residual connections and biases, relevances sum to the output."""
    torch.manual_seed(0)
    x = torch.randn(5, 8, requires_grad=True)
    feed = FeedForward(TransformerConfig(width=8, feed_forward_width=6, activation=activation, gated=gated))
    with AttnLRP():
        out = feed(torch.nn.functional.layer_norm(x, [8], eps=0.0))
        (gradient,) = torch.autograd.grad(out.sum(), x)
    assert torch.allclose((x * gradient).sum(), out.sum(), atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_the_deciding_word_has_the_largest_weight(clf: Path, method: str) -> None:
    text = "old river winter times mill 今天 天气"
    explanations = mapsto.load(clf, precision="fp32").explain(text, method)
    (explanation,) = explanations
    assert explanation.answer["label"] == "cold"
    best = max(explanation.parts, key=lambda part: part.weight)
    ((start, end),) = best.region
    assert text[start:end] == best.text
    if method != "gradient":  # which is known not to be faithful
        assert best.text == "winter"
    answer = mapsto.load(clf, precision="fp32")(text)
    assert explanation.score == pytest.approx(np.log(answer["probability"] / (1 - answer["probability"])), abs=1e-3)


def test_faithful_explanations_are_significantly_better_than_random(clf: Path) -> None:
    rows = [{"text": text} for text in sentences(60, 9)]
    faithfulness = mapsto.load(clf).explain(rows[:3], sample=rows).faithfulness
    assert faithfulness is not None and faithfulness.num_examples == 60 and faithfulness.better_than_random
    assert faithfulness.comprehensiveness.over_reversed.low > faithfulness.comprehensiveness.over_random.low > 0
    of_one = mapsto.load(clf).explain(rows[:1]).faithfulness
    assert of_one is not None and of_one.better_than_random is None and "cannot be measured" in of_one.verdict


@pytest.mark.parametrize(
    ("kind", "answers", "quantity"),
    [
        ("label", ["cold", "warm"], "probability"),
        ("labels", [["cold"], []], "log-odds"),
        ("number", [30.0, 10.0], "value"),
    ],
)
def test_the_score_explained_is_of_the_given_answer(
    kind: str, answers: list[Any], quantity: str, tmp_path: Path
) -> None:
    """Explained are also empty sets of labels, and numbers in their own unit; faithfulness names its quantity."""
    rows = [{"text": text, kind: answers["winter" not in text]} for text in sentences(200)]
    model = mapsto.fit(f"text -> {kind}", rows, tmp_path / "model", layers=1, width=64, vocabulary=300, epochs=8)
    texts = ["old river winter times mill", "old river hope times mill"]
    result = mapsto.load(tmp_path / "model", precision="fp32").explain(texts, sample=rows[:30])
    assert result.faithfulness is not None and f"the answer's {quantity} by" in result.faithfulness.verdict
    for text, explanation, expected in zip(texts, result, answers, strict=True):
        (winter,) = [part.weight for part in explanation.parts if part.text in ("winter", "hope")]
        if kind == "number":
            assert explanation.score == pytest.approx(explanation.answer["number"], abs=1e-3)
            assert (winter > 0) == (text == texts[0])
        else:
            assert explanation.answer[kind] == expected and explanation.score > 0
        assert explanation.summary.split(", 0.")[0] == model.mapping.targets[0].brief(explanation.answer[kind])


def test_random_weights_are_not_faithful(tmp_path: Path) -> None:
    """Random weights are not better than random, and the verdict says so."""
    make_model("bert", "label", tmp_path / "model")
    explained = explainer(tmp_path / "model", "relevance")
    explained.token_weights = lambda examples, outputs: [  # type: ignore[method-assign]
        np.random.default_rng(len(e)).normal(size=len(e)).astype(np.float32) for e in examples
    ]
    from mapsto.explain.faithfulness import measure_faithfulness

    faithfulness = measure_faithfulness(
        explained, explained.read(read_table([{"text": text} for text in sentences(60)]))
    )
    assert (
        faithfulness is not None
        and not faithfulness.better_than_random
        and "NOT better than random" in faithfulness.verdict
    )


def test_removing_a_part_equals_reading_the_rest(clf: Path) -> None:
    explained = explainer(clf, "occlusion")
    (example,) = explained.examples(explained.read(read_table([{"text": "old river winter"}])))
    parts = split_parts(example)
    assert len(parts) == 3
    removed = explained.remove_parts(example, [parts[1]])
    (expected,) = explained.examples(explained.read(read_table([{"text": "old winter"}])))
    assert np.array_equal(removed.pieces[0].tokens, expected.pieces[0].tokens)
    assert np.array_equal(removed.pieces[0].positions, expected.pieces[0].positions)


def test_the_command_line(clf: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(
        "text\n" + "\n".join(f"{text} <i>&" for text in sentences(20, 4)) + "\n", encoding="utf-8"
    )
    screen = run("explain", str(clf), "old river winter times", "--sample", str(tmp_path / "rows.csv"))
    assert screen.returncode == 0 and "winter" in screen.stdout and "on 20 examples" in screen.stdout
    page = run("explain", str(clf), str(tmp_path / "rows.csv"), "--out", str(tmp_path / "why.html"))
    assert page.returncode == 0 and "wrote 20 explanations" in page.stderr
    html = (tmp_path / "why.html").read_text(encoding="utf-8")
    assert html.count("<mark class=") > 60 and "&lt;" in html and "<i>" not in html
    rows = run("explain", str(clf), str(tmp_path / "rows.csv"), "--out", str(tmp_path / "why.jsonl"))
    assert rows.returncode == 0
    first = json.loads((tmp_path / "why.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert first["row"] == 2 and {"text", "region", "weight", "port"} <= first["parts"][0].keys()
    process = run("explain", str(clf), "old river winter", "--json")
    record = json.loads(process.stdout, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert record["explanations"][0]["answer"]["label"] in ("cold", "warm")
    assert record["faithfulness"]["deletion"]["over_random"]["low"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["text", "--method", "relevence"], "did you mean 'relevance'"),
        (["text", "--out", "why.csv"], ".html or .jsonl"),
        (["missing.csv"], "missing.csv"),
        ([" "], "no row can be read:\n  data, row 1, column 'text': ' ': the text is blank"),
        ([""], "the text is blank"),
        (["text", "--steps", "0"], "above 0"),
    ],
)
def test_wrong_arguments_are_refused(clf: Path, arguments: list[str], message: str) -> None:
    process = run("explain", str(clf), *arguments)
    assert process.returncode in (1, 2) and message in process.stderr and "Traceback" not in process.stderr


def test_a_row_that_cannot_be_read_costs_its_own_explanation(clf: Path, tmp_path: Path) -> None:
    table, out = tmp_path / "asked.csv", tmp_path / "why.jsonl"
    table.write_text('text\nwinter by the river\n" "\nsummer on the hill\n')
    process = run("explain", str(clf), str(table), "--out", str(out))
    assert process.returncode == 0 and "row 3, column 'text': ' ': the text is blank" in process.stderr
    records = list(map(json.loads, out.read_text().splitlines()))
    assert [row["row"] for row in records] == [2, 4, 3]
    assert [row["error"] for row in records] == [None, None, "the text is blank"] and records[2]["parts"] is None


def test_a_text_that_names_a_folder_is_a_text_and_a_long_one_is_counted_as_cut(
    clf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "winter").mkdir()
    assert mapsto.load(clf).explain("winter")[0].parts[0].text == "winter"
    long = mapsto.load(clf).explain(["winter", "river mill " * 600])
    assert long.num_cut == 1 and len(long[1].parts) < 1200


def test_chunks_of_rows_give_the_same_explanations(clf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reports: list[tuple[str, int, int]] = []

    class RecordingProgress(Progress):
        def rows(self, what: str, done: int, total: int) -> None:
            reports.append((what, done, total))

    texts = [*sentences(9, 4), "river mill " * 600]
    at_once = mapsto.load(clf, "cpu").explain(texts, progress=RecordingProgress())
    assert not reports, "a single chunk reports no progress"
    monkeypatch.setattr("mapsto.explain.attribution.EXPLAINED_AT_ONCE", 4)
    monkeypatch.setattr("mapsto.explain.faithfulness.EXPLAINED_AT_ONCE", 4)
    monkeypatch.setattr("mapsto.explain.faithfulness.MEASURED_AT_ONCE", 4)
    in_chunks = mapsto.load(clf, "cpu").explain(texts, progress=RecordingProgress())
    assert [done for what, done, _ in reports if what == "measured on"] == [4, 8, 10]
    assert reports[-1] == ("explained", 10, 10) and in_chunks.num_cut == at_once.num_cut == 1
    for chunked, unchunked in zip(in_chunks.explanations, at_once.explanations, strict=True):
        weights = [[part.weight for part in explanation.parts] for explanation in (chunked, unchunked)]
        assert weights[0] == pytest.approx(weights[1], abs=1e-4)
    assert in_chunks.faithfulness is not None and at_once.faithfulness is not None
    for name in ("comprehensiveness", "sufficiency", "deletion"):
        measures = [getattr(result.faithfulness, name) for result in (in_chunks, at_once)]
        assert measures[0].over_random.value == pytest.approx(measures[1].over_random.value, abs=1e-4)


def test_answers_that_cannot_be_explained(tmp_path: Path) -> None:
    make_model("bert", "text", tmp_path / "model")
    with pytest.raises(mapsto.MapstoError, match="answers such as labels can be explained"):
        mapsto.load(tmp_path / "model").explain("a text")
    assert LABELS
