"""Gives each replica of a worker its best plan, while it serves: from what was stored, or by having a child measure."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Self

import structlog

from lepton.v1 import inference_pb2 as pb
from lepton.v1 import registry_pb2, scheduler_pb2
from servicekit.auth import ALL_WORKSPACES, Identity, act_as
from servicekit.errors import FailedPrecondition, LeptonError, NotFound
from servicekit.onnx_sequences import to_servable
from services.inference.adapters.data_client import DataClient
from services.inference.adapters.deployments_client import DeploymentsClient
from services.inference.adapters.registry_client import RegistryClient
from services.inference.adapters.training_client import TrainingClient
from services.inference.convert import tuning_to_proto
from services.inference.domain.tuning import Tuning, TuningMode, Wish, resolve
from services.inference.independence import analyse, read_model
from services.inference.plans.candidates import PLAIN, Hardware, find_candidate
from services.inference.plans.child import NoAnswer, ask
from services.inference.plans.evidence import find_source, frames
from services.inference.plans.machine import only_one, read_hardware, sweep
from services.inference.plans.wire import Header, Source
from services.inference.serving.loading import load_model
from services.inference.serving.model import LoadedModel
from services.inference.serving.replicas import Key, Replicas
from services.inference.settings import WorkerSettings

_log = structlog.get_logger(__name__)

# A run that is over before this is over: its request takes longer to be read than a plan could save.
_WORTH_SECONDS = 100e-6
_TINY = "a run takes less than 0.1 ms: there is nothing to win"
_WEIGHT_FILES = "the plain plan serves: graphs whose weights are in other files are not rewritten"
# How a graph grows in the hands of what rewrites it: parsed, written, optimised, once for each candidate.
_MODEL_FACTOR = 12
_CPU = "CPUExecutionProvider"
_CUDA = "CUDAExecutionProvider"


@dataclass(frozen=True)
class Limits:
    """What the tuner may do.

    Args:
        default: the wish of deployments that have none.
        threads: of a run, by the worker's setting.
        seconds: that measuring one version may take.
        memory_bytes: that it may take beside twelve times the model's size.
        look_seconds: between looks at what deployments wish.
        quiet_seconds: how long the worker must have been quiet before measuring begins.
        patience_seconds: how long to wait for that; a worker that is never quiet needs a better plan most.
    """

    default: Wish
    threads: int
    seconds: float
    memory_bytes: int
    look_seconds: float = 10.0
    quiet_seconds: float = 2.0
    patience_seconds: float = 600.0


def limits_of(settings: WorkerSettings) -> Limits:
    """Return what a worker's settings allow."""
    wish = Wish(TuningMode(settings.tuning), settings.tuning_max_loss_points, "")
    return Limits(wish, settings.run_threads, settings.tuning_seconds, settings.tuning_memory_bytes)


@dataclass(frozen=True)
class _Case:
    """One replica to settle."""

    key: Key
    replica: scheduler_pb2.Replica
    model: LoadedModel
    wish: Wish
    hardware: Hardware


class Tuner:
    """Settles the plans of a worker's replicas while it is open, one at a time.

    Args:
        replicas: who serves.
        registry: where graphs come from.
        deployments: what is wished, and what was chosen before.
        data: evaluation rows.
        training: what versions were evaluated on.
        limits: what it may do.
    """

    def __init__(
        self,
        replicas: Replicas,
        registry: RegistryClient,
        deployments: DeploymentsClient,
        data: DataClient,
        training: TrainingClient,
        limits: Limits,
    ) -> None:
        self._replicas = replicas
        self._registry = registry
        self._deployments = deployments
        self._data = data
        self._training = training
        self._limits = limits
        # Plans that the deployments service does not keep yet.
        self._untold: dict[Key, pb.Plan] = {}
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        sweep()
        self._task = asyncio.create_task(self._run(), name="tuner")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        looked = -self._limits.look_seconds
        while True:
            serving = self._replicas.serving()
            is_time = time.monotonic() - looked >= self._limits.look_seconds
            if serving and (is_time or any(model.tuned_for is None for _, _, model in serving)):
                looked = time.monotonic()
                if not await self._try(self.look):
                    await asyncio.sleep(self._limits.look_seconds)
            await asyncio.sleep(min(1.0, self._limits.look_seconds))

    async def _try(self, act: Callable[[], Awaitable[bool]]) -> bool:
        """Do something that a neighbour who is away may hinder: what serves goes on serving, and is settled later."""
        try:
            return await act()
        except LeptonError as error:
            _log.info("plans not settled yet", why=error.message)
        except Exception as error:
            _log.warning("plans not settled", exc_info=error)
        return False

    async def look(self) -> bool:
        """Settle every replica whose plan is not what is wished now; tell whether all went well."""
        went_well = all([await self._try(partial(self._tell, key)) for key in tuple(self._untold)])
        with act_as(Identity.for_service(ALL_WORKSPACES, "inference")):
            wishes = await self._deployments.wishes()
        for key, replica, model in self._replicas.serving():
            wish = resolve(wishes.get(key[:2], Tuning()), self._limits.default)
            if model.tuned_for == wish:
                continue
            provider = _CPU if model.provider == _CPU else _CUDA
            case = _Case(key, replica, model, wish, read_hardware(provider, self._limits.threads))
            with act_as(Identity.for_service(replica.workspace, "inference")):
                went_well &= await self._try(partial(self._settle, case))
        return went_well

    async def _settle(self, case: _Case) -> bool:
        if case.wish.mode is TuningMode.OFF:
            await self._apply(case, pb.Plan(name=PLAIN.name, threads=self._limits.threads), b"")
        elif case.model.run_seconds < _WORTH_SECONDS and case.model.plan == PLAIN.name:
            plan = pb.Plan(name=PLAIN.name, threads=self._limits.threads, message=_TINY)
            await self._record(case, plan)
            case.model.tuned_for = case.wish
        elif not await self._reuse(case):
            await self._quiet()
            async with only_one():
                # Another worker of this machine may have measured meanwhile.
                if not await self._reuse(case):
                    await self._measure(case)
        return True

    async def _reuse(self, case: _Case) -> bool:
        """Take the plan that was measured before on such hardware under the same wish; tell whether there is one.

        Its measurements are trusted: the graph is built again, and taken only if it is the same to the byte.
        """
        stored = next((plan for plan in await self._deployments.plans(case.key[1]) if _holds(plan, case)), None)
        if stored is None:
            return False
        candidate = find_candidate(stored.name)
        if candidate is None:
            return False
        if not candidate.changes_graph:
            await self._apply(case, stored, b"")
            return True
        version, graph = await self._fetch(case)
        source, why = await self._source(case, version) if candidate.quantization == "static" else (None, "")
        header = self._header(case, version, graph, source, why, candidate.name)
        try:
            built, content = await ask(header, graph, self._rows(version, source))
        except NoAnswer as error:
            _log.warning("plan not built again", deployment=case.key[1], plan=stored.name, why=str(error))
            return False
        if built.graph_sha256 != stored.graph_sha256 or not content:
            _log.info("plan is measured anew: its graph came out otherwise", deployment=case.key[1], plan=stored.name)
            return False
        if stored.batch_rows > 1 and not await asyncio.to_thread(_is_by_row, content):
            _log.info("plan is measured again: it was measured with batches", deployment=case.key[1], plan=stored.name)
            return False
        try:
            await self._apply(case, stored, content)
        except FailedPrecondition as error:
            _log.warning("stored plan not loaded", deployment=case.key[1], plan=stored.name, why=error.message)
            return False
        return True

    async def _measure(self, case: _Case) -> None:
        version, graph = await self._fetch(case)
        if version.weight_files:
            plan = pb.Plan(name=PLAIN.name, threads=self._limits.threads, message=_WEIGHT_FILES)
            await self._record(case, plan)
            case.model.tuned_for = case.wish
            return
        source, why = await self._source(case, version)
        header = self._header(case, version, graph, source, why, "")
        _log.info("measuring plans", deployment=case.key[1], number=case.key[2])
        try:
            plan, content = await ask(header, graph, self._rows(version, source))
        except NoAnswer as error:
            _log.warning("plans not measured", deployment=case.key[1], number=case.key[2], why=str(error))
            plan, content = pb.Plan(name=PLAIN.name, message=f"the plain plan serves: {error}"), b""
        try:
            await self._apply(case, plan, content)
        except FailedPrecondition as error:
            # It ran in the child; here there may be less memory.
            plan = pb.Plan(name=PLAIN.name, message=f"the plain plan serves: {plan.name}: {error.message}")
            case.model.tuned_for = case.wish
        await self._record(case, plan)

    async def _fetch(self, case: _Case) -> tuple[registry_pb2.Version, bytes]:
        version = await self._registry.version(f"{case.replica.model}@{case.replica.number}")
        if version.digest != case.replica.digest:
            raise FailedPrecondition(f"{case.replica.model}@{version.number} changed", reason="DIGEST_MISMATCH")
        # As it is served: plans are measured on the outputs that replies carry.
        return version, to_servable(await self._registry.model(version)).content

    async def _source(self, case: _Case, version: registry_pb2.Version) -> tuple[Source | None, str]:
        if case.wish.mode is not TuningMode.WITHIN_LOSS:
            return None, "no quality was judged, for only lossless plans are wished"
        return await find_source(version, case.wish.dataset, self._data, self._training)

    async def _rows(self, version: registry_pb2.Version, source: Source | None) -> AsyncGenerator[bytes, None]:
        if source is not None:
            async with contextlib.aclosing(frames(version, source, self._data)) as chunks:
                async for chunk in chunks:
                    yield chunk

    def _header(
        self,
        case: _Case,
        version: registry_pb2.Version,
        graph: bytes,
        source: Source | None,
        why: str,
        candidate: str,
    ) -> Header:
        memory_bytes = self._limits.memory_bytes + _MODEL_FACTOR * len(graph)
        signature = version.signature
        return Header(
            candidate,
            case.hardware,
            case.wish,
            signature.task,
            tuple(signature.classes),
            self._limits.seconds,
            memory_bytes,
            len(graph),
            source,
            why,
        )

    async def _apply(self, case: _Case, plan: pb.Plan, content: bytes) -> None:
        """Run a replica by a plan, loaded beside the present one and put in its place.

        Raises:
            FailedPrecondition: it cannot be loaded; the present one stays.
        """
        threads = plan.threads or self._limits.threads
        loaded_threads = case.model.threads or self._limits.threads
        is_as_loaded = plan.name == case.model.plan == PLAIN.name and threads == loaded_threads
        model = case.model if is_as_loaded else await self._load(case, plan, content, threads)
        model.plan, model.threads, model.tuned_for = plan.name, threads, case.wish
        if plan.batch_rows:
            model.batch_rows, model.fixed_seconds = plan.batch_rows, plan.fixed_seconds
        if not is_as_loaded and self._replicas.swap(case.key, case.model, model):
            _log.info("plan taken", deployment=case.key[1], number=case.key[2], plan=plan.name)

    async def _load(self, case: _Case, plan: pb.Plan, content: bytes, threads: int) -> LoadedModel:
        version, graph = await self._fetch(case)
        extra_files = await self._registry.extra_files(version)
        candidate = find_candidate(plan.name)
        return await asyncio.to_thread(
            load_model,
            case.replica.deployment,
            version,
            content or graph,
            threads=threads,
            workspace=case.replica.workspace,
            optimization=plan.optimization or PLAIN.optimization,
            provider=plan.provider,
            captures=candidate is not None and candidate.captures,
            gpu_share=case.replica.resources.gpus,
            extra_files=extra_files,
        )

    async def _record(self, case: _Case, plan: pb.Plan) -> None:
        plan.digest, plan.hardware = case.key[3], case.hardware.key
        plan.tuning.CopyFrom(tuning_to_proto(_as_tuning(case.wish)))
        plan.create_time.GetCurrentTime()
        self._untold[case.key] = plan
        await self._tell(case.key)

    async def _tell(self, key: Key) -> bool:
        """Have the deployments service keep a plan; while it is away the plan waits here."""
        with act_as(Identity.for_service(key[0], "inference")), contextlib.suppress(NotFound):
            # A deployment that was deleted meanwhile needs none.
            await self._deployments.record(key[1], self._untold[key])
        del self._untold[key]
        return True

    async def _quiet(self) -> None:
        """Wait until the worker has little to do: a measuring neighbour takes memory bandwidth, if not its cores.

        The child has the lowest priority and counts its own processor time alone, so neither harms the other much.
        """
        deadline = time.monotonic() + self._limits.patience_seconds
        while time.monotonic() < deadline:
            before = time.process_time()
            await asyncio.sleep(self._limits.quiet_seconds)
            if time.process_time() - before < 0.5 * self._limits.quiet_seconds:
                return


def _is_by_row(content: bytes) -> bool:
    return analyse(read_model(content)).is_independent


def _holds(plan: pb.Plan, case: _Case) -> bool:
    """Tell whether a stored plan was measured for this version, on such hardware, under the same wish."""
    is_same = (plan.digest, plan.hardware) == (case.key[3], case.hardware.key)
    return bool(is_same and plan.candidates and plan.tuning == tuning_to_proto(_as_tuning(case.wish)))


def _as_tuning(wish: Wish) -> Tuning:
    return Tuning(wish.mode, wish.max_quality_loss_points, wish.dataset)
