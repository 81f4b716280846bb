from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from services.scheduler.domain.board import Board
from services.scheduler.domain.cluster import (
    Cause,
    Cluster,
    Load,
    PlaceReplica,
    Policy,
    ReplicaState,
    WorkerKind,
    WorkerState,
)
from services.scheduler.domain.plan import plan
from services.scheduler.domain.replicas import current
from tests.scheduler.clusters import World, assert_within_capacity, changes, clusters


def _random_states(data: st.DataObject, cluster: Cluster) -> Cluster:
    states = st.sampled_from([ReplicaState.READY] * 3 + list(ReplicaState))
    placements = tuple(replace(p, state=data.draw(states)) for p in cluster.replica_placements)
    return replace(cluster, replica_placements=placements)


@given(st.data())
def test_no_worker_ever_holds_more_than_it_has(data: st.DataObject) -> None:
    world = World(data.draw(clusters()))
    for _ in range(4):
        world.step()
        assert_within_capacity(world.cluster)
        world.cluster = _random_states(data, world.cluster)
        world.cluster = data.draw(changes(world.cluster))


@given(st.data())
def test_plans_applied_again_and_again_end_in_one_without_moves(data: st.DataObject) -> None:
    world = World(data.draw(clusters()))
    world.settle()
    for _ in range(2):
        world.cluster = data.draw(changes(world.cluster))
        world.settle()
    assert plan(world.cluster).moves == ()
    # Time lets replicas move that were too young to, from a busy worker to a better one, and at some point no more.
    for _ in range(8):
        world.change(now=world.cluster.now + 10_000)
        if not plan(world.cluster).moves:
            return
        world.settle()
    raise AssertionError("replicas move for ever")


@given(st.data())
def test_the_plan_does_not_depend_on_order(data: st.DataObject) -> None:
    world = World(data.draw(clusters()))
    world.settle()
    cluster = _random_states(data, data.draw(changes(world.cluster)))
    shuffled = Cluster(
        tuple(data.draw(st.permutations(cluster.workers))),
        tuple(data.draw(st.permutations(cluster.deployments))),
        tuple(data.draw(st.permutations(cluster.jobs))),
        tuple(data.draw(st.permutations(cluster.replica_placements))),
        tuple(data.draw(st.permutations(cluster.job_placements))),
        cluster.now,
        cluster.policy,
    )
    assert plan(cluster) == plan(shuffled)


@given(st.data())
def test_a_served_deployment_is_served_in_every_round_of_a_change(data: st.DataObject) -> None:
    world = World(data.draw(clusters()))
    world.settle()
    before = {d.key.deployment for d in world.cluster.deployments if world.ready(d.key.deployment)}
    changed = data.draw(changes(world.cluster))
    # Losses take what they take: nobody could have helped. All else may not interrupt.
    alive = {w.name: w.state for w in world.cluster.workers}
    workers = tuple(
        replace(w, state=alive[w.name]) if w.state is WorkerState.LOST and w.name in alive else w
        for w in changed.workers
    )
    # Nor may work that reports slowly: states stay as they are while the new replicas come up one round at a time.
    world.cluster = replace(changed, workers=workers)
    still = before & {d.key.deployment for d in changed.deployments}
    for _ in range(100):
        moves = world.step().moves
        for name in still:
            assert world.ready(name), (name, moves)
        if not moves:
            return
        world.load()
    raise AssertionError("no fixed point")


@given(clusters())
def test_all_work_that_fits_somewhere_is_placed(cluster: Cluster) -> None:
    world = World(cluster)
    world.settle()
    board = Board(world.cluster)
    for wanted in world.cluster.deployments:
        here = current(board, wanted)
        if len(here) >= wanted.replicas and not cluster.policy.cover:
            continue
        for worker in board.active(WorkerKind.INFERENCE):
            fits = board.with_replica(worker, wanted).fits(worker.capacity)
            assert board.holds(worker.name, wanted.key) or not fits
    placed = {p.key for p in world.cluster.job_placements}
    unplaced = {u.key for u in plan(world.cluster).unplaced}
    for wanted_job in world.cluster.jobs:
        assert (wanted_job.key in placed) != (wanted_job.key in unplaced)


@given(clusters())
def test_what_is_missing_is_reported_with_its_count(cluster: Cluster) -> None:
    world = World(cluster)
    world.settle()
    reported = {u.key: u.missing for u in plan(world.cluster).unplaced}
    board = Board(world.cluster)
    for wanted in world.cluster.deployments:
        missing = max(0, wanted.replicas - len(current(board, wanted)))
        assert reported.get(wanted.key.owner, 0) == missing


@given(st.data())
def test_draining_empties_a_worker_where_others_have_room(data: st.DataObject) -> None:
    world = World(data.draw(clusters()))
    world.settle()
    active = [w.name for w in world.cluster.workers if w.state is WorkerState.ACTIVE]
    if not active:
        return
    name = data.draw(st.sampled_from(active))
    world.set_worker(name, state=WorkerState.DRAINING, drained_at=world.cluster.now)
    world.settle()
    board = Board(world.cluster)
    wanted = {d.key.owner: d for d in world.cluster.deployments}
    for placement in board.replicas_on(name):
        # What stays is what nobody else could take.
        assert not current(board, wanted[placement.key.owner])
    assert not [p for p in world.cluster.job_placements if p.worker == name]


@given(st.data())
def test_work_of_a_lost_worker_is_elsewhere_after_one_round(data: st.DataObject) -> None:
    world = World(data.draw(clusters()))
    world.settle()
    if not world.cluster.workers:
        return
    name = data.draw(st.sampled_from([w.name for w in world.cluster.workers]))
    world.set_worker(name, state=WorkerState.LOST)
    unplaced = {u.key for u in world.step().unplaced}
    board = Board(world.cluster)
    assert not board.replicas_on(name)
    for wanted in world.cluster.deployments:
        assert len(current(board, wanted)) >= wanted.replicas or wanted.key.owner in unplaced
    placed = {p.key for p in world.cluster.job_placements}
    assert all(j.key in placed or j.key in unplaced for j in world.cluster.jobs)


@given(st.data())
def test_epochs_of_a_job_only_rise(data: st.DataObject) -> None:
    world = World(data.draw(clusters()))
    highest: dict[object, int] = {}
    for _ in range(5):
        before = {(p.worker, p.key): p.epoch for p in world.cluster.job_placements}
        world.step()
        for placement in world.cluster.job_placements:
            if (placement.worker, placement.key) not in before:
                assert placement.epoch > highest.get(placement.key, 0)
            highest[placement.key] = placement.epoch
        world.cluster = replace(
            data.draw(changes(world.cluster)), jobs=world.cluster.jobs, deployments=world.cluster.deployments
        )


def _with_loads(cluster: Cluster, busy: float) -> Cluster:
    """Let every replica keep a part of the cores busy that it declares, wherever it stands."""
    board = Board(cluster)
    workers = tuple(
        replace(w, load=Load(cpu_utilization=busy * board.used(w.name).cores / w.capacity.cores))
        for w in cluster.workers
    )
    return replace(cluster, workers=workers)


@given(clusters(cover=False), st.sampled_from([0.0, 0.5, 1.0]))
def test_balancing_only_ever_lowers_the_busiest(cluster: Cluster, busy: float) -> None:
    world = World(cluster)
    world.settle()
    for _ in range(60):
        world.cluster = replace(_with_loads(world.cluster, busy), now=world.cluster.now + 1000)
        board = Board(world.cluster)
        before = sorted((board.score(w) for w in board.active(WorkerKind.INFERENCE)), reverse=True)
        placed = len(world.cluster.replica_placements)
        moves = world.step().moves
        assert len(moves) <= cluster.policy.moves_per_round
        if not moves:
            return
        assert all(isinstance(m, PlaceReplica) and m.cause is Cause.BALANCE for m in moves)
        world.load()
        while world.step().moves:
            pass
        world.cluster = _with_loads(world.cluster, busy)
        board = Board(world.cluster)
        after = sorted((board.score(w) for w in board.active(WorkerKind.INFERENCE)), reverse=True)
        # Room that a move makes may go to a replica that had waited for it: more is placed then.
        assert after < before or len(world.cluster.replica_placements) > placed
    raise AssertionError("balancing does not end")


@given(st.data())
def test_nothing_is_torn_down_while_workers_have_not_reported(data: st.DataObject) -> None:
    # A scheduler that has just started knows placements, not states: it must not take what serves for what does not.
    world = World(data.draw(clusters()))
    world.settle()
    silent = tuple(replace(p, state=ReplicaState.UNKNOWN) for p in world.cluster.replica_placements)
    assert plan(replace(world.cluster, replica_placements=silent)).moves == ()


def test_default_policy_covers_workers() -> None:
    assert Policy().cover
