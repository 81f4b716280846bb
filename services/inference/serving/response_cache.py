"""Answers kept for requests that come again: opt-in for a deployment, bounded by bytes.

The key is what an answer depends on and nothing else: the version's digest, the outputs that are wanted, and the
tensors, whatever form they came in; never the request's id. Requests for what is being computed already wait for it
(single flight), so that a crowd asking the same costs one run.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from enum import Enum

import numpy as np

from servicekit.errors import Cancelled, DeadlineExceeded
from services.inference.serving.batches import Outputs, Work
from services.inference.serving.model import Array

_Key = bytes
# What an entry takes beside its tensors: keys, objects, the order.
_ENTRY_BYTES = 512
_TEXT_BYTES = 64


class Taken(Enum):
    """What becomes of a request that a cache was asked for."""

    KNOWN = "KNOWN"
    WAITS = "WAITS"
    RUNS = "RUNS"


class ResponseCache:
    """Keeps a deployment's answers. Its methods may be called by any thread.

    Args:
        most_bytes: that they may take; the least recently used go first. As much again may wait for answers.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.size_bytes = 0
        self._answers: OrderedDict[_Key, tuple[Outputs, int]] = OrderedDict()
        # By what is being computed: who waits for it.
        self._flights: dict[_Key, list[Work]] = {}
        self._waiting_bytes = 0
        self._lock = threading.Lock()

    def take(self, work: Work, run_again: Callable[[Work], None]) -> Taken:
        """Look a request up: its outputs are set where they are known; else it runs, or waits for one that does.

        Args:
            work: the request.
            run_again: runs one that waits and whose leader went away; must not raise.
        """
        key = _key(work)
        with self._lock:
            known = self._answers.get(key)
            if known is not None:
                self._answers.move_to_end(key)
                work.outputs = known[0]
                return Taken.KNOWN
            followers = self._flights.get(key)
            if followers is not None:
                held = _ENTRY_BYTES + work.size_bytes
                if self._waiting_bytes + held > self.most_bytes:
                    # The queue's limits hold for it, then.
                    return Taken.RUNS
                self._waiting_bytes += held
                followers.append(work)
                return Taken.WAITS
            self._flights[key] = []
            work.done = _Landing(self, key, work.done, run_again)
            return Taken.RUNS

    def forget(self, work: Work) -> None:
        """Let a request go that was to run and could not; those that wait for it run by themselves."""
        landing = work.done
        if isinstance(landing, _Landing):
            # It leads no more: what becomes of it is nothing to who leads next.
            work.done = landing.own
            landing.abandon()

    def land(self, key: _Key, work: Work | None) -> list[Work]:
        """Keep a request's answer, if there is one; return who waits for it."""
        with self._lock:
            if work is not None and work.error is None:
                self._keep(key, work)
            followers = self._flights.pop(key, [])
            self._waiting_bytes -= sum(_ENTRY_BYTES + follower.size_bytes for follower in followers)
            return followers

    def _keep(self, key: _Key, work: Work) -> None:
        # Copies: a view would hold its whole batch.
        arrays = [np.array(array) for array in work.arrays()]
        size = _ENTRY_BYTES + sum(_size(array) for array in arrays)
        if size > self.most_bytes:
            return
        self._answers[key] = (Outputs(arrays, 0), size)
        self.size_bytes += size
        while self.size_bytes > self.most_bytes:
            _, (_, freed) = self._answers.popitem(last=False)
            self.size_bytes -= freed


class _Landing:
    """What follows a leader's answer: it is kept, and those that wait have it, too.

    Args:
        cache, key: where.
        own: the leader's.
        run_again: runs one whose leader went away.
    """

    def __init__(
        self, cache: ResponseCache, key: _Key, own: Callable[[Work], None], run_again: Callable[[Work], None]
    ) -> None:
        self._cache = cache
        self._key = key
        self.own = own
        self._run_again = run_again

    def __call__(self, work: Work) -> None:
        followers = self._cache.land(self._key, work)
        self.own(work)
        # Its own haste or absence is no answer to the others.
        is_its_own = isinstance(work.error, Cancelled | DeadlineExceeded)
        for follower in followers:
            if is_its_own:
                self._run_again(follower)
            else:
                follower.outputs, follower.start, follower.error = work.outputs, work.start, work.error
                follower.done(follower)

    def abandon(self) -> None:
        """Forget a leader that was refused at the queue."""
        for follower in self._cache.land(self._key, None):
            self._run_again(follower)


def _key(work: Work) -> _Key:
    form = work.form
    digest = hashlib.blake2b(digest_size=32)
    digest.update(repr((form.model.digest, form.outputs, form.shapes, work.rows)).encode())
    for payload in work.payloads:
        if payload is None:
            # Left out, as its shape says.
            continue
        if isinstance(payload, list):
            for text in payload:
                raw = text if isinstance(text, bytes) else text.encode()
                digest.update(len(raw).to_bytes(8, "little"))
                digest.update(raw)
        else:
            # Raw numbers, or an array: the same bytes.
            digest.update(payload)
    return digest.digest()


def _size(array: Array) -> int:
    if array.dtype != object:
        return int(array.nbytes)
    return sum(_TEXT_BYTES + len(str(text)) for text in array.reshape(-1).tolist())
