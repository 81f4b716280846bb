"""Files are imported by what the user says of them, through the SDK and the command line alike."""

import gzip
from pathlib import Path

import pandas as pd
import pytest

import lepton
from lepton import errors
from lepton.connection import Connection
from lepton.datasets import ImportNote
from tests.support.platform import Platform


@pytest.fixture(scope="module")
def connection(platform: Platform) -> Connection:
    return platform.connect()


def test_columns_are_read_as_given_types_or_refused_together(connection: Connection, tmp_path: Path) -> None:
    path = tmp_path / "typed.csv"
    path.write_text("c,flag,n\n1.50,True,1\n 5,false,2\nNA,FALSE,3\n")
    dataset = lepton.Dataset.import_file(path, connection=connection)
    read = dataset.to_arrow(types={"c": "string", "flag": "string", "n": "double"})
    assert read.to_pydict() == {"c": ["1.50", " 5", None], "flag": ["True", "false", "FALSE"], "n": [1.0, 2.0, 3.0]}
    with pytest.raises(errors.InvalidArgument, match="2 columns do not fit") as refusal:
        dataset.to_arrow(types={"c": "int64", "flag": "int64", "n": "int64"})
    assert refusal.value.reason == "COLUMN_TYPE_MISMATCH"
    (filtered,) = dataset.transform(lepton.steps.filter("n < 3"))
    assert filtered.to_arrow(types={"c": "string"})["c"].to_pylist() == ["1.50", " 5"]


def test_options_go_through_sdk_and_command_line_alike(
    connection: Connection, platform: Platform, tmp_path: Path
) -> None:
    path = tmp_path / "preise.txt.gz"
    path.write_bytes(gzip.compress("Kunde;Preis;Tag\n007;1.234,5;31.12.2020\nA;-;01.01.2021\n".encode("utf-16")))
    with pytest.warns(ImportNote, match="semicolon"):
        by_sdk = lepton.Dataset.import_file(
            path,
            name="preise-sdk",
            encoding="utf-16",
            decimal=",",
            thousands=".",
            missing={"Preis": ["-"]},
            types={"Kunde": "string"},
            dates={"Tag": "%d.%m.%Y"},
            zone="Europe/Berlin",
            connection=connection,
        )
    done = platform.lepton(
        *("data", "import", str(path), "--name", "preise-cli", "--encoding", "utf-16", "--decimal", ","),
        *("--thousands", ".", "--missing-in", "Preis=-", "--type", "Kunde=string", "--date", "Tag=%d.%m.%Y"),
        *("--zone", "Europe/Berlin", "--json"),
    )
    assert "note: the delimiter is a semicolon" in done.stderr
    by_cli = lepton.Dataset.get("preise-cli", connection=connection)
    assert by_cli.message.digest == by_sdk.message.digest
    rows = by_sdk.to_arrow().to_pylist()
    assert rows[0]["Kunde"] == "007"
    assert (rows[0]["Preis"], rows[1]["Preis"]) == (1234.5, None)
    assert str(rows[0]["Tag"]) == "2020-12-30 23:00:00+00:00"
    assert by_cli.notes == by_sdk.notes


def test_label_that_is_given_later_counts_and_the_newest_is_the_last(connection: Connection, tmp_path: Path) -> None:
    first, second = tmp_path / "a.csv", tmp_path / "b.csv"
    first.write_text("x,y\n1,a\n2,b\n")
    second.write_text("x,y\n3,a\n4,b\n")
    imported = [
        lepton.Dataset.import_file(path, name="again", label=label, connection=connection)
        for path, label in ((first, ""), (first, "y"), (first, "y"), (second, "y"), (first, "y"))
    ]
    assert [one.message.number for one in imported] == [1, 2, 2, 3, 4]
    assert [one.message.label for one in imported] == ["", "y", "y", "y", "y"]
    newest = lepton.Dataset.get("again", connection=connection)
    assert newest.ref == "again@4"
    assert newest.to_pandas()["x"].tolist() == [1, 2]


def test_later_files_follow_the_datasets_types_or_another_version(connection: Connection, tmp_path: Path) -> None:
    train, test = tmp_path / "tr.csv", tmp_path / "te.csv"
    train.write_text("c,x\n007,1\nA12,2\n")
    test.write_text("c,x\n7,1\n8,2\n")
    lepton.Dataset.import_file(train, name="tr", connection=connection)
    with pytest.warns(ImportNote, match="as in tr@1"):
        follows = lepton.Dataset.import_file(test, name="tr", connection=connection)
    like = lepton.Dataset.import_file(test, like="tr@1", connection=connection)
    assert follows.to_arrow()["c"].to_pylist() == like.to_arrow()["c"].to_pylist() == ["7", "8"]
    test.write_text("c,x\n7,one\n")
    with pytest.raises(errors.InvalidArgument) as refusal:
        lepton.Dataset.import_file(test, like="tr", connection=connection)
    assert refusal.value.reason == "COLUMN_TYPE_MISMATCH"
    with pytest.raises(errors.InvalidArgument, match="delimitr"):
        lepton.Dataset.import_file(test, delimitr=";", connection=connection)  # type: ignore[call-arg]


def test_other_options_correct_what_was_text_before(connection: Connection, tmp_path: Path) -> None:
    path = tmp_path / "komma.csv"
    path.write_text("p;q\n1,5;x\n")
    first = lepton.Dataset.import_file(path, connection=connection)
    second = lepton.Dataset.import_file(path, decimal=",", connection=connection)
    third = lepton.Dataset.import_file(path, decimal=",", connection=connection)
    assert [one.message.columns[0].arrow_type for one in (first, second, third)] == ["string", "double", "double"]
    assert [one.message.number for one in (first, second, third)] == [1, 2, 2]


def test_dates_of_texts_are_parsed_by_a_step(connection: Connection, platform: Platform, tmp_path: Path) -> None:
    path = tmp_path / "days.csv"
    path.write_text("day,n\n01/02/2020,1\n02/02/2020,2\n")
    with pytest.warns(ImportNote, match="are ambiguous"):
        dataset = lepton.Dataset.import_file(path, connection=connection)
    (parsed,) = dataset.transform(lepton.steps.parse_dates("day", "%d/%m/%Y"))
    assert [str(one) for one in parsed.to_arrow()["day"].to_pylist()] == ["2020-02-01 00:00:00", "2020-02-02 00:00:00"]
    with pytest.raises(errors.InvalidArgument, match="are ambiguous") as refusal:
        dataset.transform(lepton.steps.parse_dates("day"))
    assert refusal.value.reason == "AMBIGUOUS_DATES"
    with pytest.raises(errors.InvalidArgument, match="data row 1") as refusal:
        dataset.transform(lepton.steps.parse_dates("day", "%Y"))
    assert refusal.value.reason == "VALUE_DOES_NOT_CONVERT"


def test_frames_and_load_data_take_the_options_too(connection: Connection, tmp_path: Path) -> None:
    path = tmp_path / "loaded.csv"
    path.write_text("zip|n\n00501|1\n02134|?\n")
    with pytest.warns(ImportNote, match="pipe"):
        frame = lepton.load_data(path, types={"zip": "int64"}, missing=["?"], connection=connection)
    assert frame["zip"].tolist() == [501, 2134]
    assert frame["n"].isna().tolist() == [False, True]
    rows = pd.DataFrame({"code": ["1", "x"], "n": [1.5, 2.0]})
    kept = lepton.Dataset.import_frame(rows, "framed", types={"n": "string"}, connection=connection)
    assert kept.to_arrow()["n"].to_pylist() == ["1.5", "2"]
    with pytest.raises(errors.InvalidArgument, match="2 columns do not fit"):
        lepton.Dataset.import_frame(rows, "framed", types={"n": "int64", "code": "int64"}, connection=connection)
