"""How much a replica reserves where nothing is declared: what its replicas are measured to use. Pure.

Hysteresis keeps noise from moving replicas. A reservation grows once it is exceeded for half a minute. It shrinks once
less than a share of it was used for ten minutes.
"""

import math
from dataclasses import dataclass, field

from services.inference.domain.deployments import LEAST_CORES, LEAST_MEMORY_BYTES, Deployment, Resources

_UP_SECONDS = 30.0
_DOWN_SECONDS = 600.0
_DOWN_SHARE_OF_CORES = 0.25
_DOWN_SHARE_OF_MEMORY = 0.5
# A loaded model needs some more for its runs.
_MEMORY_MARGIN = 1.25
# One replica reserves no more: beyond a core, it shares with those that are busy at other times.
_MOST_CORES = 1.0


@dataclass
class Trend:
    """How long what is measured has been beyond a reservation.

    Args:
        above_since, below_since: seconds of the caller's clock; None where it is not.
    """

    above_since: float | None = None
    below_since: float | None = None

    def update(self, used: float, reserved: float, down_share: float, now: float) -> tuple[bool, bool]:
        """Take a measurement; return whether to grow, and whether to shrink. Either restarts the trend."""
        self.above_since = (self.above_since if self.above_since is not None else now) if used > reserved else None
        is_below = used < reserved * down_share
        self.below_since = (self.below_since if self.below_since is not None else now) if is_below else None
        grows = self.above_since is not None and now - self.above_since >= _UP_SECONDS
        shrinks = self.below_since is not None and now - self.below_since >= _DOWN_SECONDS
        if grows or shrinks:
            self.above_since = self.below_since = None
        return grows, shrinks


@dataclass
class Trends:
    """The trends of one deployment's cores and memory."""

    cores: Trend = field(default_factory=Trend)
    memory: Trend = field(default_factory=Trend)


def follow(deployment: Deployment, used: Resources, trends: Trends, now: float) -> Resources:
    """Return what a replica reserves from now on.

    Args:
        deployment: with what it reserves, and what it declared, which stays.
        used: the most that one of its replicas is measured to use; 0 bytes where memory was not measured.
        trends: of this deployment; updated.
        now: seconds of a clock that never jumps.
    """
    cores, memory_bytes = deployment.resources.cores, deployment.resources.memory_bytes
    if not deployment.declared.cores:
        grows, shrinks = trends.cores.update(used.cores, cores, _DOWN_SHARE_OF_CORES, now)
        if grows or shrinks:
            # Powers of two: two measurements that hardly differ reserve the same.
            steps = max(0, math.ceil(math.log2(used.cores / LEAST_CORES))) if used.cores > LEAST_CORES else 0
            cores = min(_MOST_CORES, LEAST_CORES * 2**steps)
    if not deployment.declared.memory_bytes and used.memory_bytes:
        needed = max(LEAST_MEMORY_BYTES, round(used.memory_bytes * _MEMORY_MARGIN))
        grows, shrinks = trends.memory.update(needed, memory_bytes, _DOWN_SHARE_OF_MEMORY, now)
        memory_bytes = needed if grows or shrinks else memory_bytes
    return Resources(cores, memory_bytes, deployment.resources.gpus)
