"""`lepton init`, `up`, `down`, `status` and `logs`: the embedded platform."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from lepton import errors, progress
from lepton.cli.output import Json, print_json, show_done, show_rows
from lepton.embedded.home import Home
from lepton.embedded.processes import DEFAULT_BASE_PORT

_START_SECONDS = 60.0
_STOP_SECONDS = 60.0
_LOOK_SECONDS = 0.1


def register(root: typer.Typer) -> None:
    """Add the commands."""
    root.command(epilog="Example: lepton init --host models.example.org")(init)
    root.command(epilog="Example: lepton up --detach --inference-workers 2")(up)
    root.command(epilog="Example: lepton down")(down)
    root.command(epilog="Example: lepton status --json")(status)
    root.command(epilog="Example: lepton logs training-worker-1 --follow")(logs)


def init(
    host: Annotated[
        list[str] | None, typer.Option(help="A further name or address that clients use; may be repeated.")
    ] = None,
    directory: Annotated[
        Path | None, typer.Option(help="Where to write; by default LEPTON_HOME/credentials. For compose: ./credentials")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make the CA, certificates, keys and the admin token; `up` does it by itself where they lack."""
    from lepton.embedded.credentials import create_credentials

    target = directory or Home.find().credentials
    try:
        create_credentials(target.absolute(), host or ())
    except FileExistsError as error:
        raise errors.AlreadyExists(f"{error}: remove it to start anew, which ends every token and stored key") from None
    show_done(f"wrote {target}", as_json, credentials=str(target), token=str(target / "token"))


def up(
    base_port: Annotated[int, typer.Option(help="The first port; see README for the offsets.", min=1, max=65000)] = (
        DEFAULT_BASE_PORT
    ),
    inference_workers: Annotated[
        int,
        typer.Option(help="Processes that serve predictions on one port; 0 for one a core, at most 4.", min=0, max=64),
    ] = 0,
    training_workers: Annotated[int, typer.Option(help="Processes that run jobs.", min=1, max=64)] = 1,
    detach: Annotated[bool, typer.Option("--detach", help="Return once everything is healthy.")] = False,
    as_json: Json = False,
) -> None:
    """Start the platform on this machine and wait until it is healthy; Ctrl-C stops it, unless detached."""
    from lepton.embedded.credentials import create_credentials
    from lepton.embedded.supervisor import is_running

    home = Home.find()
    home.make()
    if is_running(home):
        raise errors.AlreadyExists(f"a platform already runs in {home.root}: see `lepton status`, or `lepton down`")
    if not home.credentials.exists():
        create_credentials(home.credentials)
    started = time.monotonic()
    supervisor = _start_supervisor(home, base_port, inference_workers or min(os.cpu_count() or 1, 4), training_workers)
    try:
        _wait_until_up(home, supervisor)
    except BaseException:
        supervisor.terminate()
        supervisor.wait()
        raise
    seconds = round(time.monotonic() - started, 2)
    show_done(
        f"the platform is up ({seconds:g} s): gRPC inference at 127.0.0.1:{base_port + 1}, token in {home.token}",
        as_json,
        seconds=seconds,
        base_port=base_port,
        token=str(home.token),
        ca=str(home.ca),
    )
    if not detach:
        _hold(supervisor)


def down(as_json: Json = False) -> None:
    """Stop the platform in order; nothing is lost."""
    from lepton.embedded.supervisor import is_running

    home = Home.find()
    if not is_running(home):
        raise errors.FailedPrecondition(f"no platform runs in {home.root}")
    if supervisor := _supervisor_of(home):
        os.kill(supervisor, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_SECONDS
    while is_running(home):
        if time.monotonic() > deadline:
            raise errors.DeadlineExceeded(f"the platform still runs after {_STOP_SECONDS:g} s: see {home.logs}")
        time.sleep(0.05)
    show_done("the platform is down", as_json, down=True)


def status(as_json: Json = False) -> None:
    """Show every process with its address, pid and health; exit code 1 unless all are healthy."""
    home = Home.find()
    services = _services(home)
    if as_json:
        print_json({"services": services, "ca": str(home.ca), "token": str(home.token)})
    else:
        rows = [(name, *entry.values()) for name, entry in services.items()]
        show_rows(["process", "address", "pid", "healthy"], rows) if rows else typer.echo("no platform runs here")
    if not services or not all(entry["healthy"] for entry in services.values()):
        raise typer.Exit(1)


def logs(
    process: Annotated[str, typer.Argument(help="The process, as `lepton status` names it; empty for all.")] = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines come.")] = False,
    lines: Annotated[int, typer.Option(help="Last lines to print of each.", min=0)] = 20,
    as_json: Json = False,
) -> None:
    """Print the processes' JSON logs."""
    home = Home.find()
    paths = [home.logs / f"{process}.log"] if process else sorted(home.logs.glob("*.log"))
    if process and not paths[0].exists():
        known = ", ".join(sorted(path.stem for path in home.logs.glob("*.log")))
        raise errors.NotFound(f"no log of {process!r}: there are {known or 'none yet'}")
    with ExitStack() as stack:
        files = [stack.enter_context(open(path, errors="replace")) for path in paths]
        for path, line in _lines(list(zip(paths, files, strict=True)), lines, follow):
            # Processes write JSON already; --json adds which process wrote it.
            typer.echo(f'{{"process": "{path.stem}", "line": {line}}}' if as_json and line.startswith("{") else line)


def _start_supervisor(
    home: Home, base_port: int, inference_workers: int, training_workers: int
) -> subprocess.Popen[bytes]:
    command = [
        *(sys.executable, "-m", "lepton.embedded.supervisor", "--base-port", str(base_port)),
        *("--inference-workers", str(inference_workers), "--training-workers", str(training_workers)),
    ]
    with open(home.logs / "supervisor.log", "ab") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "LEPTON_HOME": str(home.root)},
            start_new_session=True,
        )


def _wait_until_up(home: Home, supervisor: subprocess.Popen[bytes]) -> None:
    """Wait for all processes to answer their health checks, showing how many do."""
    deadline = time.monotonic() + _START_SECONDS
    # Who answered once is not asked again: handshakes would take the processor from those that still start.
    healthy: set[str] = set()
    with progress.share("starting") as show:
        while True:
            # What a supervisor that was killed left in the file says nothing of this start.
            services = _services(home, healthy) if _supervisor_of(home) == supervisor.pid else {}
            late = [name for name, entry in services.items() if not entry["healthy"]]
            healthy = set(services) - set(late)
            show(1 - len(late) / max(len(services), 1), "")
            if services and not late:
                return
            if supervisor.poll() is not None:
                raise errors.Unavailable(f"the platform did not start: see {home.logs / 'supervisor.log'}")
            if time.monotonic() > deadline:
                raise errors.DeadlineExceeded(
                    f"not healthy after {_START_SECONDS:g} s: {', '.join(late)}; see {home.logs}"
                )
            time.sleep(_LOOK_SECONDS)


def _hold(supervisor: subprocess.Popen[bytes]) -> None:
    """Stay in the foreground until the supervisor ends or Ctrl-C ends it."""
    signal.signal(signal.SIGTERM, lambda *_: supervisor.terminate())
    try:
        supervisor.wait()
    except KeyboardInterrupt:
        typer.echo("stopping")
        supervisor.terminate()
        supervisor.wait()


def _supervisor_of(home: Home) -> int:
    """Return the pid of the supervisor that wrote the state; 0 for none."""
    from lepton.embedded.supervisor import read_state

    return int(str((read_state(home) or {}).get("supervisor", 0)))


def _services(home: Home, known: Collection[str] = ()) -> dict[str, dict[str, Any]]:
    """Return address, pid and health of each process that the supervisor recorded; those known are healthy unasked."""
    from lepton.embedded.supervisor import read_state

    state: Any = read_state(home) or {}
    recorded = state.get("services", {})
    asked = {name: entry for name, entry in recorded.items() if name not in known}
    answers = asyncio.run(_health(home, list(asked.values()))) if asked else []
    healthy = {**dict.fromkeys(known, True), **dict(zip(asked, answers, strict=True))}
    return {
        name: {"address": entry["address"], "pid": entry["pid"], "healthy": healthy[name]}
        for name, entry in recorded.items()
    }


async def _health(home: Home, entries: list[dict[str, Any]]) -> list[bool]:
    from lepton.embedded.health import credentials_of, is_healthy

    credentials = credentials_of(home)
    asked = (is_healthy(entry["health_address"], credentials if entry["is_grpc"] else None, 1.0) for entry in entries)
    return list(await asyncio.gather(*asked))


def _lines(files: list[tuple[Path, TextIO]], lines: int, follow: bool) -> Iterator[tuple[Path, str]]:
    for path, file in files:
        for line in file.readlines()[-lines:] if lines else ():
            yield path, line.rstrip("\n")
    while follow:
        for path, file in files:
            while line := file.readline():
                yield path, line.rstrip("\n")
        time.sleep(0.2)
