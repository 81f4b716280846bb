import pytest

from lepton.v1 import common_pb2, inference_pb2, scheduler_pb2, training_pb2
from servicekit.errors import InvalidArgument
from services.scheduler import convert
from services.scheduler.domain.assignment import Assignment
from services.scheduler.domain.cluster import (
    JobKey,
    JobPlacement,
    JobState,
    Load,
    ReplicaKey,
    ReplicaPlacement,
    ReplicaState,
    Resources,
    Worker,
    WorkerKind,
    WorkerState,
)
from services.scheduler.domain.routing import Role, Routing


def test_assignments_survive_the_wire() -> None:
    assignment = Assignment(
        "w1",
        3,
        4,
        (
            ReplicaPlacement(
                "w1",
                ReplicaKey("ws", "d", "m", 2),
                Resources(0.5, 10, 1),
                "abc",
                ("champion",),
                9,
                routing=Routing(Role.CANARY, 5.0, 10.0, 0.01, 3, 20.0),
            ),
        ),
        (JobPlacement("w1", JobKey("ws", "j"), Resources(1, 20), 8),),
        True,
    )
    assert convert.assignment_from_proto(convert.assignment_to_proto(assignment)) == assignment


def test_loads_and_resources_survive_the_wire() -> None:
    load, resources = Load(0.25, 5, 2, 10.0), Resources(1.5, 7, 1)
    assert convert.load_from_proto(convert.load_to_proto(load)) == load
    assert convert.resources_from_proto(convert.resources_to_proto(resources)) == resources


@pytest.mark.parametrize("kind", WorkerKind)
@pytest.mark.parametrize("state", WorkerState)
def test_every_kind_and_state_of_a_worker_has_a_name(kind: WorkerKind, state: WorkerState) -> None:
    worker = Worker("w", kind, state, Resources(1, 1), 2, "host:1", 1000.5)
    message = convert.worker_to_proto(worker, Resources(), 0.0)
    assert convert.kind_from_proto(message.kind) is kind
    assert scheduler_pb2.WorkerState.Name(message.state) == f"WORKER_STATE_{state.name}"
    assert (message.join_time.ToNanoseconds(), message.HasField("report_time")) == (1_000_500_000_000, False)


def test_an_unspecified_kind_is_refused() -> None:
    with pytest.raises(InvalidArgument):
        convert.kind_from_proto(scheduler_pb2.WORKER_KIND_UNSPECIFIED)


@pytest.mark.parametrize("state", scheduler_pb2.ReplicaState.values())
def test_every_reported_state_is_understood(state: "scheduler_pb2.ReplicaState.ValueType") -> None:
    replica = scheduler_pb2.Replica(deployment="d", state=state, provider="CPU")
    report = convert.report_from_proto(scheduler_pb2.WorkerReport(worker="w", epoch=1, replicas=[replica]))
    (said,) = report.replicas.values()
    assert said.state in ReplicaState and said.provider == "CPU"


def test_a_deployment_wants_at_least_one_replica_and_names_its_alias() -> None:
    message = inference_pb2.Deployment(name="d", version="m@champion", number=3, workspace="ws", digest="x")
    wanted = convert.deployment_from_proto(message, "")
    assert (wanted.replicas, wanted.aliases, wanted.key) == (1, ("champion",), ReplicaKey("ws", "d", "m", 3))
    assert wanted.resources == Resources(0.5, 256 << 20)
    message.version = "m@3"
    assert convert.deployment_from_proto(message, "").aliases == ()


def test_every_role_of_a_version_survives_the_wire() -> None:
    for role in Role:
        assert convert.routing_from_proto(convert.routing_to_proto(Routing(role))).role is role
    wire = {convert.routing_to_proto(Routing(role)).role for role in Role}
    assert wire == set(scheduler_pb2.ReplicaRole.values()) - {scheduler_pb2.REPLICA_ROLE_UNSPECIFIED}
    assert convert.routing_from_proto(scheduler_pb2.ReplicaRouting()).role is Role.SERVING


def test_batching_off_survives_the_wire_and_holds_for_every_version() -> None:
    for is_off in (False, True):
        routing = Routing(is_batching_off=is_off)
        assert convert.routing_from_proto(convert.routing_to_proto(routing)) == routing
    message = inference_pb2.Deployment(name="d", version="m@3", number=3, batching=common_pb2.BATCHING_OFF)
    message.traffic.add(version="m@4", number=4, weight_percent=10)
    wanted = convert.deployment_from_proto(message, "ws")
    assert [item.routing.is_batching_off for item in (wanted, *wanted.companions)] == [True, True]


def test_versions_beside_a_deployments_own_are_its_companions() -> None:
    message = inference_pb2.Deployment(name="d", version="m@champion", number=3, workspace="ws", digest="x")
    message.traffic.add(version="m@7", number=7, digest="z", weight_percent=20)
    message.traffic.add(version="m@4", number=4, digest="y", weight_percent=10)
    message.canary.CopyFrom(
        inference_pb2.Canary(
            version="other@5", number=5, percent=5, min_agreement=0.9, compare_percent=20, tolerance=0.5, window=7
        )
    )
    message.shadow.CopyFrom(inference_pb2.Shadow(version="m@6", number=6, percent=30, tolerance=0.1, window=8))
    message.standby.CopyFrom(inference_pb2.Standby(version="m@4", number=4))
    message.canary.state = inference_pb2.CANARY_STATE_RUNNING
    wanted = convert.deployment_from_proto(message, "")
    assert wanted.routing == Routing(window=7)
    assert [(item.key.model, item.key.number, item.aliases, item.routing) for item in wanted.companions] == [
        ("m", 4, (), Routing(Role.TARGET, 10.0)),
        ("m", 7, (), Routing(Role.TARGET, 20.0, start_percent=10.0)),
        ("other", 5, (), Routing(Role.CANARY, 5.0, 20.0, 0.5, 7)),
        ("m", 6, (), Routing(Role.SHADOW, 0.0, 30.0, 0.1, 8)),
    ]
    message.canary.state = inference_pb2.CANARY_STATE_ROLLED_BACK
    ended = convert.deployment_from_proto(message, "")
    assert ended.routing == Routing() and {item.key.number for item in ended.companions} == {4, 6, 7}


def test_only_queued_and_running_jobs_are_wanted() -> None:
    spec = training_pb2.JobSpec(resources=common_pb2.Resources(cores=2))
    wanted = {}
    for state in training_pb2.JobState.values():
        job = convert.job_from_proto(training_pb2.Job(name="j", state=state, spec=spec), "ws")
        if job is not None:
            wanted[job.state] = job
    assert set(wanted) == set(JobState)
    assert wanted[JobState.QUEUED].resources == Resources(2, 1 << 30)
    assert wanted[JobState.QUEUED].key == JobKey("ws", "j")
