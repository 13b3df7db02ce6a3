"""Read brat's standoff annotations: a text file and, beside it, an .ann file with a line for each annotation.

"T1<tab>Person 0 5<tab>Alice" is a span from character 0 to before character 5, whose text is repeated. Spans with several parts
("0 5;9 12"), relations (R), events (E), attributes (A, M), normalizations (N), equivalences (*) and notes (#) are no tags.
Format: https://brat.nlplab.org/standoff.html
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

SUFFIX = ".ann"
SPAN = re.compile(r"T\S*\t(\S+) (\d+ \d+(?:;\d+ \d+)*)(?:\t(.*))?")
# Names of the annotations that are left out, by the first character of their line.
LEFT_OUT = {
    "R": "relations",
    "E": "events",
    "A": "attributes",
    "M": "attributes",
    "N": "normalizations",
    "*": "relations",
    "#": "notes",
}
PARTED = "spans of several parts"


@dataclass
class Document:
    """A text with its spans, {"start", "end", "label"} in characters.

    fault: why the annotations cannot be read; "" if they can.
    num_left_out: numbers of annotations that are no tags, by their name.
    """

    text: str
    spans: list[dict[str, Any]] = field(default_factory=list)
    fault: str = ""
    num_left_out: Counter[str] = field(default_factory=Counter)

    @property
    def cell(self) -> Any:
        """Return the cell of the tags: the list of spans, or {"fault": reason}."""
        return {"fault": self.fault} if self.fault else self.spans


def read_document(text: str, annotations: Iterable[str]) -> Document:
    """Return a document from its text, with line ends as in the file, and the lines of its annotation file.

    Where the spans fit the text only with line ends of one character, the text has such line ends.
    """
    lines = [line.rstrip("\r\n") for line in annotations]
    document = _read(text, lines)
    if document.fault and "\r\n" in text:
        normalized = _read(text.replace("\r\n", "\n"), lines)
        return document if normalized.fault else normalized
    return document


def _read(text: str, lines: list[str]) -> Document:
    """Return a document, which has a fault if a line cannot be read or the text of a span is not where the span lies."""
    document = Document(text)
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if (name := LEFT_OUT.get(line[0])) is not None:
            document.num_left_out[name] += 1
            continue
        match = SPAN.fullmatch(line)
        if match is None:
            document.fault = f"line {number} of its annotations is no annotation of brat: {line!r:.80}"
            return document
        label, places, quoted = match.groups()
        if ";" in places:
            document.num_left_out[PARTED] += 1
            continue
        start, end = map(int, places.split(" "))
        if reason := _find_fault(text, start, end, quoted):
            document.fault = f"line {number} of its annotations: {reason}"
            return document
        document.spans.append({"start": start, "end": end, "label": label})
    return document


def _find_fault(text: str, start: int, end: int, quoted: str | None) -> str:
    """Return why a span cannot lie in a text; "" if it can. quoted: the text of the span, in which line ends are spaces."""
    if not start < end <= len(text):
        return f"a span from {start} to {end} in a text of {len(text)} characters"
    part = text[start:end]
    # Some tools leave the line ends out.
    if quoted is None or "".join(part.split()) == "".join(quoted.split()):
        return ""
    places = [match.start() for match in re.finditer(re.escape(quoted), text)] if quoted.strip() else []
    nearest = min(places, key=lambda place: abs(place - start), default=None)
    hint = "" if nearest is None else f"; {quoted!r:.40} stands at {nearest}"
    return f"the span from {start} to {end} should be {quoted!r:.40}, but the text has {part!r:.40} there{hint}"
