"""The files of an exported model: the graph, and everything else that answering needs, sealed by a hash.

An ONNX model is one file, whose metadata has a record in JSON, the small files of the model folder (tokenizer, settings,
mapsto.json), and the parity rows. So one file is enough, and any runtime opens it. The seal is a last entry of the metadata with
the SHA-256 of all bytes before it, which protobuf allows since a message may be written in parts. It is checked before any part
of the file is parsed. A model in OpenVINO's form is two files with the same entries, see `ir_files`.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from collections.abc import Mapping as Dict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mapsto import files
from mapsto.errors import CheckpointError, UsageError
from mapsto.pretrained.exported.ir_files import IR_SUFFIX, read_ir, seal_ir, weights_path

SUFFIX = ".onnx"
FORMAT = 1
# Keys of the entries: the record, and the prefixes of files kept as text and as base64.
RECORD_KEY, SEAL_KEY, TEXT_PREFIX, BASE64_PREFIX = "mapsto", "mapsto.sha256", "file:", "base64:"
# The seal is within so many bytes of the end of a file.
SEAL_AT_MOST = 1000
# Protobuf messages have less than 2 GiB.
MAX_BYTES = 2**31 - 2**20
# Number of `metadata_props` in ONNX's ModelProto, with the wire type of a length-delimited field (onnx.proto3).
METADATA_TAG = 14 << 3 | 2


@dataclass(frozen=True)
class Graph:
    """A graph as bytes: an ONNX model, or one of OpenVINO.

    content: of the .onnx or .xml file. weights: of the .bin file; None for ONNX, which has them in its content.
    """

    content: bytes
    weights: bytes | None = None


def is_exported(name: str | Path) -> bool:
    """Return whether a model's name is that of an exported file, by its suffix."""
    path = Path(name).expanduser()
    return path.suffix.lower() in (SUFFIX, IR_SUFFIX) and path.is_file()


def has_seal(path: Path) -> bool:
    """Return whether a file ends as those that `mapsto export` writes, whatever it holds."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - SEAL_AT_MOST))
        return SEAL_KEY.encode() in file.read()


def exported_files(path: Path) -> list[Path]:
    """Return the files of an exported model: the file itself, and for an .xml file also its weights."""
    return [path, weights_path(path)] if path.suffix.lower() == IR_SUFFIX else [path]


def seal_model(model: bytes, entries: Dict[str, str]) -> bytes:
    """Return the bytes of a sealed file: an ONNX model with further entries of metadata.

    Raises UsageError if they are too many for one file.
    """
    content = model + b"".join(_entry(key, value) for key, value in entries.items())
    sealed = content + _entry(SEAL_KEY, hashlib.sha256(content).hexdigest())
    if len(sealed) > MAX_BYTES:
        raise UsageError(f"the model has {len(sealed):,} bytes, and an ONNX file holds at most {MAX_BYTES:,}")
    return sealed


def seal_files(path: Path, graph: Graph, entries: Dict[str, str]) -> dict[Path, bytes]:
    """Return {file: content} of an exported model with its entries, sealed; the last one is that which names the model.

    path: of the .onnx or .xml file. Raises UsageError if they are too many for one file.
    """
    if graph.weights is None:
        return {path: seal_model(graph.content, entries)}
    return {weights_path(path): graph.weights, path: seal_ir(graph.content, graph.weights, entries)}


def read_sealed(path: Path) -> tuple[Graph, dict[str, Any], dict[str, bytes]]:
    """Return (graph, record, {name: content of each file}) of an exported file.

    Raises CheckpointError for a file that is damaged, was not written by mapsto, or has another format.
    """
    graph, entries = _read_graph(path)
    try:
        record = json.loads(entries[RECORD_KEY])
        contents = {
            key.removeprefix(TEXT_PREFIX): text.encode() for key, text in entries.items() if key.startswith(TEXT_PREFIX)
        }
        encoded = {
            key.removeprefix(BASE64_PREFIX): text for key, text in entries.items() if key.startswith(BASE64_PREFIX)
        }
        contents |= {name: base64.b64decode(text, validate=True) for name, text in encoded.items()}
        version = record["format"]
    except (LookupError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} holds no record of mapsto: {error!r}") from error
    if version != FORMAT:
        hint = "; update mapsto" if isinstance(version, int) and version > FORMAT else ""
        raise CheckpointError(f"{path} has format {version!r}; this version reads {FORMAT}{hint}")
    for name in contents:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise CheckpointError(f"{path} holds a file {name!r}, whose name leads out of its folder")
    return graph, record, contents


def _read_graph(path: Path) -> tuple[Graph, dict[str, str]]:
    """Return (graph, {key: text of each entry}) of an exported file whose seal is whole. Raises CheckpointError for others."""
    if path.suffix.lower() == IR_SUFFIX:
        xml, weights, entries = read_ir(path)
        return Graph(xml, weights), entries
    content = files.read_bytes(path)
    size = len(_entry(SEAL_KEY, "0" * 64))
    start, end = content[:-size], content[-size:]
    if not end.startswith(_entry(SEAL_KEY, "0" * 64)[:-64]):
        raise CheckpointError(
            f"{path} is no file that `mapsto export` wrote, or is cut short: the seal at its end is missing"
        )
    if _entry(SEAL_KEY, hashlib.sha256(start).hexdigest()) != end:
        raise CheckpointError(f"{path} is damaged: its SHA-256 is not the one it was saved with")
    try:
        return Graph(content), dict(_read_entries(content))
    except (LookupError, ValueError) as error:
        raise CheckpointError(f"{path} holds no record of mapsto: {error!r}") from error


def file_entries(contents: Dict[str, bytes]) -> dict[str, str]:
    """Return the entries of metadata that keep files: as text where they are UTF-8, else as base64. contents: by file name."""
    entries = {}
    for name, content in contents.items():
        try:
            entries[TEXT_PREFIX + name] = content.decode()
        except UnicodeDecodeError:
            entries[BASE64_PREFIX + name] = base64.b64encode(content).decode()
    return entries


def _entry(key: str, value: str) -> bytes:
    """Return the bytes of one entry of `metadata_props`: a message with the key as its field 1 and the value as field 2."""
    fields = [(1, key.encode()), (2, value.encode())]
    message = b"".join(_varint(number << 3 | 2) + _varint(len(text)) + text for number, text in fields)
    return _varint(METADATA_TAG) + _varint(len(message)) + message


def _read_entries(content: bytes) -> Iterator[tuple[str, str]]:
    """Yield (key, value) of each entry of `metadata_props` in the bytes of a ModelProto, whose other fields are passed over.

    Raises ValueError or IndexError for bytes that are no message.
    """
    for tag, start, end in _read_fields(content, 0, len(content)):
        if tag == METADATA_TAG:
            parts = {number: content[first:last].decode() for number, first, last in _read_fields(content, start, end)}
            yield parts.get(1 << 3 | 2, ""), parts.get(2 << 3 | 2, "")


def _read_fields(content: bytes, position: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield (tag, first byte, end) of each length-delimited field of the message in content[position:end]."""
    while position < end:
        tag, position = _read_varint(content, position)
        wire_type = tag & 7
        if wire_type == 0:
            _, position = _read_varint(content, position)
        elif wire_type == 2:
            length, position = _read_varint(content, position)
            yield tag, position, position + length
            position += length
        else:
            position += {1: 8, 5: 4}[wire_type]


def _varint(number: int) -> bytes:
    """Return a number as a varint of protobuf: seven bits a byte, the lowest first, with the top bit set but in the last."""
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    return bytes([*encoded, number])


def _read_varint(content: bytes, position: int) -> tuple[int, int]:
    """Return the varint at a position, and the position behind it."""
    number = shift = 0
    while True:
        byte = content[position]
        number |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return number, position
