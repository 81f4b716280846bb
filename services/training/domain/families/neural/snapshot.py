"""A network's training between two steps, as bytes: safetensors, with all that is no tensor as JSON in their header."""

import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

_HEADER = struct.Struct("<Q")
_STATE = "state"


@dataclass(frozen=True)
class Position:
    """Where a training stands: before a batch.

    Args:
        phase: of the fit: pretraining or training.
        epoch: passes done.
        batch: batches done of the present pass.
        least: loss of the best weights so far on the rows aside; None before the first.
        loss: sum over rows of the present pass, so far.
        rows: of that sum.
        batch_size: rows of a batch: batches of another size are others.
    """

    phase: str
    epoch: int
    batch: int
    least: float | None
    loss: float
    rows: int
    batch_size: int


@dataclass(frozen=True)
class Snapshot:
    """All of a training between two steps.

    Args:
        position: where it stands.
        network: its weights and buffers, by name; without weights that stay as they are.
        optimizer, schedule, stopping: as their state_dict() gives them; stopping is empty without early stopping.
        best: the weights that are kept at the end, where rows aside decide.
        random: states of the random number generators, by device.
    """

    position: Position
    network: Mapping[str, Tensor]
    optimizer: Mapping[str, Any]
    schedule: Mapping[str, Any]
    stopping: Mapping[str, Any]
    best: Mapping[str, Tensor] | None
    random: Mapping[str, Tensor]

    def to_bytes(self) -> bytes:
        """Return it as bytes that hold no code. Copies all tensors."""
        tensors = {f"network.{name}": value for name, value in self.network.items()}
        tensors |= {f"best.{name}": value for name, value in (self.best or {}).items()}
        tensors |= {f"random.{name}": value for name, value in self.random.items()}
        plain: dict[str, dict[str, Any]] = {}
        for place, values in self.optimizer["state"].items():
            for name, value in values.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer.{place}.{name}"] = value
                else:
                    plain.setdefault(str(place), {})[name] = value
        state = {
            "position": asdict(self.position),
            "optimizer": {"state": plain, "param_groups": self.optimizer["param_groups"]},
            "schedule": dict(self.schedule),
            "stopping": {name: _number(value) for name, value in self.stopping.items()},
            "has_best": self.best is not None,
        }
        # Cloned: tensors that share memory are refused.
        copies = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
        return save(copies, metadata={_STATE: json.dumps(state, sort_keys=True)})

    @classmethod
    def from_bytes(cls, content: bytes) -> "Snapshot":
        """Return the one that gave some bytes."""
        state = _header(content)
        parts: dict[str, dict[str, Tensor]] = {"network": {}, "best": {}, "random": {}, "optimizer": {}}
        for name, value in load(content).items():
            part, _, rest = name.partition(".")
            parts[part][rest] = value
        moments: dict[int, dict[str, Any]] = {
            int(place): dict(values) for place, values in state["optimizer"]["state"].items()
        }
        for name, value in parts["optimizer"].items():
            place, _, key = name.partition(".")
            moments.setdefault(int(place), {})[key] = value
        return cls(
            Position(**state["position"]),
            parts["network"],
            {"state": moments, "param_groups": state["optimizer"]["param_groups"]},
            state["schedule"],
            {
                name: torch.tensor(value) if isinstance(value, float) else value
                for name, value in state["stopping"].items()
            },
            parts["best"] if state["has_best"] else None,
            parts["random"],
        )


def position_of(content: bytes) -> Position:
    """Return where the training stood that a snapshot's bytes are of, without reading its tensors."""
    return Position(**_header(content)["position"])


def _header(content: bytes) -> dict[str, Any]:
    (size,) = _HEADER.unpack_from(content)
    header = json.loads(content[_HEADER.size : _HEADER.size + size])
    state: dict[str, Any] = json.loads(header["__metadata__"][_STATE])
    return state


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, Tensor) else value
