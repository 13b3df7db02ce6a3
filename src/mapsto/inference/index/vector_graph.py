"""An approximate search among very many unit vectors: a graph of near vectors proposes candidates, and exact products rank them.

The graph is an HNSW (hierarchical navigable small world; Malkov and Yashunin 2018, arXiv:1603.09320) of the library usearch. A
search walks along its edges towards the query, so it compares some thousands of vectors in place of all. The graph compares
vectors rounded to bytes; its candidates are ranked by their products in fp32, as the exact search ranks them. Of equal scores the
earlier vector comes first. When the graph is built, a sample of the vectors is searched both ways: the number of candidates is
the smallest whose recall suffices, and the recall is recorded.
Price: a vector takes 0.4 ms to insert, and d + 150 bytes. Gain: a query among 200,000 vectors takes a tenth of the time.
Legend of shapes: c vectors, q queries, d width, k results.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mapsto import files
from mapsto.errors import CheckpointError
from mapsto.files.reading import Content, read_content
from mapsto.inference.index.graph_file import check_graph
from mapsto.inference.index.vector_index import RoundedVectors, VectorIndex, rank_candidates

# The number of vectors above which a graph is used. Up to here the exact search takes at most about 50 ms.
LARGE = 1_000_000
# To insert a vector costs about as much as to compare it exactly with so many queries (0.4 ms, and 0.05 µs for each).
QUERIES_PER_BUILD = 10_000
# Edges of a vector in the upper layers of the graph (twice as many in the lowest), and candidates for them when it is inserted.
CONNECTIVITY, EXPANSION = 16, 128
# Candidates that are ranked for a query: so many for each result, and at least the first of these numbers that suffices.
CANDIDATES_PER_RESULT, CANDIDATES = 4, (128, 256, 512, 1024)
# The recall of the best RESULTS that suffices, and the number of vectors for which it is measured.
SUFFICIENT_RECALL, RESULTS, SAMPLE = 0.99, 10, 256
# For more results the exact search is the faster one.
MAX_RESULTS = 1000
# Vectors that are inserted at a time, and queries whose candidates are in memory at a time.
INSERTED_AT_ONCE = QUERIES_AT_ONCE = 2**14


class VectorGraph:
    """A graph of rounded vectors.

    graph: usearch's index, whose keys are the numbers of the vectors. content: the file that it reads in place, if there is one.
    """

    def __init__(self, graph: Any, content: Content | None = None) -> None:
        # usearch does not hold the content, which must live as long as the graph.
        self._graph, self._content = graph, content

    @classmethod
    def build(cls, vectors: RoundedVectors, say: Callable[[str], None] = lambda text: None) -> VectorGraph:
        """Build the graph of c vectors. say: prints a line. Raises ImportError if usearch (the extra [index]) is not installed.

        With several threads the order of insertion varies, and so do the edges.
        """
        count, width = vectors.codes.shape
        graph = _new_graph(width)
        say(f"building an approximate index of {count:,} texts, which takes minutes")
        # The cosine of codes is that of the rounded vectors, since the scale of a vector does not change it. In parts, so that
        # the process can be interrupted in between.
        for keys, codes in zip(
            torch.split(torch.arange(count), INSERTED_AT_ONCE),
            torch.split(vectors.codes, INSERTED_AT_ONCE),
            strict=True,
        ):
            graph.add(keys.numpy(), codes.numpy(), threads=torch.get_num_threads())
        return cls(graph)

    def propose(self, queries: RoundedVectors, count: int) -> Iterator[Tensor]:
        """Yield for each query the sorted numbers of about `count` vectors that are near to it."""
        self._graph.expansion_search = count
        for codes in torch.split(queries.codes, QUERIES_AT_ONCE):
            matches = self._graph.search(codes.numpy(), count, threads=torch.get_num_threads())
            # For a single query usearch returns its matches alone.
            for matches_of_query in [matches] if len(codes) == 1 else matches:
                yield torch.from_numpy(np.sort(matches_of_query.keys.astype(np.int64)))

    def save(self, path: Path) -> str:
        """Write the graph to a file of usearch; return the SHA-256 of the file. Raises RunError if the disk is full."""
        content = self._graph.save()
        files.require_space(path.parent, len(content))
        files.write_atomic(path, content)
        return hashlib.sha256(content).hexdigest()

    @classmethod
    def open(cls, path: Path, sha256: str, vectors: RoundedVectors) -> VectorGraph:
        """Return the graph of some vectors that `save` wrote.

        sha256: of the file. Raises CheckpointError for a damaged file, and for a graph that does not fit the vectors;
        ImportError if usearch is not installed.
        """
        with files.reading_folder(path.parent):
            files.verify(path.parent, {path.name: sha256})
            content = read_content(path)
        # usearch follows the edges in a file without a check, so a wrong one would read foreign memory.
        check_graph(path, content, *vectors.codes.shape)
        graph = _new_graph(vectors.codes.shape[1])
        try:
            graph.view(content)
        except RuntimeError as error:
            raise CheckpointError(f"{path} is no graph that usearch opens: {error}") from error
        return cls(graph, content)


def graph_settings() -> dict[str, Any]:
    """Return what a graph in a file depends on besides its vectors. Raises ImportError if usearch is not installed."""
    version = importlib.import_module("usearch").__version__
    return {"usearch": version, "connectivity": CONNECTIVITY, "expansion": EXPANSION}


def _new_graph(width: int) -> Any:
    """Return an empty graph of vectors of `width` bytes. Raises ImportError if usearch is not installed."""
    usearch = importlib.import_module("usearch.index")
    return usearch.Index(
        ndim=width,
        metric="cos",
        dtype="i8",
        connectivity=CONNECTIVITY,
        expansion_add=EXPANSION,
        enable_key_lookups=False,
    )


class ApproximateIndex:
    """An index of vectors that is searched by way of a graph.

    candidates: the smallest number of candidates for a query. recall: the share of the exact search's results that it gives.
    """

    def __init__(self, index: VectorIndex, graph: VectorGraph, candidates: int, recall: float) -> None:
        self.index, self.graph, self.candidates, self.recall = index, graph, candidates, recall

    @classmethod
    def build(cls, index: VectorIndex, say: Callable[[str], None] = lambda text: None) -> ApproximateIndex:
        """Build the graph of an index, and choose the number of candidates by its recall on a sample of the vectors.

        say: prints a line. Raises ImportError if usearch is not installed.
        """
        graph = VectorGraph.build(index.rounded, say)
        rows = torch.linspace(0, len(index) - 1, min(SAMPLE, len(index))).long()
        # A vector is its own best result in any search, so it does not count.
        _, expected = index.search(index.vectors[rows], RESULTS + 1)
        for candidates in CANDIDATES:
            approximate = cls(index, graph, candidates, 1.0)
            _, numbers = approximate.search(index.vectors[rows], RESULTS + 1)
            approximate.recall = _recall(rows, expected, numbers)
            if approximate.recall >= SUFFICIENT_RECALL:
                break
        return approximate

    def search(self, queries: Tensor, top: int) -> tuple[list[Tensor], list[Tensor]]:
        """Return for each query the cosines of about the `top` most similar vectors, (k,), and their numbers, the best first.

        queries: (q, d) in fp32, of length 1.
        """
        scores, numbers = [], []
        count = max(self.candidates, CANDIDATES_PER_RESULT * top)
        for query, candidates in zip(queries, self.graph.propose(RoundedVectors.of(queries), count), strict=True):
            if len(candidates) < min(top, len(self.index)):
                # Some vectors cannot be reached along edges, as of many equal ones.
                best_scores, best = (results[0] for results in self.index.search(query[None], top))
            else:
                best_scores, best = rank_candidates(self.index.vectors, query, candidates, top)
            scores.append(best_scores)
            numbers.append(best)
        return scores, numbers


def _recall(rows: Tensor, expected: Sequence[Tensor], numbers: Sequence[Tensor]) -> float:
    """Return the share of the expected results of some vectors, without each vector itself, that are among `numbers`.

    rows: the number of each vector. expected, numbers: the results for each vector. 1 if there are none.
    """
    hits = total = 0
    for row, best, approximate in zip(rows.tolist(), expected, numbers, strict=True):
        neighbours = {*best.tolist()} - {row}
        hits += len(neighbours & {*approximate.tolist()})
        total += len(neighbours)
    return hits / total if total else 1.0


def graph_bytes(count: int, width: int) -> int:
    """Return about the bytes of a graph of vectors (count, width): its bytes, key and lowest layer; few are in another layer."""
    return count * (width + 8 + 4 + 4 * (1 + 2 * CONNECTIVITY))


def suits_graph(num_vectors: int, num_results: int) -> bool:
    """Return whether a graph searches faster than the exact product does."""
    return num_vectors > LARGE and num_results <= MAX_RESULTS


def is_worth_building(num_queries: int, is_kept: bool) -> bool:
    """Return whether building a graph takes less time than the exact searches that it replaces.

    is_kept: whether the graph is kept for later searches, so the number of queries is not known and is taken for large.
    """
    return is_kept or num_queries >= QUERIES_PER_BUILD
