"""Which version of a deployment answers a request that names none: pure.

Each request has a point from 0 to 100: a random one, or the hash of its sticky key. A version beside the deployment's
own takes the points from its start on, as many as its weight; the deployment's own takes the rest. So a key stays with
its version until a share moves past its point, and a share that grows only ever takes keys.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

_BITS = 53


class Role(Enum):
    """What a version is to its deployment; see lepton.v1.ReplicaRole."""

    SERVING = "serving"
    TARGET = "target"
    CANARY = "canary"
    SHADOW = "shadow"
    STANDBY = "standby"


# Who answers for all that no loaded version takes. A canary or a shadow never answers for others.
_FALLBACKS = (Role.SERVING, Role.STANDBY, Role.TARGET)


@dataclass(frozen=True)
class Route:
    """Which requests a version takes; fields and units as in lepton.v1.ReplicaRouting."""

    role: Role = Role.SERVING
    weight_percent: float = 0.0
    compare_percent: float = 0.0
    tolerance: float = 0.0
    window: int = 0
    start_percent: float = 0.0
    response_cache_bytes: int = 0


@dataclass(frozen=True)
class Split:
    """Who answers on one worker now.

    Args:
        incumbent: the number that takes what no other takes; None where nothing that may serves.
        shares: (start, end, number) of the others that serve, percent.
        compared: (number, percent) of those on which requests that the incumbent answered are run once more.
    """

    incumbent: int | None = None
    shares: tuple[tuple[float, float, int], ...] = ()
    compared: tuple[tuple[int, float], ...] = ()

    def choose(self, point: float) -> int | None:
        """Return the number that takes a point, 0 to 100."""
        for start, end, number in self.shares:
            if start <= point < end:
                return number
        return self.incumbent


def split_of(routes: Mapping[int, Route], epochs: Mapping[int, int]) -> Split:
    """Return who answers.

    Args:
        routes: by number; one that lacks serves as the deployment's own.
        epochs: of the placements of those that serve, by number: among several of one role the latest placed counts.
    """
    latest_first = sorted(epochs, key=lambda number: (-epochs[number], number))
    roles = {number: routes.get(number, Route()) for number in latest_first}
    incumbent = next(
        (number for role in _FALLBACKS for number in latest_first if roles[number].role is role),
        None,
    )
    shares = tuple(
        (route.start_percent, route.start_percent + route.weight_percent, number)
        for number, route in roles.items()
        if route.role in (Role.TARGET, Role.CANARY) and route.weight_percent > 0 and number != incumbent
    )
    compared = tuple(
        (number, route.compare_percent)
        for number, route in roles.items()
        if route.role in (Role.SHADOW, Role.CANARY) and route.compare_percent > 0
    )
    return Split(incumbent, shares, compared)


def point_of(workspace: str, deployment: str, key: str) -> float:
    """Return the point of a sticky key, 0 to 100 (excluded): the same on every worker."""
    text = f"{workspace}\0{deployment}\0{key}".encode()
    digest = hashlib.blake2b(text, digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> (64 - _BITS)) / (1 << _BITS) * 100.0
