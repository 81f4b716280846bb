"""What every worker does beside its work: holds a lease, reports its load, and follows what it is assigned.

With NATS or the scheduler away a worker keeps what it holds, and tries again until they are back.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Self

import psutil
import structlog

from lepton.v1 import common_pb2, scheduler_pb2, scheduler_pb2_grpc
from servicekit.errors import Aborted, LeptonError, NotFound
from servicekit.events import Nats
from servicekit.gpus import read_gpus
from servicekit.key_value import watch

_log = structlog.get_logger(__name__)

PLACEMENTS = "placements"
# Shares of a lease between renewals. Each report that the scheduler hears extends the lease, too, and costs less: so
# while there is NATS, renewals are for what reports cannot tell, that the lease is lost; each still comes in time.
_RENEW_BESIDE_REPORTS = 0.8
_RENEW_ALONE = 0.3
_REPORT_SECONDS = 1.0
_RETRY_SECONDS = 0.5


@dataclass(frozen=True)
class Holding:
    """What a worker holds now.

    Args:
        replicas, jobs: as a report has them.
        in_flight: requests or jobs under way.
        requests_per_second: mean of the last 10 s.
        processes: ids of the child processes that work for it, whose load counts as its own.
    """

    replicas: tuple[scheduler_pb2.Replica, ...] = ()
    jobs: tuple[scheduler_pb2.JobPlacement, ...] = ()
    in_flight: int = 0
    requests_per_second: float = 0.0
    processes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Membership:
    """Who a worker is.

    Args:
        worker: its id.
        kind: what it runs.
        capacity: what it has.
        address: its private host:port; empty where nobody calls it.
    """

    worker: str
    kind: "scheduler_pb2.WorkerKind.ValueType"
    capacity: common_pb2.Resources
    address: str = ""


class WorkerAgent:
    """Keeps a worker in touch with the scheduler while it is open.

    Args:
        membership: who it is.
        scheduler: the scheduler's stub.
        nats: for assignments and reports.
        apply: makes an assignment true, or starts to; called with each new one.
        holding: tells what the worker holds.
    """

    def __init__(
        self,
        membership: Membership,
        scheduler: "scheduler_pb2_grpc.SchedulerServiceAsyncStub",
        nats: Nats,
        apply: Callable[[scheduler_pb2.Assignment], Awaitable[None]],
        holding: Callable[[], Holding],
    ) -> None:
        self._membership = membership
        self._scheduler = scheduler
        self._nats = nats
        self._apply = apply
        self._holding = holding
        self._epoch = 0
        self._leader_epoch = 0
        self._revision = 0
        self._leased = asyncio.Event()
        self._changed = asyncio.Event()
        self._registered = asyncio.Event()
        self._process = psutil.Process()
        self._processes: dict[int, psutil.Process] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        loops = (self._keep_lease, self._follow_assignment, self._report)
        self._tasks = [asyncio.create_task(self._forever(loop), name=loop.__name__) for loop in loops]
        return self

    async def __aexit__(self, *_: object) -> None:
        pending = self._tasks
        while pending:
            # More than once: on Python 3.11 a wait_for inside may swallow a cancellation that comes with its result.
            for task in pending:
                task.cancel()
            await asyncio.wait(pending, timeout=0.5)
            pending = [task for task in pending if not task.done()]
        with contextlib.suppress(Exception):
            request = scheduler_pb2.DeregisterWorkerRequest(worker=self._membership.worker, epoch=self._epoch)
            await self._scheduler.DeregisterWorker(request, timeout=2.0)

    def changed(self) -> None:
        """Report at once: a replica or job changed."""
        self._changed.set()

    async def announce_leave(self) -> None:
        """Ask the scheduler for no more work, before what is here is given back; without an answer, leave anyway."""
        with contextlib.suppress(Exception):
            request = scheduler_pb2.DrainWorkerRequest(name=self._membership.worker)
            await self._scheduler.DrainWorker(request, timeout=2.0)

    async def _forever(self, loop: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await loop()
            except asyncio.CancelledError:
                raise
            except Exception as error:
                _log.info("worker waits", doing=loop.__name__, error=str(error) or type(error).__name__)
                await asyncio.sleep(_RETRY_SECONDS)

    async def _keep_lease(self) -> None:
        membership = self._membership
        request = scheduler_pb2.RegisterWorkerRequest(
            worker=membership.worker,
            kind=membership.kind,
            capacity=membership.capacity,
            address=membership.address,
        )
        answer = await self._scheduler.RegisterWorker(request, timeout=5.0)
        self._epoch = answer.epoch
        self._registered.set()
        self._leased.set()
        self._changed.set()
        _log.info("lease taken", worker=membership.worker, epoch=answer.epoch)
        while True:
            share = _RENEW_BESIDE_REPORTS if self._nats.is_connected else _RENEW_ALONE
            await asyncio.sleep(share * answer.lease_seconds)
            renewal = scheduler_pb2.RenewLeaseRequest(worker=membership.worker, epoch=self._epoch)
            try:
                await self._scheduler.RenewLease(renewal, timeout=5.0)
            except (Aborted, NotFound):
                raise
            except LeptonError as error:
                # The scheduler is away: what runs here goes on, and the lease may still hold when it is back.
                _log.info("lease not renewed yet", error=error.message)

    async def _follow_assignment(self) -> None:
        await self._registered.wait()
        entries = watch(self._nats, PLACEMENTS, f"worker.{self._membership.worker}")
        async with contextlib.aclosing(entries):
            async for entry in entries:
                if entry is not None and entry.value:
                    await self._take(entry.value, entry.revision)

    async def _take(self, value: bytes, revision: int) -> None:
        assignment = scheduler_pb2.Assignment.FromString(value)
        while assignment.worker_epoch > self._epoch:
            # It came before the answer that names the new lease.
            self._leased.clear()
            await self._leased.wait()
        # An older leader's word, or one for this worker's former life, counts for nothing.
        is_stale = assignment.leader_epoch < self._leader_epoch or assignment.worker_epoch != self._epoch
        if is_stale or revision == self._revision:
            return
        self._leader_epoch = assignment.leader_epoch
        self._revision = revision
        await self._apply(assignment)

    async def _report(self) -> None:
        await self._registered.wait()
        while True:
            # Not wait_for: on Python 3.11 it may swallow a cancellation that comes together with the event.
            with contextlib.suppress(TimeoutError):
                # On the whole second, as other workers do: who hears those of one machine wakes once for all.
                async with asyncio.timeout(_REPORT_SECONDS - time.time() % _REPORT_SECONDS):
                    await self._changed.wait()
            self._changed.clear()
            held = self._holding()
            report = scheduler_pb2.WorkerReport(
                worker=self._membership.worker,
                kind=self._membership.kind,
                epoch=self._epoch,
                load=self._load(held),
                replicas=held.replicas,
                jobs=held.jobs,
                address=self._membership.address,
            )
            report.time.GetCurrentTime()
            await self._nats.publish_plain(f"lepton-reports.{self._membership.worker}", report)

    def _load(self, held: Holding) -> scheduler_pb2.Load:
        own = self._process.pid
        kept = {pid: process for pid, process in self._processes.items() if pid in held.processes}
        self._processes = {own: self._process, **kept, **_new_processes(held.processes, kept)}
        cores = max(self._membership.capacity.cores, 1.0)
        busy = sum(_cpu_percent(process) for process in self._processes.values())
        # Asked only where GPUs are declared: the driver's library takes a thread's time.
        gpus = read_gpus() if self._membership.capacity.gpus else []
        return scheduler_pb2.Load(
            gpu_utilization=max((gpu.utilization for gpu in gpus), default=0.0),
            gpu_used_bytes=sum(gpu.used_bytes for gpu in gpus),
            gpu_memory_bytes=sum(gpu.memory_bytes for gpu in gpus),
            cpu_utilization=min(1.0, busy / 100.0 / cores),
            memory_bytes=sum(own_memory_bytes(process) for process in self._processes.values()),
            in_flight=held.in_flight,
            requests_per_second=held.requests_per_second,
        )


def _new_processes(pids: tuple[int, ...], known: Mapping[int, psutil.Process]) -> dict[int, psutil.Process]:
    found = {}
    for pid in pids:
        if pid not in known:
            with contextlib.suppress(psutil.Error):
                found[pid] = psutil.Process(pid)
    return found


def own_memory_bytes(process: psutil.Process) -> int:
    """Return how much memory is a process's own, without the files of libraries that it maps; 0 once it has ended."""
    with contextlib.suppress(psutil.Error):
        # Not the exact PSS: to tell that the kernel walks all pages, which takes a hundred times as long.
        memory = process.memory_info()
        return int(memory.rss - getattr(memory, "shared", 0))
    return 0


def _cpu_percent(process: psutil.Process) -> float:
    """Return a process's share of one core since this was asked last, percent; 0 where it has ended."""
    with contextlib.suppress(psutil.Error):
        return float(process.cpu_percent())
    return 0.0


def own_cores() -> int:
    """Return how many cores this process may run on now; at least 1."""
    return max(len(os.sched_getaffinity(0)), 1) if hasattr(os, "sched_getaffinity") else psutil.cpu_count() or 1


def machine_capacity(cores: float, memory_bytes: int, gpus: float) -> common_pb2.Resources:
    """Return a capacity, with this machine's own where zero is given."""
    return common_pb2.Resources(
        cores=cores or float(psutil.cpu_count() or 1),
        memory_bytes=memory_bytes or psutil.virtual_memory().total,
        gpus=gpus or float(len(read_gpus())),
    )
