"""Muon in fp32 beside torch's Muon in bf16."""

from __future__ import annotations

import pytest
import torch

from mapsto.training import muon
from mapsto.training.muon import Muon


@pytest.mark.parametrize("shape", [(48, 16), (16, 48), (24, 24)])
def test_in_fp32_it_takes_the_steps_of_torch(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(muon, "accelerates_bf16", lambda device: False)
    torch.manual_seed(0)
    start = torch.randn(shape)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    own = Muon([ours], lr=0.05, weight_decay=0.1)
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


def test_where_bf16_is_fast_it_is_torch_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(muon, "accelerates_bf16", lambda device: True)
    ours, theirs = (torch.nn.Parameter(torch.ones(8, 4)) for _ in range(2))
    gradient = torch.arange(32.0).view(8, 4)
    ours.grad, theirs.grad = gradient.clone(), gradient.clone()
    Muon([ours], lr=0.05, weight_decay=0.1).step()
    torch.optim.Muon([theirs], lr=0.05, weight_decay=0.1, adjust_lr_fn="match_rms_adamw").step()
    assert torch.equal(ours, theirs)


def test_singular_values_come_near_1(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    settings = Muon([torch.nn.Parameter(torch.zeros(2, 2))], lr=0.1, weight_decay=0.0).param_groups[0]
    for shape in ((30, 12), (12, 30)):
        values = torch.linalg.svdvals(muon.orthogonalise(torch.randn(shape), settings))
        assert values.min() > 0.5 and values.max() < 1.5
