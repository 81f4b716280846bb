"""Types, missing values, dialects and compression: what the defaults decide, and what the user says otherwise."""

import bz2
import decimal
import gzip
import io
import json
import lzma
import zipfile
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servicekit.errors import InvalidArgument
from services.data.domain.import_options import ImportOptions, KnownColumn
from services.data.domain.original_texts import listed
from services.data.domain.readers import read_file
from services.data.domain.readers.layers import decompressed
from services.data.domain.readers.source import ReadFile
from services.data.domain.types import FileFormat


def _file(
    content: bytes | str,
    file_format: FileFormat = FileFormat.CSV,
    delimiter: str = "",
    encoding: str = "",
    **options: Any,
) -> tuple[pa.Table, ReadFile]:
    data = content.encode() if isinstance(content, str) else content
    found = read_file(lambda: io.BytesIO(data), file_format, delimiter, "", ImportOptions(**options))
    table = pa.Table.from_batches(list(found.batches), found.schema)
    return table.select(listed(table.column_names)), found


def _column(values: list[str], **options: Any) -> tuple[str, list[object], list[str]]:
    table, found = _file("\n".join(["c,n", *(f"{value},1" for value in values)]), **options)
    return str(table["c"].type), table["c"].to_pylist(), found.notes


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        (["00501", "02134"], "string", ["00501", "02134"]),
        (["007"], "string", ["007"]),
        (["-007"], "string", ["-007"]),
        (["0", "10"], "int64", [0, 10]),
        (["0", "0.5", "-0.5"], "double", [0.0, 0.5, -0.5]),
        (["16699327784941023797", "1"], "string", ["16699327784941023797", "1"]),
        (["9007199254740993", "1.5"], "string", ["9007199254740993", "1.5"]),
        (["9007199254740993", "1"], "int64", [9007199254740993, 1]),
        (["0.1234567890123456789", "1"], "string", ["0.1234567890123456789", "1"]),
        # What programs print of doubles are numbers.
        (["0.30000000000000004", "0.10000000000000000555"], "double", [0.30000000000000004, 0.1]),
        (["1.500", "12.340000000000000000000"], "double", [1.5, 12.34]),
        (["1_000"], "string", ["1_000"]),
        (["+5", "-3"], "int64", [5, -3]),
        (["1e5"], "double", [100000.0]),
        (["0x1F"], "string", ["0x1F"]),
        (["yes", "no"], "string", ["yes", "no"]),
        (["TRUE", "false"], "bool", [True, False]),
        (["5%"], "string", ["5%"]),
        (["12:30"], "string", ["12:30"]),
        (['="00501"'], "string", ['="00501"']),
        (["１２"], "string", ["１２"]),
    ],
)
def test_number_that_would_lose_something_stays_text(values: list[str], kind: str, expected: list[object]) -> None:
    assert _column(values)[:2] == (kind, expected)


def test_integer_beside_a_missing_one_stays_an_integer() -> None:
    table, _ = _file('id\n1111111111111111111\n""\n1111111111111111112\n')
    assert (str(table["id"].type), table["id"].to_pylist()) == (
        "int64",
        [1111111111111111111, None, 1111111111111111112],
    )


_ids = st.lists(
    st.integers(0, 10**25).map(str) | st.from_regex(r"[0-9]{1,20}(\.[0-9]{1,20})?", fullmatch=True),
    min_size=2,
    unique=True,
)


@settings(deadline=None)
@given(_ids)
def test_texts_that_differ_by_value_never_become_one(ids: list[str]) -> None:
    table, _ = _file("\n".join(["id,n", *(f"{one},1" for one in ids)]))
    assert len(set(table["id"].to_pylist())) >= len({decimal.Decimal(one) for one in ids})


@pytest.mark.parametrize(
    ("values", "kind", "expected", "note"),
    [
        (["None", "None", "Minor"], "string", ["None", "None", "Minor"], "'None' is a text"),
        (["1", "None"], "int64", [1, None], "read as missing"),
        (["true", "None"], "bool", [True, None], "read as missing"),
        (["DE", "NA", "FR"], "string", ["DE", "NA", "FR"], "'NA' is a text"),
        (["EU", "NA", "AS"], "string", ["EU", "NA", "AS"], "'NA' is a text"),
        (["M", "NA", "F"], "string", ["M", None, "F"], "read as missing"),
        (["NA", "1"], "int64", [None, 1], "c (1)"),
        (["null", "x"], "string", [None, "x"], "read as missing"),
    ],
)
def test_missing_texts_follow_the_columns_type(values: list[str], kind: str, expected: list[object], note: str) -> None:
    found = _column(values)
    assert found[:2] == (kind, expected)
    assert any(note in one for one in found[2])


def test_missing_texts_are_the_users_say() -> None:
    content = "a,b\n-,-\n1,NA\n?,-\n"
    assert _file(content, missing=("-", "?"))[0].to_pydict() == {"a": [None, 1, None], "b": [None, "NA", None]}
    assert _file(content, missing=())[0].to_pydict() == {"a": ["-", "1", "?"], "b": ["-", "NA", "-"]}
    table, found = _file(content, column_missing={"a": ("-", "?")})
    assert table.to_pydict() == {"a": [None, 1, None], "b": ["-", None, "-"]}
    assert found.missing == {"a": ("-", "?")}
    assert _file("c\nNone\nx\n", missing=("None",))[0]["c"].to_pylist() == [None, "x"]


@pytest.mark.parametrize(
    ("content", "rows", "note"),
    [
        ("a;b\n1;2\n", {"a": [1], "b": [2]}, "semicolon"),
        ("a\tb\n1\t2\n", {"a": [1], "b": [2]}, "tab"),
        ("a|b\n1|2\n", {"a": [1], "b": [2]}, "pipe"),
        ("a,b;c\n1,2;3\n", {"a": [1], "b;c": ["2;3"]}, ""),
        ("title; part\nfoo\n", {"title; part": ["foo"]}, ""),
        ("sep=;\na;b\n1;2\n", {"a": [1], "b": [2]}, ""),
        ('a;b\n"x;y";2\n', {"a": ["x;y"], "b": [2]}, "semicolon"),
    ],
)
def test_delimiter_is_found(content: str, rows: dict[str, list[object]], note: str) -> None:
    table, found = _file(content)
    assert table.to_pydict() == rows
    assert any(note in one for one in found.notes) if note else not found.notes


def test_delimiter_that_divides_nothing_is_reported() -> None:
    _, found = _file("a;b\n1;2\n", delimiter=",")
    assert "2 by a semicolon" in found.notes[0]
    with pytest.raises(InvalidArgument, match="2 by a semicolon") as refusal:
        _file("Preis;Menge\n11,18;300\n", delimiter=",")
    assert refusal.value.reason == "RAGGED_ROW"


@pytest.mark.parametrize(
    ("content", "options", "rows"),
    [
        ("p;q\n1.234,5;x\n-7;y\n", {"decimal": ",", "thousands": "."}, {"p": [1234.5, -7.0], "q": ["x", "y"]}),
        ("p;q\n1 234;x\n", {"decimal": ",", "thousands": " "}, {"p": [1234], "q": ["x"]}),
        ("p,q\n12.34.5,x\n", {"thousands": "'"}, {"p": ["12.34.5"], "q": ["x"]}),
        ("a,b\n'1,2',3\n", {"quote": "'"}, {"a": ["1,2"], "b": [3]}),
        ('a,b\n"x,3\n', {"quote": "none"}, {"a": ['"x'], "b": [3]}),
        ("a,b\nx\\,y,3\n", {"escape": "\\"}, {"a": ["x,y"], "b": [3]}),
        ("# c\na,b\n# d,e,f\n1,2\n", {"comment": "#"}, {"a": [1], "b": [2]}),
        ('a,b\n"x\n# y",2\n', {"comment": "#"}, {"a": ["x\n# y"], "b": [2]}),
        ('by "me\nmore, of, it\na,b\n1,2\n', {"skip": 2}, {"a": [1], "b": [2]}),
        ("1,2\n3,4\n", {"no_header": True}, {"column_1": [1, 3], "column_2": [2, 4]}),
        ("\ufeff1,2\n", {"no_header": True, "names": ("x", "y")}, {"x": [1], "y": [2]}),
        ("a,b\n1,2\n", {"names": ("x", "y")}, {"x": [1], "y": [2]}),
    ],
)
def test_dialect_is_the_users_say(content: str, options: dict[str, Any], rows: dict[str, list[object]]) -> None:
    assert _file(content, **options)[0].to_pydict() == rows


@pytest.mark.parametrize(
    ("content", "names", "note"),
    [
        (",x\n0,1.5\n", ["index", "x"], "called 'index'"),
        ('"","x"\n"1","yes"\n', ["index", "x"], "called 'index'"),
        (",index\n0,1\n", ["row", "index"], "called 'row'"),
        (",index,row\n0,1,2\n", ["column_1", "index", "row"], "called 'column_1'"),
        ("a,b,\n1,2,\n3,4,\n", ["a", "b"], "left out"),
        ("a,b,\n1,2,\n3,4,5\n", ["a", "b", "column_3"], "called 'column_3'"),
        ("a, ,column_2\n1,2,3\n", ["a", "column_2_2", "column_2"], "called 'column_2_2'"),
    ],
)
def test_blank_header_gets_a_name(content: str, names: list[str], note: str) -> None:
    table, found = _file(content)
    assert table.column_names == names
    assert any(note in one for one in found.notes)


@pytest.mark.parametrize(
    ("values", "kind", "first"),
    [
        (["2022-03-20T11:00:00+01:00"], "timestamp[us, tz=UTC]", "2022-03-20 10:00:00+00:00"),
        (["2022-03-20 11:00:00 +0100"], "timestamp[us, tz=UTC]", "2022-03-20 10:00:00+00:00"),
        (["2020/01/31", "2020/2/1"], "timestamp[us]", "2020-01-31 00:00:00"),
        (["31.01.2020", "1.2.2020 10:30"], "timestamp[us]", "2020-01-31 00:00:00"),
        (["31/01/2020", "01/02/2020"], "timestamp[us]", "2020-01-31 00:00:00"),
        (["01/31/2020 10:00 PM", "01/02/2020"], "timestamp[us]", "2020-01-31 22:00:00"),
        (["2020-01-01T10:00:00.123456789"], "timestamp[ns]", "2020-01-01 10:00:00.123456789"),
        (["01/02/2020"], "string", "01/02/2020"),
        (["2020-13-01"], "string", "2020-13-01"),
        (["2020-01-01", "2020-01-01T00:00:00Z"], "string", "2020-01-01"),
        (["1.2.3.4"], "string", "1.2.3.4"),
        (["31.12.20"], "string", "31.12.20"),
    ],
)
def test_unambiguous_dates_are_times(values: list[str], kind: str, first: str) -> None:
    found = _column(values)
    assert (found[0], str(found[1][0])) == (kind, first)


def test_notes_name_what_helps() -> None:
    assert _column(["01:30", "12:00"])[2] == []
    assert "dates={column: '%d/%m/%Y'}" in _column(["01/02/2020"])[2][0]
    assert "texts given for them" in _column(["-", "x"], missing=("-",))[2][0]


def test_dates_are_the_users_say() -> None:
    table, _ = _file("d,e\n01/02/2020,x\n", date_formats={"d": "%d/%m/%Y"})
    assert str(table["d"][0]) == "2020-02-01 00:00:00"
    table, _ = _file("d,e\n01-Feb-20,x\n", date_formats={"*": "%d-%b-%y"})
    assert (str(table["d"][0]), table["e"].to_pylist()) == ("2020-02-01 00:00:00", ["x"])
    table, _ = _file("d,n,t\n01-Feb-20,1,true\n02-Feb-20,2,false\n", date_formats={"*": "%d-%b-%y"})
    assert [str(kind) for kind in table.schema.types] == ["timestamp[us]", "int64", "bool"]
    table, _ = _file("d,n\n2020-07-01 12:00,1\n", zone="Europe/Berlin")
    assert str(table["d"][0]) == "2020-07-01 10:00:00+00:00"
    with pytest.raises(InvalidArgument, match=r"'d'.*data row 2") as refusal:
        _file("d,n\n01/02/2020,1\nsecret,2\n", date_formats={"d": "%d/%m/%Y"})
    assert "secret" not in refusal.value.message


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"zone": "Mars/Phobos"}, "UNKNOWN_ZONE"),
        ({"zone": "../../etc/passwd"}, "UNKNOWN_ZONE"),
        ({"date_formats": {"a": "%Q"}}, "BAD_DATE_FORMAT"),
        ({"types": {"a": "complex"}}, "UNKNOWN_TYPE"),
        ({"types": {"zz": "int64"}}, "UNKNOWN_COLUMN"),
        ({"compression": "rar"}, "UNKNOWN_COMPRESSION"),
        ({"decimal": ",", "thousands": ","}, "BAD_NUMBER_FORMAT"),
        ({"quote": ",", "escape": ","}, "BAD_OPTIONS"),
        ({"names": ("x",)}, "RAGGED_ROW"),
        ({"types": {"a": "int64"}, "date_formats": {"a": "%Y"}}, "BAD_OPTIONS"),
    ],
)
def test_option_that_cannot_be_is_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        _file("a,b\n1,2\n", **options)
    assert refusal.value.reason == reason


def test_option_that_a_format_lacks_is_named() -> None:
    with pytest.raises(InvalidArgument, match="a JSON file has no decimal, skip") as refusal:
        _file('{"a": 1}', FileFormat.JSON_LINES, decimal=",", skip=1)
    assert refusal.value.reason == "UNUSED_OPTION"


def test_given_types_are_taken_or_all_misfits_are_named() -> None:
    content = "zip,n,flag,x\n00501,1.0,1,7\n02134,2.0,0,8\n"
    types = {"zip": "int64", "n": "int64", "flag": "bool", "x": "string"}
    assert _file(content, types=types)[0].to_pydict() == {
        "zip": [501, 2134],
        "n": [1, 2],
        "flag": [True, False],
        "x": ["7", "8"],
    }
    with pytest.raises(InvalidArgument) as refusal:
        _file("a,b,c\n1,x,1\nsecret,2,2\n", types={"a": "int64", "b": "double", "c": "int64"})
    assert refusal.value.reason == "COLUMN_TYPE_MISMATCH"
    assert [field for field, _ in refusal.value.violations] == ["types[a]", "types[b]"]
    assert "'a': the value in data row 2" in refusal.value.message
    assert "secret" not in refusal.value.message


def test_earlier_types_are_kept_where_values_fit_and_reported_where_not() -> None:
    known = {"c": KnownColumn("string", "d@1"), "n": KnownColumn("double", "d@1"), "m": KnownColumn("int64", "d@1")}
    table, found = _file("c,n,m\n7,1,x\n8,2,5\n", known=known)
    assert table.to_pydict() == {"c": ["7", "8"], "n": [1.0, 2.0], "m": ["x", "5"]}
    assert any("read as string, as in d@1: c" in note for note in found.notes)
    assert any("column 'm' is string here and int64 in d@1: the value in data row 1" in note for note in found.notes)


def test_file_like_another_has_its_types_or_is_refused() -> None:
    likes = {"c": KnownColumn("string", "d@1"), "n": KnownColumn("double", "d@1"), "b": KnownColumn("bool", "d@1")}
    assert _file("c,n,other\n007,1,x\n", likes=likes)[0].to_pydict() == {"c": ["007"], "n": [1.0], "other": ["x"]}
    with pytest.raises(InvalidArgument) as refusal:
        _file("c,n,b\n007,x,1\n", likes=likes)
    assert [field for field, _ in refusal.value.violations] == ["types[n]", "types[b]"]


def _zip(**files: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


def _zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return bytes(sink.getvalue().to_pybytes())


_PLAIN = b"a,b\n1,x\n2,y\n"


@pytest.mark.parametrize(
    "packed",
    [
        gzip.compress(_PLAIN),
        gzip.compress(_PLAIN[:4]) + gzip.compress(_PLAIN[4:]),
        bz2.compress(_PLAIN),
        lzma.compress(_PLAIN),
        _zstd(_PLAIN),
        _zip(**{"t.csv": _PLAIN.decode(), "__MACOSX/._t.csv": "?", ".DS_Store": "?"}),
    ],
)
def test_compressed_text_is_read(packed: bytes) -> None:
    assert _file(packed)[0].to_pydict() == {"a": [1, 2], "b": ["x", "y"]}


@pytest.mark.parametrize(
    ("packed", "reason"),
    [
        (gzip.compress(_PLAIN * 1000)[:-9], "BAD_COMPRESSION"),
        (b"\x1f\x8b junk", "BAD_COMPRESSION"),
        (b"PK\x03\x04 junk", "BAD_COMPRESSION"),
        (_zip(**{"a.csv": "a\n1\n", "b.csv": "a\n1\n"}), "SEVERAL_FILES"),
        (b"PK\x05\x06" + bytes(18), "SEVERAL_FILES"),
    ],
)
def test_broken_archive_is_refused(packed: bytes, reason: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        _file(packed, compression="" if reason == "BAD_COMPRESSION" else "zip")
    assert refusal.value.reason == reason


def test_file_that_unpacks_to_far_more_than_its_size_is_refused() -> None:
    bomb = _zstd(bytes(300 << 20))
    with decompressed(lambda: io.BytesIO(bomb), "")() as file, pytest.raises(InvalidArgument) as refusal:
        while file.read(1 << 20):
            """Reads up to the limit."""
    assert refusal.value.reason == "DECOMPRESSED_TOO_LARGE"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'[{"a": 1, "b": "x"},\n {"a": 2.5}]', {"a": [1.0, 2.5], "b": ["x", None]}),
        (b' [ {"a": "}]{[,"} , {"a": "\\""} ] ', {"a": ["}]{[,", '"']}),
        (b'{"id": 16699327784941023797}\n{"id": 1}', {"id": ["16699327784941023797", "1"]}),
        (b'{"id": 9007199254740993}\n{"id": 1.5}', {"id": ["9007199254740993", "1.5"]}),
        (b'{"id": 9007199254740993}\n{"id": null}\n{"id": 2}', {"id": [9007199254740993, None, 2]}),
        (b'{"x": "s"}\n{"x": 1e5}\n{"x": 1.50}', {"x": ["s", "100000", "1.5"]}),
    ],
)
def test_json_is_read_with_all_digits(content: bytes, expected: dict[str, list[object]]) -> None:
    assert _file(content, FileFormat.JSON_LINES)[0].to_pydict() == expected


@pytest.mark.parametrize(
    "content", [b"[1]", b'[{"a": 1},]', b'[{"a": 1}', b'[{"a": 1}] x', b'[{"a": 1} {"a": 2}]', b"[nan]"]
)
def test_array_that_is_none_of_objects_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        _file(content, FileFormat.JSON_LINES)
    assert refusal.value.reason == "BAD_JSON"


def test_long_array_is_read_in_pieces() -> None:
    rows = [{"a": number, "t": "é" * 100} for number in range(20_000)]
    table, _ = _file(json.dumps(rows, ensure_ascii=False), FileFormat.JSON_LINES)
    assert table["a"].to_pylist() == list(range(20_000))


@pytest.mark.parametrize("writer", [pa.ipc.new_file, pa.ipc.new_stream])
def test_arrow_is_read(writer: Any) -> None:
    wanted = pa.table({"a": [1, 2], "s": ["x", None]})
    sink = pa.BufferOutputStream()
    with writer(sink, wanted.schema) as stream:
        stream.write_table(wanted)
    content = bytes(sink.getvalue().to_pybytes())
    assert _file(content, FileFormat.ARROW)[0].equals(wanted)
    assert _file(content, FileFormat.ARROW, types={"a": "string"})[0]["a"].to_pylist() == ["1", "2"]
    for broken in (b"", b"ARROW1 junk", content[: len(content) // 2]):
        with pytest.raises(InvalidArgument) as refusal:
            _file(broken, FileFormat.ARROW)
        assert refusal.value.reason in ("BAD_ARROW", "EMPTY_FILE")


def test_decimals_of_parquet_keep_their_digits() -> None:
    ids = [decimal.Decimal("16699327784941023797"), decimal.Decimal("16699327784941023798")]
    prices = pa.array([decimal.Decimal("1.50"), decimal.Decimal("2.25")], pa.decimal128(20, 2))
    sink = io.BytesIO()
    pq.write_table(pa.table({"id": ids, "price": prices}), sink)
    table, _ = _file(sink.getvalue(), FileFormat.PARQUET)
    assert table.to_pydict() == {"id": [str(one) for one in ids], "price": [1.5, 2.25]}


def test_types_are_given_for_formats_that_have_types() -> None:
    content = b'{"a": "1", "b": 2}\n{"a": "-", "b": 3}'
    table, _ = _file(content, FileFormat.JSON_LINES, types={"a": "int64", "b": "string"}, missing=("-",))
    assert table.to_pydict() == {"a": [1, None], "b": ["2", "3"]}
    with pytest.raises(InvalidArgument) as refusal:
        _file(b'{"a": 1.5, "b": "x"}', FileFormat.JSON_LINES, types={"a": "int64", "b": "double"})
    assert [field for field, _ in refusal.value.violations] == ["types[a]", "types[b]"]
