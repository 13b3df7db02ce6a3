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


def explainer(folder: Path, method: str, **given: Any) -> Explainer:
    return Explainer(mapsto.load(folder, precision="fp32").mapping, CPU, method, **given)


@pytest.fixture(scope="module")
def clf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that goes by one word."""
    folder = tmp_path_factory.mktemp("explained") / "clf"
    rows = [{"text": text, "label": "cold" if "winter" in text else "warm"} for text in sentences(400)]
    mapsto.fit("text -> label", rows, folder, layers=2, width=64, vocabulary=300, epochs=12, balance=True)
    return folder


@pytest.mark.parametrize("shape", ["bert", "distilbert", "electra"])
def test_integrated_gradients_equal_captum(shape: str, tmp_path: Path) -> None:
    from captum.attr import IntegratedGradients

    reference = make_model(shape, "label", tmp_path / "model")
    ours = explainer(tmp_path / "model", "integrated", steps=20)
    rows = ours.read(read_table([{"text": text} for text in TEXTS]))
    examples = ours.examples(rows)
    outputs = ours.outputs(examples)
    found = ours.token_weights(examples, outputs)
    table = reference.get_input_embeddings()
    for example, weights, output in zip(examples, found, outputs, strict=True):
        ids = torch.from_numpy(example.pieces[0].tokens)[None]
        base = torch.from_numpy(ours.blank(example).pieces[0].tokens)[None]

        def told(embedded: torch.Tensor, output: torch.Tensor = output) -> torch.Tensor:
            logits = reference(inputs_embeds=embedded).logits
            return ours.target.answer_score(logits, output[None].expand(len(logits), -1))

        attributed = IntegratedGradients(told).attribute(table(ids), table(base), n_steps=20, method="gausslegendre")
        assert np.allclose(weights, attributed.sum(-1)[0].detach().numpy(), atol=1e-4)


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


@pytest.mark.parametrize("shape", ["bert", "modernbert", "electra"])
def test_relevance_computes_the_same_and_differentiates_otherwise(shape: str, tmp_path: Path) -> None:
    make_model(shape, "label", tmp_path / "model")
    ours = explainer(tmp_path / "model", "relevance")
    batch = collate(ours.examples(ours.read(read_table([{"text": text} for text in TEXTS]))))
    x = ours.mapping.embed(batch).detach()
    plain = ours.mapping.hidden(batch, x)
    with AttnLRP():
        held = ours.mapping.hidden(batch, x)
    assert torch.allclose(plain, held, atol=1e-5)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("gated", [False, True])
def test_relevance_of_linear_maps_and_norms_is_conserved(activation: Activation, gated: bool) -> None:
    """Where nothing is added on the way, relevances sum to what they explain."""
    torch.manual_seed(0)
    x = torch.randn(5, 8, requires_grad=True)
    feed = FeedForward(TransformerConfig(width=8, feed_forward_width=6, activation=activation, gated=gated))
    with AttnLRP():
        out = feed(torch.nn.functional.layer_norm(x, [8], eps=0.0))
        (gradient,) = torch.autograd.grad(out.sum(), x)
    assert torch.allclose((x * gradient).sum(), out.sum(), atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_the_word_that_decides_is_found(clf: Path, method: str) -> None:
    text = "old river winter times mill 今天 天气"
    found = mapsto.load(clf, precision="fp32").explain(text, method)
    (explanation,) = found
    assert explanation.answer["label"] == "cold"
    best = max(explanation.parts, key=lambda part: part.weight)
    ((start, end),) = best.region
    assert text[start:end] == best.text
    if method != "gradient":  # which is known not to be faithful
        assert best.text == "winter"
    said = mapsto.load(clf, precision="fp32")(text)
    assert explanation.score == pytest.approx(np.log(said["probability"] / (1 - said["probability"])), abs=1e-3)


def test_faithful_explanations_are_told_from_others(clf: Path) -> None:
    rows = [{"text": text} for text in sentences(60, 9)]
    found = mapsto.load(clf).explain(rows[:3], sample=rows).faithfulness
    assert found is not None and found.num_examples == 60 and found.better_than_random
    assert found.comprehensiveness.over_reversed.low > found.comprehensiveness.over_random.low > 0
    alone = mapsto.load(clf).explain(rows[:1]).faithfulness
    assert alone is not None and alone.better_than_random is None and "cannot be measured" in alone.verdict


@pytest.mark.parametrize(
    ("kind", "answers", "of"),
    [
        ("label", ["cold", "warm"], "probability"),
        ("labels", [["cold"], []], "log-odds"),
        ("number", [30.0, 10.0], "value"),
    ],
)
def test_what_is_explained_is_the_answer_that_was_given(kind: str, answers: list[Any], of: str, tmp_path: Path) -> None:
    """Also that nothing applies, and a number in its own units; faithfulness calls by its name what it is measured in."""
    rows = [{"text": text, kind: answers["winter" not in text]} for text in sentences(200)]
    model = mapsto.fit(f"text -> {kind}", rows, tmp_path / "model", layers=1, width=64, vocabulary=300, epochs=8)
    texts = ["old river winter times mill", "old river hope times mill"]
    found = mapsto.load(tmp_path / "model", precision="fp32").explain(texts, sample=rows[:30])
    assert found.faithfulness is not None and f"the answer's {of} by" in found.faithfulness.verdict
    for text, explanation, expected in zip(texts, found, answers, strict=True):
        (winter,) = [part.weight for part in explanation.parts if part.text in ("winter", "hope")]
        if kind == "number":
            assert explanation.score == pytest.approx(explanation.answer["number"], abs=1e-3)
            assert (winter > 0) == (text == texts[0])
        else:
            assert explanation.answer[kind] == expected and explanation.score > 0
        assert explanation.summary.split(", 0.")[0] == model.mapping.targets[0].brief(explanation.answer[kind])


def test_an_untrained_model_is_not_called_faithful_for_nothing(tmp_path: Path) -> None:
    """Weights in no relation to the model are no better than random, and it says so."""
    make_model("bert", "label", tmp_path / "model")
    ours = explainer(tmp_path / "model", "relevance")
    ours.token_weights = lambda examples, outputs: [  # type: ignore[method-assign]
        np.random.default_rng(len(e)).normal(size=len(e)).astype(np.float32) for e in examples
    ]
    from mapsto.explain.faithfulness import measure_faithfulness

    found = measure_faithfulness(ours, ours.read(read_table([{"text": text} for text in sentences(60)])))
    assert found is not None and not found.better_than_random and "NOT better than random" in found.verdict


def test_leaving_out_is_reading_what_is_left(clf: Path) -> None:
    ours = explainer(clf, "occlusion")
    (example,) = ours.examples(ours.read(read_table([{"text": "old river winter"}])))
    parts = split_parts(example)
    assert len(parts) == 3
    left = ours.remove_parts(example, [parts[1]])
    (spelt,) = ours.examples(ours.read(read_table([{"text": "old winter"}])))
    assert np.array_equal(left.pieces[0].tokens, spelt.pieces[0].tokens)
    assert np.array_equal(left.pieces[0].positions, spelt.pieces[0].positions)


def test_the_command_line(clf: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(
        "text\n" + "\n".join(f"{text} <i>&" for text in sentences(20, 4)) + "\n", encoding="utf-8"
    )
    shown = run("explain", str(clf), "old river winter times", "--sample", str(tmp_path / "rows.csv"))
    assert shown.returncode == 0 and "winter" in shown.stdout and "on 20 examples" in shown.stdout
    page = run("explain", str(clf), str(tmp_path / "rows.csv"), "--out", str(tmp_path / "why.html"))
    assert page.returncode == 0 and "wrote 20 explanations" in page.stderr
    written = (tmp_path / "why.html").read_text(encoding="utf-8")
    assert written.count("<mark class=") > 60 and "&lt;" in written and "<i>" not in written
    rows = run("explain", str(clf), str(tmp_path / "rows.csv"), "--out", str(tmp_path / "why.jsonl"))
    assert rows.returncode == 0
    first = json.loads((tmp_path / "why.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert first["row"] == 2 and {"text", "region", "weight", "port"} <= first["parts"][0].keys()
    answered = run("explain", str(clf), "old river winter", "--json")
    told = json.loads(answered.stdout, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert told["explanations"][0]["answer"]["label"] in ("cold", "warm")
    assert told["faithfulness"]["deletion"]["over_random"]["low"] is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["text", "--method", "relevence"], "did you mean 'relevance'"),
        (["text", "--out", "why.csv"], ".html or .jsonl"),
        (["missing.csv"], "missing.csv"),
        ([" "], "no row can be read:\n  data, row 1, column 'text': ' ': the text is blank"),
        ([""], "the text is blank"),
        (["text", "--steps", "0"], "above 0"),
    ],
)
def test_what_cannot_be_explained(clf: Path, arguments: list[str], said: str) -> None:
    done = run("explain", str(clf), *arguments)
    assert done.returncode in (1, 2) and said in done.stderr and "Traceback" not in done.stderr


def test_a_row_that_cannot_be_read_costs_its_own_explanation(clf: Path, tmp_path: Path) -> None:
    table, out = tmp_path / "asked.csv", tmp_path / "why.jsonl"
    table.write_text('text\nwinter by the river\n" "\nsummer on the hill\n')
    done = run("explain", str(clf), str(table), "--out", str(out))
    assert done.returncode == 0 and "row 3, column 'text': ' ': the text is blank" in done.stderr
    told = list(map(json.loads, out.read_text().splitlines()))
    assert [row["row"] for row in told] == [2, 4, 3]
    assert [row["error"] for row in told] == [None, None, "the text is blank"] and told[2]["parts"] is None


def test_a_word_is_no_folder_and_a_long_text_is_said_to_be_cut(
    clf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "winter").mkdir()
    assert mapsto.load(clf).explain("winter")[0].parts[0].text == "winter"
    long = mapsto.load(clf).explain(["winter", "river mill " * 600])
    assert long.num_cut == 1 and len(long[1].parts) < 1200


def test_few_rows_at_a_time_are_explained_as_all_at_once(clf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[tuple[str, int, int]] = []

    class Heard(Progress):
        def rows(self, what: str, done: int, total: int) -> None:
            heard.append((what, done, total))

    texts = [*sentences(9, 4), "river mill " * 600]
    whole = mapsto.load(clf, "cpu").explain(texts, progress=Heard())
    assert not heard, "what takes one turn needs no word"
    monkeypatch.setattr("mapsto.explain.attribution.EXPLAINED_AT_ONCE", 4)
    monkeypatch.setattr("mapsto.explain.faithfulness.EXPLAINED_AT_ONCE", 4)
    monkeypatch.setattr("mapsto.explain.faithfulness.MEASURED_AT_ONCE", 4)
    parted = mapsto.load(clf, "cpu").explain(texts, progress=Heard())
    assert [done for what, done, _ in heard if what == "measured on"] == [4, 8, 10]
    assert heard[-1] == ("explained", 10, 10) and parted.num_cut == whole.num_cut == 1
    for one, other in zip(parted.explanations, whole.explanations, strict=True):
        weights = [[part.weight for part in found.parts] for found in (one, other)]
        assert weights[0] == pytest.approx(weights[1], abs=1e-4)
    assert parted.faithfulness is not None and whole.faithfulness is not None
    for name in ("comprehensiveness", "sufficiency", "deletion"):
        measures = [getattr(found.faithfulness, name) for found in (parted, whole)]
        assert measures[0].over_random.value == pytest.approx(measures[1].over_random.value, abs=1e-4)


def test_answers_that_cannot_be_explained(tmp_path: Path) -> None:
    make_model("bert", "text", tmp_path / "model")
    with pytest.raises(mapsto.MapstoError, match="answers such as labels can be explained"):
        mapsto.load(tmp_path / "model").explain("a text")
    assert LABELS
