"""Files are imported by what the user says of them, through the SDK and the command line alike."""

from pathlib import Path

import pytest

import lepton
from lepton import errors
from lepton.connection import Connection
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
