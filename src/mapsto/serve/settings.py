"""The settings of `mapsto serve`, checked before any model is opened."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from mapsto.errors import UsageError

# A key of fewer characters can be guessed.
MIN_KEY_CHARACTERS = 16
LOG_FORMS = ("lines", "json", "none")
# Test rows that the page offers by default.
NUM_EXAMPLES = 6
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class ServeSettings:
    """The settings of a service. Raises UsageError for a setting that is out of range, and for a public address without key."""

    # The address to listen on; by default only programs of this machine can connect.
    host: str = "127.0.0.1"
    # The port to listen on; 0 for a free one.
    port: int = 8000
    # What every request but those about health must present; None for no key.
    key: str | None = None
    # The most seconds that a request may take, from its first byte to its answer.
    timeout: float = 30.0
    # The most cost of waiting rows, in estimated tokens; requests beyond are refused with the status 429.
    queue_tokens: int = 65_536
    # The largest body of a request in bytes, and the most rows in one.
    max_body: int = 32 * 2**20
    max_rows: int = 1000
    # The folder below which requests may name files; None for no files.
    files: Path | None = None
    # A table in which the first model searches (`/find`); None for none.
    among: Path | None = None
    # The most test rows that the page offers as examples; None for the default: NUM_EXAMPLES if only programs of this machine
    # can connect, else none, since the rows are the user's data.
    examples: int | None = None
    # The origins of web pages, such as https://example.org, whose scripts may call the service.
    origins: tuple[str, ...] = ()
    # The most bytes of weights that are in memory at the same time; None for no limit.
    memory: int | None = None
    log: str = "lines"
    device: str = "auto"
    precision: str = "auto"
    # What computes exported files: "onnx" or "openvino"; "local" chooses by the form of each, and takes folders too.
    engine: str = "local"

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65_536:
            raise UsageError(f"--port is a number from 0 to 65535, not {self.port}")
        for name in ("timeout", "queue_tokens", "max_body", "max_rows"):
            if not getattr(self, name) > 0:
                raise UsageError(f"--{name.replace('_', '-')} must be above 0, not {getattr(self, name)}")
        if self.memory is not None and not self.memory > 0:
            raise UsageError("--memory must be above 0")
        if self.log not in LOG_FORMS:
            raise UsageError(f"--log is one of {', '.join(LOG_FORMS)}, not {self.log!r}")
        if self.files is not None and not self.files.is_dir():
            raise UsageError(f"--files {self.files}: there is no such folder")
        for origin in self.origins:
            parts = urlsplit(origin)
            if not parts.netloc or parts.scheme not in ("http", "https") or parts.path not in ("", "/"):
                raise UsageError(f"--origins has addresses of web pages such as https://example.org, not {origin!r}")
        if self.examples is not None and self.examples < 0:
            raise UsageError(f"--examples is a number of rows, 0 or more, not {self.examples}")
        self._check_key()

    @property
    def num_examples(self) -> int:
        """The most test rows that the page offers."""
        return self.examples if self.examples is not None else NUM_EXAMPLES * self.is_loopback

    def _check_key(self) -> None:
        """Raise UsageError for a key that can be guessed or cannot be sent, and for a public address without key."""
        if self.key is None:
            if not self.is_loopback:
                raise UsageError(
                    f"--host {self.host} can be reached from other machines, so it needs a key: --key, or MAPSTO_KEY in the "
                    "environment (`openssl rand -hex 16` makes one)"
                )
            return
        if len(self.key) < MIN_KEY_CHARACTERS:
            raise UsageError(
                f"a key has at least {MIN_KEY_CHARACTERS} characters, this one has {len(self.key)}; `openssl rand -hex 16` "
                "makes one"
            )
        if not self.key.isascii() or not self.key.isprintable() or " " in self.key:
            raise UsageError("a key has letters, digits and signs of ASCII alone, without spaces")

    @property
    def is_loopback(self) -> bool:
        """Return whether only programs of this machine can connect. Raises UsageError for an address that does not exist."""
        try:
            entries = socket.getaddrinfo(self.host or None, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except (OSError, UnicodeError) as error:
            raise UsageError(f"--host {self.host!r} is no address of this machine: {error}") from error
        return bool(self.host) and all(ipaddress.ip_address(str(entry[4][0])).is_loopback for entry in entries)

    def bind(self) -> socket.socket:
        """Return a socket bound to the address. Raises UsageError if the port is taken or the address is not of this machine."""
        family, kind, protocol, _, address = socket.getaddrinfo(
            self.host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError as error:
            listener.close()
            raise UsageError(
                f"cannot listen on {self.host}, port {self.port}: {error.strerror or error}; --port names another, 0 a free one"
            ) from error
        return listener
