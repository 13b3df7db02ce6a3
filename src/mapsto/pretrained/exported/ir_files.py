"""The two files of an exported model in OpenVINO's intermediate representation (IR): an .xml file and its weights, .bin.

The `rt_info` of the .xml, where OpenVINO keeps facts on a model, has everything else as one text in JSON under the name "mapsto":
the record, the small files of the model folder and the parity rows. So the two files are enough, and OpenVINO opens them. The
seal is a comment at the end of the .xml: the SHA-256 of the weights, and that of all bytes before it. Both are checked before
anything is parsed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping as Dict
from pathlib import Path
from xml.etree import ElementTree

from mapsto import files
from mapsto.errors import CheckpointError

IR_SUFFIX, WEIGHTS_SUFFIX = ".xml", ".bin"
# The elements of OpenVINO's facts on a model, and of our entries among them.
INFO_TAG, ENTRIES_TAG = "rt_info", "mapsto"
SEAL_START, SEAL_MIDDLE, SEAL_END = b"<!-- mapsto.sha256 weights=", b" model=", b" -->\n"
HASH_LENGTH = 64
SEAL_LENGTH = len(SEAL_START) + len(SEAL_MIDDLE) + len(SEAL_END) + 2 * HASH_LENGTH


def weights_path(path: Path) -> Path:
    """Return the file with the weights of an .xml file."""
    return path.with_suffix(WEIGHTS_SUFFIX)


def seal_ir(xml: bytes, weights: bytes, entries: Dict[str, str]) -> bytes:
    """Return the bytes of a sealed .xml file with entries.

    xml: as OpenVINO writes it. weights: the content of its .bin file.
    """
    root = ElementTree.fromstring(xml)
    info = root.find(INFO_TAG)
    info = ElementTree.SubElement(root, INFO_TAG) if info is None else info
    # JSON in ASCII has no character that an attribute would lose, such as the end of a line.
    ElementTree.SubElement(info, ENTRIES_TAG, value=json.dumps(entries))
    text: bytes = ElementTree.tostring(root, "utf-8", xml_declaration=True)
    content = b"".join([text, b"\n", SEAL_START, _hash(weights), SEAL_MIDDLE])
    return content + _hash(content) + SEAL_END


def read_ir(path: Path) -> tuple[bytes, bytes, dict[str, str]]:
    """Return (bytes of the .xml file, bytes of the .bin file, {key: text of each entry}) of an exported model.

    Raises CheckpointError for files that are damaged, missing, not of one export, or were not written by mapsto.
    """
    place = weights_path(path)
    # Who replaces the two files holds the lock of the folder while one of them is new.
    with files.locked_folder(path.parent):
        content = files.read_bytes(path)
        weights = files.read_bytes(place) if place.exists() else None
    seal = content[-SEAL_LENGTH:]
    if not (seal.startswith(SEAL_START) and seal.endswith(SEAL_END)):
        raise CheckpointError(
            f"{path} is no file that `mapsto export` wrote, or is cut short: the seal at its end is missing"
        )
    end = len(content) - len(SEAL_END)
    if _hash(content[: end - HASH_LENGTH]) != content[end - HASH_LENGTH : end]:
        raise CheckpointError(f"{path} is damaged: its SHA-256 is not the one it was saved with")
    if weights is None:
        raise CheckpointError(f"{path} has its weights in {place.name}, which is not beside it")
    if _hash(weights) != seal[len(SEAL_START) : len(SEAL_START) + HASH_LENGTH]:
        raise CheckpointError(f"{place} is damaged, or is of another export than {path.name}: its SHA-256 differs")
    try:
        element = ElementTree.fromstring(content).find(f"{INFO_TAG}/{ENTRIES_TAG}")
        entries = json.loads("" if element is None else element.get("value", ""))
        return content, weights, {str(key): str(text) for key, text in entries.items()}
    except (ElementTree.ParseError, AttributeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} holds no record of mapsto: {error!r}") from error


def _hash(content: bytes) -> bytes:
    """Return the SHA-256 of bytes, in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest().encode()
