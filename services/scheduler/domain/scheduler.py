"""The scheduler at work: it gathers the cluster, plans, writes down, and tells the workers."""

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import structlog

from servicekit.errors import Aborted, LeptonError, Unavailable
from services.scheduler.domain.assignment import Report
from services.scheduler.domain.cluster import (
    Cluster,
    DeploymentKey,
    JobKey,
    Move,
    PlaceJob,
    PlaceReplica,
    Plan,
    Policy,
    Resources,
    Unplaced,
    WantedDeployment,
    WantedJob,
    Worker,
    WorkerKind,
    WorkerState,
)
from services.scheduler.domain.leases import Leases
from services.scheduler.domain.plan import plan
from services.scheduler.domain.tasks import first_to_end
from services.scheduler.domain.view import View
from services.scheduler.domain.wanted import Wanted, deployments_or_placed, jobs_or_placed
from services.scheduler.ports import DeploymentSource, JobSource, Projection, Repository, Store

_log = structlog.get_logger(__name__)
_Answer = TypeVar("_Answer")

_RETRY_SECONDS = 0.5
# A timer that fires this much late means that the whole process stood still.
_STALL_SECONDS = 1.0
_FORGET_LOST_SECONDS = 3600.0
# Every so many resyncs the bucket is read back: NATS may have lost its disk.
_VERIFY_EVERY = 6


@dataclass(frozen=True)
class Timing:
    """How often things happen, seconds; see SchedulerSettings."""

    lease: float = 5.0
    grace: float = 10.0
    resync: float = 10.0
    debounce: float = 0.02


class Scheduler:
    """What one scheduler process knows, and what it does while it leads.

    Args:
        store: its database.
        projection: where workers read their assignments.
        deployments, jobs: the owners of what is wanted.
        policy: how plans weigh things.
        timing: how often things happen.
        clock: seconds since 1970.
        monotonic: seconds of a clock that never jumps.
    """

    def __init__(
        self,
        store: Store,
        projection: Projection,
        deployments: DeploymentSource,
        jobs: JobSource,
        policy: Policy,
        timing: Timing,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._projection = projection
        self._deployment_source = deployments
        self._job_source = jobs
        self._policy = policy
        self._timing = timing
        self._clock = clock
        self._monotonic = monotonic
        self._epoch = 0
        self.leads = asyncio.Event()
        self.view = View()
        self._leases = Leases(timing.lease)
        # Plans and registrations change the same rows: one at a time, each seeing what the one before wrote.
        self._changing = asyncio.Lock()
        self._wake = asyncio.Event()
        self._leases_changed = asyncio.Event()
        self._project = asyncio.Event()
        self._departed: set[str] = set()
        self.deployments: Wanted[DeploymentKey, WantedDeployment] = Wanted()
        self.jobs: Wanted[JobKey, WantedJob] = Wanted()
        self.last_plan = Plan()
        self.on_plan: Callable[[Plan, float], None] = lambda made, seconds: None

    # What workers and people ask for.

    @property
    def leader_epoch(self) -> int:
        """The epoch of this process's leadership; 0 while it stands by."""
        return self._epoch

    @property
    def lease_seconds(self) -> float:
        """How long a lease lasts."""
        return self._leases.seconds

    async def register(self, worker: str, kind: WorkerKind, capacity: Resources, address: str) -> Worker:
        """Give a worker a lease, and place what waits for it."""
        async with self._changing_to_plan() as repository:
            made = await repository.register(worker, kind, capacity, address, self._clock())
            self.view.forget_report(worker)
        self._leases.grant(worker, made.epoch, self._monotonic())
        self.view.note_heard(worker, self._clock())
        self._leases_changed.set()
        _log.info("worker joined", worker=worker, kind=kind.value, epoch=made.epoch)
        return made

    def renew(self, worker: str, epoch: int) -> float:
        """Extend a worker's lease; return how long it lasts, seconds.

        Raises:
            Aborted: the lease is lost.
            Unavailable: this process does not lead.
        """
        self._require_leader()
        self._leases.renew(worker, epoch, self._monotonic())
        self.view.note_heard(worker, self._clock())
        return self._leases.seconds

    async def deregister(self, worker: str, epoch: int) -> None:
        """Let a worker go; what it held is placed elsewhere."""
        async with self.changing() as repository:
            await repository.deregister(worker, epoch)
        self._leases.end(worker)
        self.view.forget_report(worker)
        self._departed.add(worker)
        _log.info("worker left", worker=worker, epoch=epoch)
        self.wake()

    @contextlib.asynccontextmanager
    async def changing(self) -> AsyncIterator[Repository]:
        """Run a block as one fenced write transaction; then read anew what it wrote.

        Raises:
            Unavailable: this process does not lead.
        """
        self._require_leader()
        async with self._changing:
            async with self._store.writing() as repository:
                await repository.fence(self._epoch)
                yield repository
            await self._reload()

    @contextlib.asynccontextmanager
    async def _changing_to_plan(self) -> AsyncIterator[Repository]:
        """As `changing`, with a plan before anybody sees the change.

        A worker that comes back within its lease's time must not read an assignment that lacks what it is to keep.
        """
        self._require_leader()
        async with self._changing:
            async with self._store.writing() as repository:
                await repository.fence(self._epoch)
                yield repository
            await self._reload()
            await self._plan()

    async def exclusively(self, act: Callable[[], Awaitable[_Answer]]) -> _Answer:
        """Do something that writes in a transaction of its own; then read anew, and plan.

        Raises:
            Unavailable: this process does not lead.
        """
        self._require_leader()
        async with self._changing:
            answer = await act()
            await self._reload()
        self.wake()
        return answer

    def hear(self, report: Report) -> None:
        """Take a worker's report, which extends its lease; a replica that changed wakes the planner."""
        self._leases.extend(report.worker, report.epoch, self._monotonic())
        if self.view.hear(report, self._clock()):
            self.wake()

    def unplaced(self) -> tuple[Unplaced, ...]:
        """Return the work that has no place, with reasons."""
        return self.last_plan.unplaced

    def wake(self) -> None:
        """Plan soon."""
        self._wake.set()

    # What the leader does.

    async def lead(self, epoch: int) -> None:
        """Do a leader's work until this is cancelled or the leadership turns out to be lost.

        Args:
            epoch: the leadership's epoch.

        Raises:
            Aborted: another scheduler leads.
        """
        await self._begin(epoch)
        try:
            await first_to_end(
                self._plan_forever(),
                self._lapse_forever(),
                self._project_forever(),
                self._list_forever("deployments", self._list_deployments),
                self._list_forever("jobs", self._list_jobs),
            )
        finally:
            self._epoch = 0
            self.leads.clear()
            self._leases.clear()
            self.deployments.forget()
            self.jobs.forget()
            self.last_plan = Plan()

    async def _begin(self, epoch: int) -> None:
        self._projection.forget()
        async with self._changing:
            await self._reload()
        now = self._monotonic()
        for worker in self.view.stored.workers.values():
            if worker.state is not WorkerState.LOST:
                self._leases.grant(worker.name, worker.epoch, now, self._timing.grace)
        self._epoch = epoch
        self.leads.set()
        self._project.set()
        self.wake()

    async def plan_once(self) -> Plan:
        """Plan, and write the moves down in one transaction."""
        async with self._changing:
            return await self._plan()

    async def _plan(self) -> Plan:
        started = self._monotonic()
        cluster = self._cluster()
        made = plan(cluster)
        if made.moves:
            async with self._store.writing() as repository:
                await repository.fence(self._epoch)
                await repository.apply(made.moves, cluster.now)
            await self._reload()
            # What one round frees or begins, the next one may use.
            self.wake()
        self._note(made)
        self.on_plan(made, self._monotonic() - started)
        return made

    def _note(self, made: Plan) -> None:
        for move in made.moves:
            _log.info("move", kind=type(move).__name__, worker=move.worker, cause=move.cause.value, what=_name(move))
        if made.unplaced != self.last_plan.unplaced:
            for item in made.unplaced:
                _log.warning(
                    "no place", what=str(item.key), missing=item.missing, reason=item.reason.value, why=item.message
                )
        self.last_plan = made

    async def _plan_forever(self) -> None:
        while True:
            await self._wake.wait()
            await asyncio.sleep(self._timing.debounce)
            self._wake.clear()
            if not await self._attempt(self.plan_once, "plan waits"):
                self._wake.set()

    async def _lapse_forever(self) -> None:
        while True:
            self._leases_changed.clear()
            deadline = self._leases.next_deadline()
            pause = None if deadline is None else max(0.0, deadline - self._monotonic())
            # Not wait_for: on Python 3.11 it may swallow a cancellation that comes with the event.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._leases_changed.wait()
            if pause is None or deadline is None or self._leases_changed.is_set():
                continue
            late = self._monotonic() - deadline
            if late > _STALL_SECONDS:
                _log.warning("this process stood still", seconds=late)
                self._leases.postpone(late)
            for worker, epoch in self._leases.lapsed(self._monotonic()):
                await self._attempt(functools.partial(self._lose, worker, epoch), "loss waits")

    async def _lose(self, worker: str, epoch: int) -> None:
        async with self._changing_to_plan() as repository:
            await repository.lose(worker, epoch)
            self.view.forget_report(worker)
        self._leases.end(worker)
        _log.warning("worker lost", worker=worker, epoch=epoch)

    async def _project_forever(self) -> None:
        while True:
            await self._project.wait()
            self._project.clear()
            if not await self._attempt(self._project_once, "assignments wait"):
                self._project.set()

    async def _project_once(self) -> None:
        async with self._changing:
            assignments = self.view.assignments(self._epoch)
        for assignment in assignments:
            await self._projection.write(assignment)
        for worker in sorted(self._departed):
            # It may be back by now.
            if worker not in self.view.stored.workers:
                await self._projection.remove(worker)
            self._departed.discard(worker)

    async def _list_forever(self, what: str, act: Callable[[], Awaitable[None]]) -> None:
        """List what an owner wants, again and again: quickly until it worked once, then every resync."""
        pause, rounds = _RETRY_SECONDS / 2, 0
        while True:
            listed = await self._attempt(act, f"{what} cannot be listed", pause_seconds=0.0)
            pause = self._timing.resync if listed else min(pause * 2, self._timing.resync)
            rounds += 1
            if what == "jobs" and rounds % _VERIFY_EVERY == 0:
                await self._attempt(self._tidy, "tidying waits", pause_seconds=0.0)
            await asyncio.sleep(pause)

    async def _list_deployments(self) -> None:
        self.deployments.begin_listing()
        found = await self._deployment_source.list_deployments()
        self.deployments.finish_listing({item.key.owner: item for item in found})
        self.wake()

    async def _list_jobs(self) -> None:
        self.jobs.begin_listing()
        found = await self._job_source.list_jobs()
        self.jobs.finish_listing({item.key: item for item in found})
        self.wake()

    async def _tidy(self) -> None:
        self._projection.forget()
        self._project.set()
        limit = self._clock() - _FORGET_LOST_SECONDS
        if any(w.state is WorkerState.LOST and w.joined_at < limit for w in self.view.stored.workers.values()):
            async with self.changing() as repository:
                await repository.forget_lost(limit)

    async def _attempt(
        self, act: Callable[[], Awaitable[object]], trouble: str, pause_seconds: float = _RETRY_SECONDS
    ) -> bool:
        """Do something that may fail for now; return whether it worked.

        Raises:
            Aborted: the leadership is lost.
        """
        try:
            await act()
        except Exception as error:
            if isinstance(error, Aborted) and error.reason == "NOT_LEADER":
                raise
            expected = isinstance(error, LeptonError)
            _log.warning(trouble, error=str(error), exc_info=None if expected else error)
            await asyncio.sleep(pause_seconds)
            return False
        return True

    def _cluster(self) -> Cluster:
        stored = self.view.stored
        return Cluster(
            self.view.workers(),
            deployments_or_placed(self.deployments, stored.replicas),
            jobs_or_placed(self.jobs, stored.jobs),
            self.view.replicas(),
            stored.jobs,
            self._clock(),
            self._policy,
        )

    async def _reload(self) -> None:
        async with self._store.reading() as repository:
            self.view.take(await repository.load())
        self._project.set()

    def _require_leader(self) -> None:
        if not self._epoch:
            raise Unavailable(
                "this scheduler stands by: another one leads, or it has just started", reason="NOT_LEADER"
            )


def _name(move: Move) -> str:
    key = move.wanted.key if isinstance(move, PlaceReplica | PlaceJob) else move.key
    if isinstance(key, JobKey):
        return f"{key.workspace}/{key.job}"
    return f"{key.workspace}/{key.deployment}@{key.number}"
