"""`python -m services.registry.verifier MEMORY_BYTES CPU_SECONDS`: see the package."""

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
from typing import Any

from services.registry.verifier.refusal import Refused, out_of_memory
from services.registry.verifier.weights import check_files

_PR_SET_PDEATHSIG = 1
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_PIECE_BYTES = 8 << 20


def main() -> None:
    """Answer {"digests", "inputs", "outputs", ...}, {"digests"} or {"reason", "message"}, one line of JSON."""
    limit(int(sys.argv[1]), int(sys.argv[2]))
    # What libraries print belongs to nobody: stdout is the answer's alone.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    answer: dict[str, object] = {}
    try:
        asked = json.loads(sys.stdin.buffer.readline())
        if asked["kind"] == "weights":
            answer["digests"] = check_files(asked["files"], sys.stdin.buffer)
        else:
            # Only now: NumPy starts threads, and a process with threads cannot leave its namespaces.
            from services.registry.verifier.graph import digests, try_model

            files = {item["name"]: _read(int(item["size_bytes"])) for item in asked["files"]}
            answer["digests"] = digests(files)
            answer |= try_model(files, asked["examples"])
    except MemoryError:
        answer |= _as_answer(out_of_memory("the model"))
    except Refused as refused:
        answer |= _as_answer(refused)
    with out:
        json.dump(answer, out)


def _read(size: int) -> bytearray:
    """Return the next bytes of stdin: what came, where it ends too early."""
    # In place: files may be so large that a second copy would be too much.
    source: Any = sys.stdin.buffer
    content, place = bytearray(size), 0
    while place < size and (count := source.readinto(memoryview(content)[place : place + _PIECE_BYTES])):
        place += count
    return content[:place] if place < size else content


def limit(memory_bytes: int, cpu_seconds: int) -> None:
    """Give up the network, where the host allows it, and everything beyond a share of memory and time."""
    with contextlib.suppress(OSError):
        libc = ctypes.CDLL(None, use_errno=True)
        # A namespace without interfaces has no network.
        libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET)
        # A registry that is killed takes its child along. Only now: new credentials could have reset it.
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    # The second, hard limit kills; the first one's signal tells why.
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def _as_answer(refused: Refused) -> dict[str, object]:
    return {"reason": refused.reason, "message": refused.message}


if __name__ == "__main__":
    main()
