"""Pictures as the page shows them for drawing: pixel for pixel as the kind of the source reads them.

A browser may turn a picture by other metadata than are read here, plays animations whose first frame alone is read, and shows no
TIFF. The page switches the browser's turning off (`image-orientation: none`), and such pictures are encoded again.
"""

from __future__ import annotations

from pathlib import Path

from mapsto.errors import DataError
from mapsto.media.cells import Unreadable
from mapsto.vision.image_io import decode_image, encode_jpeg, read_frame, read_image_bytes

# Formats of one frame that every browser shows.
SHOWN_AS_THEY_ARE = (".jpg", ".jpeg", ".png", ".bmp")
UPRIGHT = 1  # the value of EXIF's orientation for a picture that is not turned


def render_picture(path: Path) -> bytes | None:
    """Return a picture as JPEG as it is read, turned and of one frame; None if a browser shows the file's pixels so itself.

    Raises OSError if the file cannot be opened, DataError if it cannot be decoded any more.
    """
    try:
        if path.suffix.lower() in SHOWN_AS_THEY_ARE and read_frame(path)[2] == UPRIGHT:
            return None
        return encode_jpeg(decode_image(read_image_bytes(path)))
    except Unreadable as error:
        raise DataError(str(error)) from error
