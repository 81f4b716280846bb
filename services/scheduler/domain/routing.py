"""Which requests a replica takes, as owners say: kept with its placement, and told to its worker."""

from dataclasses import dataclass
from enum import Enum


class Role(Enum):
    """What a version is to its deployment; see lepton.v1.ReplicaRole."""

    SERVING = "serving"
    TARGET = "target"
    CANARY = "canary"
    SHADOW = "shadow"
    STANDBY = "standby"


@dataclass(frozen=True)
class Routing:
    """Which requests a replica takes; fields and units as in lepton.v1.ReplicaRouting."""

    role: Role = Role.SERVING
    weight_percent: float = 0.0
    compare_percent: float = 0.0
    tolerance: float = 0.0
    window: int = 0
    start_percent: float = 0.0
    response_cache_bytes: int = 0
    is_batching_off: bool = False
