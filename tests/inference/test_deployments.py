"""Deployments: what is derived from reports, and the repository's contract on SQLite and Postgres."""

import math
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servicekit.database import open_database
from servicekit.errors import Aborted, AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from servicekit.migrations import drift
from servicekit.paging import Page
from servicekit.state import State
from services.inference.adapters.repository import SqlRepository
from services.inference.adapters.tables import kit, metadata
from services.inference.domain.deployments import (
    Deployment,
    DeploymentState,
    ModelVersion,
    Observed,
    ReplicaState,
    Resources,
    SeenReplica,
    Waiting,
    absence,
    check_etag,
    check_ready,
    check_resources,
    names_version,
    observe,
    previous_ref,
    serve_version,
    with_defaults,
)

MIGRATIONS = "services.inference.migrations"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
Store = State[SqlRepository]
FIRST = ModelVersion("m", 1, "d1", 100, is_ready=True)
SECOND = ModelVersion("m", 2, "d2", 100, is_ready=True)


def deployment(name: str = "d", workspace: str = "default", version: str = "m@1", replicas: int = 1) -> Deployment:
    resources = Resources(0.1, 1 << 26, 0.0)
    return Deployment(workspace, name, version, 1, "d1", replicas, resources, 0, "", 0, Observed(), NOW, NOW)


_replicas = st.lists(
    st.builds(
        lambda worker, number, state: SeenReplica(worker, number, f"d{number}", state, "why", "CPU"),
        st.sampled_from(["w1", "w2", "w3"]),
        st.integers(1, 2),
        st.sampled_from(ReplicaState),
    ),
    max_size=5,
    unique_by=lambda replica: (replica.worker, replica.number),
)


@given(_replicas, st.integers(1, 3))
def test_state_follows_from_what_workers_report(replicas: list[SeenReplica], wanted: int) -> None:
    item = replace(deployment(replicas=wanted), number=2, digest="d2")
    found = observe(item, replicas)
    ready = [replica for replica in replicas if replica.number == 2 and replica.state is ReplicaState.READY]
    older = any(replica.number == 1 and replica.state is ReplicaState.READY for replica in replicas)
    failed = any(replica.number == 2 and replica.state is ReplicaState.FAILED for replica in replicas)
    holders = {replica.worker for replica in ready}
    behind = any(
        replica.number == 1 and replica.state is ReplicaState.READY and replica.worker not in holders
        for replica in replicas
    )
    # A worker that answers with another version is not ready, whatever the others are.
    assert (found.state is DeploymentState.READY) == (len(ready) >= wanted and not behind)
    assert found.ready_replicas == len(ready)
    assert found.state is not DeploymentState.FAILED or (failed and not ready)
    assert found.state is not DeploymentState.PENDING or not (ready or older)
    assert observe(item, list(reversed(replicas))).state is found.state


def test_a_version_kept_for_a_rollback_is_not_said_to_serve() -> None:
    item = replace(deployment(replicas=2), number=2, digest="d2")
    kept = SeenReplica("w1", 1, "d1", ReplicaState.READY, "", "CPU")
    wanted = SeenReplica("w1", 2, "d2", ReplicaState.READY, "", "CPU")
    assert observe(item, [kept, wanted]).message == "1 of 2 serve"
    assert observe(item, [replace(kept, worker="w2"), wanted]).message == "version 1 serves meanwhile"


def test_another_models_version_of_the_same_number_is_not_what_is_wanted() -> None:
    moved = serve_version(deployment(), "other@1", ModelVersion("other", 1, "d9", 100, is_ready=True))
    assert moved.previous_number == 0
    old = SeenReplica("w1", 1, "d1", ReplicaState.READY, "", "CPU")
    assert observe(moved, [old]).state is DeploymentState.UPDATING
    assert observe(moved, [replace(old, digest="d9")]).state is DeploymentState.READY


def test_rollback_serves_what_was_served_before() -> None:
    item = deployment(version="m@champion")
    with pytest.raises(FailedPrecondition):
        previous_ref(item)
    moved = serve_version(item, "m@champion", SECOND)
    assert (moved.number, moved.previous_number, moved.observed.state) == (2, 1, DeploymentState.UPDATING)
    assert previous_ref(moved) == "m@1"
    back = serve_version(moved, "m@1", FIRST)
    assert (back.number, back.previous_number, back.follows_alias) == (1, 2, False)
    assert serve_version(back, "m@1", FIRST) == back


def test_what_is_not_ready_or_stale_is_refused() -> None:
    with pytest.raises(FailedPrecondition, match="not READY"):
        check_ready(replace(FIRST, is_ready=False))
    with pytest.raises(Aborted):
        check_etag(replace(deployment(), etag="new"), "old")
    check_etag(replace(deployment(), etag="new"), "")


def test_replica_declares_room_by_the_models_size() -> None:
    large = replace(FIRST, size_bytes=1 << 30)
    assert with_defaults(Resources(), large).memory_bytes == (4 << 30) + (4 << 20)
    assert with_defaults(Resources(2.0, 5, 1.0), large) == Resources(2.0, 5, 1.0)
    # Hundreds of small models fit into the memory of one.
    assert with_defaults(Resources(), FIRST).memory_bytes * 200 < 1 << 30
    assert with_defaults(Resources(), FIRST).cores * 200 < 1.0


def test_a_larger_version_finds_room_and_what_was_declared_stays() -> None:
    large = replace(SECOND, size_bytes=1 << 30)
    assert serve_version(deployment(), "m@2", large).resources.memory_bytes > 4 << 30
    declared = replace(deployment(), declared=Resources(0.0, 1 << 26))
    assert serve_version(declared, "m@2", large).resources.memory_bytes == 1 << 26


def test_what_has_no_room_says_so_and_what_is_loading_says_that() -> None:
    waiting = Waiting("NO_ROOM", "lacks 1 of 2 cores")
    found = observe(deployment(), [], waiting)
    assert (found.state, found.waiting_reason) == (DeploymentState.PENDING, "NO_ROOM")
    why = absence(replace(deployment(), observed=found))
    assert why.reason == "NO_ROOM" and "1 of 2 cores" in why.message
    loading = SeenReplica("w1", 1, "d1", ReplicaState.LOADING, "", "")
    assert absence(replace(deployment(), observed=observe(deployment(), [loading]))).reason == "DEPLOYMENT_LOADING"
    failed = replace(loading, state=ReplicaState.FAILED, message="too new")
    why = absence(replace(deployment(), observed=observe(deployment(), [failed])))
    assert why.reason == "DEPLOYMENT_FAILED" and "too new" in why.message
    # One of two replicas serves: the other one's lack of room is told, too.
    one = SeenReplica("w1", 1, "d1", ReplicaState.READY, "", "CPU")
    found = observe(deployment(replicas=2), [one], waiting)
    assert (found.state, found.waiting_reason) == (DeploymentState.UPDATING, "NO_ROOM")
    assert "1 of 2 cores" in found.message


@pytest.mark.parametrize(
    ("version", "is_named"),
    [("1", True), ("2", False), ("champion", True), ("best", False), ("01", False), ("", False)],
)
def test_versions_that_a_deployment_wants_are_known_by_number_and_by_the_alias_it_follows(
    version: str, is_named: bool
) -> None:
    assert names_version(deployment(version="m@champion"), version) is is_named


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_resources_that_are_no_amount_are_refused(value: float) -> None:
    with pytest.raises(InvalidArgument, match="cores"):
        check_resources(Resources(value))


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    async with open_database(database_url, MIGRATIONS) as database:
        yield State(database, kit, SqlRepository)


async def _facts(store: Store) -> list[str]:
    async with store.database.reading() as connection:
        rows = (await connection.execute(kit.outbox.select().order_by(kit.outbox.c.sequence))).all()
    return [row.subject for row in rows]


def test_the_migrations_make_the_tables(database_url: str) -> None:
    assert drift(database_url, MIGRATIONS, metadata) == []


async def test_deployment_comes_back_and_changes_with_a_fact_each(store: Store) -> None:
    async with store.writing() as repository:
        made = await repository.add(deployment())
    async with store.writing() as repository:
        saved = await repository.save(serve_version(made, "m@2", SECOND))
    async with store.reading() as repository:
        found = await repository.find("default", "d")
        with pytest.raises(NotFound):
            await repository.find("other", "d")
    assert (found.number, found.etag, found.sequence) == (2, saved.etag, saved.sequence)
    assert saved.etag != made.etag
    assert saved.sequence > made.sequence
    assert await _facts(store) == ["inference.deployment.changed"] * 2


async def test_what_is_observed_changes_no_etag_and_is_no_fact(store: Store) -> None:
    async with store.writing() as repository:
        made = await repository.add(deployment())
    observed = Observed(DeploymentState.READY, 1, "", {"w": "CPU"})
    async with store.writing() as repository:
        saved = await repository.save_observed(replace(made, observed=observed))
    async with store.reading() as repository:
        found = await repository.find("default", "d")
    assert (found.observed, found.etag) == (observed, made.etag)
    assert saved.sequence > made.sequence
    assert len(await _facts(store)) == 1


async def test_first_service_and_declared_resources_are_kept_and_a_reservation_is_a_fact(store: Store) -> None:
    async with store.writing() as repository:
        made = await repository.add(replace(deployment(), declared=Resources(0.5)))
    assert made.serve_time is None
    ready = Observed(DeploymentState.READY, 1, "", {"w": "CPU"})
    async with store.writing() as repository:
        served = await repository.save_observed(replace(made, observed=ready))
    async with store.writing() as repository:
        waiting = replace(served, observed=Observed(waiting_reason="NO_ROOM"), resources=Resources(0.5, 5 << 20))
        await repository.save_reserved(waiting)
    async with store.reading() as repository:
        found = await repository.find("default", "d")
    assert found.serve_time is not None
    assert (found.declared, found.resources) == (Resources(0.5), Resources(0.5, 5 << 20))
    assert (found.observed.waiting_reason, found.etag) == ("NO_ROOM", made.etag)
    assert await _facts(store) == ["inference.deployment.changed"] * 2


async def test_name_is_taken_once_and_free_again_with_a_higher_sequence(store: Store) -> None:
    async with store.writing() as repository:
        made = await repository.add(deployment())
    with pytest.raises(AlreadyExists):
        async with store.writing() as repository:
            await repository.add(deployment())
    async with store.writing() as repository:
        await repository.remove(made)
    async with store.writing() as repository:
        assert (await repository.add(deployment())).sequence > made.sequence


async def test_followers_are_those_of_the_alias_in_the_workspace(store: Store) -> None:
    async with store.writing() as repository:
        await repository.add(deployment("a", version="m@champion"))
        await repository.add(deployment("b", version="m@1"))
        await repository.add(deployment("c", "other", version="m@champion"))
        assert [item.name for item in await repository.followers("default", "m@champion")] == ["a"]
        assert len(await repository.everyone()) == 3
        own, _ = await repository.list_deployments("default", Page())
        every, _ = await repository.list_deployments(None, Page())
    assert ([item.name for item in own], len(every)) == (["a", "b"], 3)
