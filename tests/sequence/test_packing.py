"""The carrier and the packer, and who sees whom under the mask."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mapsto.kinds.text import TextSource
from mapsto.sequence.batch import Answer, Example
from mapsto.sequence.packing import collate, make_batches, pack_best_fit, row_length
from mapsto.sequence.piece import Piece, Role

sizes_of = st.lists(st.integers(1, 128), min_size=1, max_size=200)


def piece(size: int, role: Role = Role.SOURCE) -> Piece:
    return Piece("text", np.arange(size), np.arange(size)[:, None], np.zeros(size, np.bool_), role=role)


@given(sizes_of)
def test_packing_loses_and_splits_nothing(sizes: list[int]) -> None:
    rows = pack_best_fit(sizes, 128)
    assert sorted(i for row in rows for i in row) == list(range(len(sizes)))
    assert all(sum(sizes[i] for i in row) <= 128 for row in rows)
    filled = sorted(sum(sizes[i] for i in row) for row in rows)
    assert len(rows) < 2 or filled[0] + filled[1] > 128, "no two rows would fit into one"


@given(sizes_of, st.integers(0, 100))
def test_fillers_only_fill(sizes: list[int], count: int) -> None:
    fillers = list(range(len(sizes)))[:count]
    rows = pack_best_fit(sizes, 128, fillers)
    placed = [i for row in rows for i in row]
    assert len(set(placed)) == len(placed) and set(range(len(sizes))) - set(fillers) <= set(placed)
    assert len(rows) == len(pack_best_fit([size for i, size in enumerate(sizes) if i not in set(fillers)], 128))


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(ValueError, match="129 tokens does not fit a row of 128"):
        pack_best_fit([129], 128)


def test_row_lengths() -> None:
    assert [row_length(n) for n in (1, 64, 65, 128, 129, 512, 513)] == [64, 64, 128, 128, 256, 512, 1024]


@pytest.mark.parametrize(
    ("sizes", "length"), [([9], 12), ([17], 20), ([9, 30], 40), ([40, 40], 64), ([70], 80), ([500], 512)]
)
def test_a_few_texts_wait_in_a_short_row(sizes: list[int], length: int) -> None:
    (batch,) = make_batches([Example((piece(size),), (None,), i) for i, size in enumerate(sizes)], 4096)
    assert batch.segments.shape[1] == length


@given(st.lists(st.integers(1, 600), min_size=1, max_size=80), st.integers(200, 5000))
@settings(deadline=None)
def test_batches_hold_every_example_once(sizes: list[int], most: int) -> None:
    examples = [Example((piece(size),), (Answer(np.asarray(i)),), i) for i, size in enumerate(sizes)]
    made = make_batches(examples, most)
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
    made = make_batches([Example((p,), (), i) for i, p in enumerate(pieces[:200])], 8192)
    places = sum(batch.segments.numel() for batch in made)
    assert sum(batch.real_tokens for batch in made) / places > 0.95


def test_positions_run_on_through_an_example_and_start_anew_in_the_next() -> None:
    two = Example((piece(3), piece(2)), (), 0)
    batch = collate([two, Example((piece(4),), (), 1)], 64)
    for start, size in zip(batch.starts.tolist(), (5, 4), strict=True):
        assert batch.positions.flatten()[start : start + size].tolist() == list(range(size))
    assert batch.places.flatten()[int(batch.starts[0]) :][:5].tolist() == [0, 0, 0, 1, 1]
    assert batch.fill == 9 / 64


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_equals_the_library(smoothing: float) -> None:
    from mapsto.model.vocabulary_head import cross_entropy

    torch.manual_seed(0)
    logits = torch.randn(600, 50, requires_grad=True)
    values = torch.randint(0, 50, (600,))
    ours = cross_entropy(logits, values, smoothing)
    (3 * ours).backward()
    mine, logits.grad = logits.grad, None
    theirs = torch.nn.functional.cross_entropy(logits, values, reduction="sum", label_smoothing=smoothing)
    (3 * theirs).backward()
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(mine, logits.grad)
