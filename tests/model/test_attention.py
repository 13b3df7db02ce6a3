"""Attention: who sees whom, kernels equal to their definition, and rotary positions."""

from __future__ import annotations

import pytest
import torch

from mapsto.model.attention import (
    MIN_ROWS_OF_PRODUCTS,
    PlainAttention,
    Rotate,
    additive_mask,
    attend,
    choose_kernel,
    rotary_angles,
    self_attention,
    split_heads,
    visibility,
)
from mapsto.model.config import RotaryScaling, TransformerConfig
from mapsto.model.transformer import Attention


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("heads_of_mask", [0, 1, 4])
def test_single_queries_of_many_rows_attend_as_those_of_one(heads_of_mask: int, precision: torch.dtype) -> None:
    """Many rows take plain products, one row torch's kernel; both compute in the precision of the kept keys."""
    torch.manual_seed(0)
    rows = MIN_ROWS_OF_PRODUCTS + 1
    q = torch.randn(rows, 1, 4, 8).to(precision)
    k, v = torch.randn(rows, 5, 2, 8), torch.randn(rows, 5, 2, 8)
    mask = None
    if heads_of_mask:
        mask = torch.randn(rows, heads_of_mask, 1, 5).masked_fill_(
            torch.arange(5) > torch.arange(rows).view(-1, 1, 1, 1) % 5, -torch.inf
        )
    with torch.inference_mode():
        together = attend(q, k, v, mask)
    alone = [
        attend(*(part[row : row + 1] for part in (q, k, v)), None if mask is None else mask[row : row + 1])
        for row in range(rows)
    ]
    assert together.dtype == precision and together.shape == (rows, 1, 32)
    torch.testing.assert_close(together, torch.cat(alone))


def test_visibility_follows_roles_segments_and_window() -> None:
    """Two examples in one row: sources, causal answers, parallel answers, padding."""
    segments = torch.tensor([[1, 1, 1, 1, 2, 2, 2, 0]])
    roles = torch.tensor([[0, 0, 1, 1, 0, 2, 2, 0]], dtype=torch.int8)
    expected = torch.tensor(
        [
            [1, 1, 0, 0, 0, 0, 0, 0],
            [1, 1, 0, 0, 0, 0, 0, 0],
            [1, 1, 1, 0, 0, 0, 0, 0],
            [1, 1, 1, 1, 0, 0, 0, 0],
            [0, 0, 0, 0, 1, 0, 0, 0],
            [0, 0, 0, 0, 1, 1, 1, 0],
            [0, 0, 0, 0, 1, 1, 1, 0],
            [0, 0, 0, 0, 0, 0, 0, 1],
        ]
    ).bool()
    assert torch.equal(visibility(segments, roles)[0], expected)
    segment = segments[:, :, None] == segments[:, None, :]
    assert torch.equal(visibility(segments, roles, causal=True), segment & torch.ones(8, 8).tril().bool())
    local = visibility(torch.ones(1, 6, dtype=torch.int32), torch.zeros(1, 6, dtype=torch.int8), window=2)[0]
    index = torch.arange(6)
    assert torch.equal(local, (index[:, None] - index).abs() <= 2)


@pytest.mark.parametrize("length", [64, 256, 512])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("examples", [1, 3])
def test_every_kernel_equals_the_plain_reference(length: int, dtype: torch.dtype, examples: int) -> None:
    """Forward and backward of the chosen kernel, compared with softmax(q k / √e) v in fp64."""
    torch.manual_seed(0)
    qkv = torch.randn(2, length, 3 * 2 * 16, dtype=dtype, requires_grad=True)
    segments = torch.randint(1, 1 + examples, (2, length)).sort(dim=1).values
    allowed = visibility(segments, torch.zeros_like(segments, dtype=torch.int8))
    mask = additive_mask(allowed, dtype)
    assert (mask is None) == (examples == 1)
    reference = qkv.detach().double().requires_grad_()
    q, k, v = reference.view(2, length, 3, 2, 16).permute(2, 0, 3, 1, 4)
    scores = (q @ k.transpose(-1, -2) / 4).masked_fill(~allowed[:, None], -torch.inf)
    expected = (torch.softmax(scores, -1) @ v).transpose(1, 2).flatten(2)
    close = {"atol": 2e-6, "rtol": 1e-4} if dtype == torch.float32 else {"atol": 0.03, "rtol": 0.03}
    out = self_attention(qkv, mask, 2)
    torch.testing.assert_close(out.double(), expected, **close)
    with torch.no_grad():
        torch.testing.assert_close(self_attention(qkv, mask, 2).double(), expected, **close)
    weight = torch.randn_like(expected)
    (out.double() * weight).sum().backward()
    (expected * weight).sum().backward()
    assert qkv.grad is not None and reference.grad is not None
    torch.testing.assert_close(qkv.grad.double(), reference.grad, **({**close, "atol": close["atol"] * 10}))


def test_the_kernel_follows_device_precision_and_length(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_kernel(2, 128, torch.bfloat16, "cpu", training=True) == "plain"
    assert {choose_kernel(2, 128, torch.float32, "cpu", True), choose_kernel(2, 128, torch.bfloat16, "cuda", True)} == {
        "fused"
    }
    for amx, expected in ((True, "fused"), (False, "plain")):
        monkeypatch.setattr("mapsto.model.attention.has_amx", lambda amx=amx: amx)
        assert choose_kernel(2, 128, torch.bfloat16, "cpu", training=False) == expected
        assert {choose_kernel(2, 512, torch.bfloat16, "cpu", training) for training in (True, False)} == {expected}
        assert choose_kernel(1, 64, torch.bfloat16, "cpu", training=False) == "fused"


def test_rotary_turns_and_its_gradient() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 5, 3, 8, dtype=torch.float64, requires_grad=True)
    cos, sin = rotary_angles(torch.arange(5).expand(2, 5)[..., None], 8, 10_000.0, torch.float64)
    assert torch.autograd.gradcheck(lambda y: Rotate.apply(y, cos, sin), (x,))
    rotated = Rotate.apply(x, cos, sin)
    torch.testing.assert_close(rotated.norm(dim=-1), x.norm(dim=-1))
    torch.testing.assert_close(rotated[:, 0], x[:, 0])
    pairs = [
        (rotated[0, i, 0] @ Rotate.apply(x[:1, 3:4].expand(1, 5, 3, 8), cos[:1], sin[:1])[0, i, 0]) for i in range(5)
    ]
    equal_turns = [x[0, i, 0] @ x[0, 3, 0] for i in range(5)]
    torch.testing.assert_close(torch.stack(pairs), torch.stack(equal_turns)), "equal turns leave products alone"


@pytest.mark.parametrize("is_rotary", [True, False])
@pytest.mark.parametrize("rows", [[[1, 1, 1, 2, 2, 0], [1, 1, 2, 2, 2, 2]], [[1] * 6] * 2], ids=["shared", "whole"])
@pytest.mark.parametrize("saved_length", [0, 6], ids=["recomputed", "saved"])
@pytest.mark.parametrize("scores", [1, 36, 100, 1000], ids="slices of {} scores".format)
def test_plain_attention_equals_its_parts(
    is_rotary: bool, rows: list[list[int]], saved_length: int, scores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel for bf16, compared in fp64 with rotation, products and softmax one by one, for any size of slice."""
    monkeypatch.setattr("mapsto.model.attention.MAX_SCORES_AT_ONCE", scores)
    monkeypatch.setattr("mapsto.model.attention.MAX_SAVED_LENGTH", saved_length)
    torch.manual_seed(0)
    qkv = torch.randn(2, 6, 3 * 2 * 8, dtype=torch.float64, requires_grad=True)
    segments = torch.tensor(rows)
    mask = additive_mask(visibility(segments, torch.zeros_like(segments, dtype=torch.int8)), torch.float64)
    rotary = rotary_angles(torch.arange(6).expand(2, 6)[..., None], 8, 10_000.0, torch.float64) if is_rotary else None

    def ours(x: torch.Tensor) -> torch.Tensor:
        return PlainAttention.apply(x, mask, 2, rotary, 0.0)

    torch.testing.assert_close(ours(qkv), self_attention(qkv, mask, 2, rotary))
    assert torch.autograd.gradcheck(ours, (qkv,))


def test_attention_drops_weights_and_their_gradients_alike() -> None:
    torch.manual_seed(0)
    qkv = torch.randn(1, 6, 3 * 8, dtype=torch.float64, requires_grad=True)
    mask = torch.zeros(1, 1, 6, 6, dtype=torch.float64)

    def ours(x: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(1)
        return PlainAttention.apply(x, mask, 2, None, 0.3)

    assert torch.autograd.gradcheck(ours, (qkv,))
    assert not torch.allclose(ours(qkv), PlainAttention.apply(qkv, mask, 2, None, 0.0))


GROUPED = {"width": 24, "heads": 4, "kv_heads": 2, "head_width": 8, "norm": "rms"}


@pytest.mark.parametrize("changes", [{}, {"qk_norm": True}, {"qkv_bias": True, "key_bias": False}])
def test_grouped_attention_equals_repeated_heads(changes: dict[str, bool]) -> None:
    """Keys and values of each head, repeated for its group of queries, in attention with as many heads of both."""
    torch.manual_seed(0)
    grouped = Attention(TransformerConfig(**GROUPED, **changes)).double()  # type: ignore[arg-type]
    full = Attention(TransformerConfig(**{**GROUPED, "kv_heads": None}, **changes)).double()  # type: ignore[arg-type]

    def repeat(weight: torch.Tensor, num_groups: int = 3) -> torch.Tensor:
        heads = weight.view(-1, 8, *weight.shape[1:]).split([4, 2, 2][:num_groups])
        return torch.cat([heads[0], *(part.repeat_interleave(2, dim=0) for part in heads[1:])]).flatten(0, 1)

    with torch.no_grad():
        full.qkv.weight.copy_(repeat(grouped.qkv.weight))
        full.out.weight.copy_(grouped.out.weight)
        if grouped.qv_bias is not None and full.qv_bias is not None:
            full.qv_bias.copy_(repeat(grouped.qv_bias.normal_(), 2))
        for norm, other in ((grouped.query_norm, full.query_norm), (grouped.key_norm, full.key_norm)):
            if norm is not None and other is not None:
                other.weight.copy_(norm.weight.normal_())
    x, segments = torch.randn(2, 5, 24, dtype=torch.float64), torch.ones(2, 5, dtype=torch.long)
    rotary = rotary_angles(torch.arange(5).expand(2, 5)[..., None], 8, 10_000.0, torch.float64)
    mask = additive_mask(visibility(segments, 0 * segments, causal=True), torch.float64)
    torch.testing.assert_close(grouped(x, mask, rotary), full(x, mask, rotary))
    # One token at a time, with the keys and values of those before it kept.
    q, k, v = grouped.queries_keys_values(x, rotary)
    steps = [grouped.attend(q[:, i : i + 1], k[:, : i + 1], v[:, : i + 1], None) for i in range(5)]
    torch.testing.assert_close(torch.cat(steps, dim=1), full(x, mask, rotary))


def test_scaled_rotary_angles() -> None:
    positions = torch.arange(40).view(1, 40, 1)
    (plain, _), (linear, _), (llama, _) = (
        rotary_angles(positions, 8, 10_000.0, torch.float64, scaling)
        for scaling in (None, RotaryScaling("linear", 4.0), RotaryScaling("llama3", 8.0, 32))
    )
    torch.testing.assert_close(linear[:, ::4], plain[:, :10])
    # Of the rates 1, 0.1, 0.01, 0.001 only the first one turns more than four times over 32 positions.
    torch.testing.assert_close(llama[..., 0], plain[..., 0])
    torch.testing.assert_close(llama[:, ::8, :, 1:], plain[:, :5, :, 1:])


def test_a_part_of_the_channels_rotates_as_a_narrower_head_and_the_others_stay() -> None:
    positions = torch.arange(7).view(1, 7, 1)
    rotary = rotary_angles(positions, 12, 10_000.0, torch.float64, rotary_width=8)
    narrow = rotary_angles(positions, 8, 10_000.0, torch.float64)
    qkv = torch.randn(1, 7, 3 * 12, dtype=torch.float64)
    # Of each half of a head the first four channels are rotated.
    is_rotated = torch.tensor([True] * 4 + [False] * 2).repeat(2)
    parts = qkv.view(1, 7, 3, 12)
    for rotated, narrower, before in zip(
        split_heads(qkv, 1, 1, rotary),
        split_heads(parts[..., is_rotated].flatten(2), 1, 1, narrow),
        parts.unbind(2),
        strict=True,
    ):
        assert torch.equal(rotated[:, :, 0, is_rotated], narrower[:, :, 0])
        assert torch.equal(rotated[:, :, 0, ~is_rotated], before[..., ~is_rotated])
