"""Between the contract's messages and the domain's types: pairs, pure, total."""

from datetime import UTC, datetime

from lepton.v1 import common_pb2
from lepton.v1 import registry_pb2 as pb
from services.registry.domain.aliases import Alias, Move
from services.registry.domain.versions import Artifact, Parity, Tensor, Verdict, Version, VersionState

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
    return tuple(Tensor(spec.name, spec.datatype, tuple(spec.shape)) for spec in specs)


def parity_from_proto(request: pb.CreateVersionRequest | pb.Version) -> Parity | None:
    """Return the parity measurement of a request or record, or None."""
    if not request.HasField("parity"):
        return None
    message = request.parity
    return Parity(message.max_difference, message.tolerance, message.rows, message.label_mismatches)


def record_of(request: pb.CreateVersionRequest) -> bytes:
    """Return what a version keeps of its declaration, serialised."""
    record = pb.Version(
        signature=request.signature,
        lineage=request.lineage,
        evaluations=request.evaluations,
        description=request.description,
        uploaded=not request.lineage.job,
    )
    if request.HasField("parity"):
        record.parity.CopyFrom(request.parity)
    return record.SerializeToString()


def record_with_graph(record: bytes, verdict: Verdict) -> bytes:
    """Return a record whose signature, where none was declared, is the graph's."""
    message = pb.Version.FromString(record)
    for specs, found in ((message.signature.inputs, verdict.inputs), (message.signature.outputs, verdict.outputs)):
        if not specs:
            specs.extend(
                common_pb2.TensorSpec(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
                for tensor in found
            )
    return message.SerializeToString()


def version_from_record(
    record: pb.Version,
    workspace: str,
    model: str,
    number: int,
    state: VersionState,
    artifacts: tuple[Artifact, ...],
    error_reason: str,
    error_message: str,
    create_time: datetime,
    end_time: datetime | None,
) -> Version:
    """Return a version from what it declared and what became of it."""
    return Version(
        workspace,
        model,
        number,
        state,
        artifacts,
        tensors_from_proto(list(record.signature.inputs)),
        tensors_from_proto(list(record.signature.outputs)),
        record.lineage.job,
        parity_from_proto(record),
        record.SerializeToString(),
        error_reason,
        error_message,
        create_time,
        end_time,
    )


def version_to_proto(version: Version) -> pb.Version:
    """Return a version's message."""
    message = pb.Version.FromString(version.record)
    message.model = version.model
    message.number = version.number
    message.state = STATES[version.state]
    message.error_reason = version.error_reason
    message.error_message = version.error_message
    message.artifacts.extend(artifact_to_proto(artifact) for artifact in version.artifacts)
    message.digest = version.digest
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


def model_to_proto(name: str, latest: int, latest_ready: int, create_time: datetime) -> pb.Model:
    """Return a model's message."""
    message = pb.Model(name=name, latest_version=latest, latest_ready_version=latest_ready)
    message.create_time.FromDatetime(_utc(create_time))
    return message


def _utc(time: datetime) -> datetime:
    # SQLite forgets the zone; what it holds is UTC.
    return time if time.tzinfo else time.replace(tzinfo=UTC)
