"""Subtitles: the phrases of a recording with their times, as SubRip (.srt) or WebVTT (.vtt)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from mapsto.errors import DataError, UsageError

if TYPE_CHECKING:
    from mapsto.cli.prediction.answers import InputRows
    from mapsto.inference.table_engine import Engine

SUFFIXES = (".srt", ".vtt")
# Seconds without a word that end a phrase, and the characters of a line of subtitles.
PAUSE, LINE = 0.7, 42


def is_subtitles(out: Path | None) -> TypeGuard[Path]:
    """Return whether a file that is to be written has the suffix of subtitles."""
    return out is not None and out.suffix.lower() in SUFFIXES


def write_subtitles(engine: Engine, inputs: InputRows, out: Path) -> None:
    """Write the phrases of one recording to a file. Raises UsageError for several recordings, DataError for an unreadable one."""
    from mapsto.cli.output import print_status
    from mapsto.data.table import read_table
    from mapsto.files import write_atomic

    table = read_table(inputs.source(engine.arrow), inputs.text_format)
    if len(list(table.in_order())) != 1:
        raise UsageError(f"{out} holds the subtitles of one recording; for several, --times writes them to a table")
    ((_, (answer,)),) = engine.answer_tables([table])
    if "error" in answer:
        raise DataError(answer["error"])
    phrases = phrases_of(answer)
    write_atomic(out, render(phrases, out.suffix.lower()).encode())
    print_status(f"wrote {len(phrases):,} subtitles to {out}")


def phrases_of(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the phrases of an answer with times, or its words if they are asked for beside these.

    Whisper writes phrases, CTC words, which are joined.
    """
    if "phrases" in answer:
        return list(answer.get("words", answer["phrases"]))
    return join_words(answer["words"])


def join_words(words: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return words with times as phrases, which end at pauses and before they are longer than a line of subtitles."""
    phrases: list[dict[str, Any]] = []
    for word in words:
        last = phrases[-1] if phrases else None
        if last is None or word["start"] - last["end"] > PAUSE or len(last["text"]) + len(word["text"]) >= LINE:
            phrases.append(dict(word))
        else:
            last |= {"text": f"{last['text']} {word['text']}", "end": word["end"]}
    return phrases


def render(phrases: Sequence[Mapping[str, Any]], suffix: str) -> str:
    """Return phrases, each with "start" and "end" in seconds and "text", as the content of a file. suffix: .srt or .vtt."""
    is_web = suffix == ".vtt"
    blocks = ["WEBVTT"] if is_web else []
    for number, phrase in enumerate(phrases, 1):
        times = " --> ".join(_clock(phrase[side], "." if is_web else ",") for side in ("start", "end"))
        # A blank line would end the block, and an arrow begin one.
        text = " ".join(phrase["text"].split()).replace("-->", "→")
        blocks.append(f"{times}\n{text}" if is_web else f"{number}\n{times}\n{text}")
    return "\n\n".join(blocks) + "\n"


def _clock(seconds: float, mark: str) -> str:
    """Return a time as hours:minutes:seconds with thousandths behind `mark`."""
    milliseconds = round(1000 * seconds)
    hours, rest = divmod(milliseconds, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    return f"{hours:02d}:{minutes:02d}:{rest // 1000:02d}{mark}{rest % 1000:03d}"
