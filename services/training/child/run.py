"""One job, step by step, under the trace of the call that created it."""

import asyncio
import json
import signal
from collections.abc import Mapping
from contextlib import AsyncExitStack
from functools import partial
from importlib.metadata import version as library_version
from typing import Any

import structlog
from google.protobuf import json_format

from lepton.v1 import common_pb2, data_pb2, registry_pb2
from lepton.v1 import training_pb2 as pb
from servicekit import telemetry
from servicekit.auth import Identity, act_as, current_identity
from servicekit.errors import InvalidArgument, LeptonError, NotFound
from servicekit.rpc import open_channel
from services.training.adapters.data_client import DataClient
from services.training.adapters.registry_client import RegistryClient
from services.training.adapters.training_client import TrainingClient
from services.training.child.checkpoints import JobCheckpoints
from services.training.child.engines import engine_of
from services.training.child.messages import (
    evaluation_to_proto,
    foreign_from_proto,
    parity_to_proto,
    signature_to_proto,
)
from services.training.child.patience import Patience
from services.training.child.rows import JobRows, Ready, held_out_its_own
from services.training.child.seen import Seen
from services.training.child.voice import Tell, Voice
from services.training.domain.families import fitting
from services.training.domain.families.bodies import Body, read_body
from services.training.domain.families.metrics import Judgement
from services.training.domain.families.model import ONNX_FILE, Model, Progress, Run, Stopped
from services.training.domain.families.parity import Parity, measure_parity
from services.training.domain.families.schema import Schema
from services.training.domain.families.unknown_categories import (
    LEAST_TOLD_SHARE,
    UnknownCategories,
    unknown_categories,
)
from services.training.domain.foreign import ForeignModel, judge_foreign
from services.training.settings import WorkerSettings

_log = structlog.get_logger(__name__)

_LIBRARIES = ("numpy", "scipy", "lightgbm", "onnx", "onnxruntime-gpu", "torch", "pytorch-lightning", "pyarrow")
# A fit is most of a job: reading comes before, export and registration after.
_READ, _FITTED, _EXPORTED = 0.05, 0.85, 0.9
# How long a neighbour may be away before the job gives up.
_PATIENCE_SECONDS = 120.0
# Less than a child has to stop: what it did since the last checkpoint should not be lost.
_SETTLE_SECONDS = 4.0
_STUDY_FILE = "study.json"
_OUT_OF_MEMORY = (
    "bad_alloc",
    "can't allocate memory",
    "Cannot allocate memory",
    "Failed to allocate memory",
    "CUDA out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


async def run_job(spec: Mapping[str, Any], tell: Tell) -> None:
    """Run a job and tell its end; what goes wrong is its end.

    Args:
        spec: workspace, epoch, and the job as the contract has it.
        tell: gives the worker one message.
    """
    settings = WorkerSettings()
    telemetry.configure_logs("training-child", settings.log_level)
    job = json_format.ParseDict(spec["job"], pb.Job())
    structlog.contextvars.bind_contextvars(job=job.name)
    with telemetry.configure_telemetry(settings.model_copy(update={"metrics_port": 0}), "training-child"):
        parent = telemetry.linked_context(job.traceparent)
        with telemetry.tracer(__name__).start_as_current_span("training.job", context=parent):
            with act_as(Identity.for_service(spec["workspace"], "training")):
                kind = pb.JobKind.Name(job.spec.kind).removeprefix("JOB_KIND_").lower()
                _log.info("job begins", kind=kind, family=job.spec.family, dataset=job.spec.dataset)
                outcome = await _outcome(settings, job, int(spec["epoch"]), tell)
                _log.info("job ends", state=pb.JobState.Name(outcome.state), reason=outcome.error_reason)
                tell(json_format.MessageToDict(outcome))


async def _outcome(settings: WorkerSettings, job: pb.Job, epoch: int, tell: Tell) -> pb.FinishJobRequest:
    try:
        async with AsyncExitStack() as stack:
            data = DataClient(await stack.enter_async_context(open_channel(settings.data_address, settings)))
            registry = RegistryClient(
                await stack.enter_async_context(open_channel(settings.registry_address, settings))
            )
            training = TrainingClient(
                await stack.enter_async_context(open_channel(settings.training_address, settings))
            )
            claim = pb.SaveCheckpointHeader(name=job.name, worker=job.worker, epoch=epoch)
            workspace = current_identity().workspace
            checkpoints = JobCheckpoints(training, workspace, claim, settings.checkpoint_seconds)
            return await _JobRun(job, epoch, data, registry, training, checkpoints, settings, tell).run()
    except Stopped:
        return pb.FinishJobRequest(state=pb.JOB_STATE_CANCELLED)
    except LeptonError as error:
        return _failed(error.reason, error.message)
    except Exception as error:
        if _is_out_of_memory(error):
            return _failed("OUT_OF_MEMORY", "it needs more memory than it declares: declare more")
        _log.error("job failed", exc_info=error)
        return _failed("INTERNAL", "an internal error: the worker's log has it, under this job's name")


class _JobRun:
    """The steps of one job."""

    def __init__(
        self,
        job: pb.Job,
        epoch: int,
        data: DataClient,
        registry: RegistryClient,
        training: TrainingClient,
        checkpoints: JobCheckpoints,
        settings: WorkerSettings,
        tell: Tell,
    ) -> None:
        self._job = job
        self._spec = job.spec
        self._epoch = epoch
        self._data = data
        self._registry = registry
        self._training = training
        self._checkpoints = checkpoints
        self._settings = settings
        self._engine = engine_of(settings, job.spec)
        self._voice = Voice(tell)
        self._patience = Patience(_PATIENCE_SECONDS, self._voice.check_stopped)
        self._rows = JobRows(job.spec, data, self._patience, self._voice)
        self._seen = Seen(training, job, epoch, self._voice)
        signal.signal(signal.SIGTERM, self._voice.stop)

    async def run(self) -> pb.FinishJobRequest:
        if self._spec.kind == pb.JOB_KIND_EVALUATE:
            return await self._evaluate()
        if self._spec.kind == pb.JOB_KIND_TUNE:
            return await self._tune()
        return await self._fit()

    async def _tune(self) -> pb.FinishJobRequest:
        # Here, for no other job needs the optimiser.
        from services.training.child.study import Study
        from services.training.child.trials import running_trials

        async with running_trials(self._settings, self._job, self._data, self._training, self._patience) as trials:
            workspace, say = current_identity().workspace, self._voice.say
            study = Study(self._job, workspace, self._training, trials, self._patience, say)
            try:
                return await study.run()
            except Stopped:
                await study.stop()
                raise
            except Exception:
                # Nobody would hear of what its trials find.
                await study.end_all()
                raise

    async def _evaluate(self) -> pb.FinishJobRequest:
        self._voice.say(0.1, "reading")
        base = await self._base()
        judgement: Judgement | None
        unknown: list[UnknownCategories] = []
        if base.uploaded:
            foreign = await self._foreign(base)
            table = await self._rows.judging_foreign(self._spec.dataset, foreign.datatypes(self._spec.target))
            self._voice.say(0.5, "scoring")
            with _span("evaluate"):
                judgement = judge_foreign(foreign, table, self._spec.target)
            scores, target = judgement.scores(), judgement.target
        else:
            dataset = await self._rows.version(self._spec.dataset)
            self._seen.look_at_lineage(self._spec.dataset, dataset.digest, base)
            model = await self._load(base)
            table = await self._rows.judging(self._spec.dataset, model.columns, model.target)
            self._voice.say(0.5, "scoring")
            with _span("evaluate"):
                (scores, judgement), target = fitting.judge(model, table), model.target
                unknown = unknown_categories(model.columns, table)
            self._seen.look_at_unknown(unknown)
        with _span("report"):
            self._seen.look_at_scores(scores, target)
            await self._seen.keep_report(target, judgement, scores, table, base.lineage.family)
        evaluation = evaluation_to_proto(self._spec.dataset, scores, unknown)
        return pb.FinishJobRequest(state=pb.JOB_STATE_SUCCEEDED, version=self._spec.base_version, evaluation=evaluation)

    async def _fit(self) -> pb.FinishJobRequest:
        self._voice.say(0.0, "reading")
        dataset = await self._rows.version(self._spec.dataset)
        parent = await self._base() if self._spec.kind == pb.JOB_KIND_FINE_TUNE else None
        base = await self._load(parent) if parent else None
        body = None if parent or not self._spec.base_version else await self._body()
        settings = {name: json.loads(value) for name, value in self._spec.hyperparameters.items()}
        ready = await self._rows.ready(dataset, settings, base, body)
        held_out, held_out_name = ready.held_out, ready.held_out_name
        # What cannot be scored is refused before training, not after.
        fitting.check(ready.schema, held_out)
        if not self._spec.trial:
            self._seen.look_at_rows(self._spec, ready.schema, (ready.train, held_out), settings, parent)
            if parent is not None:
                await self._look_at_taught(parent, dataset, ready, settings)
        run = self._run(settings)
        model = await self._fitted(ready, run)
        with _span("evaluate"):
            scores, judgement = fitting.judge(model, held_out)
            if self._spec.trial:
                scores = await asyncio.to_thread(ready.more, run, scores)
            unknown = unknown_categories(model.columns, held_out)
            evaluation = evaluation_to_proto(held_out_name, scores, unknown)
            if self._spec.trial:
                return pb.FinishJobRequest(state=pb.JOB_STATE_SUCCEEDED, evaluation=evaluation)
            self._seen.look_at_scores(scores, model.target)
            await asyncio.to_thread(self._seen.look_at_model, model, ready.train, judgement)
            self._seen.look_at_unknown(unknown, LEAST_TOLD_SHARE)
            await self._seen.keep_report(model.target, judgement, scores, held_out, self._spec.family)
            beside = await self._beside(parent, model, ready.schema, settings) if parent else []
        self._voice.say(_FITTED, "exporting")
        with _span("export"):
            onnx_model = model.export()
            parity = measure_parity(model, onnx_model, held_out)
        self._voice.check_stopped()
        self._voice.say(_EXPORTED, "registering")
        request = self._request(dataset, model, [evaluation, *beside], parity)
        with _span("register"):
            files = {ONNX_FILE: onnx_model, **model.files()}
            if self._spec.study_results:
                files[_STUDY_FILE] = self._spec.study_results.encode()
            version = await self._register(request, files)
        ref = f"{version.model}@{version.number}"
        if version.state != registry_pb2.VERSION_STATE_READY:
            return _failed(version.error_reason, f"the registry refused {ref}: {version.error_message}")
        return pb.FinishJobRequest(state=pb.JOB_STATE_SUCCEEDED, version=ref, evaluation=evaluation)

    def _run(self, settings: Mapping[str, Any]) -> Run:
        threads = max(1, round(self._spec.resources.cores))
        return Run(
            settings,
            self._spec.seed,
            self._report,
            lambda: self._voice.is_stopped,
            threads,
            self._checkpoints,
            self._engine,
            self._voice.warn,
        )

    async def _fitted(self, ready: Ready, run: Run) -> Model:
        await self._patience(self._checkpoints.load)
        if self._checkpoints.found is not None:
            _log.info("going on from its checkpoint")
            self._voice.say(_READ, "going on from its checkpoint")
        with _span("fit"):
            try:
                # In a thread, so that checkpoints leave meanwhile.
                return await asyncio.to_thread(ready.fit, run)
            except (Stopped, LeptonError):
                # Whoever tries it again goes on from there.
                await self._checkpoints.settle(_SETTLE_SECONDS)
                raise

    async def _register(
        self, request: registry_pb2.CreateVersionRequest, files: Mapping[str, bytes]
    ) -> registry_pb2.Version:
        version = await self._patience(lambda: self._registry.create(request, files))
        if version.state != registry_pb2.VERSION_STATE_PENDING:
            return version
        for name, content in files.items():
            await self._patience(partial(self._registry.upload, version, name, content))
        return await self._patience(lambda: self._registry.finalize(version, f"{request.request_id}-finalize"))

    async def _base(self) -> registry_pb2.Version:
        return await self._patience(lambda: self._registry.version(self._spec.base_version))

    async def _load(self, base: registry_pb2.Version) -> Model:
        return fitting.load(await self._patience(lambda: self._registry.files(base)))

    async def _body(self) -> Body:
        files = await self._patience(partial(self._registry.files, await self._base()))
        return await asyncio.to_thread(read_body, self._spec.family, files)

    async def _foreign(self, base: registry_pb2.Version) -> ForeignModel:
        files = await self._patience(lambda: self._registry.files(base))
        return foreign_from_proto(files[ONNX_FILE], base.signature)

    async def _look_at_taught(
        self, parent: registry_pb2.Version, dataset: data_pb2.DatasetVersion, ready: Ready, settings: Mapping[str, Any]
    ) -> None:
        """See whether the rows that judge a fine-tune taught its parent."""
        lineage = parent.lineage
        is_same_draw = (
            (lineage.dataset_digest, lineage.seed) == (dataset.digest, self._spec.seed)
            and held_out_its_own(parent)
            and not self._spec.evaluation_dataset
        )
        if is_same_draw or not lineage.dataset or ready.schema.is_series:
            return
        try:
            taught = await self._rows.that_taught(parent, ready.schema, settings)
        except (NotFound, InvalidArgument) as error:
            # Deleted since, or with categories that the model refuses: the job does not depend on it.
            _log.info("parent's rows not looked at", dataset=lineage.dataset, why=error.message)
            return
        if taught is not None:
            await asyncio.to_thread(self._seen.look_at_taught, self._spec.base_version, taught, ready.held_out)

    async def _beside(
        self, parent: registry_pb2.Version, model: Model, schema: Schema, settings: Mapping[str, Any]
    ) -> list[common_pb2.Evaluation]:
        """Score a fine-tuned model on the rows that its parent was scored on, to show what it forgot."""
        scored_on = parent.evaluations[0].dataset if parent.evaluations else parent.lineage.dataset
        if scored_on in (self._spec.dataset, self._spec.evaluation_dataset):
            return []
        try:
            rows = await self._rows.that_judged(
                scored_on, parent.lineage.seed, schema, settings, were_held_out=held_out_its_own(parent)
            )
            return [evaluation_to_proto(scored_on, fitting.evaluate(model, rows))]
        except (NotFound, InvalidArgument) as error:
            # Deleted since, or with categories that the model refuses: the job does not depend on it.
            _log.info("parent's rows not scored", dataset=scored_on, why=error.message)
            return []

    def _request(
        self,
        dataset: data_pb2.DatasetVersion,
        model: Model,
        evaluations: list[common_pb2.Evaluation],
        parity: Parity,
    ) -> registry_pb2.CreateVersionRequest:
        lineage = registry_pb2.Lineage(
            dataset=self._spec.dataset,
            dataset_digest=dataset.digest,
            job=self._job.name,
            job_epoch=self._epoch,
            parent=self._spec.base_version,
            libraries={name: library_version(name) for name in _LIBRARIES},
            hyperparameters={
                # A network brings its own along, whatever the job's defaults are.
                name: json.dumps(model.hyperparameters[name]) if name in model.hyperparameters else value
                for name, value in self._spec.hyperparameters.items()
            },
            family=self._spec.family,
            seed=self._spec.seed,
        )
        return registry_pb2.CreateVersionRequest(
            model=self._spec.model,
            signature=signature_to_proto(model),
            lineage=lineage,
            evaluations=evaluations,
            parity=parity_to_proto(parity),
            request_id=f"{self._job.name}-{self._epoch}",
        )

    def _report(self, progress: Progress) -> None:
        message = "; ".join(part for part in (progress.message, self._checkpoints.trouble) if part)
        self._voice.say(_READ + (_FITTED - _READ) * progress.share, message, progress.step, progress.metrics)


def _span(name: str) -> Any:
    return telemetry.tracer(__name__).start_as_current_span(f"training.{name}")


def _is_out_of_memory(error: Exception) -> bool:
    # Each library says it in its own words, torch of a GPU by a type of its own.
    is_said = any(text in str(error) for text in _OUT_OF_MEMORY)
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or is_said


def _failed(reason: str, message: str) -> pb.FinishJobRequest:
    return pb.FinishJobRequest(state=pb.JOB_STATE_FAILED, error_reason=reason, error_message=message[:4000])
