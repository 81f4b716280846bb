"""Versions that are deleted while they are deployed: at most one of the two happens, and what is broken says why."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest

from servicekit.auth import Identity, act_as
from servicekit.errors import Aborted, FailedPrecondition, LeptonError, NotFound
from servicekit.resource_users import RemoteUsers
from servicekit.rpc import open_channel
from services.registry.deletion import Deletion
from services.registry.domain import registry
from tests.inference.house import FAILED, House, refused
from tests.inference.test_worker import _register
from tests.scheduler.neighbours import Owners, running_owners

_ROUNDS = 12


@pytest.fixture
async def deletion(registered: House) -> AsyncIterator[Deletion]:
    """The registry's deletion beside a real deployments service, and nobody who has jobs."""
    owners, settings = Owners(), registered.process_settings("registry")
    async with (
        running_owners(owners, registered.credentials, registered.nats),
        open_channel(f"localhost:{registered.server.private_port}", settings) as inference,
        open_channel(f"localhost:{owners.port}", settings) as training,
    ):
        yield Deletion(registered.registry.state, RemoteUsers(inference, training))


async def _delete(house: House, deletion: Deletion, ref: str, *, force: bool = False) -> bool:
    """Delete a version as the registry does; return whether that worked."""
    with act_as(Identity.for_service("default", "registry")):
        try:
            async with deletion.of_version("default", ref, force=force), house.registry.state.writing() as repository:
                await registry.delete_version(repository, "default", ref, force=force)
        except (FailedPrecondition, Aborted):
            return False
    return True


async def _deploy(house: House, number: int) -> bool:
    try:
        await house.deployments.create(f"m@{number}", f"d{number}")
    except (LeptonError, grpc.aio.AioRpcError):
        return False
    return True


async def test_of_a_deletion_and_a_deployment_at_once_one_sees_the_other(registered: House, deletion: Deletion) -> None:
    for number in range(1, _ROUNDS + 1):
        await _register(registered, float(number))

        async def delete(number: int = number) -> bool:
            # A little earlier or later each time.
            for _ in range(number):
                await asyncio.sleep(0)
            return await _delete(registered, deletion, f"m@{number}")

        deployed, deleted = await asyncio.gather(_deploy(registered, number), delete())
        assert not (deployed and deleted)
        if deleted:
            with pytest.raises((NotFound, grpc.aio.AioRpcError)):
                await registered.deployments.get(f"d{number}")
        else:
            assert not (await registered.developer.get(f"m@{number}")).deleting


async def test_a_deployed_version_stays_until_nothing_serves_it(registered: House, deletion: Deletion) -> None:
    await _register(registered, 0.5, 1.5)
    await registered.deployments.create("m@1")
    assert not await _delete(registered, deletion, "m@1")
    await registered.deployments.update("m", "version", version="m@2")
    # The version served before stays loaded for a rollback.
    assert not await _delete(registered, deletion, "m@1")
    await registered.deployments.delete("m")
    assert await _delete(registered, deletion, "m@1")


async def test_a_version_that_is_being_deleted_is_not_deployed(registered: House, deletion: Deletion) -> None:
    await _register(registered, 0.5, 1.5)
    await registered.deployments.create("m@2")
    with act_as(Identity.for_service("default", "registry")):
        async with deletion.of_version("default", "m@1", force=False):
            await refused(
                registered.deployments.create("m@1", "other"), grpc.StatusCode.FAILED_PRECONDITION, "being deleted"
            )
            await refused(
                registered.deployments.update("m", "version", version="m@1"),
                grpc.StatusCode.FAILED_PRECONDITION,
                "being deleted",
            )
    assert (await registered.deployments.get("m")).number == 2


async def test_a_deployment_whose_version_was_deleted_by_force_says_so(house: House, deletion: Deletion) -> None:
    await _register(house, 0.5)
    await house.deployments.create("m@1")
    async with house.worker() as worker:
        await house.deployments.until("m", 1, seconds=60.0)
        assert await _delete(house, deletion, "m@1", force=True)
        assert (await worker.infer("m"))[0] == "1"
    async with house.worker() as worker:
        found = await house.deployments.until("m", 1, FAILED, seconds=60.0)
        assert "m@1 was deleted from the registry" in found.message
        await refused(worker.infer("m"), grpc.StatusCode.UNAVAILABLE, "was deleted from the registry")
