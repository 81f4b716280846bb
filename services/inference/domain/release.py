"""A release: which versions answer beside a deployment's own, and how a new one takes over."""

from dataclasses import dataclass
from datetime import datetime
from enum import Enum


class CanaryState(Enum):
    """Where a canary stands."""

    RUNNING = "RUNNING"
    PROMOTED = "PROMOTED"
    ROLLED_BACK = "ROLLED_BACK"


@dataclass(frozen=True)
class TrafficTarget:
    """A version with a share of the requests.

    Args:
        version: name@number.
        number: of the version.
        digest: of the version.
        weight_percent: its share.
    """

    version: str
    number: int
    digest: str
    weight_percent: float


@dataclass(frozen=True)
class Canary:
    """A version that takes over step by step; fields and units as in lepton.v1.Canary, defaults resolved."""

    version: str
    number: int
    digest: str
    percent: float
    steps: tuple[float, ...]
    step_seconds: float
    min_requests: int
    max_error_rate_increase: float
    max_latency_ratio: float
    min_agreement: float
    compare_percent: float
    tolerance: float
    state: CanaryState
    message: str
    window: int
    create_time: datetime
    update_time: datetime

    @property
    def is_running(self) -> bool:
        """Whether it answers its share."""
        return self.state is CanaryState.RUNNING

    @property
    def step(self) -> int:
        """The step that it is at, from 0."""
        return next((index for index, percent in enumerate(self.steps) if percent >= self.percent), 0)

    @property
    def is_at_last_step(self) -> bool:
        """Whether it is promoted next."""
        return self.step == len(self.steps) - 1


@dataclass(frozen=True)
class Shadow:
    """A version on which requests are run once more; fields and units as in lepton.v1.Shadow, defaults resolved."""

    version: str
    number: int
    digest: str
    percent: float
    tolerance: float
    window: int


@dataclass(frozen=True)
class Standby:
    """The version served before, while it stays loaded.

    Args:
        version: name@number.
        number: of the version.
        digest: of the version.
        expire_time: until when it stays.
    """

    version: str
    number: int
    digest: str
    expire_time: datetime


@dataclass(frozen=True)
class Release:
    """What stands beside a deployment's own version.

    Args:
        traffic: the versions of a split; empty for none.
        canary: the one that runs, or the last that ran.
        shadow: None for none.
        standby: None for none.
        previous: what was served before, as name@number; empty for nothing.
        windows: counts the windows over which versions were measured.
    """

    traffic: tuple[TrafficTarget, ...] = ()
    canary: Canary | None = None
    shadow: Shadow | None = None
    standby: Standby | None = None
    previous: str = ""
    windows: int = 0

    @property
    def running_canary(self) -> Canary | None:
        """The canary that answers its share; None where none does."""
        return self.canary if self.canary is not None and self.canary.is_running else None

    def beside(self) -> list[tuple[str, int, str]]:
        """Return (version, number, digest) of all that stands beside the own version on purpose: no standby."""
        named: list[TrafficTarget | Canary | Shadow | None] = [*self.traffic, self.running_canary, self.shadow]
        return [(item.version, item.number, item.digest) for item in named if item is not None]
