"""Reads Parquet: flat columns as they are, half floats and decimals as doubles, lists of numbers as series.

Decimals with more digits than a double are texts. Other nested and binary columns are refused.
"""

from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq

from servicekit.errors import InvalidArgument
from services.data.domain.columns import SERIES, is_number_list, is_supported
from services.data.domain.parsing.numbers import keeps_digits
from services.data.domain.readers.source import BATCH_ROWS, Batches, OpenFile, check_names, empty, first_line

# What all columns' read buffers take together, and what one batch should.
_BUFFER_BYTES = 64 << 20
_LEAST_BUFFER, _MOST_BUFFER = 16 << 10, 1 << 20
_BATCH_BYTES = 16 << 20
# Decimals of more digits may be no doubles.
_EXACT_DIGITS = 15


def read_parquet(open_file: OpenFile) -> tuple[pa.Schema, Callable[[], Batches]]:
    """Return the schema of a Parquet file, and what reads its rows."""
    file = _opened(open_file, _MOST_BUFFER)
    found = file.schema_arrow
    if file.metadata.num_rows == 0:
        raise empty("has columns and no rows" if len(found) else "has no columns")
    check_names(found.names)
    schema = pa.schema([pa.field(field.name, plain_type(field)) for field in found])
    long = [field.name for field in found if pa.types.is_decimal(field.type) and field.type.precision > _EXACT_DIGITS]
    for name in long:
        if not _are_doubles(open_file, name):
            schema = schema.set(schema.get_field_index(name), pa.field(name, pa.string()))
    return schema, lambda: _batches(open_file, schema)


def _opened(open_file: OpenFile, buffer_bytes: int) -> pq.ParquetFile:
    try:
        # Buffered: else each column of a row group is read whole, and a row group may be the whole file.
        return pq.ParquetFile(open_file(), buffer_size=buffer_bytes, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise InvalidArgument(f"this is no readable Parquet file: {first_line(error)}", reason="BAD_PARQUET") from error


def _batches(open_file: OpenFile, schema: pa.Schema) -> Batches:
    file = _opened(open_file, min(max(_BUFFER_BYTES // len(schema), _LEAST_BUFFER), _MOST_BUFFER))
    with file:
        for group in range(file.num_row_groups):
            about = file.metadata.row_group(group)
            row_bytes = about.total_byte_size / max(about.num_rows, 1)
            rows = int(min(max(_BATCH_BYTES / max(row_bytes, 1), 1), BATCH_ROWS))
            try:
                for batch in file.iter_batches(rows, row_groups=[group], columns=schema.names):
                    yield pa.RecordBatch.from_arrays(
                        [column.cast(field.type) for column, field in zip(batch.columns, schema, strict=True)],
                        schema=schema,
                    )
            except (pa.ArrowException, OSError) as error:
                raise InvalidArgument(
                    f"the Parquet file is damaged: {first_line(error)}", reason="BAD_PARQUET"
                ) from error


def _are_doubles(open_file: OpenFile, name: str) -> bool:
    """Return whether a column of decimals keeps all digits as doubles."""
    only = pa.schema([pa.field(name, pa.string())])
    batches = _batches(open_file, only)
    return all(keeps_digits(batch.column(0), batch.column(0).cast(pa.float64())) for batch in batches)


def plain_type(field: pa.Field) -> pa.DataType:
    """Return the type that a column is stored as.

    Raises:
        InvalidArgument: tables hold no such values.
    """
    kind = field.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind) or pa.types.is_null(kind):
        return pa.string()
    if pa.types.is_decimal(kind) or pa.types.is_float16(kind):
        return pa.float64()
    if pa.types.is_date64(kind):
        return pa.timestamp("ms")
    if is_number_list(kind):
        return SERIES
    if not is_supported(kind):
        raise InvalidArgument(
            f"column {field.name!r} is of type {field.type}, which tables do not hold: flatten or convert it first",
            reason="UNSUPPORTED_TYPE",
            metadata={"column": field.name},
        )
    return kind
