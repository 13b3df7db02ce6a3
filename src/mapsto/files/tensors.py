"""Tensors from safetensors files, never from pickles.

The file is parsed here from the bytes that were hashed: the library opens a file by its name, and so a second time. The format
is a size of 8 bytes, a header of JSON with the type, shape and place of each tensor, and the tensors
(https://huggingface.co/docs/safetensors). Its rules are those of the library: the tensors fill the rest of the file without gaps.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mapsto.errors import CheckpointError
from mapsto.files.reading import Content, parse_json, read_content

if TYPE_CHECKING:
    from torch import Tensor

# The most bytes of a safetensors header, and tensors in one file.
MAX_HEADER_BYTES = 16 * 2**20
MAX_TENSORS = 100_000

# Suffixes of formats that may contain a pickle, which can run code when it is opened.
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".npz", ".npy", ".h5", ".msgpack")

CONVERT = (
    "it may run code when opened, so mapsto never opens it; where you trust it, load it with transformers and "
    "save it again with save_pretrained(folder, safe_serialization=True)"
)

# The first bytes of a zip archive (torch.save) or of a pickle of protocol 2 to 5.
PICKLE_STARTS = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
# The first line of the file that stands for one that Git LFS has not fetched.
POINTER_START = b"version https://git-lfs.github.com/spec/"

# Names of torch's types, which is imported where a file is opened, since it takes a second.
DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}


def open_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file by name, after checks that make a file of unknown origin safe to open.

    Raises CheckpointError for a pickle, a pointer of Git LFS, and a file that is damaged or cannot be read.
    """
    if path.suffix in PICKLED:
        raise CheckpointError(f"{path}: {CONVERT}")
    content = read_content(path)
    start = bytes(content[:64])
    # A safetensors file begins with the size of its header, which may have the bytes of a pickle, and then the header's brace.
    if start[8:9] != b"{" and start.startswith(PICKLE_STARTS):
        raise CheckpointError(f"{path} is a pickle under another name; {CONVERT}")
    if start.startswith(POINTER_START):
        raise CheckpointError(
            f"{path} is a pointer of Git LFS, and the weights were not fetched: run `git lfs pull` in its folder"
        )
    if start.startswith(b"GGUF"):
        raise CheckpointError(f"{path} is a GGUF under another name; mapsto reads safetensors")
    try:
        return _parse(path, content)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is no whole safetensors file: {error}") from error


def _parse(path: Path, content: Content) -> dict[str, Tensor]:
    """Return the tensors in the bytes of a safetensors file, which share the memory of `content`.

    Raises ValueError, or the error of a wrong type in its header, if the file is not whole; CheckpointError if it is too large.
    """
    size = int.from_bytes(content[:8], "little")
    if len(content) < 8 or size > len(content) - 8:
        raise ValueError(f"its header says {size:,} bytes of {len(content):,}")
    if size > MAX_HEADER_BYTES:
        raise CheckpointError(f"{path} has a header of {size:,} bytes; at most {MAX_HEADER_BYTES:,} are read")
    header = parse_json(path, bytes(content[8 : 8 + size]))
    header.pop("__metadata__", None)
    if len(header) > MAX_TENSORS:
        raise CheckpointError(f"{path} has {len(header):,} tensors; at most {MAX_TENSORS:,} are read")
    tensors, position = {}, 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        first, end = entry["data_offsets"]
        if first != position or not isinstance(end, int) or end < first:
            raise ValueError(f"the tensor {name!r} does not begin where the one before it ends")
        tensors[name], position = _tensor(name, entry, content, 8 + size + first, end - first), end
    if 8 + size + position != len(content):
        raise ValueError(f"its tensors end at byte {8 + size + position:,} of {len(content):,}")
    return tensors


def _tensor(name: str, entry: dict[str, Any], content: Content, start: int, num_bytes: int) -> Tensor:
    """Return the tensor whose bytes begin at `start`. Raises ValueError if its type, shape and number of bytes do not agree.

    entry: its entry in the header.
    """
    import torch

    type_name, shape = DTYPES.get(entry["dtype"]), entry["shape"]
    if type_name is None:
        raise ValueError(f"the tensor {name!r} has the type {entry['dtype']!r}")
    dtype: torch.dtype = getattr(torch, type_name)
    if not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError(f"the tensor {name!r} has the shape {shape!r}")
    count = math.prod(shape)
    if count * dtype.itemsize != num_bytes or start + num_bytes > len(content):
        raise ValueError(f"the tensor {name!r} has {num_bytes:,} bytes, which do not fit its shape {shape!r}")
    if count == 0:
        return torch.empty(shape, dtype=dtype)
    if start % dtype.itemsize:  # a copy, as numbers in memory begin at multiples of their size
        return torch.frombuffer(bytearray(content[start : start + num_bytes]), dtype=dtype).reshape(shape)
    return torch.frombuffer(content, dtype=dtype, count=count, offset=start).reshape(shape)
