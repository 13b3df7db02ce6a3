"""Read lists of recordings, as data sets for speech from text have them: a line is `name|text`, mostly without a header.

They are those of LJSpeech (`name|text|text as it is spoken`), Piper (`name|text`, or `name|speaker|text`) and VITS
(`path.wav|text`). A name may lack the ending of its file, or have another one; the file lies beside the list or in a folder
there, such as `wavs`. Quotes are part of the text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path, PurePosixPath

from mapsto.data.file_part import FilePart, Row, from_cells, group_rows
from mapsto.errors import Finding

DELIMITER = "|"
# Folders beside the list in which recordings are looked for, and endings that names lack.
FOLDERS = ("", "wavs", "wav", "clips", "audio")
ENDINGS = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a")
MOST_CELLS = 3
# Names of the first column in a header; without one, a first line is a row, also if its recording is missing.
HEADERS = ("id", "name", "file", "file_name", "filename", "path", "sound", "audio", "wav")


@dataclass(frozen=True)
class RecordingList:
    """The form of a list.

    names: of the columns. has_header: whether the first line names them, but for the first.
    """

    names: list[str]
    has_header: bool


def find_recordings(path: Path, lines: Sequence[str]) -> RecordingList | None:
    """Return the form of a list, if `lines`, the first ones of the file, name recordings of which one is there; else None."""
    records = [line.rstrip("\r\n").split(DELIMITER) for line in lines if line.strip()]
    sizes = {len(cells) for cells in records}
    if len(sizes) != 1 or not 2 <= max(sizes) <= MOST_CELLS:
        return None
    names = [cells[0].strip() for cells in records]
    has_header = names[0].casefold() in HEADERS
    # A table whose header names its columns, and whose cells name their files, is read as such a table.
    is_table = has_header and any((path.parent / name).is_file() for name in names[1:])
    if is_table or not any(_find_file(path.parent, name) for name in names[has_header:]):
        return None
    if has_header:
        return RecordingList(["sound", *(cell.strip() for cell in records[0][1:])], has_header)
    # What stands in the middle is another text, or a speaker.
    return RecordingList(["sound", "text"] if max(sizes) == 2 else ["sound", "second", "text"], has_header)


def stream_recordings(path: Path, lines: Iterator[str], recordings: RecordingList) -> Iterator[FilePart]:
    """Yield the rows of a list of recordings in parts, with the columns "sound" and "text".

    lines: all lines of the file. recordings: from `find_recordings`. A line with another number of cells becomes a finding.
    """

    def rows() -> Iterator[Row]:
        for number, line in enumerate(lines, 1):
            cells = [cell.strip() for cell in line.rstrip("\r\n").split(DELIMITER)]
            if not line.strip() or (number == 1 and recordings.has_header):
                continue
            if len(cells) != len(recordings.names):
                fault = (
                    f"this line has {len(cells)} cells between vertical bars, the first one has {len(recordings.names)}"
                )
                yield [Finding(str(path), number, None, line.rstrip("\r\n"), fault)]
                continue
            # The cell of a recording that is not there stays, to be named.
            cells[0] = _find_file(path.parent, cells[0]) or cells[0]
            yield number, cells, len(line)

    header = "a header above names of recordings" if recordings.has_header else "no header"
    reason = f"{header}: read as a list of recordings; the columns are {', '.join(recordings.names)}"
    for index, part in enumerate(group_rows(path, rows(), recordings.names, from_cells)):
        yield part if index else replace(part, remarks=[Finding(str(path), None, None, None, reason), *part.remarks])


def _find_file(folder: Path, name: str) -> str | None:
    """Return the file of a recording below the folder of its list, as a path of POSIX; None if there is none."""
    if not name:
        return None
    bare = name[: -len(PurePosixPath(name).suffix)] if PurePosixPath(name).suffix.lower() in ENDINGS else name
    candidates = [name, *(f"{bare}{ending}" for ending in ENDINGS)]
    places = ("/".join(filter(None, place)) for place in product(FOLDERS, candidates))
    return next((place for place in places if (folder / place).is_file()), None)
