"""Safe files: written atomically, with hashes that are verified before use. Tensors are safetensors, never pickle.

A file is written to a temporary file beside its target, fsynced and renamed. The type and size of a file of unknown origin are
checked before its contents are read into memory.
"""

from mapsto.files.reading import (
    MAX_CONFIG_BYTES,
    MAX_JSON_BYTES,
    hash_file,
    open_regular,
    read_any_json,
    read_bytes,
    read_json,
    read_sealed,
    reading_folder,
    seal,
    verify,
)
from mapsto.files.tensors import CONVERT, MAX_HEADER_BYTES, PICKLED, open_tensors
from mapsto.files.writing import (
    TEMPORARY_PREFIX,
    announcing,
    explaining_write_errors,
    is_temporary,
    locked_folder,
    open_for_appending,
    open_lock_file,
    replacing,
    replacing_files,
    require_space,
    sync_folder,
    write_atomic,
    write_synced,
    writing_alone,
)

__all__ = [
    "CONVERT",
    "MAX_CONFIG_BYTES",
    "MAX_HEADER_BYTES",
    "MAX_JSON_BYTES",
    "PICKLED",
    "TEMPORARY_PREFIX",
    "announcing",
    "explaining_write_errors",
    "hash_file",
    "is_temporary",
    "locked_folder",
    "open_for_appending",
    "open_lock_file",
    "open_regular",
    "open_tensors",
    "read_any_json",
    "read_bytes",
    "read_json",
    "read_sealed",
    "reading_folder",
    "replacing",
    "replacing_files",
    "require_space",
    "seal",
    "sync_folder",
    "verify",
    "write_atomic",
    "write_synced",
    "writing_alone",
]
