"""Makes a worker's assignment true: loads, warms up and announces what is new; lets go of what is gone once idle."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Self

import structlog

from lepton.v1 import common_pb2, registry_pb2
from lepton.v1 import scheduler_pb2 as pb
from servicekit.auth import Identity, act_as
from servicekit.errors import FailedPrecondition, LeptonError, NotFound
from servicekit.worker import Holding
from services.inference.adapters.registry_client import RegistryClient
from services.inference.convert import measured_to_proto, route_from_proto
from services.inference.predict.preprocessing import PREPROCESSING_FILES, load_preprocessing
from services.inference.serving.batcher import Batcher
from services.inference.serving.loading import load_model
from services.inference.serving.model import LoadedModel
from services.inference.serving.response_cache import ResponseCache
from services.inference.serving.servicer import OpenInferenceServicer
from services.inference.serving.table import Entry, ServingTable
from services.inference.serving.usage import CoreMeter, MemoryMeter

_log = structlog.get_logger(__name__)

_RETRY_SECONDS = (1.0, 5.0, 15.0, 60.0)
_DRAIN_LOOK_SECONDS = 0.02
_RATE_SECONDS = 10.0

# Where a replica stands in the table: workspace, deployment, number.
Slot = tuple[str, str, int]
# What it is: its slot, and the digest of what stands there.
Key = tuple[str, str, int, str]


class Replicas:
    """The replicas of one worker.

    Args:
        registry: where models come from.
        table: who is served.
        servicer: told when the first assignment is done.
        batcher: tells how much was served.
        threads: that one run of a model may use.
        max_rows: of one request.
        retry_seconds: waits between tries to load, the last one for ever.
    """

    def __init__(
        self,
        registry: RegistryClient,
        table: ServingTable,
        servicer: OpenInferenceServicer,
        batcher: Batcher,
        threads: int,
        max_rows: int = 1_048_576,
        retry_seconds: tuple[float, ...] = _RETRY_SECONDS,
    ) -> None:
        self._registry = registry
        self._table = table
        self._servicer = servicer
        self._batcher = batcher
        self._threads = threads
        self._max_rows = max_rows
        self._retry_seconds = retry_seconds
        self._loading: dict[Key, asyncio.Task[None]] = {}
        self._draining: set[asyncio.Task[None]] = set()
        self._reports: dict[Key, pb.Replica] = {}
        # Of the first assignment, those that neither serve nor failed yet.
        self._first: set[Key] | None = None
        self._rate = _Rate()
        self._memory = MemoryMeter()
        self._cores: dict[Key, CoreMeter] = {}
        # By workspace and deployment: its versions share one bound.
        self._caches: dict[tuple[str, str], ResponseCache] = {}
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
        slots = {_slot(key) for key in wanted}
        for key in [key for key in self._reports if key not in wanted]:
            self._remove(key, is_replaced=_slot(key) in slots)
        for key, replica in wanted.items():
            if key in self._reports and not _is_draining(self._reports[key]):
                self._refresh(key, replica)
            else:
                self._add(key, replica)
        if self._first is None:
            self._first = set(self._loading)
        # A worker that is being emptied knows no more what exists.
        self._table.is_told = not assignment.draining
        self._settle()
        self._servicer.is_draining = assignment.draining
        self.on_change()

    def holding(self) -> Holding:
        """Return what stands here now."""
        self._cores = {key: meter for key, meter in self._cores.items() if key in self._reports}
        models = [model for key in self._table.deployments() for model in self._table.get(*key).models.values()]
        return Holding(
            replicas=tuple(self._with_statistics(key, replica) for key, replica in self._reports.items()),
            in_flight=sum(model.in_flight for model in models),
            requests_per_second=self._rate.update(self._batcher.served),
        )

    def serving(self) -> list[tuple[Key, pb.Replica, LoadedModel]]:
        """Return the replicas that serve, each with the model that stands in the table for it."""
        ready = [(key, told) for key, told in self._reports.items() if told.state == pb.REPLICA_STATE_READY]
        found = [(key, told, self._table.get(*key[:2]).models.get(key[2])) for key, told in ready]
        return [(key, told, model) for key, told, model in found if model is not None and model.digest == key[3]]

    def swap(self, key: Key, old: LoadedModel, new: LoadedModel) -> bool:
        """Put the same version, loaded otherwise, in its place; tell whether it still stood there.

        Requests under way end on the old one, which goes with the last of them.
        """
        workspace, deployment, number = _slot(key)
        entry = self._table.get(workspace, deployment)
        if entry.models.get(number) is not old or key not in self._reports:
            return False
        new.take_over(old)
        self._follow_end(old)
        self._table.set(workspace, deployment, replace(entry, models={**entry.models, number: new}))
        self._report(key, self._reports[key], pb.REPLICA_STATE_READY, provider=new.provider)
        self.on_change()
        return True

    def _with_statistics(self, key: Key, replica: pb.Replica) -> pb.Replica:
        workspace, deployment, number = _slot(key)
        model = self._table.get(workspace, deployment).models.get(number)
        if replica.state != pb.REPLICA_STATE_READY or model is None:
            return replica
        told = pb.Replica()
        told.CopyFrom(replica)
        told.statistics.CopyFrom(measured_to_proto(replace(model.release.measured(), batching=model.batching)))
        runs = model.statistics.compute.seconds * (model.threads or self._threads)
        told.usage.cores = self._cores.setdefault(key, CoreMeter()).update(runs)
        told.usage.memory_bytes = model.memory_bytes
        return told

    def _settle(self, *done: Key) -> None:
        """Be ready once every replica of the first assignment serves, failed or is gone."""
        if self._first is not None:
            self._first = (self._first & set(self._loading)) - set(done)
            self._servicer.is_ready = self._servicer.is_ready or not self._first

    def _add(self, key: Key, replica: pb.Replica) -> None:
        workspace, deployment, number = _slot(key)
        entry = self._table.get(workspace, deployment)
        waiting = {**entry.waiting, number: ""}
        routes = {**entry.routes, number: route_from_proto(replica.routing)}
        self._table.set(
            workspace, deployment, replace(entry, waiting=waiting, aliases=_aliases(entry, replica), routes=routes)
        )
        self._report(key, replica, pb.REPLICA_STATE_LOADING)
        self._loading[key] = asyncio.create_task(self._load(key), name=f"load {deployment}@{number}")

    async def _load(self, key: Key) -> None:
        """Load a replica, trying again until it serves or is taken away."""
        model = await self._fetch_at_last(key)
        workspace, deployment, number = _slot(key)
        # Read again: aliases and the epoch may have changed meanwhile.
        replica = self._reports[key]
        model.epoch = replica.epoch
        model.release.begin(replica.routing.window)
        model.cache = self._cache(workspace, deployment, replica)
        model.turn_batching(off=replica.routing.batching == common_pb2.BATCHING_OFF)
        entry = self._table.get(workspace, deployment)
        if (former := entry.models.get(number)) is not None:
            self._follow_end(former)
        self._table.set(
            workspace,
            deployment,
            replace(
                entry,
                models={**entry.models, number: model},
                waiting=_without(entry.waiting, number),
                leaving=entry.leaving - {number},
            ),
        )
        self._report(key, replica, pb.REPLICA_STATE_READY, provider=model.provider)
        _log.info("replica serves", deployment=deployment, number=number, provider=model.provider)
        self._loading.pop(key, None)
        self._settle(key)
        self.on_change()

    async def _fetch_at_last(self, key: Key) -> LoadedModel:
        tries = 0
        while True:
            try:
                return await self._fetch(self._reports[key])
            except LeptonError as error:
                self._fail(key, error.message)
            except Exception as error:
                # Nothing that a model does to the libraries that read it may leave its replica loading for ever.
                _log.exception("replica not loaded", exc_info=error)
                self._fail(key, f"the model cannot be loaded: {type(error).__name__}")
            await asyncio.sleep(self._retry_seconds[min(tries, len(self._retry_seconds) - 1)])
            tries += 1

    async def _fetch(self, replica: pb.Replica) -> LoadedModel:
        with act_as(Identity.for_service(replica.workspace, "inference")):
            version = await self._version(replica)
            if version.digest != replica.digest:
                raise FailedPrecondition(
                    f"{replica.model}@{replica.number} is not what was deployed: its digest differs",
                    reason="DIGEST_MISMATCH",
                )
            content = await self._registry.model(version)
            extra_files = await self._registry.extra_files(version)
            files = await self._registry.files(version, PREPROCESSING_FILES)
        with self._memory.measuring(len(content) + sum(len(part) for part in extra_files.weights.values())) as growth:
            model = await asyncio.to_thread(
                load_model,
                replica.deployment,
                version,
                content,
                threads=self._threads,
                workspace=replica.workspace,
                gpu_share=replica.resources.gpus,
                extra_files=extra_files,
            )
        model.memory_bytes = growth.size_bytes
        model.max_rows = self._max_rows
        model.preprocessing = await asyncio.to_thread(load_preprocessing, files, model.inputs)
        return model

    async def _version(self, replica: pb.Replica) -> registry_pb2.Version:
        ref = f"{replica.model}@{replica.number}"
        try:
            return await self._registry.version(ref)
        except NotFound as error:
            raise FailedPrecondition(
                f"{ref} was deleted from the registry: deploy another version, or roll back", reason="VERSION_DELETED"
            ) from error

    def _fail(self, key: Key, message: str) -> None:
        workspace, deployment, number = _slot(key)
        _log.warning("replica not loaded", deployment=deployment, number=number, why=message)
        entry = self._table.get(workspace, deployment)
        self._table.set(workspace, deployment, replace(entry, waiting={**entry.waiting, number: message}))
        self._report(key, self._reports[key], pb.REPLICA_STATE_FAILED, message=message)
        self._settle(key)
        self.on_change()

    def _remove(self, key: Key, *, is_replaced: bool) -> None:
        """Take a replica out of the table at once, and let go of its model when its last run has ended.

        One whose place another model takes, under the same number, serves until that one is loaded.
        """
        if (task := self._loading.pop(key, None)) is not None:
            task.cancel()
        if is_replaced:
            del self._reports[key]
            return
        workspace, deployment, number = _slot(key)
        entry = self._table.get(workspace, deployment)
        model = entry.models.get(number)
        left = {other: kept for other, kept in entry.models.items() if other != number}
        leaving = entry.leaving if model is None else entry.leaving | {number}
        waiting = _without(entry.waiting, number)
        routes = {other: route for other, route in entry.routes.items() if other != number}
        changed = replace(entry, models=left, waiting=waiting, leaving=leaving, routes=routes)
        self._table.set(workspace, deployment, changed)
        if not left and not waiting:
            # Its bytes count for nobody any more.
            self._caches.pop((workspace, deployment), None)
        if model is None:
            if not _is_draining(self._reports[key]):
                del self._reports[key]
            return
        self._report(key, self._reports[key], pb.REPLICA_STATE_DRAINING, provider=model.provider)
        self._begin(self._drain(key, model))

    def _follow_end(self, model: LoadedModel) -> None:
        """Let go of a model whose place another has taken, when its last run has ended."""
        self._begin(_idle(model))

    def _begin(self, ending: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(ending)
        self._draining.add(task)
        task.add_done_callback(self._draining.discard)

    async def _drain(self, key: Key, model: LoadedModel) -> None:
        await _idle(model)
        report = self._reports.get(key)
        if report is not None and _is_draining(report):
            del self._reports[key]
        # Its report may be gone already: another model under the same number was to take its place.
        if not any(_slot(other) == _slot(key) and _is_draining(told) for other, told in self._reports.items()):
            workspace, deployment, number = _slot(key)
            entry = self._table.get(workspace, deployment)
            self._table.set(workspace, deployment, replace(entry, leaving=entry.leaving - {number}))
        self.on_change()

    def _refresh(self, key: Key, replica: pb.Replica) -> None:
        """Follow a placement that was written anew: its epoch, its aliases, its share."""
        workspace, deployment, number = _slot(key)
        present = self._reports[key]
        entry = self._table.get(workspace, deployment)
        if present.state == pb.REPLICA_STATE_READY:
            model = entry.models[number]
            model.epoch = replica.epoch
            model.release.begin(replica.routing.window)
            model.cache = self._cache(workspace, deployment, replica)
            model.turn_batching(off=replica.routing.batching == common_pb2.BATCHING_OFF)
        routes = {**entry.routes, number: route_from_proto(replica.routing)}
        self._table.set(workspace, deployment, replace(entry, aliases=_aliases(entry, replica), routes=routes))
        self._report(key, replica, present.state, message=present.message, provider=present.provider)

    def _cache(self, workspace: str, deployment: str, replica: pb.Replica) -> ResponseCache | None:
        """Return a deployment's cache, of the size that is wished; None for none."""
        size = replica.routing.response_cache_bytes
        present = self._caches.get((workspace, deployment))
        if not size:
            self._caches.pop((workspace, deployment), None)
            return None
        if present is None or present.most_bytes != size:
            present = self._caches[workspace, deployment] = ResponseCache(size)
        return present

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


async def _idle(model: LoadedModel) -> None:
    """Wait until nobody uses a model any more; its memory goes then, or with its last user."""
    while model.in_flight or model.held:  # noqa: ASYNC110  (a request pays for an event; a drain is rare)
        await asyncio.sleep(_DRAIN_LOOK_SECONDS)
    # They and it hold each other, and the garbage collector may not look for hours where little happens.
    model.forms.clear()


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


def _slot(key: Key) -> Slot:
    return key[:3]


def _is_draining(replica: pb.Replica) -> bool:
    return replica.state == pb.REPLICA_STATE_DRAINING


def _without(waiting: Mapping[int, str], number: int) -> dict[int, str]:
    return {other: why for other, why in waiting.items() if other != number}


def _aliases(entry: Entry, replica: pb.Replica) -> Mapping[str, int]:
    others = {alias: number for alias, number in entry.aliases.items() if number != replica.number}
    return {**others, **dict.fromkeys(replica.aliases, replica.number)}
