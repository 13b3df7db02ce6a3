"""The routes of health, which need no key: whether the process lives, and whether it takes requests."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from mapsto.serve.replies import reply
from mapsto.serve.routes.requests import service_of


async def live(request: Request) -> Response:
    """Say whether the process lives: 503 if the thread that computes has ended, so that it must be started again."""
    is_alive = service_of(request).is_alive
    return reply({"live": is_alive}, 200 if is_alive else 503)


async def ready(request: Request) -> Response:
    """Say whether requests are taken: 200 once every model is verified and warm, else 503; 503 also while the service stops."""
    service = service_of(request)
    is_ready = service.is_ready and not service.is_draining
    return reply({"ready": is_ready}, 200 if is_ready else 503)


async def metrics(request: Request) -> Response:
    """Return the counters of the service for Prometheus."""
    return Response(service_of(request).metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")
