"""Makes a worker's assignment true: loads, warms up and announces what is new; lets go of what is gone once idle."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Self

import structlog

from lepton.v1 import scheduler_pb2 as pb
from servicekit.auth import Identity, act_as
from servicekit.errors import LeptonError
from servicekit.worker import Holding
from services.inference.adapters.registry_client import RegistryClient
from services.inference.serving.model import LoadedModel, load_model
from services.inference.serving.servicer import OpenInferenceServicer
from services.inference.serving.table import Entry, ServingTable

_log = structlog.get_logger(__name__)

_RETRY_SECONDS = (1.0, 5.0, 15.0, 60.0)
_DRAIN_LOOK_SECONDS = 0.02
_RATE_SECONDS = 10.0

# What one replica is: workspace, deployment, number, digest.
Key = tuple[str, str, int, str]


class Replicas:
    """The replicas of one worker.

    Args:
        registry: where models come from.
        table: who is served.
        servicer: told when the first assignment is done.
        threads: that one run of a model may use.
    """

    def __init__(
        self, registry: RegistryClient, table: ServingTable, servicer: OpenInferenceServicer, threads: int
    ) -> None:
        self._registry = registry
        self._table = table
        self._servicer = servicer
        self._threads = threads
        self._loading: dict[Key, asyncio.Task[None]] = {}
        self._draining: set[asyncio.Task[None]] = set()
        self._reports: dict[Key, pb.Replica] = {}
        self._rate = _Rate()
        self.on_change: Callable[[], None] = lambda: None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks = [*self._loading.values(), *self._draining]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def apply(self, assignment: pb.Assignment) -> None:
        """Begin to make an assignment true."""
        wanted = {_key(replica): replica for replica in assignment.replicas}
        for key in [key for key in self._reports if key not in wanted]:
            self._remove(key)
        for key, replica in wanted.items():
            if key not in self._reports:
                self._add(key, replica)
            else:
                self._refresh(key, replica)
        if not self._loading:
            self._servicer.is_ready = True
        self.on_change()

    def holding(self) -> Holding:
        """Return what stands here now."""
        models = [model for key in self._table.deployments() for model in self._table.get(*key).models.values()]
        return Holding(
            replicas=tuple(self._reports.values()),
            in_flight=sum(model.in_flight for model in models),
            requests_per_second=self._rate.update(self._servicer.served),
        )

    def _add(self, key: Key, replica: pb.Replica) -> None:
        self._report(key, replica, pb.REPLICA_STATE_LOADING)
        workspace, deployment, number, _ = key
        entry = self._table.get(workspace, deployment)
        waiting = {**entry.waiting, number: ""}
        aliases = _aliases(entry, replica)
        self._table.set(workspace, deployment, replace(entry, waiting=waiting, aliases=aliases))
        self._loading[key] = asyncio.create_task(self._load(key, replica), name=f"load {deployment}@{number}")

    async def _load(self, key: Key, replica: pb.Replica) -> None:
        """Load a replica, trying again until it serves or is taken away."""
        tries = 0
        while True:
            try:
                model = await self._fetch(replica)
                break
            except LeptonError as error:
                _log.warning(
                    "replica not loaded", deployment=replica.deployment, number=replica.number, why=error.message
                )
                self._fail(key, replica, error.message)
                self._first_done(key)
                await asyncio.sleep(_RETRY_SECONDS[min(tries, len(_RETRY_SECONDS) - 1)])
                tries += 1
        workspace, deployment, number, _ = key
        entry = self._table.get(workspace, deployment)
        waiting = {other: why for other, why in entry.waiting.items() if other != number}
        models = {**entry.models, number: model}
        self._table.set(workspace, deployment, replace(entry, models=models, waiting=waiting))
        self._report(key, replica, pb.REPLICA_STATE_READY, provider=model.provider)
        _log.info("replica serves", deployment=deployment, number=number, provider=model.provider)
        self._loading.pop(key, None)
        self._first_done(key)
        self.on_change()

    async def _fetch(self, replica: pb.Replica) -> LoadedModel:
        with act_as(Identity.for_service(replica.workspace, "inference")):
            version = await self._registry.version(f"{replica.model}@{replica.number}")
            content = await self._registry.model(version)
        return await asyncio.to_thread(
            load_model, replica.deployment, version, content, epoch=replica.epoch, threads=self._threads
        )

    def _fail(self, key: Key, replica: pb.Replica, message: str) -> None:
        workspace, deployment, number, _ = key
        entry = self._table.get(workspace, deployment)
        self._table.set(workspace, deployment, replace(entry, waiting={**entry.waiting, number: message}))
        self._report(key, replica, pb.REPLICA_STATE_FAILED, message=message)
        self.on_change()

    def _first_done(self, key: Key) -> None:
        if all(other == key for other in self._loading):
            self._servicer.is_ready = True

    def _remove(self, key: Key) -> None:
        """Take a replica out of the table at once, and let go of its model when its last run has ended."""
        workspace, deployment, number, _ = key
        if (task := self._loading.pop(key, None)) is not None:
            task.cancel()
        entry = self._table.get(workspace, deployment)
        model = entry.models.get(number)
        left = {other: kept for other, kept in entry.models.items() if other != number}
        waiting = {other: why for other, why in entry.waiting.items() if other != number}
        self._table.set(workspace, deployment, replace(entry, models=left, waiting=waiting))
        if model is None:
            del self._reports[key]
            return
        self._report(key, self._reports[key], pb.REPLICA_STATE_DRAINING, provider=model.provider)
        draining = asyncio.create_task(self._drain(key, model))
        self._draining.add(draining)
        draining.add_done_callback(self._draining.discard)

    async def _drain(self, key: Key, model: LoadedModel) -> None:
        while model.in_flight:  # noqa: ASYNC110  (a request pays for an event; a drain is rare)
            await asyncio.sleep(_DRAIN_LOOK_SECONDS)
        if self._reports[key].state == pb.REPLICA_STATE_DRAINING:
            del self._reports[key]
        self.on_change()

    def _refresh(self, key: Key, replica: pb.Replica) -> None:
        """Follow a placement that was written anew: its epoch, its aliases; one that was draining is loaded again."""
        workspace, deployment, number, _ = key
        present = self._reports[key]
        if present.state == pb.REPLICA_STATE_DRAINING:
            self._add(key, replica)
            return
        entry = self._table.get(workspace, deployment)
        if number in entry.models:
            entry.models[number].epoch = replica.epoch
        self._table.set(workspace, deployment, replace(entry, aliases=_aliases(entry, replica)))
        self._report(key, replica, present.state, message=present.message, provider=present.provider)

    def _report(
        self,
        key: Key,
        replica: pb.Replica,
        state: "pb.ReplicaState.ValueType",
        *,
        message: str = "",
        provider: str = "",
    ) -> None:
        told = pb.Replica()
        told.CopyFrom(replica)
        told.state, told.message, told.provider = state, message, provider
        self._reports[key] = told


class _Rate:
    """Requests a second, from a counter that only grows."""

    def __init__(self) -> None:
        self._points: list[tuple[float, int]] = [(time.monotonic(), 0)]

    def update(self, count: int) -> float:
        now = time.monotonic()
        self._points = [point for point in self._points if now - point[0] < _RATE_SECONDS] or self._points[-1:]
        first = self._points[0]
        self._points.append((now, count))
        return (count - first[1]) / max(now - first[0], 0.001)


def _key(replica: pb.Replica) -> Key:
    return replica.workspace, replica.deployment, replica.number, replica.digest


def _aliases(entry: Entry, replica: pb.Replica) -> Mapping[str, int]:
    others = {alias: number for alias, number in entry.aliases.items() if number != replica.number}
    return {**others, **dict.fromkeys(replica.aliases, replica.number)}
