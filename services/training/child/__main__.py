"""`python -m services.training.child FD`: loads libraries, and forks a child for each job that is asked for there."""

import asyncio
import contextlib
import ctypes
import gc
import json
import os
import resource
import select
import signal
import socket
import sys
import traceback
from collections.abc import Mapping
from typing import Any

import psutil

_PR_SET_PDEATHSIG = 1
# What libraries map beside what they write to.
_HEADROOM_BYTES = 2 << 30
_REQUEST_BYTES, _FILES = 1024, 3


def main() -> None:
    """Fork children until the worker goes; in each of them, run one job."""
    if not _dies_with(os.getppid()):
        return
    _load_libraries()
    talk = Server(socket.socket(fileno=int(sys.argv[1]))).serve()
    if talk is not None:
        _run_job(talk)


class Server:
    """Forks a child for each request, and tells of each its process id and then its exit code.

    Args:
        requests: a request is a family on one line, with three files: the child's talk, where it is told of, its log.
    """

    def __init__(self, requests: socket.socket) -> None:
        self._requests = requests
        # By process id: where a child is told of.
        self._told: dict[int, socket.socket] = {}
        self._woken, self._wakes = socket.socketpair()

    def serve(self) -> socket.socket | None:
        """Serve until the worker goes; in a child, return what it talks by."""
        # Python runs it between two steps of whatever is done here, also while libraries load.
        signal.signal(signal.SIGCHLD, lambda *_: self._reap())
        while True:
            self._wait_for_request()
            request, files, _, _ = socket.recv_fds(self._requests, _REQUEST_BYTES, _FILES)
            if not request:
                return None
            _load_family(request.decode().strip())
            try:
                if len(files) != _FILES:
                    raise OSError("a request lacks files: this process may have too many open")
                talk = self._fork(*files)
            except OSError:
                # No process to be had, say. The worker hears nothing of a child, and the others go on.
                traceback.print_exc()
                for file in files:
                    os.close(file)
                continue
            if talk is not None:
                return talk

    def _wait_for_request(self) -> None:
        """Return once a request can be read.

        A signal that comes just before a blocking call does not end that call, and its handler would run at the next
        request only. So the signal also writes into a socket, which ends the wait, and the handler runs.
        """
        self._wakes.setblocking(False)
        signal.set_wakeup_fd(self._wakes.fileno(), warn_on_full_buffer=False)
        waiting = select.poll()
        for awaited in (self._requests, self._woken):
            waiting.register(awaited, select.POLLIN)
        while True:
            ready = {file for file, _ in waiting.poll()}
            if self._woken.fileno() in ready:
                self._woken.recv(_REQUEST_BYTES)
            if self._requests.fileno() in ready:
                return

    def _fork(self, talk: int, told: int, log: int) -> socket.socket | None:
        """Fork a child; in it, return what it talks by.

        Raises:
            OSError: there is no child.
        """
        # What is there stays as it is, and so is not copied for each child.
        gc.collect()
        gc.freeze()
        server = os.getpid()
        # The end of a child that is not known yet would be missed.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        try:
            pid = os.fork()
            if pid:
                # Here, too: a child is killed by its group, which must be there once its id is told.
                with contextlib.suppress(OSError):
                    os.setpgid(pid, pid)
                os.close(talk)
                os.close(log)
                self._told[pid] = socket.socket(fileno=told)
                _tell(self._told[pid], pid)
                return None
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.set_wakeup_fd(-1)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        os.setpgid(0, 0)
        if not _dies_with(server):
            os._exit(1)
        for another in (*self._told.values(), self._requests, self._woken, self._wakes):
            another.close()
        os.close(told)
        # What it talks by is for the worker; whatever libraries print goes to the log.
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        return socket.socket(fileno=talk)

    def _reap(self) -> None:
        # Only its own: libraries may start processes while they load, and wait for those themselves. Another child may
        # end in the middle of this: it may run twice at once.
        for pid in list(self._told):
            with contextlib.suppress(ChildProcessError):
                ended, status = os.waitpid(pid, os.WNOHANG)
                told = self._told.pop(pid, None) if ended else None
                if told is not None:
                    with told:
                        _tell(told, os.waitstatus_to_exitcode(status))


def _tell(told: socket.socket, number: int) -> None:
    # A worker that no longer listens left the child to itself.
    with contextlib.suppress(OSError):
        told.sendall(f"{number}\n".encode())


def _dies_with(parent: int) -> bool:
    """Have this process killed when its parent dies; return whether that lives yet."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    return os.getppid() == parent


def _load_libraries() -> None:
    """Import what every job needs."""
    import pyarrow

    from services.training.domain.families.absent_libraries import absent
    from services.training.domain.families.lightgbm_library import load_lightgbm

    with absent("pandas"):
        # pyarrow looks for it once, for conversions that no job makes: half a second and 40 MB.
        pyarrow.scalar(None)
    load_lightgbm()
    # Not ONNX Runtime: it starts a thread, which no child would have.
    import services.training.child.run  # noqa: F401


def _load_family(family: str) -> None:
    """Import what a family's jobs need and others do not, once."""
    from services.training.domain.families.libraries import load_libraries

    try:
        load_libraries(family)
    except Exception:
        # Other families' jobs go on; one of this family says what is missing.
        traceback.print_exc()


def _run_job(talk: socket.socket) -> None:
    """Run the job of which the worker tells: its environment, a line, and its spec, another one."""
    from services.training.child.run import run_job

    with talk, talk.makefile("r", encoding="utf-8") as given, talk.makefile("w", encoding="utf-8") as told:
        environment, spec = given.readline(), given.readline()
        if not spec:
            return
        os.environ.clear()
        os.environ.update(json.loads(environment))
        job = json.loads(spec)
        _limit(job)

        def tell(message: Mapping[str, Any]) -> None:
            print(json.dumps(message), file=told, flush=True)

        asyncio.run(run_job(job, tell))


def _limit(spec: Mapping[str, Any]) -> None:
    # Not the address space, of which libraries reserve far more than they use: what is written to counts. What is there
    # already is the server's.
    taken_bytes = getattr(psutil.Process().memory_info(), "data", 0)
    memory_bytes = taken_bytes + int(spec["memory_bytes"]) + _HEADROOM_BYTES
    most = resource.getrlimit(resource.RLIMIT_DATA)[1]
    if most == resource.RLIM_INFINITY or memory_bytes < most:
        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))


if __name__ == "__main__":
    main()
