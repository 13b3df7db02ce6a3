"""Read lists of recordings without a header, as data sets for speech from text have them: a line is `name|text`.

They are those of LJSpeech (`name|text|text as it is spoken`), Piper (`name|text`, or `name|speaker|text`) and VITS
(`path.wav|text`). A name may lack the ending of its file, which lies beside the list or in a folder there, such as `wavs`. Quotes
are part of the text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mapsto.data.file_part import FilePart, Row, from_cells, group_rows
from mapsto.errors import Finding

DELIMITER = "|"
# Folders beside the list in which recordings are looked for, and endings that names lack.
FOLDERS = ("", "wavs", "wav", "clips", "audio")
ENDINGS = ("", ".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a")
MOST_CELLS = 3


@dataclass(frozen=True)
class RecordingList:
    """The place of the recordings of a list.

    folder: the folder beside the list. ending: what the names in the list lack. size: number of cells of a line.
    """

    folder: str
    ending: str
    size: int

    @property
    def names(self) -> list[str]:
        """Return the names of the columns. The one in the middle is another text, or a speaker."""
        return ["sound", "text"] if self.size == 2 else ["sound", "second", "text"]


def find_recordings(path: Path, lines: Sequence[str]) -> RecordingList | None:
    """Return where the recordings are, if `lines`, the first ones of the file, are those of a list; else None."""
    records = [line.rstrip("\r\n").split(DELIMITER) for line in lines if line.strip()]
    sizes = {len(cells) for cells in records}
    if len(sizes) != 1 or not 2 <= max(sizes) <= MOST_CELLS or not records[0][0].strip():
        return None
    name = records[0][0].strip()
    places = ((folder, ending) for folder in FOLDERS for ending in ENDINGS)
    place = next(((f, e) for f, e in places if (path.parent / f / f"{name}{e}").is_file()), None)
    return None if place is None else RecordingList(*place, max(sizes))


def stream_recordings(path: Path, lines: Iterator[str], recordings: RecordingList) -> Iterator[FilePart]:
    """Yield the rows of a list of recordings in parts, with the columns "sound" and "text".

    lines: all lines of the file. recordings: from `find_recordings`. A line with another number of cells becomes a finding.
    """

    def rows() -> Iterator[Row]:
        for number, line in enumerate(lines, 1):
            cells = [cell.strip() for cell in line.rstrip("\r\n").split(DELIMITER)]
            if not line.strip():
                continue
            if len(cells) != recordings.size:
                fault = f"this line has {len(cells)} cells between vertical bars, the first one has {recordings.size}"
                yield [Finding(str(path), number, None, line.rstrip("\r\n"), fault)]
                continue
            # A path of POSIX, which is read everywhere.
            cells[0] = "/".join(filter(None, (recordings.folder, f"{cells[0]}{recordings.ending}")))
            yield number, cells, len(line)

    place = f"the folder {recordings.folder}" if recordings.folder else "this folder"
    reason = f"no header: read as a list of recordings, whose files are in {place}; the columns are {', '.join(recordings.names)}"
    for index, part in enumerate(group_rows(path, rows(), recordings.names, from_cells)):
        yield part if index else replace(part, remarks=[Finding(str(path), None, None, None, reason), *part.remarks])
