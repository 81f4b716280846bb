"""A file much larger than what the data service may hold is imported; a disk that fills up loses nothing."""

import resource
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from lepton import errors
from lepton.datasets import Dataset
from tests.support.platform import Platform, start_platform

_ROWS = 2_000_000
_LINE = "{0},{1:.6f},row number {0},{2}\n"
# How much more than for the few rows the many may take: buffers that were not all full.
_MORE_BYTES = 160 << 20


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A platform whose data service is put under pressure."""
    running = start_platform(tmp_path_factory.mktemp("import"))
    yield running
    running.lepton("down")


@pytest.fixture
def data_process(own: Platform) -> psutil.Process:
    return psutil.Process(own.status()["data"]["pid"])


@pytest.mark.slow
def test_ten_times_the_rows_take_the_same_memory(own: Platform, data_process: psutil.Process, tmp_path: Path) -> None:
    few, many = tmp_path / "few.csv", tmp_path / "many.csv"
    _write(few, _ROWS)
    _write(many, 10 * _ROWS)
    assert many.stat().st_size > 5 * _MORE_BYTES
    Dataset.import_file(few, name="few", connection=own.connect())
    peak = _peak_bytes(data_process)
    dataset = Dataset.import_file(many, name="many", connection=own.connect())
    assert dataset.message.rows == 10 * _ROWS
    assert _peak_bytes(data_process) - peak < _MORE_BYTES


def test_a_full_disk_is_told_and_leaves_nothing(own: Platform, data_process: psutil.Process, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("a,b\n" + "".join(f"{i},{i * 7919 % 10007}\n" for i in range(200_000)))
    connection = own.connect()
    objects = own.home / "objects" / "data"
    Dataset.import_file(path, name="before", connection=connection)
    stored = _files(objects)
    # Writes beyond a limit fail as on a full disk.
    _, hard = data_process.rlimit(resource.RLIMIT_FSIZE)
    data_process.rlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(errors.ResourceExhausted, match="full"):
            Dataset.import_file(path, name="during", connection=connection)
    finally:
        data_process.rlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert _files(objects) == stored
    with pytest.raises(errors.NotFound):
        Dataset.get("during", connection=connection)
    assert Dataset.import_file(path, name="after", connection=connection).message.rows == 200_000


def _write(path: Path, rows: int) -> None:
    with path.open("w") as file:
        file.write("id,share,text,kind\n")
        for start in range(0, rows, 10_000):
            file.writelines(_LINE.format(i, i / 7, "abc"[i % 3]) for i in range(start, start + 10_000))


def _peak_bytes(process: psutil.Process) -> int:
    status = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM"))


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
