"""Files are read strictly: what is broken is refused with its reason, what is sound comes back as it was."""

import io
import math
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servicekit.errors import InvalidArgument
from services.data.domain.digest import TableDigest, in_blocks
from services.data.domain.readers import read_file
from services.data.domain.types import FileFormat


def _read(content: bytes, file_format: FileFormat = FileFormat.CSV, delimiter: str = ",") -> pa.Table:
    schema, batches = read_file(lambda: io.BytesIO(content), file_format, delimiter)
    return pa.Table.from_batches(list(batches), schema)


@pytest.mark.parametrize(
    ("content", "reason", "text"),
    [
        (b"", "EMPTY_FILE", "empty"),
        (b"a,b\n", "EMPTY_FILE", "no rows"),
        (b"a,b\n\n\n", "EMPTY_FILE", "no rows"),
        (b"a,b\n1,2\n3\n", "RAGGED_ROW", "row 3 has 1"),
        (b'a,b\n1,"x\ny"\n3,4,5\n', "RAGGED_ROW", "row 3 has 3"),
        (b"a,b,a\n1,2,3\n", "DUPLICATE_COLUMN", "'a' stands twice"),
        (b"a,,c\n1,2,3\n", "EMPTY_COLUMN_NAME", "column 2"),
        (b"a\nx\n\xff\n", "NOT_UTF8", "byte 4"),
        (b"a\nx\n\xe4\xb8", "NOT_UTF8", "byte 4"),
        (b'a,b\n1,"x\n2,y\n', "UNTERMINATED_QUOTE", "line 2"),
        (b"a\n1.5\ninf\n", "INFINITE_VALUE", "row 2"),
        (b"a\n1e999\n", "INFINITE_VALUE", "row 1"),
    ],
)
def test_broken_csv_is_refused(content: bytes, reason: str, text: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        _read(content)
    assert refusal.value.reason == reason
    assert text in refusal.value.message


@pytest.mark.parametrize(
    ("content", "reason", "text"),
    [
        (b"", "EMPTY_FILE", "empty"),
        (b'{"a": 1}\n{"a": \n', "BAD_JSON", "line 2"),
        (b"[1]\n", "BAD_JSON", "line 1"),
        (b'{"a": {"b": 1}}\n', "UNSUPPORTED_TYPE", "nested"),
        (b'{"a": 1}\n{"a": Infinity}\n', "INFINITE_VALUE", "row 2"),
    ],
)
def test_broken_json_lines_are_refused(content: bytes, reason: str, text: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        _read(content, FileFormat.JSON_LINES)
    assert refusal.value.reason == reason
    assert text in refusal.value.message


def test_broken_parquet_is_refused() -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"a": range(100_000)}), sink)
    for content in (b"", b"not parquet", sink.getvalue()[:-50]):
        with pytest.raises(InvalidArgument) as refusal:
            _read(content, FileFormat.PARQUET)
        assert refusal.value.reason == "BAD_PARQUET"


def test_nested_parquet_is_refused() -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"a": [[1, 2]]}), sink)
    with pytest.raises(InvalidArgument, match="flatten"):
        _read(sink.getvalue(), FileFormat.PARQUET)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["1", "2", ""], "int64"),
        (["1", "2.5", "NA"], "double"),
        (["true", "False", ""], "bool"),
        (["2020-01-01", "2020-01-02 10:00:00"], "timestamp[us]"),
        (["1", "true"], "string"),
        (["", "NaN", "null"], "string"),
        ([" 7", "8 "], "int64"),
        (["9223372036854775808", "1"], "double"),
    ],
)
def test_type_is_the_narrowest_that_holds_every_row(values: list[str], kind: str) -> None:
    table = _read("\n".join(["a,b", *(f"{value},x" for value in values)]).encode())
    assert str(table.schema.field("a").type) == kind


def test_late_value_widens_the_type_of_all_rows() -> None:
    content = b"a\n" + b"1\n" * 3_000_000 + b"2.5\n"
    table = _read(content)
    assert str(table.schema.field("a").type) == "double"
    assert (table.num_rows, table.column("a")[-1].as_py()) == (3_000_001, 2.5)


def test_mark_line_ends_and_quotes_are_understood() -> None:
    table = _read('﻿a,b\r\n1,"x, ""y""\r\nz"\r\n'.encode())
    assert table.to_pylist() == [{"a": 1, "b": 'x, "y"\r\nz'}]


def test_nan_is_a_missing_value() -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"a": [1.0, math.nan]}), sink)
    assert _read(sink.getvalue(), FileFormat.PARQUET).column("a").to_pylist() == [1.0, None]


def test_quoted_json_numbers_stay_texts() -> None:
    table = _read(b'{"zip": "01234", "n": 1}\n{"zip": "5", "m": true}\n', FileFormat.JSON_LINES)
    assert table.to_pylist() == [{"zip": "01234", "n": 1, "m": None}, {"zip": "5", "n": None, "m": True}]


_rows = st.lists(
    st.tuples(
        st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)),
        st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False)),
        st.one_of(st.none(), st.text(max_size=20)),
        st.one_of(st.none(), st.booleans()),
    ),
    min_size=1,
    max_size=50,
)


@given(_rows)
def test_parquet_comes_back_as_it_was(rows: list[tuple[object, ...]]) -> None:
    table = pa.table(
        {
            "i": pa.array([row[0] for row in rows], pa.int64()),
            "f": pa.array([row[1] for row in rows], pa.float64()),
            "s": pa.array([row[2] for row in rows], pa.string()),
            "b": pa.array([row[3] for row in rows], pa.bool_()),
        }
    )
    sink = io.BytesIO()
    pq.write_table(table, sink)
    assert _read(sink.getvalue(), FileFormat.PARQUET).equals(table)


@given(_rows, st.integers(1, 20), st.integers(1, 20))
def test_digest_knows_rows_and_not_batches(rows: list[tuple[object, ...]], one: int, other: int) -> None:
    table = pa.table({"i": pa.array([row[0] for row in rows], pa.int64()), "s": [row[2] for row in rows]})
    table = table.cast(pa.schema([("i", pa.int64()), ("s", pa.string())]))

    def digest(batches: Iterator[pa.RecordBatch]) -> str:
        found = TableDigest(table.schema)
        for block in in_blocks(batches, table.schema):
            found.update(block)
        return found.hexdigest()

    first = digest(iter(table.to_batches(max_chunksize=one)))
    assert first == digest(iter(table.to_batches(max_chunksize=other)))
    changed = table.set_column(0, "i", pa.array([(row[0] or 0) ^ 1 for row in rows], pa.int64()))  # type: ignore[operator]
    assert first != digest(iter(changed.to_batches()))
