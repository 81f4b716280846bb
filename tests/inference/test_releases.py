"""Releases in a whole house: splits, canaries, shadows and rollbacks under load, without a failed request."""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import grpc
import pytest

from lepton.v1 import inference_pb2 as deployments_pb
from servicekit.errors import LeptonError
from services.inference.open_inference import grpc_service_pb2 as pb
from tests.inference.house import House, Worker, refused, until
from tests.support import onnx_models

RUNNING = deployments_pb.CANARY_STATE_RUNNING
PROMOTED = deployments_pb.CANARY_STATE_PROMOTED
ROLLED_BACK = deployments_pb.CANARY_STATE_ROLLED_BACK


@pytest.fixture
async def house(registry_house: House) -> House:
    """A whole house that looks at its canaries often."""
    await registry_house.start_deployments(release_look_seconds=0.1)
    await registry_house.start_scheduler()
    return registry_house


async def _register(house: House, *models: bytes) -> None:
    for model in models:
        await house.developer.register("m", {"model.onnx": model})


def _linear(bias: float) -> bytes:
    return onnx_models.linear_model((1.0, 1.0), bias)


@dataclass
class Load:
    """What clients were told.

    Args:
        answers: by version and prediction.
        failures: every failed request.
    """

    answers: Counter[tuple[str, float]] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    @property
    def versions(self) -> Counter[str]:
        """Answers by version."""
        found: Counter[str] = Counter()
        for (version, _), count in self.answers.items():
            found[version] += count
        return found


@contextlib.asynccontextmanager
async def _asking(
    *workers: Worker, x: tuple[float, float] = (1.0, 1.0), tasks: int = 4, pause: float = 0.002
) -> AsyncIterator[Load]:
    """Ask all the time while the block runs; failures are counted, and fail nothing."""
    load = Load()
    stopped = asyncio.Event()

    async def ask(worker: Worker) -> None:
        while not stopped.is_set():
            try:
                load.answers[await worker.infer("d", x=x)] += 1
            except grpc.aio.AioRpcError as error:
                load.failures.append(f"{error.code().name}: {error.details()}")
            await asyncio.sleep(pause)

    async with asyncio.TaskGroup() as group:
        for worker in workers:
            for _ in range(tasks):
                group.create_task(ask(worker))
        try:
            yield load
        finally:
            stopped.set()


def _target(number: int, percent: float) -> deployments_pb.TrafficTarget:
    return deployments_pb.TrafficTarget(version=f"m@{number}", weight_percent=percent)


def _canary(number: int, **more: object) -> deployments_pb.Canary:
    settings = {"steps": [20, 50], "step_seconds": 0.1, "min_requests": 40, "max_latency_ratio": 0.0, **more}
    return deployments_pb.Canary(version=f"m@{number}", **settings)  # type: ignore[arg-type]


async def _deployed(house: House, number: int = 1) -> None:
    await house.deployments.create(f"m@{number}", "d")
    await house.deployments.until("d", number)


async def _loaded(house: House, *numbers: int, workers: int = 1) -> None:
    """Wait until versions are loaded on every worker."""

    async def are_loaded() -> bool:
        found = {item.number: item.ready_replicas for item in (await house.deployments.get("d")).statistics}
        return all(found.get(number) == workers for number in numbers)

    await until(are_loaded, f"versions {numbers} to be loaded")


async def _ended(house: House, state: int, seconds: float = 120.0) -> deployments_pb.Deployment:
    async def has_ended() -> bool:
        return (await house.deployments.get("d")).canary.state != RUNNING

    await until(has_ended, "the canary to end", seconds)
    found = await house.deployments.get("d")
    assert found.canary.state == state, found.canary.message
    return found


async def _answer(worker: Worker, **more: str) -> str:
    """Return the version that answers a request with a sticky key: as a parameter, or in the metadata."""
    request = pb.ModelInferRequest(model_name="d")
    tensor = request.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    tensor.contents.fp32_contents.extend((1.0, 1.0))
    if "parameter" in more:
        request.parameters["lepton_sticky_key"].string_param = more["parameter"]
    header = (("lepton-sticky-key", more["header"]),) if "header" in more else ()
    reply = await worker.stub.ModelInfer(request, metadata=(*worker.metadata, *header), timeout=120.0)
    version: str = reply.model_version
    return version


async def test_a_split_gives_about_its_shares_keeps_keys_together_and_loads_nothing_to_change_them(
    house: House,
) -> None:
    await _register(house, _linear(0.5), _linear(1.5))
    async with house.worker() as worker:
        await _deployed(house)
        await house.deployments.update("d", "traffic", traffic=[_target(2, 30)])
        await _loaded(house, 1, 2)
        found = Counter([await _answer(worker) for _ in range(600)])
        assert 120 <= found["2"] <= 240, found
        keys = [f"customer-{index}" for index in range(100)]
        before = {key: await _answer(worker, parameter=key) for key in keys}
        assert before == {key: await _answer(worker, header=key) for key in keys}
        assert 15 <= Counter(before.values())["2"] <= 47
        # Whoever names a version gets it.
        assert (await worker.infer("d", "2"))[0] == "2"

        await house.deployments.update("d", "traffic", traffic=[_target(2, 60)])
        moved = {key for key in keys if before[key] == "1"}

        async def has_grown() -> bool:
            return any([await _answer(worker, parameter=key) == "2" for key in moved])

        await until(has_grown, "the larger share to hold")
        after = {key: await _answer(worker, parameter=key) for key in keys}
        assert all(after[key] == "2" for key in keys if before[key] == "2")
        # Requests were counted on: nothing was loaded anew.
        (count,) = [item.requests for item in (await house.deployments.get("d")).statistics if item.number == 2]
        assert count >= found["2"]

        await house.deployments.roll_back("d")
        await until(lambda: _answers_alone(worker, keys, "1"), "the deployment's own version to answer alone")
        assert not (await house.deployments.get("d")).traffic


async def _answers_alone(worker: Worker, keys: list[str], version: str) -> bool:
    return {await _answer(worker, parameter=key) for key in keys[:40]} == {version}


async def test_a_good_canary_is_promoted_step_by_step_and_the_former_version_stands_by(house: House) -> None:
    await _register(house, _linear(0.5), _linear(0.5001))
    async with house.worker("w1") as first, house.worker("w2") as second:
        await _deployed(house)
        async with _asking(first, second) as load:
            made = await house.deployments.update(
                "d", "canary", canary=_canary(2, min_agreement=0.9, compare_percent=100)
            )
            assert (made.canary.state, made.canary.percent, made.number) == (RUNNING, 20.0, 1)
            found = await _ended(house, PROMOTED)
            assert (found.number, found.version, found.previous_number) == (2, "m@2", 1)
            assert "0.00%" in found.canary.message and "agree" in found.canary.message
            assert found.standby.number == 1
            await house.deployments.until("d", 2)
        assert load.failures == []
        assert set(load.versions) == {"1", "2"}
        assert (await first.infer("d"))[0] == "2"


@pytest.mark.parametrize(
    ("bad", "rules", "why"),
    [
        (onnx_models.picky_model(), {}, "error rate"),
        (onnx_models.slow_model(), {"max_latency_ratio": 2.0}, "latency"),
        (_linear(9.0), {"min_agreement": 0.9, "compare_percent": 100}, "agreement"),
    ],
    ids=["errors", "slow", "disagrees"],
)
async def test_a_bad_canary_is_rolled_back_and_says_by_which_figure(
    house: House, bad: bytes, rules: dict[str, object], why: str
) -> None:
    await _register(house, _linear(0.5), bad)
    async with house.worker() as worker:
        await _deployed(house)
        # The picky model fails on sevens.
        async with _asking(worker, x=(7.0, 1.0)) as load:
            await house.deployments.update("d", "canary", canary=_canary(2, min_requests=30, **rules))
            found = await _ended(house, ROLLED_BACK)
            assert found.canary.message.startswith(why), found.canary.message
            assert (found.number, found.canary.percent) == (1, 0.0)
            await until(lambda: _holds(house, {1}), "the canary to leave")
        # What failed is what the canary answered, and no more.
        assert all("does not take this input" in failure for failure in load.failures)
        assert bool(load.failures) == (why == "error rate")


async def _holds(house: House, numbers: set[int]) -> bool:
    return {item.number for item in (await house.deployments.get("d")).statistics} == numbers


async def test_a_canary_that_cannot_be_loaded_is_rolled_back(house: House) -> None:
    await _register(house, _linear(0.5))
    present = set(house.registry.objects())
    await _register(house, _linear(1.5))
    for path in set(house.registry.objects()) - present:
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    async with house.worker() as worker:
        await _deployed(house)
        async with _asking(worker) as load:
            await house.deployments.update("d", "canary", canary=_canary(2))
            found = await _ended(house, ROLLED_BACK)
            assert "version 2 cannot be loaded: w1" in found.canary.message
        assert load.failures == [] and set(load.versions) == {"1"}


async def test_a_shadow_is_compared_and_never_answers(house: House) -> None:
    await _register(house, _linear(0.5), _linear(0.5), _linear(9.0), onnx_models.picky_model())
    async with house.worker() as worker:
        await _deployed(house)
        for number, agreed, failed in ((2, True, False), (3, False, False), (4, False, True)):
            async with _asking(worker, x=(7.0, 1.0), tasks=2) as load:
                wish = deployments_pb.Shadow(version=f"m@{number}")
                await house.deployments.update("d", "shadow", shadow=wish)
                done: list[deployments_pb.VersionStatistics] = []

                async def is_compared(number: int = number, done: list[object] = done) -> bool:  # type: ignore[assignment]
                    found = [item for item in (await house.deployments.get("d")).statistics if item.number == number]
                    done[:] = [item for item in found if item.compared + item.compare_failed >= 20]
                    return bool(done)

                await until(is_compared, "answers to be compared")
            assert set(load.answers) == {("1", 8.5)} and load.failures == []
            assert (done[0].agreed > 0, done[0].compare_failed > 0) == (agreed, failed), done[0]
            assert done[0].agreed in (0, done[0].compared)
            assert done[0].requests == 0
        await house.deployments.update("d", "shadow")
        await until(lambda: _holds(house, {1}), "the shadow to leave")


async def test_a_rollback_loads_nothing(house: House) -> None:
    await _register(house, _linear(0.5), _linear(1.5))
    async with house.worker() as worker:
        await _deployed(house)
        await house.deployments.update("d", "version", version="m@2")
        await house.deployments.until("d", 2)
        found = await house.deployments.get("d")
        assert (found.standby.number, {item.number for item in found.statistics}) == (1, {1, 2})
        # The registry is away: whatever had to be loaded could not be.
        for path in house.registry.objects():
            path.unlink()
        async with _asking(worker) as load:
            await asyncio.sleep(0.2)
            await house.deployments.roll_back("d")
            await until(lambda: _answers_by(worker, "1"), "the former version to answer")
            await house.deployments.until("d", 1)
            await house.deployments.roll_back("d")
            await until(lambda: _answers_by(worker, "2"), "the rolled back version to answer again")
        assert load.failures == []


async def _answers_by(worker: Worker, version: str) -> bool:
    return (await worker.infer("d"))[0] == version


async def test_a_standby_leaves_when_its_time_is_over(registry_house: House) -> None:
    house = registry_house
    await house.start_deployments(release_look_seconds=0.1, standby_seconds=1.0)
    await house.start_scheduler()
    await _register(house, _linear(0.5), _linear(1.5))
    async with house.worker():
        await _deployed(house)
        await house.deployments.update("d", "version", version="m@2")
        await house.deployments.until("d", 2)
        await until(lambda: _holds(house, {2}), "the standby to leave")
        assert not (await house.deployments.get("d")).HasField("standby")


async def test_a_canary_survives_a_restart_of_the_service_that_judges_it(registry_house: House) -> None:
    house = registry_house
    async with contextlib.AsyncExitStack() as first:
        outer, house.stack = house.stack, first
        await house.start_deployments(release_look_seconds=0.1)
        house.stack = outer
        port, private_port = house.server.port, house.server.private_port
        await house.start_scheduler()
        await _register(house, _linear(0.5), _linear(0.5))
        worker = await outer.enter_async_context(house.worker())
        await _deployed(house)
        await house.deployments.update("d", "canary", canary=_canary(2, steps=[20]))
    async with _asking(worker) as load:
        await asyncio.sleep(0.5)
        await house.start_deployments(release_look_seconds=0.1, port=port, private_port=private_port)
        await _ended(house, PROMOTED)
    assert load.failures == []


async def test_what_cannot_be_released_is_refused_with_its_reason(house: House) -> None:
    await _register(house, _linear(0.5), _linear(1.5), onnx_models.linear_model((1.0, 1.0, 1.0)))
    deployments = house.deployments
    invalid, precondition = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION
    await deployments.create("m@1", "d")
    await refused(deployments.create("m@1", "e", traffic=[_target(2, 10)]), invalid, "serves one version")
    await refused(deployments.update("d", "traffic", traffic=[_target(2, 60), _target(3, 50)]), invalid, "100")
    await refused(deployments.update("d", "traffic", traffic=[_target(2, float("nan"))]), invalid)
    await refused(deployments.update("d", "traffic", traffic=[_target(1, 10)]), invalid, "number 1")
    await refused(deployments.update("d", "traffic", traffic=[_target(2, 1), _target(2, 1)]), invalid, "number 2")
    await refused(deployments.update("d", "traffic", traffic=[_target(3, 10)]), precondition, "differ in x")
    await refused(deployments.update("d", "traffic", traffic=[_target(9, 10)]), grpc.StatusCode.NOT_FOUND)
    await refused(deployments.update("d", "canary", canary=_canary(2, steps=[50, 20])), invalid, "rise")
    await refused(deployments.update("d", "canary", canary=_canary(2, steps=[100])), invalid, "below 100")
    await refused(deployments.update("d", "shadow", shadow=deployments_pb.Shadow(version="m@3")), precondition)
    abort = deployments_pb.AbortCanaryRequest(name="d")
    promote = deployments_pb.PromoteCanaryRequest(name="d")
    await refused(deployments.stub.AbortCanary(abort, metadata=deployments.metadata), precondition, "no canary")
    await refused(deployments.stub.PromoteCanary(promote, metadata=deployments.metadata), precondition, "no canary")
    await deployments.update("d", "canary", canary=_canary(2))
    await refused(deployments.update("d", "traffic", traffic=[_target(2, 10)]), precondition, "promote or abort")
    await refused(deployments.update("d", "canary", canary=_canary(2)), precondition, "promote or abort")
    found = await deployments.stub.AbortCanary(abort, metadata=deployments.metadata)
    assert (found.canary.state, found.canary.message) == (ROLLED_BACK, "aborted by hand")
    await deployments.update("d", "traffic", traffic=[_target(2, 10)])
    await refused(deployments.update("d", "canary", canary=_canary(2)), precondition, "end the split")
    # Another version ends the split; one that the same update sets stays.
    found = await deployments.update("d", "version", version="m@2")
    assert (found.number, list(found.traffic)) == (2, [])
    found = await deployments.update("d", "version", "traffic", version="m@1", traffic=[_target(2, 5)])
    assert (found.number, [item.number for item in found.traffic]) == (1, [2])


CHANGES = 100


@pytest.mark.slow
async def test_a_hundred_changes_under_load_fail_no_request(house: House) -> None:
    await _register(house, *(_linear(float(number)) for number in range(1, 5)))
    rng = random.Random(20261123)
    made: Counter[str] = Counter()
    async with house.worker("w1") as first, house.worker("w2") as second:
        await _deployed(house)
        await until(lambda: _both_serve(first, second), "both workers to serve")
        async with _asking(first, second, tasks=3, pause=0.001) as load:
            while sum(made.values()) < CHANGES:
                name, change = rng.choice(_changes(house, rng, await house.deployments.get("d")))
                try:
                    await change()
                except LeptonError as error:
                    # The judge, or another change, was faster.
                    assert error.reason in ("ETAG_MISMATCH", "NO_CANARY", "CANARY_RUNNING"), error.message  # noqa: PT017
                    continue
                made[name] += 1
                # Some changes come before the one before is true anywhere.
                await asyncio.sleep(rng.choice((0.0, 0.02, 0.1, 0.3)))
            last = (await house.deployments.get("d")).number
            await house.deployments.until("d", last)
    assert load.failures == [], (len(load.failures), sum(load.answers.values()), load.failures[:3])
    assert set(made) == {"update", "split", "canary", "promote", "abort", "rollback", "shadow"}
    assert sum(load.answers.values()) > 1000
    # Each version gave its own answers alone.
    assert set(load.answers) <= {(str(number), 2.0 + number) for number in range(1, 5)}
    assert len(load.versions) == 4
    print(f"{CHANGES} changes {dict(made)}: {sum(load.answers.values()):,} requests, {len(load.failures)} failed")


async def _both_serve(*workers: Worker) -> bool:
    ready = [await item.stub.ModelReady(pb.ModelReadyRequest(name="d"), metadata=item.metadata) for item in workers]
    return all(answer.ready for answer in ready)


def _changes(
    house: House, rng: random.Random, present: deployments_pb.Deployment
) -> list[tuple[str, Callable[[], Awaitable[object]]]]:
    """Return the changes that are allowed now, each by its name."""
    deployments, metadata = house.deployments, house.deployments.metadata
    others = [number for number in range(1, 5) if number not in (present.number, present.shadow.number)]
    one, two = rng.sample(others, 2)
    canary = deployments_pb.Canary(version=f"m@{one}", steps=[30], min_requests=30, step_seconds=0.1)
    canary.max_latency_ratio = 0.0
    found: list[tuple[str, Callable[[], Awaitable[object]]]] = [
        ("update", lambda: deployments.update("d", "version", version=f"m@{one}")),
        ("shadow", lambda: deployments.update("d", "shadow")),
    ]
    if present.canary.state == RUNNING:
        promote, abort = deployments_pb.PromoteCanaryRequest(name="d"), deployments_pb.AbortCanaryRequest(name="d")
        found.append(("promote", lambda: deployments.stub.PromoteCanary(promote, metadata=metadata)))
        found.append(("abort", lambda: deployments.stub.AbortCanary(abort, metadata=metadata)))
    else:
        traffic = [_target(one, 40), _target(two, 20)]
        found.append(("split", lambda: deployments.update("d", "traffic", traffic=traffic)))
        if not present.traffic:
            found.append(("canary", lambda: deployments.update("d", "canary", canary=canary)))
            found.append(("canary", lambda: deployments.update("d", "canary", canary=canary)))
            shadow = deployments_pb.Shadow(version=f"m@{two}")
            found.append(("shadow", lambda: deployments.update("d", "shadow", shadow=shadow)))
    if present.previous_number:
        found.append(("rollback", lambda: deployments.roll_back("d")))
    return found
