"""What a study does next, by what it finds of itself: the jobs of its trials."""

import pytest

from lepton.v1 import training_pb2 as pb
from servicekit.rpc import open_channel
from services.training.adapters.training_client import TrainingClient
from services.training.child.patience import Patience
from services.training.child.study import Study
from services.training.domain.families.model import Stopped
from tests.training.house import RUNNING, SUCCEEDED, House

SPEC = pb.JobSpec(kind=pb.JOB_KIND_FIT, family="linear_regression", dataset="line@1", target="y", study="job-s")


def _trial(number: int) -> pb.Job:
    job = pb.Job(name=f"job-{number}", state=SUCCEEDED)
    job.spec.CopyFrom(SPEC)
    job.spec.trial = number
    job.spec.hyperparameters["l2"] = "1.0"
    job.evaluation.metrics.add(name="rmse", value=float(number))
    return job


class _Left:
    """Trials as a study finds them that goes on: those that ended, of others not even that they ran."""

    def __init__(self, *numbers: int) -> None:
        self.begun: list[int] = []
        self._found = [_trial(number) for number in numbers]

    async def begin(self, spec: pb.JobSpec) -> pb.Job:
        """Note it, and stop the study."""
        self.begun.append(spec.trial)
        raise Stopped

    async def jobs(self) -> list[pb.Job]:
        """Return those that ended."""
        return self._found

    async def end(self, job: pb.Job) -> None:
        """Do nothing: none runs."""


async def test_study_that_goes_on_runs_the_trial_that_is_missing(house: House) -> None:
    job = pb.Job(name="job-s", state=RUNNING, attempts=2)
    job.spec.CopyFrom(SPEC)
    job.spec.kind, job.spec.search.max_trials, job.spec.search.parallel_trials = pb.JOB_KIND_TUNE, 5, 2
    trials = _Left(1, 3)
    patience = Patience(1.0, lambda: None)
    async with open_channel(f"localhost:{house.training.private_port}", house.process_settings("training")) as channel:
        study = Study(job, "default", TrainingClient(channel), trials, patience, lambda *_: None)
        with pytest.raises(Stopped):
            await study.run()
    assert trials.begun == [2]
