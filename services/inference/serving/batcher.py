"""Dynamic batching: requests wait no longer than the runs before them, and those that wait run together.

There is no timer on the way of a lone request. While a model runs, what arrives queues up and becomes the next batch; a
transport that has read all that its connections hold calls `flush`, so that what came together runs together. A run is
put off only while more is about to arrive: see `linger_seconds`.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import onnxruntime as ort
import structlog

from servicekit.errors import Cancelled, Internal, ResourceExhausted
from services.inference.serving.admission import Admission
from services.inference.serving.batches import Batch, Form, Work
from services.inference.serving.response_cache import ResponseCache, Taken
from services.inference.serving.statistics import BatchTimes
from services.inference.serving.tracing import record_batch
from services.inference.serving.watchdog import Watchdog

_log = structlog.get_logger(__name__)

# One flush runs no longer on the thread that reads requests; the rest is left to threads.
_FLUSH_SECONDS = 0.02
# Where every thread is in a long run, models that have waited this long get threads of their own.
_STARVED_SECONDS = 0.05
_MOST_EXTRA_RUNNERS = 8
_LONGEST_LINGER_SECONDS = 0.005
_ARRIVAL_WEIGHT = 0.1
_RETRY_SECONDS = (0.05, 30.0)


@dataclass(frozen=True)
class QueueLimits:
    """What may wait in a process.

    Args:
        requests: of one model.
        size_bytes: of all.
    """

    requests: int = 1024
    size_bytes: int = 1 << 29


def linger_seconds(form: Form) -> float:
    """Return how long a run had better wait for the next request, seconds; 0 to begin at once.

    Waiting for one more arrival costs each request that waits already the time until it comes, and saves one run's
    fixed cost. So it pays only where arrival_seconds * waiting < fixed_seconds; an idle server never waits.
    """
    model = form.model
    waiting = len(form.queue)
    if form.rows >= form.most_rows or form.arrival_seconds * waiting >= model.fixed_seconds:
        return 0.0
    return min(2.0 * form.arrival_seconds, _LONGEST_LINGER_SECONDS)


class Batcher:
    """Runs requests in batches. Its methods may be called by any thread.

    Args:
        slots: tells how many long runs may go on at a time; one may where it says none.
        admission: the limit that the processes of one port share.
        limits: what may wait.
    """

    def __init__(self, slots: Callable[[], int], admission: Admission, limits: QueueLimits | None = None) -> None:
        self._slots = slots
        self._admission = admission
        self._limits = limits or QueueLimits()
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._is_lingering = False
        self._ready: dict[Form, None] = {}
        self._active = 0
        self._size_bytes = 0
        most = max(slots(), 1) + _MOST_EXTRA_RUNNERS
        self._pool = ThreadPoolExecutor(most, thread_name_prefix="onnxruntime")
        self._watchdog = Watchdog(self._relieve)
        # Run options of inline runs, to be used again: making them costs as much as all else that a run takes.
        self._options: list[ort.RunOptions] = []
        self.served = 0

    @property
    def is_idle(self) -> bool:
        """Whether no thread of its own runs anything, nor tells anybody of it."""
        return not self._active

    def submit(self, work: Work) -> None:
        """Queue a request, unless its answer is known; `flush` begins its run.

        Raises:
            ResourceExhausted: too much waits already; it says when to come back.
        """
        model = work.form.model
        # Read once: another thread may change it meanwhile, and what was taken is to be given back there.
        cache = model.cache
        taken = Taken.RUNS if cache is None else cache.take(work, self._run_again)
        if taken is Taken.KNOWN:
            now = time.monotonic()
            work.done(work)
            model.statistics.hit(now - work.started, time.time())
            with self._lock:
                self.served += 1
        elif taken is Taken.RUNS:
            self._queue(work, cache)

    def _queue(self, work: Work, cache: ResponseCache | None) -> None:
        try:
            self._enter(work)
        except ResourceExhausted:
            if cache is not None:
                cache.forget(work)
            raise
        if cache is not None:
            work.form.model.statistics.missed()

    def _run_again(self, work: Work) -> None:
        """Run a request that waited for another one's answer in vain."""
        try:
            self.submit(work)
        except ResourceExhausted as error:
            work.error = error
            work.done(work)
        self.flush()

    def _enter(self, work: Work) -> None:
        form, model = work.form, work.form.model
        with self._lock:
            if model.waiting >= self._limits.requests:
                raise _full(f"model {model.deployment!r}: {model.waiting} requests wait already", model.queue_seconds())
            if self._size_bytes + work.size_bytes > self._limits.size_bytes and self._size_bytes:
                raise _full(f"{self._size_bytes} bytes of requests wait already", model.queue_seconds())
            self._admission.enter()
            self._size_bytes += work.size_bytes
            if form.has_texts:
                form.text_bytes += work.size_bytes
            model.in_flight += 1
            model.waiting += 1
            model.waiting_rows += work.rows
            form.queue.append(work)
            form.rows += work.rows
            since = work.started - form.last_arrival
            # One that was long in coming began before the last one: of the time between two it tells nothing.
            if since >= 0.0:
                form.arrival_seconds += _ARRIVAL_WEIGHT * (min(since, 1.0) - form.arrival_seconds)
                form.last_arrival = work.started
            self._ready[form] = None
            if self._is_lingering:
                self._arrived.notify_all()

    def flush(self) -> None:
        """Begin what waits: runs that are known to be short here and now, the others in threads."""
        ends = 0.0
        while True:
            with self._lock:
                form = self._next([form for form in self._ready if form.may_run_inline])
                batch = None if form is None else self._pop(form, runs_aside=False)
                if batch is None:
                    self._start_runners()
                    return
            self._run(batch)
            ends = ends or batch.began + _FLUSH_SECONDS
            if batch.began > ends:
                with self._lock:
                    self._start_runners()
                return

    def cancel(self, work: Work) -> None:
        """Forget a request whose caller went away: it leaves its batch, or ends a run that nobody else waits for."""
        with self._lock:
            if work.is_gone:
                return
            work.is_gone = True
            batch = work.batch
            if batch is not None:
                batch.leave()
                return
            try:
                work.form.queue.remove(work)
            except ValueError:
                return
            self._unqueue(work)
            if not work.form.queue:
                self._forget(work.form)
            self._leave(work)
        work.error = Cancelled("the caller went away")
        work.form.model.statistics.failed(work.error, time.monotonic() - work.started)
        work.done(work)

    def close(self) -> None:
        """Let the runs under way end."""
        self._pool.shutdown(wait=True, cancel_futures=False)

    def _start_runners(self) -> None:
        for form in self._ready:
            # Told here, once: how long a run may take is learnt anew all the time, and who left it to the threads does
            # not look again.
            form.is_aside = True
        # A runner takes what waits until nothing does; so more than one for each form would have nothing to do.
        wanted = min(max(self._slots(), 1), self._active + len(self._ready))
        while self._active < wanted:
            self._active += 1
            self._pool.submit(self._run_what_waits)

    def _run_what_waits(self) -> None:
        while True:
            with self._lock:
                batch = self._pop_aside()
                if batch is None:
                    self._active -= 1
                    return
            self._run(batch)

    def _relieve(self) -> None:
        """Give a thread to models that wait while all threads are in long runs of others."""
        with self._lock:
            now = time.monotonic()
            is_starved = any(now - form.queue[0].started > _STARVED_SECONDS for form in self._starving())
            if is_starved and self._active < max(self._slots(), 1) + _MOST_EXTRA_RUNNERS:
                self._active += 1
                self._pool.submit(self._run_starving)

    def _run_starving(self) -> None:
        while True:
            with self._lock:
                form = self._next(self._starving())
                if form is None:
                    self._active -= 1
                    return
                batch = self._pop(form, runs_aside=True)
            self._run(batch)

    def _starving(self) -> list[Form]:
        busy = {id(batch.form.model) for batch in list(self._watchdog.running) if isinstance(batch, Batch)}
        return [form for form in self._ready if form.is_aside and id(form.model) not in busy]

    def _pop_aside(self) -> Batch | None:
        while (form := self._next([form for form in self._ready if form.is_aside])) is not None:
            wait = 0.0 if self._is_lingering else linger_seconds(form)
            if wait:
                self._linger(form, wait)
            if form.queue:
                return self._pop(form, runs_aside=True)
        return None

    def _linger(self, form: Form, seconds: float) -> None:
        self._is_lingering = True
        ends = time.monotonic() + _LONGEST_LINGER_SECONDS
        while seconds and form.queue:
            came = self._arrived.wait(seconds)
            seconds = min(linger_seconds(form), ends - time.monotonic()) if came else 0.0
            if seconds < 0:
                break
        self._is_lingering = False

    def _next(self, forms: list[Form]) -> Form | None:
        """Return the form whose oldest request came first."""
        if len(forms) < 2:
            return forms[0] if forms else None
        return min(forms, key=lambda form: form.queue[0].started)

    def _pop(self, form: Form, *, runs_aside: bool) -> Batch:
        works: list[Work] = []
        rows, most = 0, form.most_rows
        while form.queue and (not works or rows + form.queue[0].rows <= most):
            if works and not form.is_batched:
                break
            work = form.queue.popleft()
            self._unqueue(work)
            works.append(work)
            rows += work.rows
        if not form.queue:
            self._forget(form)
        options = self._options.pop() if self._options and not runs_aside else None
        return Batch(works, runs_aside=runs_aside, options=options)

    def _forget(self, form: Form) -> None:
        self._ready.pop(form, None)
        form.is_aside = False

    def _unqueue(self, work: Work) -> None:
        if work.form.has_texts:
            work.form.text_bytes -= work.size_bytes
        work.form.rows -= work.rows
        work.form.model.waiting -= 1
        work.form.model.waiting_rows -= work.rows

    def _leave(self, work: Work) -> None:
        self._size_bytes -= work.size_bytes
        work.form.model.in_flight -= 1
        self._admission.leave()

    def _run(self, batch: Batch) -> None:
        watchdog = self._watchdog
        watchdog.running[batch] = None
        if watchdog.is_idle:
            watchdog.wake()
        try:
            batch.run()
        except Exception as error:
            # Nothing that a model does may leave a request without an answer, or end a runner.
            _log.exception("batch failed", exc_info=error)
            for work in batch.works:
                if work.outputs is None and work.error is None:
                    work.error = Internal("the request could not be run", reason="BATCH_FAILED")
        finally:
            del watchdog.running[batch]
        if batch.has_overrun:
            self._put_back(batch)
        elif batch.is_inline and batch.form.model.is_on_processor:
            # An end that comes late ends the next run with these options, which then continues in a thread.
            self._options.append(batch.options)
        if batch.works:
            self._settle(batch)
            record_batch(batch)
        # They hold each other; so they go at once, not when the garbage collector finds them.
        batch.works.clear()

    def _put_back(self, batch: Batch) -> None:
        """Leave to the threads what a batch did not come to; its callers that went away are answered."""
        form = batch.form
        with self._lock:
            for work in reversed([work for work in batch.works if work.outputs is None and work.error is None]):
                if work.is_gone:
                    work.error = Cancelled("the caller went away")
                    continue
                batch.works.remove(work)
                work.batch = None
                form.queue.appendleft(work)
                form.rows += work.rows
                form.text_bytes += work.size_bytes if form.has_texts else 0
                form.model.waiting += 1
                form.model.waiting_rows += work.rows
                form.is_aside = True
                self._ready[form] = None

    def _settle(self, batch: Batch) -> None:
        ran = time.monotonic()
        for work in batch.works:
            try:
                work.done(work)
            except Exception as error:
                _log.exception("answer not sent", exc_info=error)
        with self._lock:
            for work in batch.works:
                self._leave(work)
            self.served += len(batch.works)
        _count(batch, ran)


def _count(batch: Batch, ran: float) -> None:
    """Count a batch: after its answers are out."""
    now = time.monotonic()
    statistics = batch.works[0].form.model.statistics
    answered = [work for work in batch.works if work.error is None]
    if answered:
        times = BatchTimes(batch.times.input_seconds, batch.times.infer_seconds, now - ran)
        statistics.batch(
            sum(work.rows for work in answered),
            [batch.began - work.started for work in answered],
            [now - work.started for work in answered],
            times,
            time.time(),
        )
    for work in batch.works:
        if work.error is not None:
            statistics.failed(work.error, now - work.started)
        if isinstance(work.error, Internal):
            # The cause is for whoever runs the platform, never for the client.
            _log.error(
                "model failed",
                deployment=work.form.model.deployment,
                version=work.form.model.number,
                exc_info=work.error.__cause__,
            )


def _full(what: str, seconds: float) -> ResourceExhausted:
    least, most = _RETRY_SECONDS
    return ResourceExhausted(what, reason="QUEUE_FULL", retry_seconds=min(max(seconds, least), most))
