"""The real process is killed in the middle: what was acknowledged stays, its facts arrive, nothing is left behind."""

import asyncio
import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest

from lepton.v1 import events_pb2
from lepton.v1 import registry_pb2 as pb
from servicekit.auth import Identity, Role
from servicekit.errors import LeptonError
from servicekit.events import Event, connect
from servicekit.rpc.channel import ServiceChannel
from tests.registry.house import GOOD, Client, messages
from tests.support import onnx_models
from tests.support.credentials import MakeToken, environment_of, public_channel, settings_of
from tests.support.nats import NatsServer

_READY_SECONDS = 120.0


class Registry:
    """`python -m services.registry`, which a test kills and starts again on the same port and files.

    Args:
        folder: its database and objects.
        credentials: the platform's.
        nats: where its facts go.
        token: of a developer.
    """

    def __init__(self, folder: Path, credentials: Path, nats: NatsServer, token: str) -> None:
        self.folder = folder
        self._credentials = credentials
        self._token = token
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        own = {
            **environment_of(credentials, "registry"),
            "port": str(self.port),
            "nats_url": nats.url,
            "database_url": f"sqlite+aiosqlite:///{folder}/registry.sqlite3",
            "objects_url": (folder / "objects").as_uri(),
            "orphan_minutes": "0",
            "verify_seconds": "20",
        }
        self._environment = {**os.environ, **{f"LEPTON_{name.upper()}": value for name, value in own.items()}}

    def start(self, **more: str) -> None:
        """Start it."""
        with (self.folder / "registry.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "services.registry"], env={**self._environment, **more}, stdout=log, stderr=log
            )

    def kill(self) -> None:
        """End it with SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @property
    def verifiers(self) -> list[psutil.Process]:
        """Its verifying children."""
        assert self._process is not None
        found = []
        for child in psutil.Process(self._process.pid).children():
            with contextlib.suppress(psutil.Error):
                if "services.registry.verifier" in child.cmdline():
                    found.append(child)
        return found

    @property
    def objects(self) -> list[Path]:
        """Every file of its objects."""
        return [path for path in (self.folder / "objects" / "registry").rglob("*") if path.is_file()]

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """Open a client once it answers."""
        async with ServiceChannel(public_channel(self.port, self._credentials)) as channel:
            client = Client(channel, Identity("default", Role.DEVELOPER, "", token=self._token))
            deadline = time.monotonic() + _READY_SECONDS
            while True:
                try:
                    await client.stub.ListModels(pb.ListModelsRequest())
                    break
                except LeptonError:
                    assert time.monotonic() < deadline, (self.folder / "registry.log").read_text()[-3000:]
                    await asyncio.sleep(0.05)
            yield client


@pytest.fixture
def registry(
    tmp_path: Path, platform_files: Path, own_nats_server: NatsServer, make_token: MakeToken
) -> Iterator[Registry]:
    """A registry process of the test's own."""
    process = Registry(tmp_path, platform_files, own_nats_server, make_token())
    process.start()
    yield process
    process.kill()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


async def test_upload_cut_by_a_kill_leaves_nothing_and_can_be_made_again(registry: Registry) -> None:
    content = b"\x07" * (24 << 20)
    request = pb.CreateVersionRequest(model="credit")
    for name, data in (("model.onnx", GOOD), ("state.safetensors", content)):
        request.artifacts.add(name=name, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
    async with registry.client() as client:
        await client.stub.CreateVersion(request)
        await client.upload("credit@1")
        half = asyncio.Event()

        async def slowly() -> AsyncIterator[pb.UploadArtifactRequest]:
            pieces = (content[start : start + (1 << 20)] for start in range(0, len(content) // 2, 1 << 20))
            async for message in messages("credit@1", "state.safetensors", pieces):
                yield message
            half.set()
            await asyncio.sleep(600)

        uploading = asyncio.create_task(client.stub.UploadArtifact(slowly()))
        await half.wait()
        registry.kill()
        with pytest.raises(LeptonError):
            await uploading
    registry.start()
    async with registry.client() as client:
        # What was acknowledged is there, and nothing of the rest.
        assert len(registry.objects) == 1
        assert (await client.get("credit@1")).state == pb.VERSION_STATE_PENDING
        await client.upload("credit@1", content, "state.safetensors")
        assert (await client.finalize("credit@1")).state == pb.VERSION_STATE_READY
        assert await client.download("credit@1", "state.safetensors") == content


async def test_version_that_was_being_checked_stays_pending_and_its_child_goes(registry: Registry) -> None:
    endless = {"model.onnx": onnx_models.endless_model()}
    async with registry.client() as client:
        await client.create(files=endless)
        await client.upload("credit@1", endless["model.onnx"])
        checking = asyncio.create_task(client.finalize("credit@1"))
        while not registry.verifiers or registry.verifiers[0].cpu_times().user < 0.5:
            assert not checking.done()
            await asyncio.sleep(0.05)
        (child,) = registry.verifiers
        registry.kill()
        with pytest.raises(LeptonError):
            await checking
    async with asyncio.timeout(120):
        while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
            await asyncio.sleep(0.02)
    registry.start(LEPTON_VERIFY_SECONDS="1")
    async with registry.client() as client:
        assert (await client.get("credit@1")).state == pb.VERSION_STATE_PENDING
        version = await client.finalize("credit@1")
        assert (version.state, version.error_reason) == (pb.VERSION_STATE_FAILED, "VERIFIER_TIMEOUT")
        registry.kill()
    registry.start()
    async with registry.client() as client:
        assert (await client.register()).state == pb.VERSION_STATE_READY


async def test_what_was_acknowledged_stays_and_its_facts_arrive_once(
    registry: Registry, own_nats_server: NatsServer, platform_files: Path
) -> None:
    numbers = []
    for _ in range(3):
        async with registry.client() as client:
            numbers.append((await client.create()).number)
            # At once after the acknowledgement.
            registry.kill()
        registry.start()
    async with registry.client() as client:
        for number in numbers:
            await client.upload(f"credit@{number}")
            await client.finalize(f"credit@{number}")
        await client.promote("credit@1")
        # Facts of what comes now cannot go out before the process is dead.
        own_nats_server.pause()
        moved = await client.promote("credit@2")
        await client.promote("credit@3")
        last = await client.roll_back()
        registry.kill()
    own_nats_server.kill()
    own_nats_server.start()
    registry.start()
    async with registry.client() as client:
        assert numbers == [1, 2, 3]
        assert (await client.create()).number == 4
        alias = await client.stub.GetAlias(pb.GetAliasRequest(model="credit", alias="champion"))
        assert alias == last
        assert alias.number == moved.number == 2
        assert [move[:2] for move in await client.history()] == [(3, 2), (2, 3), (1, 2), (0, 1)]
    facts = await _facts(platform_files, own_nats_server, 7)
    assert len({event.id for event in facts}) == len(facts)
    ready = [e.parse(events_pb2.VersionReady).version.number for e in facts if e.subject == "registry.version.ready"]
    moves = [e.parse(events_pb2.AliasMoved) for e in facts if e.subject == "registry.alias.moved"]
    assert ready == [1, 2, 3]
    assert [(move.from_number, move.alias.number) for move in moves] == [(0, 1), (1, 2), (2, 3), (3, 2)]


async def test_start_gives_up_what_nobody_finishes_and_takes_its_bytes(registry: Registry) -> None:
    async with registry.client() as client:
        await client.create()
        await client.upload("credit@1")
        await client.register()
        registry.kill()
    # A hundredth of a second.
    registry.start(LEPTON_PENDING_HOURS="0.000003")
    async with registry.client() as client:
        version = await client.get("credit@1")
        assert (version.state, version.error_reason) == (pb.VERSION_STATE_FAILED, "NEVER_FINISHED")
        assert len(registry.objects) == 1
        assert await client.download("credit@2") == GOOD


async def test_drained_process_ends_in_good_order(registry: Registry) -> None:
    async with registry.client() as client:
        await client.register()
        process = registry._process
        assert process is not None
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 120) == 0


async def _facts(credentials: Path, server: NatsServer, count: int) -> list[Event]:
    """Return the facts on the stream, once there are so many and no more come."""
    found: list[Event] = []
    enough = asyncio.Event()

    async def handle(event: Event) -> None:
        found.append(event)
        if len(found) >= count:
            enough.set()

    settings = settings_of(credentials, "data").model_copy(update={"nats_url": server.url})
    async with connect(settings, "test") as nats:
        await nats.wait_connected(120)
        following = asyncio.create_task(nats.follow("registry-kill-test", ["registry.>"], handle))
        async with asyncio.timeout(120):
            await enough.wait()
        await asyncio.sleep(0.5)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
    return found
