"""The planner's rules, one example each."""

from dataclasses import replace
from typing import Any

import pytest

from services.scheduler.domain.cluster import (
    Cause,
    Cluster,
    DeploymentKey,
    JobState,
    Load,
    PlaceJob,
    PlaceReplica,
    Policy,
    Reason,
    RemoveJob,
    RemoveReplica,
    Resources,
    WantedDeployment,
    WorkerState,
)
from services.scheduler.domain.plan import plan
from tests.scheduler.clusters import (
    NOW,
    World,
    deployment,
    inference_worker,
    job,
    resources,
    running,
    training_worker,
)

SPARSE = Policy(cover=False)


def _world(*parts: object, policy: Policy | None = None) -> World:
    from services.scheduler.domain.cluster import WantedJob, Worker

    return World(
        Cluster(
            tuple(p for p in parts if isinstance(p, Worker)),
            tuple(p for p in parts if isinstance(p, WantedDeployment)),
            tuple(p for p in parts if isinstance(p, WantedJob)),
            now=NOW,
            policy=policy or Policy(),
        )
    )


def test_nothing_wanted_is_an_empty_plan() -> None:
    assert plan(Cluster(workers=(inference_worker("w1"),))).moves == ()


def test_a_deployment_gets_a_replica_on_every_worker_that_has_room() -> None:
    world = _world(
        inference_worker("w1"), inference_worker("w2"), inference_worker("full", mib=128), deployment("credit")
    )
    world.settle()
    assert world.ready("credit") == {"w1", "w2"}


def test_without_cover_the_asked_number_is_spread_over_workers() -> None:
    workers = [inference_worker(f"w{i}") for i in range(4)]
    world = _world(*workers, deployment("credit", replicas=3), policy=SPARSE)
    world.settle()
    assert len(world.ready("credit")) == 3


def test_replicas_go_to_the_least_busy_worker() -> None:
    world = _world(inference_worker("busy", cpu=0.9), inference_worker("idle"), deployment("credit"), policy=SPARSE)
    world.settle()
    assert world.ready("credit") == {"idle"}


def test_gpu_work_goes_to_gpu_workers_and_other_work_leaves_them_free() -> None:
    world = _world(
        inference_worker("plain"),
        inference_worker("gpu", gpus=1),
        deployment("big", needs=resources(gpus=1)),
        deployment("small"),
        policy=SPARSE,
    )
    world.settle()
    assert world.ready("big") == {"gpu"}
    assert world.ready("small") == {"plain"}


def test_cover_yields_to_a_deployment_that_has_no_replica() -> None:
    world = _world(inference_worker("w1", mib=256), inference_worker("w2", mib=256), deployment("first"))
    world.settle()
    assert world.ready("first") == {"w1", "w2"}
    world.change(deployments=(*world.cluster.deployments, deployment("second")))
    world.settle()
    assert len(world.ready("first")) == len(world.ready("second")) == 1


def test_a_new_version_serves_before_the_old_one_goes() -> None:
    world = _world(inference_worker("w1"), deployment("credit", 1))
    world.settle()
    world.change(deployments=(deployment("credit", 2),))
    assert [type(m) for m in world.step().moves] == [PlaceReplica]
    assert world.step().moves == ()
    world.load()
    (move,) = world.step().moves
    assert isinstance(move, RemoveReplica) and (move.key.number, move.cause) == (1, Cause.SUPERSEDED)


def test_each_worker_hands_over_by_itself() -> None:
    world = _world(inference_worker("w1"), inference_worker("w2"), deployment("credit", 1))
    world.broken = frozenset({("w2", "credit", 2)})
    world.settle()
    world.change(deployments=(deployment("credit", 2),))
    world.settle()
    assert world.ready("credit", 2) == {"w1"}
    # Clients of the shared port that reach w2 are still served.
    assert world.ready("credit", 1) == {"w2"}


def test_a_version_that_never_loads_leaves_the_old_one_serving() -> None:
    world = _world(inference_worker("w1"), deployment("credit", 1))
    world.broken = frozenset({("w1", "credit", 2)})
    world.settle()
    world.change(deployments=(deployment("credit", 2),))
    world.settle()
    assert world.ready("credit", 1) == {"w1"}
    (unplaced,) = plan(world.cluster).unplaced
    assert unplaced.reason is Reason.LOAD_FAILED


def test_a_worker_full_of_cores_still_hands_over() -> None:
    world = _world(inference_worker("w1", cores=0.5), deployment("credit", 1))
    world.settle()
    world.change(deployments=(deployment("credit", 2),))
    world.settle()
    assert world.ready("credit") == world.ready("credit", 2) == {"w1"}


def test_a_lone_worker_without_memory_for_both_versions_keeps_serving_the_old_one() -> None:
    world = _world(inference_worker("w1", mib=256), deployment("credit", 1))
    world.settle()
    world.change(deployments=(deployment("credit", 2),))
    world.settle()
    assert world.ready("credit", 1) == {"w1"}
    (unplaced,) = plan(world.cluster).unplaced
    assert unplaced.reason is Reason.NO_ROOM and "256 MiB" in unplaced.message


def test_two_full_workers_change_the_version_one_after_the_other() -> None:
    world = _world(inference_worker("w1", mib=256), inference_worker("w2", mib=256), deployment("credit", 1))
    world.settle()
    world.change(deployments=(deployment("credit", 2),))
    for _ in range(5):
        world.step()
        assert world.ready("credit")
        world.load()
    assert world.ready("credit", 2) == {"w1", "w2"}


def test_replicas_leave_a_draining_worker_only_when_others_serve() -> None:
    world = _world(inference_worker("w1"), deployment("credit"))
    world.settle()
    world.change(workers=(replace(inference_worker("w1"), state=WorkerState.DRAINING), inference_worker("w2")))
    assert [m.worker for m in world.step().moves] == ["w2"]
    assert world.step().moves == ()
    world.load()
    assert [type(m) for m in world.step().moves] == [RemoveReplica]
    assert world.ready("credit") == {"w2"}


def test_the_last_worker_keeps_serving_while_it_drains() -> None:
    world = _world(inference_worker("w1"), deployment("credit"))
    world.settle()
    world.set_worker("w1", state=WorkerState.DRAINING)
    made = world.step()
    assert made.moves == ()
    assert made.unplaced[0].reason is Reason.NO_WORKER


def test_a_joining_worker_takes_load_from_a_busy_one() -> None:
    deployments = [deployment(f"d{i}", needs=resources(1)) for i in range(4)]
    world = _world(inference_worker("w1"), *deployments, policy=SPARSE)
    world.settle()
    world.change(workers=(*world.cluster.workers, inference_worker("w2")), now=NOW + 1000)
    world.settle()
    held = [len([p for p in world.cluster.replica_placements if p.worker == name]) for name in ("w1", "w2")]
    assert held == [2, 2]


def test_lopsided_utilisation_moves_replicas_too() -> None:
    deployments = [deployment(f"d{i}", needs=resources(1)) for i in range(4)]
    world = _world(inference_worker("w1"), inference_worker("w2"), *deployments, policy=SPARSE)
    world.settle()
    world.set_worker("w1", load=Load(cpu_utilization=0.9))
    world.change(now=NOW + 1000)
    begun = plan(world.cluster).moves[0]
    assert isinstance(begun, PlaceReplica) and (begun.worker, begun.cause) == ("w2", Cause.BALANCE)


def test_a_small_difference_moves_nothing() -> None:
    deployments = [deployment(f"d{i}", needs=resources(0.5)) for i in range(3)]
    world = _world(inference_worker("w1"), inference_worker("w2"), *deployments, policy=SPARSE)
    world.settle()
    assert plan(replace(world.cluster, now=NOW + 1000)).moves == ()


def test_jobs_run_in_the_order_of_their_creation() -> None:
    jobs = [job("late", NOW - 1, resources(4)), job("early", NOW - 2, resources(4))]
    world = _world(training_worker("t1"), *jobs)
    world.step()
    assert world.job_worker("early") == "t1"
    assert world.job_worker("late") is None


def test_a_small_job_overtakes_a_big_one_that_has_no_room_but_not_for_ever() -> None:
    occupant, big, small = (
        job("occupant", NOW - 3, resources(2)),
        job("big", NOW - 2, resources(4)),
        job("small", NOW - 1),
    )
    world = _world(training_worker("t1"), occupant)
    world.step()
    world.change(jobs=(occupant, big, small))
    world.step()
    assert world.job_worker("small") == "t1"
    smaller = job("smaller", NOW)
    world.change(jobs=(occupant, big, small, smaller), now=NOW + 100)
    world.step()
    assert world.job_worker("smaller") is None
    world.change(jobs=(big, smaller))
    world.step()
    assert world.job_worker("big") == "t1"


def test_a_job_that_no_worker_is_large_enough_for_stops_nobody() -> None:
    world = _world(training_worker("t1"), job("huge", NOW - 1000, resources(64)), job("small"))
    made = world.step()
    assert world.job_worker("small") == "t1"
    assert [u.reason for u in made.unplaced] == [Reason.TOO_LARGE]


def test_running_jobs_do_not_move_for_balance() -> None:
    jobs = [job(f"j{i}", NOW + i) for i in range(4)]
    world = _world(training_worker("t1"), *jobs)
    world.settle()
    world.change(workers=(*world.cluster.workers, training_worker("t2")), now=NOW + 1000)
    assert plan(world.cluster).moves == ()


def test_a_job_of_a_lost_worker_is_placed_elsewhere_at_once() -> None:
    queued = job("j")
    world = _world(training_worker("t1"), training_worker("t2"), queued)
    world.settle()
    first = world.job_worker("j")
    assert first is not None
    world.change(jobs=(running(queued, first, world.epoch),))
    world.set_worker(first, state=WorkerState.LOST)
    world.step()
    assert world.job_worker("j") == ({"t1", "t2"} - {first}).pop()


def test_a_draining_worker_gives_its_job_back_before_another_takes_it() -> None:
    queued = job("j")
    world = _world(training_worker("t1"), queued)
    world.settle()
    taken = running(queued, "t1", world.epoch)
    draining = replace(training_worker("t1"), state=WorkerState.DRAINING, drained_at=NOW)
    world.change(jobs=(taken,), workers=(draining, training_worker("t2")))
    made = world.step()
    assert [type(m) for m in made.moves] == [RemoveJob]
    assert made.unplaced[0].reason is Reason.WAITS_FOR_GIVE_BACK
    given_back = replace(taken, state=JobState.QUEUED)
    assert [m.worker for m in plan(replace(world.cluster, jobs=(given_back,))).moves] == ["t2"]
    # A worker that never gives it back does not hold it for ever.
    late = plan(replace(world.cluster, now=NOW + 16))
    assert [m.worker for m in late.moves] == ["t2"]


def test_a_job_that_its_worker_gave_back_is_placed_anew_and_rather_elsewhere() -> None:
    queued = job("j")
    world = _world(training_worker("t1"), training_worker("t2"), queued)
    world.settle()
    first = world.job_worker("j")
    assert first is not None
    world.change(jobs=(replace(queued, worker=first, epoch=world.epoch),))
    removed, placed = world.step().moves
    assert isinstance(removed, RemoveJob) and removed.cause is Cause.GIVEN_BACK
    assert isinstance(placed, PlaceJob) and placed.worker != first
    assert world.step().moves == ()


def test_an_ended_job_leaves_its_worker() -> None:
    world = _world(training_worker("t1"), job("j"))
    world.settle()
    world.change(jobs=())
    assert [type(m) for m in world.step().moves] == [RemoveJob]


def test_a_moved_alias_is_told_to_workers_without_a_reload() -> None:
    wanted = deployment("credit")
    world = _world(inference_worker("w1"), wanted)
    world.settle()
    world.change(deployments=(replace(wanted, aliases=("champion",)),))
    (move,) = world.step().moves
    assert isinstance(move, PlaceReplica) and move.cause is Cause.CHANGED
    assert world.step().moves == ()
    assert world.ready("credit") == {"w1"}


@pytest.mark.parametrize(
    ("needs", "room", "fits"),
    [
        (Resources(0.1 + 0.2), Resources(0.3), True),
        (Resources(1, 2), Resources(1, 1), False),
        (Resources(gpus=1), Resources(8, 8), False),
    ],
)
def test_resources_fit_with_rounding_but_no_more(needs: Resources, room: Resources, fits: bool) -> None:
    assert needs.fits(room) is fits


def _tiny(name: str, **more: Any) -> WantedDeployment:
    """Return a deployment of which nothing is declared."""
    return replace(deployment(name, needs=Resources(0.002, 4 << 20)), declared=Resources(), **more)


def test_two_hundred_tiny_models_serve_on_two_cores() -> None:
    names = [f"tiny-{number}" for number in range(200)]
    world = _world(inference_worker("w1", cores=1), inference_worker("w2", cores=1), *map(_tiny, names))
    world.settle()
    assert all(world.ready(name) == {"w1", "w2"} for name in names)
    assert world.step().unplaced == ()


def test_what_served_before_is_placed_before_what_never_served() -> None:
    needs = resources(1.0)
    world = _world(
        inference_worker("w1", cores=2),
        deployment("a-new", needs=needs),
        replace(deployment("b-served", needs=needs), has_served=True),
        deployment("c-new", needs=needs),
        replace(deployment("d-served", needs=needs), has_served=True),
    )
    world.settle()
    assert {name for name in ("a-new", "b-served", "c-new", "d-served") if world.ready(name)} == {
        "b-served",
        "d-served",
    }
    assert {(item.key, item.reason) for item in world.step().unplaced} == {
        (DeploymentKey("default", name), Reason.NO_ROOM) for name in ("a-new", "c-new")
    }


@pytest.mark.parametrize(
    ("needs", "lacks"),
    [
        (resources(2.0, 64), "0.5 of 2 cores"),
        (resources(1.0, 3000), "952 of 3000 MiB memory"),
        (resources(2.0, 3000), "0.5 of 2 cores and 952 of 3000 MiB memory"),
    ],
)
def test_what_has_no_room_is_told_what_is_missing(needs: Resources, lacks: str) -> None:
    world = _world(
        inference_worker("w1"), deployment("first", needs=resources(2.5, 2048)), deployment("x", needs=needs)
    )
    world.change(deployments=(replace(world.cluster.deployments[0], has_served=True), world.cluster.deployments[1]))
    (unplaced,) = world.step().unplaced
    assert unplaced.reason is Reason.NO_ROOM
    assert f"w1, the closest of 1, lacks {lacks};" in unplaced.message


def test_a_reservation_that_follows_measurement_moves_no_replica() -> None:
    world = _world(inference_worker("w1", cores=1), inference_worker("w2", cores=1), _tiny("a"), _tiny("b"))
    world.settle()
    grown = replace(_tiny("a"), resources=Resources(0.9, 4 << 20))
    world.change(deployments=(grown, replace(_tiny("b"), resources=Resources(0.9, 4 << 20))))
    moves = world.step().moves
    # Where it fits it is noted, and nothing is removed, or placed anew.
    assert all(isinstance(move, PlaceReplica) and move.cause is Cause.CHANGED for move in moves)
    world.settle()
    assert world.ready("a") == world.ready("b") == {"w1", "w2"}
    assert world.step().unplaced == ()


def test_cores_that_follow_measurement_are_shared_where_no_worker_has_them_free() -> None:
    busy = [replace(_tiny(f"m{number}"), resources=Resources(0.9, 4 << 20)) for number in range(5)]
    world = _world(inference_worker("w1", cores=1), *busy)
    world.settle()
    assert all(world.ready(f"m{number}") == {"w1"} for number in range(5))
    declared = replace(deployment("declared", needs=resources(0.9)), declared=Resources(0.9))
    world.change(deployments=(*world.cluster.deployments, declared))
    assert [item.key.deployment for item in world.step().unplaced if isinstance(item.key, DeploymentKey)] == [
        "declared"
    ]
