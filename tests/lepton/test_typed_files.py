"""Files are read by a model's types: text exactly as the file has it, and nothing guessed."""

import bz2
import gzip
import lzma
from pathlib import Path
from typing import Any

import pytest

from lepton import errors
from lepton.open_inference import column_values
from lepton.typed_files import MISSING, read_rows
from lepton.v1 import common_pb2
from services.data.domain.parsing import missing

KINDS = {
    "code": ("BYTES", common_pb2.COLUMN_KIND_CATEGORICAL),
    "size": ("FP64", common_pb2.COLUMN_KIND_NUMERIC),
    "count": ("INT64", common_pb2.COLUMN_KIND_NUMERIC),
    "is_new": ("BOOL", common_pb2.COLUMN_KIND_BOOLEAN),
    "day": ("INT64", common_pb2.COLUMN_KIND_TEMPORAL),
}
SIGNATURE = common_pb2.Signature(
    inputs=[common_pb2.TensorSpec(name=name, datatype=kind[0], kind=kind[1]) for name, kind in KINDS.items()]
)


def _file(folder: Path, content: str, name: str = "rows.csv") -> Path:
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return path


def test_missing_is_what_the_data_service_takes_for_it() -> None:
    assert set(missing.MISSING) == MISSING


def test_none_is_a_text_in_columns_of_texts_alone(tmp_path: Path) -> None:
    rows = read_rows(_file(tmp_path, "code,size\nNone,None\nNA,1\n")).typed(SIGNATURE)
    assert rows["code"].tolist() == ["None", None]
    assert rows["size"].tolist() == [None, 1.0]


def test_columns_have_the_types_of_the_model(tmp_path: Path) -> None:
    content = (
        "code,size,count,is_new,day,other\n007, 1.50,5,TRUE,1970-01-02,x\n 5,1e3,6.0,false,1970-01-01T00:00:01Z,007\n"
    )
    rows = read_rows(_file(tmp_path, content)).typed(SIGNATURE)
    found = {spec.name: column_values(rows[spec.name], spec)[:, 0].tolist() for spec in SIGNATURE.inputs}
    assert found == {
        "code": ["007", " 5"],
        "size": [1.5, 1000.0],
        "count": [5, 6],
        "is_new": [True, False],
        "day": [86_400_000_000, 1_000_000],
    }
    assert rows["other"].tolist() == ["x", "007"]
    tabs = read_rows(_file(tmp_path, content.replace(",", "\t"), "rows.tsv")).typed(SIGNATURE)
    assert tabs["code"].tolist() == ["007", " 5"]


def test_missing_values_are_none(tmp_path: Path) -> None:
    rows = read_rows(_file(tmp_path, "code,size\nNA,\n,nan\n")).typed(SIGNATURE)
    assert rows["code"].tolist() == rows["size"].tolist() == [None, None]


def test_what_training_knew_as_a_text_is_no_missing_value(tmp_path: Path) -> None:
    spec = common_pb2.TensorSpec(name="land", datatype="BYTES", kind=KINDS["code"][1], categories=["NA", "DE"])
    signature = common_pb2.Signature(inputs=[spec])
    assert read_rows(_file(tmp_path, "land,x\nNA,1\nNone,2\nnull,3\n")).typed(signature)["land"].tolist() == [
        *("NA", "None", None)
    ]


@pytest.mark.parametrize(
    ("column", "text"),
    [
        ("size", "1_000"),
        ("size", "abc"),
        ("size", "inf"),
        ("size", "0x10"),
        ("count", "1.5"),
        ("count", "1e400"),
        ("is_new", "1"),
        ("is_new", "yes"),
        ("day", "01.02.1970"),
        ("day", "5"),
    ],
)
def test_a_text_that_is_no_value_of_its_column_is_named_by_row_and_not_shown(
    tmp_path: Path, column: str, text: str
) -> None:
    with pytest.raises(errors.InvalidArgument, match=f"row 2, column '{column}'") as refusal:
        read_rows(_file(tmp_path, f"x,{column}\n1,\n2,{text}\n")).typed(SIGNATURE)
    assert text not in refusal.value.message.replace(column, "").replace("row 2", "").replace("ISO 8601", "")


@pytest.mark.parametrize("content", ["code,size\n1\n", "code,size\n1,2,3\n", "code\n1\n2,3\n"])
def test_ragged_rows_are_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(errors.InvalidArgument, match="values where the header has") as refusal:
        read_rows(_file(tmp_path, content)).typed(SIGNATURE)
    assert refusal.value.reason == "RAGGED_ROW"


def test_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidArgument, match="two columns"):
        read_rows(_file(tmp_path, "a,a\n1,2\n")).typed(SIGNATURE)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiter_is_found_from_the_header(tmp_path: Path, delimiter: str) -> None:
    content = '"code","size"\n007,"1.5"\n"a;b|c",2\n'.replace(",", delimiter)
    frame = read_rows(_file(tmp_path, content, "rows.txt")).typed(SIGNATURE)
    assert frame.to_dict("list") == {"code": ["007", "a;b|c"], "size": [1.5, 2.0]}


@pytest.mark.parametrize("opener", [gzip.open, bz2.open, lzma.open])
def test_compressed_texts_are_read(tmp_path: Path, opener: Any) -> None:
    suffix = {gzip.open: ".gz", bz2.open: ".bz2", lzma.open: ".xz"}[opener]
    path = tmp_path / f"rows.csv{suffix}"
    with opener(path, "wt") as file:
        file.write("code,size\n007,1.5\n")
    assert read_rows(path).typed(SIGNATURE).to_dict("list") == {"code": ["007"], "size": [1.5]}
    path.write_bytes(b"no archive")
    with pytest.raises((errors.LeptonError, OSError, lzma.LZMAError)):
        read_rows(path)


def test_json_lines_keep_the_types_that_json_has(tmp_path: Path) -> None:
    content = '{"code": "007", "size": 1, "day": "1970-01-02"}\n\n{"code": "5", "size": null, "day": "1970-01-01"}\n'
    rows = read_rows(_file(tmp_path, content, "rows.jsonl")).typed(SIGNATURE)
    assert rows["code"].tolist() == ["007", "5"]
    assert rows["size"].tolist() == [1, None]


def test_other_files_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidArgument, match="expected"):
        read_rows(_file(tmp_path, "", "rows.xlsx")).typed(SIGNATURE)
