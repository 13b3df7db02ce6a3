"""Replaced-token detection (ELECTRA): sampled tokens, their labels, and the model that remains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from mappings import CPU, small_mapping
from runs import sentences

import mapsto
from mapsto.sequence.packing import collate
from mapsto.training.loop import Training
from mapsto.training.objectives.replaced_token_detection import ReplacedTokenDetection, replace_tokens, sample_tokens
from mapsto.training.plan import Plan, RunContext

TEXTS = [{"text": text} for text in sentences(80)]
SMALL = {"layers": 3, "width": 64, "heads": 2, "vocabulary": 300, "device": "cpu"}


def test_sampled_tokens_replace_masked_ones_and_are_labelled() -> None:
    _, examples = small_mapping("~text -> text")
    batch = collate([examples.example(i, 0, 0.0) for i in range(8)])
    readout = batch.answers[0]
    assert readout is not None and readout.at is not None
    sampled = readout.values.clone()
    sampled[::2] = (sampled[::2] + 1) % 300
    filled, is_replaced = replace_tokens(batch, "text", readout, sampled)
    whole = torch.cat([torch.from_numpy(examples.pieces[i][0].tokens) for i in range(8)])
    assert torch.equal(is_replaced.bool(), filled.tokens["text"] != whole)
    assert int(is_replaced.sum()) == len(sampled[::2])
    again, none = replace_tokens(batch, "text", readout, readout.values)
    assert torch.equal(again.tokens["text"], whole) and not none.any()


def test_tokens_are_sampled_by_the_generators_probabilities() -> None:
    logits = torch.randn(2, 7, generator=torch.Generator().manual_seed(0))
    logits[1, 3] = -torch.inf
    even = (torch.arange(4000) + 0.5) / 4000
    for row in logits:
        shares = torch.bincount(sample_tokens(row.expand(4000, 7), even), minlength=7) / 4000
        torch.testing.assert_close(shares, torch.softmax(row, dim=0), atol=1e-3, rtol=0)
    assert sample_tokens(logits[1:], torch.ones(1)) == 6, "a number that was rounded up to 1 samples the last token"


def test_sampled_tokens_are_a_function_of_seed_step_and_row() -> None:
    """So that several processes, which pack other batches, train as one."""
    mapping, examples = small_mapping("~text -> text")
    objective = ReplacedTokenDetection(mapping)

    def total_losses(step: int, *parts: list[int]) -> list[float]:
        batches = [collate([examples.example(i, step, 0.0) for i in part]) for part in parts]
        with torch.no_grad():
            return torch.tensor([[float(x) for _, x in objective.losses(mapping, b)] for b in batches]).sum(0).tolist()

    together = total_losses(3, list(range(8)))
    assert total_losses(3, [6, 1, 3], [0, 2, 7, 5, 4]) == pytest.approx(together, rel=1e-5)
    assert total_losses(4, list(range(8)))[1] != pytest.approx(together[1], rel=1e-5)


def test_generator_and_model_both_learn() -> None:
    mapping, examples = small_mapping("~text -> text")
    objective = ReplacedTokenDetection(mapping)
    batch = collate([examples.example(i, 0, 0.0) for i in range(40)])

    def losses() -> list[float]:
        torch.manual_seed(0)
        with torch.no_grad():
            return [float(total) / objective.counts(batch)[term] for term, total in objective.losses(mapping, batch)]

    before = losses()
    plan = Plan(steps=60, batch=20, rate=5e-3, optimizer="muon", seed=0, save_every=100)
    Training(mapping, examples, plan, RunContext(CPU), objective).run()
    assert all(after < 0.9 * was for after, was in zip(losses(), before, strict=True)), (before, losses())


def test_a_starting_model_remains(tmp_path: Path) -> None:
    # Held-out rows are not scored: the encoder that remains has no answers.
    options = {"objective": "replaced", "steps": 4, "batch": 16, "hold_out": 0.2}
    base = mapsto.pretrain("text", TEXTS, tmp_path / "base", **options, **SMALL)
    assert not base.mapping.targets and not [n for n, _ in base.mapping.named_parameters() if "generator" in n]
    opened = mapsto.load(tmp_path / "base")
    vectors = opened.embed([row["text"] for row in TEXTS[:3]])
    np.testing.assert_allclose(vectors, base.embed([row["text"] for row in TEXTS[:3]]), atol=1e-5)
    rows = [{**row, "label": "ab"[i % 2]} for i, row in enumerate(TEXTS)]
    clf = mapsto.fit("text -> label", rows, start=tmp_path / "base", steps=2, device="cpu")
    assert clf(TEXTS[0]["text"])["label"] in "ab"
    with pytest.raises(mapsto.MapstoError, match="one source"):
        pairs = [{"en": row["text"], "de": row["text"]} for row in TEXTS]
        mapsto.pretrain("~en:text, ~de:text -> en:text, de:text", pairs, objective="replaced", steps=1, **SMALL)
