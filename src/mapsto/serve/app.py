"""The application: the routes, which OpenAPI describes, within the edge."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from mapsto import __version__
from mapsto.serve.edge import Edge
from mapsto.serve.refusals import Refusal
from mapsto.serve.replies import reply_fault, reply_http_error, reply_refusal
from mapsto.serve.routes import foreign, generating, health, native, open_inference, page, speaking, vectors
from mapsto.serve.service import Service

Endpoint = Callable[[Request], Awaitable[Response]]
OK_JSON: dict[int | str, dict[str, Any]] = {200: {"content": {"application/json": {}}, "description": "The answers."}}
REFUSALS = {
    400: "The body is no JSON.",
    401: "The key is missing.",
    408: "The body did not come in time.",
    413: "The body or its rows are too many.",
    422: "The rows cannot be answered.",
    429: "The queue is full; Retry-After says when to come again.",
    503: "The service starts or stops.",
    504: "The time of the request is over.",
}


@dataclass(frozen=True)
class RouteEntry:
    """A route: its method and path, its function, and the operation that a model must be able to do; None for every service.

    example: the body of a request, for the description; None for a route without body.
    """

    method: str
    path: str
    endpoint: Endpoint
    operation: str | None = None
    example: dict[str, Any] | None = None
    tag: str = "mapsto"


HEALTH = [
    RouteEntry("GET", "/health/live", health.live, tag="health"),
    RouteEntry("GET", "/health/ready", health.ready, tag="health"),
    RouteEntry("GET", "/ping", foreign.ping, tag="health"),
    RouteEntry("GET", "/v2/health/live", open_inference.live, tag="health"),
    RouteEntry("GET", "/v2/health/ready", open_inference.ready, tag="health"),
]
RERANK = {"query": "…", "documents": ["…", "…"], "top_n": 2}
CHAT = {"messages": [{"role": "user", "content": "…"}], "stream": False}
INFER = {"inputs": [{"name": "COLUMN", "shape": [1], "datatype": "BYTES", "data": ["…"]}]}


def routes_of(service: Service) -> list[RouteEntry]:
    """Return the routes that the models of a service can answer."""
    model = service.models.first.facts or {}
    row = {column["name"]: "…" for column in model.get("columns", ())}
    rows = {"rows": [row]}
    texts = ["…", "…"]
    entries = [
        RouteEntry("GET", "/", page.page, tag="page"),
        RouteEntry("GET", "/docs", page.docs, tag="page"),
        RouteEntry("GET", "/page/{name}", page.part, tag="page"),
        RouteEntry("GET", "/page/examples/{model}", page.examples, tag="page"),
        RouteEntry("GET", "/page/examples/{model}/{row}/{file}", page.example_file, tag="page"),
        RouteEntry("GET", "/models", native.models),
        RouteEntry("GET", "/metrics", health.metrics),
        RouteEntry("POST", "/predict", native.predict, "predict", rows),
        RouteEntry("POST", "/embed", native.embed, "embed", rows),
        RouteEntry("POST", "/explain", native.explain, "explain", rows),
        RouteEntry("POST", "/generate", generating.generate, "generate", {"row": row, "stream": True}),
        RouteEntry("POST", "/find", vectors.find, "rank", {"query": "…", "among": texts, "top": 3}),
        RouteEntry("POST", "/rerank", vectors.rerank, "rank", RERANK),
        RouteEntry("POST", "/v1/rerank", vectors.rerank, "rank", RERANK, tag="Cohere and Jina"),
        RouteEntry("POST", "/v1/embeddings", vectors.embeddings, "embed", {"input": texts}, tag="OpenAI"),
        RouteEntry("POST", "/v1/chat/completions", generating.chat, "chat", CHAT, tag="OpenAI"),
        RouteEntry("POST", "/v1/audio/speech", speaking.speech, "speak", {"input": "…"}, tag="OpenAI"),
        RouteEntry("GET", "/v1/models", native.openai_models, tag="OpenAI"),
        RouteEntry("POST", "/", foreign.huggingface, None, {"inputs": texts}, tag="Hugging Face"),
        RouteEntry("POST", "/invocations", foreign.invocations, None, {"inputs": [row]}, tag="SageMaker"),
        RouteEntry("GET", "/v2", open_inference.server, tag="open inference"),
        RouteEntry("GET", "/v2/models/{name}", open_inference.describe, tag="open inference"),
        RouteEntry("GET", "/v2/models/{name}/ready", open_inference.model_ready, tag="open inference"),
        RouteEntry("POST", "/v2/models/{name}/infer", open_inference.infer, None, INFER, tag="open inference"),
    ]
    abilities = service.models.abilities
    return [entry for entry in entries if entry.operation is None or entry.operation in abilities]


def create_app(service: Service) -> tuple[FastAPI, ASGIApp]:
    """Return the application with the routes of health alone, and the same within the edge, which the server runs.

    Once the models are known, `mount` adds the other routes.
    """
    app = FastAPI(title="mapsto", version=__version__, docs_url=None, redoc_url=None, openapi_url="/openapi.json")
    app.state.service = service
    app.add_exception_handler(Refusal, reply_refusal)
    app.add_exception_handler(HTTPException, reply_http_error)
    app.add_exception_handler(Exception, reply_fault)
    mount(app, HEALTH)
    edge: ASGIApp = Edge(app, service)
    if service.settings.origins:
        edge = CORSMiddleware(
            edge,
            allow_origins=[origin.rstrip("/") for origin in service.settings.origins],
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-API-Key", "X-Request-ID", "X-Timeout"],
            expose_headers=["Retry-After", "X-Request-ID"],
        )
    return app, edge


def mount(app: FastAPI, entries: list[RouteEntry]) -> None:
    """Add routes to the application, described by the docstrings of their functions."""
    for entry in entries:
        extra: dict[str, Any] = {}
        if entry.example is not None:
            media = {"schema": {"type": "object"}, "example": entry.example}
            extra["requestBody"] = {"required": True, "content": {"application/json": media}}
        responses: dict[int | str, dict[str, Any]] = dict(OK_JSON)
        if entry.tag != "health":
            responses |= {status: {"description": text} for status, text in REFUSALS.items()}
        app.add_api_route(
            entry.path,
            entry.endpoint,
            methods=[entry.method],
            tags=[entry.tag],
            openapi_extra=extra,
            response_class=Response,
            responses=responses,
            operation_id=f"{entry.method.lower()}{entry.path.translate(str.maketrans('/{}', '___'))}",
        )
