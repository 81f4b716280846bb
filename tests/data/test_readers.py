"""Files are read strictly: what is broken is refused with its reason, what is sound comes back as it was."""

import csv
import io
import json
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servicekit.errors import InvalidArgument
from services.data.domain.columns import SERIES
from services.data.domain.digest import TableDigest
from services.data.domain.original_texts import listed
from services.data.domain.readers import read_file
from services.data.domain.types import FileFormat


def _read(content: bytes, file_format: FileFormat = FileFormat.CSV, delimiter: str = ",") -> pa.Table:
    found = read_file(lambda: io.BytesIO(content), file_format, delimiter if file_format is FileFormat.CSV else "")
    return pa.Table.from_batches(list(found.batches), found.schema).select(listed(found.schema.names))


@pytest.mark.parametrize(
    ("content", "reason", "text"),
    [
        (b"", "EMPTY_FILE", "empty"),
        ("\ufeff".encode(), "EMPTY_FILE", "empty"),
        (b"\n\n", "EMPTY_FILE", "blank"),
        (b"a,b", "EMPTY_FILE", "no rows"),
        (b"a,b\n", "EMPTY_FILE", "no rows"),
        (b"a,b\r\n\r\n\n", "EMPTY_FILE", "no rows"),
        (b"a,b\n1,2\n3\n", "RAGGED_ROW", "row 3 has 1"),
        (b"a,b\n1,2\n3,4,5", "RAGGED_ROW", "row 3 has 3"),
        (b"a\n1,2\n", "RAGGED_ROW", "row 2 has 2"),
        (b'a,b\n1,"x\ny"\n3,4,5\n', "RAGGED_ROW", "row 3 has 3 values where the header has 2 columns (line 4)"),
        (b"a,b\n" + b"1,2\n" * 3_000_000 + b"1\n", "RAGGED_ROW", "row 3,000,002 has 1"),
        (b"a,b,a\n1,2,3\n", "DUPLICATE_COLUMN", "'a' stands twice"),
        (b"a," + b"n" * 300 + b"\n1,2\n", "BAD_COLUMN_NAME", "column 2"),
        (b",".join(b"c%d" % number for number in range(10_001)) + b"\n", "TOO_MANY_COLUMNS", "10,001"),
        (b",".join(b"%d" % number + b"n" * 200 for number in range(2_000)) + b"\n", "TOO_MANY_COLUMNS", "bytes"),
        (b"a\nx\n\xff\n", "NOT_UTF8", "byte 4 "),
        (b"a\nx\n\xe4\xb8", "NOT_UTF8", "byte 4 "),
        (b"a\xff\nx\n", "NOT_UTF8", "byte 1 "),
        (b"a,b\n" + b"1,2\n" * 3_000_000 + b"1,\xff\n", "NOT_UTF8", "byte 12,000,006 "),
        (b'a,b\n1,"x\n2,y\n', "UNTERMINATED_QUOTE", "line 2"),
        (b'a,b\n1,"', "UNTERMINATED_QUOTE", "line 2"),
        (b'a\n"', "UNTERMINATED_QUOTE", "line 2"),
        (b'a,"b\n1,2\n', "UNTERMINATED_QUOTE", "line 1"),
        # As many quotes as if it were sound.
        (b'a,b\n"1","5"" x"\n3,4"\n5,"x\n', "UNTERMINATED_QUOTE", "line 4"),
        (b'a,b\n3,4"\n5,"x' + b"\n1,2" * 3_000_000, "UNTERMINATED_QUOTE", "line 3"),
        (b"a,b\n1,2\n1," + b"x" * (9 << 20) + b"\n", "ROW_TOO_LONG", "line 3"),
        (b"a\n1.5\ninf\n", "INFINITE_VALUE", "row 2"),
        (b"a\n1e999\n", "INFINITE_VALUE", "row 1"),
        (b"a\n" + b"1\n" * 3_000_000 + b"-Infinity\n", "INFINITE_VALUE", "row 3,000,001"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isupper() else "",
)
def test_broken_csv_is_refused(content: bytes, reason: str, text: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        _read(content)
    assert refusal.value.reason == reason
    assert text in refusal.value.message


@pytest.mark.parametrize("delimiter", ['"', "\n", "\r", "é", "x", "7", ".", " "])
def test_delimiter_that_values_hold_is_refused(delimiter: str) -> None:
    with pytest.raises(InvalidArgument, match="delimiter"):
        _read(b"a,b\n1,2\n", delimiter=delimiter)


@pytest.mark.parametrize(
    ("content", "reason", "text"),
    [
        (b"", "EMPTY_FILE", "empty"),
        (b"\n\n", "EMPTY_FILE", "no rows"),
        (b"{}\n", "EMPTY_FILE", "no columns"),
        (b'{"a": 1}\n{"a": \n', "BAD_JSON", "line 2"),
        (b'{"a": 1}\n{"a": 1', "BAD_JSON", "line 2"),
        (b"[1]\n", "BAD_JSON", "line 1"),
        (b'{"a": 1, "a": 2}\n', "BAD_JSON", "twice"),
        (b'{"a": ' + b"[" * 100_000 + b"\n", "BAD_JSON", "line 1"),
        (b'{"a": "\\ud800"}\n', "BAD_JSON", "surrogate"),
        (b'{"a": {"b": 1}}\n', "UNSUPPORTED_TYPE", "nested"),
        (b'{"a": ["x"]}\n', "UNSUPPORTED_TYPE", "a list of numbers"),
        (b'{"a": [[1]]}\n', "UNSUPPORTED_TYPE", "nested"),
        (b'{"a": [1]}\n{"a": [1, Infinity]}\n', "INFINITE_VALUE", "row 2"),
        (b'{"a": 1}\n{"a": Infinity}\n', "INFINITE_VALUE", "row 2"),
        (b'{"a": 1}\n{"a": 1e999}\n', "INFINITE_VALUE", "row 2"),
        (b'{"a": 1}\n{"": 1}\n', "EMPTY_COLUMN_NAME", "column 2"),
        (b'{"a": 1}\n{"a": "\xff"}\n', "NOT_UTF8", "byte 16 "),
        (b'{"a": "' + b"x" * (5 << 20) + b'"}\n', "ROW_TOO_LONG", "line 1"),
        (b"".join(b'{"a%d": 1}\n' % number for number in range(10_002)), "TOO_MANY_COLUMNS", "line 10,001"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isupper() else "",
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
    pq.write_table(pa.table({"a": [["x", "y"]]}), sink)
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
        (["9223372036854775808", "1"], "string"),
        (["0x1F", "2"], "string"),
        (["2020-01-01", "x"], "string"),
        (["1", "2020-01-01"], "string"),
        (["-0", "+1.5"], "double"),
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


@pytest.mark.parametrize("kind", [pa.list_(pa.int16()), pa.large_list(pa.float32()), pa.list_(pa.decimal128(5, 1))])
def test_lists_of_numbers_are_series(kind: pa.DataType) -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"a": pa.array([[1, 2], [], None, [None, 3]], kind)}), sink)
    for content, file_format in (
        (sink.getvalue(), FileFormat.PARQUET),
        (b'{"a": [1, 2]}\n{"a": []}\n{"a": null}\n{"a": [NaN, 3.0]}\n', FileFormat.JSON_LINES),
    ):
        found = _read(content, file_format)
        assert found.schema.field("a").type == SERIES
        assert found["a"].to_pylist() == [[1.0, 2.0], [], None, [None, 3.0]]


def test_column_of_lists_and_numbers_is_of_texts() -> None:
    assert _read(b'{"a": [1, 2.5]}\n{"a": 3}\n', FileFormat.JSON_LINES)["a"].to_pylist() == ["[1, 2.5]", "3"]


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


_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20).map(lambda text: f"t{text}")
_cells = st.lists(
    st.tuples(
        st.none() | st.integers(-(2**63), 2**63 - 1),
        st.none() | st.floats(allow_nan=False, allow_infinity=False),
        st.none() | _texts,
        st.none() | st.booleans(),
        st.none() | st.datetimes(),
    ),
    min_size=1,
    max_size=50,
)
_KINDS = (pa.int64(), pa.float64(), pa.string(), pa.bool_(), pa.timestamp("us"))


@given(_cells, st.sampled_from([",", ";", "\t", "|"]), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_csv_comes_back_as_it_was(rows: list[tuple[object, ...]], delimiter: str, end: str, has_mark: bool) -> None:
    names = ["i", "f", "s s", 's"q', "t;,"]
    sink = io.StringIO()
    # Python's writer leaves a carriage return bare where lines do not end in one, and bare it ends a line.
    if end == "\n":
        writer = csv.writer(sink, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_NONNUMERIC)
    else:
        writer = csv.writer(sink, delimiter=delimiter, lineterminator=end)
    writer.writerows([names, *rows])
    table = _read(sink.getvalue().encode("utf-8-sig" if has_mark else "utf-8"), delimiter=delimiter)
    columns = list(zip(*rows, strict=True))
    # A column without any value could be anything, and is of strings.
    kinds = [
        kind if any(value is not None for value in values) else pa.string()
        for kind, values in zip(_KINDS, columns, strict=True)
    ]
    assert table.schema == pa.schema(list(zip(names, kinds, strict=True)))
    assert [tuple(row.values()) for row in table.to_pylist()] == rows


@given(_cells)
def test_json_lines_come_back_as_they_were(rows: list[tuple[object, ...]]) -> None:
    # A name that a line lacks is a missing value.
    objects = [{name: value for name, value in zip("ifsb", row, strict=False) if value is not None} for row in rows]
    table = _read("\n".join(map(json.dumps, [dict.fromkeys("ifsb"), *objects])).encode(), FileFormat.JSON_LINES)
    assert [tuple(row.values()) for row in table.to_pylist()[1:]] == [row[:4] for row in rows]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (pa.array(["a", "b"]).dictionary_encode(), "string"),
        (pa.array(["a", None], pa.large_string()), "string"),
        (pa.array([None, None], pa.null()), "string"),
        (pa.array([1, 2], pa.decimal128(10, 2)), "double"),
        (pa.array([86_400_000, None], pa.date64()), "date32[day]"),
        (pa.array([1, 2], pa.timestamp("ns", "Europe/Paris")), "timestamp[ns, tz=Europe/Paris]"),
        (pa.array([1, 2], pa.time32("s")), "time32[ms]"),
        (pa.array([1, 2], pa.uint8()), "uint8"),
    ],
)
def test_parquet_types_are_kept_or_made_plain(values: pa.Array, kind: str) -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"a": values}), sink, store_schema=True)
    assert str(_read(sink.getvalue(), FileFormat.PARQUET).schema.field("a").type) == kind


def test_wide_table_is_read() -> None:
    names = [f"c{number}" for number in range(5_000)]
    content = "\n".join([",".join(names), *[",".join(["1"] * 5_000)] * 20]).encode()
    assert _read(content).shape == (20, 5_000)
    sink = io.BytesIO()
    pq.write_table(_read(content), sink)
    assert _read(sink.getvalue(), FileFormat.PARQUET).shape == (20, 5_000)


@given(_cells, st.integers(1, 20), st.integers(1, 20))
def test_digest_knows_rows_and_not_batches(rows: list[tuple[object, ...]], one: int, other: int) -> None:
    columns = [pa.array(values, kind) for values, kind in zip(zip(*rows, strict=True), _KINDS, strict=True)]
    table = pa.table(columns, names=list("ifsbt"))

    def digest(changed: pa.Table, size: int) -> str:
        found = TableDigest(changed.schema)
        for batch in changed.to_batches(max_chunksize=size):
            found.update(batch)
        return found.hexdigest()

    first = digest(table, one)
    assert first == digest(table, other)
    whole_number = pa.array([(value or 0) ^ 1 for value in columns[0].to_pylist()], pa.int64())
    assert first != digest(table.set_column(0, "i", whole_number), one)
    assert first != digest(table.rename_columns(list("jfsbt")), one)
    assert first != digest(pa.concat_tables([table, table.slice(0, 1)]), one)


def test_digest_tells_where_one_value_ends_and_the_next_begins() -> None:
    tables = [pa.table({"a": values}) for values in (["ab", "c"], ["a", "bc"], ["abc", ""], ["abc", None])]
    digests = set()
    for table in tables:
        found = TableDigest(table.schema)
        found.update(table.to_batches()[0])
        digests.add(found.hexdigest())
    assert len(digests) == 4


def test_digest_of_series_knows_their_ends_and_what_is_missing_and_not_batches() -> None:
    digests = set()
    for lists in (
        [[1.0, 2.0], [3.0]],
        [[1.0], [2.0, 3.0]],
        [[1.0, None], [3.0]],
        [[1.0, 0.0], [3.0]],
        [[1.0, 2.0, 3.0], []],
        [[1.0, 2.0, 3.0], None],
    ):
        table = pa.table({"a": pa.array(lists, SERIES)})
        found = set()
        for size in (1, 2):
            digest = TableDigest(table.schema)
            for batch in table.to_batches(max_chunksize=size):
                digest.update(batch)
            found.add(digest.hexdigest())
        assert len(found) == 1
        digests |= found
    assert len(digests) == 6
