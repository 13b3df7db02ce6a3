"""The log of the service on standard error: a line for each request, or JSON, each with the id of the request."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any, TextIO

from mapsto.errors import printable


class LineFormatter(logging.Formatter):
    """A formatter of records as lines."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as a line; a fault is followed by its traceback, which no client sees."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
        facts: dict[str, Any] | None = getattr(record, "facts", None)
        text = record.getMessage()
        if facts is not None:
            text = "{method} {path} {status} {ms} ms, id {id}".format(**facts)
        line = printable(f"{stamp} {text}")
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """A formatter of records as JSON objects, one on a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as a line of JSON."""
        fields: dict[str, Any] = {"time": round(record.created, 3), "level": record.levelname.lower()}
        fields |= getattr(record, "facts", None) or {"message": record.getMessage()}
        if record.exc_info:
            fields["trace"] = self.formatException(record.exc_info)
        return json.dumps(fields)


class StandardError(logging.StreamHandler[TextIO]):
    """A handler that writes to what standard error is at the time of a record."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        """The stream to write to."""
        return sys.stderr


def configure_logs(form: str) -> None:
    """Write the service's log to standard error: as "lines" or "json"; "none" for errors alone, as lines."""
    handler = StandardError()
    handler.setFormatter(JsonFormatter() if form == "json" else LineFormatter())
    logger = logging.getLogger("mapsto.serve")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.ERROR if form == "none" else logging.INFO)
    # Of the server itself only what is wrong.
    for name in ("uvicorn", "uvicorn.error"):
        logging.getLogger(name).handlers = [handler]
        logging.getLogger(name).setLevel(logging.ERROR)
