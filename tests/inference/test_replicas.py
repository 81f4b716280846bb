"""What a worker holds while assignments follow each other quickly: real models of a real registry, no scheduler."""

import contextlib
import gc
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from lepton.v1 import registry_pb2, scheduler_pb2
from servicekit.rpc import open_channel
from services.inference.adapters.deployments_client import DeploymentsClient
from services.inference.adapters.registry_client import RegistryClient
from services.inference.front import answering
from services.inference.serving.forwarding import Directory, Forwarder
from services.inference.serving.replicas import Replicas
from services.inference.serving.response_cache import ResponseCache
from services.inference.serving.table import Entry, ServingTable
from services.inference.settings import WorkerSettings
from tests.inference.house import House, until
from tests.support.living import living


@dataclass
class Standing:
    """Replicas that are told what to hold by the test.

    Args:
        replicas: they.
        table: what they serve.
    """

    replicas: Replicas
    table: ServingTable

    async def apply(self, *wanted: registry_pb2.Version, cache_bytes: int = 0) -> None:
        """Hold versions for the deployment `d`, and nothing else."""
        assignment = scheduler_pb2.Assignment()
        for version in wanted:
            replica = assignment.replicas.add(
                workspace="default",
                deployment="d",
                model=version.model,
                number=version.number,
                digest=version.digest,
            )
            replica.routing.response_cache_bytes = cache_bytes
        await self.replicas.apply(assignment)

    @property
    def entry(self) -> Entry:
        """What stands in the table."""
        return self.table.get("default", "d")

    async def serves(self, version: registry_pb2.Version) -> None:
        """Wait until a version serves."""

        async def is_so() -> bool:
            model = self.entry.models.get(version.number)
            return model is not None and model.digest == version.digest

        await until(is_so, "the version to serve")

    async def is_empty(self) -> bool:
        """Return whether nothing is left."""
        return not self.table.deployments() and not self.replicas.holding().replicas


@pytest.fixture
async def standing(registry_house: House) -> AsyncIterator[Standing]:
    """Replicas beside a registry alone."""
    settings = WorkerSettings.model_validate(registry_house.environment("inference"))
    table = ServingTable(is_told=False)
    async with contextlib.AsyncExitStack() as stack:
        registry = await stack.enter_async_context(
            open_channel(f"localhost:{registry_house.registry.private_port}", settings)
        )
        nowhere = await stack.enter_async_context(open_channel("127.0.0.1:1", settings))
        forwarder = Forwarder(Directory("w"), lambda _: nowhere)
        parts = stack.enter_context(answering(settings, table, forwarder, DeploymentsClient(nowhere)))
        replicas = Replicas(RegistryClient(registry), table, parts.servicer, parts.batcher, 1)
        yield Standing(await stack.enter_async_context(replicas), table)


async def test_nothing_is_left_of_a_number_whose_model_was_to_be_replaced_while_it_drained(
    registry_house: House, standing: Standing
) -> None:
    first = await registry_house.developer.register("one")
    second = await registry_house.developer.register("other")
    assert first.number == second.number
    await standing.apply(first)
    await standing.serves(first)
    model = standing.entry.models[first.number]
    model.held += 1
    await standing.apply()
    await standing.apply(second)
    await standing.apply()
    assert not await standing.is_empty()
    model.held -= 1
    await until(standing.is_empty, "the last of it to go")


async def test_answers_of_a_deployment_that_is_gone_are_not_kept(registry_house: House, standing: Standing) -> None:
    version = await registry_house.developer.register("one")
    await standing.apply(version, cache_bytes=1 << 20)
    await standing.serves(version)
    assert _caches() == 1
    await standing.apply()
    await until(standing.is_empty, "the replica to go")
    assert _caches() == 0


def _caches() -> int:
    gc.collect()
    return sum(1 for _ in living(ResponseCache))
