"""Options of training: frozen layers, LoRA, layer-wise rates, label smoothing and averaging do what they say."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mappings import CPU, small_mapping
from models import SHAPES, TEXTS, make_model, pad_texts
from runs import sentences
from trainings import TINY_OPTIONS, make_plan
from transformers import AutoConfig, AutoModelForSequenceClassification

import mapsto
from mapsto import kinds, zoo
from mapsto.errors import UsageError
from mapsto.fitting.freeze import freeze_weights
from mapsto.fitting.starting_model import StartingModel
from mapsto.model import lora
from mapsto.options import Options
from mapsto.training.loop import Training
from mapsto.training.optimizer import Optimizers, layer_rate_factors
from mapsto.training.plan import RunContext

ROWS = [{"text": text, "label": "ab"["winter" in text]} for text in sentences(60)]


def trained(rate: float = 1e-3, **options: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    """Train a mapping for a few steps; return it and its weights before them."""
    mapping, examples = small_mapping("text:text -> label")
    freeze_weights(mapping, Options(**options), StartingModel(tensors={}))
    before = {name: p.detach().clone() for name, p in mapping.named_parameters()}
    Training(mapping, examples, make_plan(rate=rate), RunContext(CPU)).run()
    return mapping, before


@pytest.mark.parametrize(
    ("freeze", "frozen"),
    [
        ("0", ("embedders.", "transformer.embedding_norm.")),
        ("1", ("embedders.", "transformer.embedding_norm.", "transformer.blocks.0.")),
        ("all", ("embedders.", "transformer.")),
    ],
)
def test_frozen_weights_stay_and_the_others_learn(freeze: str, frozen: tuple[str, ...]) -> None:
    mapping, before = trained(freeze=freeze)
    for name, parameter in mapping.named_parameters():
        assert torch.equal(parameter, before[name]) == name.startswith(frozen), name


def test_what_cannot_be_frozen_is_said() -> None:
    base = mapsto.fit("text -> label", ROWS, steps=1, **TINY_OPTIONS)
    for given, says in (
        ({"freeze": "3"}, "more than the 2 layers"),
        ({"freeze": "1", "lora": 2}, "not both"),
        ({"freeze": "half"}, "a number of layers, or all"),
        ({"freeze": "-1"}, "a number of layers, or all"),
        ({"lora": 0}, "above 0"),
    ):
        with pytest.raises(UsageError, match=says):
            mapsto.fit("text -> label", ROWS, start=base, device="cpu", **given)
    for given in ({"freeze": "all"}, {"lora": 2}):
        with pytest.raises(UsageError, match="needs a start="):
            mapsto.fit("text -> label", ROWS, **given, **TINY_OPTIONS)
    with pytest.raises(UsageError, match="pretraining changes all"):
        mapsto.pretrain("text", [{"text": row["text"]} for row in ROWS], start=base, lora=2, device="cpu")


@pytest.mark.parametrize(("arrow", "objective"), [("text:text -> label", "masked"), ("~image -> image", "mae")])
def test_each_layer_learns_at_its_share(arrow: str, objective: str) -> None:
    mapping, _ = small_mapping(arrow, objective)
    shares = layer_rate_factors([name for name, _ in mapping.named_parameters()], 0.5)
    for name, share in shares.items():
        expected = 1.0 if name.startswith(("heads.", "pooler.", "decoder.", "transformer.final_norm.")) else 0.5
        expected = (
            0.25 if name.startswith("transformer.blocks.0.") else 0.125 if name.startswith("embedders.") else expected
        )
        assert share == (0.125 if "embedding_norm" in name else expected), name
    assert set(layer_rate_factors(shares, 1.0).values()) == {1.0}
    faster = {name for name, share in layer_rate_factors(shares, 1.0, head=10.0).items() if share == 10.0}
    assert faster == {name for name in shares if name.startswith("heads.")} != set()
    for kind in ("adamw", "muon"):
        optimizers = Optimizers(mapping, kind, 1e-2, layer_decay=0.5)  # type: ignore[arg-type]
        found = {}
        for group in chain(*(optimizer.param_groups for optimizer in optimizers.optimizers)):
            for parameter in group["params"]:
                found[optimizers.names[id(parameter)]] = group["peak"]
        for name, parameter in ((n, p) for n, p in mapping.named_parameters() if n not in mapping.fixed):
            small = kind == "muon" and not (".blocks." in name and parameter.ndim == 2)
            assert found[name] == pytest.approx(shares[name] * (2e-3 if small else 1e-2)), name


@pytest.mark.parametrize("weights", [None, [0.5, 1.0, 2.5]])
def test_smoothing_is_that_of_torch_and_is_not_saved(weights: list[float] | None) -> None:
    target = kinds.target("label")(classes=["a", "b", "c"], weights=weights)
    logits, truth = torch.randn(7, 3), torch.tensor([0, 1, 2, 2, 1, 0, 1])
    hard = target.loss(logits, truth)
    target.label_smoothing = 0.1
    expected = F.cross_entropy(logits, truth, reduction="sum", label_smoothing=0.1)
    if weights is not None:
        # Balanced: the logits are adjusted by the classes' shares of the rows, by which the smoothing is spread as well.
        shares = 1 / torch.tensor(weights)
        shares /= shares.sum()
        soft = 0.9 * F.one_hot(truth, 3) + 0.1 * shares
        expected = F.cross_entropy(logits + shares.log(), soft, reduction="sum")
    torch.testing.assert_close(target.loss(logits, truth), expected)
    assert float(target.loss(logits, truth)) != float(hard) and "smooth" not in target.state()


def test_smoothing_reaches_the_loss_of_a_run() -> None:
    found = [mapsto.fit("text -> label", ROWS, steps=6, smooth=smooth, **TINY_OPTIONS) for smooth in (0.0, 0.2)]
    assert not torch.equal(found[0].mapping.heads[0].weight, found[1].mapping.heads[0].weight)
    with pytest.raises(UsageError, match="smooth= is for classes"):
        mapsto.pretrain("text", [{"text": row["text"]} for row in ROWS], steps=1, smooth=0.1, **TINY_OPTIONS)


@pytest.mark.parametrize(("asked", "averages"), [(None, False), (True, True), (False, False)])
def test_fitting_averages_when_told(asked: bool | None, averages: bool, tmp_path: Path) -> None:
    mapsto.fit("text -> label", ROWS, tmp_path / "run", steps=10, hold_out=0.2, average=asked, **TINY_OPTIONS)
    planned = json.loads((tmp_path / "run" / "run.json").read_text())["plan"]
    assert planned["average"] is averages and (planned["watch_every"] == 0) is averages
    state = json.loads((tmp_path / "run" / "checkpoints" / "step-00000010" / "state.json").read_text())
    assert state["averaged"] == (2 if averages else 0)


def test_updates_learn_and_the_weights_beside_them_stay() -> None:
    mapping, before = trained(lora=4)
    moved = {name for name, p in mapping.named_parameters() if not torch.equal(p, before[name])}
    assert {name for name in moved if name.startswith(("embedders.", "transformer."))} == {
        name for name in before if ".lora_" in name
    }
    assert len([name for name in moved if ".lora_" in name]) == 2 * 4 * 2, "A and B of four maps in two layers"


def test_merged_equals_unmerged() -> None:
    mapping, _ = trained(rate=1e-2, lora=4)
    _, examples = small_mapping("text:text -> label")
    from mapsto.sequence.packing import collate

    batch = collate([examples.example(row, 0, 0.0) for row in range(8)])
    start, _ = small_mapping("text:text -> label")
    apart = mapping.eval()(batch)[0]
    names = {name for name, _ in start.named_parameters()}
    updates = lora.merge(mapping)
    assert {name for name, _ in mapping.named_parameters()} == names and len(updates) == 8
    torch.testing.assert_close(mapping(batch)[0], apart, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(start.eval()(batch)[0], apart, atol=1e-3), "the updates must do something"
    for name, update in updates.items():
        change = mapping.get_submodule(name).weight - start.get_submodule(name).weight
        torch.testing.assert_close(change, 2 * update.b @ update.a, atol=1e-6, rtol=1e-4)
        assert torch.linalg.matrix_rank(change, atol=1e-5) <= 4


@pytest.mark.parametrize("task", ["body", "label"])
@pytest.mark.parametrize(
    "family",
    [name for name in zoo.family_names() if name in SHAPES],
)
def test_peft_opens_the_adapter_over_the_start(family: str, task: str, tmp_path: Path) -> None:
    """Compare models read at the normalised mean (a body of post-norm layers) or as published (with a classifier)."""
    peft = pytest.importorskip("peft")
    make_model(family, task, tmp_path / "start")
    rows = [{"text": text, "label": ["negative", "neutral", "positive"][i % 3]} for i, text in enumerate(TEXTS * 3)]
    given = {"start": tmp_path / "start", "device": "cpu", "precision": "fp32", "method": "full"}
    clf = mapsto.fit("text -> label", rows, tmp_path / "run", lora=4, steps=10, rate=1e-2, **given)
    config = AutoConfig.from_pretrained(tmp_path / "run")
    base = AutoModelForSequenceClassification.from_pretrained(tmp_path / "start", config=config)
    inputs = pad_texts(tmp_path / "run", TEXTS)
    adapted = peft.PeftModel.from_pretrained(base, tmp_path / "run" / "adapter").eval()
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run").eval()
    with torch.no_grad():
        theirs = adapted(**inputs).logits
        torch.testing.assert_close(theirs, merged(**inputs).logits, atol=1e-5, rtol=1e-4)
    ours = torch.tensor([list(answer["scores"].values()) for answer in clf.predict(TEXTS)])
    torch.testing.assert_close(theirs.softmax(-1), ours, atol=1e-5, rtol=1e-4)
    said = json.loads((tmp_path / "run" / "adapter" / "adapter_config.json").read_text())
    assert said["r"] == 4 and said["base_model_name_or_path"] == str(tmp_path / "start")
