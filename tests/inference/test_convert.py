"""Messages and domain types: pairs that lose nothing, and enums that are told apart."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton.v1 import inference_pb2 as pb
from lepton.v1 import registry_pb2, scheduler_pb2
from servicekit.errors import InvalidArgument
from services.inference.convert import (
    REPLICA_STATES,
    STATES,
    deployment_to_proto,
    resources_from_proto,
    resources_to_proto,
    seen_from_proto,
    version_from_proto,
)
from services.inference.domain.deployments import (
    Deployment,
    DeploymentState,
    Observed,
    ReplicaState,
    Resources,
)

_resources = st.builds(Resources, st.floats(0, 1e6), st.integers(0, 1 << 50), st.floats(0, 64))


@given(_resources)
def test_resources_come_back(resources: Resources) -> None:
    assert resources_from_proto(resources_to_proto(resources)) == resources


def test_states_are_total_and_unspecified_is_refused() -> None:
    assert set(STATES) == set(DeploymentState)
    assert set(STATES.values()) == set(pb.DeploymentState.values()) - {0}
    assert set(REPLICA_STATES) == set(scheduler_pb2.ReplicaState.values()) - {0}
    assert set(REPLICA_STATES.values()) == set(ReplicaState)
    with pytest.raises(InvalidArgument):
        seen_from_proto("w", scheduler_pb2.Replica(number=1))


def test_workspace_is_told_to_services_alone() -> None:
    now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    observed = Observed(DeploymentState.UPDATING, 1, "why", {"w": "CPU"})
    item = Deployment("ws", "d", "m@1", 1, "x", 2, Resources(1, 2, 3), 4, "e", 5, observed, now, now)
    message = deployment_to_proto(item)
    assert (message.workspace, message.previous_number, message.sequence) == ("", 4, 5)
    assert (message.state, dict(message.providers)) == (pb.DEPLOYMENT_STATE_UPDATING, {"w": "CPU"})
    # SQLite gives times back without their zone.
    naive = deployment_to_proto(
        replace(item, create_time=now.replace(tzinfo=None), update_time=now.replace(tzinfo=None)), with_workspace=True
    )
    assert (naive.workspace, naive.create_time) == ("ws", message.create_time)


def test_size_is_the_models_own() -> None:
    version = registry_pb2.Version(model="m", number=3, digest="x", state=registry_pb2.VERSION_STATE_READY)
    version.artifacts.add(name="model.onnx", size_bytes=7)
    version.artifacts.add(name="state.safetensors", size_bytes=100)
    found = version_from_proto(version)
    assert (found.ref, found.size_bytes, found.is_ready) == ("m@3", 7, True)
    # What the graph reads weights from is loaded with it.
    version.artifacts.add(name="model.onnx.data", size_bytes=5 << 30)
    version.weight_files.append("model.onnx.data")
    assert version_from_proto(version).size_bytes == (5 << 30) + 7
