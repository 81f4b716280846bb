"""What a worker asks its measuring child: light, for both load it."""

import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from services.inference.domain.tuning import TuningMode, Wish
from services.inference.plans.candidates import Hardware

# Before each frame, and before the answer.
LENGTH = struct.Struct(">I")
# In the place of a frame's length: the rows could not be read to their end.
BROKEN = 0xFFFFFFFF


@dataclass(frozen=True)
class Source:
    """Where evaluation rows are from.

    Args:
        dataset: the version, name@number.
        target: the column of labels or values; empty where nobody said.
        rows: of the dataset version.
        seed: of the training run that held a share of the rows out; None where all rows may be judged on.
        classes: of the model, in its order; with a seed, the held-out share is drawn from each.
        first: rows from the beginning that may be judged on; 0 for all.
    """

    dataset: str
    target: str
    rows: int
    seed: int | None = None
    classes: tuple[str, ...] = ()
    first: int = 0

    @property
    def needs_labels(self) -> bool:
        """Whether the labels of all rows are needed to draw those held out."""
        return self.seed is not None and bool(self.classes)


@dataclass(frozen=True)
class Header:
    """The first line of a question.

    Args:
        candidate: the plan to build again; empty to search for the best one.
        hardware: that it runs on.
        wish: how far to go.
        task, classes: of the signature.
        seconds: that a search may take.
        memory_bytes: that the process may write to.
        graph_bytes: the length of the graph that follows.
        source: where the rows that follow are from; None for no rows.
        message: why there are none, for people.
    """

    candidate: str
    hardware: Hardware
    wish: Wish
    task: str
    classes: tuple[str, ...]
    seconds: float
    memory_bytes: int
    graph_bytes: int
    source: Source | None
    message: str


def frame(chunk: bytes) -> bytes:
    """Return a chunk of rows behind its length; an empty one ends a table."""
    return LENGTH.pack(len(chunk)) + chunk


def write_header(header: Header) -> bytes:
    """Return the line that says it."""
    plain = asdict(header)
    plain["wish"]["mode"] = header.wish.mode.value
    return json.dumps(plain).encode() + b"\n"


def read_header(line: bytes) -> Header:
    """Return what a line says."""
    plain: dict[str, Any] = json.loads(line)
    wish = plain["wish"]
    return Header(
        **_without(plain, "hardware", "wish", "classes", "source"),
        hardware=Hardware(**plain["hardware"]),
        wish=Wish(TuningMode(wish["mode"]), wish["max_quality_loss_points"], wish["dataset"]),
        classes=tuple(plain["classes"]),
        source=_source(plain["source"]),
    )


def _source(plain: Mapping[str, Any] | None) -> Source | None:
    return None if plain is None else Source(**_without(plain, "classes"), classes=tuple(plain["classes"]))


def _without(plain: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in plain.items() if name not in names}
