"""Workers: who runs replicas and jobs, how busy they are, drain and resume."""

import pandas as pd

from lepton import names
from lepton.arguments import build
from lepton.connection import Connection, current
from lepton.v1 import scheduler_pb2


def list_workers(*, connection: Connection | None = None) -> pd.DataFrame:
    """Return one row a worker: name, kind, state, cores, allocated_cores, memory_bytes, cpu_utilization, ..."""
    connection = connection or current()
    rows, token = [], ""
    while True:
        page = connection.scheduler.ListWorkers(scheduler_pb2.ListWorkersRequest(page_token=token))
        rows += [_row(worker) for worker in page.workers]
        token = page.next_page_token
        if not token:
            return pd.DataFrame(rows, columns=_COLUMNS)


def drain_worker(name: str, *, connection: Connection | None = None) -> None:
    """Move a worker's work away and give it no more."""
    request = build(scheduler_pb2.DrainWorkerRequest, name=name, request_id=names.request_id())
    (connection or current()).scheduler.DrainWorker(request)


def resume_worker(name: str, *, connection: Connection | None = None) -> None:
    """Let a drained worker take work again."""
    request = build(scheduler_pb2.ResumeWorkerRequest, name=name, request_id=names.request_id())
    (connection or current()).scheduler.ResumeWorker(request)


def list_placements(*, connection: Connection | None = None) -> pd.DataFrame:
    """Return one row a placement in your workspace: worker, kind, name, number, waits.

    What has no place has a row without a worker, first; waits says why.
    """
    connection = connection or current()
    rows: list[tuple[str, str, str, int, str]] = []
    token = ""
    while True:
        page = connection.scheduler.ListPlacements(scheduler_pb2.ListPlacementsRequest(page_token=token))
        rows += [
            ("", "replica" if item.deployment else "job", item.deployment or item.job, 0, _why(item))
            for item in page.unplaced
        ]
        for item in page.placements:
            if item.HasField("replica"):
                rows.append((item.worker, "replica", item.replica.deployment, item.replica.number, ""))
            else:
                rows.append((item.worker, "job", item.job.job, 0, ""))
        token = page.next_page_token
        if not token:
            return pd.DataFrame(rows, columns=["worker", "kind", "name", "number", "waits"])


def why_unplaced(connection: Connection, *, deployment: str = "", job: str = "") -> str:
    """Return why a deployment or a job of your workspace has no place now; empty where it has one."""
    page = connection.scheduler.ListPlacements(scheduler_pb2.ListPlacementsRequest(page_size=1))
    found = (item for item in page.unplaced if (item.deployment, item.job) == (deployment, job))
    return next((_why(item) for item in found), "")


def _why(item: scheduler_pb2.UnplacedWork) -> str:
    return f"{item.reason}: {item.message}" if item.message else item.reason


_COLUMNS = [
    "name",
    "kind",
    "state",
    "cores",
    "allocated_cores",
    "memory_bytes",
    "cpu_utilization",
    "gpus",
    "gpu_utilization",
    "in_flight",
    "address",
]


def _row(worker: scheduler_pb2.Worker) -> tuple[object, ...]:
    return (
        worker.name,
        scheduler_pb2.WorkerKind.Name(worker.kind).removeprefix("WORKER_KIND_").lower(),
        scheduler_pb2.WorkerState.Name(worker.state).removeprefix("WORKER_STATE_"),
        worker.capacity.cores,
        worker.allocated.cores,
        worker.capacity.memory_bytes,
        worker.load.cpu_utilization,
        worker.capacity.gpus,
        worker.load.gpu_utilization,
        worker.load.in_flight,
        worker.address,
    )
