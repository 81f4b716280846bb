"""What is in use cannot be deleted: the inference and training services are asked, over gRPC, as the caller."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lepton.v1 import inference_pb2, training_pb2
from lepton.v1 import registry_pb2 as pb
from servicekit.errors import Aborted, FailedPrecondition, LeptonError, NotFound, Unavailable
from servicekit.resource_users import RemoteUsers
from servicekit.rpc import open_channel
from services.registry.domain import registry
from tests.registry.house import Client, House, make_settings, running_registry
from tests.scheduler.neighbours import Owners, running_owners
from tests.support.credentials import MakeToken
from tests.support.nats import NatsServer
from tests.support.s3 import ObjectsEnvironment


@dataclass
class Neighbourhood:
    """A registry, and what the services beside it list."""

    house: House
    owners: Owners
    developer: Client


@pytest.fixture
async def beside(
    platform_files: Path,
    database_url: str,
    local_objects: ObjectsEnvironment,
    make_token: MakeToken,
    nats_server: NatsServer,
) -> AsyncIterator[Neighbourhood]:
    settings = make_settings(platform_files, database_url, local_objects.objects_url)
    owners = Owners()
    async with (
        running_owners(owners, platform_files, nats_server),
        open_channel(f"localhost:{owners.port}", settings) as channel,
        running_registry(settings, platform_files, make_token, RemoteUsers(channel, channel)) as house,
    ):
        developer = await house.user()
        await developer.register()
        await developer.register()
        yield Neighbourhood(house, owners, developer)


async def _refused(call: object, kind: type[LeptonError], reason: str) -> LeptonError:
    with pytest.raises(kind) as refusal:
        await call  # type: ignore[misc]
    assert refusal.value.reason == reason
    return refusal.value


def _deployment(name: str, number: int = 2, **more: object) -> inference_pb2.Deployment:
    return inference_pb2.Deployment(name=name, version=f"credit@{number}", number=number, **more)  # type: ignore[arg-type]


_USES = {
    "its own": _deployment("fraud", 1),
    "an alias that it follows": inference_pb2.Deployment(name="fraud", version="credit@champion", number=1),
    "standby": _deployment("fraud", standby=inference_pb2.Standby(version="credit@1", number=1)),
    "split": _deployment("fraud", traffic=[inference_pb2.TrafficTarget(version="credit@1", number=1)]),
    "shadow": _deployment("fraud", shadow=inference_pb2.Shadow(version="credit@1", number=1)),
    "canary": _deployment(
        "fraud", canary=inference_pb2.Canary(version="credit@1", number=1, state=inference_pb2.CANARY_STATE_RUNNING)
    ),
}


@pytest.mark.parametrize("use", _USES)
async def test_a_version_that_a_deployment_loads_is_not_deleted(beside: Neighbourhood, use: str) -> None:
    beside.owners.deployments["fraud"] = _USES[use]
    request = pb.DeleteVersionRequest(ref="credit@1", request_id="d")
    error = await _refused(beside.developer.stub.DeleteVersion(request), FailedPrecondition, "VERSION_IN_USE")
    assert "deployment fraud" in error.message and error.metadata == {"deployments": "fraud"}
    whole = pb.DeleteModelRequest(name="credit")
    error = await _refused(beside.developer.stub.DeleteModel(whole), FailedPrecondition, "MODEL_IN_USE")
    assert "deployment fraud" in error.message
    assert not (await beside.developer.get("credit@1")).deleting
    # Once nothing uses it, the same request works.
    beside.owners.deployments.clear()
    assert not (await beside.developer.stub.DeleteVersion(request)).broken
    await _refused(beside.developer.get("credit@1"), NotFound, "MODEL_VERSION_NOT_FOUND")


async def test_what_does_not_load_a_version_does_not_keep_it(beside: Neighbourhood) -> None:
    ended = inference_pb2.Canary(version="credit@1", number=1, state=inference_pb2.CANARY_STATE_ROLLED_BACK)
    beside.owners.deployments["a"] = _deployment("a", canary=ended, previous_number=1)
    beside.owners.deployments["b"] = inference_pb2.Deployment(name="b", version="other@1", number=1)
    spec = training_pb2.JobSpec(base_version="credit@1")
    beside.owners.jobs["done"] = training_pb2.Job(name="done", spec=spec, state=training_pb2.JOB_STATE_SUCCEEDED)
    beside.owners.jobs["fit"] = training_pb2.Job(
        name="fit", spec=training_pb2.JobSpec(model="credit"), state=training_pb2.JOB_STATE_RUNNING
    )
    await beside.developer.stub.DeleteVersion(pb.DeleteVersionRequest(ref="credit@1"))


@pytest.mark.parametrize("state", [training_pb2.JOB_STATE_QUEUED, training_pb2.JOB_STATE_RUNNING])
async def test_a_version_that_a_job_needs_is_not_deleted(beside: Neighbourhood, state: int) -> None:
    kinds = {"tune-1": training_pb2.JOB_KIND_FINE_TUNE, "check-1": training_pb2.JOB_KIND_EVALUATE}
    for name, kind in kinds.items():
        spec = training_pb2.JobSpec(kind=kind, base_version="credit@1")
        beside.owners.jobs[name] = training_pb2.Job(name=name, spec=spec, state=state)  # type: ignore[arg-type]
    call = beside.developer.stub.DeleteVersion(pb.DeleteVersionRequest(ref="credit@1"))
    error = await _refused(call, FailedPrecondition, "VERSION_IN_USE")
    assert "job check-1 evaluates it, job tune-1 begins from it" in error.message
    assert error.metadata == {"jobs": "check-1,tune-1"}
    await beside.developer.stub.DeleteVersion(pb.DeleteVersionRequest(ref="credit@2"))


async def test_force_deletes_and_says_what_breaks(beside: Neighbourhood) -> None:
    beside.owners.deployments["fraud"] = _deployment("fraud", 1)
    await beside.developer.promote("credit@1")
    call = beside.developer.stub.DeleteVersion(pb.DeleteVersionRequest(ref="credit@1"))
    error = await _refused(call, FailedPrecondition, "VERSION_IN_USE")
    assert error.metadata == {"aliases": "champion", "deployments": "fraud"}
    assert "alias champion names it, deployment fraud serves version 1" in error.message
    answer = await beside.developer.stub.DeleteVersion(pb.DeleteVersionRequest(ref="credit@1", force=True))
    assert [(item.kind, item.name, item.use) for item in answer.broken] == [
        ("alias", "champion", "names it"),
        ("deployment", "fraud", "serves version 1"),
    ]
    # No alias dangles.
    await _refused(beside.developer.get("credit@champion"), NotFound, "MODEL_VERSION_NOT_FOUND")
    assert (await beside.developer.history())[0][:2] == (1, 0)
    beside.owners.deployments["fraud"] = _deployment("fraud", 2)
    answer = await beside.developer.stub.DeleteModel(pb.DeleteModelRequest(name="credit", force=True))
    assert [item.use for item in answer.broken] == ["serves version 2"]


async def test_while_users_cannot_be_looked_up_only_force_deletes(
    platform_files: Path, sqlite_url: str, local_objects: ObjectsEnvironment, make_token: MakeToken
) -> None:
    settings = make_settings(platform_files, sqlite_url, local_objects.objects_url)
    async with (
        open_channel("localhost:1", settings) as nowhere,
        running_registry(settings, platform_files, make_token, RemoteUsers(nowhere, nowhere)) as house,
    ):
        developer = await house.user()
        await developer.register()
        call = developer.stub.DeleteVersion(pb.DeleteVersionRequest(ref="credit@1"))
        await _refused(call, Unavailable, "USERS_UNKNOWN")
        assert not (await developer.get("credit@1")).deleting
        answer = await developer.stub.DeleteVersion(pb.DeleteVersionRequest(ref="credit@1", force=True))
        assert "cannot be looked up" in answer.unchecked


async def test_a_deletion_whose_mark_ended_is_not_finished(beside: Neighbourhood) -> None:
    now = datetime.now(UTC)
    for until, is_deleting in ((now + timedelta(hours=1), True), (now - timedelta(hours=1), False)):
        async with beside.house.state.writing() as repository:
            version = await registry.find_version(repository, "default", "credit@1")
            await repository.mark_deleting([version], until)
        assert (await beside.developer.get("credit@1")).deleting is is_deleting
    with pytest.raises(Aborted):
        async with beside.house.state.writing() as repository:
            await registry.delete_version(repository, "default", "credit@1")
