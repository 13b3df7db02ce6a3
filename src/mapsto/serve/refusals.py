"""Refusals: the errors of a request that its client sees, each with a status of HTTP and one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Refusal(Exception):
    """The error of a request that is not answered.

    status: the status of HTTP. message: one sentence that says what came and what is allowed.
    headers: further headers of the response. content: further entries of the JSON object of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        headers: Mapping[str, str] | None = None,
        content: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.headers, self.content = (
            status,
            message,
            dict(headers or {}),
            dict(content or {}),
        )


class Full(Refusal):
    """The refusal of a request for which there is no room in the queue. seconds: after how long room is expected."""

    def __init__(self, seconds: int) -> None:
        super().__init__(429, f"too many requests are waiting; try again in {seconds} s", {"Retry-After": str(seconds)})


class Late(Refusal):
    """The refusal of a request whose time was over before it was answered. seconds: the time that it had."""

    def __init__(self, seconds: float) -> None:
        super().__init__(504, f"the request was not answered within its {seconds:g} s (X-Timeout, --timeout)")


class ClientGone(Refusal):
    """The error of a request whose client has closed the connection, so that nobody reads the answer.

    The status is the one that nginx logs; no client sees it.
    """

    def __init__(self) -> None:
        super().__init__(499, "the client closed the connection")
