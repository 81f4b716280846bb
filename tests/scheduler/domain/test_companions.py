"""Versions beside a deployment's own: where they go, and to whom they yield."""

from dataclasses import replace

from services.scheduler.domain.cluster import (
    Cluster,
    DeploymentKey,
    PlaceReplica,
    Policy,
    ReplicaPlacement,
    ReplicaState,
    WantedDeployment,
    Worker,
)
from services.scheduler.domain.routing import Role, Routing
from services.scheduler.domain.wanted import Wanted, deployments_or_placed
from tests.scheduler.clusters import NOW, World, beside, deployment, inference_worker, resources


def _world(*workers: Worker, wanted: WantedDeployment, cover: bool = True) -> World:
    world = World(Cluster(workers, (wanted,), now=NOW, policy=Policy(cover=cover)))
    world.settle()
    return world


def _roles(world: World, worker: str = "w1") -> dict[int, Role]:
    return {p.key.number: p.routing.role for p in world.cluster.replica_placements if p.worker == worker}


def test_a_canary_stands_wherever_the_deployments_own_version_stands() -> None:
    workers = (inference_worker("w1"), inference_worker("w2"))
    world = _world(*workers, wanted=beside(deployment("credit"), canary=2))
    assert world.ready("credit", 2) == world.ready("credit", 1) == {"w1", "w2"}
    sparse = _world(*workers, wanted=beside(deployment("credit"), canary=2), cover=False)
    assert sparse.ready("credit", 2) == sparse.ready("credit", 1)
    assert len(sparse.ready("credit", 1)) == 1


def test_a_change_of_shares_alone_loads_nothing_and_keeps_the_placement() -> None:
    wanted = beside(deployment("credit"), canary=2)
    world = _world(inference_worker("w1"), wanted=wanted)
    before = {p.key: (p.placed_at, p.state) for p in world.cluster.replica_placements}
    (canary,) = wanted.companions
    grown = replace(canary, routing=replace(canary.routing, weight_percent=50.0))
    world.change(deployments=(replace(wanted, companions=(grown,)),))
    (move,) = world.step().moves
    assert isinstance(move, PlaceReplica) and move.wanted.routing.weight_percent == 50.0
    assert world.step().moves == ()
    assert {p.key: (p.placed_at, p.state) for p in world.cluster.replica_placements} == before


def test_the_former_version_stands_by_and_takes_over_without_a_load() -> None:
    world = _world(inference_worker("w1"), wanted=deployment("credit", 1))
    world.change(deployments=(beside(deployment("credit", 2), standby=1),))
    world.settle()
    assert _roles(world) == {1: Role.STANDBY, 2: Role.SERVING}
    world.change(deployments=(beside(deployment("credit", 1), standby=2),))
    moves = world.step().moves
    assert [type(move) for move in moves] == [PlaceReplica, PlaceReplica]
    assert _roles(world) == {1: Role.SERVING, 2: Role.STANDBY}
    assert world.ready("credit", 1) == {"w1"}


def test_a_standby_yields_to_whatever_is_wanted() -> None:
    world = _world(inference_worker("w1", mib=512), wanted=deployment("credit", 1))
    current = beside(deployment("credit", 2), standby=1)
    world.change(deployments=(current,))
    world.settle()
    assert set(_roles(world)) == {1, 2}
    world.change(deployments=(current, deployment("other", needs=resources(mib=200))))
    world.settle()
    assert world.ready("other") == {"w1"}
    assert world.ready("credit") == world.ready("credit", 2) == {"w1"}
    assert world.ready("credit", 1) == set()


def test_a_standby_yields_to_a_canary_and_to_cover() -> None:
    world = _world(inference_worker("w1", mib=512), wanted=deployment("credit", 1))
    world.change(deployments=(beside(deployment("credit", 2), standby=1),))
    world.settle()
    world.change(deployments=(beside(deployment("credit", 2), standby=1, canary=3),))
    world.settle()
    assert set(_roles(world)) == {2, 3}


def test_a_former_version_that_still_answers_does_not_yield() -> None:
    world = _world(inference_worker("w1", mib=512), wanted=deployment("credit", 1))
    world.broken = frozenset({("w1", "credit", 2)})
    world.change(deployments=(beside(deployment("credit", 2), standby=1),))
    world.settle()
    world.change(deployments=(*world.cluster.deployments, deployment("other", needs=resources(mib=400))))
    world.settle()
    assert world.ready("credit", 1) == {"w1"}


def test_two_changes_in_a_row_leave_one_standby() -> None:
    world = _world(inference_worker("w1", mib=512), wanted=deployment("credit", 1))
    for number in (2, 3):
        world.change(deployments=(beside(deployment("credit", number), standby=number - 1),))
        world.settle()
    # There was room for two: the older one went so that the newest could come.
    assert _roles(world) == {2: Role.STANDBY, 3: Role.SERVING}


def test_an_ended_canary_leaves_at_once() -> None:
    world = _world(inference_worker("w1"), wanted=beside(deployment("credit"), canary=2))
    world.change(deployments=(deployment("credit"),))
    world.settle()
    assert _roles(world) == {1: Role.SERVING}


def test_a_canary_without_room_does_not_keep_the_others_from_serving() -> None:
    world = _world(inference_worker("w1", mib=256), wanted=beside(deployment("credit"), canary=2))
    assert _roles(world) == {1: Role.SERVING}


def test_what_is_placed_counts_as_wanted_with_its_roles_until_the_owner_is_heard() -> None:
    unheard: Wanted[DeploymentKey, WantedDeployment] = Wanted()
    wanted = beside(deployment("credit"), canary=2)
    (canary,) = wanted.companions
    placements = [
        ReplicaPlacement("w1", wanted.key, epoch=1, state=ReplicaState.READY),
        ReplicaPlacement("w2", wanted.key, epoch=2, state=ReplicaState.READY),
        ReplicaPlacement("w1", canary.key, epoch=3, routing=canary.routing),
        ReplicaPlacement("w2", canary.key, epoch=4, routing=canary.routing),
    ]
    (kept,) = deployments_or_placed(unheard, placements)
    assert (kept.key, kept.routing) == (wanted.key, Routing())
    assert [(item.key, item.routing) for item in kept.companions] == [(canary.key, canary.routing)]


def test_a_version_that_serves_becomes_a_canary_only_when_another_one_answers() -> None:
    world = _world(inference_worker("w1"), wanted=deployment("credit", 2))
    world.change(deployments=(beside(deployment("credit", 1), canary=2),))
    world.step()
    assert _roles(world) == {1: Role.SERVING, 2: Role.SERVING}
    assert world.ready("credit") == {"w1"}
    world.load()
    world.settle()
    assert _roles(world) == {1: Role.SERVING, 2: Role.CANARY}
