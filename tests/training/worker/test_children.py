"""Child processes: they begin at once, see nothing that they need not, and never outlive their worker."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest

from services.training.settings import WorkerSettings
from services.training.worker.children import Child, Children, child_environment, libraries_environment
from services.training.worker.fork_server import ForkServer
from tests.support.credentials import environment_of
from tests.training.house import is_running, until


@pytest.fixture
def settings(platform_files: Path) -> WorkerSettings:
    return WorkerSettings.model_validate(environment_of(platform_files, "training"))


@pytest.fixture
def server() -> Iterator[ForkServer]:
    with ForkServer(libraries_environment()) as running:
        yield running


@pytest.fixture
async def children(server: ForkServer, settings: WorkerSettings) -> AsyncIterator[Children]:
    async with Children(server, child_environment(settings)) as running:
        yield running


def _server_of(child: Child) -> int:
    parent = psutil.Process(child.pid).parent()
    assert parent is not None
    return parent.pid


def _threads(pid: int) -> list[str]:
    names = (Path("/proc") / str(pid) / "task" / str(thread.id) / "comm" for thread in psutil.Process(pid).threads())
    return sorted(name.read_text().strip() for name in names)


async def test_children_tell_how_they_end(children: Children) -> None:
    first, second = [await children.take(), await children.take()]
    assert _server_of(first) == _server_of(second)
    await first.stop(0.0)
    assert await first.wait() == -signal.SIGKILL
    assert second.is_alive
    os.kill(second.pid, signal.SIGTERM)
    assert await second.wait() == -signal.SIGTERM
    await second.stop(0.0)
    assert not is_running(first.pid)
    assert not is_running(second.pid)


async def test_one_that_is_given_no_job_ends(children: Children) -> None:
    child = await children.take()
    children.part(child, 20.0)
    child.close()
    assert await child.wait() == 0


async def test_one_whose_job_is_no_job_ends_with_an_error(
    children: Children, capfd: pytest.CaptureFixture[str]
) -> None:
    child = await children.take()
    assert [line async for line in child.run(b"nonsense")] == []
    assert await child.wait() == 1
    await child.stop(0.0)
    assert "JSONDecodeError" in capfd.readouterr().err


async def test_server_that_dies_takes_its_children_along_and_is_replaced(children: Children) -> None:
    first = await children.take()
    os.kill(_server_of(first), signal.SIGKILL)
    assert await first.wait() == -signal.SIGKILL
    await until(lambda: not is_running(first.pid), "its end")
    await first.stop(0.0)
    second = await children.take()
    assert second.is_alive
    await second.stop(0.0)


async def test_server_that_dies_while_it_is_asked_is_replaced(server: ForkServer, children: Children) -> None:
    # It loads its libraries yet, and dies before it can answer.
    assert server.pid is not None
    os.kill(server.pid, signal.SIGSTOP)
    asking = asyncio.create_task(children.take())
    await asyncio.sleep(0.1)
    os.kill(server.pid, signal.SIGKILL)
    child = await asking
    assert child.is_alive
    await child.stop(0.0)


async def test_server_that_can_fork_no_more_keeps_the_children_that_it_has(children: Children) -> None:
    first = await children.take()
    server = psutil.Process(_server_of(first))
    soft, hard = server.rlimit(psutil.RLIMIT_NOFILE)
    server.rlimit(psutil.RLIMIT_NOFILE, (server.num_fds(), hard))
    with pytest.raises(ChildProcessError, match="no process for a job"):
        await children.take()
    server.rlimit(psutil.RLIMIT_NOFILE, (soft, hard))
    second = await children.take()
    assert _server_of(second) == server.pid
    assert first.is_alive
    for child in (first, second):
        await child.stop(0.0)


async def test_what_a_child_takes_is_its_own(children: Children) -> None:
    child = await children.take("mlp")
    # Libraries of 300 MB are the server's.
    assert child.memory_bytes() < 64 << 20
    await child.stop(0.0)
    assert child.memory_bytes() == 0


async def test_libraries_of_a_family_are_loaded_once_without_a_thread(children: Children) -> None:
    # Of a process that forks, its child has only the one thread that forked.
    first = await children.take("transformer")
    assert set(_threads(_server_of(first))) <= {"python", "python3", "jemalloc_bg_thd"}
    assert sum(name.startswith("python") for name in _threads(_server_of(first))) == 1
    second = await children.take("transformer")
    assert _server_of(second) == _server_of(first)
    assert any("torch" in entry.path for entry in psutil.Process(second.pid).memory_maps())
    for child in (first, second):
        await child.stop(0.0)


async def test_child_sees_no_database_no_password_and_no_key(
    settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = ("LEPTON_DATABASE_URL", "LEPTON_NATS_PASSWORD", "LEPTON_KEY_ENCRYPTION_KEY_FILE", "AWS_SECRET_ACCESS_KEY")
    for name in hidden:
        monkeypatch.setenv(name, "secret")
    told = child_environment(settings)
    with ForkServer(libraries_environment()) as server:
        async with Children(server, told) as running:
            child = await running.take()
            seen = psutil.Process(child.pid).environ() | told
            await child.stop(0.0)
    assert "secret" not in seen.values()
    assert {name for name in seen if name.startswith("LEPTON_")} <= {
        "LEPTON_HOME",
        "LEPTON_TLS_CA",
        "LEPTON_TLS_CERTIFICATE",
        "LEPTON_TLS_KEY",
        "LEPTON_TOKEN_PUBLIC_KEYS",
        "LEPTON_DATA_ADDRESS",
        "LEPTON_REGISTRY_ADDRESS",
        "LEPTON_TRAINING_ADDRESS",
        "LEPTON_CHECKPOINT_SECONDS",
        "LEPTON_MAX_MESSAGE_BYTES",
        "LEPTON_LOG_LEVEL",
        "LEPTON_ENGINE",
        "LEPTON_RAY_ADDRESS",
    }


async def test_server_stays_small_until_a_network_is_trained(children: Children) -> None:
    child = await children.take()
    process = psutil.Process(_server_of(child))
    await child.stop(0.0)
    loaded = {Path(entry.path).name for entry in process.memory_maps() if entry.path.endswith(".so")}
    assert not any("torch" in name for name in loaded)
    assert process.memory_full_info().pss < 250 << 20


async def test_children_end_with_a_worker_that_is_killed(settings: WorkerSettings) -> None:
    # A process of its own that starts a child as a worker does, and says its id.
    script = (
        "import asyncio, json, sys\n"
        "from services.training.worker.children import Children, libraries_environment\n"
        "from services.training.worker.fork_server import ForkServer\n"
        "async def main():\n"
        "    with ForkServer(libraries_environment()) as server:\n"
        "        child = await Children(server, json.loads(sys.argv[1])).take()\n"
        "        print(child.pid, flush=True)\n"
        "        await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    environment = json.dumps(child_environment(settings))
    worker = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, environment, stdout=asyncio.subprocess.PIPE
    )
    assert worker.stdout is not None
    pid = int(await worker.stdout.readline())
    server = psutil.Process(pid).ppid()
    worker.kill()
    await worker.wait()
    await until(lambda: not is_running(server) and not is_running(pid), "its server and its child to follow")
