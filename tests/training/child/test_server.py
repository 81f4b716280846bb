"""The process that forks the children of jobs."""

import subprocess
import sys

_LIBRARY_THAT_STARTS_PROCESSES = """
import signal, socket, subprocess
import psutil
from services.training.child.__main__ import Server

server = Server(socket.socketpair()[0])
signal.signal(signal.SIGCHLD, lambda *_: server._reap())
process = subprocess.Popen(["false"])
while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
    pass
assert process.wait() == 1
"""


def test_processes_that_libraries_start_while_they_load_are_left_to_them() -> None:
    subprocess.run([sys.executable, "-c", _LIBRARY_THAT_STARTS_PROCESSES], check=True, timeout=300)
