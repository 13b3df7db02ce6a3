"""The routes of vectors: OpenAI's embeddings, ranking documents for a query, and searching in a list or in a table."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from mapsto.errors import UsageError
from mapsto.metrics.intervals import to_json
from mapsto.serve.body import field, read_object
from mapsto.serve.refusals import Refusal
from mapsto.serve.replies import reply
from mapsto.serve.routes.requests import able_model, model_name, require_entries, service_of
from mapsto.serve.served_model import ServedModel, cosine

TOP = 10
ENCODINGS = ("float", "base64")


async def embeddings(request: Request) -> Response:
    """Return vectors as OpenAI's embeddings do: {"input": text or list of texts}."""
    service = service_of(request)
    content = await read_object(request, service)
    values = content.get("input")
    values = [values] if isinstance(values, str | dict) else values
    if not isinstance(values, list) or any(isinstance(value, int | list) for value in values):
        raise Refusal(422, "'input' is a text or a list of texts; lists of token numbers are not read")
    encoding = field(content, "encoding_format", str, "float")
    if encoding not in ENCODINGS:
        raise Refusal(422, f"'encoding_format' is one of {', '.join(ENCODINGS)}")
    result = await service.answer(request, "embed", model_name(request, content), values)
    vectors = np.array([require_vector(answer, row) for row, answer in enumerate(result.answers)], np.float32)
    vectors = shorten_vectors(vectors, field(content, "dimensions", int))
    entries = [
        {"object": "embedding", "index": row, "embedding": _encode(vector, encoding)}
        for row, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": result.num_tokens, "total_tokens": result.num_tokens}
    return reply({"object": "list", "model": result.model.name, "data": entries, "usage": usage})


def _encode(vector: Any, encoding: str) -> Any:
    """Return a vector as a list of numbers, or as base64 of its numbers in 32 bits, the lowest byte first."""
    return vector.tolist() if encoding == "float" else base64.b64encode(vector.astype("<f4").tobytes()).decode()


def require_vector(answer: dict[str, Any], row: int) -> list[float]:
    """Return the vector of a row. Raises Refusal if the row, counted from 0, has none: these forms have no place for errors."""
    if "error" in answer:
        raise Refusal(422, f"value {row} (counted from 0): {answer['error']}")
    vector: list[float] = answer["vector"]
    return vector


def shorten_vectors(vectors: Any, size: int | None) -> Any:
    """Return the first `size` numbers of vectors (n, d), scaled to length 1; None leaves them as they are."""
    if size is None:
        return vectors
    if not 0 < size <= vectors.shape[1]:
        raise Refusal(422, f"'dimensions' is from 1 to {vectors.shape[1]} for this model")
    short = vectors[:, :size]
    return short / np.maximum(np.linalg.norm(short, axis=1, keepdims=True), 1e-12)


async def rerank(request: Request) -> Response:
    """Rank documents for a query, the best first, in the form of Cohere and Jina: {"query", "documents", "top_n"}."""
    content = await read_object(request, service_of(request))
    query = field(content, "query", str)
    documents = field(content, "documents", list)
    if query is None or not documents:
        raise Refusal(422, 'the body is {"query": "…", "documents": ["…", …]}')
    texts = [document.get("text") if isinstance(document, dict) else document for document in documents]
    model = await able_model(request, model_name(request, content), "rank")
    (scores,), num_tokens = await score(request, model, [query], texts)
    order = np.argsort(-scores, kind="stable")[: field(content, "top_n", int, len(texts))].tolist()
    shows = field(content, "return_documents", bool, False)
    results = [
        {"index": row, "relevance_score": float(scores[row])} | ({"document": {"text": texts[row]}} if shows else {})
        for row in order
    ]
    usage = {"total_tokens": num_tokens}
    return reply({"model": model.name, "results": results, "usage": usage})


async def score(
    request: Request, model: ServedModel, queries: Sequence[Any], documents: Sequence[Any]
) -> tuple[Any, int]:
    """Return the cosines (q, d) of queries and documents, and the number of tokens that were read.

    Each side has the prompt with which the model was trained. Raises Refusal for a text that cannot be read.
    """
    sentence = model.predictor.mapping.config.sentence
    prompts = ["" if sentence is None else sentence.prompt(side) or "" for side in (0, 1)]
    sides = zip((queries, documents), prompts, strict=True)
    column = model.ports_of("embed", None)[0][0]
    rows = [{column: prompt + text if isinstance(text, str) else text} for texts, prompt in sides for text in texts]
    result = await service_of(request).answer(request, "embed", model.name, rows)
    count = len(queries)
    vectors = [require_vector(answer, row - count) for row, answer in enumerate(result.answers)]
    return cosine(vectors[:count], vectors[count:]), result.num_tokens


async def find(request: Request) -> Response:
    """Find the texts that belong to queries: among those of the list "among", or of the table of `mapsto serve --among`."""
    service = service_of(request)
    content = await read_object(request, service)
    queries = field(content, "queries", list) or [content.get("query")]
    if not all(isinstance(query, str) and query.strip() for query in queries):
        raise Refusal(422, 'the body is {"query": "…"} or {"queries": ["…", …]}, with "among": ["…", …] and "top": 10')
    require_entries(content, "query", "queries", "among", "top")
    if len(queries) > service.settings.max_rows:
        raise Refusal(413, f"{len(queries):,} queries are more than one request may have (--max-rows)")
    top = field(content, "top", int, TOP)
    if top < 1:
        raise Refusal(422, "'top' is a whole number above 0")
    model = await able_model(request, model_name(request, content), "rank")
    texts = field(content, "among", list)
    if texts is not None:
        scores, _ = await score(request, model, queries, texts)
        matches = [
            [
                {"score": float(row[i]), "index": i, "text": texts[i]}
                for i in np.argsort(-row, kind="stable")[:top].tolist()
            ]
            for row in scores
        ]
    else:
        matches = await _search(request, model, queries, top)
    return reply({"model": model.name, "matches": matches})


async def _search(request: Request, model: ServedModel, queries: list[str], top: int) -> list[Any]:
    """Return for each query the rows of the table that the service was started with. Raises Refusal if there is none."""
    finder = model.finder
    if finder is None:
        raise Refusal(422, 'this service has no table to search in (--among TABLE); give texts: "among": ["…", …]')

    def search() -> list[Any]:
        return [
            [{**finder.describe(match, ("index",)), "index": match.row} for match in matches]
            for matches in finder.find(queries, top)
        ]

    try:
        matches: list[Any] = to_json(await service_of(request).compute(request, search, sum(map(len, queries))))
    except UsageError as error:
        raise Refusal(422, str(error)) from error
    return matches
