"""Child processes: one waits, is renewed, sees nothing that it needs not, and never outlives its worker."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from services.training.settings import WorkerSettings
from services.training.worker.children import Children, child_environment
from tests.support.credentials import environment_of
from tests.training.house import is_running, until


@pytest.fixture
def settings(platform_files: Path) -> WorkerSettings:
    return WorkerSettings.model_validate(environment_of(platform_files, "training"))


@pytest.fixture
async def children(settings: WorkerSettings) -> AsyncIterator[Children]:
    async with Children(child_environment(settings), keep_standby=True) as running:
        yield running


def _pids() -> set[int]:
    found = psutil.Process().children(recursive=True)
    return {child.pid for child in found if "services.training.child" in _command(child) and is_running(child.pid)}


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


async def test_one_waits_with_its_libraries_loaded_and_is_replaced_when_taken(children: Children) -> None:
    await until(lambda: len(_pids()) == 1, "a standby child")
    waiting = _pids()
    child = await children.take()
    assert {child.pid} == waiting
    await until(lambda: len(_pids()) == 2, "the next one")
    await child.stop(0.0)
    assert not child.is_alive


async def test_one_that_dies_is_replaced(children: Children) -> None:
    await until(lambda: len(_pids()) == 1, "a standby child")
    (first,) = _pids()
    os.kill(first, signal.SIGKILL)
    await until(lambda: _pids() not in ({first}, set()), "another one")
    child = await children.take()
    assert child.pid != first
    assert child.is_alive
    await child.stop(0.0)


async def test_child_sees_no_database_no_password_and_no_key(
    settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = ("LEPTON_DATABASE_URL", "LEPTON_NATS_PASSWORD", "LEPTON_KEY_ENCRYPTION_KEY_FILE", "AWS_SECRET_ACCESS_KEY")
    for name in hidden:
        monkeypatch.setenv(name, "secret")
    async with Children(child_environment(settings), keep_standby=False) as running:
        child = await running.take()
        seen = psutil.Process(child.pid).environ()
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


async def test_waiting_child_stays_small(children: Children) -> None:
    await until(lambda: len(_pids()) == 1, "a standby child")
    (pid,) = _pids()
    process = psutil.Process(pid)
    # It waits on its stdin once everything is loaded.
    await until(lambda: process.cpu_times().user > 0.4 and process.status() == psutil.STATUS_SLEEPING, "the libraries")
    loaded = {Path(entry.path).name for entry in process.memory_maps() if entry.path.endswith(".so")}
    assert not any("torch" in name for name in loaded)
    assert process.memory_full_info().pss < 250 << 20


async def test_children_end_with_a_worker_that_is_killed(settings: WorkerSettings) -> None:
    # A process of its own that starts a child as a worker does, and says its id.
    script = (
        "import asyncio, json, sys\n"
        "from services.training.worker.children import Children\n"
        "async def main():\n"
        "    async with Children(json.loads(sys.argv[1]), keep_standby=False) as children:\n"
        "        print((await children.take()).pid, flush=True)\n"
        "        await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    environment = json.dumps(child_environment(settings))
    worker = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, environment, stdout=asyncio.subprocess.PIPE
    )
    assert worker.stdout is not None
    pid = int(await worker.stdout.readline())
    # Also one that no longer looks at its stdin.
    await until(lambda: len(psutil.Process(pid).memory_maps()) > 20, "the child to begin")
    await asyncio.sleep(0.5)
    worker.kill()
    await worker.wait()
    await until(lambda: not is_running(pid), "the child to follow", 5)
