"""The budget of time and memory for decoding a picture: 2 s on one core, and 256 MB beyond the pixels (h, w, 3).

Each check needs only the headers of a file. The factors were measured (tests/vision/test_picture_limits.py writes the files).
"""

from __future__ import annotations

from mapsto.media.cells import Unreadable

# Bytes that decoding may take beyond three a pixel.
MAX_EXTRA_BYTES = 256_000_000

# The largest picture in pixels. Pillow holds four bytes for each, beside the three of the decoded one.
MAX_PIXELS = 64_000_000
# The longest side: each row of a picture takes time, also one of a single pixel.
MAX_SIDE = 200_000

# JPEG: coefficients of a progressive file, which are held until its last scan, and bytes of its scans and of others.
MAX_COEFFICIENTS, MAX_PROGRESSIVE_BYTES, MAX_JPEG_BYTES = 75_000_000, 40_000_000, 96_000_000
# Coefficients times scans; a usual progressive file has 10 scans.
MAX_SCANNED, USUAL_SCANS = 1_500_000_000, 16
# Samples of a JPEG with arithmetic coding, which is some times as slow as Huffman coding.
MAX_ARITHMETIC = 24_000_000

# WebP: the decoder holds two canvases, and Pillow two copies, of four bytes a pixel.
WEBP_BYTES = 16

# BMP with run lengths is decoded by Python, run by run and in parts pixel by pixel.
MAX_RUN_PIXELS, MAX_RUN_BYTES = 8_000_000, 2_000_000

# TIFF: samples of LZMA, and the numbers of its compression and of JPEG's.
MAX_LZMA, LZMA, JPEG = 24_000_000, 34925, (6, 7)


def require_few_pixels(width: int, height: int) -> None:
    """Raise Unreadable if a picture has more pixels, or longer sides, than are read."""
    if max(width, height) > MAX_SIDE and width * height <= MAX_PIXELS:
        raise Unreadable(f"{width:,} × {height:,} pixels have a side of more than the {MAX_SIDE:,} that are read")
    if width * height > MAX_PIXELS:
        raise Unreadable(f"{width:,} × {height:,} pixels are more than the {MAX_PIXELS:,} that are read")


def require_cheap_progressive(samples: float, size: int) -> None:
    """Raise Unreadable if a progressive JPEG takes too much time or memory. samples: of all components. size: its bytes."""
    if samples > MAX_COEFFICIENTS or size > MAX_PROGRESSIVE_BYTES:
        raise Unreadable(
            f"a progressive JPEG has at most {MAX_COEFFICIENTS:,} samples in {MAX_PROGRESSIVE_BYTES:,} bytes; "
            f"this has {samples:,.0f} in {size:,}: save it as baseline"
        )


def require_cheap_jpeg(size: int) -> None:
    """Raise Unreadable if the scans of JPEG in a file have too many bytes, each of which takes some 15 ns. size: their bytes."""
    if size > MAX_JPEG_BYTES:
        raise Unreadable(f"{size:,} bytes of JPEG are more than the {MAX_JPEG_BYTES:,} that are decoded")


def require_cheap_arithmetic(samples: float) -> None:
    """Raise Unreadable if a JPEG with arithmetic coding takes too long. samples: of all components."""
    if samples > MAX_ARITHMETIC:
        raise Unreadable(
            f"a JPEG with arithmetic coding has at most {MAX_ARITHMETIC:,} samples; this has {samples:,.0f}"
        )


def most_scans(samples: float) -> int:
    """Return the most scans that are decoded of a JPEG. samples: of all components."""
    return max(USUAL_SCANS, min(1000, int(MAX_SCANNED / max(samples, 1))))


def require_small_webp(pixels: int) -> None:
    """Raise Unreadable if decoding a WebP takes too much memory."""
    limit = MAX_EXTRA_BYTES // (WEBP_BYTES - 3)
    if pixels > limit:
        raise Unreadable(f"a WebP has at most {limit:,} pixels, which take 256 MB to decode; this has {pixels:,}")


def require_cheap_runs(pixels: int, size: int) -> None:
    """Raise Unreadable if a BMP with run lengths takes too long. size: bytes of the file."""
    if pixels > MAX_RUN_PIXELS or size > MAX_RUN_BYTES:
        raise Unreadable(
            f"a BMP with run lengths has at most {MAX_RUN_PIXELS:,} pixels in {MAX_RUN_BYTES:,} bytes; save it as PNG"
        )


def require_small_strips(pixels: int, strip_bytes: int) -> None:
    """Raise Unreadable if the largest strip or tile of a TIFF, beside Pillow's four bytes a pixel, takes too much memory."""
    if strip_bytes + pixels > MAX_EXTRA_BYTES:
        raise Unreadable(f"a strip of this TIFF takes {strip_bytes / 1e6:,.0f} MB to decode; save it in smaller strips")


def require_cheap_tiff(compression: int, size: int, strip_samples: int, scans: int, samples: int) -> None:
    """Raise Unreadable if decoding a TIFF takes too long.

    compression: its number. size: bytes of the file. strip_samples, samples: of the largest strip or tile, and of the picture.
    scans: an upper bound of the scans of JPEG in it.
    """
    if compression in JPEG:
        require_cheap_jpeg(size)
    if compression == LZMA and samples > MAX_LZMA:
        raise Unreadable(f"a TIFF with LZMA has at most {MAX_LZMA:,} samples; this has {samples:,}")
    if scans * strip_samples > max(MAX_SCANNED, USUAL_SCANS * samples):
        raise Unreadable(f"the {scans:,} JPEG scans of this TIFF take too long to decode")
