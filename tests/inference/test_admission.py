"""One limit over the processes of a port; what a killed one held is free again."""

import subprocess
import sys
from pathlib import Path

import pytest

from servicekit.errors import ResourceExhausted
from services.inference.serving.admission import Admission

_HOLD = """
import sys
from pathlib import Path
from services.inference.serving.admission import Admission
admission = Admission(10, Path(sys.argv[1]))
for _ in range(3):
    admission.enter()
print("entered", flush=True)
sys.stdin.read()
"""


def test_limit_holds_over_two_processes_and_a_killed_one_frees_its_share(tmp_path: Path) -> None:
    path = tmp_path / "admission"
    admission = Admission(4, path)
    command = [sys.executable, "-c", _HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "entered\n"
        admission.enter()
        with pytest.raises(ResourceExhausted, match="4 requests are under way, the limit is 4"):
            admission.enter()
        other.kill()
        other.wait()
    for _ in range(3):
        admission.enter()
    with pytest.raises(ResourceExhausted):
        admission.enter()
    admission.close()


def test_process_that_leaves_takes_its_count_along(tmp_path: Path) -> None:
    first, second = Admission(2, tmp_path / "a"), Admission(2, tmp_path / "a")
    first.enter()
    first.enter()
    with pytest.raises(ResourceExhausted):
        second.enter()
    first.close()
    second.enter()
    second.leave()
    assert second.own == 0
    second.close()
