"""The edge of the service, which every request passes: its id, key and origin, the counters, the log, and faults.

It is plain ASGI around the application, since a request of a millisecond has no time for more.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import logging
import re
import secrets
import time
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mapsto.serve.refusals import Refusal
from mapsto.serve.replies import reply_refusal
from mapsto.serve.service import Service
from mapsto.serve.settings import LOOPBACK_NAMES

# The paths of health, which need no key and are answered while the models are opened.
HEALTH_PATHS = frozenset(["/health/live", "/health/ready", "/ping", "/v2/health/live", "/v2/health/ready"])
REQUEST_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)
# The page runs its own scripts alone, and nobody frames it.
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "media-src 'self' blob:; connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
OTHER_ROUTE = "other"
CLIENT_GONE = 499

logger = logging.getLogger("mapsto.serve")


class Edge:
    """An ASGI application around `app` that lets through the requests that may be answered."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service
        settings = service.settings
        self._key = None if settings.key is None else settings.key.encode()
        self._origins = {origin.rstrip("/") for origin in settings.origins}
        # A page of another site can make its own name point to this machine; without a key only our names are answered.
        self._names = LOOPBACK_NAMES if settings.is_loopback and settings.key is None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        exchange = Exchange(scope, send)
        is_health = scope["path"] in HEALTH_PATHS
        self.service.num_in_flight += not is_health
        self.service.metrics.in_flight.set(self.service.num_in_flight)
        try:
            try:
                self._check(exchange.headers, is_health)
                await self.app(scope, receive, exchange.send)
            except Refusal as refusal:
                await reply_refusal(Request(scope), refusal)(scope, receive, exchange.send)
        except asyncio.CancelledError:
            raise
        except Exception:
            # The application has sent its own response for a fault already.
            logger.exception("fault in %s %s, id %s", scope["method"], scope["path"], exchange.id)
        finally:
            self.service.num_in_flight -= not is_health
            self.service.metrics.in_flight.set(self.service.num_in_flight)
            self._record(scope, exchange)

    def _check(self, headers: Headers, is_health: bool) -> None:
        """Raise Refusal for a request without the key, from a page of another site, or to a name that is not this machine's."""
        if self._names is not None and _name_of(headers.get("host", "")) not in self._names:
            raise Refusal(421, "without a key this service answers to localhost alone; the header Host names another")
        origin = headers.get("origin")
        if origin is not None and origin not in self._origins and urlsplit(origin).netloc != headers.get("host"):
            raise Refusal(403, "pages of this origin may not call the service (--origins)")
        if not is_health and self._key is not None and not self._has_key(headers):
            raise Refusal(
                401,
                "this service needs its key: the header Authorization: Bearer KEY",
                {"WWW-Authenticate": 'Basic realm="mapsto", charset="UTF-8"'},
            )
        if not is_health and not self.service.is_ready:
            self.service.require_room()

    def _has_key(self, headers: Headers) -> bool:
        """Return whether a request presents the key: as bearer, as X-API-Key, or as the password that a browser asks for."""
        assert self._key is not None
        scheme, _, credentials = headers.get("authorization", "").partition(" ")
        presented = credentials.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        if scheme.lower() == "basic":
            try:
                presented = base64.b64decode(credentials).decode().partition(":")[2]
            except (binascii.Error, ValueError):
                presented = ""
        return hmac.compare_digest(presented.encode("utf-8", "replace"), self._key)

    def _record(self, scope: Scope, exchange: Exchange) -> None:
        """Count and log a request."""
        seconds = time.perf_counter() - exchange.start
        route = getattr(scope.get("route"), "path", OTHER_ROUTE)
        self.service.metrics.requests.labels(route, str(exchange.status)).inc()
        self.service.metrics.seconds.labels(route).observe(seconds)
        if logger.isEnabledFor(logging.INFO):
            facts = {
                "method": scope["method"],
                "path": scope["path"],
                "status": exchange.status,
                "ms": round(1e3 * seconds, 2),
                "id": exchange.id,
                "client": (scope.get("client") or ("",))[0],
            }
            logger.info("request", extra={"facts": facts})


class Exchange:
    """A request and its response: the id of both, the status, and the time at which the request began."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.headers, self._send = Headers(scope=scope), send
        self.start, self.status = time.perf_counter(), CLIENT_GONE
        proposal = self.headers.get("x-request-id", "")
        self.id = proposal if REQUEST_ID.fullmatch(proposal) else secrets.token_hex(8)
        state: dict[str, Any] = scope.setdefault("state", {})
        state["id"], state["started"] = self.id, asyncio.get_running_loop().time()

    async def send(self, message: Message) -> None:
        """Send a message of the response, the first one with the headers that every response has."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-ID"] = self.id
            for name, value in SECURITY_HEADERS.items():
                headers.setdefault(name, value)
        await self._send(message)


def _name_of(host: str) -> str:
    """Return the name in a header Host, without its port and the brackets of IPv6."""
    name = host.rpartition(":")[0] if re.search(r":\d+$", host) else host
    return name.strip("[]").lower()
