"""Real processes are killed with SIGKILL: no acknowledged deployment and no fact is lost, and predictions go on."""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import grpc

from lepton.v1 import events_pb2
from lepton.v1 import inference_pb2 as pb
from servicekit.errors import LeptonError
from servicekit.events import Event, connect
from servicekit.rpc.channel import ServiceChannel
from tests.inference.house import Deployments, House, Worker, until
from tests.support.credentials import bearer, public_channel
from tests.support.onnx_models import slow_model


@contextlib.contextmanager
def _process(log: Path, environment: Mapping[str, object], *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run `python -m services.inference` until the block ends."""
    own = {f"LEPTON_{name.upper()}": str(value) for name, value in environment.items()}
    command = [sys.executable, "-m", "services.inference", *arguments]
    with log.open("ab") as out:
        process = subprocess.Popen(command, env={**os.environ, **own}, stdout=out, stderr=out)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextlib.asynccontextmanager
async def _deployments(house: House, port: int) -> AsyncIterator[Deployments]:
    """Connect to the deployments service once it answers."""
    async with ServiceChannel(public_channel(port, house.credentials)) as channel:
        deployments = Deployments(channel, bearer(house.make_token()))

        async def answers() -> bool:
            try:
                await deployments.stub.ListDeployments(pb.ListDeploymentsRequest(), metadata=deployments.metadata)
            except LeptonError:
                return False
            return True

        await until(answers, "the service to answer")
        yield deployments


async def test_acknowledged_deployment_and_its_fact_survive_the_services_death(registry_house: House) -> None:
    house, port = registry_house, _free_port()
    await house.developer.register("m")
    settings = house.inference_environment(port=port)
    log = house.folder / "inference.log"
    with _process(log, settings) as process:
        async with _deployments(house, port) as deployments:
            # With NATS away the fact can only wait in the outbox when the kill comes.
            house.nats.kill()
            made = await deployments.create("m@1", request_id="once")
            process.kill()
            process.wait()
    house.nats.start()
    heard: list[events_pb2.DeploymentChanged] = []

    async def hear(event: Event) -> None:
        heard.append(event.parse(events_pb2.DeploymentChanged))

    with _process(log, settings):
        async with (
            _deployments(house, port) as deployments,
            connect(house.process_settings("scheduler"), "test") as nats,
        ):
            following = asyncio.create_task(nats.follow("kill-test", ["inference.deployment.changed"], hear))
            assert await deployments.get("m") == made
            assert await deployments.create("m@1", request_id="once") == made

            async def is_heard() -> bool:
                return bool(heard)

            await until(is_heard, "the fact to arrive")
            await asyncio.sleep(0.5)
            following.cancel()
    assert [fact.deployment.etag for fact in heard] == [made.etag]


async def test_killed_worker_leaves_its_clients_to_the_other_and_comes_back(lapsing_house: House) -> None:
    await lapsing_house.developer.register("m")
    await lapsing_house.deployments.create("m@1")
    port = _free_port()
    settings = lapsing_house.worker_environment(port=port)
    with contextlib.ExitStack() as workers:
        first, _ = (
            workers.enter_context(_process(lapsing_house.folder / f"{name}.log", settings, "worker", "--id", name))
            for name in ("w1", "w2")
        )
        await until(lambda: _hold(lapsing_house, {"w1", "w2"}), "both workers to hold the model")
        async with contextlib.AsyncExitStack() as connections:
            clients = [await connections.enter_async_context(lapsing_house.client(port)) for _ in range(8)]
            for client in clients:
                assert await client.infer("m") == ("1", 1.5)
            first.kill()
            first.wait()
            # Those who were connected to the dead one come to the other; nobody waits for its lease to lapse.
            for client in clients:
                await until(lambda client=client: _answers(client), "every client to be answered")  # type: ignore[misc]
            await until(lambda: _hold(lapsing_house, {"w2"}), "the dead worker to be missed")
            workers.enter_context(_process(lapsing_house.folder / "w1.log", settings, "worker", "--id", "w1"))
            await until(lambda: _hold(lapsing_house, {"w1", "w2"}), "the worker to be back")
            for client in clients:
                assert await client.infer("m") == ("1", 1.5)


async def test_worker_killed_in_the_middle_of_a_batch_leaves_nobody_hanging(house: House) -> None:
    await house.developer.register("m", {"model.onnx": slow_model()})
    await house.deployments.create("m@1")
    port = _free_port()
    settings = house.worker_environment(port=port)
    with contextlib.ExitStack() as workers:
        first, _ = (
            workers.enter_context(_process(house.folder / f"{name}.log", settings, "worker", "--id", name))
            for name in ("w1", "w2")
        )
        await until(lambda: _hold(house, {"w1", "w2"}), "both workers to hold the model")
        async with contextlib.AsyncExitStack() as connections:
            clients = [await connections.enter_async_context(house.client(port)) for _ in range(8)]
            asked = [asyncio.ensure_future(client.infer("m")) for client in clients for _ in range(20)]
            await asyncio.sleep(0.1)
            first.kill()
            async with asyncio.timeout(120):
                ended = await asyncio.gather(*asked, return_exceptions=True)
            lost = [error for error in ended if isinstance(error, grpc.aio.AioRpcError)]
            assert {error.code() for error in lost} <= {grpc.StatusCode.UNAVAILABLE}
            # Some were with the dead one, unless the kernel gave it no connection at all.
            answers = [answer for answer in ended if isinstance(answer, tuple)]
            assert len(answers) + len(lost) == len(asked)
            assert {number for number, _ in answers} == {"1"}
            for client in clients:
                await until(lambda client=client: _answers(client), "every client to be answered")  # type: ignore[misc]


async def _answers(client: Worker) -> bool:
    try:
        return (await client.infer("m"))[0] == "1"
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            raise
        return False


async def _hold(house: House, workers: set[str]) -> bool:
    return set((await house.deployments.get("m")).providers) == workers
