"""`mapsto predict MODEL RECORDING --stream`: print what is said in a recording while it grows, or comes through a pipe."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from mapsto.cli.prediction.subtitles import SUFFIXES, is_subtitles, phrases_of, render
from mapsto.errors import UsageError, printable

if TYPE_CHECKING:
    from mapsto.inference.table_engine import Engine
    from mapsto.task.source_capabilities import LiveValue

PIPE = Path("-")


def is_pipe(data: Sequence[Path] | None) -> bool:
    """Return whether the input is standard input."""
    return bool(data) and data is not None and PIPE in data


def is_recording(data: Sequence[Path] | None) -> bool:
    """Return whether the input is one recording, and no table: standard input, a named pipe, or a file of sound."""
    from mapsto import kinds

    if data is None or len(data) != 1:
        return False
    (path,) = data
    is_sound = path.suffix.lower() in kinds.media().get("sound", ()) and path.is_file()
    return path == PIPE or path.is_fifo() or is_sound


def stream_recording(engine: Engine, path: Path, raw: int | None, out: Path | None) -> None:
    """Print what is said in a recording, one line for each window as soon as it is read, or each phrase with its times.

    The recording ends with its pipe, or with Ctrl-C, after which the rest that was heard is transcribed.
    raw: the rate of samples without a header. out: a file of subtitles or text that is kept up to date with what is printed.
    Raises UsageError for an engine or a model that cannot, or another suffix of `out`.
    """
    from mapsto.cli.output import print_note, print_status
    from mapsto.files import write_atomic
    from mapsto.inference.predictor import Predictor
    from mapsto.task.source_capabilities import LiveValue

    if not isinstance(engine, Predictor):
        raise UsageError("--stream is for --engine local")
    if out is not None and out.suffix.lower() not in (*SUFFIXES, ".txt"):
        raise UsageError(f"--stream writes what is said to .txt, {' or '.join(SUFFIXES)}, not {out}")
    if raw is not None and raw < 1:
        raise UsageError(f"--raw is a rate in Hz, such as 16000, not {raw}")
    source = engine.require_streamed_sounds()
    value = source.open_live(None if path == PIPE else path, raw)
    has_times = engine.decoding is not None and engine.decoding.times
    lines: list[str] = []
    phrases: list[dict[str, Any]] = []
    with _stopped_by_interrupt(value if isinstance(value, LiveValue) else None) as received:
        for answer in engine.answer_windows(source.read_windows(value, engine.max_tokens, aligned=True)):
            new_phrases = phrases_of(answer) if has_times else []
            phrases += new_phrases
            text = str(answer[engine.arrow.targets[0].kind])
            if is_subtitles(out) or not has_times:
                new = [text] if text else []
            else:
                new = [f"{phrase['start']:.2f}–{phrase['end']:.2f} {phrase['text']}" for phrase in new_phrases]
            lines += new
            for line in new:
                typer.echo(printable(line))
            if out is not None:
                content = render(phrases, out.suffix.lower()) if is_subtitles(out) else "".join(f"{s}\n" for s in lines)
                write_atomic(out, content.encode())
    if received:
        print_note("stopped by Ctrl-C; what was heard until then is transcribed")
    if out is not None:
        print_status(f"wrote {out}")


@contextmanager
def _stopped_by_interrupt(value: LiveValue | None) -> Iterator[list[int]]:
    """End a value that is read while it is made at the first Ctrl-C; a second one stops at once.

    Yields the list of signals received so far. Does nothing for None, and outside of the main thread.
    """
    received: list[int] = []
    if value is None or threading.current_thread() is not threading.main_thread():
        yield received
        return

    def stop(signum: int, frame: object) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(signum)
        value.stop()

    previous = signal.signal(signal.SIGINT, stop)
    try:
        yield received
    finally:
        signal.signal(signal.SIGINT, previous)
