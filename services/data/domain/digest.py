"""The digest of a table's content: the same for the same schema and rows, however they are cut into batches."""

import hashlib
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

BLOCK_ROWS = 65_536


class TableDigest:
    """Hashes a table while it streams by.

    Args:
        schema: of all batches.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self._hash = hashlib.sha256()
        for field in schema:
            self._hash.update(f"{field.name}\0{field.type}\0".encode())

    def update(self, block: pa.RecordBatch) -> None:
        """Add the next rows; every block but the last must have BLOCK_ROWS of them."""
        for column in block.columns:
            self._hash.update(np.packbits(pc.is_valid(column).to_numpy(zero_copy_only=False)).tobytes())
            self._hash.update(_values(column))

    def hexdigest(self) -> str:
        """Return the SHA-256 so far, lower-case hex."""
        return self._hash.hexdigest()


def in_blocks(batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Yield the same rows in blocks of BLOCK_ROWS, the last one shorter."""
    waiting: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        waiting.append(batch)
        rows += batch.num_rows
        while rows >= BLOCK_ROWS:
            table = pa.Table.from_batches(waiting, schema).combine_chunks()
            yield table.slice(0, BLOCK_ROWS).combine_chunks().to_batches()[0]
            rest = table.slice(BLOCK_ROWS)
            waiting, rows = rest.to_batches(), rest.num_rows
    if rows:
        yield pa.Table.from_batches(waiting, schema).combine_chunks().to_batches()[0]


def _values(column: pa.Array) -> bytes:
    """Return a column's values as bytes that depend on nothing but the values."""
    if pa.types.is_boolean(column.type):
        return np.packbits(column.fill_null(False).to_numpy(zero_copy_only=False)).tobytes()
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        texts = column.fill_null("")
        lengths = pc.binary_length(texts).cast(pa.int64()).to_numpy(zero_copy_only=False)
        return bytes(lengths.tobytes()) + "".join(texts.to_pylist()).encode()
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        return bytes(column.fill_null(0).to_numpy(zero_copy_only=False).tobytes())
    if pa.types.is_temporal(column.type):
        width = pa.int32() if column.type.bit_width == 32 else pa.int64()
        return bytes(column.view(width).fill_null(0).to_numpy(zero_copy_only=False).tobytes())
    return "\0".join(repr(value) for value in column.to_pylist()).encode()
