"""Serve a model on a Ray cluster: replicas, autoscaling and rolling updates are Ray's, batches are packed by mapsto.

    pip install 'mapsto[ray]' 'ray[serve]'
    MODEL=runs/clf serve run examples.ray_serve:app
    curl localhost:8000 -H 'Content-Type: application/json' -d '{"rows": [{"text": "今天天气真好！"}]}'

Each replica has the model once in memory. Requests that come within a few milliseconds are answered by one packed pass.
"""

from __future__ import annotations

import os
from typing import Any

from ray import serve
from starlette.requests import Request

import mapsto


@serve.deployment(num_replicas=1, max_ongoing_requests=256)
class Classifier:
    """A replica: the model, and the requests that it answers together."""

    def __init__(self, folder: str) -> None:
        self.model = mapsto.load(folder)

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.005)
    async def answer(self, requests: list[list[dict[str, Any]]]) -> list[list[dict[str, Any]]]:
        """Return the answers to the rows of several requests, which Ray collects."""
        answers = iter(self.model.predict([row for rows in requests for row in rows]))
        return [[next(answers) for _ in rows] for rows in requests]

    async def __call__(self, request: Request) -> dict[str, Any]:
        return {"answers": await self.answer((await request.json())["rows"])}


def build(folder: str) -> serve.Application:
    """Return the application of a model, for `serve.run` and for `serve run`."""
    return Classifier.bind(os.path.abspath(folder))


if "MODEL" in os.environ:
    app = build(os.environ["MODEL"])
