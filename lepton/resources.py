"""What a replica needs: cores, memory with a unit, GPUs.

declared_resources(cores=0.5, memory="512MiB")
"""

import math
import operator
import re
from collections.abc import Mapping
from typing import Any

from lepton import errors
from lepton.v1 import common_pb2

__all__ = ["checked_replicas", "declared_resources", "describe", "parse_memory", "with_declared"]

_MEMORY = re.compile(r"\s*(?P<amount>\d+(?:\.\d+)?)\s*(?P<unit>[a-zA-Z]*)\s*")
_UNITS = {"": 1, "b": 1}
for _power, _prefix in enumerate("kmgt", start=1):
    _UNITS |= {f"{_prefix}ib": 1024**_power, f"{_prefix}i": 1024**_power, f"{_prefix}b": 1000**_power}
_LEAST_MEMORY_BYTES, _MOST_MEMORY_BYTES = 1 << 20, 1 << 50
_MOST_UNITS = 1024.0
_MOST_REPLICAS = 1000
_NAMES = ("cores", "memory_bytes", "gpus")


def declared_resources(
    resources: Mapping[str, float] | None = None,
    *,
    cores: float | None = None,
    memory: int | str | None = None,
    gpus: float | None = None,
) -> dict[str, float]:
    """Return what is declared of a replica, by the names of lepton.v1.Resources; only what was given.

    Args:
        resources: by those names.
        cores: processor cores, fractions allowed; 0 to follow what is measured.
        memory: bytes, or a text with a unit such as 512MiB or 2GiB; 0 to follow what is measured.
        gpus: accelerators, fractions allowed.

    Raises:
        InvalidArgument: a name is unknown or given twice, or a value is no amount or out of range.
    """
    given: dict[str, Any] = dict(resources or {})
    for name in given:
        if name not in _NAMES:
            raise errors.InvalidArgument(
                f"unknown resource {name!r}: expected {', '.join(_NAMES)}", reason="UNKNOWN_RESOURCE"
            )
    for name, value in zip(_NAMES, (cores, memory, gpus), strict=True):
        if value is not None and name in given:
            raise errors.InvalidArgument(f"{name} is given twice: in resources, and by itself", reason="BAD_RESOURCES")
        if value is not None:
            given[name] = value
    return {
        name: parse_memory(value) if name == "memory_bytes" else _amount(name, value) for name, value in given.items()
    }


def with_declared(present: common_pb2.Resources, given: Mapping[str, float]) -> common_pb2.Resources:
    """Return resources with some of them changed; the others stay."""
    values = {"cores": present.cores, "memory_bytes": present.memory_bytes, "gpus": present.gpus} | dict(given)
    return common_pb2.Resources(cores=values["cores"], memory_bytes=int(values["memory_bytes"]), gpus=values["gpus"])


def checked_replicas(replicas: int | None) -> int | None:
    """Return a number of replicas; None where none is given.

    Raises:
        InvalidArgument: it is no whole number from 1 to 1,000.
    """
    if replicas is None:
        return None
    try:
        count = operator.index(replicas)
    except TypeError:
        count = 0
    if isinstance(replicas, bool) or not 1 <= count <= _MOST_REPLICAS:
        raise errors.InvalidArgument(
            f"replicas must be a whole number from 1 to {_MOST_REPLICAS:,}: got {replicas!r}", reason="BAD_RESOURCES"
        )
    return count


def parse_memory(memory: int | str) -> int:
    """Return an amount of memory in bytes.

    Args:
        memory: bytes, or a text with a unit: KiB, MiB, GiB, TiB (powers of 1,024), or KB, MB, GB, TB (of 1,000).

    Raises:
        InvalidArgument: it is no amount, or neither 0 nor from 1 MiB to 1 PiB.
    """
    match = _MEMORY.fullmatch(str(memory)) if not isinstance(memory, bool) else None
    unit = _UNITS.get(match["unit"].lower()) if match is not None else None
    if match is None or unit is None:
        raise errors.InvalidArgument(
            f"memory must be a number of bytes or an amount with a unit, such as 512MiB or 2GiB: got {memory!r}",
            reason="BAD_RESOURCES",
        )
    # A fraction of a byte is a forgotten unit, not "as it is measured".
    size_bytes = math.ceil(min(float(match["amount"]) * unit, 2.0 * _MOST_MEMORY_BYTES))
    if size_bytes and not _LEAST_MEMORY_BYTES <= size_bytes <= _MOST_MEMORY_BYTES:
        raise errors.InvalidArgument(
            f"memory must be 0 (as it is measured), or from 1MiB to 1024TiB: got {memory!r}",
            reason="BAD_RESOURCES",
        )
    return size_bytes


def describe(resources: common_pb2.Resources) -> str:
    """Return resources for people, such as "0.5 cores, 512 MiB memory"."""
    parts = [f"{resources.cores:g} cores", f"{resources.memory_bytes / (1 << 20):,.4g} MiB memory"]
    return ", ".join([*parts, f"{resources.gpus:g} GPUs"] if resources.gpus else parts)


def _amount(name: str, value: Any) -> float:
    try:
        amount = math.nan if isinstance(value, bool | str) else float(value)
    except (TypeError, ValueError):
        amount = math.nan
    if not 0 <= amount <= _MOST_UNITS:
        raise errors.InvalidArgument(
            f"{name} must be a number from 0 to {_MOST_UNITS:,.0f}: got {value!r}", reason="BAD_RESOURCES"
        )
    return amount
