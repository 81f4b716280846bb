"""A server's life: health, reflection, and an end that finishes what is under way."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from lepton.v1 import training_pb2, training_pb2_grpc
from servicekit.server import running_server
from tests.servicekit.rpc.desk import Serving, serving_desks
from tests.support.credentials import MakeToken, bearer, environment_of, public_channel, settings_of

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def health_of(channel: grpc.aio.Channel, service: str = "") -> int:
    answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service))
    status: int = answer.status
    return status


async def test_health_needs_no_token_and_knows_each_service(platform_files: Path) -> None:
    async with serving_desks(settings_of(platform_files, "data"), platform_files) as serving:
        async with serving.channel() as channel:
            assert await health_of(channel) == SERVING
            assert await health_of(channel, "lepton.v1.TrainingService") == SERVING
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await health_of(channel, "lepton.v1.Nothing")
            assert raised.value.code() is grpc.StatusCode.NOT_FOUND


async def test_server_that_is_not_ready_says_so_until_told(platform_files: Path) -> None:
    settings = settings_of(platform_files, "data")
    async with running_server(settings, [], healthy=False) as running:
        async with public_channel(running.port, platform_files) as channel:
            assert await health_of(channel) == NOT_SERVING
            await running.set_healthy([], True)
            assert await health_of(channel) == SERVING


async def test_reflection_lists_the_services_without_a_token(platform_files: Path) -> None:
    async with serving_desks(settings_of(platform_files, "data"), platform_files) as serving:
        async with serving.channel() as channel:
            call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
                iter([reflection_pb2.ServerReflectionRequest(list_services="")])
            )
            answers = [answer async for answer in call]
    names = {service.name for service in answers[0].list_services_response.service}
    assert {"lepton.v1.TrainingService", "lepton.v1.DataService", "grpc.health.v1.Health"} <= names


async def test_grpcurl_calls_by_reflection_and_prints_the_reason_of_an_error(
    platform_files: Path, make_token: MakeToken
) -> None:
    async with serving_desks(settings_of(platform_files, "data"), platform_files) as serving:

        async def grpcurl(*more: str) -> str:
            process = await asyncio.create_subprocess_exec(
                str(Path(sys.executable).parent / "grpcurl"),
                *("-cacert", str(platform_files / "ca.pem"), *more, "-d", '{"name": "job-1"}'),
                *(f"localhost:{serving.running.port}", "lepton.v1.TrainingService/GetJob"),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            output, _ = await asyncio.wait_for(process.communicate(), 120)
            return output.decode()

        assert '"name": "job-1"' in await grpcurl("-H", f"authorization: Bearer {make_token()}")
        assert "TOKEN_ABSENT" in await grpcurl()


async def drained(serving: Serving, seconds: float) -> float:
    started = time.monotonic()
    await serving.running.drain(seconds)
    return time.monotonic() - started


async def test_drain_lets_calls_under_way_end(platform_files: Path, make_token: MakeToken) -> None:
    async with serving_desks(settings_of(platform_files, "data"), platform_files) as serving:
        async with serving.channel() as channel:
            stub = training_pb2_grpc.TrainingServiceStub(channel)
            call = stub.ListJobs(training_pb2.ListJobsRequest(), metadata=bearer(make_token()), timeout=600)
            await asyncio.wait_for(serving.desk.entered.wait(), 120)
            draining = asyncio.create_task(drained(serving, 600))
            await asyncio.sleep(0.2)
            assert not draining.done()
            serving.desk.go_on.set()
            assert [job.name for job in (await call).jobs] == ["late"]
            assert await draining < 300


async def test_drain_gives_up_on_calls_that_take_too_long(platform_files: Path, make_token: MakeToken) -> None:
    async with serving_desks(settings_of(platform_files, "data"), platform_files) as serving:
        async with serving.channel() as channel:
            stub = training_pb2_grpc.TrainingServiceStub(channel)
            call = stub.ListJobs(training_pb2.ListJobsRequest(), metadata=bearer(make_token()), timeout=600)
            await asyncio.wait_for(serving.desk.entered.wait(), 120)
            assert await drained(serving, 0.3) >= 0.3
            with pytest.raises(grpc.aio.AioRpcError):
                await call


async def test_draining_server_takes_no_more_calls(platform_files: Path, make_token: MakeToken) -> None:
    async with serving_desks(settings_of(platform_files, "data"), platform_files) as serving:
        async with serving.channel() as channel, serving.channel() as other:
            stub = training_pb2_grpc.TrainingServiceStub(channel)
            call = stub.ListJobs(training_pb2.ListJobsRequest(), metadata=bearer(make_token()), timeout=600)
            await asyncio.wait_for(serving.desk.entered.wait(), 120)
            draining = asyncio.create_task(serving.running.drain(600))
            await asyncio.sleep(0.1)
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await training_pb2_grpc.TrainingServiceStub(other).GetJob(
                    training_pb2.GetJobRequest(name="job-1"), metadata=bearer(make_token()), timeout=120
                )
            assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
            serving.desk.go_on.set()
            await call
            await draining


async def test_drain_ends_watches_at_once_and_their_clients_know_why(
    platform_files: Path, make_token: MakeToken
) -> None:
    async with serving_desks(settings_of(platform_files, "data"), platform_files) as serving:
        async with serving.channel() as channel:
            watch = training_pb2_grpc.TrainingServiceStub(channel).WatchJob(
                training_pb2.WatchJobRequest(name="job-1"), metadata=bearer(make_token())
            )
            updates = aiter(watch)
            await anext(updates)
            assert await drained(serving, 600) < 300
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await anext(updates)
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "stopping" in (raised.value.details() or "")
    assert serving.desk.cleaned_up.is_set()


async def test_watchers_of_health_do_not_hold_the_drain_up(platform_files: Path) -> None:
    async with serving_desks(settings_of(platform_files, "data"), platform_files) as serving:
        async with serving.channel() as channel:
            watch = aiter(health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest()))
            assert (await anext(watch)).status == SERVING
            assert await drained(serving, 600) < 300


async def test_port_that_is_taken_is_an_error(platform_files: Path) -> None:
    async with running_server(settings_of(platform_files, "data"), []) as running:
        with pytest.raises(RuntimeError, match=str(running.port)):
            async with running_server(settings_of(platform_files, "data", port=running.port), []):
                pass


async def test_sigterm_finishes_the_call_under_way_then_closes_what_it_used(
    platform_files: Path, make_token: MakeToken
) -> None:
    environment = {f"LEPTON_{name.upper()}": value for name, value in environment_of(platform_files, "data").items()}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.servicekit.stopping_process", str(platform_files)),
        env=os.environ | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    port = int((await asyncio.wait_for(process.stderr.readline(), 120)).split()[1])
    async with public_channel(port, platform_files) as channel:
        stub = training_pb2_grpc.TrainingServiceStub(channel)
        call = stub.ListJobs(training_pb2.ListJobsRequest(), metadata=bearer(make_token()), timeout=600)
        assert await asyncio.wait_for(process.stderr.readline(), 120) == b"call under way\n"
        process.send_signal(signal.SIGTERM)
        assert [job.name for job in (await call).jobs] == ["late"]
    _, said = await asyncio.wait_for(process.communicate(), 120)
    assert (process.returncode, said.decode().splitlines()) == (0, ["resource closed", "stopped"])
