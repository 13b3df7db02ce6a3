"""Pascal VOC's annotations: an XML file for each picture (Everingham et al. 2010)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from mapsto.vision.annotations.picture_set import (
    Annotation,
    BoxCell,
    BoxCells,
    PictureSet,
    ambiguity,
    fault,
    fit_to_picture,
    join,
    last_part,
    number,
    picture_path,
    read_annotation_bytes,
    stated_size,
)

# The root of an XML file, or the reason why it cannot be read.
ParsedXml = ElementTree.Element | str

# The most elements that may be open at the end of a file, comments and declarations among them.
MAX_UNCLOSED = 1000

SIDES = ("xmin", "ymin", "xmax", "ymax")


def read_voc(pictures: PictureSet) -> BoxCells:
    """Return the boxes in all Pascal VOC files of a data set, by picture; empty if it has none.

    A damaged XML file counts as one of them if it lies beside another or has the name of a picture. An annotation without a
    picture gets the path where the picture should be.
    """
    parsed = {file: _parse(file) for file in pictures.files if file.suffix.lower() == ".xml"}
    annotations = {file: xml for file, xml in parsed.items() if not isinstance(xml, str) and xml.tag == "annotation"}
    if not annotations:
        return {}
    folders = {file.parent for file in annotations}
    broken = {file for file, xml in parsed.items() if isinstance(xml, str)}
    broken = {file for file in broken if file.parent in folders or pictures.pictures_of(file)}
    return join(_annotations(pictures, {file: parsed[file] for file in sorted({*annotations, *broken})}))


def _parse(file: Path) -> ParsedXml:
    """Return the root of an XML file, or the reason why it cannot be read."""
    try:
        content = read_annotation_bytes(file)
        # The parser would hold an object for each open element, and take seconds for a file of nothing else.
        if content.count(b"<") - 2 * content.count(b"</") - content.count(b"/>") > MAX_UNCLOSED:
            raise ValueError(f"more than {MAX_UNCLOSED:,} elements are never closed")
        return ElementTree.fromstring(content)
    except (OSError, ValueError, LookupError, ElementTree.ParseError) as error:
        return str(error)


def _annotations(pictures: PictureSet, parsed: dict[Path, ParsedXml]) -> Iterator[Annotation]:
    """Yield the annotation of each file. parsed: the root, or the reason why it cannot be read, by file."""
    for file, xml in parsed.items():
        name = "" if isinstance(xml, str) else last_part(xml.findtext("filename") or "")
        candidates = pictures.pictures_of(file, name)
        image = picture_path(file, candidates, name)
        if len(candidates) > 1:
            yield image, file.name, fault(ambiguity(file.stem))
        elif candidates:
            yield image, file.name, _cell(file, xml, image)
        else:
            cell = _cell(file, xml, image)
            yield image, file.name, cell if isinstance(cell, dict) else fault(f"{file.name} belongs to no picture")


def _cell(file: Path, xml: ParsedXml, image: Path) -> BoxCell:
    """Return the boxes in one file, also of objects marked as difficult; {"fault": reason} if it is damaged.

    xml: the root of the file's XML, or the reason why it cannot be read. image: the picture, which has the stated size.
    """
    if isinstance(xml, str):
        return fault(f"{file.name} cannot be read as Pascal VOC's: {xml}")
    boxes, reasons = [], []
    for position, element in enumerate(xml.iter("object"), 1):
        try:
            sides = [number(element.findtext(f"bndbox/{side}"), side) for side in SIDES]
            boxes.append({"label": (element.findtext("name") or "").strip(), "box": sides})
        except ValueError as error:
            reasons.append(f"object {position}: {error}")
    try:
        if reasons:
            raise ValueError(reasons[0])
        return fit_to_picture(boxes, stated_size(xml.findtext("size/width"), xml.findtext("size/height")), image)
    except ValueError as error:
        return fault(f"{file.name} cannot be read as Pascal VOC's: {error}")
