"""One Ray cluster for all tests here."""

from collections.abc import Iterator

import pytest

from tests.training.ray.cluster import RayCluster, running_cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[RayCluster]:
    """A head, and three nodes of one core each."""
    with running_cluster() as running:
        yield running
