"""Pictures from strangers: whatever is in a file, it is read within limits of time and memory, or it is that row's fault.

The limits are computed from the headers, so most files here are headers alone. `pytest -m slow` measures the time and memory of
the largest files that are accepted, and mutates 20,000 files.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from images import encode_image

pytest.importorskip("PIL", reason="the extra [image] is not here")

from PIL import Image, ImageOps

from mapsto import kinds
from mapsto.errors import BadCell
from mapsto.media.cells import Unreadable
from mapsto.vision import image_io
from mapsto.vision.decoding import budget, plain

read = kinds.source("image").read

BOMB = zlib.compress(bytes(2**26), 9)
PNG_HEAD = b"\x89PNG\r\n\x1a\n"


def colours(width: int = 23, height: int = 17) -> Any:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    return Image.fromarray(values)


def exif_of(orientation: int) -> Any:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x829A] = orientation, "a maker", 0.01
    exif.get_ifd(0x8769)[0x9286] = b"a comment" * 20
    return exif


def samples(orientation: int = 6) -> Iterator[tuple[str, bytes]]:
    """Yield (name, file) of small pictures of all formats that are read, with metadata of all kinds."""
    exif, image, icc, xmp = exif_of(orientation), colours(), b"profile" * 40, b'<x tiff:Orientation="3"/>'
    for name, picture, options in (
        ("JPEG", image, {"exif": exif, "icc_profile": icc, "comment": b"hello", "xmp": xmp}),
        ("JPEG", image, {"exif": exif, "progressive": True}),
        ("JPEG", image.convert("CMYK"), {"exif": exif}),
        ("MPO", image, {"exif": exif, "save_all": True, "append_images": [colours()]}),
        ("PNG", image, {"exif": exif, "icc_profile": icc, "dpi": (72, 72)}),
        ("PNG", image.convert("P"), {"exif": exif, "transparency": 3}),
        ("PNG", image, {"exif": exif, "save_all": True, "append_images": [colours()]}),
        ("WEBP", image, {"exif": exif, "icc_profile": icc, "xmp": xmp}),
        ("WEBP", image.convert("RGBA"), {"exif": exif, "lossless": True}),
        ("WEBP", image, {"save_all": True, "append_images": [colours()], "exif": exif}),
        ("GIF", image.quantize(200), {"comment": b"hello", "save_all": True, "append_images": [colours()], "loop": 0}),
        ("BMP", image, {}),
        ("BMP", image.convert("P"), {}),
        ("TIFF", image, {"exif": exif, "compression": "tiff_lzw", "icc_profile": icc}),
        ("TIFF", image, {"exif": exif, "compression": "jpeg"}),
        ("TIFF", image.convert("1"), {"compression": "group4"}),
        ("TIFF", image, {"exif": exif, "big_tiff": True, "save_all": True, "append_images": [colours()]}),
    ):
        yield name, encode_image(picture.copy(), name, **options)


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def insert_metadata(name: str, content: bytes, block: bytes) -> bytes:
    """Return a picture with a block of EXIF data put into it. name: its format."""
    if name in ("JPEG", "MPO"):
        return content[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 8) + b"Exif\0\0" + block + content[2:]
    if name == "PNG":
        return content[:33] + png_chunk(b"eXIf", block) + content[33:]
    size = len(block)
    body = content[12:] + b"EXIF" + struct.pack("<I", size) + block + b"\0" * (size % 2)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


# Orientation


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_format_is_turned_as_pillow_turns_it(orientation: int, tmp_path: Path) -> None:
    """And the size that is read without decoding is that of the decoded picture."""
    for name, content in samples(orientation):
        opened = Image.open(io.BytesIO(content))
        opened.load()
        expected = np.array(image_io._to_rgb(image_io.load_pillow(), ImageOps.exif_transpose(opened)))
        assert np.array_equal(image_io.decode_image(content), expected), name
        (tmp_path / "a").write_bytes(content)
        assert image_io.read_frame(tmp_path / "a")[1::-1] == expected.shape[:2], name
        assert np.array_equal(image_io.pillow_pixels(Image.open(io.BytesIO(content))), expected), name


@pytest.mark.parametrize("kind", [1, 3, 4])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP"])
def test_the_orientation_is_read_though_the_rest_is_damaged(name: str, order: str, kind: int) -> None:
    """Values that cannot be written again, offsets to nowhere, and types that do not exist."""
    value = struct.pack(order + {1: "B", 3: "H", 4: "I"}[kind], 8).ljust(4, b"\0")
    entries = [
        struct.pack(order + "HHII", 0x010F, 2, 2**31, 2**31),
        struct.pack(order + "HHI", 0x0112, kind, 1) + value,
        struct.pack(order + "HHII", 0x8769, 4, 1, 8),  # a directory that contains itself
        struct.pack(order + "HHII", 0x829A, 5, 3, 2**32 - 9),
        struct.pack(order + "HHII", 0x9999, 77, 1, 1),
    ]
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8)
    block = head + struct.pack(order + "H", len(entries)) + b"".join(entries) + struct.pack(order + "I", 8)
    lossless: dict[str, Any] = {"lossless": True, "exif": b""} if name == "WEBP" else {}
    content = insert_metadata(name, encode_image(colours(), name, **lossless), block)
    plain_pixels = image_io.decode_image(encode_image(colours(), name, **lossless))
    assert np.array_equal(read(content).pixels, np.rot90(plain_pixels))


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "block",
    [b"", b"II", b"MM\0*\0\0\0\x08", b"II*\0\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff", b"no exif data at all" * 9,
     b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x09\0\0\0", b"II*\0\x08\0\0\0\x01\0\x12\x01\x05\0\x01\0\0\0\x06\0\0\0"],
)  # fmt: skip
def test_metadata_that_state_no_orientation_turn_nothing(name: str, block: bytes) -> None:
    content = insert_metadata(name, encode_image(colours(), name, lossless=True), block)
    assert read(content).pixels.shape == (17, 23, 3)


def test_the_orientation_of_xmp_counts_where_exif_has_none() -> None:
    for name in ("JPEG", "WEBP"):
        content = encode_image(colours(), name, xmp=b'<x tiff:Orientation="6"/>')
        assert read(content).pixels.shape == (23, 17, 3)
        assert read(encode_image(colours(), name, xmp=b"<x><tiff:Orientation>9</x>")).pixels.shape == (17, 23, 3)


# Any error is a fault


@pytest.mark.parametrize(
    "error", [struct.error, RecursionError, MemoryError, KeyError, ZeroDivisionError, UserWarning, OverflowError]
)
def test_whatever_a_decoder_raises_is_the_rows_fault(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Any) -> None:
        raise error

    content = encode_image(colours())
    opened = Image.open(io.BytesIO(content))
    monkeypatch.setattr(Image.Image, "convert", lambda *_, **__: fail(None))
    for cell in (content, opened):
        with pytest.raises(BadCell, match="the picture is damaged"):
            read(cell)


@pytest.mark.parametrize("name", ["\ud800.png", "a" * 5000 + ".png", "a/\udcff.png", "a\0.png"])
def test_names_that_no_file_can_have_are_the_rows_fault(name: str) -> None:
    for kind in ("image", "video"):
        with pytest.raises(BadCell):
            kinds.source(kind).read(name.replace("png", "mp4") if kind == "video" else name)


def test_warnings_that_are_errors_cost_no_picture() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _, content in samples():
            assert read(content).pixels.shape[2] == 3
        large = PNG_HEAD + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 12_000, 12_000, 8, 2, 0, 0, 0))
        with pytest.raises(BadCell, match="144,000,000|12,000 × 12,000 pixels are more"):
            read(large)


def mutate(content: bytes, rng: np.random.Generator) -> bytes:
    """Return a file with some bytes changed, taken out, doubled or cut off, more often near its start, where its headers are."""
    edited = bytearray(content)
    for _ in range(int(rng.integers(1, 5))):
        at = int(len(edited) * rng.random() ** (1 + 2 * rng.integers(2)))
        length = int(rng.integers(1, 9))
        edit = rng.integers(5)
        if edit == 0:
            edited[at : at + length] = rng.bytes(length)
        elif edit == 1:
            edited[at : at + length] = bytes([rng.choice([0, 1, 127, 128, 255])]) * length
        elif edit == 2:
            del edited[at : at + length]
        elif edit == 3:
            edited[at:at] = edited[at : at + 8 * length]
        elif rng.random() < 0.2:
            del edited[at:]
    return bytes(edited)


def fuzz(count: int, tmp_path: Path) -> int:
    """Read `count` mutated files and metadata blocks of every format; return how many are still pictures."""
    rng, whole = np.random.default_rng(22), 0
    files = list(samples())
    block = exif_of(6).tobytes().removeprefix(b"Exif\0\0")
    path = tmp_path / "mutated"
    for number, (name, content) in zip(range(count), itertools.cycle(files), strict=False):
        if number % 2 and name in ("JPEG", "PNG", "WEBP"):
            # Whole pixels, so the picture is read whatever the metadata are.
            bare = encode_image(colours(), name, **({"lossless": True} if name == "WEBP" else {}))
            assert read(insert_metadata(name, bare, mutate(block, rng))).pixels.size == 23 * 17 * 3
            whole += 1
            continue
        edited = mutate(content, rng)
        path.write_bytes(edited)
        try:
            value = read(edited)
        except BadCell:
            continue
        assert image_io.read_frame(path)[:2] == (value.width, value.height)
        whole += 1
    return whole


@pytest.mark.filterwarnings("error")
def test_mutated_files_raise_nothing_but_bad_cells(tmp_path: Path) -> None:
    assert 0 < fuzz(400, tmp_path) < 400


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
def test_20_000_mutated_files_raise_nothing_but_bad_cells(tmp_path: Path) -> None:
    assert 0 < fuzz(20_000, tmp_path) < 20_000


# Limits of time and memory


def jpeg_frame(
    marker: int, width: int, height: int, factors: tuple[int, ...], in_scan: int, scans: int, size: int = 0
) -> bytes:
    """Return the headers of a JPEG: a frame of this kind and size, and empty scans. size: bytes of the first scan."""
    parts = b"".join(bytes([number + 1, 17 * factor, 0]) for number, factor in enumerate(factors))
    frame = struct.pack(">BHHB", 8, height, width, len(factors)) + parts
    scan = b"\xff\xda" + struct.pack(">HB", 6 + 2 * in_scan, in_scan) + b"\1\0" * in_scan + b"\0\x3f\0"
    return (
        b"\xff\xd8\xff" + bytes([marker]) + struct.pack(">H", len(frame) + 2) + frame + scan + b"\x55" * size + scan * (scans - 1)
        + b"\xff\xd9"
    )  # fmt: skip


def repeated_scan(width: int, height: int, count: int) -> bytes:
    """Return a JPEG with one of its scans `count` times, and a comment before that which looks like the end of the file."""
    content = encode_image(Image.new("L", (width, height), 99), "JPEG", progressive=True)
    starts = [at for at in range(len(content)) if content[at : at + 2] == b"\xff\xda"]
    end = min(at for at in (content.find(b"\xff\xc4", starts[1]), content.find(b"\xff\xda", starts[1] + 2)) if at > 0)
    hidden = b"\xff\xfe\0\x06\xff\xd9\xff\xd9"
    return content[: starts[1]] + hidden + content[starts[1] : end] * count + content[starts[1] :]


def tiff(width: int, height: int, **tags: Any) -> bytes:
    """Return the headers of a grey TIFF. tags: "tNUMBER": values of a tag, as 32-bit numbers."""
    values = {256: [width], 257: [height], 258: [8], 259: [1], 262: [1], 277: [1]}
    values |= {int(name[1:]): numbers for name, numbers in tags.items()}
    head, tail = b"II*\0" + struct.pack("<IH", 8, len(values)), b""
    first = 14 + 12 * len(values)
    for tag, numbers in sorted(values.items()):
        data = struct.pack(f"<{len(numbers)}I", *numbers)
        place = data if len(data) == 4 else struct.pack("<I", first + len(tail))
        head += struct.pack("<HHI", tag, 4, len(numbers)) + place
        tail += data if len(data) > 4 else b""
    return head + bytes(4) + tail


def bmp(width: int, height: int, compression: int, data: bytes) -> bytes:
    palette = bytes(range(256)) * 4
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, compression, len(data), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(palette) + len(data), 0, 0, 54 + len(palette)) + head + palette + data


def webp(width: int, height: int) -> bytes:
    chunk = (
        b"VP8X" + struct.pack("<IB3x", 10, 16) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    )
    return b"RIFF" + struct.pack("<I", len(chunk) + 4) + b"WEBP" + chunk


ATTACKS: dict[str, tuple[Callable[[], bytes], str]] = {
    "many scans": (lambda: repeated_scan(2000, 2000, 1200), "scans that are decoded of a JPEG"),
    "many scans of sequential coding": (
        lambda: jpeg_frame(0xC0, 4000, 4000, (1, 1, 1), 1, 200),
        "scans that are decoded",
    ),
    "coefficients": (lambda: jpeg_frame(0xC2, 8000, 8000, (1, 1, 1), 3, 1), "a progressive JPEG has at most"),
    "arithmetic coding": (lambda: jpeg_frame(0xC9, 6000, 6000, (1,), 1, 1), "arithmetic coding"),
    "a long progressive scan": (
        lambda: jpeg_frame(0xC2, 99, 99, (1,), 1, 1, budget.MAX_PROGRESSIVE_BYTES),
        "progressive",
    ),
    "segments": (lambda: b"\xff\xd8" + b"\xff\xfe\0\2" * 200_001, "more than the 200,000 segments"),
    "chunks of PNG": (lambda: PNG_HEAD + png_chunk(b"IDAT", b"") * 200_001, "more than the 200,000 chunks"),
    "comments of GIF": (lambda: b"GIF89a\1\0\1\0\0\0\0" + b"!\xfe\1a\0" * 200_001, "more than the 200,000 blocks"),
    "blocks of GIF": (lambda: b"GIF89a\1\0\1\0\0\0\0!\xfe" + b"\1a" * 200_001, "more than the 200,000 blocks"),
    "chunks of WebP": (lambda: b"RIFF\0\0\0\0WEBP" + b"XMP \0\0\0\0" * 200_001, "more than the 200,000 chunks"),
    "a canvas of WebP": (lambda: webp(5000, 5000), "a WebP has at most 19,692,307 pixels"),
    "a frame beyond the canvas": (
        lambda: b"GIF89a\1\0\1\0\0\0\0," + struct.pack("<4HB", 0, 0, 60_000, 60_000, 0),
        "pixels are more",
    ),
    "run lengths": (lambda: bmp(8000, 7000, 1, b"\1\5\0\0" * 7000), "a BMP with run lengths has at most"),
    "many runs": (lambda: bmp(1000, 1000, 1, b"\1\5" * 1_000_001), "a BMP with run lengths has at most"),
    "tiny tiles": (
        lambda: tiff(8000, 8000, t322=[16], t323=[16], t324=[8] * 250_000),
        "250,000 strips or tiles are more",
    ),
    "shared strips": (
        lambda: tiff(800, 800, t278=[1], t273=[8] * 800, t279=[9000] * 800),
        "have more bytes than the file",
    ),
    "a large strip": (
        lambda: tiff(8000, 8000, t258=[32], t259=[5], t278=[8000], t273=[8]),
        "a strip of this TIFF takes",
    ),
    "LZMA": (lambda: tiff(8000, 8000, t259=[34925], t278=[8], t273=[8]), "LZMA"),
    "JPEG in TIFF": (
        lambda: tiff(4000, 4000, t259=[7], t278=[4000], t273=[8]) + b"\xff\xda" * 900,
        "JPEG scans of this TIFF",
    ),
    "a tag of many values": (lambda: tiff(8, 8, t320=[7] * 600_000, t273=[8]), "values of the tag 320"),
    "a long side": (
        lambda: PNG_HEAD + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 10**7, 8, 2, 0, 0, 0)),
        "have a side of more",
    ),
    "pixels of TIFF": (lambda: tiff(80_000, 80_000, t273=[8]), "pixels are more than"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_what_would_take_too_long_is_refused_by_its_headers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write, reason = ATTACKS[name]
    content = write()
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("it was opened"))
    with pytest.raises(BadCell, match=reason):
        read(content)


def test_what_looks_like_many_scans_and_is_not_is_read() -> None:
    """Scans are counted to the end of the picture: what follows it, as films of telephones do, is not."""
    content = repeated_scan(60, 40, 20) + b"\xff\xda" * 5000
    assert read(content).pixels.shape == (40, 60, 3)
    assert plain._num_scans(content, content.index(b"\xff\xda"), 100) > 20
    baseline = encode_image(colours(), "JPEG") + b"\xff\xda" * 5000
    assert read(baseline).pixels.shape == (17, 23, 3)


@pytest.mark.parametrize("kind", [b"iCCP", b"zTXt", b"iTXt", b"eXIf", b"tEXt", b"abCd"])
def test_metadata_of_png_are_not_unpacked(kind: bytes) -> None:
    """Though they would fill memory, are damaged, or have a wrong checksum."""
    content = encode_image(colours())
    for body in (b"Raw profile type exif\0\0" + BOMB, b"x\0\0" + b"\xff" * 99, b""):
        chunk = png_chunk(kind, body)
        broken = chunk[:-4] + b"\0\0\0\0"
        assert np.array_equal(read(content[:33] + chunk * 3 + broken + content[33:]).pixels, read(content).pixels)


def test_exif_as_imagemagick_writes_it_into_png_turns(tmp_path: Path) -> None:
    block = exif_of(6).tobytes()
    text = b"\nexif\n%8d\n" % len(block) + b"\n".join(
        block.hex().encode()[at : at + 72] for at in range(0, 2 * len(block), 72)
    )
    content = encode_image(colours())
    for kind, packed in ((b"zTXt", zlib.compress(text)), (b"zTXt", zlib.compress(text)[:-9])):
        body = b"Raw profile type exif\0\0" + packed
        edited = content[:33] + png_chunk(kind, body) + content[33:]
        assert read(edited).pixels.shape in ((23, 17, 3), (17, 23, 3))
    assert (
        read(
            content[:33] + png_chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text)) + content[33:]
        ).height
        == 23
    )


def test_a_large_picture_is_converted_in_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    for mode in ("RGBA", "LA", "P", "1", "CMYK", "I;16"):
        image = (
            colours(64, 64).convert(mode)
            if mode != "I;16"
            else Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64))
        )
        content = encode_image(image, "TIFF" if mode == "CMYK" else "PNG")
        monkeypatch.setattr(image_io, "BAND_PIXELS", 2**19)
        whole = image_io.decode_image(content)
        monkeypatch.setattr(image_io, "BAND_PIXELS", 300)
        assert np.array_equal(image_io.decode_image(content), whole), mode


# The largest files that are accepted, in a process of their own. The limits are loose, since other processes may run.
LARGEST = {
    "transparent.png": lambda: encode_image(Image.new("RGBA", (8000, 8000), (1, 2, 3, 90)), "PNG"),
    "grey16.png": lambda: encode_image(Image.fromarray(np.zeros((8000, 8000), np.uint16)), "PNG"),
    "progressive.jpg": lambda: encode_image(Image.new("RGB", (7000, 7000), (9, 99, 199)), "JPEG", progressive=True),
    "scans.jpg": lambda: repeated_scan(8000, 8000, 16),
    "baseline.jpg": lambda: encode_image(Image.new("RGB", (8000, 8000), (9, 99, 199)), "JPEG", exif=exif_of(6)),
    "lossless.webp": lambda: encode_image(
        Image.new("RGBA", (4400, 4400), (1, 2, 3, 90)), "WEBP", lossless=True, quality=0
    ),
    "palette.gif": lambda: encode_image(Image.new("P", (8000, 8000)), "GIF"),
    "runs.bmp": lambda: bmp(4000, 2000, 1, b"\1\5\0\0" * 2000),
    "strips.tif": lambda: encode_image(Image.new("CMYK", (8000, 8000)), "TIFF", compression="tiff_lzw"),
}
MEASURE = """
import json, sys, time
from mapsto.vision import image_io
def memory(name):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(name))
image_io.load_pillow().Image.init()
content = open(sys.argv[1], "rb").read()
before, start = memory("VmRSS"), time.process_time()
open("/proc/self/clear_refs", "w").write("5")
pixels = image_io.decode_image(content)
print(json.dumps([time.process_time() - start, memory("VmHWM") - before - pixels.nbytes]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="memory is measured by Linux")
@pytest.mark.parametrize("name", LARGEST)
def test_the_largest_files_are_read_within_the_budget(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(LARGEST[name]())
    command = [sys.executable, "-c", MEASURE, str(tmp_path / name)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    seconds, memory = json.loads(subprocess.run(command, env=env, capture_output=True, check=True).stdout)
    # A megabyte beside the budget, for pages that the allocator keeps.
    assert memory < 2**28 + 2**20 and seconds < 4, (seconds, memory)


def test_files_larger_than_are_read_are_refused(tmp_path: Path) -> None:
    with (tmp_path / "a.tif").open("wb") as stream:
        stream.truncate(image_io.MAX_BYTES + 1)
    with pytest.raises(Unreadable, match="bytes are more than"):
        image_io.read_frame(tmp_path / "a.tif")
