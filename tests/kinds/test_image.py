"""Pictures as users have them: every mode and shape is read, what is none is named, and what is moved keeps its place."""

from __future__ import annotations

import io
import json
import re
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("PIL", reason="the extra [image] is not here")

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st
from images import SMALL_ARGUMENTS, encode_image, two_coloured_image, write_photo_folder
from PIL import Image
from runs import in_a_browser, run, sentences

import mapsto
from mapsto import kinds
from mapsto.data.table import fingerprint_source, read_table, write_rows
from mapsto.demo.data import digits
from mapsto.errors import BadCell
from mapsto.explain.report import explanation_page
from mapsto.fitting.prepare import prepare
from mapsto.fitting.request import FitRequest
from mapsto.media.decoded_cache import DecodedCache
from mapsto.options import Options
from mapsto.sequence.corruption import make_generator
from mapsto.task.arrow import parse
from mapsto.vision import augmentation, image_io, image_value, resize
from mapsto.vision.decoding import budget
from mapsto.vision.image_value import ImageValue
from mapsto.vision.patch_embedding import HEADER_BYTES
from mapsto.vision.resize import Resizer

# Decoding


def test_every_mode_is_read_as_colours() -> None:
    grey16 = Image.fromarray((np.arange(32, dtype=np.uint16) * 2000).reshape(4, 8))
    palette = two_coloured_image().quantize(4)
    see_through = two_coloured_image().convert("RGBA")
    see_through.putalpha(0)
    shades = Image.fromarray(np.arange(32, dtype=np.uint8).reshape(4, 8))
    for image, kind, corner in (
        (two_coloured_image(), "PNG", (255, 0, 0)),
        (palette, "GIF", (255, 0, 0)),
        (see_through, "PNG", (255, 255, 255)),
        (shades, "PNG", (0, 0, 0)),
        (grey16, "PNG", (0, 0, 0)),
        (two_coloured_image().convert("1"), "PNG", None),
        (two_coloured_image().convert("CMYK"), "TIFF", (255, 0, 0)),
        (two_coloured_image(), "WEBP", None),
    ):
        pixels = image_io.decode_image(encode_image(image, kind))
        assert pixels.shape == (4, 8, 3) and pixels.dtype == np.uint8
        if corner is not None:
            assert np.abs(pixels[0, 0].astype(int) - corner).max() <= 4, (kind, image.mode, pixels[0, 0])
    assert image_io.decode_image(encode_image(grey16))[3, 7, 0] == round(62000 / 257)


def test_pictures_of_pillow_are_read_as_their_files() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    read, fits = kinds.source("image").read, kinds.source("image").fits
    for image, kind, how in (
        (two_coloured_image((40, 20)), "PNG", {"exif": exif}),
        (two_coloured_image().convert("CMYK"), "TIFF", {}),
        (two_coloured_image().convert("LA"), "PNG", {}),
        (Image.fromarray((np.arange(32, dtype=np.uint16) * 2000).reshape(4, 8)), "PNG", {}),
    ):
        content = encode_image(image, kind, **how)
        opened = Image.open(io.BytesIO(content))
        assert np.array_equal(read(opened).pixels, image_io.decode_image(content)), (image.mode, kind)
        assert np.array_equal(read(opened).pixels, read(opened).pixels), "what was opened stays so"
        assert fits([opened, None]) and fits([opened, "a.png"]) and not fits([opened, "words"])
    with pytest.raises(BadCell, match="damaged"):
        read(Image.open(io.BytesIO(encode_image(two_coloured_image((60, 60)), "JPEG")[:-60])))
    rows = [{"image": Image.new("RGB", (8, 8), (9 * i, 0, 0)), "label": "ab"[i % 2]} for i in range(12)]
    again = [{**row, "image": row["image"].copy()} for row in rows]
    assert fingerprint_source(rows) == fingerprint_source(again) != fingerprint_source(rows[1:] + rows[:1])
    model = mapsto.fit("image -> label", rows, steps=1, layers=1, width=32, device="cpu")
    assert model(rows[0]["image"])["label"] in "ab"


def test_a_camera_held_upright_is_turned() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter to the right
    pixels = image_io.decode_image(encode_image(two_coloured_image((40, 20)), "JPEG", exif=exif, quality=95))
    assert pixels.shape == (40, 20, 3)
    assert pixels[2, 10, 0] > 200 and pixels[37, 10, 2] > 200


def test_of_a_moving_picture_the_first_frame_is_read() -> None:
    frames = [Image.new("RGB", (6, 6), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    content = encode_image(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert image_io.decode_image(content)[0, 0].tolist() == [255, 0, 0]


def test_what_is_no_picture_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = kinds.source("image").read
    whole = encode_image(two_coloured_image((60, 60)), "JPEG")
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.png").touch()
    with (tmp_path / "large.png").open("wb") as stream:
        stream.truncate(image_io.MAX_BYTES + 1)
    monkeypatch.setattr(budget, "MAX_PIXELS", 5000)
    for cell, said in (
        (b"plain text", "no picture of a known format"),
        (str(tmp_path / "cut.jpg"), "damaged"),
        (str(tmp_path / "none.jpg"), "No such file"),
        (str(tmp_path), "this is no file"),
        ("/dev/zero", "this is no file"),
        (str(tmp_path / "empty.png"), "the file is empty"),
        (str(tmp_path / "large.png"), "bytes are more than"),
        (str(tmp_path / ("long" * 99)), "cannot be read"),
        ("a\0.png", "no NUL"),
        (encode_image(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), "which of its values is white"),
        (encode_image(Image.fromarray(np.full((4, 4), 200, np.int32)), "TIFF"), "which of its values is white"),
        ("https://example.org/cat.jpg", "nothing is fetched"),
        (encode_image(Image.new("L", (100, 100))), "more than the 5,000"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no picture of a known format"),
        ({"bytes": None, "path": None}, "blank"),
        (np.zeros((4, 4)), "bytes"),
    ):
        with pytest.raises(BadCell, match=said):
            read(cell)


def chunk(name: bytes, content: bytes) -> bytes:
    """A piece of a PNG."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def bombs() -> dict[str, bytes]:
    """Small files that say they are huge, or become it when they are unpacked."""
    packer = zlib.compressobj(9)
    zeros = b"".join(packer.compress(bytes(2**20)) for _ in range(300)) + packer.flush()

    def png(width: int, height: int, bits: int, colour: int, beside: bytes = b"") -> bytes:
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
        return b"\x89PNG\r\n\x1a\n" + header + beside + chunk(b"IDAT", zeros) + chunk(b"IEND", b"")

    jpeg = bytearray(encode_image(Image.new("RGB", (64, 64)), "JPEG"))
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = struct.pack(">HH", 65500, 65500)
    sizes = struct.pack("<HH", 65535, 65535)
    gif = b"GIF89a" + sizes + b"\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0" + sizes + b"\0\x02\x02\x44\x01\0;"
    bmp = struct.pack("<IHHI", 62, 0, 0, 62) + struct.pack("<IiiHHIIiiII", 40, 60000, 60000, 1, 1, 0, 0, 0, 0, 2, 2)
    return {
        "a.png": png(49_000, 49_000, 1, 0),
        "b.png": png(9_999, 9_999, 8, 2),
        "c.png": png(30_000, 30_000, 16, 6),
        "text.png": png(4, 4, 8, 0, chunk(b"zTXt", b"a\0\0" + zeros)),
        "profile.png": png(4, 4, 8, 0, chunk(b"iCCP", b"a\0\0" + zeros)),
        "a.jpg": bytes(jpeg),
        "a.gif": gif,
        "a.bmp": b"BM" + bmp + bytes(8),
    }


READ_BOMBS = """
import resource, sys
from pathlib import Path
from mapsto import kinds
from mapsto.errors import BadCell
read = kinds.source("image").read
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
first, *bombs = sorted(Path(sys.argv[1]).iterdir(), key=lambda path: path.name != "fine.png")
read(str(first))
for path in bombs:
    before, is_whole = peak(), False
    try:
        read(str(path))
        is_whole = True
    except BadCell:
        pass
    # Metadata are not unpacked, so bombs there cost a picture nothing.
    assert is_whole == (path.name in ("text.png", "profile.png")) and peak() - before < 256, path
"""


def test_small_files_that_become_huge_take_little_memory(tmp_path: Path) -> None:
    for name, content in {**bombs(), "fine.png": encode_image(two_coloured_image((60, 60)))}.items():
        (tmp_path / name).write_bytes(content)
        assert len(content) < 700_000
    done = subprocess.run([sys.executable, "-c", READ_BOMBS, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# Size and place


@given(h=st.integers(1, 90), w=st.integers(1, 90), patch=st.sampled_from([1, 2, 4, 8]), side=st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_nothing_is_squashed_unless_asked(h: int, w: int, patch: int, side: int) -> None:
    """Sides are whole patches; a picture grows by less than one, and keeps its shape to within one."""
    pixels, origin = Resizer(patch, side * patch).resize(np.zeros((h, w, 3), np.uint8))
    new = np.array(pixels.shape[:2])
    assert (new % patch == 0).all() and (new <= side * patch).all()
    scale = min(1.0, side * patch / max(h, w))
    assert (np.abs(new - np.maximum(np.array([h, w]) * scale, patch)) <= patch).all()
    assert np.allclose(origin[:, 0] * new, [h, w])


@given(g=st.integers(1, 5), k=st.integers(1, 5), p=st.integers(1, 4), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_patches_are_joined_again(g: int, k: int, p: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (g * p, k * p, 3)).astype(np.uint8)
    assert np.array_equal(resize.join_patches(resize.split_patches(pixels, p), (g, k), p), pixels)


@pytest.mark.parametrize("how", kinds.source("image").augmentations)
def test_what_is_moved_keeps_its_place(how: str) -> None:
    """A red spot: after moving, the patches that show it still say where it was in the raw picture."""
    pixels = np.zeros((64, 48, 3), np.uint8)
    pixels[24:32, 16:24, 0] = 255
    source = kinds.source("image")(Resizer(4, 64), [0.5] * 3, [0.25] * 3)  # type: ignore[call-arg]
    (piece,) = source.encode([source.read(pixels)], 0, aligned=True)
    seen = set()
    for seed in range(30):
        moved = source.augment(piece, make_generator(seed, 0, 0), how)
        again = source.augment(piece, make_generator(seed, 0, 0), how)
        assert np.array_equal(moved.tokens, again.tokens) and moved.alignment is not None
        red = moved.tokens[:, HEADER_BYTES : HEADER_BYTES + 16].astype(float).mean(1)
        red[moved.special] = 0
        if red.max() < 150:
            continue  # it lies on several patches
        region = moved.alignment.to_raw([int(red.argmax())])
        assert region is not None
        (top, bottom), (left, right) = region
        assert top < 30 and bottom > 26 and left < 22 and right > 18, region
        assert (top + bottom) / 2 == pytest.approx(28, abs=6) and (left + right) / 2 == pytest.approx(20, abs=6)
        seen.add(tuple(moved.tokens[red.argmax(), 1:3].tolist()))
    assert len(seen) > 3


@pytest.mark.parametrize(
    ("kind", "how"), [(kind, how) for kind in ("image", "video") for how in kinds.source(kind).mixtures]
)
def test_the_share_of_a_picture_is_what_is_seen_of_it(kind: str, how: str) -> None:
    """Of pictures of one colour each, in other sizes, the mean is that of their colours by their shares."""
    frames: tuple[int, ...] = (4,) if kind == "video" else ()
    source: Any = kinds.source(kind)(Resizer(4, 64), [0.5] * 3, [0.25] * 3, *frames)  # type: ignore[call-arg]
    colours = (10, 250, 90, 170)
    sizes = [(*frames, *size) for size in ((32, 48), (64, 24), (4, 40), (16, 16))]
    values = [np.full((*size, 3), colour, np.uint8) for size, colour in zip(sizes, colours, strict=True)]
    pieces = source.encode([source.read(value) for value in values], 0, aligned=True)
    for first in range(4):
        given = [*pieces[first:], *pieces[:first]][: source.mixtures[how].num_values]
        known = np.array([*colours[first:], *colours[:first]][: len(given)])
        for step in range(20):
            mixed, parts = source.mix(given, make_generator(0, first, step), how)
            shares = np.array([part.share for part in parts])
            assert len(mixed) == len(given[0])
            assert mixed.tokens[~mixed.special, source.header_bytes :].mean() == pytest.approx(
                float(shares @ known), abs=0.51
            )


@pytest.mark.parametrize("name", augmentation.OPERATIONS)
def test_an_operation_changes_how_a_picture_looks_and_not_what_stands_where(name: str) -> None:
    """A light spot and a dark one: they differ from what is about them, and nothing else does."""
    pixels = np.full((24, 32, 3), (91, 121, 151), np.uint8)
    pixels[4:10, 5:12], pixels[12:20, 18:26] = (201, 161, 171), (31, 21, 11)
    strong = [np.array(augmentation.OPERATIONS[name](Image.fromarray(pixels), by)) for by in (-0.3, 0.3)]
    assert all(found.shape == pixels.shape and found.dtype == np.uint8 for found in strong)
    assert (name == "identity") == all(np.array_equal(found, pixels) for found in strong)
    for found in strong:
        ground = found[0, 0].astype(int)
        other = np.abs(found - ground).max(-1) > 12
        assert other[6:8, 7:10].all() and other[14:18, 20:24].all(), "the spots are there"
        other[3:11, 4:13] = other[11:21, 17:27] = False
        assert not other.any(), "and nothing else is"


@pytest.mark.parametrize(
    ("name", "strength", "to"),
    [("shear along x", 0.6, (4.61, 10.5)), ("shear along y", 0.6, (6.5, 9.33)), ("turn", 0.3, (8.06, 9.35))],
)
def test_what_is_bent_stands_where_geometry_says(name: str, strength: float, to: tuple[float, float]) -> None:
    """A spot 6.5 pixels right of the middle and 10.5 below it, sheared by 0.18 or turned by 9 degrees."""
    pixels = np.full((48, 64, 3), 20, np.uint8)
    pixels[33:36, 37:40] = 220
    found = np.array(augmentation.WARPS[name](Image.fromarray(pixels), strength)).astype(float).mean(-1) - 20
    assert found.shape == (48, 64) and found.min() >= 0, "the edge is drawn out"
    rows, columns = np.indices(found.shape) + 0.5
    middle = (found * columns).sum() / found.sum() - 32, (found * rows).sum() / found.sum() - 24
    assert np.abs(np.subtract(middle, to)).max() < 0.1


@pytest.mark.parametrize("aligned", [False, True])
def test_only_what_nothing_lies_in_is_bent(aligned: bool) -> None:
    """Stripes stay upright where an answer lies in the picture."""
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:, ::4] = 255
    source = kinds.source("image")(Resizer(4, 16), [0.5] * 3, [0.2] * 3)  # type: ignore[call-arg]
    (piece,) = source.encode([source.read(pixels)], 0, aligned=aligned)
    varied = [source.augment(piece, make_generator(0, 0, step), "rand") for step in range(20)]
    upright = [
        np.ptp(resize.join_patches(one.tokens[~one.special, HEADER_BYTES:], (4, 4), 4).astype(int), axis=0).max() == 0
        for one in varied
    ]
    assert all(upright) == aligned


def test_what_was_read_is_decoded_once_and_little_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, decoded = DecodedCache(3 * 4 * 4 * 3), []
    monkeypatch.setattr(image_value, "PIXEL_CACHE", kept)
    decode = image_io.decode_image
    monkeypatch.setattr(image_io, "decode_image", lambda content: decoded.append(content) or decode(content))
    cells = [np.full((4, 4, 3), 10 * at, np.uint8) for at in range(4)]
    values = [kinds.source("image").read(cell) for cell in cells]
    assert len(decoded) == 4 and kept.room == 0 and len(kept.entries) == 3, "the first made room for the fourth"
    assert all((value.pixels == cell).all() for value, cell in zip(values, cells, strict=True))
    assert len(decoded) == 5 and kept.room == 3 * 4 * 4 * 3 and not kept.entries


# As a user has them


def test_from_photos_to_answers(tmp_path: Path) -> None:
    folder = write_photo_folder(tmp_path / "photos")
    base = run("pretrain", "image", str(folder), "--out", str(tmp_path / "base"), *SMALL_ARGUMENTS)
    assert base.returncode == 0, base.stderr
    given = ["--start", str(tmp_path / "base"), "--out", str(tmp_path / "clf"), "--epochs", "12"]
    fitted = run("fit", "image -> label", str(folder), *given)
    assert fitted.returncode == 0, fitted.stderr
    names = [{"image": str(path), "label": path.parent.name} for path in sorted(folder.rglob("*.png"))]
    write_rows(tmp_path / "all.csv", ["image", "label"], names)
    scored = run(
        "evaluate", str(tmp_path / "clf"), str(tmp_path / "all.csv"), "--out", str(tmp_path / "page.html"), "--json"
    )
    assert scored.returncode == 0, scored.stderr
    found = json.loads(scored.stdout)
    assert found["scores"]["accuracy"]["value"] > 0.9
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "40 rows of all.csv" in page
    assert "data:image/jpeg;base64," in page and "<rect " in page
    clf = mapsto.load(tmp_path / "clf")
    assert clf(names[0]["image"])["label"] == names[0]["label"]
    assert clf(np.full((9, 30, 3), 230, np.uint8))["label"] == "bright"
    assert clf.embed([names[0]["image"]]).shape == (1, 128)
    why = clf.explain([names[0]["image"]])
    assert why.faithfulness is not None and len(why[0].parts) == 8 * 6
    one = run("predict", str(tmp_path / "clf"), str(names[1]["image"]))
    assert one.returncode == 0 and one.stdout.splitlines()[1].startswith(f"{names[1]['image']},")


@pytest.mark.slow
def test_bytes_in_parquet_are_read_and_not_printed(tmp_path: Path) -> None:
    write_photo_folder(tmp_path / "photos")
    cells = [{"bytes": path.read_bytes(), "path": path.name} for path in sorted((tmp_path / "photos").rglob("*.png"))]
    pq.write_table(pa.table({"image": cells, "label": ["b"] * 20 + ["d"] * 20}), tmp_path / "all.parquet")
    fitted = run(
        "fit", "image -> label", str(tmp_path / "all.parquet"), "--out", str(tmp_path / "clf"), *SMALL_ARGUMENTS
    )
    assert fitted.returncode == 0, fitted.stderr
    for name in ("out.csv", "out.jsonl", "out.parquet"):
        done = run("predict", str(tmp_path / "clf"), str(tmp_path / "all.parquet"), "--out", str(tmp_path / name))
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.csv").read_text(encoding="utf-8").splitlines()[1].startswith("000.png,b,")
    assert pq.read_table(tmp_path / "out.parquet").column("image")[0].as_py() == cells[0]


def test_bad_pictures_are_named_and_can_be_skipped(tmp_path: Path) -> None:
    folder = write_photo_folder(tmp_path / "photos", 300, bad=3)
    stopped = run("fit", "image -> label", str(folder), "--out", str(tmp_path / "clf"), *SMALL_ARGUMENTS)
    assert stopped.returncode == 1 and "3 bad cells" in stopped.stderr and "000-bad.png" in stopped.stderr
    assert not (tmp_path / "clf").exists()
    skipped = run(
        "fit", "image -> label", str(folder), "--out", str(tmp_path / "clf"), *SMALL_ARGUMENTS, "--bad-rows", "skip"
    )
    assert skipped.returncode == 0, skipped.stderr
    rejected = (tmp_path / "clf" / "rejected.csv").read_text(encoding="utf-8")
    assert rejected.count("bad.png") >= 3 and "damaged" in rejected
    done = run("predict", str(tmp_path / "clf"), str(folder), "--out", str(tmp_path / "out.csv"))
    assert done.returncode == 0 and "3 of 303 rows could not be answered" in done.stderr
    table = read_table(tmp_path / "out.csv")
    assert len(table) == 303 and sum(error is not None for error in table.column("error")) == 3


def test_what_cannot_be_read_beside_the_pixels_is_no_news(tmp_path: Path) -> None:
    exif = b"Exif\0\0II*\0\x08\0\0\0\xff\0"  # more entries than there are
    for at, label in enumerate("abab"):
        (tmp_path / label).mkdir(exist_ok=True)
        (tmp_path / label / f"{at}.jpg").write_bytes(encode_image(two_coloured_image((16, 9 + at)), "JPEG", exif=exif))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image_io.decode_image((tmp_path / "a" / "0.jpg").read_bytes())
    done = run("check", "image -> label", str(tmp_path))
    assert done.returncode == 0 and "Warning" not in done.stderr, done.stderr


def test_the_same_picture_on_both_sides_is_found(tmp_path: Path) -> None:
    folder = write_photo_folder(tmp_path / "photos")
    shown = sorted(folder.rglob("*.png"))[0]
    (tmp_path / "test" / "bright").mkdir(parents=True)
    (tmp_path / "test" / "bright" / "copy.png").write_bytes(shown.read_bytes())
    done = run("check", "image -> label", str(folder), "--test", str(tmp_path / "test"))
    assert done.returncode == 1 and "is also in the training data" in done.stdout


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--vocabulary", "300"], "pictures have none"),
        (["--length", "8"], "reads its values whole"),
        (["--augment", "mirrored"], "mirror"),
        (["--augment", "mixup+cutmix"], "joins one way to vary rows and one to mix them"),
        (["--augment", "crop+"], "--augment is one of auto"),
    ],
)
def test_options_that_are_not_for_pictures_are_refused(flags: list[str], said: str, tmp_path: Path) -> None:
    folder = write_photo_folder(tmp_path / "photos", 8)
    done = run("fit", "image -> label", str(folder), "--out", str(tmp_path / "clf"), *SMALL_ARGUMENTS, *flags)
    assert done.returncode == 2 and said in done.stderr, done.stderr


def test_a_start_in_memory_is_what_it_is_in_its_folder(tmp_path: Path) -> None:
    """As long, as fast and by the same method is it fitted."""
    rows = [{"image": np.full((8, 8, 3), 20 * i, np.uint8)} for i in range(10)]
    base = mapsto.pretrain("image", rows, tmp_path / "base", layers=1, width=64, steps=2)
    labelled = [{**row, "label": "ab"[i % 2]} for i, row in enumerate(rows)]
    for start in (base, tmp_path / "base", mapsto.load(tmp_path / "base")):
        mapsto.fit("image -> label", labelled, tmp_path / "run", start=start, overwrite=True)
        plan = json.loads((tmp_path / "run" / "run.json").read_text())["plan"]
        assert plan["rate"] == 5e-4 and plan["steps"] == 100, start


def test_two_pictures_are_not_told_apart(tmp_path: Path) -> None:
    rows = [
        {"one": np.zeros((8, 8, 3), np.uint8), "two": np.ones((8, 8, 3), np.uint8), "label": "ab"[i % 2]}
        for i in range(8)
    ]
    with pytest.raises(mapsto.MapstoError, match="can read one"):
        mapsto.fit("one:image, two:image -> label", rows)


def test_options_that_are_not_for_text_are_refused(tmp_path: Path) -> None:
    write_rows(tmp_path / "t.csv", ["text", "label"], [{"text": f"row {i}", "label": "ab"[i % 2]} for i in range(8)])
    done = run(
        "fit",
        "text -> label",
        str(tmp_path / "t.csv"),
        *SMALL_ARGUMENTS,
        "--augment",
        "mirror",
        "--out",
        str(tmp_path / "m"),
    )
    assert done.returncode == 2 and "would change nothing" in done.stderr
    done = run(
        "pretrain",
        "image",
        str(write_photo_folder(tmp_path / "p", 8)),
        *SMALL_ARGUMENTS,
        "--objective",
        "causal",
        "--out",
        str(tmp_path / "m"),
    )
    assert done.returncode == 2 and "there is: masked" in done.stderr


def test_pictures_are_compared(tmp_path: Path) -> None:
    folder = write_photo_folder(tmp_path / "photos", 60)
    mapsto.pretrain("image", str(folder), tmp_path / "base", layers=1, width=64, steps=3)
    found = mapsto.compare(
        "image -> label", str(folder), tmp_path / "cmp", starts=["scratch", str(tmp_path / "base")], labels=[8, "all"],
        seeds=2, epochs=1, methods=["full", "probe"],
    )  # fmt: skip
    assert "colours and edges, linear" in found.curves
    assert set(found.curves["base, probe"][0].changes) == {"noise", "blurred", "darker"}
    assert found.curves["colours and edges, linear"][-1].score.value > 0.9
    page = (tmp_path / "cmp" / "report.html").read_text(encoding="utf-8")
    assert "What it looks at" in page and page.count("<svg role") >= 8


def test_a_page_shows_what_was_read_beside_what_decided(tmp_path: Path) -> None:
    """Each picture is kept once; and on a telephone no row reaches beyond the window."""
    folder = write_photo_folder(tmp_path / "photos", 12)
    clf = mapsto.fit("image -> label", str(folder), layers=1, width=64, steps=3)
    found = clf.explain(str(folder))
    page = explanation_page(found, "clf").html()
    assert page.count("<image id=") == page.count("<use href=") == 12 and page.count("<rect") > 12
    assert "bright/000.png" in page and str(tmp_path) not in page
    named, used = (re.findall(pattern, page) for pattern in ('<image id="(.*?)"', '<use href="#(.*?)"'))
    assert named == used and len(set(named)) == 12
    assert "<use" not in kinds.source("image").highlight(found.rows.sources[0][0], [], []), "where nothing decided"
    for width in (390, 1200):
        whole = in_a_browser(tmp_path, page.replace('class="wide"', "", 1), width)
        assert whole[0] == width >= whole[1] and not whole[2]


def test_pictures_in_memory_are_held_out_by_what_they_show() -> None:
    rows = [{"image": np.full((8, 8, 3), i // 2, np.uint8), "label": "ab"[i // 2 % 2]} for i in range(40)]
    work = prepare(FitRequest(parse("image -> label"), rows, options=Options(hold_out=0.3, device="cpu")))
    assert work.held_out is not None and work.data.num_held_out == 12
    kept = {work.examples.pieces[i][0].tokens.tobytes() for i in range(len(work.examples))}
    assert len(kept) == 14 and not kept & {piece.tokens.tobytes() for (piece,) in work.held_out.pieces}  # type: ignore[attr-defined]


@pytest.mark.parametrize("how", ["rand", *(f"none+{name}" for name in kinds.source("image").mixtures)])
def test_digits_are_learnt_from_what_is_varied_and_mixed(how: str) -> None:
    rows = digits()
    given: Any = {"layers": 2, "width": 64, "heads": 2, "device": "cpu", "precision": "fp32"}
    model = mapsto.fit("image -> label", rows[:600], augment=how, steps=250, **given)
    score = model.evaluate(rows[600:1000]).scores["accuracy"]
    assert score.value > 0.7, f"{how}: {score}"


def test_methods_that_rows_are_not_mixed_for_say_so() -> None:
    rows = [{"image": np.full((8, 8, 3), 20 * i, np.uint8), "label": "ab"[i % 2]} for i in range(10)]
    given: Any = {
        "start": mapsto.pretrain("image", [{"image": row["image"]} for row in rows], layers=1, width=32, steps=1)
    }
    with pytest.raises(mapsto.MapstoError, match='with augment="cutmix" they have several'):
        mapsto.fit("image -> label", rows, method="contrast", augment="crop+cutmix", **given)
    with pytest.raises(mapsto.MapstoError, match='augment= would change nothing with method="probe"'):
        mapsto.fit("image -> label", rows, method="probe", augment="mixup", **given)


@pytest.mark.slow
def test_hidden_parts_are_filled_in(tmp_path: Path) -> None:
    folder = write_photo_folder(tmp_path / "photos", 12)
    mapsto.pretrain("image", str(folder), tmp_path / "base", layers=1, width=64, steps=30)
    base = mapsto.load(tmp_path / "base")
    names = [str(path) for path in sorted(folder.rglob("*.png"))]
    half, again = base.complete(names, 0.5), base.complete(names, 0.5)
    for name, one, other in zip(names, half, again, strict=True):
        was = image_io.decode_image(Path(name).read_bytes())
        assert np.array_equal(one, other) and max(one.shape[:2]) == 16
        if one.shape == was.shape:
            same = (one == was).all(axis=2).mean()
            assert 0.3 < same < 0.7
            assert abs(float(one.mean()) - float(was.mean())) < 60
    done = run("predict", str(tmp_path / "base"), str(folder), "--hide", "0.5", "--out", str(tmp_path / "filled"))
    assert done.returncode == 0 and len(list((tmp_path / "filled").iterdir())) == 12
    assert image_io.decode_image(next((tmp_path / "filled").glob("00001-*")).read_bytes()).shape == half[0].shape
    (folder / "bright" / "002.png").write_bytes(b"no picture")
    (folder / "bright" / "000.png").write_bytes(b"no picture")
    rest = run("predict", str(tmp_path / "base"), str(folder), "--hide", "0.5", "--out", str(tmp_path / "most"))
    assert rest.returncode == 0 and "2 rows could not be filled in" in rest.stderr
    assert rest.stderr.count("no picture of a known format") == 2
    kept = {path.name: path.read_bytes() for path in (tmp_path / "most").iterdir()}
    assert len(kept) == 10 and all((tmp_path / "filled" / name).read_bytes() == kept[name] for name in kept)
    for arguments, said in (
        ([str(tmp_path / "base"), str(folder), "--hide", "0.5"], "name a folder"),
        ([str(tmp_path / "base"), str(folder), "--hide", "0.5", "--out", str(tmp_path / "f.csv")], "name a folder"),
        ([str(tmp_path / "base"), str(folder)], "fills in what is hidden"),
        ([str(tmp_path / "base"), str(folder), "--hide", "2", "--out", str(tmp_path / "f")], "between 0 and 1"),
    ):
        wrong = run("predict", *arguments)
        assert wrong.returncode == 2 and said in wrong.stderr


def test_hidden_words_are_filled_in(tmp_path: Path) -> None:
    rows = [{"text": text} for text in sentences(200)]
    mapsto.pretrain("text", rows, tmp_path / "base", layers=1, width=64, vocabulary=300, steps=40)
    base = mapsto.load(tmp_path / "base")
    text = f"  {rows[0]['text']}  今天天气真好！"
    (found,) = base.complete([text], 0.3)
    assert found != text and found.startswith("  ") and len(found.split()) >= len(text.split()) - 2
    done = run("predict", str(tmp_path / "base"), "--text", text, "--hide", "0.3")
    assert done.returncode == 0 and done.stdout.strip() == found.strip()
    clf = mapsto.fit("text -> label", [{"text": r["text"], "label": "ab"[i % 2]} for i, r in enumerate(rows)], steps=1)
    with pytest.raises(mapsto.MapstoError, match="put back what is hidden"):
        clf.complete([text])


def test_a_picture_says_what_it_is() -> None:
    picture = ImageValue.from_bytes(encode_image(two_coloured_image()))
    assert str(picture) == "a picture of 8 × 4 pixels" and picture.pixels.shape == (4, 8, 3)
