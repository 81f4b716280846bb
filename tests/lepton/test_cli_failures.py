"""A command that fails prints one line: of user files, of arguments, of what nobody foresaw."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from lepton import errors
from lepton.cli.failures import one_line
from lepton.cli.user_files import check_output, reading


def _lepton(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    full = {**os.environ, "LEPTON_HOST": "127.0.0.1:1", "LEPTON_TOKEN": "t", "LEPTON_CA": __file__, **environment}
    return subprocess.run(
        [sys.executable, "-m", "lepton.cli", *arguments],
        env=full,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("ragged.csv", b"a,b\n1,2\n3,4,5\n", "Expected 2 fields in line 3"),
        ("empty.csv", b"", "No columns"),
        ("latin.csv", b"a\ncaf\xe9\n", "can't decode"),
        ("bad.parquet", b"PAR1 no PAR1", "cannot read"),
        ("bad.jsonl", b'{"a": 1}\n{"a": \n', "cannot read"),
    ],
)
def test_unreadable_file_is_one_line_with_its_name(tmp_path: Path, name: str, content: bytes, match: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    readers = {".csv": pd.read_csv, ".parquet": pd.read_parquet, ".jsonl": lambda file: pd.read_json(file, lines=True)}
    with pytest.raises(errors.InvalidArgument, match=match) as refused, reading(path):
        readers[path.suffix](path)  # type: ignore[operator]
    assert refused.value.message.startswith(f"cannot read {path}: ")
    assert "\n" not in refused.value.message


def test_output_is_checked_before_the_work(tmp_path: Path) -> None:
    check_output(tmp_path / "new.csv")
    with pytest.raises(errors.InvalidArgument, match="it is a folder"):
        check_output(tmp_path)
    with pytest.raises(errors.InvalidArgument, match="there is no folder"):
        check_output(tmp_path / "missing" / "a.csv")


def test_any_error_is_one_line() -> None:
    assert one_line(errors.NotFound("no model 'x'")) == "no model 'x'"
    assert one_line(errors.MissingColumn("no column 'x'")) == "no column 'x'"
    assert one_line(FileNotFoundError(2, "No such file or directory", "x.csv")) == "x.csv: No such file or directory"
    assert one_line(OSError(28, "No space left on device")) == "No space left on device"
    assert one_line(ValueError("a\nb")) == "ValueError: a (set LEPTON_DEBUG=1 to see where)"
    assert one_line(MemoryError()) == "MemoryError (set LEPTON_DEBUG=1 to see where)"


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("jobs", "list", "--state", "DONE"), "expected one of QUEUED"),
        (("data", "transform", "x@1", "--drop-missing", "--stratify", "y", "--seed", "3"), "--stratify, --seed says"),
        (("data", "transform", "x@1", "--fill", "a"), "expected name=value"),
        (("train", "mlp", "x@1", "--watch", "--detach"), "give one of them"),
        (("deployments", "canary", "x", "--step", "5"), "--step needs a VERSION"),
        (("deployments", "shadow", "x", "--percent", "5"), "--percent needs a VERSION"),
        (("deployments", "split", "x", "x@2=40", "x@2=30"), "x@2 has two shares"),
        (("models", "download", "x@1", "--all", "--artifact", "a"), "give one of the two"),
        (("models", "download", "x@1", "--output", "/"), "it is a folder"),
    ],
)
def test_unused_and_unknown_options_are_refused(arguments: tuple[str, ...], match: str) -> None:
    failed = _lepton(*arguments)
    assert failed.returncode == 1, failed
    assert match in failed.stderr
    assert failed.stderr.startswith("error: ")
    assert len(failed.stderr.splitlines()) == 1


def test_traceback_is_shown_on_demand_only() -> None:
    failed = _lepton("jobs", "list", "--state", "DONE", LEPTON_DEBUG="1")
    assert "Traceback" in failed.stderr
