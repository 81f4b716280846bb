"""How a study's trials are run: by jobs of the platform, or by Ray Tune. Whichever it is, what ended is a job."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Protocol

from lepton.v1 import common_pb2
from lepton.v1 import training_pb2 as pb
from servicekit.auth import current_identity
from servicekit.errors import Aborted
from services.training.adapters.data_client import DataClient
from services.training.adapters.training_client import TrainingClient
from services.training.child.messages import evaluation_to_proto
from services.training.child.patience import Patience
from services.training.domain.families.catalog import resolve_hyperparameters
from services.training.settings import WorkerSettings

if TYPE_CHECKING:
    from services.training.adapters.ray.trials import RayTrials, TrialState

# What a trial that is no job while it runs says of how long it ran.
TRIAL_SECONDS = "trial_seconds"
ENDED = (pb.JOB_STATE_SUCCEEDED, pb.JOB_STATE_FAILED, pb.JOB_STATE_CANCELLED)


class Trials(Protocol):
    """Runs a study's trials."""

    async def begin(self, spec: pb.JobSpec) -> pb.Job:
        """Let a trial run; a repeat of its number, after a crash, gives the first."""
        ...

    async def jobs(self) -> list[pb.Job]:
        """Return the study's jobs as they stand; an ended one is kept for good."""
        ...

    async def end(self, job: pb.Job) -> None:
        """End a trial early."""
        ...


class PlatformTrials:
    """Trials as jobs that the scheduler places.

    Args:
        study: its job's id.
        workspace: its.
        training: the training service.
        patience: for the service while it is away.
    """

    def __init__(self, study: str, workspace: str, training: TrainingClient, patience: Patience) -> None:
        self._study = study
        self._workspace = workspace
        self._training = training
        self._patience = patience

    async def begin(self, spec: pb.JobSpec) -> pb.Job:
        """Queue a trial's job."""
        request = pb.CreateJobRequest(spec=spec, request_id=f"{self._study}-{spec.trial}")
        return await self._patience(lambda: self._training.create(self._workspace, request))

    async def jobs(self) -> list[pb.Job]:
        """Return the study's jobs."""
        return await self._patience(lambda: self._training.jobs_of(self._workspace, self._study))

    async def end(self, job: pb.Job) -> None:
        """Cancel a trial's job."""
        await self._training.cancel(self._workspace, job.name)


class TunedTrials:
    """Trials that Ray Tune runs; each becomes a job, already ended, when it ends: a study that is cut repeats none.

    Args:
        job: of the study.
        durable: the study's jobs.
        ray: what runs the trials.
        training: the training service.
        workspace: the study's.
        patience: for the service while it is away.
    """

    def __init__(
        self,
        job: pb.Job,
        durable: PlatformTrials,
        ray: "RayTrials",
        training: TrainingClient,
        workspace: str,
        patience: Patience,
    ) -> None:
        self._job = job
        self._durable = durable
        self._ray = ray
        self._training = training
        self._workspace = workspace
        self._patience = patience
        # By number: those that no job stands for yet.
        self._running: dict[int, pb.Job] = {}

    async def begin(self, spec: pb.JobSpec) -> pb.Job:
        """Let Ray Tune run a trial."""
        from services.training.adapters.ray.trials import TrialTask

        given = {name: json.loads(value) for name, value in spec.hyperparameters.items()}
        task = TrialTask(
            spec.trial,
            spec.family,
            spec.target,
            spec.handle_unknown,
            spec.seed,
            bool(spec.evaluation_dataset),
            resolve_hyperparameters(spec.family, given),
            max(1, round(spec.resources.cores)),
        )
        await asyncio.to_thread(self._ray.begin, task)
        job = self._running[spec.trial] = pb.Job(spec=spec, state=pb.JOB_STATE_RUNNING)
        return job

    async def jobs(self) -> list[pb.Job]:
        """Return the study's jobs, and the trials that run as if they were such."""
        states = await asyncio.to_thread(self._ray.look)
        for number in [number for number, state in states.items() if state.is_ended and number in self._running]:
            await self._keep(self._running[number], states[number])
            del self._running[number]
        for number, job in self._running.items():
            job.progress = states[number].share
            del job.metrics[:]
            job.metrics.extend(
                common_pb2.Metric(name=name, value=value) for name, value in states[number].metrics.items()
            )
        return [*await self._durable.jobs(), *self._running.values()]

    async def end(self, job: pb.Job) -> None:
        """End a trial, wherever it runs."""
        if job.name:
            await self._durable.end(job)
        else:
            job.cancel_requested = True
            self._ray.end(job.spec.trial)

    async def _keep(self, trial: pb.Job, state: "TrialState") -> None:
        """Make an ended trial a job, in one go: queued, claimed and ended."""
        job = await self._durable.begin(trial.spec)
        metrics = [*trial.metrics, common_pb2.Metric(name=TRIAL_SECONDS, value=state.seconds)]

        async def keep() -> None:
            found = await self._training.get(self._workspace, job.name)
            if found.state in ENDED:
                # An earlier try did it, and its answer was lost.
                return
            name, worker, epoch = job.name, self._job.worker, found.epoch + 1
            await self._training.start(self._workspace, pb.StartJobRequest(name=name, worker=worker, epoch=epoch))
            report = pb.ReportJobRequest(
                name=name, worker=worker, epoch=epoch, progress=state.share, message="ran on Ray", metrics=metrics
            )
            await self._training.report(self._workspace, report)
            end = pb.FinishJobRequest(name=name, worker=worker, epoch=epoch)
            end.MergeFrom(_end(trial.spec, state))
            await self._training.finish(self._workspace, end)

        while True:
            try:
                await self._patience(keep)
            except Aborted:
                # A worker was quicker to claim it: a higher epoch takes it over.
                continue
            return


def _end(spec: pb.JobSpec, state: "TrialState") -> pb.FinishJobRequest:
    if state.scores is not None:
        evaluation = evaluation_to_proto(spec.dataset, state.scores)
        return pb.FinishJobRequest(state=pb.JOB_STATE_SUCCEEDED, evaluation=evaluation)
    if state.error is not None:
        reason, message = state.error
        return pb.FinishJobRequest(state=pb.JOB_STATE_FAILED, error_reason=reason, error_message=message)
    return pb.FinishJobRequest(state=pb.JOB_STATE_CANCELLED)


@contextlib.asynccontextmanager
async def running_trials(
    settings: WorkerSettings, job: pb.Job, data: DataClient, training: TrainingClient, patience: Patience
) -> AsyncIterator[Trials]:
    """Be ready to run a study's trials; leaving ends what is not a job.

    Trials of several workers each are jobs in any case: each of them trains on Ray by itself. So are those that begin
    from another model's body, which Ray Tune's do not have.

    Raises:
        Unavailable: the Ray cluster, or the data service, is away.
    """
    workspace = current_identity().workspace
    durable = PlatformTrials(job.name, workspace, training, patience)
    if settings.engine == "embedded" or job.spec.workers > 1 or job.spec.base_version:
        yield durable
        return
    from services.training.adapters.ray import trials

    resources = job.spec.search.trial_resources
    running = trials.running_trials(settings.ray_address, resources.cores, resources.gpus)
    ray = await asyncio.to_thread(running.__enter__)
    try:

        async def give_rows() -> None:
            ray.forget_rows()
            async for chunk in data.chunks(job.spec.dataset):
                await asyncio.to_thread(ray.add_rows, chunk)

        await patience(give_rows)
        yield TunedTrials(job, durable, ray, training, workspace, patience)
    finally:
        await asyncio.to_thread(running.__exit__, None, None, None)
