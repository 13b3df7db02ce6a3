"""Layers with kernels of their own equal their definition: norms, dropout, gated GELU, packed and split products."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from mapsto.model import matmul
from mapsto.model.layers import ACTIVATIONS, Activation, Dropout, GatedGelu, Linear, RMSNorm, TransformConfig
from mapsto.model.matmul import SplitLinear, can_pack
from mapsto.model.vocabulary_head import VocabularyHead


def test_dropout_keeps_the_mean_and_is_a_function_of_the_seed() -> None:
    x = torch.ones(400, 500)
    drop = Dropout(0.1).train()
    torch.manual_seed(3)
    first, second = drop(x), drop(x)
    torch.manual_seed(3)
    assert torch.equal(drop(x), first) and not torch.equal(first, second)
    assert abs(float((first == 0).float().mean()) - 0.1) < 0.005 and abs(float(first.mean()) - 1) < 0.005
    assert drop.eval()(x) is x


def test_gated_gelu_equals_its_parts() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 5, 8, dtype=torch.float64, requires_grad=True)
    value, gate = x.chunk(2, dim=-1)
    torch.testing.assert_close(GatedGelu.apply(x), torch.nn.functional.gelu(value) * gate)
    assert torch.autograd.gradcheck(GatedGelu.apply, (x,))


@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
@pytest.mark.parametrize("bias", [True, False])
def test_packed_products_equal_plain_ones(activation: Activation | None, bias: bool) -> None:
    if not can_pack():
        pytest.skip("this CPU has no bf16 products to pack weights for")
    torch.manual_seed(0)
    x, linear = torch.randn(3, 7, 64), Linear(64, 96, bias=bias).to(torch.bfloat16)
    exact = copy.deepcopy(linear).float()(x.bfloat16().float(), activation)
    linear.pack()
    assert linear.packed is not None and linear.weight.numel() == 0
    with torch.inference_mode():
        torch.testing.assert_close(linear(x.bfloat16(), activation).float(), exact, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("bias", [True, False])
def test_products_with_weights_of_4_bits_equal_those_with_the_rounded_weights(bias: bool) -> None:
    """No number is rounded by more than a level; the levels are no worse than those between the ends of each group."""
    torch.manual_seed(0)
    x, linear = torch.randn(3, 64).bfloat16(), Linear(64, 96, bias=bias).to(torch.bfloat16)
    weight = linear.weight.detach().float()
    linear.pack(quantize=True)
    assert isinstance(linear.packed, matmul.Int4Weight) and linear.weight.numel() == 0
    with torch.inference_mode():
        # Rows of the identity give the columns of the weight.
        zero = linear(torch.zeros(1, 64).bfloat16()).float()
        rounded = (linear(torch.eye(64).bfloat16()).float() - zero).t()
        groups, error = weight.unflatten(1, (-1, matmul.INT4_GROUP)), (rounded - weight).unflatten(1, (-1, 32))
        ranges = groups.amax(-1, keepdim=True) - groups.amin(-1, keepdim=True)
        assert bool((error.abs() <= ranges / 15 + 0.01).all())
        assert float(error.square().mean()) <= float((ranges / 15).square().mean()) / 12 + 1e-5
        exact = x.float() @ rounded.t() + (0.0 if linear.bias is None else linear.bias.float())
        torch.testing.assert_close(linear(x).float(), exact, atol=3e-2, rtol=3e-2)
        torch.testing.assert_close(linear(x, "silu").float(), F.silu(exact), atol=3e-2, rtol=3e-2)


def test_a_weight_whose_dimensions_do_not_suit_4_bits_stays_in_bf16() -> None:
    for out, width in ((90, 64), (96, 60)):
        linear = Linear(width, out).to(torch.bfloat16)
        linear.pack(quantize=True)
        assert not isinstance(linear.packed, matmul.Int4Weight)


@pytest.mark.parametrize("bias", [True, False])
def test_a_split_product_equals_the_whole_one(bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values and every gradient, for an even number of rows and a rest; a Linear in training uses it."""
    monkeypatch.setattr(matmul, "SPLIT_TOKENS", 4)
    torch.manual_seed(0)
    x, weight, parameter = (
        torch.randn(*shape, dtype=torch.double, requires_grad=True) for shape in ((10, 3), (4, 3), (4,))
    )
    bias_or_none = parameter if bias else None
    torch.testing.assert_close(SplitLinear.apply(x, weight, bias_or_none), F.linear(x, weight, bias_or_none))
    assert torch.autograd.gradcheck(SplitLinear.apply, (x, weight, bias_or_none))
    out = Linear(8, 4, bias=bias)(torch.randn(5, 30, 8, dtype=torch.bfloat16))
    assert out.shape == (5, 30, 4) and "SplitLinear" in str(out.grad_fn.next_functions)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_head_over_a_vocabulary_that_is_packed_gives_the_same_logits(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    head, x = VocabularyHead(32, None, torch.nn.Embedding(300, 32)), torch.randn(5, 32, dtype=dtype)
    with torch.inference_mode():
        before = head(x)
        head.pack(dtype)
        after = head(x)
    assert after.dtype == dtype and torch.allclose(before.float(), after.float(), atol=1e-2, rtol=1e-2)
    kept = [weight for weight in (head.packed, head.converted) if weight is not None]
    # Of fp32 there is nothing to keep; in bf16 no step converts the table again.
    assert len(kept) == (dtype == torch.bfloat16)


def test_an_rms_norm_in_bf16_equals_its_definition_with_its_gradients() -> None:
    torch.manual_seed(0)
    norm = RMSNorm(48, eps=1e-2)
    torch.nn.init.normal_(norm.weight)
    found, expected = ((0.3 * torch.randn(5, 7, 48)).bfloat16().requires_grad_() for _ in range(2))
    expected.data.copy_(found.data)
    out = norm(found)
    exact = F.rms_norm(expected.float(), [48], norm.weight.detach(), 1e-2)
    torch.testing.assert_close(out.float(), exact, atol=2e-2, rtol=2e-2)
    gradient = torch.randn_like(exact)
    out.backward(gradient.bfloat16())
    exact.backward(gradient)
    assert found.grad is not None and expected.grad is not None
    torch.testing.assert_close(found.grad.float(), expected.grad.float(), atol=5e-2, rtol=5e-2)


@pytest.mark.parametrize("has_bias", [True, False])
def test_the_likeliest_tokens_of_a_head_of_4_bits_have_exact_logits(
    has_bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mapsto.model.vocabulary_head.REFINED_TOKENS", 5)
    torch.manual_seed(0)
    transform = TransformConfig(dense=False, norm=False, head_bias=has_bias, head_weight=True)
    head, x = VocabularyHead(64, transform, torch.nn.Embedding(304, 64)), torch.randn(3, 64).bfloat16()
    assert head.weight is not None
    torch.nn.init.normal_(head.weight)
    if head.bias is not None:
        torch.nn.init.normal_(head.bias)
    with torch.inference_mode():
        exact = F.linear(x.float(), head.weight, head.bias)
        head.pack(torch.bfloat16, quantize=True)
        assert isinstance(head.packed, matmul.Int4Weight)
        logits = head(x)
        likeliest = logits.topk(3).indices
        assert torch.equal(likeliest, exact.topk(3).indices)
        torch.testing.assert_close(logits.gather(1, likeliest), exact.gather(1, likeliest), atol=1e-4, rtol=1e-4)
        # The others are those of the rounded weights.
        assert 1e-3 < float((logits - exact).abs().mean()) < 1
