"""Leases of workers, in memory: a renewal must not cost a write."""

from dataclasses import dataclass

from servicekit.errors import Aborted


@dataclass
class _Lease:
    epoch: int
    deadline: float


class Leases:
    """Who has a lease, and until when. Times are seconds of one monotonic clock, passed in.

    Args:
        seconds: how long a lease lasts from its grant or renewal.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._leases: dict[str, _Lease] = {}

    def grant(self, worker: str, epoch: int, now: float, grace_seconds: float = 0.0) -> None:
        """Give a worker a lease; an older one of the same worker ends."""
        self._leases[worker] = _Lease(epoch, now + self.seconds + grace_seconds)

    def renew(self, worker: str, epoch: int, now: float) -> None:
        """Extend a lease.

        Raises:
            Aborted: there is none with this epoch: it lapsed, or the worker registered anew.
        """
        if not self.extend(worker, epoch, now):
            raise Aborted(
                f"worker {worker!r} holds no lease of epoch {epoch}: register again",
                reason="LEASE_LOST",
                metadata={"worker": worker},
            )

    def extend(self, worker: str, epoch: int, now: float) -> bool:
        """Extend a lease of a worker that was heard of; return whether it holds one with this epoch."""
        lease = self._leases.get(worker)
        if lease is None or lease.epoch != epoch:
            return False
        # The grace of a new leader is not cut short by the first renewal.
        lease.deadline = max(lease.deadline, now + self.seconds)
        return True

    def end(self, worker: str) -> None:
        """Forget a worker's lease."""
        self._leases.pop(worker, None)

    def clear(self) -> None:
        """Forget all leases: another scheduler keeps them now."""
        self._leases.clear()

    def next_deadline(self) -> float | None:
        """Return when the next lease would lapse; None without leases."""
        return min((lease.deadline for lease in self._leases.values()), default=None)

    def postpone(self, seconds: float) -> None:
        """Extend every lease: this process itself stood still, so it cannot have heard renewals."""
        for lease in self._leases.values():
            lease.deadline += seconds

    def lapsed(self, now: float) -> list[tuple[str, int]]:
        """Return workers, with epochs, whose leases have lapsed; they stay until ended."""
        return sorted((worker, lease.epoch) for worker, lease in self._leases.items() if lease.deadline <= now)
