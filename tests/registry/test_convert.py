"""Between messages and the domain's types: nothing is lost on the way, and what is stored stays here."""

from datetime import UTC, datetime, timedelta, timezone

from lepton.v1 import common_pb2
from lepton.v1 import registry_pb2 as pb
from services.registry.adapters.repository import ModelRow
from services.registry.convert import (
    STATES,
    alias_to_proto,
    artifact_from_proto,
    artifact_to_proto,
    declaration_from_proto,
    declaration_from_record,
    declaration_with_graph,
    model_to_proto,
    move_to_proto,
    version_to_proto,
)
from services.registry.domain.aliases import Alias, Move
from services.registry.domain.versions import Artifact, Tensor, Verdict, VersionState
from tests.registry.versions import NOW, declare, version

REQUEST = pb.CreateVersionRequest(
    model="m",
    artifacts=[pb.Artifact(name="model.onnx", sha256="a" * 64, size_bytes=7)],
    signature=common_pb2.Signature(
        inputs=[common_pb2.TensorSpec(name="x", datatype="BYTES", shape=[-1, 1], categories=["red", "blue"])],
        outputs=[common_pb2.TensorSpec(name="prediction", datatype="INT64", shape=[-1, 1])],
        target="y",
        task="binary",
        classes=["no", "yes"],
    ),
    lineage=pb.Lineage(dataset="d@3", job="j", job_epoch=4, libraries={"torch": "2.13"}, family="logistic", seed=5),
    evaluations=[common_pb2.Evaluation(dataset="d@3", rows=10)],
    parity=pb.Parity(max_difference=1e-8, tolerance=1e-4, rows=9, label_mismatches=0),
    description="for people",
)


def test_every_state_has_its_own_value_and_none_is_unspecified() -> None:
    assert set(STATES) == set(VersionState)
    assert len(set(STATES.values())) == len(STATES)
    assert pb.VERSION_STATE_UNSPECIFIED not in STATES.values()


def test_version_gives_back_all_that_was_declared() -> None:
    message = version_to_proto(version(declaration_from_proto(REQUEST)))
    for field in ("signature", "lineage", "parity", "description"):
        assert getattr(message, field) == getattr(REQUEST, field)
    assert list(message.evaluations) == list(REQUEST.evaluations)
    assert list(message.artifacts) == list(REQUEST.artifacts)
    assert (message.state, message.number, message.uploaded) == (pb.VERSION_STATE_PENDING, 1, False)
    assert not message.HasField("end_time")


def test_declaration_is_the_same_when_it_is_read_from_its_record() -> None:
    declared = declaration_from_proto(REQUEST)
    assert declaration_from_record(declared.record, declared.artifacts) == declared
    assert (declared.job, declared.job_epoch) == ("j", 4)
    assert declared.inputs == (Tensor("x", "BYTES", (-1, 1), "red"),)


def test_graph_fills_what_was_not_declared_alone() -> None:
    verdict = Verdict((Tensor("other", "FP32", (-1,)),), (Tensor("out", "FP64", (-1, 2)),))
    declared = declaration_from_proto(REQUEST)
    assert declaration_with_graph(declared, verdict) == declared
    filled = declaration_with_graph(declare(), verdict)
    assert (filled.inputs, filled.outputs) == (verdict.inputs, verdict.outputs)


def test_artifacts_go_there_and_back_and_keep_where_they_lie_to_themselves() -> None:
    artifact = Artifact("a.json", "b" * 64, 3)
    assert artifact_from_proto(artifact_to_proto(artifact)) == artifact
    assert "secret" not in str(artifact_to_proto(Artifact("a.json", "b" * 64, 3, "secret")))


def test_times_are_utc_whether_or_not_the_database_kept_the_zone() -> None:
    zoned = NOW.astimezone(timezone(timedelta(hours=2)))
    expected = [NOW] * 3
    found = [
        alias_to_proto(Alias("m", "a", 1, "e", time)).update_time.ToDatetime(tzinfo=UTC)
        for time in (NOW, NOW.replace(tzinfo=None), zoned)
    ]
    assert found == expected
    assert move_to_proto(Move(1, 2, "me", NOW)) == pb.AliasMove(
        from_number=1, to_number=2, subject="me", time=alias_to_proto(Alias("m", "a", 1, "e", NOW)).update_time
    )
    model = model_to_proto(ModelRow("m", 3, 2, datetime(2026, 1, 1, tzinfo=UTC)))
    assert (model.name, model.latest_version, model.latest_ready_version) == ("m", 3, 2)
