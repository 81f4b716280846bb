"""Follows what workers report and how aliases move, and keeps deployments' state by it."""

import asyncio
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Self

import structlog

from lepton.v1 import events_pb2, inference_pb2, scheduler_pb2
from servicekit.auth import Identity, act_as
from servicekit.errors import LeptonError
from servicekit.events import Event, Nats
from servicekit.state import State
from services.inference.adapters.repository import SqlRepository
from services.inference.convert import measured_from_proto, seen_from_proto
from services.inference.domain.deployments import (
    Deployment,
    DeploymentState,
    ModelVersion,
    Observed,
    ReplicaState,
    Resources,
    SeenReplica,
    Waiting,
    observe,
    serve_version,
)
from services.inference.domain.measurements import Measured, total
from services.inference.ports import Placements, Registry

_log = structlog.get_logger(__name__)

# A worker reports every second: four lost reports in a row are no accident.
_REPORT_LASTS_SECONDS = 5.0
_LOOK_SECONDS = 2.0
_ALIASES_SECONDS = 30.0
# Between questions why replicas have no worker.
_WHY_SECONDS = 1.0
ALIAS_MOVED = "registry.alias.moved"


class Changes:
    """Wakes whoever watches deployments.

    Args:
        turn: counts what was told.
    """

    def __init__(self) -> None:
        self._condition = asyncio.Condition()
        self.turn = 0

    async def tell(self) -> None:
        """Say that a deployment changed."""
        async with self._condition:
            self.turn += 1
            self._condition.notify_all()

    async def wait(self, turn: int) -> None:
        """Wait for a change since a turn, or a while: other processes of a stack make changes, too."""
        try:
            async with asyncio.timeout(_LOOK_SECONDS), self._condition:
                await self._condition.wait_for(lambda: self.turn != turn)
        except TimeoutError:
            return


@dataclass(frozen=True)
class _Heard:
    """A worker's latest report.

    Args:
        time: when it came, seconds of a clock that never jumps.
        content: its replicas, serialised, to see whether anything changed.
        replicas: by workspace and deployment.
        address: the worker's private host:port; empty where no process calls it.
        in_flight: requests under way there.
    """

    time: float
    content: bytes
    replicas: dict[tuple[str, str], list[scheduler_pb2.Replica]]
    address: str = ""
    in_flight: int = 0


class Observer:
    """Keeps every deployment's observed state while it is open. Level-triggered: any report says all of its worker.

    Args:
        state: the database.
        nats: where reports come from.
        changes: tells watchers.
        placements: says why replicas have no worker; None without a scheduler.
    """

    def __init__(
        self, state: State[SqlRepository], nats: Nats, changes: Changes, placements: Placements | None = None
    ) -> None:
        self._placements = placements
        self._waiting: dict[tuple[str, str], Waiting] = {}
        # Whether some deployment lacks replicas: then the scheduler is asked why.
        self._lacks = asyncio.Event()
        self._state = state
        self._nats = nats
        self._changes = changes
        self._reports: dict[str, _Heard] = {}
        self._stirred = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        work = (self._subscribe(), self._run(), self._ask_why())
        self._tasks = [asyncio.create_task(doing) for doing in work]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _subscribe(self) -> None:
        await self._nats.subscribe_plain("lepton-reports.*", scheduler_pb2.WorkerReport, self._take)

    async def _take(self, report: scheduler_pb2.WorkerReport) -> None:
        if report.kind != scheduler_pb2.WORKER_KIND_INFERENCE:
            return
        # Replicas alone: load and counts change every second and say nothing of a deployment's state.
        content = _without_statistics(report).SerializeToString(deterministic=True)
        before = self._reports.get(report.worker)
        replicas: dict[tuple[str, str], list[scheduler_pb2.Replica]] = {}
        for replica in report.replicas:
            replicas.setdefault((replica.workspace, replica.deployment), []).append(replica)
        self._reports[report.worker] = _Heard(
            time.monotonic(), content, replicas, report.address, report.load.in_flight
        )
        if before is None or before.content != content:
            self._stirred.set()

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(_REPORT_LASTS_SECONDS):
                    await self._stirred.wait()
            except TimeoutError:
                pass
            self._stirred.clear()
            try:
                # With NATS away nothing is heard of workers that serve on: what was known stays.
                if self._nats.is_connected:
                    await self._observe()
            except Exception as error:
                _log.warning("deployments not observed", exc_info=error)

    async def _observe(self) -> None:
        now = time.monotonic()
        self._reports = {
            worker: heard for worker, heard in self._reports.items() if now - heard.time < _REPORT_LASTS_SECONDS
        }
        async with self._state.reading() as repository:
            present = await repository.everyone()
        stale = [item for item in present if self._observed(item) != item.observed]
        if any(item.observed.state is not DeploymentState.READY for item in present):
            self._lacks.set()
        else:
            self._waiting = {}
        if not stale:
            return
        async with self._state.writing() as repository:
            for item in stale:
                # Read again, for the wish may have changed since.
                fresh = await repository.find(item.workspace, item.name)
                await repository.save_observed(replace(fresh, observed=self._observed(fresh)))
        await self._changes.tell()

    def _observed(self, deployment: Deployment) -> Observed:
        waiting = self._waiting.get((deployment.workspace, deployment.name))
        return observe(deployment, self._seen(deployment), waiting)

    async def _ask_why(self) -> None:
        """Ask the scheduler, while some deployment lacks replicas, why they have no worker."""
        if self._placements is None:
            return
        while True:
            await self._lacks.wait()
            self._lacks.clear()
            try:
                waiting = await self._placements.waiting()
            except LeptonError as error:
                _log.info("scheduler not asked", why=error.message)
            else:
                if waiting != self._waiting:
                    self._waiting = waiting
                    self._stirred.set()
            await asyncio.sleep(_WHY_SECONDS)
            # What waits may have found room, or become READY: look until nothing lacks replicas.
            self._stirred.set()

    def holders(self, deployment: Deployment, version: str) -> list[inference_pb2.DeploymentHolder]:
        """Return the workers that serve a deployment, the least busy first.

        With NATS away no reports arrive, and workers still serve: then the last reports count.

        Args:
            deployment: which one.
            version: a number or an alias; empty for what the deployment serves.
        """
        key, oldest = (deployment.workspace, deployment.name), time.monotonic() - _REPORT_LASTS_SECONDS
        found = [
            inference_pb2.DeploymentHolder(address=report.address, in_flight=report.in_flight)
            for report in self._reports.values()
            if report.address
            and (report.time >= oldest or not self._nats.is_connected)
            and any(_serves(replica, version) for replica in report.replicas.get(key, ()))
        ]
        return sorted(found, key=lambda holder: holder.in_flight)

    def stir(self) -> None:
        """Look again now."""
        self._stirred.set()

    def versions(self, deployment: Deployment) -> list[tuple[int, str]]:
        """Return (number, digest) of the versions that workers hold for a deployment, by number."""
        return sorted({(replica.number, replica.digest) for replica in self._reported(deployment)})

    def measured(self, deployment: Deployment, number: int, digest: str, window: int | None = None) -> Measured:
        """Return what a version did for a deployment, over all workers.

        Args:
            deployment: which one.
            number: the version's.
            digest: the version's.
            window: over which it is counted; None for each worker's latest.
        """
        parts = [
            measured_from_proto(replica.statistics)
            for replica in self._reported(deployment)
            if (replica.number, replica.digest) == (number, digest) and window in (None, replica.statistics.window)
        ]
        return total(parts)

    def used(self, deployment: Deployment) -> Resources | None:
        """Return the most that one replica of the own version is measured to use; None where none reports."""
        usages = [
            replica.usage
            for replica in self._reported(deployment)
            if (replica.number, replica.digest) == (deployment.number, deployment.digest) and replica.HasField("usage")
        ]
        if not usages:
            return None
        return Resources(max(item.cores for item in usages), max(item.memory_bytes for item in usages))

    def ready_replicas(self, deployment: Deployment, number: int, digest: str) -> int:
        """Return how many replicas of a version are loaded."""
        held = [item for item in self._seen(deployment) if (item.number, item.digest) == (number, digest)]
        return sum(item.state is ReplicaState.READY for item in held)

    def trouble(self, deployment: Deployment, number: int, digest: str) -> str:
        """Return why a version cannot be loaded on any worker; empty where it is, or nobody failed yet."""
        held = [item for item in self._seen(deployment) if (item.number, item.digest) == (number, digest)]
        failed = [item for item in held if item.state is ReplicaState.FAILED]
        if not failed or len(failed) < len(held):
            return ""
        return f"{failed[0].worker}: {failed[0].message}"

    def _reported(self, deployment: Deployment) -> list[scheduler_pb2.Replica]:
        key, oldest = (deployment.workspace, deployment.name), time.monotonic() - _REPORT_LASTS_SECONDS
        return [
            replica
            for heard in self._reports.values()
            if heard.time >= oldest
            for replica in heard.replicas.get(key, ())
        ]

    def _seen(self, deployment: Deployment) -> list[SeenReplica]:
        return [
            seen_from_proto(worker, replica)
            for worker, heard in self._reports.items()
            for replica in heard.replicas.get((deployment.workspace, deployment.name), ())
        ]


def _serves(replica: scheduler_pb2.Replica, version: str) -> bool:
    if replica.state != scheduler_pb2.REPLICA_STATE_READY:
        return False
    return not version or version == str(replica.number) or version in replica.aliases


def _without_statistics(report: scheduler_pb2.WorkerReport) -> scheduler_pb2.WorkerReport:
    plain = scheduler_pb2.WorkerReport(replicas=report.replicas)
    for replica in plain.replicas:
        replica.ClearField("statistics")
        replica.ClearField("usage")
    return plain


class AliasFollower:
    """Has deployments that name an alias serve what it names, while it is open.

    Events make it quick; a look at every alias now and then makes it certain: an alias may move between the moment that
    a deployment resolves it and the moment that it is kept.

    Args:
        state: the database.
        registry: where the version's digest is looked up.
        changes: tells watchers.
        look_seconds: between looks.
        standby_seconds: how long a former version stays loaded.
    """

    def __init__(
        self,
        state: State[SqlRepository],
        registry: Registry,
        changes: Changes,
        look_seconds: float = _ALIASES_SECONDS,
        standby_seconds: float = 0.0,
    ) -> None:
        self._state = state
        self._registry = registry
        self._changes = changes
        self._look_seconds = look_seconds
        self._standby_seconds = standby_seconds
        self._looking: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._looking = asyncio.create_task(self._look_forever())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._looking is not None
        self._looking.cancel()
        await asyncio.gather(self._looking, return_exceptions=True)

    async def handle(self, event: Event) -> None:
        """Follow one move; a deployment whose alias was deleted serves on."""
        moved = event.parse(events_pb2.AliasMoved).alias
        ref = f"{moved.model}@{moved.name}"
        async with self._state.reading() as repository:
            follows = bool(await repository.followers(event.workspace, ref))
        if not follows or not moved.number:
            return
        # What it names now, for a later move may have overtaken this event.
        version = await self._resolve(event.workspace, ref)
        async with self._state.handling(event) as repository:
            if repository is None:
                return
            await self._follow(repository, event.workspace, ref, version)
        await self._changes.tell()

    async def look(self) -> None:
        """Have every follower serve what its alias names now."""
        followed: dict[tuple[str, str], set[int]] = {}
        async with self._state.reading() as repository:
            for item in await repository.everyone():
                if item.follows_alias:
                    followed.setdefault((item.workspace, item.version), set()).add(item.number)
        for (workspace, ref), numbers in followed.items():
            try:
                version = await self._resolve(workspace, ref)
            except LeptonError as error:
                _log.info("alias not looked up", workspace=workspace, ref=ref, why=error.message)
                continue
            if numbers == {version.number} or not version.is_ready:
                continue
            async with self._state.writing() as repository:
                await self._follow(repository, workspace, ref, version)
            await self._changes.tell()

    async def _look_forever(self) -> None:
        while True:
            try:
                await self.look()
            except Exception as error:
                _log.warning("aliases not looked up", exc_info=error)
            await asyncio.sleep(self._look_seconds)

    async def _resolve(self, workspace: str, ref: str) -> ModelVersion:
        with act_as(Identity.for_service(workspace, "inference")):
            return await self._registry.resolve(ref)

    async def _follow(self, repository: SqlRepository, workspace: str, ref: str, version: ModelVersion) -> None:
        now = datetime.now(UTC)
        for deployment in await repository.followers(workspace, ref):
            if (deployment.number, deployment.digest) != (version.number, version.digest):
                moved = serve_version(deployment, ref, version, now=now, standby_seconds=self._standby_seconds)
                await repository.save(moved)
