"""SimCLR: two views of an image in each step, what the model learns from them, and the model that remains."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mappings import CPU, make_picture, small_mapping

import mapsto
from mapsto.sequence.batch import Batch
from mapsto.sequence.packing import collate
from mapsto.training.loader import Loader
from mapsto.training.loop import Training
from mapsto.training.objectives.simclr import SimCLR
from mapsto.training.plan import Plan, RunContext

ROWS = [{"image": make_picture(i, i % 2 == 0)} for i in range(40)]
SMALL = {"layers": 2, "width": 64, "heads": 2, "device": "cpu"}
PLAN = Plan(steps=60, batch=20, rate=5e-3, optimizer="muon", seed=0, save_every=100)


def pack_step(most_tokens: int, monkeypatch: pytest.MonkeyPatch) -> list[Batch]:
    monkeypatch.setattr("mapsto.training.loader.BATCH_TOKENS", most_tokens)
    mapping, examples = small_mapping("~image -> image")
    return Loader(examples, PLAN, 0, SimCLR(mapping, "auto")).pack_batches(3)


@pytest.mark.parametrize("most_tokens", [8192, 200])
def test_a_batch_holds_both_views_of_its_rows(most_tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of two shapes without masked patches; the views differ, and packing again gives the same."""
    batches = pack_step(most_tokens, monkeypatch)
    again = pack_step(most_tokens, monkeypatch)
    assert sum(len(batch.rows) for batch in batches) == 2 * PLAN.batch and len(batches) > (most_tokens < 8192)
    for batch, same in zip(batches, again, strict=True):
        one, other = np.split(batch.rows, 2)
        assert np.array_equal(one, other) and len(set(one.tolist())) == len(one)
        tokens = batch.tokens["image"]
        assert (tokens[:, 0] != 1).all() and torch.equal(tokens, same.tokens["image"]), "1 is a hidden patch"
        place = torch.full((batch.segments.numel(),), -1)
        place[batch.slots["image"]] = torch.arange(len(tokens))
        lengths, half = batch.lengths.tolist(), len(one)
        for i in range(half):
            first, second = (place[batch.starts[at]] for at in (i, i + half))
            assert lengths[i] == lengths[i + half]
            assert not torch.equal(tokens[first : first + lengths[i]], tokens[second : second + lengths[i]])


def test_a_picture_is_known_by_its_other_view_and_vectors_keep_their_spread() -> None:
    """Only moved a little, since these images differ in colour; scored at a step that is not trained on."""
    mapping, examples = small_mapping("~image -> image")
    objective = SimCLR(mapping, "move")
    uncorrupted = objective.adapt(examples)

    def score() -> tuple[float, float]:
        """Return how often the nearest of 79 other views is of the same image, and the vectors' spread over their length."""
        batch = collate([uncorrupted.example(i, 999, 0.0, view) for view in range(2) for i in range(40)])
        with torch.no_grad():
            pooled = mapping.pool(mapping.hidden(batch), batch)
            vectors = F.normalize(mapping.get_submodule("projection")(pooled), dim=-1)
        nearest = (vectors @ vectors.T).fill_diagonal_(-2).argmax(1)
        return float((nearest % 40 == torch.arange(80) % 40).float().mean()), float(
            pooled.std(0).norm() / pooled.norm()
        )

    share_before, spread_before = score()
    Training(mapping, examples, replace(PLAN, steps=40), RunContext(CPU), objective).run()
    share, spread = score()
    assert share_before < 0.4 and share > 0.7, (share_before, share)
    assert spread > 0.8 * spread_before, (spread_before, spread)


def test_a_starting_model_remains(tmp_path: Path) -> None:
    # Held-out rows are not scored: the encoder that remains has no answers.
    options = {"objective": "simclr", "steps": 4, "batch": 16, "hold_out": 0.2}
    base = mapsto.pretrain("image", ROWS, tmp_path / "base", **options, **SMALL)
    assert not base.mapping.targets and not [n for n, _ in base.mapping.named_parameters() if "projection." in n[:11]]
    opened = mapsto.load(tmp_path / "base")
    pictures = [row["image"] for row in ROWS[:3]]
    np.testing.assert_allclose(opened.embed(pictures), base.embed(pictures), atol=1e-5)
    assert "a starting model for other arrows" in (tmp_path / "base" / "README.md").read_text(encoding="utf-8")
    rows = [{**row, "label": "ab"[i % 2]} for i, row in enumerate(ROWS)]
    clf = mapsto.fit("image -> label", rows, start=tmp_path / "base", steps=2, device="cpu")
    assert clf(ROWS[0]["image"])["label"] in "ab"


@pytest.mark.parametrize(
    ("arrow", "given", "message"),
    [
        ("~text -> text", {}, "there is: masked"),
        ("~image -> image, label", {}, "one source"),
        ("~image -> image", {"augment": "none"}, "they are equal"),
        ("~image -> image", {"hide": 0.3}, "hides nothing"),
    ],
)
def test_arrows_and_options_without_views_are_refused(arrow: str, given: dict[str, object], message: str) -> None:
    rows = [{**row, "text": f"row {i}", "label": "ab"[i % 2]} for i, row in enumerate(ROWS)]
    kept = [{name: row[name] for name in ("image", "text", "label") if name in arrow} for row in rows]
    with pytest.raises(mapsto.MapstoError, match=message):
        mapsto.pretrain(arrow, kept, objective="simclr", steps=1, **given, **SMALL)
