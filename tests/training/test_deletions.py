"""A version that is deleted while a job is queued that needs it: at most one of the two happens."""

import asyncio

from servicekit.auth import Identity, act_as
from servicekit.errors import Aborted, FailedPrecondition, LeptonError
from servicekit.resource_users import RemoteUsers
from servicekit.rpc import open_channel
from services.registry.deletion import Deletion
from services.registry.domain import registry
from tests.scheduler.neighbours import Owners, running_owners
from tests.training.house import CANCELLED, EVALUATE, QUEUED, House

_ROUNDS = 8


async def test_of_a_deletion_and_a_job_at_once_one_sees_the_other(house: House) -> None:
    settings = house.training_settings()
    owners = Owners()
    async with (
        running_owners(owners, house.credentials, house.nats),
        open_channel(f"localhost:{owners.port}", settings) as inference,
        open_channel(f"localhost:{house.training.private_port}", settings) as training,
    ):
        deletion = Deletion(house.registry.state, RemoteUsers(inference, training))
        for number in range(1, _ROUNDS + 1):
            await house.developer.register("line")
            ref = f"line@{number}"
            queued, deleted = await asyncio.gather(_queue(house, ref), _delete(house, deletion, ref, 0.01 * number))
            assert not (queued and deleted)
            states = {job.state for job in (await house.people.list()).jobs if job.spec.base_version == ref}
            assert states <= ({CANCELLED} if deleted else {QUEUED, CANCELLED})
        await house.developer.register("line")
        ref = f"line@{_ROUNDS + 1}"
        assert await _queue(house, ref)
        assert not await _delete(house, deletion, ref, 0.0)


async def _queue(house: House, ref: str) -> bool:
    try:
        await house.people.create(kind=EVALUATE, family="", base_version=ref, dataset="line@1", target="y")
    except LeptonError:
        return False
    return True


async def _delete(house: House, deletion: Deletion, ref: str, seconds: float) -> bool:
    """Delete a version as the registry does, a little later; return whether that worked."""
    await asyncio.sleep(seconds)
    with act_as(Identity.for_service("default", "registry")):
        try:
            async with deletion.of_version("default", ref, force=False), house.registry.state.writing() as repository:
                await registry.delete_version(repository, "default", ref)
        except (FailedPrecondition, Aborted):
            return False
    return True
