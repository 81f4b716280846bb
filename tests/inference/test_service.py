"""The deployments service over TLS, with a real registry: what is wanted, who may say so, and what follows an alias."""

import asyncio

import grpc
import pytest

from lepton.v1 import common_pb2, registry_pb2
from lepton.v1 import inference_pb2 as pb
from servicekit.errors import Aborted, AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, PermissionDenied
from servicekit.rpc import open_channel
from tests.inference.house import House, refused, until


async def _register(house: House, model: str = "m", count: int = 1) -> None:
    for _ in range(count):
        assert (await house.developer.register(model)).state == registry_pb2.VERSION_STATE_READY


async def test_deployment_is_named_after_its_model_and_knows_its_version(registered: House) -> None:
    await _register(registered, count=2)
    made = await registered.deployments.create("m@2")
    assert (made.name, made.number, made.replicas, made.previous_number) == ("m", 2, 1, 0)
    assert made.state == pb.DEPLOYMENT_STATE_PENDING
    assert made.digest == (await registered.developer.get("m@2")).digest
    # Nothing is declared: little is reserved, by the model's size.
    size = (await registered.developer.get("m@2")).artifacts[0].size_bytes
    assert made.resources == common_pb2.Resources(cores=0.002, memory_bytes=(4 << 20) + 4 * size)
    assert made.declared_resources == common_pb2.Resources()
    assert made.workspace == ""
    assert await registered.deployments.get("m") == made


async def test_alias_is_followed_and_a_rollback_pins_the_number(registered: House) -> None:
    await _register(registered, count=2)
    await registered.developer.promote("m@1")
    made = await registered.deployments.create("m@champion", "d")
    assert made.number == 1
    await registered.developer.promote("m@2")
    await until(lambda: _serves(registered, "d", 2), "the move to be followed")
    moved = await registered.deployments.get("d")
    assert (moved.previous_number, moved.etag != made.etag) == (1, True)
    back = await registered.deployments.roll_back("d")
    assert (back.version, back.number, back.previous_number) == ("m@1", 1, 2)
    await registered.developer.promote("m@1")
    await registered.developer.promote("m@2")
    await asyncio.sleep(0.3)
    assert await registered.deployments.get("d") == back


async def _serves(house: House, name: str, number: int) -> bool:
    return (await house.deployments.get(name)).number == number


async def test_what_cannot_be_served_is_refused(registered: House) -> None:
    await _register(registered)
    await registered.developer.create("pending")
    deployments = registered.deployments
    for version, kind in (("m@7", NotFound), ("nobody@1", NotFound), ("pending@1", FailedPrecondition)):
        with pytest.raises(kind):
            await deployments.create(version)
    for version, more in (("m", {}), ("M@1", {}), ("m@1", {"replicas": -1}), ("m@1", {"name": "Not An Id"})):
        with pytest.raises(InvalidArgument):
            await deployments.create(version, **more)
    await deployments.create("m@1")
    with pytest.raises(AlreadyExists):
        await deployments.create("m@1")
    with pytest.raises(FailedPrecondition, match="never served another"):
        await deployments.roll_back("m")


async def test_update_changes_what_its_mask_names_and_nothing_stale(registered: House) -> None:
    await _register(registered, count=2)
    made = await registered.deployments.create("m@1")
    changed = await registered.deployments.update("m", "version", "replicas", version="m@2", replicas=3, etag=made.etag)
    assert (changed.number, changed.replicas, changed.previous_number) == (2, 3, 1)
    with pytest.raises(Aborted):
        await registered.deployments.update("m", "replicas", replicas=5, etag=made.etag)
    with pytest.raises(Aborted):
        await registered.deployments.roll_back("m", etag=made.etag)
    for paths in ((), ("digest",), ("version", "state")):
        with pytest.raises(InvalidArgument):
            await registered.deployments.update("m", *paths, version="m@1")
    larger = await registered.deployments.update("m", "resources", resources=common_pb2.Resources(cores=2))
    # Zeros mean the defaults, as when it was made.
    assert (larger.resources.cores, larger.replicas) == (2, 3)
    assert 4 << 20 < larger.resources.memory_bytes < 5 << 20
    assert larger.declared_resources == common_pb2.Resources(cores=2)


async def test_repeated_request_gets_its_first_answer(registered: House) -> None:
    await _register(registered)
    first = await registered.deployments.create("m@1", request_id="r1")
    assert await registered.deployments.create("m@1", request_id="r1") == first
    with pytest.raises(InvalidArgument, match="request_id"):
        await registered.deployments.create("m@1", "other", request_id="r1")


async def test_roles_and_workspaces_bound_what_is_seen_and_done(registered: House) -> None:
    await _register(registered)
    await registered.deployments.create("m@1")
    viewer = await registered.user("viewer")
    assert (await viewer.get("m")).name == "m"
    with pytest.raises(PermissionDenied):
        await viewer.create("m@1", "mine")
    with pytest.raises(PermissionDenied):
        await viewer.delete("m")
    stranger = await registered.user("admin", "elsewhere")
    with pytest.raises(NotFound):
        await stranger.get("m")
    with pytest.raises(NotFound):
        await stranger.create("m@1")


async def test_service_lists_all_workspaces_and_a_person_their_own(registered: House) -> None:
    await _register(registered)
    for name in ("a", "b", "c"):
        await registered.deployments.create("m@1", name)
    listed, token = [], ""
    while True:
        request = pb.ListDeploymentsRequest(page_size=2, page_token=token, order_by="name desc")
        page = await registered.deployments.stub.ListDeployments(request, metadata=registered.deployments.metadata)
        listed += [item.name for item in page.deployments]
        if not (token := page.next_page_token):
            break
    assert listed == ["c", "b", "a"]
    settings = registered.process_settings("scheduler")
    async with open_channel(f"localhost:{registered.server.private_port}", settings) as channel:
        stub = type(registered.deployments.stub)(channel)
        every = await stub.ListDeployments(pb.ListDeploymentsRequest(), metadata=(("lepton-workspace", "*"),))
    assert [(item.name, item.workspace) for item in every.deployments] == [(name, "default") for name in "abc"]


async def test_watch_begins_with_the_present_and_resumes_after_a_sequence(registered: House) -> None:
    await _register(registered, count=2)
    made = await registered.deployments.create("m@1")
    stub, metadata = registered.deployments.stub, registered.deployments.metadata
    watch = stub.WatchDeployment(pb.WatchDeploymentRequest(name="m"), metadata=metadata)
    answers = aiter(watch)
    assert (await anext(answers)).deployment == made
    changed = await registered.deployments.update("m", "version", version="m@2")
    assert (await anext(answers)).deployment == changed
    resumed = aiter(
        stub.WatchDeployment(pb.WatchDeploymentRequest(name="m", after_sequence=changed.sequence), metadata=metadata)
    )
    waiting = asyncio.ensure_future(anext(resumed))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    await registered.deployments.delete("m")
    await refused(waiting, grpc.StatusCode.NOT_FOUND)
    await refused(anext(answers), grpc.StatusCode.NOT_FOUND)


async def test_deleted_deployment_is_gone_and_its_name_is_free(registered: House) -> None:
    await _register(registered)
    await registered.deployments.create("m@1")
    await registered.deployments.delete("m")
    with pytest.raises(NotFound):
        await registered.deployments.get("m")
    with pytest.raises(NotFound):
        await registered.deployments.delete("m")
    assert (await registered.deployments.create("m@1")).name == "m"
