"""The digest of a table's content: the same for the same schema and rows, however they are cut into batches."""

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from services.data.domain.columns import SERIES, numbers, series, texts
from services.data.domain.original_texts import is_companion

# Says how the bytes were laid out, so that another layout can never give the same digest.
_LAYOUT = b"lepton table 1"


class TableDigest:
    """Hashes a table while it streams by, each column by itself.

    Args:
        schema: of all batches.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._columns = [_ColumnDigest(field.type) for field in schema]

    def update(self, batch: pa.RecordBatch) -> None:
        """Add the next rows."""
        for digest, column in zip(self._columns, batch.columns, strict=True):
            digest.update(column)

    def hexdigest(self) -> str:
        """Return the SHA-256 so far, lower-case hex."""
        whole = hashlib.sha256(_LAYOUT)
        for field, digest in zip(self._schema, self._columns, strict=True):
            # A file whose texts are all canonical is the same table as one without texts.
            if is_companion(field.name) and not digest.valid_rows:
                continue
            for text in (field.name, str(field.type)):
                content = text.encode()
                whole.update(len(content).to_bytes(8, "little") + content)
            whole.update(digest.digest())
        return whole.hexdigest()


class _ColumnDigest:
    def __init__(self, kind: pa.DataType) -> None:
        self._is_text = pa.types.is_string(kind)
        self._is_series = kind == SERIES
        self.valid_rows = 0
        self._valid = hashlib.sha256()
        self._lengths = hashlib.sha256()
        self._values = hashlib.sha256()

    def update(self, column: pa.Array) -> None:
        self.valid_rows += len(column) - column.null_count
        self._valid.update(_bytes(pc.is_valid(column).cast(pa.uint8()).to_numpy(zero_copy_only=False)))
        if self._is_text:
            lengths, content = texts(column)
            self._lengths.update(_bytes(lengths))
            self._values.update(content)
        elif self._is_series:
            lengths, steps = series(column)
            self._lengths.update(_bytes(lengths))
            self._values.update(_bytes(steps))
        else:
            self._values.update(_bytes(numbers(column)))

    def digest(self) -> bytes:
        return self._valid.digest() + self._lengths.digest() + self._values.digest()


def _bytes(values: npt.NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(values).data
