"""The repository's contract, on SQLite and Postgres."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from servicekit.database import open_database
from servicekit.errors import Aborted, FailedPrecondition
from servicekit.migrations import drift
from servicekit.paging import Page
from servicekit.state import State
from services.registry.adapters.repository import SqlRepository
from services.registry.adapters.tables import kit, metadata
from services.registry.domain import registry
from services.registry.domain.uploads import settle
from services.registry.domain.versions import Artifact, Tensor, Verdict, Version, VersionState
from tests.registry.versions import declare

MIGRATIONS = "services.registry.migrations"
Store = State[SqlRepository]


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    """A fresh database of the registry's, once of each kind."""
    async with open_database(database_url, MIGRATIONS) as database:
        yield State(database, kit, SqlRepository)


async def _add(store: Store, model: str = "m", workspace: str = "w", job: str = "", epoch: int = 0) -> Version:
    async with store.writing() as repository:
        return await registry.create_version(repository, workspace, model, declare(job, epoch), 100)


async def _make_ready(store: Store, model: str = "m", workspace: str = "w") -> Version:
    version = await _add(store, model, workspace)
    async with store.writing() as repository:
        return await settle(repository, workspace, version.ref, Verdict())


def test_the_migrations_make_the_tables(database_url: str) -> None:
    assert drift(database_url, MIGRATIONS, metadata) == []


async def test_what_is_added_is_read_back(store: Store) -> None:
    added = await _add(store)
    async with store.reading() as repository:
        found = await repository.find_version("w", "m", 1)
        assert found is not None
        assert (found.ref, found.state, found.declared) == (added.ref, added.state, added.declared)
        assert await repository.find_version("w", "m", 2) is None
        assert await repository.find_version("other", "m", 1) is None
        assert await repository.newest_ready("w", "m") is None


async def test_number_of_an_aborted_creation_is_given_again(store: Store) -> None:
    await _add(store)
    with pytest.raises(RuntimeError):
        async with store.writing() as repository:
            await registry.create_version(repository, "w", "m", declare(), 100)
            raise RuntimeError("the process dies here")
    assert (await _add(store)).number == 2


async def test_numbers_of_concurrent_creations_have_no_gap(store: Store) -> None:
    versions = await asyncio.gather(*(_add(store, model) for model in ("a", "b") * 20))
    for model in ("a", "b"):
        numbers = sorted(version.number for version in versions if version.model == model)
        assert numbers == list(range(1, 21))


async def test_job_epochs_only_rise_also_at_the_same_time(store: Store) -> None:
    async def raise_to(epoch: int) -> int:
        async with store.writing() as repository:
            return await repository.raise_job_epoch("w", "j", epoch)

    await asyncio.gather(*(raise_to(epoch) for epoch in (3, 1, 7, 5)))
    assert await raise_to(2) == 7
    assert await raise_to(8) == 7
    assert await raise_to(8) == 8


async def test_racing_epochs_of_one_job_leave_one_pending(store: Store) -> None:
    answers = await asyncio.gather(
        *(_add(store, job="j", epoch=epoch) for epoch in (2, 4, 1, 3)), return_exceptions=True
    )
    assert all(isinstance(answer, Version | Aborted) for answer in answers), answers
    async with store.reading() as repository:
        versions = await repository.versions_of_job("w", "j")
    pending = [version for version in versions if version.state is VersionState.PENDING]
    assert len(pending) == 1
    assert pending[0].declared.job_epoch == 4
    assert {version.error_reason for version in versions if version.state is VersionState.FAILED} <= {"SUPERSEDED"}


async def test_end_of_a_version_happens_once(store: Store) -> None:
    version = await _add(store)
    async with store.writing() as repository:
        await repository.end_version(version, VersionState.READY)
    with pytest.raises(Aborted):
        async with store.writing() as repository:
            await repository.end_version(version, VersionState.FAILED, reason="LATE")
    async with store.reading() as repository:
        found = await repository.newest_ready("w", "m")
        assert found is not None
        assert (found.number, found.error_reason) == (1, "")
        assert found.end_time is not None


async def test_refused_version_keeps_why_and_the_graphs_signature(store: Store) -> None:
    version = await _add(store)
    verdict = Verdict((Tensor("x", "FP32", (-1, 2)),), (Tensor("y", "INT64", (-1,)),))
    async with store.writing() as repository:
        await repository.end_version(version, VersionState.FAILED, reason="R", message="because", verdict=verdict)
    async with store.reading() as repository:
        found = await repository.find_version("w", "m", 1)
    assert found is not None
    assert (found.error_reason, found.error_message) == ("R", "because")
    assert (found.declared.inputs, found.declared.outputs) == (verdict.inputs, verdict.outputs)


async def test_artifacts_know_their_objects_until_they_are_forgotten(store: Store) -> None:
    version = await _add(store)
    for expected, name in (("", "first"), ("first", "second")):
        async with store.writing() as repository:
            stored = Artifact("model.onnx", "a" * 64, 3, name)
            assert await repository.set_artifact(version, stored) == expected
    async with store.writing() as repository:
        assert await repository.object_names() == ["second"]
        await repository.forget_objects(version)
        assert await repository.object_names() == []


async def test_stale_versions_are_given_up_and_others_are_not(store: Store) -> None:
    await _add(store)
    await _make_ready(store)
    for before, expected in ((timedelta(hours=1), VersionState.PENDING), (timedelta(hours=-1), VersionState.FAILED)):
        async with store.writing() as repository:
            await registry.give_up_stale(repository, datetime.now(UTC) - before)
            found = await repository.find_version("w", "m", 1)
        assert found is not None
        assert found.state is expected
        assert found.error_reason == ("" if expected is VersionState.PENDING else "NEVER_FINISHED")
    async with store.reading() as repository:
        assert (await repository.newest_ready("w", "m")) is not None


async def _mark(repository: SqlRepository) -> None:
    """Mark a model's versions as about to be deleted, as a deletion does before it looks for their users."""
    until = datetime.now(UTC) + timedelta(hours=1)
    await repository.mark_deleting(await repository.all_versions("w", "m"), until)


async def test_promotion_and_deletion_at_the_same_time_leave_no_alias_of_nothing(store: Store) -> None:
    for _ in range(5):
        version = await _make_ready(store)

        async def promote(ref: str = version.ref) -> None:
            async with store.writing() as repository:
                await registry.promote(repository, "w", ref, "champion", "", "me")

        async def delete(ref: str = version.ref) -> None:
            async with store.writing() as repository:
                await _mark(repository)
                await registry.delete_version(repository, "w", ref)

        await asyncio.gather(promote(), delete(), return_exceptions=True)
        async with store.reading() as repository:
            for alias in await repository.aliases_of("w", "m"):
                assert await repository.find_version("w", "m", alias.number) is not None


async def test_alias_moves_are_listed_newest_first_in_pages(store: Store) -> None:
    for _ in range(3):
        await _make_ready(store)
    for number in (1, 2, 3):
        async with store.writing() as repository:
            await registry.promote(repository, "w", f"m@{number}", "a", "", f"user-{number}")
    async with store.reading() as repository:
        first, token = await repository.list_moves("w", "m", "a", Page(2))
        rest, last = await repository.list_moves("w", "m", "a", Page(2, token))
    assert [(move.from_number, move.to_number, move.subject) for move in (*first, *rest)] == [
        (2, 3, "user-3"),
        (1, 2, "user-2"),
        (0, 1, "user-1"),
    ]
    assert last == ""
    assert all(move.time.utcoffset() in (None, timedelta(0)) for move in first)


async def test_removed_model_names_the_objects_to_delete(store: Store) -> None:
    version = await _make_ready(store)
    other = await _make_ready(store, workspace="other")
    async with store.writing() as repository:
        await repository.set_artifact(version, Artifact("model.onnx", "a" * 64, 3, "mine"))
        await repository.set_artifact(other, Artifact("model.onnx", "a" * 64, 3, "theirs"))
        await registry.promote(repository, "w", "m@1", "champion", "", "me")
    async with store.writing() as repository:
        await _mark(repository)
        assert await registry.delete_model(repository, "w", "m", "me") == ["mine"]
    async with store.reading() as repository:
        assert await repository.find_model("w", "m") is None
        assert await repository.aliases_of("w", "m") == []
        assert await repository.object_names() == ["theirs"]
        moves, _ = await repository.list_moves("w", "m", "champion", Page())
    assert [(move.from_number, move.to_number) for move in moves] == [(1, 0), (0, 1)]


async def test_facts_are_written_with_their_change_or_not_at_all(store: Store) -> None:
    await _make_ready(store)
    with pytest.raises(FailedPrecondition):
        async with store.writing() as repository:
            await registry.promote(repository, "w", "m@1", "champion", "", "me")
            raise FailedPrecondition("the disk is full")
    async with store.database.reading() as connection:
        rows = (await connection.execute(kit.outbox.select())).all()
    assert [(row.subject, row.workspace, row.key) for row in rows] == [("registry.version.ready", "w", "w/m")]
