"""The check of a graph in a file of usearch, before the library follows its edges.

The file has the vectors (rows and columns as two 32-bit numbers, then the bytes), a head of 64 bytes, and the graph: five 64-bit
numbers (vectors, edges in an upper layer, edges in the lowest layer, the highest layer, the vector where a search begins), the
highest layer of each vector in 16 bits, and then for each vector its key in 64 bits, its highest layer once more, and for each
layer from the lowest the number of its edges and the room for their ends, all in 32 bits (usearch 2.26,
include/usearch/index_dense.hpp and index.hpp). It takes about a second for a million vectors.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mapsto.errors import CheckpointError
from mapsto.files.reading import Content

# The bytes of the file's parts.
HEAD_BYTES, NUMBERS_BYTES, KEY_BYTES, LEVEL_BYTES, SLOT_BYTES = 64, 40, 8, 2, 4
# The head's bytes for the cosine, 8-bit vectors, 64-bit keys and 32-bit edges; behind them stand the number of vectors, that of
# deleted ones, and the width.
KINDS_START, KINDS = 13, bytes([99, 23, 14, 15])
# The largest number of edges of a vector in a layer.
MAX_EDGES = 2**12
# Vectors that are checked at a time, which bounds memory.
CHECKED_AT_ONCE = 2**15


def check_graph(path: Path, content: Content, count: int, width: int) -> None:
    """Raise CheckpointError if the content of a file is no graph of `count` vectors of `width` bytes.

    Every edge must end at a vector that is in the edge's layer.
    """
    try:
        problem = _find_problem(np.frombuffer(content, np.uint8), count, width)
    except ValueError:  # a part lies beyond the end
        problem = "it is too short"
    if problem is not None:
        raise CheckpointError(f"{path} is no graph of {count:,} vectors of {width} bytes: {problem}")


def _find_problem(content: NDArray[np.uint8], count: int, width: int) -> str | None:
    """Return what is wrong with the content of a file, or None. Raises ValueError if it is too short."""
    if np.frombuffer(content, np.uint32, 2).tolist() != [count, width]:
        return "it has vectors of another shape"
    start = 8 + count * width
    if not _head_fits(np.frombuffer(content, np.uint8, HEAD_BYTES, start), count, width):
        return "its head does not fit"
    start += HEAD_BYTES
    size, upper, lowest, top_level, entry = np.frombuffer(content, np.uint64, 5, start).tolist()
    levels = np.frombuffer(content, np.int16, count, start + NUMBERS_BYTES).astype(np.int64)
    if size != count or not 0 < upper <= lowest <= MAX_EDGES or entry >= count:
        return "its numbers do not fit"
    if levels.min() < 0 or levels.max() != top_level or levels[entry] != top_level:
        return "its layers do not fit"
    return _find_wrong_edge(content, start + NUMBERS_BYTES + LEVEL_BYTES * count, levels, (lowest, upper))


def _head_fits(head: NDArray[np.uint8], count: int, width: int) -> bool:
    """Return whether the head of a file says that it has `count` vectors of `width` bytes which are compared by their cosine."""
    counts = np.frombuffer(head[KINDS_START + 4 : KINDS_START + 28].tobytes(), np.uint64).tolist()
    return head[KINDS_START : KINDS_START + 4].tobytes() == KINDS and counts == [count, 0, width]


def _find_wrong_edge(
    content: NDArray[np.uint8], start: int, levels: NDArray[np.int64], max_edges: tuple[int, int]
) -> str | None:
    """Return what is wrong with the keys, layers and edges of all vectors, or None.

    start: the byte at which they begin. levels: the highest layer of each vector. max_edges: in the lowest layer, and in each
    layer above.
    """
    lowest_bytes, upper_bytes = (SLOT_BYTES * (1 + number) for number in max_edges)
    vector_bytes = KEY_BYTES + LEVEL_BYTES + lowest_bytes + levels * upper_bytes
    if start + int(vector_bytes.sum()) != len(content):
        return f"it has {len(content):,} bytes"
    starts = start + np.cumsum(vector_bytes) - vector_bytes
    keys = _gather(content, starts, KEY_BYTES).view(np.uint64)[:, 0]
    repeated_levels = _gather(content, starts + KEY_BYTES, LEVEL_BYTES).view(np.int16)[:, 0]
    if not np.array_equal(np.sort(keys), np.arange(len(levels))) or not np.array_equal(repeated_levels, levels):
        return "its keys do not number the vectors"
    starts += KEY_BYTES + LEVEL_BYTES
    for level in range(int(levels.max()) + 1):
        lists = starts[levels >= level]
        for part in np.split(lists, range(CHECKED_AT_ONCE, len(lists), CHECKED_AT_ONCE)):
            edges = _gather(content, part, upper_bytes if level else lowest_bytes).view(np.uint32)
            if not _edges_fit(edges, levels, level):
                return f"an edge in layer {level} leads nowhere"
        starts += upper_bytes if level else lowest_bytes
    return None


def _gather(content: NDArray[np.uint8], starts: NDArray[np.int64], length: int) -> NDArray[np.uint8]:
    """Return the `length` bytes from each start on, (starts, length)."""
    return np.lib.stride_tricks.sliding_window_view(content, length)[starts]


def _edges_fit(lists: NDArray[np.uint32], levels: NDArray[np.int64], level: int) -> bool:
    """Return whether all edges of some vectors in a layer end at vectors of this layer.

    lists: (vectors, 1 + room), the number of edges of each vector and their ends. levels: the highest layer of each vector.
    """
    lengths, ends = lists[:, 0], lists[:, 1:]
    if (lengths > ends.shape[1]).any():
        return False
    used = ends[np.arange(ends.shape[1]) < lengths[:, None]]
    return bool((used < len(levels)).all()) and bool((levels[used] >= level).all())
