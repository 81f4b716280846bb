"""Runs a command beside busy loops: `python -m tests.support.busy 6 make test`. Its exit code is the command's."""

import multiprocessing
import os
import subprocess
import sys
import time


def _spin(parent: int) -> None:
    # A loop whose parent was killed ends by itself.
    while os.getppid() == parent:
        ends = time.monotonic() + 1.0
        while time.monotonic() < ends:
            pass


def main(count: int, command: list[str]) -> int:
    """Return the exit code of a command that ran beside so many loops; none of them outlives it."""
    loops = [multiprocessing.Process(target=_spin, args=(os.getpid(),), daemon=True) for _ in range(count)]
    for loop in loops:
        loop.start()
    try:
        return subprocess.run(command, check=False).returncode
    finally:
        for loop in loops:
            loop.kill()


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
