"""The carrier and the packer, and who sees whom under the mask."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mapsto.kinds.text import TextSource
from mapsto.model.attention import (
    PlainAttention,
    Rotate,
    additive_mask,
    choose_kernel,
    rotary_angles,
    self_attention,
    visibility,
)
from mapsto.model.layers import Dropout, GatedGelu
from mapsto.sequence.batch import Answer, Example
from mapsto.sequence.packing import batches, collate, pack, row_length
from mapsto.sequence.piece import Piece, Role

sizes_of = st.lists(st.integers(1, 128), min_size=1, max_size=200)


def piece(size: int, role: Role = Role.SOURCE) -> Piece:
    return Piece("text", np.arange(size), np.arange(size)[:, None], np.zeros(size, np.bool_), role=role)


@given(sizes_of)
def test_packing_loses_and_splits_nothing(sizes: list[int]) -> None:
    rows = pack(sizes, 128)
    assert sorted(i for row in rows for i in row) == list(range(len(sizes)))
    assert all(sum(sizes[i] for i in row) <= 128 for row in rows)
    filled = sorted(sum(sizes[i] for i in row) for row in rows)
    assert len(rows) < 2 or filled[0] + filled[1] > 128, "no two rows would fit into one"


@given(sizes_of, st.integers(0, 100))
def test_fillers_only_fill(sizes: list[int], count: int) -> None:
    fillers = list(range(len(sizes)))[:count]
    rows = pack(sizes, 128, fillers)
    placed = [i for row in rows for i in row]
    assert len(set(placed)) == len(placed) and set(range(len(sizes))) - set(fillers) <= set(placed)
    assert len(rows) == len(pack([size for i, size in enumerate(sizes) if i not in set(fillers)], 128))


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(ValueError, match="129 tokens does not fit a row of 128"):
        pack([129], 128)


def test_row_lengths() -> None:
    assert [row_length(n) for n in (1, 64, 65, 128, 129, 512, 513)] == [64, 64, 128, 128, 256, 512, 1024]


@pytest.mark.parametrize(
    ("sizes", "length"), [([9], 16), ([17], 32), ([9, 30], 48), ([40, 40], 64), ([70], 80), ([500], 512)]
)
def test_a_few_texts_wait_in_a_short_row(sizes: list[int], length: int) -> None:
    (batch,) = batches([Example((piece(size),), (None,), i) for i, size in enumerate(sizes)], 4096)
    assert batch.segments.shape[1] == length


@given(st.lists(st.integers(1, 600), min_size=1, max_size=80), st.integers(200, 5000))
@settings(deadline=None)
def test_batches_hold_every_example_once(sizes: list[int], most: int) -> None:
    examples = [Example((piece(size),), (Answer(np.asarray(i)),), i) for i, size in enumerate(sizes)]
    made = batches(examples, most)
    assert sorted(int(row) for batch in made for row in batch.rows) == list(range(len(sizes)))
    assert sum(batch.real_tokens for batch in made) == sum(sizes)
    for batch in made:
        assert batch.segments.shape[1] >= max(sizes[int(row)] for row in batch.rows)
        assert batch.answers[0] is not None
        assert batch.answers[0].values.tolist() == batch.rows.tolist(), "answers stay with their examples"
        for row, start in zip(batch.rows, batch.starts.tolist(), strict=True):
            ids = batch.tokens["text"][(batch.slots["text"] >= start) & (batch.slots["text"] < start + sizes[int(row)])]
            assert ids.tolist() == list(range(sizes[int(row)]))


def test_real_sentences_fill_their_rows(shared_data: object) -> None:
    """The promise is 95 %; benchmarks/packing.py measures time too."""
    from pathlib import Path

    texts = (Path(str(shared_data)) / "text" / "reviews_zh" / "unlabeled.txt").read_text("utf-8").splitlines()[:4000]
    source = TextSource.new(texts)
    pieces = [p if len(p) <= 128 else source.cut(p, 128) for p in source.encode(texts, 0)]
    made = batches([Example((p,), (), i) for i, p in enumerate(pieces[:200])], 8192)
    places = sum(batch.segments.numel() for batch in made)
    assert sum(batch.real_tokens for batch in made) / places > 0.95


def test_positions_run_on_through_an_example_and_start_anew_in_the_next() -> None:
    two = Example((piece(3), piece(2)), (), 0)
    batch = collate([two, Example((piece(4),), (), 1)], 64)
    for start, size in zip(batch.starts.tolist(), (5, 4), strict=True):
        assert batch.positions.flatten()[start : start + size].tolist() == list(range(size))
    assert batch.places.flatten()[int(batch.starts[0]) :][:5].tolist() == [0, 0, 0, 1, 1]
    assert batch.fill == 9 / 64


def test_who_sees_whom() -> None:
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
    near = visibility(torch.ones(1, 6, dtype=torch.int32), torch.zeros(1, 6, dtype=torch.int8), window=2)[0]
    index = torch.arange(6)
    assert torch.equal(near, (index[:, None] - index).abs() <= 2)


@pytest.mark.parametrize("length", [64, 256, 512])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("examples", [1, 3])
def test_every_kernel_equals_the_plain_reference(length: int, dtype: torch.dtype, examples: int) -> None:
    """Forward and backward of whichever kernel serves a call, against softmax(q k / √e) v written out in fp64."""
    torch.manual_seed(0)
    qkv = torch.randn(2, length, 3 * 2 * 16, dtype=dtype, requires_grad=True)
    segments = torch.randint(1, 1 + examples, (2, length)).sort(dim=1).values
    allowed = visibility(segments, torch.zeros_like(segments, dtype=torch.int8))
    mask = additive_mask(allowed, dtype)
    assert (mask is None) == (examples == 1)
    wanted = qkv.detach().double().requires_grad_()
    q, k, v = wanted.view(2, length, 3, 2, 16).permute(2, 0, 3, 1, 4)
    scores = (q @ k.transpose(-1, -2) / 4).masked_fill(~allowed[:, None], -torch.inf)
    expected = (torch.softmax(scores, -1) @ v).transpose(1, 2).flatten(2)
    close = {"atol": 2e-6, "rtol": 1e-4} if dtype == torch.float32 else {"atol": 0.03, "rtol": 0.03}
    found = self_attention(qkv, mask, 2)
    torch.testing.assert_close(found.double(), expected, **close)
    with torch.no_grad():
        torch.testing.assert_close(self_attention(qkv, mask, 2).double(), expected, **close)
    weight = torch.randn_like(expected)
    (found.double() * weight).sum().backward()
    (expected * weight).sum().backward()
    assert qkv.grad is not None and wanted.grad is not None
    torch.testing.assert_close(qkv.grad.double(), wanted.grad, **({**close, "atol": close["atol"] * 10}))


def test_one_place_decides_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_kernel(2, 128, torch.bfloat16, "cpu", training=True) == "plain"
    assert {choose_kernel(2, 128, torch.float32, "cpu", True), choose_kernel(2, 128, torch.bfloat16, "cuda", True)} == {
        "fused"
    }
    for amx, chosen in ((True, "fused"), (False, "plain")):
        monkeypatch.setattr("mapsto.model.attention.has_amx", lambda amx=amx: amx)
        assert choose_kernel(2, 128, torch.bfloat16, "cpu", training=False) == chosen
        assert {choose_kernel(2, 512, torch.bfloat16, "cpu", way) for way in (True, False)} == {chosen}
        assert choose_kernel(1, 64, torch.bfloat16, "cpu", training=False) == "fused"


def test_rotary_turns_and_its_gradient() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 5, 3, 8, dtype=torch.float64, requires_grad=True)
    cos, sin = rotary_angles(torch.arange(5).expand(2, 5)[..., None], 8, 10_000.0, torch.float64)
    assert torch.autograd.gradcheck(lambda y: Rotate.apply(y, cos, sin), (x,))
    turned = Rotate.apply(x, cos, sin)
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    torch.testing.assert_close(turned[:, 0], x[:, 0])
    pairs = [
        (turned[0, i, 0] @ Rotate.apply(x[:1, 3:4].expand(1, 5, 3, 8), cos[:1], sin[:1])[0, i, 0]) for i in range(5)
    ]
    same = [x[0, i, 0] @ x[0, 3, 0] for i in range(5)]
    torch.testing.assert_close(torch.stack(pairs), torch.stack(same)), "equal turns leave products alone"


@pytest.mark.parametrize("turned", [True, False])
@pytest.mark.parametrize("rows", [[[1, 1, 1, 2, 2, 0], [1, 1, 2, 2, 2, 2]], [[1] * 6] * 2], ids=["shared", "whole"])
@pytest.mark.parametrize("kept", [0, 6], ids=["made again", "kept"])
@pytest.mark.parametrize("scores", [1, 36, 100, 1000], ids="slices of {} scores".format)
def test_attention_written_out_equals_its_parts(
    turned: bool, rows: list[list[int]], kept: int, scores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What serves in bf16, held in fp64 against turn, products and softmax one after the other, however it is sliced."""
    monkeypatch.setattr("mapsto.model.attention.MAX_SCORES_AT_ONCE", scores)
    monkeypatch.setattr("mapsto.model.attention.MAX_SAVED_LENGTH", kept)
    torch.manual_seed(0)
    qkv = torch.randn(2, 6, 3 * 2 * 8, dtype=torch.float64, requires_grad=True)
    segments = torch.tensor(rows)
    mask = additive_mask(visibility(segments, torch.zeros_like(segments, dtype=torch.int8)), torch.float64)
    rotary = rotary_angles(torch.arange(6).expand(2, 6)[..., None], 8, 10_000.0, torch.float64) if turned else None

    def ours(x: torch.Tensor) -> torch.Tensor:
        return PlainAttention.apply(x, mask, 2, rotary, 0.0)

    torch.testing.assert_close(ours(qkv), self_attention(qkv, mask, 2, rotary))
    assert torch.autograd.gradcheck(ours, (qkv,))


def test_dropout_keeps_the_mean_and_is_a_function_of_the_seed() -> None:
    x = torch.ones(400, 500)
    drop = Dropout(0.1).train()
    torch.manual_seed(3)
    once, other = drop(x), drop(x)
    torch.manual_seed(3)
    assert torch.equal(drop(x), once) and not torch.equal(once, other)
    assert abs(float((once == 0).float().mean()) - 0.1) < 0.005 and abs(float(once.mean()) - 1) < 0.005
    assert drop.eval()(x) is x


def test_attention_drops_weights_and_their_gradients_alike() -> None:
    torch.manual_seed(0)
    qkv = torch.randn(1, 6, 3 * 8, dtype=torch.float64, requires_grad=True)
    mask = torch.zeros(1, 1, 6, 6, dtype=torch.float64)

    def ours(x: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(1)
        return PlainAttention.apply(x, mask, 2, None, 0.3)

    assert torch.autograd.gradcheck(ours, (qkv,))
    assert not torch.allclose(ours(qkv), PlainAttention.apply(qkv, mask, 2, None, 0.0))


def test_gated_gelu_equals_its_parts() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 5, 8, dtype=torch.float64, requires_grad=True)
    value, gate = x.chunk(2, dim=-1)
    torch.testing.assert_close(GatedGelu.apply(x), torch.nn.functional.gelu(value) * gate)
    assert torch.autograd.gradcheck(GatedGelu.apply, (x,))


def test_cross_entropy_equals_the_library() -> None:
    from mapsto.kinds.text import CrossEntropy

    torch.manual_seed(0)
    logits = torch.randn(600, 50, requires_grad=True)
    values = torch.randint(0, 50, (600,))
    ours = CrossEntropy.apply(logits, values)
    (3 * ours).backward()
    mine, logits.grad = logits.grad, None
    theirs = torch.nn.functional.cross_entropy(logits, values, reduction="sum")
    (3 * theirs).backward()
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(mine, logits.grad)
