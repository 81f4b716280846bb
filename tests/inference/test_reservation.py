"""Undeclared reservations follow what is measured, and noise moves nothing."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from lepton.v1 import scheduler_pb2
from lepton.v1.scheduler_pb2_grpc import SchedulerServiceStub
from servicekit.auth import Identity, act_as
from servicekit.database import open_database
from servicekit.events import connect
from servicekit.rpc import open_channel
from servicekit.state import State
from services.inference.adapters.repository import SqlRepository
from services.inference.adapters.tables import kit
from services.inference.domain.deployments import LEAST_CORES, LEAST_MEMORY_BYTES, Deployment, Resources
from services.inference.domain.reservation import Trends, follow
from services.inference.observation import Changes, Observer
from services.inference.reservations import ReservationFollower
from services.inference.serving.usage import CoreMeter, MemoryMeter
from tests.inference.house import House, until
from tests.inference.test_deployments import deployment
from tests.inference.test_worker import _register

_SMALL = replace(deployment(), resources=Resources(LEAST_CORES, LEAST_MEMORY_BYTES))


def _after(item: object, used: list[Resources], seconds: float) -> Resources:
    """Return what is reserved after looks of equal distance."""
    trends, now = Trends(), 0.0
    present = item if not isinstance(item, Resources) else replace(_SMALL, resources=item)
    for measured in used:
        present = replace(present, resources=follow(present, measured, trends, now))  # type: ignore[type-var, arg-type]
        now += seconds
    return present.resources  # type: ignore[attr-defined, no-any-return]


def test_a_busy_model_reserves_more_once_it_was_busy_for_half_a_minute() -> None:
    busy = Resources(0.3)
    assert _after(_SMALL, [busy] * 3, 10.0).cores == LEAST_CORES
    grown = _after(_SMALL, [busy] * 4, 10.0).cores
    assert 0.3 <= grown <= 0.6
    assert _after(_SMALL, [Resources(50.0)] * 4, 10.0).cores == 1.0


def test_a_quiet_model_gives_back_after_ten_minutes() -> None:
    assert _after(Resources(0.5, LEAST_MEMORY_BYTES), [Resources(0.0)] * 60, 10.0).cores == 0.5
    assert _after(Resources(0.5, LEAST_MEMORY_BYTES), [Resources(0.0)] * 62, 10.0).cores == LEAST_CORES


def test_memory_follows_the_loaded_model() -> None:
    assert _after(_SMALL, [Resources(0.0, 100 << 20)] * 4, 10.0).memory_bytes == 125 << 20
    # What was not measured says nothing.
    assert _after(Resources(0.5, 9 << 20), [Resources(0.0, 0)] * 99, 10.0).memory_bytes == 9 << 20
    assert _after(Resources(0.5, 64 << 20), [Resources(0.0, 1 << 20)] * 62, 10.0).memory_bytes == LEAST_MEMORY_BYTES


def test_what_is_declared_stays() -> None:
    item = replace(_SMALL, resources=Resources(0.5, 9 << 20, 1.0), declared=Resources(0.5, 9 << 20, 1.0))
    assert _after(item, [Resources(4.0, 1 << 30)] * 99, 10.0) == item.resources


@settings(deadline=None)
@given(st.lists(st.floats(0.3, 1.0), min_size=1, max_size=200))
def test_noise_within_the_reservation_changes_nothing(used: list[float]) -> None:
    assert _after(Resources(1.0, LEAST_MEMORY_BYTES), [Resources(share) for share in used], 10.0).cores == 1.0


def test_cores_are_the_mean_of_half_a_minute_and_begin_anew_with_a_new_load() -> None:
    now = 0.0
    meter = CoreMeter(lambda: now)
    assert meter.update(0.0) == 0.0
    now = 10.0
    assert meter.update(5.0) == 0.5
    now = 40.0
    assert meter.update(5.0) == 0.0
    now = 50.0
    assert meter.update(1.0) == 0.0
    now = 52.0
    assert meter.update(2.0) == 0.5


def test_memory_is_known_of_a_load_that_no_other_overlaps() -> None:
    meter = MemoryMeter()
    kept = []
    with meter.measuring(1) as alone:
        kept.append(bytearray(b"x") * (64 << 20))
    assert alone.size_bytes >= 32 << 20
    with meter.measuring(1) as first, meter.measuring(1) as second:
        kept.append(bytearray(b"x") * (1 << 20))
    assert (first.size_bytes, second.size_bytes) == (0, 0)
    with meter.measuring(7) as nothing:
        pass
    assert nothing.size_bytes >= 7


async def test_a_reservation_that_is_not_used_is_given_back_to_the_cluster(house: House) -> None:
    await _register(house, 0.5)
    await house.deployments.create("m@1")
    now = 0.0
    async with (
        house.worker(),
        open_database(house.database("inference"), "services.inference.migrations") as database,
        connect(house.process_settings("inference"), "follower") as nats,
    ):
        state = State(database, kit, SqlRepository)
        await house.deployments.until("m", 1, seconds=60.0)
        # Only now: memory is measured of a load that no other overlaps.
        await house.deployments.create("m@1", "declared", resources={"cores": 0.5, "memory_bytes": 1 << 28})
        await house.deployments.until("declared", 1, seconds=60.0)
        async with state.writing() as repository:
            large = replace(await repository.find("default", "m"), resources=Resources(1.0, 1 << 30))
            await repository.save_reserved(large)
        async with Observer(state, nats, Changes()) as observer:
            follower = ReservationFollower(state, observer, 3600.0, lambda: now)
            await until(lambda: _is_measured(observer, large), "the replica to be measured", 60.0)
            await follower.look()
            assert (await house.deployments.get("m")).resources.cores == 1.0
            now = 601.0
            await follower.look()
        found = (await house.deployments.get("m")).resources
        assert found.cores == LEAST_CORES
        assert LEAST_MEMORY_BYTES <= found.memory_bytes < 1 << 29
        assert (await house.deployments.get("declared")).resources.cores == 0.5
        await until(lambda: _allocates(house, 0.5 + LEAST_CORES), "the scheduler to hear of it", 60.0)


async def _is_measured(observer: Observer, item: Deployment) -> bool:
    used = observer.used(item)
    return used is not None and used.memory_bytes > 0


async def _allocates(house: House, cores: float) -> bool:
    async with open_channel(
        f"localhost:{house.scheduler.private_port}", house.process_settings("inference")
    ) as channel:
        with act_as(Identity.for_service("default", "inference")):
            listed = await SchedulerServiceStub(channel).ListWorkers(scheduler_pb2.ListWorkersRequest())
    return bool(abs(listed.workers[0].allocated.cores - cores) < 1e-6)
