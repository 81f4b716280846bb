"""Who is served: a worker's models by workspace and deployment, swapped whole: no request sees half a change."""

import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from servicekit.errors import NotFound, Unavailable
from services.inference.serving.model import LoadedModel
from services.inference.serving.routing import Route, Split, point_of, split_of

# Longer than any number or alias.
_LONGEST_VERSION = 63
# As versions are written everywhere: 01 is none.
_NUMBER = re.compile(r"[1-9][0-9]*")
# When a caller may try again while a model is loaded.
_RETRY_SECONDS = 1.0


@dataclass(frozen=True)
class Entry:
    """One deployment on this worker.

    Args:
        models: by number, those that serve.
        waiting: numbers that are placed and do not serve yet, with what went wrong; an empty text while loading.
        aliases: number by alias.
        leaving: numbers that take no new requests, while their last ones end.
        routes: which requests each number takes, of those that name no version.
    """

    models: Mapping[int, LoadedModel] = field(default_factory=dict)
    waiting: Mapping[int, str] = field(default_factory=dict)
    aliases: Mapping[str, int] = field(default_factory=dict)
    leaving: frozenset[int] = frozenset()
    routes: Mapping[int, Route] = field(default_factory=dict)

    @cached_property
    def split(self) -> Split:
        """Who answers where no version is named; once, for an entry is replaced with every change."""
        return split_of(self.routes, {number: model.epoch for number, model in self.models.items()})

    @property
    def is_shared(self) -> bool:
        """Whether versions beside the deployment's own answer, or are compared with it."""
        return bool(self.split.shares or self.split.compared)

    @property
    def current(self) -> LoadedModel | None:
        """Who answers where no version is named, and no other version takes the request."""
        number = self.split.incumbent
        return None if number is None else self.models[number]


class ServingTable:
    """The deployments of a worker.

    Args:
        is_told: whether what is not here does not exist. Until a worker's first assignment came that would be a guess.
    """

    def __init__(self, *, is_told: bool = True) -> None:
        self._entries: dict[tuple[str, str], Entry] = {}
        self.is_told = is_told
        # Counts changes: who looked something up sees whether it still holds.
        self.generation = 0

    def set(self, workspace: str, deployment: str, entry: Entry) -> None:
        """Replace what a deployment serves; an empty entry removes it."""
        entries = dict(self._entries)
        if entry.models or entry.waiting or entry.leaving:
            entries[workspace, deployment] = entry
        else:
            entries.pop((workspace, deployment), None)
        self._entries = entries
        self.generation += 1

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
        if entry is None or not (entry.models or entry.waiting):
            raise self._unknown(f"'{name}'")
        if not version:
            if entry.current is not None:
                return entry.current
            raise _waiting(f"'{name}'", next((why for why in entry.waiting.values() if why), ""))
        number = _number(version, entry)
        model = entry.models.get(number)
        if model is not None:
            return model
        if number in entry.waiting:
            raise _waiting(f"'{name}' version {version}", entry.waiting[number])
        raise self._unknown(f"'{name}' version {version[:_LONGEST_VERSION]}")

    def route(self, workspace: str, name: str, version: str, sticky_key: str = "") -> LoadedModel:
        """Return who answers a prediction: as `find`, but a request that names no version may go to one with a share.

        Args:
            workspace: the caller's.
            name: the deployment.
            version: as for `find`.
            sticky_key: requests of the same key go to the same version, as long as shares do not move past it.

        Raises:
            NotFound, Unavailable: as `find`.
        """
        entry = self._entries.get((workspace, name))
        if version or entry is None or not entry.split.shares:
            return self.find(workspace, name, version)
        point = point_of(workspace, name, sticky_key) if sticky_key else random.random() * 100.0
        number = entry.split.choose(point)
        return self.find(workspace, name, "") if number is None else entry.models[number]

    def _unknown(self, what: str) -> NotFound | Unavailable:
        if not self.is_told:
            return Unavailable(
                f"model {what} is not here: this worker just started, or is being drained",
                reason="WORKER_NOT_READY",
                retry_seconds=_RETRY_SECONDS,
            )
        return NotFound(f"Request for unknown model: {what} is not found", reason="MODEL_NOT_FOUND")


def _number(version: str, entry: Entry) -> int:
    if len(version) <= _LONGEST_VERSION and _NUMBER.fullmatch(version):
        return int(version)
    return entry.aliases.get(version, -1)


def _waiting(what: str, why: str) -> Unavailable:
    if why:
        message = f"model {what} could not be loaded, and is tried again: {why}"
        return Unavailable(message, reason="MODEL_NOT_LOADED", retry_seconds=_RETRY_SECONDS)
    return Unavailable(f"model {what} is still loading", reason="MODEL_LOADING", retry_seconds=_RETRY_SECONDS)
