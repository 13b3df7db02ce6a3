"""Decoding in a child process.

A decoder is a large C program that reads files from strangers, so it runs in a child process (decoder_worker.py). If the child
crashes or hangs, it is killed, the file is reported as unreadable, and a new child decodes the next file.
"""

from __future__ import annotations

import atexit
import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import IO, Any, TypeVar

from mapsto.errors import UsageError
from mapsto.media.cells import Unreadable
from mapsto.media.decoder_worker import BLOCK_SIZE, FAULT

# Seconds that decoding a file may take, and that a child whose pipe broke gets to exit by itself.
TIME_LIMIT, GRACE = 60.0, 2.0

# The most bytes of the first line of an answer.
MAX_HEADER_BYTES = 2**20

Answer = TypeVar("Answer")

# Reads the rest of an answer from its JSON line and the stream behind it.
Parser = Callable[[Mapping[str, Any], IO[bytes]], Answer]


class DecoderProcess:
    """The child process that decodes files of one medium. It is started at the first request, and again after a crash.

    A lock lets only one thread at a time send a request.
    program: Python code of the child, which calls `decoder_worker.serve`. noun: the medium in messages, such as "video".
    package: Python package that decodes. install: message for users without it.
    """

    def __init__(self, program: str, noun: str, install: str, package: str = "av") -> None:
        self.program, self.noun, self.install, self.package = program, noun, install, package
        # Seconds that decoding a file may take.
        self.limit = TIME_LIMIT
        self.lock = threading.Lock()
        self.process: subprocess.Popen[bytes] | None = None
        reference = weakref.ref(self)
        if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
            os.register_at_fork(after_in_child=lambda: _forget_parent(reference()))
        atexit.register(lambda: _close(reference()))

    def request(
        self,
        path: str | None,
        content: bytes | None,
        details: Mapping[str, Any],
        parse: Parser[Answer],
        extra_seconds: float = 0.0,
    ) -> Answer:
        """Send a file to the child process and return its answer.

        path, content: the file, or its bytes if `path` is None. details: further entries of the request.
        parse: reads the answer; it raises OSError, EOFError, KeyError, TypeError or ValueError if there is no complete one.
        extra_seconds: time that a large file may take beside the limit for every file.
        Raises Unreadable for a file that the decoder cannot read, or over which it crashes or hangs; UsageError without it.
        """
        limit = self.limit + extra_seconds
        content = content or b""
        absolute = path and os.path.abspath(path)  # the process may have been started in another working directory
        request = {"path": absolute, "size": len(content), "limit": math.ceil(limit + GRACE), **details}
        with self.lock:
            process = self._running()
            watchdog = Watchdog(process, self.noun, limit)
            try:
                return _exchange(process, json.dumps(request).encode() + b"\n" + content, parse)
            except Unreadable:
                raise
            except (OSError, EOFError, KeyError, TypeError, ValueError) as error:
                self.close(GRACE)
                raise Unreadable(watchdog.explain(process)) from error
            finally:
                if watchdog.stop():
                    self.close()

    def read_blocks(
        self, path: str | None, content: bytes | None, details: Mapping[str, Any], extra_seconds: float = 0.0
    ) -> Iterator[bytes]:
        """Yield the blocks of bytes with which a child process answers a request, as they are decoded.

        The child is one of its own, since others may send requests before the last block is asked for.
        path, content, details, extra_seconds: as for `request`. Each block may take the time of a request.
        Raises Unreadable as `request`.
        """
        child = DecoderProcess(self.program, self.noun, self.install, self.package)
        child.limit = self.limit + extra_seconds
        try:
            stream = child.request(path, content, details, lambda header, stream: stream)
            process = child.process
            assert process is not None
            while block := _read_block(stream, process, self.noun, child.limit):
                yield block
        finally:
            child.close()

    def _running(self) -> subprocess.Popen[bytes]:
        """Return the child process, started if it is not running. Raises UsageError without its package."""
        if self.process is None or self.process.poll() is not None:
            self.close()
            if is_missing(self.package):
                raise UsageError(self.install)
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", self.program],  # -P: import nothing from the working directory
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the parent, which finishes its step and saves
                env={**os.environ, "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)},
            )
        return self.process

    def close(self, grace: float = 0.0) -> None:
        """Kill the child process, if there is one. grace: seconds that it first gets to exit by itself."""
        if self.process is not None:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(grace)
            self.process.kill()
            self.process.wait()
            for stream in (self.process.stdin, self.process.stdout):
                assert stream is not None
                with suppress(OSError):  # closing flushes, and there is no reader
                    stream.close()
            self.process = None


class Watchdog:
    """A timer that kills a process after `limit` seconds, unless `stop` is called before. noun: the medium in messages."""

    def __init__(self, process: subprocess.Popen[bytes], noun: str, limit: float) -> None:
        self.has_killed, self.limit, self.noun, self.process = False, limit, noun, process
        self.timer = threading.Timer(limit, self._kill)
        self.timer.start()

    def _kill(self) -> None:
        self.has_killed = True
        self.process.kill()

    def stop(self) -> bool:
        """Stop the timer and return whether it has killed the process."""
        self.timer.cancel()
        # From here on `has_killed` cannot change any more.
        self.timer.join()
        return self.has_killed

    def explain(self, process: subprocess.Popen[bytes]) -> str:
        """Stop the timer and return why the process gave no answer: it took too long, or how it ended (signal or exit code)."""
        if self.stop():
            return f"decoding the {self.noun} took more than {self.limit:g} s and was stopped"
        code = process.returncode
        reason = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return f"the decoder broke off over this {self.noun} ({reason})"


def _exchange(process: subprocess.Popen[bytes], request: bytes, parse: Parser[Answer]) -> Answer:
    """Send a request to the child process and return its parsed answer.

    request: a line of JSON and the bytes of the file, as decoder_worker.py describes them.
    Raises Unreadable for a file that the decoder refuses, and the errors of `parse` if there is no complete answer.
    """
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(request)
    process.stdin.flush()
    header = json.loads(process.stdout.readline(MAX_HEADER_BYTES) or "-")
    if "fault" in header:
        raise Unreadable(str(header["fault"]))
    return parse(header, process.stdout)


def _read_block(stream: IO[bytes], process: subprocess.Popen[bytes], noun: str, limit: float) -> bytes:
    """Return the next block of bytes of an answer; b"" behind the last. Raises Unreadable if none comes within `limit` seconds.

    noun: the medium in messages.
    """
    watchdog = Watchdog(process, noun, limit)
    try:
        (size,) = BLOCK_SIZE.unpack(read_exactly(stream, BLOCK_SIZE.size))
        if size == FAULT:
            raise Unreadable(str(json.loads(stream.readline(MAX_HEADER_BYTES))["fault"]))
        return read_exactly(stream, size)
    except (OSError, EOFError, KeyError, TypeError, json.JSONDecodeError) as error:
        process.kill()
        process.wait()
        raise Unreadable(watchdog.explain(process)) from error
    finally:
        watchdog.stop()


def read_exactly(stream: IO[bytes], size: int) -> bytes:
    """Return the next `size` bytes of an answer. Raises EOFError if it ends before."""
    content = stream.read(size)
    if len(content) < size:
        raise EOFError
    return content


def read_into(stream: IO[bytes], buffer: memoryview) -> None:
    """Fill a buffer with the next bytes of an answer. Raises EOFError if it ends before."""
    filled = 0
    while filled < len(buffer):
        count = stream.readinto(buffer[filled:])  # type: ignore[attr-defined]
        if not count:
            raise EOFError
        filled += count


def _forget_parent(decoder: DecoderProcess | None) -> None:
    """Let a forked child start a decoder of its own: answers of the parent's would reach whichever of the two reads first."""
    if decoder is not None:
        decoder.lock, decoder.process = threading.Lock(), None


def _close(decoder: DecoderProcess | None) -> None:
    """Kill the child process of a decoder that still exists."""
    if decoder is not None:
        decoder.close()


def is_missing(package: str) -> bool:
    """Return whether a Python package is not installed."""
    return importlib.util.find_spec(package) is None
