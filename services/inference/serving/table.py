"""Who is served: a worker's models by workspace and deployment, swapped whole: no request sees half a change."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from servicekit.errors import NotFound, Unavailable
from services.inference.serving.model import LoadedModel


@dataclass(frozen=True)
class Entry:
    """One deployment on this worker.

    Args:
        models: by number, those that serve.
        waiting: numbers that are placed and do not serve yet, with the reason.
        aliases: number by alias.
    """

    models: Mapping[int, LoadedModel] = field(default_factory=dict)
    waiting: Mapping[int, str] = field(default_factory=dict)
    aliases: Mapping[str, int] = field(default_factory=dict)

    @property
    def current(self) -> LoadedModel | None:
        """Who answers where no version is named: the latest placed of those that serve."""
        return max(self.models.values(), key=lambda model: model.epoch, default=None)


class ServingTable:
    """The deployments of a worker."""

    def __init__(self) -> None:
        self._entries: dict[tuple[str, str], Entry] = {}

    def set(self, workspace: str, deployment: str, entry: Entry) -> None:
        """Replace what a deployment serves; an empty entry removes it."""
        entries = dict(self._entries)
        if entry.models or entry.waiting:
            entries[workspace, deployment] = entry
        else:
            entries.pop((workspace, deployment), None)
        self._entries = entries

    def get(self, workspace: str, deployment: str) -> Entry:
        """Return a deployment's entry; an empty one where there is none."""
        return self._entries.get((workspace, deployment), Entry())

    def deployments(self) -> list[tuple[str, str]]:
        """Return every (workspace, deployment)."""
        return list(self._entries)

    def of_workspace(self, workspace: str) -> Iterator[tuple[str, Entry]]:
        """Yield a workspace's deployments by name."""
        for (owner, name), entry in sorted(self._entries.items()):
            if owner == workspace:
                yield name, entry

    def find(self, workspace: str, name: str, version: str) -> LoadedModel:
        """Return who answers a request.

        Args:
            workspace: the caller's.
            name: the deployment.
            version: a number, an alias, or empty for the deployment's own.

        Raises:
            NotFound: there is no such model or version.
            Unavailable: it is placed here and does not serve yet.
        """
        entry = self._entries.get((workspace, name))
        if entry is None:
            raise NotFound(f"Request for unknown model: '{name}' is not found", reason="MODEL_NOT_FOUND")
        if not version:
            if entry.current is not None:
                return entry.current
            raise Unavailable(f"model '{name}' is still loading", reason="MODEL_LOADING")
        number = int(version) if version.isdecimal() else entry.aliases.get(version, -1)
        model = entry.models.get(number)
        if model is not None:
            return model
        if number in entry.waiting:
            raise Unavailable(f"model '{name}' version {version} is still loading", reason="MODEL_LOADING")
        raise NotFound(f"Request for unknown model: '{name}' version {version} is not found", reason="MODEL_NOT_FOUND")
