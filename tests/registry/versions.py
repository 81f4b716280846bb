"""Declarations and versions for tests of the domain and the repository."""

from datetime import UTC, datetime
from typing import Any

from lepton.v1 import registry_pb2 as pb
from services.registry.convert import declaration_from_proto
from services.registry.domain.versions import Declaration, Version, VersionState

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def declare(job: str = "", epoch: int = 0, files: tuple[str, ...] = ("model.onnx",), **fields: Any) -> Declaration:
    """Return a declaration whose files all have the same digest."""
    request = pb.CreateVersionRequest(model="m", lineage=pb.Lineage(job=job, job_epoch=epoch), **fields)
    for name in files:
        request.artifacts.add(name=name, sha256="a" * 64, size_bytes=3)
    return declaration_from_proto(request)


def version(declared: Declaration, state: VersionState = VersionState.PENDING, number: int = 1) -> Version:
    """Return a version as it would be read."""
    return Version("w", "m", number, state, declared, "", "", NOW, None)
