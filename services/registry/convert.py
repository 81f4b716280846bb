"""Between the contract's messages and the domain's types: pairs, pure, total."""

from datetime import UTC, datetime

from lepton.v1 import common_pb2
from lepton.v1 import registry_pb2 as pb
from services.registry.domain.aliases import Alias, Move
from services.registry.domain.versions import Artifact, Declaration, Parity, Tensor, Verdict, Version, VersionState
from services.registry.ports import Model

STATES: dict[VersionState, "pb.VersionState.ValueType"] = {
    VersionState.PENDING: pb.VERSION_STATE_PENDING,
    VersionState.READY: pb.VERSION_STATE_READY,
    VersionState.FAILED: pb.VERSION_STATE_FAILED,
}


def artifact_from_proto(message: pb.Artifact) -> Artifact:
    """Return a declared artifact."""
    return Artifact(message.name, message.sha256, message.size_bytes)


def artifact_to_proto(artifact: Artifact) -> pb.Artifact:
    """Return an artifact's message; where it is stored stays here."""
    return pb.Artifact(name=artifact.name, sha256=artifact.sha256, size_bytes=artifact.size_bytes)


def tensors_from_proto(specs: "list[common_pb2.TensorSpec]") -> tuple[Tensor, ...]:
    """Return declared inputs or outputs."""
    return tuple(
        Tensor(spec.name, spec.datatype, tuple(spec.shape), spec.categories[0] if spec.categories else "")
        for spec in specs
    )


def parity_from_proto(message: pb.Parity) -> Parity:
    """Return a parity measurement."""
    return Parity(message.max_difference, message.tolerance, message.rows, message.label_mismatches)


def declaration_from_proto(request: pb.CreateVersionRequest) -> Declaration:
    """Return what a request declares; a model made elsewhere has no parity, whatever its maker measured."""
    record = pb.Version(
        signature=request.signature,
        lineage=request.lineage,
        evaluations=request.evaluations,
        description=request.description,
        uploaded=not request.lineage.job,
        pretrained=request.pretrained,
    )
    if request.HasField("parity") and request.lineage.job:
        record.parity.CopyFrom(request.parity)
    artifacts = tuple(artifact_from_proto(artifact) for artifact in request.artifacts)
    return declaration_from_record(record.SerializeToString(), artifacts)


def declaration_from_record(record: bytes, artifacts: tuple[Artifact, ...]) -> Declaration:
    """Return what was declared, from what is kept of it."""
    message = pb.Version.FromString(record)
    return Declaration(
        artifacts,
        tensors_from_proto(list(message.signature.inputs)),
        tensors_from_proto(list(message.signature.outputs)),
        message.lineage.job,
        message.lineage.job_epoch,
        parity_from_proto(message.parity) if message.HasField("parity") else None,
        record,
        message.pretrained,
    )


def declaration_with_graph(declared: Declaration, verdict: Verdict) -> Declaration:
    """Return a declaration whose signature, where none was declared, is the graph's."""
    message = pb.Version.FromString(declared.record)
    for specs, found in ((message.signature.inputs, verdict.inputs), (message.signature.outputs, verdict.outputs)):
        if not specs:
            specs.extend(
                common_pb2.TensorSpec(
                    name=tensor.name,
                    datatype=tensor.datatype,
                    shape=tensor.shape,
                    categories=tensor.labels,
                    any_rank=tensor.any_rank,
                )
                for tensor in found
            )
    message.warnings[:] = verdict.warnings
    message.weight_files[:] = verdict.weight_files
    return declaration_from_record(message.SerializeToString(), declared.artifacts)


def version_to_proto(version: Version) -> pb.Version:
    """Return a version's message."""
    message = pb.Version.FromString(version.declared.record)
    message.model = version.model
    message.number = version.number
    message.state = STATES[version.state]
    message.error_reason = version.error_reason
    message.error_message = version.error_message
    message.artifacts.extend(artifact_to_proto(artifact) for artifact in version.artifacts)
    message.digest = version.digest
    message.deleting = version.is_deleting
    message.create_time.FromDatetime(_utc(version.create_time))
    if version.end_time is not None:
        message.end_time.FromDatetime(_utc(version.end_time))
    return message


def alias_to_proto(alias: Alias) -> pb.Alias:
    """Return an alias's message."""
    message = pb.Alias(model=alias.model, name=alias.name, number=alias.number, etag=alias.etag)
    message.update_time.FromDatetime(_utc(alias.update_time))
    return message


def move_to_proto(move: Move) -> pb.AliasMove:
    """Return a move's message."""
    message = pb.AliasMove(from_number=move.from_number, to_number=move.to_number, subject=move.subject)
    message.time.FromDatetime(_utc(move.time))
    return message


def model_to_proto(model: Model) -> pb.Model:
    """Return a model's message."""
    message = pb.Model(
        name=model.name, latest_version=model.latest_version, latest_ready_version=model.latest_ready_version
    )
    message.create_time.FromDatetime(_utc(model.create_time))
    return message


def _utc(time: datetime) -> datetime:
    # SQLite forgets the zone; what it holds is UTC.
    return time if time.tzinfo else time.replace(tzinfo=UTC)
