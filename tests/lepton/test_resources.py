"""What a replica declares: amounts, units, ranges, and what an update keeps."""

from typing import Any

import numpy as np
import pytest

from lepton import errors
from lepton.resources import checked_replicas, declared_resources, describe, parse_memory, with_declared
from lepton.v1.common_pb2 import Resources


@pytest.mark.parametrize(
    ("given", "size_bytes"),
    [
        ("512MiB", 512 << 20),
        ("512Mi", 512 << 20),
        ("2GiB", 2 << 30),
        ("1.5 gib", 3 << 29),
        ("2GB", 2 * 10**9),
        ("1048576", 1 << 20),
        (1 << 20, 1 << 20),
        (np.int64(1 << 20), 1 << 20),
        (float(1 << 20), 1 << 20),
        (0, 0),
    ],
)
def test_memory_has_units(given: Any, size_bytes: int) -> None:
    assert parse_memory(given) == size_bytes


@pytest.mark.parametrize(
    "given", ["", "much", "512M", "-1GiB", "1GiB2", "512 bits", True, "1KiB", "2000000TiB", "nan", "0.5", "9" * 400]
)
def test_what_is_no_amount_of_memory_is_refused_with_an_example(given: Any) -> None:
    with pytest.raises(errors.InvalidArgument, match=r"memory must be .*(512MiB|1MiB)") as refusal:
        parse_memory(given)
    assert refusal.value.reason == "BAD_RESOURCES"


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), 1025, True, "two", [1]])
@pytest.mark.parametrize("name", ["cores", "gpus"])
def test_what_is_no_number_of_cores_or_gpus_is_refused(name: str, value: Any) -> None:
    with pytest.raises(errors.InvalidArgument, match=f"{name} must be a number from 0 to 1,024"):
        declared_resources(**{name: value})


def test_resources_are_said_one_way_or_the_other() -> None:
    half: Any = np.float32(0.5)
    assert declared_resources() == {}
    assert declared_resources({"cores": 0.5, "memory_bytes": 1 << 20}) == {"cores": 0.5, "memory_bytes": 1 << 20}
    assert declared_resources(cores=half, memory="1MiB", gpus=1) == {
        "cores": 0.5,
        "memory_bytes": 1 << 20,
        "gpus": 1.0,
    }
    with pytest.raises(errors.InvalidArgument, match="cores is given twice"):
        declared_resources({"cores": 1.0}, cores=2.0)
    with pytest.raises(errors.InvalidArgument, match="unknown resource 'memory'"):
        declared_resources({"memory": 1.0})


def test_what_is_not_given_stays_and_zero_is_measured_again() -> None:
    present = Resources(cores=1.0, memory_bytes=1 << 30, gpus=1.0)
    assert with_declared(present, {}) == present
    assert with_declared(present, {"cores": 2.0}) == Resources(cores=2.0, memory_bytes=1 << 30, gpus=1.0)
    assert with_declared(present, {"memory_bytes": 0}) == Resources(cores=1.0, gpus=1.0)


@pytest.mark.parametrize("value", [0, -1, 1001, 1.9, True, "2", float("nan")])
def test_replicas_are_a_whole_number_in_range(value: Any) -> None:
    with pytest.raises(errors.InvalidArgument, match="replicas must be a whole number from 1 to 1,000"):
        checked_replicas(value)
    whole: Any = np.int64(3)
    assert (checked_replicas(None), checked_replicas(whole)) == (None, 3)


def test_resources_read_as_people_write_them() -> None:
    assert describe(Resources(cores=0.002, memory_bytes=4 << 20)) == "0.002 cores, 4 MiB memory"
    assert describe(Resources(cores=2, memory_bytes=3 << 30, gpus=0.5)) == "2 cores, 3,072 MiB memory, 0.5 GPUs"
