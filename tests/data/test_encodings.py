"""Text in other encodings: read where it is said which, refused with its place and what to do where it is not."""

import io
import json

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servicekit.errors import InvalidArgument
from services.data.domain.readers import read_file
from services.data.domain.readers.encodings import as_utf8
from services.data.domain.types import FileFormat

CSV = '城市,评论\n北京,“很好”\n上海,"两\n行"\n'


def _read(content: bytes, encoding: str = "", file_format: FileFormat = FileFormat.CSV) -> pa.Table:
    found = read_file(lambda: io.BytesIO(content), file_format, "," if file_format is FileFormat.CSV else "", encoding)
    return pa.Table.from_batches(list(found.batches), found.schema)


@pytest.mark.parametrize("encoding", ["gbk", "GB18030", "utf-16", "utf-16-le", "utf-8", "utf_8_sig", "utf-32"])
def test_text_that_says_its_encoding_is_read_as_if_it_were_utf8(encoding: str) -> None:
    assert _read(CSV.encode(encoding), encoding) == _read(CSV.encode())
    lines = "\n".join(json.dumps({"a": text}, ensure_ascii=False) for text in ("北京", "“好”")) + "\n"
    read = _read(lines.encode(encoding), encoding, FileFormat.JSON_LINES)
    assert read["a"].to_pylist() == ["北京", "“好”"]


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "iso-8859-15"])
def test_western_text_is_read(encoding: str) -> None:
    assert _read("a,b\ncafé,1\n".encode(encoding), encoding)["a"].to_pylist() == ["café"]


def test_more_than_is_read_at_a_time_comes_whole() -> None:
    # Three-byte characters straddle every border.
    rows = "".join(f"{number},北京{'京' * (number % 7)}\n" for number in range(60_000))
    content = ("n,text\n" + rows).encode("gb18030")
    assert _read(content, "gb18030") == _read(("n,text\n" + rows).encode())


@pytest.mark.parametrize(
    ("content", "encoding", "reason", "says"),
    [
        ("a\n好\n".encode("gbk"), "", "NOT_UTF8", "on line 2, cannot be read; import it with the encoding"),
        ("a\ncafé\n".encode("latin-1"), "", "NOT_UTF8", r"byte 5 \(counted from 0\), on line 2"),
        ("a\n好\n".encode("utf-16"), "", "NOT_UTF8", "encoding='utf-16'"),
        ("a\n好\n".encode(), "ascii", "WRONG_ENCODING", r"byte 2 \(counted from 0\), on line 2"),
        ("a\nx\n\xff\n".encode("latin-1"), "gb18030", "WRONG_ENCODING", "on line 3"),
        (b"a\nx\n\x81", "gb18030", "WRONG_ENCODING", "byte 4 "),
        (b"a\n" + b"x\n" * 300_000 + b"\xff\n", "gbk", "WRONG_ENCODING", "byte 600,002 .* line 300,002"),
        (b"a\nb\n", "klingon", "UNKNOWN_ENCODING", "expected utf-8, utf-16, gb18030"),
        (b"a\nb\n", "unicode_escape", "UNKNOWN_ENCODING", "unknown encoding"),
        (b"a\nb\n", "base64", "UNKNOWN_ENCODING", "unknown encoding"),
        (b"a,b\n1\n", "latin-1", "RAGGED_ROW", "row 2"),
        (b"", "latin-1", "EMPTY_FILE", "empty"),
    ],
)
def test_text_that_cannot_be_read_is_refused_with_its_place(
    content: bytes, encoding: str, reason: str, says: str
) -> None:
    with pytest.raises(InvalidArgument, match=says) as refused:
        _read(content, encoding)
    assert refused.value.reason == reason


def test_parquet_has_no_encoding() -> None:
    with pytest.raises(InvalidArgument, match="Parquet"):
        _read(b"PAR1", "gbk", FileFormat.PARQUET)


@given(
    text=st.text(st.characters(codec="gb18030"), min_size=1, max_size=300),
    moves=st.lists(st.tuples(st.booleans(), st.integers(0, 400)), max_size=8),
)
def test_any_place_can_be_gone_to_and_read_from(text: str, moves: list[tuple[bool, int]]) -> None:
    whole = io.BytesIO(text.encode())
    with as_utf8(lambda: io.BytesIO(text.encode("gb18030")), "gb18030")() as file:
        for is_seek, count in moves:
            if is_seek:
                place = min(count, len(whole.getvalue()))
                assert file.seek(place) == whole.seek(place)
            else:
                assert file.read(count) == whole.read(count)
        assert file.tell() == whole.tell()
        assert file.read() == whole.read()
