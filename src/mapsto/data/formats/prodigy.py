"""Leave out the rows of a Prodigy export that the annotator rejected or ignored, whose annotations are not true."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace

from mapsto.data.file_part import FilePart
from mapsto.errors import Finding

ANSWER, HASHES = "answer", ("_input_hash", "_task_hash")
UNUSED = ("reject", "ignore")
ANSWERS = ("accept", *UNUSED)


def leave_out_rejected(parts: Iterable[FilePart]) -> Iterator[FilePart]:
    """Yield the parts of a file without rejected and ignored rows of Prodigy; the last part has a remark with their numbers."""
    counts: Counter[str] = Counter()
    last: FilePart | None = None
    for part in parts:
        if last is not None:
            yield last
        last = _accepted(part, counts) if _is_prodigy(part) else part
    if last is not None and counts:
        shares = " and ".join(f"{count:,} with the answer {answer!r}" for answer, count in sorted(counts.items()))
        last = replace(last, remarks=[*last.remarks, Finding(last.file, None, None, None, f"rows left out: {shares}")])
    if last is not None:
        yield last


def _is_prodigy(part: FilePart) -> bool:
    """Return whether a part has the columns of Prodigy, and in its column of answers nothing but these."""
    answers = part.data.get(ANSWER, [])
    return any(name in part.data for name in HASHES) and all(answer in (*ANSWERS, None) for answer in answers)


def _accepted(part: FilePart, counts: Counter[str]) -> FilePart:
    """Return the rows that are neither rejected nor ignored, and count the others by their answer."""
    answers = part.column(ANSWER)
    counts.update(answer for answer in answers if answer in UNUSED)
    indices = [index for index, answer in enumerate(answers) if answer not in UNUSED]
    data = {name: [cells[index] for index in indices] for name, cells in part.data.items()}
    return replace(part, data=data, rows=[part.rows[index] for index in indices])
