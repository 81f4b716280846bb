"""A process with a job's libraries loaded, which forks each job's child: a child then begins within milliseconds."""

import socket
import subprocess
import sys
from collections.abc import Mapping
from typing import Self

_STDERR = 2


class ForkServer:
    """Forks children, from a process that never sees a job; leaving ends it, and with it whatever it forked.

    It loads what every job needs when it starts, and what a family needs before it forks the first job of that family:
    the libraries of networks take seconds to load and 300 MB.

    Args:
        environment: what libraries need when they load. What a job needs is told to its child alone.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)
        self._process: subprocess.Popen[bytes] | None = None
        self._requests: socket.socket | None = None

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    @property
    def pid(self) -> int | None:
        """The server's process id; None before it starts."""
        return self._process.pid if self._process is not None else None

    def fork(self, family: str) -> tuple[socket.socket, socket.socket]:
        """Ask for a child; return where one talks with it, and where its process id and then its exit code are told.

        Both end with the child; where the second ends without a code, the server died, and the child with it. The
        child's log goes where this process's does.

        Args:
            family: whose libraries it needs; empty for none.

        Raises:
            OSError: no process can be started.
        """
        talk, childs_talk = socket.socketpair()
        status, servers_status = socket.socketpair()
        request, given = f"{family}\n".encode(), [childs_talk.fileno(), servers_status.fileno(), _STDERR]
        try:
            with childs_talk, servers_status:
                try:
                    socket.send_fds(self._running(), [request], given)
                except ConnectionError:
                    # It died, for want of memory say: another one.
                    self._close()
                    socket.send_fds(self._running(), [request], given)
        except OSError:
            talk.close()
            status.close()
            raise
        return talk, status

    def _running(self) -> socket.socket:
        if self._requests is None:
            self._start()
        assert self._requests is not None
        return self._requests

    def _start(self) -> None:
        ours, its = socket.socketpair()
        with its:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "services.training.child", str(its.fileno())],
                stdin=subprocess.DEVNULL,
                # Whatever libraries print goes to the log.
                stdout=_STDERR,
                env=self._environment,
                pass_fds=[its.fileno()],
                start_new_session=True,
            )
        self._requests = ours

    def _close(self) -> None:
        if self._requests is not None:
            self._requests.close()
            self._requests = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
