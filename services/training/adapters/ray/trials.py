"""A study's trials on a Ray cluster: Ray Tune runs them, the study says which, and which end early."""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher
from ray.tune.search.search_generator import SearchGenerator

from servicekit.errors import LeptonError
from services.training.adapters.ray.engine import beside_this_process, connected
from services.training.adapters.ray.post import Post
from services.training.adapters.ray.seal import Seal
from services.training.domain.families import fitting
from services.training.domain.families.metrics import Scores
from services.training.domain.families.model import Progress, Run
from services.training.domain.families.trial import scores_of_draws, trial_rows

_REPORT_SECONDS = 0.5
# Less than a study's process has to stop.
_CLOSE_SECONDS = 2.0
# What takes its nodes down this often does so by itself.
_MOST_RESTARTS = 3
_PROGRESS, _SCORED, _REFUSED = "progress", "scored", "refused"


@dataclass(frozen=True)
class TrialTask:
    """One trial.

    Args:
        number: in its study.
        family, target, handle_unknown, seed: as in a job's spec.
        judges_apart: whether the study's best is judged by rows of another dataset.
        settings: hyperparameters, resolved.
        threads: to compute with.
    """

    number: int
    family: str
    target: str
    handle_unknown: str
    seed: int
    judges_apart: bool
    settings: dict[str, Any]
    threads: int


@dataclass
class TrialState:
    """How a trial stands.

    Args:
        share: how far it is, 0 to 1.
        metrics: the latest, by name.
        scores: once it succeeded.
        error: reason and message, once it failed.
        is_ended: whether it runs no longer; without scores and error it was ended early, or lost.
        seconds: how long it took, so far.
    """

    share: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    scores: Scores | None = None
    error: tuple[str, str] | None = None
    is_ended: bool = False
    seconds: float = 0.0


class RayTrials:
    """Trials under way on a cluster; what is called blocks, for a moment.

    Args:
        cores, gpus: of each trial.
        folder: for what Ray Tune writes, nothing of which is read.
        pool: of one thread, where Ray Tune runs.
    """

    def __init__(self, cores: float, gpus: float, folder: str, pool: ThreadPoolExecutor) -> None:
        self._resources = {"CPU": cores, **({"GPU": gpus} if gpus else {})}
        self._folder = folder
        self._pool = pool
        self._seal = Seal()
        self._post: Any = beside_this_process(Post).remote(self._seal.key, b"")
        self._chunks: list[Any] = []
        self._states: dict[int, TrialState] = {}
        self._tune: Future[Any] | None = None
        self.waiting: deque[TrialTask] = deque()
        self.unwanted: set[int] = set()
        self.is_closed = False

    def add_rows(self, chunk: bytes) -> None:
        """Take the next bytes of the rows, an Arrow stream; before the first trial."""
        self._chunks += self._seal.put(chunk)

    def forget_rows(self) -> None:
        """Begin again with the rows."""
        self._chunks.clear()

    def begin(self, task: TrialTask) -> None:
        """Let a trial run once there is room."""
        self._states[task.number] = TrialState()
        self.waiting.append(task)
        if self._tune is None:
            self._tune = self._pool.submit(self._tuner().fit)

    def end(self, number: int) -> None:
        """End a trial early, at its next report."""
        self.unwanted.add(number)

    def note_end(self, number: int, *, is_error: bool) -> None:
        """Take it from Ray Tune that a trial runs no longer."""
        state = self._states[number]
        if is_error:
            state.error = "INTERNAL", "an internal error, or its nodes were lost too often: see the cluster's logs"
        state.is_ended = True

    def look(self) -> Mapping[int, TrialState]:
        """Return how all trials stand.

        Raises:
            Exception: Ray Tune ended before its study.
        """
        if self._tune is not None and self._tune.done():
            raise self._tune.exception() or RuntimeError("Ray Tune ended before its study")
        # First: what a trial told before it ended is then among the news.
        ended = {number for number, state in self._states.items() if state.is_ended}
        for kind, (number, seconds, what) in ray.get(self._post.news.remote()):
            state = self._states[number]
            state.seconds = seconds
            if kind == _PROGRESS:
                state.share, metrics = what
                state.metrics |= metrics
            elif kind == _SCORED:
                state.scores = Scores(**what)
            else:
                state.error = what
        return {number: replace(state, is_ended=number in ended) for number, state in self._states.items()}

    def close(self, seconds: float) -> None:
        """Have Ray Tune end, and wait for that for a while."""
        self.is_closed = True
        if self._tune is not None:
            futures.wait([self._tune], timeout=seconds)

    def _tuner(self) -> tune.Tuner:
        run = tune.with_parameters(run_trial, post=self._post, chunks=self._chunks)
        return tune.Tuner(
            tune.with_resources(run, self._resources),
            tune_config=tune.TuneConfig(
                search_alg=_Search(_Asked(self)),
                scheduler=_Ends(self),
                num_samples=-1,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                storage_path=self._folder, verbose=0, failure_config=tune.FailureConfig(max_failures=_MOST_RESTARTS)
            ),
        )

    def __reduce__(self) -> Any:
        # Ray Tune writes down what it would start again from: nothing of this is part of it.
        return object, ()


@contextlib.contextmanager
def running_trials(address: str, cores: float, gpus: float) -> Iterator[RayTrials]:
    """Be ready to run trials on a cluster; leaving ends those under way.

    Args:
        address: of the cluster.
        cores: of each trial.
        gpus: of each trial.

    Raises:
        Unavailable: there is no such cluster.
    """
    with connected(address), TemporaryDirectory(prefix="lepton-ray-") as folder:
        pool = ThreadPoolExecutor(1, thread_name_prefix="ray")
        trials = RayTrials(cores, gpus, folder, pool)
        try:
            yield trials
        finally:
            trials.close(_CLOSE_SECONDS)
            # Its thread ends with the connection at the latest.
            pool.shutdown(wait=False)


def run_trial(config: Mapping[str, Any], post: Any, chunks: Sequence[Any]) -> None:
    """Fit and judge as one of a study's trials, on a node of the cluster.

    Args:
        config: `task`, the fields of a TrialTask.
        post: told how it goes.
        chunks: the rows.
    """
    began, told = time.monotonic(), 0.0
    task = TrialTask(**config["task"])

    def tell(kind: str, what: Any) -> None:
        ray.get(post.tell.remote(kind, (task.number, time.monotonic() - began, what)))

    def report(progress: Progress) -> None:
        nonlocal told
        # Boosting rounds come faster than anybody looks.
        if progress.metrics and time.monotonic() - told > _REPORT_SECONDS:
            told = time.monotonic()
            tell(_PROGRESS, (progress.share, progress.metrics))
            # Ends the trial where it is unwanted.
            tune.report({"share": progress.share})

    try:
        key, _ = ray.get(post.begin.remote())
        with pa.ipc.open_stream(Seal(key).get(chunks)) as reader:
            table = reader.read_all()
        tell(_SCORED, asdict(_scores(task, table, report)))
    except LeptonError as error:
        tell(_REFUSED, (error.reason, error.message))
    tune.report({"share": 1.0})


def _scores(task: TrialTask, table: pa.Table, report: Callable[[Progress], None]) -> Scores:
    schema = fitting.describe(task.family, table, task.target, task.settings, task.handle_unknown)
    table = fitting.readable_rows(task.family, schema, table, task.settings)
    train, judged = trial_rows(table, schema.target, task.seed, judges_apart=task.judges_apart)
    fitting.check(schema, judged)
    run = Run(task.settings, task.seed, report, lambda: False, threads=task.threads)
    first = fitting.evaluate(fitting.fit(task.family, schema, train, run), judged)
    return scores_of_draws(first, task.family, schema, table, run, judges_apart=task.judges_apart)


class _Closed(Exception):
    """The study needs Ray Tune no longer."""


class _Asked(Searcher):
    """Gives Ray Tune the trials that the study begins."""

    def __init__(self, trials: RayTrials) -> None:
        super().__init__()
        self._trials = trials
        self._numbers: dict[str, int] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        if self._trials.is_closed:
            # Ray Tune asks in every round: so it ends at once, and its trials with it.
            raise _Closed
        if not self._trials.waiting:
            return None
        task = self._trials.waiting.popleft()
        self._numbers[trial_id] = task.number
        return {"task": asdict(task)}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        self._trials.note_end(self._numbers[trial_id], is_error=error)


class _Search(SearchGenerator):
    """Writes nothing down: the study goes on from its trials' jobs."""

    def save_to_dir(self, dirpath: str, session_str: str = "", **_: Any) -> None:
        """Do nothing."""

    def has_checkpoint(self, dirpath: str) -> bool:
        """Return False."""
        return False


class _Ends(FIFOScheduler):
    """Ends the trials early that the study wants to end."""

    def __init__(self, trials: RayTrials) -> None:
        super().__init__()
        self._trials = trials

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Any) -> str:
        is_unwanted = trial.config["task"]["number"] in self._trials.unwanted
        return str(self.STOP if is_unwanted else self.CONTINUE)
