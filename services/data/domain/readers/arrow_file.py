"""Reads Arrow IPC: the file format (Feather version 2) and the stream format, with Parquet's rules for types."""

from collections.abc import Callable, Iterator

import pyarrow as pa

from servicekit.errors import InvalidArgument
from services.data.domain.readers.parquet_file import plain_type
from services.data.domain.readers.source import BATCH_ROWS, Batches, OpenFile, check_names, empty

_MAGIC = b"ARROW1"
_BATCH_BYTES = 1 << 30
_BROKEN = (pa.ArrowException, OSError, ValueError, MemoryError)


def read_arrow(open_file: OpenFile) -> tuple[pa.Schema, Callable[[], Batches]]:
    """Return the schema of an Arrow file, and what reads its rows."""
    try:
        with open_file() as file, _opened(file) as reader:
            found = reader.schema
    except _BROKEN as error:
        raise _bad() from error
    if not len(found):
        raise empty("has no columns")
    check_names(found.names)
    schema = pa.schema([pa.field(field.name, plain_type(field)) for field in found])
    return schema, lambda: _batches(open_file, schema)


def _batches(open_file: OpenFile, schema: pa.Schema) -> Batches:
    try:
        with open_file() as file, _opened(file) as reader:
            for batch in _read(reader):
                # Offsets and lengths come from the file: unchecked they could point anywhere.
                batch.validate(full=True)
                if batch.nbytes > _BATCH_BYTES:
                    raise InvalidArgument(
                        f"a record batch takes more than {_BATCH_BYTES:,} bytes: write smaller ones, or Parquet",
                        reason="ROW_TOO_LONG",
                    )
                for start in range(0, batch.num_rows, BATCH_ROWS):
                    part = batch.slice(start, BATCH_ROWS)
                    columns = [column.cast(field.type) for column, field in zip(part.columns, schema, strict=True)]
                    yield pa.RecordBatch.from_arrays(columns, schema=schema)
    except _BROKEN as error:
        if isinstance(error, InvalidArgument):
            raise
        raise _bad() from error


def _opened(file: object) -> "pa.ipc.RecordBatchStreamReader | pa.ipc.RecordBatchFileReader":
    source = pa.PythonFile(file, mode="r")
    beginning = source.read(len(_MAGIC))
    source.seek(0)
    return pa.ipc.open_file(source) if beginning == _MAGIC else pa.ipc.open_stream(source)


def _read(reader: "pa.ipc.RecordBatchStreamReader | pa.ipc.RecordBatchFileReader") -> Iterator[pa.RecordBatch]:
    if isinstance(reader, pa.ipc.RecordBatchFileReader):
        for index in range(reader.num_record_batches):
            yield reader.get_batch(index)
    else:
        yield from reader


def _bad() -> InvalidArgument:
    return InvalidArgument(
        "this is no readable Arrow file: expected Arrow IPC, or Feather version 2, without damage", reason="BAD_ARROW"
    )
