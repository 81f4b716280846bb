"""Workers that are told what to serve by a real scheduler: loading, swapping, leaving, and neighbours that go away."""

import asyncio
import contextlib
import gc
from collections import Counter
from collections.abc import AsyncIterator

import grpc

from lepton.v1 import scheduler_pb2, scheduler_pb2_grpc
from services.inference.open_inference import grpc_service_pb2 as pb
from services.inference.serving.model import LoadedModel
from tests.inference.house import FAILED, PENDING, House, Worker, refused, until
from tests.support import onnx_models
from tests.support.credentials import bearer, public_channel
from tests.support.living import living


def _linear(bias: float) -> dict[str, bytes]:
    return {"model.onnx": onnx_models.linear_model((1.0, 1.0), bias)}


async def _register(house: House, *biases: float, model: str = "m") -> None:
    for bias in biases:
        await house.developer.register(model, _linear(bias))


async def test_deployment_is_loaded_told_of_and_served_and_taken_away(house: House) -> None:
    await _register(house, 0.5, 1.5)
    async with house.worker() as worker:
        await until(lambda: _is_ready(worker), "the worker to be ready with nothing to serve")
        await refused(worker.infer("m"), grpc.StatusCode.NOT_FOUND, "Request for unknown model: 'm' is not found")
        await house.deployments.create("m@2")
        found = await house.deployments.until("m", 2)
        assert (found.ready_replicas, dict(found.providers)) == (1, {"w1": "CPUExecutionProvider"})
        assert await worker.infer("m") == ("2", 3.5)
        assert await worker.infer("m", "2") == ("2", 3.5)
        await refused(worker.infer("m", "1"), grpc.StatusCode.NOT_FOUND, "version 1")
        await house.deployments.delete("m")
        await until(lambda: _is_unknown(worker, "m"), "the model to go")


async def test_memory_of_a_model_that_is_taken_away_goes_at_once(house: House) -> None:
    await _register(house, 0.5, 1.5)
    gc.collect()
    gc.disable()
    try:
        async with house.worker() as worker:
            await house.deployments.create("m@1", "taken")
            await house.deployments.until("taken", 1)
            for _ in range(3):
                await worker.infer("taken")
            assert _held("taken") == 1
            await house.deployments.delete("taken")
            await until(lambda: _is_unknown(worker, "taken"), "the model to go")

            async def is_gone() -> bool:
                return not _held("taken")

            await until(is_gone, "its memory to go")
    finally:
        gc.enable()


def _held(deployment: str) -> int:
    return sum(one.deployment == deployment for one in living(LoadedModel))


async def _is_ready(worker: Worker) -> bool:
    return bool((await worker.stub.ServerReady(pb.ServerReadyRequest())).ready)


async def _is_unknown(worker: Worker, name: str) -> bool:
    try:
        await worker.infer(name)
    except grpc.aio.AioRpcError as error:
        return error.code() is grpc.StatusCode.NOT_FOUND
    return False


@contextlib.asynccontextmanager
async def _asking(worker: Worker, name: str, tasks: int = 4) -> AsyncIterator[Counter[tuple[str, float]]]:
    """Ask all the time while the block runs; any refusal fails the test."""
    answers: Counter[tuple[str, float]] = Counter()
    stopped = asyncio.Event()

    async def ask() -> None:
        while not stopped.is_set():
            answers[await worker.infer(name)] += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(tasks):
            group.create_task(ask())
        try:
            yield answers
        finally:
            stopped.set()


async def test_moved_alias_swaps_under_load_without_a_failed_request(house: House) -> None:
    await _register(house, 0.5, 1.5)
    await house.developer.promote("m@1")
    async with house.worker() as worker:
        await house.deployments.create("m@champion", "d")
        await house.deployments.until("d", 1)
        assert await worker.infer("d", "champion") == ("1", 2.5)
        async with _asking(worker, "d") as answers:
            for number in (2, 1, 2):
                await house.developer.promote(f"m@{number}")
                await house.deployments.until("d", number)
        assert set(answers) == {("1", 2.5), ("2", 3.5)}
        assert await worker.infer("d", "champion") == ("2", 3.5)


async def test_another_model_under_the_same_number_takes_over_without_a_failed_request(house: House) -> None:
    await _register(house, 0.5)
    await _register(house, 9.0, model="other")
    async with house.worker() as worker:
        await house.deployments.create("m@1", "d")
        await house.deployments.until("d", 1)
        async with _asking(worker, "d") as answers:
            await house.deployments.update("d", "version", version="other@1")
            await until(lambda: _answers(worker, "d", ("1", 11.0)), "the other model to serve")
            await house.deployments.until("d", 1)
        assert set(answers) == {("1", 2.5), ("1", 11.0)}


async def _answers(worker: Worker, name: str, expected: tuple[str, float]) -> bool:
    return await worker.infer(name) == expected


async def test_rollback_of_a_deployment_serves_the_former_version(house: House) -> None:
    await _register(house, 0.5, 1.5)
    async with house.worker() as worker:
        await house.deployments.create("m@1", "d")
        await house.deployments.until("d", 1)
        await house.deployments.update("d", "version", version="m@2")
        await house.deployments.until("d", 2)
        async with _asking(worker, "d"):
            await house.deployments.roll_back("d")
            await house.deployments.until("d", 1)
        assert await worker.infer("d") == ("1", 2.5)


async def test_model_that_cannot_be_fetched_fails_with_its_reason_and_loads_once_it_can(house: House) -> None:
    await _register(house, 0.5, 1.5)
    _damage(house)
    async with house.worker() as worker:
        await house.deployments.create("m@2")
        failed = await house.deployments.until("m", 2, FAILED)
        assert "version 2 cannot be loaded on w1" in failed.message
        await refused(worker.infer("m"), grpc.StatusCode.UNAVAILABLE, "could not be loaded")
        # A model that fails keeps nobody from being ready.
        assert await _is_ready(worker)
        _damage(house)
        await house.deployments.until("m", 2)
        assert await worker.infer("m") == ("2", 3.5)


def _damage(house: House) -> None:
    """Turn the last bit of every stored object; the second time mends them."""
    for path in house.registry.objects():
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


async def test_serving_goes_on_while_every_neighbour_is_away(registered: House) -> None:
    await _register(registered, 0.5)
    async with contextlib.AsyncExitStack() as neighbours:
        outer, registered.stack = registered.stack, neighbours
        await registered.start_scheduler()
        worker = await outer.enter_async_context(registered.worker())
        await registered.deployments.create("m@1")
        await registered.deployments.until("m", 1)
        registered.stack = outer
    # The scheduler is gone; now NATS, too.
    registered.nats.kill()
    for _ in range(30):
        assert await worker.infer("m") == ("1", 2.5)
        await asyncio.sleep(0.05)
    assert await _is_ready(worker)
    registered.nats.start()


async def test_two_workers_of_one_port_answer_both(house: House) -> None:
    await _register(house, 0.5)
    await house.deployments.create("m@1")
    async with house.worker("w1") as first:
        await house.deployments.until("m", 1)
        async with house.worker("w2", port=first.server.port) as second:
            assert first.server.port == second.server.port
            assert first.server.private_port != second.server.private_port

            async def both_hold_it() -> bool:
                return set((await house.deployments.get("m")).providers) == {"w1", "w2"}

            await until(both_hold_it, "both workers to hold the model")
            for _ in range(8):
                async with house.client(first.server.port) as client:
                    assert await client.infer("m") == ("1", 2.5)


async def test_drained_worker_passes_requests_on_until_it_takes_work_again(house: House) -> None:
    await _register(house, 0.5)
    operator = bearer(house.make_token("operator"))
    async with (
        house.worker("w1") as first,
        house.worker("w2") as second,
        public_channel(house.scheduler.port, house.credentials) as channel,
    ):
        scheduler = scheduler_pb2_grpc.SchedulerServiceStub(channel)
        await house.deployments.create("m@1")
        await until(lambda: _serve(first, second), "both to serve")
        async with _asking(second, "m"):
            await scheduler.DrainWorker(scheduler_pb2.DrainWorkerRequest(name="w1"), metadata=operator)
            await until(lambda: _are_placed(house, {"w2"}), "the drained worker to be empty")
            assert await first.infer("m") == ("1", 2.5)
            assert not await _is_ready(first)
            assert await _is_ready(second)
            await scheduler.ResumeWorker(scheduler_pb2.ResumeWorkerRequest(name="w1"), metadata=operator)
            await until(lambda: _are_placed(house, {"w1", "w2"}), "both to serve again")
        assert await _is_ready(first)


async def _serve(*workers: Worker) -> bool:
    ready = [
        await worker.stub.ModelReady(pb.ModelReadyRequest(name="m"), metadata=worker.metadata) for worker in workers
    ]
    return all(answer.ready for answer in ready)


async def test_client_loads_and_unloads_by_the_protocol(house: House) -> None:
    await _register(house, 0.5, 1.5)
    developer = bearer(house.make_token("developer"))
    async with house.worker() as worker:
        load = pb.RepositoryModelLoadRequest(model_name="m")
        await refused(
            worker.stub.RepositoryModelLoad(load, metadata=worker.metadata), grpc.StatusCode.PERMISSION_DENIED
        )
        await worker.stub.RepositoryModelLoad(load, metadata=developer, timeout=120.0)
        # It serves once the call returns, by the newest version.
        assert await worker.infer("m") == ("2", 3.5)
        await worker.stub.RepositoryModelLoad(load, metadata=developer, timeout=120.0)
        nobody = pb.RepositoryModelLoadRequest(repository_name="nobody")
        await refused(worker.stub.RepositoryModelLoad(nobody, metadata=developer), grpc.StatusCode.NOT_FOUND)
        # KServe's message has the name where Triton's has the repository.
        unload = pb.RepositoryModelUnloadRequest(repository_name="m")
        await worker.stub.RepositoryModelUnload(unload, metadata=developer)
        await until(lambda: _is_unknown(worker, "m"), "the model to go")


async def test_workspaces_have_their_own_models_of_the_same_name(house: House) -> None:
    await _register(house, 0.5)
    other = await house.registry.user(workspace="other")
    await other.register("m", _linear(7.0))
    elsewhere = await house.user(workspace="other")
    async with house.worker() as worker:
        await house.deployments.create("m@1")
        await house.deployments.until("m", 1)
        await elsewhere.create("m@1")
        await elsewhere.until("m", 1)
        assert await worker.infer("m") == ("1", 2.5)
        worker.metadata = bearer(house.make_token("viewer", "other"))
        assert await worker.infer("m") == ("1", 9.0)
        worker.metadata = bearer(house.make_token("viewer", "third"))
        await refused(worker.infer("m"), grpc.StatusCode.NOT_FOUND)


async def test_worker_that_was_not_told_yet_says_so(registered: House) -> None:
    nowhere = registered.server
    registered.scheduler = nowhere
    async with registered.worker() as worker:
        assert not await _is_ready(worker)
        await refused(worker.infer("m"), grpc.StatusCode.NOT_FOUND, "unknown model")
        # What exists is not unknown because this worker has no assignment yet.
        await _register(registered, 0.5)
        await registered.deployments.create("m@1")
        await refused(worker.infer("m"), grpc.StatusCode.UNAVAILABLE, "'m' is loading")
        ready = await worker.stub.ModelReady(pb.ModelReadyRequest(name="m"), metadata=worker.metadata)
        assert not ready.ready


async def test_deployment_whose_workers_are_gone_says_so(house: House) -> None:
    await _register(house, 0.5)
    async with house.worker():
        await house.deployments.create("m@1")
        await house.deployments.until("m", 1)
    gone = await house.deployments.until("m", 1, PENDING)
    assert gone.ready_replicas == 0
    assert "worker" in gone.message


async def _are_placed(house: House, workers: set[str]) -> bool:
    return set((await house.deployments.get("m")).providers) == workers
