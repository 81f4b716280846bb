"""The registry over TLS, with tokens and certificates, as clients and workers meet it."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import pytest

from lepton.v1 import common_pb2, events_pb2
from lepton.v1 import registry_pb2 as pb
from servicekit.errors import (
    Aborted,
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    LeptonError,
    NotFound,
    PermissionDenied,
)
from services.registry.adapters import tables
from tests.registry.house import GOOD, Client, House, messages, of_job, ref_of
from tests.support import onnx_models

FILES = {"model.onnx": GOOD, "family.json": b'{"a": 1}', "state.safetensors": b"\x00" * 3_000_000}


async def _facts(house: House) -> list[str]:
    async with house.state.database.reading() as connection:
        rows = (await connection.execute(tables.kit.outbox.select().order_by(tables.kit.outbox.c.sequence))).all()
    return [row.subject for row in rows]


async def _refused(call: Awaitable[object], kind: type[LeptonError], reason: str) -> LeptonError:
    with pytest.raises(kind) as caught:
        await call
    assert caught.value.reason == reason
    return caught.value


async def test_uploaded_model_becomes_ready_and_comes_back_whole(house: House, developer: Client) -> None:
    version = await developer.register(files=FILES, description="mine")
    assert (version.model, version.number, version.state) == ("credit", 1, pb.VERSION_STATE_READY)
    assert version.uploaded
    assert not version.HasField("parity")
    lines = sorted(f"{name}:{hashlib.sha256(content).hexdigest()}\n" for name, content in FILES.items())
    assert version.digest == hashlib.sha256("".join(lines).encode()).hexdigest()
    # Left out, so read from the graph.
    (given,) = version.signature.inputs
    assert (given.name, given.datatype, list(given.shape)) == ("x", "FP32", [-1, 2])
    assert [spec.name for spec in version.signature.outputs] == ["prediction"]
    for name, content in FILES.items():
        assert await developer.download("credit@1", name) == content
    assert await _facts(house) == ["registry.version.ready"]
    # At rest nothing is readable.
    assert len(house.objects()) == 3
    assert not any(b"prediction" in path.read_bytes() for path in house.objects())
    assert await developer.get("credit") == await developer.get("credit@1") == version


async def test_numbers_have_no_gaps_and_are_never_used_again(developer: Client) -> None:
    for expected in (1, 2, 3):
        assert (await developer.create()).number == expected
    with pytest.raises(InvalidArgument):
        await developer.create(files={"model.pkl": b"x"})
    await developer.stub.DeleteVersion(pb.DeleteVersionRequest(ref="credit@3"))
    assert (await developer.create()).number == 4
    await developer.stub.DeleteModel(pb.DeleteModelRequest(name="credit"))
    assert (await developer.create()).number == 5
    assert (await developer.create("other")).number == 1


async def test_fifty_at_once_get_the_numbers_one_to_fifty(either_house: House) -> None:
    developer = await either_house.user()
    versions = await asyncio.gather(*(developer.create() for _ in range(50)))
    assert sorted(version.number for version in versions) == list(range(1, 51))


async def test_one_of_many_promotes_with_one_etag_wins(either_house: House) -> None:
    developer = await either_house.user()
    for _ in range(6):
        await developer.register()
    for etag, candidates in (("absent", range(1, 7)), ("", range(2, 7))):
        seen = etag or (await developer.promote("credit@1")).etag
        answers = await asyncio.gather(
            *(developer.promote(f"credit@{number}", etag=seen) for number in candidates), return_exceptions=True
        )
        won = [answer for answer in answers if isinstance(answer, pb.Alias)]
        lost = [answer for answer in answers if isinstance(answer, Exception)]
        assert len(won) == 1
        assert all(isinstance(error, Aborted) and error.reason == "ETAG_MISMATCH" for error in lost), lost
        alias = await developer.stub.GetAlias(pb.GetAliasRequest(model="credit", alias="champion"))
        assert alias == won[0]


async def test_repeated_request_gets_the_first_answer(house: House, developer: Client) -> None:
    first = await developer.create(request_id="r1")
    assert await developer.create(request_id="r1") == first
    await _refused(developer.create("other", request_id="r1"), InvalidArgument, "REQUEST_ID_REUSED")
    await developer.upload("credit@1")
    ready = await developer.finalize("credit@1", "f1")
    assert await developer.finalize("credit@1", "f1") == ready
    assert await developer.finalize("credit@1") == ready
    await developer.register()
    await _refused(developer.finalize("credit@2", "f1"), InvalidArgument, "REQUEST_ID_REUSED")
    alias = await developer.promote("credit@1", request_id="p1")
    await developer.promote("credit@2")
    assert await developer.promote("credit@1", request_id="p1") == alias
    assert (await developer.get("credit@champion")).number == 2
    delete = pb.DeleteAliasRequest(model="credit", alias="champion", request_id="d1")
    await developer.stub.DeleteAlias(delete)
    await developer.stub.DeleteAlias(delete)
    assert [move[:2] for move in await developer.history()] == [(2, 0), (1, 2), (0, 1)]


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"model.onnx": b"x", "code.py": b"x"}, "ARTIFACT_NOT_ALLOWED"),
        ({"model.onnx": b"x", "weights.pkl": b"x"}, "ARTIFACT_NOT_ALLOWED"),
        ({"model.onnx": b"x", "../state.json": b"x"}, "ARTIFACT_NOT_ALLOWED"),
        ({"model.onnx": b"x", "a/b.json": b"x"}, "ARTIFACT_NOT_ALLOWED"),
        ({"model.onnx": b"x", ".json": b"x"}, "ARTIFACT_NOT_ALLOWED"),
        ({"model.onnx": b"x", "second.onnx": b"x"}, "ARTIFACT_NOT_ALLOWED"),
        ({"model.onnx": b""}, "ARTIFACT_NOT_ALLOWED"),
        ({"model.onnx": b"x" * (5 << 20)}, "ARTIFACT_NOT_ALLOWED"),
        ({"state.json": b"x"}, "MODEL_MISSING"),
    ],
)
async def test_files_that_are_not_allowed_are_refused_before_a_number_is_taken(
    developer: Client, files: dict[str, bytes], reason: str
) -> None:
    await _refused(developer.create(files=files), InvalidArgument, reason)
    await _refused(developer.get("credit@1"), NotFound, "MODEL_VERSION_NOT_FOUND")
    assert (await developer.create()).number == 1


async def test_other_bytes_than_declared_leave_nothing_and_can_be_mended(house: House, developer: Client) -> None:
    await developer.create()
    changed = bytes([GOOD[0] ^ 1]) + GOOD[1:]
    for content in (changed, GOOD[:-1], GOOD + b"x", b""):
        error = await _refused(developer.upload("credit@1", content), InvalidArgument, "DIGEST_MISMATCH")
        assert "model.onnx" in error.message
        assert house.objects() == []
    await _refused(developer.finalize("credit@1"), FailedPrecondition, "ARTIFACT_MISSING")
    await _refused(developer.download("credit@1"), NotFound, "ARTIFACT_NOT_FOUND")
    await developer.upload("credit@1", piece=7)
    # A repeat replaces.
    await developer.upload("credit@1")
    assert len(house.objects()) == 1
    assert (await developer.finalize("credit@1")).state == pb.VERSION_STATE_READY
    await _refused(developer.upload("credit@1"), FailedPrecondition, "VERSION_NOT_PENDING")
    assert len(house.objects()) == 1


async def test_upload_must_begin_with_its_one_header_and_name_a_declared_file(developer: Client) -> None:
    await developer.create()
    await _refused(developer.upload("credit@1", name="other.json"), InvalidArgument, "ARTIFACT_NOT_DECLARED")
    await _refused(developer.upload("credit@7"), NotFound, "MODEL_VERSION_NOT_FOUND")

    async def headless() -> AsyncIterator[pb.UploadArtifactRequest]:
        yield pb.UploadArtifactRequest(chunk=GOOD)

    async def twice() -> AsyncIterator[pb.UploadArtifactRequest]:
        for _ in range(2):
            async for message in messages("credit@1", "model.onnx", GOOD):
                yield message

    for stream in (headless(), twice()):
        await _refused(developer.stub.UploadArtifact(stream), InvalidArgument, "BAD_STREAM")


async def test_damage_at_rest_is_told_and_an_upload_mends_it(house: House, developer: Client) -> None:
    await developer.create()
    await developer.upload("credit@1")
    (path,) = house.objects()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataLoss):
        await developer.download("credit@1")
    with pytest.raises(DataLoss):
        await developer.finalize("credit@1")
    assert (await developer.get("credit@1")).state == pb.VERSION_STATE_PENDING
    await developer.upload("credit@1")
    assert (await developer.finalize("credit@1")).state == pb.VERSION_STATE_READY


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"nothing", "NOT_ONNX"),
        (onnx_models.custom_domain_model(), "LOAD_FAILED"),
        (onnx_models.external_data_model("/etc/hostname"), "LOAD_FAILED"),
    ],
    ids=["text", "domain", "external"],
)
async def test_refused_model_keeps_its_number_with_the_reason(
    house: House, developer: Client, content: bytes, reason: str
) -> None:
    version = await developer.register(files={"model.onnx": content})
    assert (version.number, version.state, version.error_reason) == (1, pb.VERSION_STATE_FAILED, reason)
    assert version.error_message
    assert version.HasField("end_time")
    await _refused(developer.promote("credit@1"), FailedPrecondition, "VERSION_NOT_READY")
    await _refused(developer.get("credit"), NotFound, "MODEL_VERSION_NOT_FOUND")
    assert await _facts(house) == []
    assert (await developer.register()).number == 2


def _signature(datatype: str = "FP32", width: int = 2, name: str = "x") -> common_pb2.Signature:
    given = common_pb2.TensorSpec(name=name, datatype=datatype, shape=[-1, width])
    return common_pb2.Signature(inputs=[given], target="y", task="regression")


async def test_declared_signature_must_be_the_graphs(developer: Client) -> None:
    ready = await developer.register(signature=_signature())
    assert (ready.state, ready.signature.target) == (pb.VERSION_STATE_READY, "y")
    # What was not declared is the graph's.
    assert [spec.name for spec in ready.signature.outputs] == ["prediction"]
    for wrong in (_signature("FP64"), _signature(width=3), _signature(name="z")):
        version = await developer.register(signature=wrong)
        assert (version.state, version.error_reason) == (pb.VERSION_STATE_FAILED, "SIGNATURE_MISMATCH")


async def test_model_trained_here_must_bring_its_parity(house: House, worker: Client, developer: Client) -> None:
    ready = await worker.register(**of_job("j1"))
    assert (ready.state, ready.parity.max_difference, ready.uploaded) == (pb.VERSION_STATE_READY, 1e-7, False)
    refused = {
        "j2": of_job("j2", max_difference=2e-4),
        "j3": of_job("j3", max_difference=2e-3, tolerance=1.0),
        "j4": of_job("j4", max_difference=float("nan")),
        "j5": of_job("j5", label_mismatches=1),
        "j6": of_job("j6", tolerance=float("nan")),
        "j7": of_job("j7", max_difference=-1.0),
    }
    for fields in refused.values():
        version = await worker.register(**fields)
        assert (version.state, version.error_reason) == (pb.VERSION_STATE_FAILED, "PARITY_FAILED")
    for fields in (of_job("j8", rows=0), {"lineage": pb.Lineage(job="j9", job_epoch=1)}):
        version = await worker.register(**fields)
        assert (version.state, version.error_reason) == (pb.VERSION_STATE_FAILED, "PARITY_MISSING")
    # A user can claim neither a job nor its measurement.
    await _refused(developer.create(**of_job("j9")), PermissionDenied, "JOB_IS_INTERNAL")
    fields = {**of_job("j9"), "lineage": pb.Lineage(dataset="d@1")}
    assert not (await developer.register(**fields)).HasField("parity")


async def test_stale_worker_of_a_job_is_fenced_and_one_version_of_it_gets_ready(worker: Client) -> None:
    first = await worker.create(**of_job("j", 3))
    await _refused(worker.create(**of_job("j", 2)), Aborted, "STALE_EPOCH")
    second = await worker.create(**of_job("j", 4))
    assert (first.number, second.number) == (1, 2)
    superseded = await worker.get("credit@1")
    assert (superseded.state, superseded.error_reason) == (pb.VERSION_STATE_FAILED, "SUPERSEDED")
    await _refused(worker.upload("credit@1"), FailedPrecondition, "VERSION_NOT_PENDING")
    assert (await worker.finalize("credit@1")).state == pb.VERSION_STATE_FAILED
    await worker.upload("credit@2")
    ready = await worker.finalize("credit@2")
    assert await worker.create(**of_job("j", 5)) == ready
    await _refused(worker.create(**of_job("j", 4)), Aborted, "STALE_EPOCH")
    # Another workspace's job of that name is another job.
    listed = await worker.stub.ListVersions(pb.ListVersionsRequest(model="credit"))
    assert [version.number for version in listed.versions] == [2, 1]


async def test_same_job_in_another_workspace_is_another_job(house: House, worker: Client) -> None:
    await worker.create(**of_job("j", 9))
    other = await house.worker("other")
    assert (await other.create(**of_job("j", 1))).number == 1


async def test_only_one_of_a_jobs_racing_epochs_can_become_ready(worker: Client) -> None:
    await worker.create(**of_job("j", 1))
    await worker.upload("credit@1")
    finalized, created = await asyncio.gather(worker.finalize("credit@1"), worker.create(**of_job("j", 2)))
    if finalized.state == pb.VERSION_STATE_READY:
        assert created == finalized
    else:
        assert (finalized.error_reason, created.number) == ("SUPERSEDED", 2)


async def test_alias_moves_back_and_forth_with_its_history(house: House, developer: Client) -> None:
    for _ in range(3):
        await developer.register()
    first = await developer.promote("credit@1", etag="absent")
    await _refused(developer.promote("credit@2", etag="absent"), Aborted, "ETAG_MISMATCH")
    second = await developer.promote("credit@2", etag=first.etag)
    assert second.etag != first.etag
    error = await _refused(developer.promote("credit@3", etag=first.etag), Aborted, "ETAG_MISMATCH")
    assert error.metadata["etag"] == second.etag
    # Where it is already: no move.
    assert await developer.promote("credit@2") == second
    assert (await developer.roll_back()).number == 1
    # Rolling back undoes the last move, so twice is once forth and back.
    assert (await developer.roll_back()).number == 2
    await _refused(developer.roll_back(etag=first.etag), Aborted, "ETAG_MISMATCH")
    assert await developer.history() == [
        (1, 2, "developer@test"),
        (2, 1, "developer@test"),
        (1, 2, "developer@test"),
        (0, 1, "developer@test"),
    ]
    assert (await _facts(house)).count("registry.alias.moved") == 4


async def test_rollback_needs_somewhere_to_go(developer: Client) -> None:
    await developer.register()
    await developer.register()
    await _refused(developer.roll_back(), NotFound, "ALIAS_NOT_FOUND")
    await developer.promote("credit@1")
    await _refused(developer.roll_back(), FailedPrecondition, "NOTHING_TO_ROLL_BACK")
    await developer.promote("credit@2")
    await developer.stub.DeleteVersion(pb.DeleteVersionRequest(ref="credit@1"))
    await _refused(developer.roll_back(), FailedPrecondition, "VERSION_GONE")


async def test_alias_is_no_number_and_ends_with_its_history_kept(developer: Client) -> None:
    await developer.register()
    await _refused(developer.promote("credit@1", "3"), InvalidArgument, "BAD_ALIAS")
    alias = await developer.promote("credit@1", "best")
    await developer.promote("credit@1", "worst")
    listed = await developer.stub.ListAliases(pb.ListAliasesRequest(model="credit"))
    assert [item.name for item in listed.aliases] == ["best", "worst"]
    stale = pb.DeleteAliasRequest(model="credit", alias="best", etag="f" * 32)
    await _refused(developer.stub.DeleteAlias(stale), Aborted, "ETAG_MISMATCH")
    await developer.stub.DeleteAlias(pb.DeleteAliasRequest(model="credit", alias="best", etag=alias.etag))
    await _refused(developer.get("credit@best"), NotFound, "MODEL_VERSION_NOT_FOUND")
    await _refused(
        developer.stub.GetAlias(pb.GetAliasRequest(model="credit", alias="best")), NotFound, "ALIAS_NOT_FOUND"
    )
    assert [move[:2] for move in await developer.history(alias="best")] == [(1, 0), (0, 1)]
    await _refused(developer.history(alias="never"), NotFound, "ALIAS_NOT_FOUND")


async def test_version_with_an_alias_cannot_be_deleted(house: House, developer: Client) -> None:
    await developer.register(files=FILES)
    await developer.promote("credit@1")
    request = pb.DeleteVersionRequest(ref="credit@1", request_id="d")
    error = await _refused(developer.stub.DeleteVersion(request), FailedPrecondition, "VERSION_IN_USE")
    assert "champion" in error.message
    await developer.stub.DeleteAlias(pb.DeleteAliasRequest(model="credit", alias="champion"))
    await developer.stub.DeleteVersion(request)
    await developer.stub.DeleteVersion(request)
    await _refused(developer.get("credit@1"), NotFound, "MODEL_VERSION_NOT_FOUND")
    assert house.objects() == []


async def test_deleted_model_is_gone_with_its_files_and_tells_of_its_aliases(house: House, developer: Client) -> None:
    await developer.register(files=FILES)
    await developer.promote("credit@1")
    await developer.stub.DeleteModel(pb.DeleteModelRequest(name="credit", request_id="d"))
    await _refused(developer.stub.GetModel(pb.GetModelRequest(name="credit")), NotFound, "MODEL_NOT_FOUND")
    assert house.objects() == []
    assert (await _facts(house))[-1] == "registry.alias.moved"
    async with house.state.database.reading() as connection:
        rows = (await connection.execute(tables.kit.outbox.select().order_by(tables.kit.outbox.c.sequence))).all()
    moved = events_pb2.AliasMoved.FromString(rows[-1].payload)
    assert (moved.alias.name, moved.alias.number, moved.from_number) == ("champion", 0, 1)
    await _refused(developer.stub.DeleteModel(pb.DeleteModelRequest(name="credit")), NotFound, "MODEL_NOT_FOUND")


@pytest.mark.parametrize("ref", ["credit@0", "credit@999999999999999999999", "credit@", "Credit", "a\0b", "", "@1"])
async def test_what_is_no_reference_is_an_invalid_argument(developer: Client, ref: str) -> None:
    with pytest.raises(InvalidArgument):
        await developer.get(ref)


async def test_another_workspaces_models_are_not_found(house: House, developer: Client) -> None:
    await developer.register()
    await developer.promote("credit@1")
    stranger = await house.user("admin", "other")
    calls = [
        stranger.get("credit@1"),
        stranger.get("credit@champion"),
        stranger.get("credit"),
        stranger.upload("credit@1"),
        stranger.finalize("credit@1"),
        stranger.download("credit@1"),
        stranger.promote("credit@1"),
        stranger.roll_back(),
        stranger.history(),
        stranger.stub.GetModel(pb.GetModelRequest(name="credit")),
        stranger.stub.ListVersions(pb.ListVersionsRequest(model="credit")),
        stranger.stub.ListAliases(pb.ListAliasesRequest(model="credit")),
        stranger.stub.GetAlias(pb.GetAliasRequest(model="credit", alias="champion")),
        stranger.stub.DeleteAlias(pb.DeleteAliasRequest(model="credit", alias="champion")),
        stranger.stub.DeleteVersion(pb.DeleteVersionRequest(ref="credit@1")),
        stranger.stub.DeleteModel(pb.DeleteModelRequest(name="credit")),
    ]
    for call in calls:
        with pytest.raises(NotFound):
            await call
    assert list((await stranger.stub.ListModels(pb.ListModelsRequest())).models) == []
    assert (await stranger.create()).number == 1
    assert (await developer.get("credit@champion")).number == 1


async def test_viewer_looks_and_changes_nothing(house: House, developer: Client) -> None:
    await developer.register()
    viewer = await house.user("viewer")
    assert (await viewer.get("credit@1")).number == 1
    assert await viewer.download("credit@1") == GOOD
    for call in (viewer.create(), viewer.promote("credit@1"), viewer.finalize("credit@1"), viewer.upload("credit@1")):
        await _refused(call, PermissionDenied, "ROLE_TOO_LOW")


async def test_lists_come_in_pages_filtered_and_in_order(developer: Client) -> None:
    for name in ("b-model", "a-model", "c"):
        await developer.create(name)
    await developer.register("c")
    await developer.register("c", {"model.onnx": b"bad"})

    async def models(**fields: Any) -> list[tuple[str, int, int]]:
        answer = await developer.stub.ListModels(pb.ListModelsRequest(**fields))
        return [(model.name, model.latest_version, model.latest_ready_version) for model in answer.models]

    assert await models() == [("a-model", 1, 0), ("b-model", 1, 0), ("c", 3, 2)]
    assert [name for name, *_ in await models(order_by="create_time desc")] == ["c", "a-model", "b-model"]
    assert [name for name, *_ in await models(filter='name : "model"')] == ["a-model", "b-model"]
    numbers, token = [], ""
    while True:
        request = pb.ListVersionsRequest(model="c", page_size=1, page_token=token)
        answer = await developer.stub.ListVersions(request)
        numbers += [version.number for version in answer.versions]
        token = answer.next_page_token
        if not token:
            break
    assert numbers == [3, 2, 1]
    for state, expected in (("READY", [2]), ("FAILED", [3]), ("PENDING", [1])):
        request = pb.ListVersionsRequest(model="c", filter=f'state = "{state}"')
        assert [item.number for item in (await developer.stub.ListVersions(request)).versions] == expected
    with pytest.raises(InvalidArgument):
        await developer.stub.ListVersions(pb.ListVersionsRequest(model="c", filter='owner = "me"'))


async def test_whole_life_on_postgres_and_s3(postgres_house: House) -> None:
    developer = await postgres_house.user()
    version = await developer.register(files=FILES)
    assert version.state == pb.VERSION_STATE_READY
    for name, content in FILES.items():
        assert await developer.download("credit@1", name) == content
    await developer.register()
    await developer.promote("credit@1")
    await developer.promote("credit@2")
    assert (await developer.roll_back()).number == 1
    with pytest.raises(InvalidArgument):
        await developer.get("a\0b")
    await developer.stub.DeleteModel(pb.DeleteModelRequest(name="credit"))
    assert ref_of(await developer.create()) == "credit@3"


async def test_version_that_two_finalize_at_once_gets_ready_once(house: House, developer: Client) -> None:
    await developer.create()
    await developer.upload("credit@1")
    first, second = await asyncio.gather(developer.finalize("credit@1"), developer.finalize("credit@1"))
    assert first == second
    assert first.state == pb.VERSION_STATE_READY
    assert await _facts(house) == ["registry.version.ready"]
