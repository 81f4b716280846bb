"""The response cache: the same tensors get the same answer without a run; bounded by bytes; one run for a crowd."""

import numpy as np
import pytest

from servicekit.errors import Cancelled, Internal, InvalidArgument, ResourceExhausted
from services.inference.open_inference import grpc_service_pb2 as pb
from services.inference.serving.batches import Batch, Work, find_form
from services.inference.serving.model import LoadedModel
from services.inference.serving.response_cache import ResponseCache, Taken
from tests.inference.house import House, Worker, until
from tests.inference.models import identity
from tests.inference.test_batcher import Asked, _floats, looking_up
from tests.inference.test_limits import counting


@pytest.fixture
def model() -> LoadedModel:
    found = identity("FP32")
    found.cache = ResponseCache(1 << 20)
    return found


def test_same_tensors_are_answered_without_a_run(model: LoadedModel) -> None:
    asked = Asked()
    array = _floats(2)
    first = asked.ask(model, array)
    asked.finish()
    again = asked.ask(model, array.copy())
    asked.finish()
    other = asked.ask(model, _floats(2, 1.0))
    asked.finish()
    for work in (first, again):
        assert np.array_equal(work.arrays()[0], array)
    assert other.arrays()[0][0, 0] == 1.0
    seen = model.statistics
    assert (seen.executions, seen.cache_hits, seen.cache_misses, seen.requests) == (2, 1, 2, 3)


def test_raw_and_typed_requests_share_an_entry(model: LoadedModel) -> None:
    asked = Asked()
    array = _floats(1)
    asked.ask(model, array)
    asked.finish()
    form, rows = find_form(model, ("y",), {"x": array})
    work = Work(form, [memoryview(array.tobytes())], rows, asked._take, is_checked=False)
    asked.works.append(work)
    asked.batcher.submit(work)
    asked.finish()
    assert model.statistics.executions == 1
    assert np.array_equal(work.arrays()[0], array)


def test_crowd_costs_one_run_each_with_its_answer(model: LoadedModel) -> None:
    asked = Asked()
    for _ in range(5):
        asked.ask(model, _floats(3))
    asked.finish()
    assert model.statistics.executions == 1
    assert all(np.array_equal(work.arrays()[0], _floats(3)) for work in asked.works)


def test_leader_that_goes_away_leaves_its_followers_an_answer() -> None:
    model = counting()
    model.cache = ResponseCache(1 << 20)
    asked = Asked(slots=2)
    leader = asked.ask(model, np.array(5_000_000))
    asked.batcher.flush()
    follower = asked.ask(model, np.array(5_000_000))
    asked.batcher.cancel(leader)
    asked.finish()
    assert isinstance(leader.error, Cancelled)
    assert follower.error is None
    assert follower.arrays()[0].shape == ()


def test_refused_leader_tells_nothing_to_who_waits_for_the_next_one(model: LoadedModel) -> None:
    cache = ResponseCache(1 << 20)
    told: list[Work] = []
    form, rows = find_form(model, ("y",), {"x": _floats(1)})
    refused, leader, follower, late = (Work(form, [_floats(1)], rows, told.append) for _ in range(4))
    assert cache.take(refused, told.append) is Taken.RUNS
    cache.forget(refused)
    # Another thread's, before the refused one is told.
    assert cache.take(leader, told.append) is Taken.RUNS
    assert cache.take(follower, told.append) is Taken.WAITS
    refused.error = ResourceExhausted("full")
    refused.done(refused)
    assert told == [refused]
    assert cache.take(late, told.append) is Taken.WAITS
    Batch([leader]).run()
    leader.done(leader)
    assert told == [refused, leader, follower, late]
    assert follower.error is late.error is None


def test_what_waits_for_an_answer_is_bounded_like_what_is_kept(model: LoadedModel) -> None:
    cache = ResponseCache(10_000)
    told: list[Work] = []
    form, rows = find_form(model, ("y",), {"x": _floats(1)})

    def come() -> Work:
        return Work(form, [_floats(1)], rows, told.append, size_bytes=3000)

    for _ in range(2):
        leader = come()
        assert cache.take(leader, told.append) is Taken.RUNS
        assert [cache.take(come(), told.append) for _ in range(2)] == [Taken.WAITS] * 2
        # By itself: the queue's limits are its own.
        alone = come()
        assert cache.take(alone, told.append) is Taken.RUNS
        alone.done(alone)
        leader.error = Internal("failed")
        leader.done(leader)
        assert len(told) == 4
        told.clear()


def test_error_is_told_to_all_and_not_kept() -> None:
    model = looking_up()
    model.cache = ResponseCache(1 << 20)
    asked = Asked()
    for _ in range(2):
        asked.ask(model, np.array([[99]]))
    asked.finish()
    asked.ask(model, np.array([[99]]))
    asked.finish()
    assert all(isinstance(work.error, InvalidArgument) for work in asked.works)
    assert model.cache.size_bytes == 0


def test_bytes_are_bounded_and_the_least_recently_used_goes_first(model: LoadedModel) -> None:
    asked = Asked()
    model.cache = ResponseCache(2000)
    for first in (0, 1, 0, 2):
        asked.ask(model, _floats(10, first))
        asked.finish()
        assert model.cache.size_bytes <= 2000
    executions = model.statistics.executions
    asked.ask(model, _floats(10, 0))
    asked.finish()
    assert model.statistics.executions == executions
    # An answer that is larger than all is not kept, and empties nothing.
    held = model.cache.size_bytes
    asked.ask(model, _floats(1000))
    asked.finish()
    assert model.cache.size_bytes == held


def test_other_outputs_versions_and_shapes_are_other_entries() -> None:
    cache = ResponseCache(1 << 20)
    first, second = identity("FP32"), identity("FP32")
    first.cache = second.cache = cache
    second.digest = "another"
    asked = Asked()
    for model in (first, second, first):
        asked.ask(model, _floats(1))
        asked.finish()
    assert (first.statistics.executions, second.statistics.executions) == (1, 1)


async def test_deployment_keeps_answers_while_it_is_wished(house: House) -> None:
    await house.developer.register("m")
    async with house.worker() as worker:
        await house.deployments.create("m@1", response_cache_bytes=1 << 20)
        found = await house.deployments.until("m", 1)
        assert found.response_cache_bytes == 1 << 20
        answers = {await worker.infer("m") for _ in range(5)}
        assert len(answers) == 1
        assert await _hits(worker) == 4
        await house.deployments.update("m", "response_cache_bytes", response_cache_bytes=0)

        async def keeps_none() -> bool:
            before = await _hits(worker)
            await worker.infer("m")
            return await _hits(worker) == before

        await until(keeps_none, "the cache to end")


async def _hits(worker: Worker) -> int:
    request = pb.ModelStatisticsRequest(name="m")
    answer = await worker.stub.ModelStatistics(request, metadata=worker.metadata)
    return int(answer.model_stats[0].inference_stats.cache_hit.count)
