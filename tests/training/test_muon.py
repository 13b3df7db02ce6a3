"""Muon in fp32 beside torch's Muon in bf16."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import mapsto
from mapsto.fitting import plan
from mapsto.training import muon
from mapsto.training.muon import Muon
from mapsto.training.plan import Plan


@pytest.mark.parametrize("shape", [(48, 16), (16, 48), (24, 24)])
def test_in_fp32_it_takes_the_steps_of_torch(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    start = torch.randn(shape)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    own = Muon([ours], 0.05, 0.1, "fp32")
    peer = torch.optim.Muon([theirs], lr=0.05, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(6):
        gradient = torch.randn(shape)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        own.step()
        peer.step()
    moved = float((theirs - start).detach().norm())
    # bf16 has 8 bits, and an iteration adds up some roundings.
    assert float((ours - theirs).detach().norm()) < 0.02 * moved
    states = (own.state[ours]["momentum_buffer"], peer.state[theirs]["momentum_buffer"])
    torch.testing.assert_close(*states)


def test_in_bf16_it_is_torch_to_the_bit() -> None:
    ours, theirs = (torch.nn.Parameter(torch.ones(8, 4)) for _ in range(2))
    gradient = torch.arange(32.0).view(8, 4)
    ours.grad, theirs.grad = gradient.clone(), gradient.clone()
    Muon([ours], 0.05, 0.1, "bf16").step()
    torch.optim.Muon([theirs], lr=0.05, weight_decay=0.1, adjust_lr_fn="match_rms_adamw").step()
    assert torch.equal(ours, theirs)


def test_singular_values_come_near_1() -> None:
    torch.manual_seed(1)
    settings = Muon([torch.nn.Parameter(torch.zeros(2, 2))], 0.1, 0.0, "fp32").param_groups[0]
    for shape in ((30, 12), (12, 30)):
        values = torch.linalg.svdvals(muon.orthogonalise(torch.randn(shape), settings))
        assert values.min() > 0.5 and values.max() < 1.5


@pytest.mark.parametrize(("has_units", "precision"), [(True, "bf16"), (False, "fp32")])
def test_the_plan_records_the_precision_that_suits_the_hardware(
    has_units: bool, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "accelerates_bf16", lambda device: has_units)
    rows = [{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(8)]
    mapsto.fit("text -> label", rows, tmp_path / "run", steps=1, layers=1, width=32, precision="fp32")
    assert (
        json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))["plan"]["muon_precision"] == precision
    )


def test_runs_of_older_versions_go_on_in_bf16() -> None:
    recorded = {"steps": 1, "batch": 1, "rate": 1.0, "optimizer": "muon", "seed": 0, "save_every": 1}
    assert Plan(**recorded).muon_precision == "bf16"  # type: ignore[arg-type]
