"""Files that are no sound, by their first bytes: what a message calls them, and what to do."""

from __future__ import annotations

from mapsto.audio.decoding.containers.ogg import FIRST_PAGE

# The shortest text that is not in UTF-8 but is known to be text, and the share of letters that were lost as text was read.
MIN_TEXT, MIN_REPLACED = 64, 1 / 20

HEADLESS = (
    "a part of a live recording in {} without the header, which stands in the first part: join the parts in order"
)
PICTURE, ARCHIVE, PROGRAM = "a {} picture", "a {} archive: unpack it", "a program"

# The first bytes of files that are no sound, and their names.
NO_SOUNDS = (
    (b"%PDF", "a PDF"),
    (b"\x89PNG", PICTURE.format("PNG")),
    (b"\xff\xd8\xff", PICTURE.format("JPEG")),
    (b"GIF8", PICTURE.format("GIF")),
    (b"PK\x03\x04", ARCHIVE.format("ZIP")),
    (b"\x1f\x8b", ARCHIVE.format("gzip")),
    (b"BZh", ARCHIVE.format("bzip2")),
    (b"7z\xbc\xaf", ARCHIVE.format("7z")),
    (b"\xfd7zXZ", ARCHIVE.format("xz")),
    (b"\x28\xb5\x2f\xfd", ARCHIVE.format("zstd")),
    (b"Rar!", ARCHIVE.format("RAR")),
    (b"MThd", "MIDI, which holds notes and no samples"),
    (b"version https://git-lfs", "a pointer of Git LFS: fetch the file itself with git lfs pull"),
    (b"#EXTM3U", "a playlist, which names other files"),
    (b"[playlist]", "a playlist, which names other files"),
    (b"\x1fC\xb6u", HEADLESS.format("WebM")),
    (b"\0\x05\x16\x07", "a file of attributes that macOS writes beside another (._name): delete it"),
    (b"SQLite format 3", "an SQLite database, such as a project of Audacity: export its sound"),
    (b"\x93NUMPY", "an array of NumPy: give it with its rate, as {'array', 'sampling_rate'}"),
    (b"\x80\x04\x95", "a pickle, which is never opened"),
    (b"\x89HDF", "an HDF5 file"),
    (b"PAR1", "a parquet table: give it as the data"),
    (b"ARROW1", "an Arrow table: give it as the data"),
    (b"\xd0\xcf\x11\xe0", "a document of Microsoft Office"),
    (b"MZ\x90", PROGRAM),
    (b"\x7fELF", PROGRAM),
)

# The marks of files at other offsets, and their names.
MARKED = (
    (4, b"moof", HEADLESS.format("MP4")),
    (4, b"styp", HEADLESS.format("MP4")),
    (4, b"ftyphei", PICTURE.format("HEIC")),
    (4, b"ftypmif1", PICTURE.format("HEIF")),
    (4, b"ftypavif", PICTURE.format("AVIF")),
    (8, b"WEBP", PICTURE.format("WebP")),
    (257, b"ustar", ARCHIVE.format("tar")),
)

# The beginnings of sounds in base64: WAV, MP3 with a tag, FLAC, Ogg, WebM.
BASE64_SOUNDS = (b"data:audio", b"data:video", b"uklgr", b"suqz", b"zkxhq", b"t2dnu", b"gkxfo")


def name_no_sound(head: bytes) -> str:
    """Return what the first bytes of a file show it to be, in words, if it is no sound; "" if it may be one."""
    for start, name in NO_SOUNDS:
        if head.startswith(start):
            return name
    for offset, mark, name in MARKED:
        if head[offset : offset + len(mark)] == mark:
            return name
    if head[:4] == b"OggS" and len(head) > 5 and not head[5] & FIRST_PAGE:
        return HEADLESS.format("Ogg")
    if head.count("\ufffd".encode()) >= MIN_REPLACED * len(head):
        return "bytes that were read as text and written again, by which they are lost (\ufffd)"
    return _name_text(head)


def _name_text(head: bytes) -> str:
    """Return what the first bytes of a text show it to be, in words; "" for no text."""
    if head[:2] in (b"\xff\xfe", b"\xfe\xff") and 0 in (head[2:3] + head[3:4]):
        return "text in UTF-16"
    if not _is_text(head) or head[:4] in (b"OggS", b"fLaC"):
        return ""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "an HTML page, such as that of an error of a download"
    if text.startswith(BASE64_SOUNDS):
        return "text in base64, which is probably one: decode it to bytes"
    return "text in XML, HTML or JSON" if text.startswith((b"<", b"{", b"[")) else "text"


def _is_text(head: bytes) -> bool:
    """Return whether the first bytes of a file are text: without control characters, in UTF-8 or of some length."""
    if not head or any((byte < 32 and byte not in b"\t\r\n\f") or byte == 127 for byte in head):
        return False
    if len(head) >= MIN_TEXT:
        return True
    try:
        head.decode()
    except UnicodeDecodeError:
        return False
    return True
