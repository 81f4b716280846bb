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


def test_assignments_survive_the_wire() -> None:
    assignment = Assignment(
        "w1",
        3,
        4,
        (ReplicaPlacement("w1", ReplicaKey("ws", "d", "m", 2), Resources(0.5, 10, 1), "abc", ("champion",), 9),),
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
