"""`python -m services.inference.plans FOLDER`: reads a question on stdin, answers on stdout; see `talk`.

Args:
    FOLDER: for graphs in the making; over it a file system of the process's own is mounted where the host allows it.
"""

import contextlib
import ctypes
import os
import resource
import signal
import sys
import warnings

_PR_SET_PDEATHSIG = 1
_CLONE_NEWNS = 0x00020000
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_LOWEST_PRIORITY = 19
_MEMORY_FOLDER = "/dev/shm/"  # noqa: S108  (the worker made a folder of its own in it)


def main() -> None:
    """Answer one question."""
    parent = os.getppid()
    os.nice(_LOWEST_PRIORITY)
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None, use_errno=True)
        _part(libc, sys.argv[1])
        # A worker that is killed takes its child along. Only now: new credentials could have reset it.
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # What libraries print belongs to nobody: stdout is the answer's alone.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    warnings.simplefilter("ignore")
    from services.inference.plans.talk import answer

    folder = sys.argv[1]
    with out:
        answer(sys.stdin.buffer, out, may_build=os.path.ismount(folder) or folder.startswith(_MEMORY_FOLDER))


def _part(libc: ctypes.CDLL, folder: str) -> None:
    """Give up the network, and see the folder alone: what is mounted there in memory goes with the process."""
    user, group = os.geteuid(), os.getegid()
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS | _CLONE_NEWNET) != 0:
        return
    with contextlib.suppress(OSError):
        for name, content in (
            ("setgroups", "deny"),
            ("uid_map", f"{user} {user} 1"),
            ("gid_map", f"{group} {group} 1"),
        ):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(content)
        libc.mount(b"tmpfs", folder.encode(), b"tmpfs", 0, b"mode=0700")


if __name__ == "__main__":
    main()
