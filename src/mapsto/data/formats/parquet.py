"""Read parquet files, and the Arrow files of Hugging Face's `save_to_disk`, in parts of bounded memory.

Columns of any type are read; a cell without a Python value is a fault only where its column is used. In a parquet file a
dictionary may hold one long text for a million rows: such columns are read as dictionaries, whose texts are shared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from mapsto.data import file_part
from mapsto.data.file_part import FilePart, UnreadableCell
from mapsto.data.formats.arrow_tables import Features, name_classes, read_cells, read_features
from mapsto.data.formats.columns import name_columns
from mapsto.errors import DataError
from mapsto.options import TextFormat

# Below this many bytes a value, a column is read as a dictionary.
DICTIONARY_BYTES = 16
# The largest text of a file, as a multiple of the bytes of the file, beyond LARGEST_TEXT bytes.
MAX_EXPANSION, LARGEST_TEXT = 100, 2**30
# Largest size of a batch in bytes, by the longest text of a dictionary.
BATCH_BYTES = 2**28


def stream_parquet(path: Path, text_format: TextFormat) -> Iterator[FilePart]:
    """Yield the rows of a parquet file in parts. Raises DataError if the file is damaged, or its text far larger than itself.

    text_format: unused, as parquet is UTF-8; all readers have this parameter.
    """
    import pyarrow.parquet

    with _explaining(path, "parquet"), pyarrow.parquet.ParquetFile(path) as file:
        dictionaries, batch_size = _plan_reading(path, file.metadata)
        columns, refused = _readable_columns(file)
    with _explaining(path, "parquet"), pyarrow.parquet.ParquetFile(path, read_dictionary=dictionaries) as file:
        batches = file.iter_batches(batch_size, columns=columns)
        yield from _stream_batches(path, file.schema_arrow, batches, refused)


def _plan_reading(path: Path, metadata: Any) -> tuple[list[str], int]:
    """Return the names of the columns to read as dictionaries, and the number of rows to read at once.

    metadata: the pyarrow metadata of the file.
    """
    import pyarrow.compute
    import pyarrow.parquet

    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    size = sum(group.total_byte_size for group in groups)
    # The average size of a row gives the number of rows that fit into a part.
    batch_size = max(1, min(file_part.PART_ROWS, 4 * file_part.PART_CHARACTERS * metadata.num_rows // max(1, size)))
    short: list[str] = []
    long: list[str] = []
    for index in range(len(metadata.schema) if groups else 0):
        chunks = [group.column(index) for group in groups]
        if chunks[0].physical_type == "BYTE_ARRAY" and any(chunk.has_dictionary_page for chunk in chunks):
            is_short = all(chunk.total_uncompressed_size < DICTIONARY_BYTES * chunk.num_values for chunk in chunks)
            (short if is_short else long).append(chunks[0].path_in_schema)
    long = [name for name in long if "." not in name]
    longest = 0
    if long:
        with pyarrow.parquet.ParquetFile(path, read_dictionary=long) as file:
            for index in range(len(groups)):
                for batch in file.iter_batches(1, row_groups=[index], columns=long):
                    lengths = [
                        pyarrow.compute.binary_length(column.dictionary)
                        for column in batch.columns
                        if isinstance(column, pyarrow.DictionaryArray)
                    ]
                    longest = max([longest, *(pyarrow.compute.max(array).as_py() or 0 for array in lengths)])
                    break
    return short, max(1, min(batch_size, BATCH_BYTES // max(1, longest)))


def _readable_columns(file: Any) -> tuple[list[str] | None, dict[str, UnreadableCell]]:
    """Return the columns that Arrow can read, None for all, and for each other one the cell that stands in its place."""
    import pyarrow

    try:
        next(file.iter_batches(1), None)
    except pyarrow.ArrowNotImplementedError:
        pass
    else:
        return None, {}
    columns, refused = [], {}
    for field in file.schema_arrow:
        try:
            next(file.iter_batches(1, columns=[field.name]), None)
            columns.append(field.name)
        except pyarrow.ArrowNotImplementedError as error:
            refused[field.name] = UnreadableCell(None, f"a value of type {field.type} that cannot be read: {error}")
    return columns, refused


def stream_arrow(path: Path, text_format: TextFormat) -> Iterator[FilePart]:
    """Yield the rows of an Arrow file or stream (also Feather) in parts. Raises DataError if the file is damaged.

    text_format: unused; all readers have this parameter.
    """
    import pyarrow

    with _explaining(path, "Arrow"), pyarrow.memory_map(str(path)) as source:
        is_file = source.read(6) == b"ARROW1"
        source.seek(0)
        if is_file:
            reader = pyarrow.ipc.open_file(source)
            batches = (reader.get_batch(index) for index in range(reader.num_record_batches))
        else:
            reader = pyarrow.ipc.open_stream(source)
            batches = iter(reader)
        yield from _stream_batches(path, reader.schema, _split(batches), {})


def _split(batches: Iterator[Any]) -> Iterator[Any]:
    """Yield record batches in slices of at most PART_ROWS rows."""
    for batch in batches:
        for start in range(0, len(batch), file_part.PART_ROWS):
            yield batch.slice(start, file_part.PART_ROWS)


def _stream_batches(
    path: Path, schema: Any, batches: Iterator[Any], refused: dict[str, UnreadableCell]
) -> Iterator[FilePart]:
    """Yield record batches as parts, also a part without rows for a file that has none, since it still has columns.

    schema: the Arrow schema of the file. refused: the cell that stands for each one of a column that cannot be read.
    """
    names, remarks = name_columns(path, schema.names)
    columns = dict(zip(schema.names, names, strict=True))
    features = read_features((schema.metadata or {}).get(b"huggingface"))
    num_read = num_bytes = 0
    most_bytes = MAX_EXPANSION * path.stat().st_size + LARGEST_TEXT
    for batch in batches:
        size = sum(map(_text_bytes, batch.columns))
        num_bytes += size
        if num_bytes > most_bytes:
            raise DataError(
                f"{path}, row {num_read + 1}: the rows so far take more than {MAX_EXPANSION} times the file's "
                f"{path.stat().st_size:,} bytes; write the text that many rows repeat once"
            )
        part = _build_part(path, batch, columns, refused, features, num_read + 1)
        # As text an empty cell takes a delimiter.
        size += len(batch) * len(columns)
        yield replace(part, remarks=[] if num_read else remarks, size=size)
        num_read += len(batch)
    if not num_read:
        yield FilePart(str(path), {name: [] for name in names}, [], [], remarks)


def _text_bytes(column: Any) -> int:
    """Return the bytes that the cells of an Arrow column take as values, those of a dictionary counted for each row."""
    import pyarrow

    if not isinstance(column, pyarrow.DictionaryArray):
        return int(column.nbytes)
    try:
        lengths = pyarrow.compute.binary_length(column.dictionary).take(column.indices)
    except pyarrow.ArrowException:
        return int(column.nbytes)  # a dictionary of other values than texts
    return pyarrow.compute.sum(lengths).as_py() or 0


def _build_part(
    path: Path,
    batch: Any,
    columns: Mapping[str, str],
    refused: dict[str, UnreadableCell],
    features: Features,
    first: int,
) -> FilePart:
    """Return the rows of a record batch as a part.

    columns: the name of each column of the table by that in the file. first: the number in the file of the first row.
    """
    data = {
        column: [refused[name]] * len(batch) if name in refused else read_cells(batch.column(name))
        for name, column in columns.items()
    }
    for name in features.keys() & data.keys():
        data[name] = name_classes(data[name], features[name])
    return FilePart(str(path), data, list(range(first, first + len(batch))), [])


@contextmanager
def _explaining(path: Path, noun: str) -> Iterator[None]:
    """Turn an error of Arrow in the `with` block, which reads a file, into a DataError. noun: the format."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} is no whole {noun} file: {(str(error).splitlines() or [''])[0]}") from error
