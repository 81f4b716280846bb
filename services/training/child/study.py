"""A study: looks for hyperparameters by trials, each a job of its own, and has the best of them registered.

All that it knows stands in its trials' jobs, so that a study whose worker died goes on from there, and repeats none.
"""

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import optuna
import structlog
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import TrialState

from lepton.v1 import common_pb2
from lepton.v1 import training_pb2 as pb
from servicekit.errors import InvalidArgument, LeptonError
from services.training.adapters.training_client import TrainingClient
from services.training.child.patience import Patience
from services.training.child.trials import ENDED, TRIAL_SECONDS, Trials
from services.training.domain.families.catalog import resolve_hyperparameters
from services.training.domain.families.trial import chance_of
from services.training.domain.search import (
    DEFAULT_METRICS,
    LOWER_IS_BETTER,
    Choices,
    Dimension,
    Value,
    grid,
    is_within,
    nearest,
    read_space,
)

_log = structlog.get_logger(__name__)

_LOOK_SECONDS = 0.5
_STATES = {
    pb.JOB_STATE_SUCCEEDED: TrialState.COMPLETE,
    pb.JOB_STATE_CANCELLED: TrialState.PRUNED,
    pb.JOB_STATE_FAILED: TrialState.FAIL,
}
# How far trials are, in percent: what pruners compare is told at the same shares, whatever a family's steps are.
_WHOLE = 100
_FIRST_RUNG, _REDUCTION = 12, 2
_START_TRIALS = 4
_LOSSES = ("validation_loss", "loss")
_LEAST_FOR_IMPORTANCE = 4
# How likely by chance a gain over the default may be that counts.
_CHANCE = 0.05

# Progress, message, step, metrics; raises where the study is to stop.
Say = Callable[[float, str, int, Mapping[str, float]], None]


@dataclass
class _Trial:
    """One trial.

    Args:
        job: its job, as seen last.
        sampled: the optimiser's view of it.
    """

    job: pb.Job
    sampled: optuna.trial.Trial


class Study:
    """One study.

    Args:
        job: of the study.
        workspace: its.
        training: the training service.
        trials: how they are run.
        patience: for the service while it is away.
        say: tells how far it is.
    """

    def __init__(
        self, job: pb.Job, workspace: str, training: TrainingClient, trials: Trials, patience: Patience, say: Say
    ) -> None:
        self._job = job
        self._spec = job.spec
        self._search = job.spec.search
        self._workspace = workspace
        self._training = training
        self._trials = trials
        self._patience = patience
        self._say = say
        fixed = _parsed(job.spec.hyperparameters)
        self._space = read_space(
            job.spec.family, _parsed(self._search.space), fixed, has_body=bool(job.spec.base_version)
        )
        self._grid = list(grid(self._space)) if self._search.sampler == "grid" else None
        self._running: dict[int, _Trial] = {}
        self._ended: dict[int, pb.Job] = {}
        self._metric = self._search.metric
        self._study: optuna.Study | None = None
        self._best_job: pb.Job | None = None

    async def run(self) -> pb.FinishJobRequest:
        """Run trials until the budget is spent, then have the best one registered; return the end.

        Raises:
            Stopped: by `say`.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        await self._look()
        while self._running or self._has_budget():
            while len(self._running) < self._search.parallel_trials and self._has_budget():
                await self._begin()
            self._tell()
            await asyncio.sleep(_LOOK_SECONDS)
            await self._look()
        return await self._register()

    async def stop(self) -> None:
        """End what the study began where a user stopped it; where only its worker leaves, that goes on."""
        if (await self._training.get(self._workspace, self._job.name)).cancel_requested:
            await self.end_all()

    async def end_all(self) -> None:
        """End what the study began and what has not ended; as far as that can be told now."""
        for trial in self._running.values():
            with contextlib.suppress(LeptonError):
                await self._trials.end(trial.job)
        if self._best_job is not None and self._best_job.state not in ENDED:
            with contextlib.suppress(LeptonError):
                await self._training.cancel(self._workspace, self._best_job.name)

    def _has_budget(self) -> bool:
        count = len(self._running) + len(self._ended)
        most = min(self._search.max_trials, len(self._grid)) if self._grid is not None else self._search.max_trials
        seconds = self._elapsed_seconds()
        spent = sum(map(_seconds, self._ended.values())) * self._search.trial_resources.cores
        # One trial there is in any case: a study without any has nothing to register.
        return count == 0 or (
            count < most
            and not (self._search.max_seconds and seconds > self._search.max_seconds)
            and not (self._search.max_core_seconds and spent > self._search.max_core_seconds)
        )

    def _elapsed_seconds(self) -> float:
        # Since it first began, wherever that was.
        return time.time() - self._job.start_time.ToNanoseconds() / 1e9

    async def _begin(self) -> None:
        """Choose the next trial's hyperparameters, and queue its job."""
        # A study that goes on may know of later ones than of this: it ran where its end could not be kept.
        number = next(number for number in itertools.count(1) if number not in (*self._running, *self._ended))
        study, default = self._optimiser(), dict[str, Value]()
        if self._grid is not None:
            study.enqueue_trial(self._grid[number - 1])
        elif number == 1 and (default := self._default()):
            # What is found is then never worse, on the rows that trials are judged by, than what nobody looked for.
            study.enqueue_trial(self._as_sampled(default))
        sampled = study.ask(_distributions(self._space))
        spec = self._spec_of(default or sampled.params)
        spec.trial = number
        self._running[number] = _Trial(await self._trials.begin(spec), sampled)

    async def _look(self) -> None:
        """See how the trials stand; end those that promise nothing."""
        for job in await self._trials.jobs():
            number = job.spec.trial
            if not number:
                self._best_job = job
            elif number in self._ended:
                continue
            elif number not in self._running and job.state not in ENDED:
                # Begun by an earlier run of the study.
                self._optimiser().enqueue_trial(self._as_sampled(self._values(job)))
                self._running[number] = _Trial(job, self._optimiser().ask(_distributions(self._space)))
            elif job.state in ENDED:
                self._end(number, job)
            else:
                self._running[number].job = job
                await self._prune(self._running[number])

    def _end(self, number: int, job: pb.Job) -> None:
        self._ended[number] = job
        self._metric = self._metric or _default_metric(job)
        value = self._value(job)
        if value is None and job.state == pb.JOB_STATE_SUCCEEDED:
            measured = ", ".join(metric.name for metric in job.evaluation.metrics)
            raise InvalidArgument(
                f"trials cannot be compared by {self._metric}: what is measured are {measured}", reason="UNKNOWN_METRIC"
            )
        state = _STATES[job.state]
        values = value if state is TrialState.COMPLETE else None
        running = self._running.pop(number, None)
        if running is not None:
            self._optimiser().tell(running.sampled, values, state, skip_if_finished=True)
            return
        params, distributions = self._as_sampled(self._values(job)), _distributions(self._space)
        params, distributions = self._as_sampled(self._values(job)), _distributions(self._space)
        frozen = optuna.trial.create_trial(params=params, distributions=distributions, value=values, state=state)
        self._optimiser().add_trial(frozen)

    async def _prune(self, trial: _Trial) -> None:
        losses = {metric.name: metric.value for metric in trial.job.metrics}
        loss = next((losses[name] for name in _LOSSES if name in losses), None)
        # The default is what others are compared with in the end.
        if loss is None or trial.job.cancel_requested or self._values(trial.job) == self._default():
            return
        trial.sampled.report(loss if self._is_lower_better() else -loss, int(trial.job.progress * _WHOLE))
        if trial.sampled.should_prune():
            try:
                await self._trials.end(trial.job)
            except LeptonError as error:
                # It costs time, no more: the next look asks again.
                _log.info("trial not ended", trial=trial.job.spec.trial, error=error.message)

    def _optimiser(self) -> optuna.Study:
        if self._study is None:
            # Another seed where a study goes on: the same draws would give the same trials.
            seed = (self._spec.seed + len(self._ended) * 7919 + self._job.attempts - 1) % 2**32
            self._study = optuna.create_study(
                direction="minimize" if self._is_lower_better() else "maximize",
                sampler=_sampler(self._search.sampler, seed),
                pruner=_pruner(self._search.pruner),
            )
        return self._study

    def _is_lower_better(self) -> bool:
        return not self._metric or self._metric in LOWER_IS_BETTER

    def _value(self, job: pb.Job) -> float | None:
        return next((metric.value for metric in self._measured(job)), None)

    def _measured(self, job: pb.Job) -> list[common_pb2.Metric]:
        return [metric for metric in job.evaluation.metrics if metric.name == self._metric]

    def _values(self, job: pb.Job) -> dict[str, Value]:
        found = _parsed(job.spec.hyperparameters)
        return {dimension.name: found[dimension.name] for dimension in self._space}

    def _as_sampled(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """Return the nearest to values that the optimiser could have chosen: a default may lie beside its range."""
        return {dimension.name: nearest(dimension, values[dimension.name]) for dimension in self._space}

    def _default(self) -> dict[str, Value]:
        """Return what a fit has of whatever is searched; empty where the user wants none of that tried."""
        fixed = _parsed(self._spec.hyperparameters)
        resolved = resolve_hyperparameters(self._spec.family, fixed, has_body=bool(self._spec.base_version))
        chosen = {dimension.name: resolved[dimension.name] for dimension in self._space}
        is_wanted = not self._search.space or all(
            is_within(dimension, chosen[dimension.name]) for dimension in self._space
        )
        return chosen if is_wanted else {}

    def _spec_of(self, chosen: Mapping[str, Value]) -> pb.JobSpec:
        """Return the spec of a fit with some hyperparameters, the study's own beside them."""
        spec = pb.JobSpec()
        spec.CopyFrom(self._spec)
        spec.ClearField("search")
        spec.kind, spec.study = pb.JOB_KIND_FIT, self._job.name
        spec.resources.CopyFrom(self._search.trial_resources)
        for name, value in chosen.items():
            spec.hyperparameters[name] = json.dumps(value)
        return spec

    def _tell(self) -> None:
        done, most = len(self._ended), self._search.max_trials
        best = self._best()
        metrics = {} if best is None else {f"best_{self._metric}": self._value(best) or 0.0}
        time_share = self._elapsed_seconds() / (self._search.max_seconds or float("inf"))
        share = min(max(done / most, time_share), 1.0)
        self._say(0.9 * share, f"{done} of {most} trials done, {len(self._running)} running", done, metrics)

    def _best(self) -> pb.Job | None:
        return next(iter(self._ranked()), None)

    def _ranked(self) -> list[pb.Job]:
        """Return the trials that have a value, the best first; of equals the first: the simpler way to it."""
        scored = [job for job in self._ended.values() if job.state == pb.JOB_STATE_SUCCEEDED]
        scored = [job for job in scored if self._value(job) is not None]
        sign = 1.0 if self._is_lower_better() else -1.0
        return sorted(scored, key=lambda job: (sign * (self._value(job) or 0.0), job.spec.trial))

    def _chosen(self) -> tuple[pb.Job | None, str]:
        """Return the best trial, and a note: of those that beat the default beyond chance, else the default's.

        The best of many trials is also the luckiest: on few rows that alone makes one look better than the default.
        """
        ranked, default = self._ranked(), self._default()
        best = next(iter(ranked), None)
        first = next((job for job in ranked if default and self._values(job) == default), None)
        if best is None or first is None:
            return best, ""
        chances = ((job, chance_of(self._gains(job, first))) for job in ranked[: ranked.index(first)])
        chosen = next((job for job, chance in chances if chance <= _CHANCE), first)
        if chosen is best:
            return best, ""
        what = "the default is kept" if chosen is first else f"trial {chosen.spec.trial} is registered"
        chance = chance_of(self._gains(best, first))
        return (
            chosen,
            f"trial {best.spec.trial} is better than the default, but maybe by chance (p={chance:.2g}): {what}",
        )

    def _gains(self, job: pb.Job, over: pb.Job) -> list[float]:
        """Return by how much a trial is better than another, draw by draw."""
        (found,), (other,) = self._measured(job), self._measured(over)
        sign = 1.0 if self._is_lower_better() else -1.0
        return [sign * (theirs - ours) for ours, theirs in zip(found.draws, other.draws, strict=False)]

    async def _register(self) -> pb.FinishJobRequest:
        """Fit the best trial's hyperparameters on all rows but those held out, and register that."""
        best, note = self._chosen()
        if best is None:
            last = max(self._ended.values(), key=lambda job: job.spec.trial, default=pb.Job())
            why = f"no trial succeeded; the last one: {last.error_message or 'ended early'}"
            return _failed(last.error_reason or "NO_TRIAL_SUCCEEDED", why)
        self._say(0.9, f"registering trial {best.spec.trial}", len(self._ended), {})
        spec = self._spec_of(self._values(best))
        spec.study_results = json.dumps(self._results(best, note))
        job = self._best_job
        if job is None or job.state in (pb.JOB_STATE_FAILED, pb.JOB_STATE_CANCELLED):
            # One that failed before the study was queued again is not worth asking again: another one is.
            name = f"{self._job.name}-best" if job is None else f"{self._job.name}-best-after-{job.name}"
            request = pb.CreateJobRequest(spec=spec, request_id=name)
            job = self._best_job = await self._patience(lambda: self._training.create(self._workspace, request))
        while job.state not in ENDED:
            await asyncio.sleep(_LOOK_SECONDS)
            job = self._best_job = await self._patience(partial(self._training.get, self._workspace, job.name))
            self._say(0.9 + 0.1 * job.progress, f"registering trial {best.spec.trial}", len(self._ended), {})
        if job.state != pb.JOB_STATE_SUCCEEDED:
            return _failed(job.error_reason or "CANCELLED", job.error_message or f"{job.name} was cancelled")
        done = pb.FinishJobRequest(state=pb.JOB_STATE_SUCCEEDED, version=job.version, evaluation=job.evaluation)
        done.warnings.extend(job.warnings)
        return done

    def _results(self, best: pb.Job, note: str) -> dict[str, Any]:
        """Return what the study found, as study.json has it."""
        trials = [
            {
                "trial": number,
                "job": job.name,
                "state": _STATES[job.state].name.lower(),
                "value": self._value(job),
                "seconds": _seconds(job),
                "hyperparameters": self._values(job),
            }
            for number, job in sorted(self._ended.items())
        ]
        return {
            "study": self._job.name,
            "metric": self._metric,
            "lower_is_better": self._is_lower_better(),
            "sampler": self._search.sampler,
            "pruner": self._search.pruner,
            "best_trial": best.spec.trial,
            "note": note,
            "trials": trials,
            "importance": self._importance(),
        }

    def _importance(self) -> dict[str, float]:
        complete = self._optimiser().get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if len(complete) < _LEAST_FOR_IMPORTANCE or len({trial.value for trial in complete}) == 1:
            return {}
        return dict(get_param_importances(self._optimiser(), evaluator=PedAnovaImportanceEvaluator()))


def _sampler(name: str, seed: int) -> optuna.samplers.BaseSampler:
    if name == "bayesian":
        # Trials that still run count as bad ones: else several at once would look in the same place.
        return optuna.samplers.TPESampler(seed=seed, constant_liar=True)
    return optuna.samplers.RandomSampler(seed=seed)


def _pruner(name: str) -> optuna.pruners.BasePruner:
    if name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=_START_TRIALS, n_warmup_steps=_FIRST_RUNG)
    if name == "asha":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=_FIRST_RUNG, reduction_factor=_REDUCTION)
    return optuna.pruners.NopPruner()


def _distributions(space: tuple[Dimension, ...]) -> dict[str, optuna.distributions.BaseDistribution]:
    return {dimension.name: _distribution(dimension) for dimension in space}


def _distribution(dimension: Dimension) -> optuna.distributions.BaseDistribution:
    if isinstance(dimension, Choices):
        return optuna.distributions.CategoricalDistribution(dimension.values)
    if dimension.is_whole:
        return optuna.distributions.IntDistribution(int(dimension.low), int(dimension.high), log=dimension.is_log)
    return optuna.distributions.FloatDistribution(dimension.low, dimension.high, log=dimension.is_log)


def _default_metric(job: pb.Job) -> str:
    names = {metric.name for metric in job.evaluation.metrics}
    if "coverage" in names:
        # Forecasts have an rmse, too.
        return DEFAULT_METRICS["forecasting"]
    return next((name for name in DEFAULT_METRICS.values() if name in names), "")


def _parsed(values: Mapping[str, str]) -> dict[str, Any]:
    return {name: json.loads(value) for name, value in values.items()}


def _seconds(job: pb.Job) -> float:
    told = [metric.value for metric in job.metrics if metric.name == TRIAL_SECONDS]
    if told:
        return told[0]
    if not job.HasField("start_time") or not job.HasField("end_time"):
        return 0.0
    return (job.end_time.ToDatetime() - job.start_time.ToDatetime()).total_seconds()


def _failed(reason: str, message: str) -> pb.FinishJobRequest:
    return pb.FinishJobRequest(state=pb.JOB_STATE_FAILED, error_reason=reason, error_message=message[:4000])
