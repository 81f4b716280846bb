"""The search of one graph for its best plan, within a time: what the child does."""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from servicekit.errors import FailedPrecondition
from servicekit.ort_datatypes import INPUT_DATATYPES, ORT_DATATYPES
from services.inference.domain.tuning import Wish
from services.inference.independence import analyse, read_model
from services.inference.plans.build import Feed, NotBuilt, build
from services.inference.plans.candidates import LEAST_ROWS, PLAIN, Candidate, Hardware, worth_trying
from services.inference.plans.choice import LEAST_GAIN, Timing, best_threads, in_order, speedup
from services.inference.plans.graph import index_limits, read_facts
from services.inference.plans.measure import in_turn, processor_clock
from services.inference.plans.quality import Quality, Task, find_task, judge, same_but_rounding
from services.inference.plans.rows import Group, Tensor, synthetic, tiled
from services.inference.serving.batch_cost import best_batch, fit_cost
from services.inference.serving.session import open_session

Array = np.ndarray[Any, Any]

# Shares of the time after which each step ends.
_BUILT, _TIMED, _JUDGED = 0.5, 0.65, 0.9
# The share that the plain plan may take to be judged; faster ones take less.
_JUDGING = 0.2
_TRIED_ROWS = (1, 8)
_MOST_ROWS = 64
_LONGEST_RUN_SECONDS = 0.5
_MOST_THREADS = 8
# Runs at a time while answers are judged.
_JUDGED_ROWS = 32
_CALIBRATION_RUNS = 128
# Lengths and sides that graphs with further variable dimensions may take, where no row tells.
_FREE_SIZES = (32, 224)


@dataclass(frozen=True)
class Evidence:
    """Rows to judge on.

    Args:
        groups: the inputs.
        truth: their labels or values as texts, by place; None without.
        dataset: where they are from; empty for none.
        message: what is to be known of them, for people.
    """

    groups: Sequence[Group] = ()
    truth: Sequence[str] | None = None
    dataset: str = ""
    message: str = "there is no evaluation data"

    @property
    def rows(self) -> int:
        """How many there are."""
        return sum(len(group.places) for group in self.groups)


@dataclass
class Tried:
    """A candidate, and what came of it.

    Args:
        candidate: which one.
        content: its graph.
        session: ONNX Runtime's.
        why_mixed: why its rows are not shown to be independent: it serves without batches then, and is measured and
            evaluated so. Empty where they are.
        timing: how long its runs take.
        quality: how good it is; None where that was not judged.
        outcome: for people.
    """

    candidate: Candidate
    content: bytes
    session: Any
    why_mixed: str
    timing: Timing
    quality: Quality | None = None
    outcome: str = ""


@dataclass
class Found:
    """The outcome.

    Args:
        chosen: the plan.
        content: its graph.
        threads: of a run.
        plain_seconds, seconds: of a run, by rows: of the plain plan and of the chosen one.
        quality: of the chosen one.
        speedups, losses: by name of those measured.
        outcomes: by name of everything that could have been tried.
        message: for people.
    """

    chosen: Candidate
    content: bytes
    threads: int
    message: str = ""
    plain_seconds: dict[int, float] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)
    quality: Quality | None = None
    speedups: dict[str, float] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)
    outcomes: dict[str, str] = field(default_factory=dict)

    @property
    def batch_rows(self) -> int:
        """The best batch."""
        return best_batch(self.seconds) if self.seconds else 0

    @property
    def cost(self) -> tuple[float, float]:
        """What a run takes whatever its rows, and what each row adds, seconds."""
        return fit_cost(self.seconds)

    @property
    def graph_sha256(self) -> str:
        """Of its graph."""
        return hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True)
class Question:
    """What is asked of a search.

    Args:
        content: the registered graph.
        hardware: that it runs on.
        wish: how far to go.
        task, classes: of the signature.
        seconds: to take.
        may_build: whether graphs may be rewritten, which takes temporary files.
    """

    content: bytes
    hardware: Hardware
    wish: Wish
    task: str
    classes: tuple[str, ...]
    seconds: float
    may_build: bool = True


def calibration_of(evidence: Evidence) -> list[Feed]:
    """Return the runs that static quantisation takes its ranges from: of every fifth row, one row each."""
    feeds = [
        {name: values[place : place + 1] for name, values in group.feed.items()}
        for group in evidence.groups
        for place in range(0, len(group.places), 5)
    ]
    return feeds[:: max(1, len(feeds) // _CALIBRATION_RUNS)][:_CALIBRATION_RUNS]


def search(question: Question, evidence: Evidence) -> Found:
    """Return the best plan for a graph; the plain one where nothing better was found in the time."""
    return _Search(question, evidence).run()


class _Search:
    """The steps of one search."""

    def __init__(self, question: Question, evidence: Evidence) -> None:
        self._question = question
        self._evidence = evidence
        self._started = time.monotonic()
        self._threads = question.hardware.threads
        self._on_cpu = question.hardware.provider == "CPUExecutionProvider"
        # A run of one thread is that of its caller.
        self._clock = processor_clock if self._on_cpu and self._threads == 1 else time.perf_counter
        model = onnx.load_from_string(question.content)
        self._facts = read_facts(model)
        self._limits = index_limits(model)
        self._found = Found(PLAIN, question.content, self._threads)

    def run(self) -> Found:
        plain = self._open(PLAIN, self._question.content)
        self._inputs = tensors_of(plain.session)
        self._feed = self._sample(plain.session)
        wished, self._found.outcomes = worth_trying(
            self._facts, self._question.hardware, self._question.wish.mode, self._evidence.rows
        )
        tried = [plain, *self._build(wished[1:], plain)]
        self._time(tried)
        chosen = self._choose(tried, plain)
        self._found.chosen, self._found.content, self._found.quality = chosen.candidate, chosen.content, chosen.quality
        self._tell(tried, chosen)
        self._curve(plain, chosen)
        return self._found

    def _left(self, share: float) -> float:
        """Return when a share of the time is over, on time.monotonic."""
        return self._started + share * self._question.seconds

    def _open(self, candidate: Candidate, content: bytes, threads: int = 0) -> Tried:
        """Raises FailedPrecondition or NotBuilt: it cannot be loaded."""
        session = open_session(
            content,
            threads or self._threads,
            candidate.optimization,
            candidate.provider,
            captures=candidate.captures,
        )
        if candidate.provider and session.get_providers()[0] != candidate.provider:
            raise NotBuilt(f"not built: {candidate.provider} does not load here")
        why_mixed = analyse(read_model(content), _tensor_outputs(session)).why
        return Tried(candidate, content, session, why_mixed, Timing(candidate, {}))

    def _sample(self, session: Any) -> Feed:
        """Return rows to time runs with: the most frequent kind of the evaluation data, else made up."""
        if self._evidence.groups:
            return max(self._evidence.groups, key=lambda group: len(group.places)).feed
        for free in _FREE_SIZES:
            feed = synthetic(self._inputs, self._limits, free)
            try:
                session.run(_tensor_outputs(session), tiled(feed, self._batches()[0]))
            except Exception:  # noqa: S112  (which sizes a graph takes only a run tells)
                continue
            return feed
        raise FailedPrecondition("there is no row to measure with, and made up ones do not fit", reason="NO_SAMPLE")

    def _batches(self) -> tuple[int, ...]:
        """Return the batches to try: those of powers of two, or the only one that the graph takes."""
        fixed = [tensor.shape[0] for tensor in self._inputs if tensor.shape and tensor.shape[0] > 0]
        return (fixed[0],) if fixed else tuple(1 << power for power in range(_MOST_ROWS.bit_length()))

    def _build(self, candidates: Sequence[Candidate], plain: Tried) -> list[Tried]:
        built = []
        calibration = calibration_of(self._evidence)
        expected = _run(plain.session, tiled(self._feed, self._batches()[0]))
        for candidate in candidates:
            if candidate.changes_graph and not self._question.may_build:
                self._found.outcomes[candidate.name] = "not tried: there is no folder in memory to build it in"
                continue
            if time.monotonic() > self._left(_BUILT):
                self._found.outcomes[candidate.name] = "not tried: the time was over"
                continue
            try:
                tried = self._open(candidate, build(candidate, self._question.content, calibration))
                self._check(tried, plain, expected)
                built.append(tried)
            except NotBuilt as error:
                self._found.outcomes[candidate.name] = str(error)
            except FailedPrecondition as error:
                self._found.outcomes[candidate.name] = f"not built: {error.message}"
        return built

    def _check(self, tried: Tried, plain: Tried, expected: list[Array]) -> None:
        """Check that a candidate takes and gives what the plain plan does, and the same where it is lossless."""
        sides = [
            [(item.name, item.type) for item in (*session.get_inputs(), *session.get_outputs())]
            for session in (plain.session, tried.session)
        ]
        if sides[0] != sides[1]:
            raise NotBuilt("not taken: its inputs or outputs differ from the model's")
        try:
            found = _run(tried.session, tiled(self._feed, self._batches()[0]))
        except Exception as error:
            raise NotBuilt(f"not taken: it does not run: {str(error)[:200]}") from error
        if tried.candidate.is_lossless and not same_but_rounding(expected, found):
            raise NotBuilt("not taken: its outputs differ from the model's beyond rounding")

    def _runner(self, tried: Tried, feed: Feed) -> Callable[[], object]:
        """Return what runs a plan on some rows, as it serves them."""
        names = _tensor_outputs(tried.session)
        # Where the graph fixes its batch, that is what a request has.
        if not tried.why_mixed or len(self._batches()) == 1:
            return lambda: tried.session.run(names, feed)
        rows = lone_rows(feed)
        return lambda: [tried.session.run(names, row) for row in rows]

    def _time(self, tried: Sequence[Tried]) -> None:
        batches = [rows for rows in _TRIED_ROWS if rows in self._batches()] or [self._batches()[0]]
        feeds = {rows: tiled(self._feed, rows) for rows in batches}
        runs = {(index, rows): self._runner(each, feeds[rows]) for index, each in enumerate(tried) for rows in batches}
        taken = in_turn(runs, self._left(_TIMED), self._clock)
        for index, each in enumerate(tried):
            each.timing = Timing(each.candidate, {rows: taken[index, rows] for rows in batches})

    def _choose(self, tried: Sequence[Tried], plain: Tried) -> Tried:
        by_candidate = {each.candidate: each for each in tried}
        # A model so slow that few rows can be judged on in the time is judged on none.
        is_judged = self._evidence.rows and self._judged_rows(plain) >= min(LEAST_ROWS, self._evidence.rows)
        judged = self._judge_of(plain) if is_judged else None
        for timing in in_order([each.timing for each in tried[1:]], plain.timing):
            each = by_candidate[timing.candidate]
            if judged is not None and time.monotonic() > self._left(_JUDGED):
                each.outcome = "not taken: the time to judge its quality was over"
                continue
            each.quality = judged(each) if judged is not None else None
            if self._is_good(each):
                return each
            if each.quality is None:
                each.outcome = f"not taken: {LEAST_ROWS} rows take too long to judge it on: raise LEPTON_TUNING_SECONDS"
                continue
            each.outcome = (
                f"not taken: it loses {each.quality.loss_points:.2f} points of {each.quality.metric}, more than "
                f"{self._question.wish.max_quality_loss_points:g}"
            )
        if judged is not None:
            plain.quality = judged(plain)
        return plain

    def _is_good(self, tried: Tried) -> bool:
        if tried.quality is None:
            return tried.candidate.is_lossless
        return tried.quality.loss_points <= self._question.wish.max_quality_loss_points

    def _judge_of(self, plain: Tried) -> Callable[[Tried], Quality]:
        """Return what judges a plan: on the rows that ranges are not taken from, as many as the time allows."""
        outputs = [
            (item.name, ORT_DATATYPES[item.type], tuple(size if isinstance(size, int) else -1 for size in item.shape))
            for item in plain.session.get_outputs()
            if item.type in ORT_DATATYPES
        ]
        truth = self._evidence.truth
        task = find_task(outputs, self._question.task, self._question.classes, truth)
        groups = _thinned(_judged(self._evidence.groups), self._judged_rows(plain))
        labels = None if truth is None or _is_apart(task, truth) else [truth[p] for g in groups for p in g.places]
        before = self._answers(plain, task.output, groups)

        def judged(tried: Tried) -> Quality:
            after = before if tried is plain else self._answers(tried, task.output, groups)
            return judge(task, before, after, labels)

        return judged

    def _judged_rows(self, plain: Tried) -> int:
        seconds = min(taken / rows for rows, taken in plain.timing.seconds.items())
        return int(_JUDGING * self._question.seconds / seconds)

    def _answers(self, tried: Tried, output: str, groups: Sequence[Group]) -> Array:
        parts, session = [], tried.session
        rows = self._batches()[0] if len(self._batches()) == 1 else 1 if tried.why_mixed else _JUDGED_ROWS
        for group in groups:
            for start in range(0, len(group.places), rows):
                feed = {name: values[start : start + rows] for name, values in group.feed.items()}
                count = min(rows, len(group.places) - start)
                # The last ones are filled up where the graph takes no other number.
                found = session.run([output], tiled(feed, rows) if len(self._batches()) == 1 else feed)[0]
                parts.append(np.asarray(found).reshape(-1, *np.shape(found)[1:])[:count])
        return np.concatenate(parts)

    def _tell(self, tried: Sequence[Tried], chosen: Tried) -> None:
        for each in tried:
            name = each.candidate.name
            gain = speedup(each.timing, tried[0].timing)
            self._found.speedups[name] = gain
            if each.quality is not None:
                self._found.losses[name] = each.quality.loss_points
            if each is chosen:
                self._found.outcomes[name] = "chosen"
            elif each is tried[0]:
                self._found.outcomes[name] = "slower than the chosen one"
            elif each.outcome:
                self._found.outcomes[name] = each.outcome
            elif gain < LEAST_GAIN:
                self._found.outcomes[name] = "not taken: not faster than the plain plan"
            else:
                self._found.outcomes[name] = "not taken: the chosen one is as fast or faster, or simpler"
        judged = self._evidence.message
        if chosen is tried[0]:
            self._found.message = f"nothing that may be taken is faster than the plain plan; {judged}"
        else:
            gain = self._found.speedups[chosen.candidate.name]
            self._found.message = f"{gain:.2f} times as fast as the plain plan; {judged}"
            if chosen.why_mixed:
                self._found.message += f"; measured and served without batches: {chosen.why_mixed}"

    def _curve(self, plain: Tried, chosen: Tried) -> None:
        """Measure both plans batch by batch, and the chosen one with more threads."""
        for rows in self._batches():
            feed = tiled(self._feed, rows)
            runs = {"plain": self._runner(plain, feed), "chosen": self._runner(chosen, feed)}
            taken = in_turn(runs, min(self._left(1.0), time.monotonic() + 1.0), self._clock)
            self._found.plain_seconds[rows], self._found.seconds[rows] = taken["plain"], taken["chosen"]
            if taken["plain"] > _LONGEST_RUN_SECONDS or time.monotonic() > self._left(1.0):
                break
        if chosen is plain:
            self._found.seconds = dict(self._found.plain_seconds)
        self._found.threads = self._more_threads(chosen)

    def _more_threads(self, chosen: Tried) -> int:
        """Return the threads of a run; another clock than before, for these runs have more than their caller's."""
        most = min(self._question.hardware.cores, _MOST_THREADS)
        if not self._on_cpu or most <= self._threads or time.monotonic() > self._left(1.0):
            return self._threads
        feed = tiled(self._feed, self._batches()[0])
        counts = [self._threads, *(2**power for power in range(1, 4) if self._threads < 2**power <= most)]
        runs = {count: self._runner(self._open(chosen.candidate, chosen.content, count), feed) for count in counts}
        return best_threads(in_turn(runs, min(self._left(1.0), time.monotonic() + 2.0), time.perf_counter))


def tensors_of(session: Any) -> list[Tensor]:
    """Return a session's inputs."""
    return [
        Tensor(
            item.name,
            INPUT_DATATYPES[item.type],
            tuple(size if isinstance(size, int) and size >= 0 else -1 for size in item.shape),
        )
        for item in session.get_inputs()
    ]


def _run(session: Any, feed: Feed) -> list[Array]:
    return [np.asarray(found) for found in session.run(_tensor_outputs(session), feed)]


def lone_rows(feed: Feed) -> list[Feed]:
    """Return the rows of a run, each as a run of its own."""
    count = len(next(iter(feed.values()))) if feed else 1
    return [{name: values[place : place + 1] for name, values in feed.items()} for place in range(count)]


def _tensor_outputs(session: Any) -> list[str]:
    """Return the names of the outputs that are served: sequences and maps are not."""
    return [item.name for item in session.get_outputs() if item.type in ORT_DATATYPES]


def _judged(groups: Sequence[Group]) -> list[Group]:
    """Return the rows that ranges are not taken from: all but every fifth."""
    kept = []
    for group in groups:
        places = np.flatnonzero(np.arange(len(group.places)) % 5)
        if len(places):
            kept.append(Group({name: values[places] for name, values in group.feed.items()}, group.places[places]))
    return kept


def _thinned(groups: Sequence[Group], most: int) -> list[Group]:
    total = sum(len(group.places) for group in groups)
    step = max(1, -(-total // most))
    return [
        Group({name: values[::step] for name, values in group.feed.items()}, group.places[::step]) for group in groups
    ]


def _is_apart(task: Task, truth: Sequence[str]) -> bool:
    """Tell whether a dataset's labels are of another kind than the scores."""
    return task.kind == "scores" and not set(truth) <= set(task.classes)
