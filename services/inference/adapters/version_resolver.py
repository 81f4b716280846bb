"""The registry port on the registry's RPCs."""

from services.inference.adapters.registry_client import RegistryClient
from services.inference.convert import version_from_proto
from services.inference.domain.deployments import ModelVersion


class VersionResolver:
    """Resolves references as the caller.

    Args:
        registry: the registry's client.
    """

    def __init__(self, registry: RegistryClient) -> None:
        self._registry = registry

    async def resolve(self, ref: str) -> ModelVersion:
        """Return the version that a reference means.

        Raises:
            NotFound: there is none.
        """
        return version_from_proto(await self._registry.version(ref))
