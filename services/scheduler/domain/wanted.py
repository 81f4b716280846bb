"""What owners want, as last heard: their lists are the truth, events between lists make it quicker."""

from collections.abc import Hashable, Iterable
from dataclasses import replace
from typing import Generic, Protocol, TypeVar

from services.scheduler.domain.cluster import (
    DeploymentKey,
    JobKey,
    JobPlacement,
    JobState,
    ReplicaPlacement,
    WantedDeployment,
    WantedJob,
)
from services.scheduler.domain.routing import Role

_Key = TypeVar("_Key", bound=Hashable)


class _Sequenced(Protocol):
    @property
    def sequence(self) -> int: ...


_Item = TypeVar("_Item", bound=_Sequenced)


class Wanted(Generic[_Key, _Item]):
    """Items by key, from lists and events that may overtake each other."""

    def __init__(self) -> None:
        self._items: dict[_Key, _Item] = {}
        self._touched: set[_Key] = set()
        self.is_listed = False

    def begin_listing(self) -> None:
        """Remember from here on what events change: a list that began before them must not undo them."""
        self._touched = set()

    def finish_listing(self, items: dict[_Key, _Item]) -> None:
        """Take a list as the truth, but for what events changed meanwhile."""
        kept = {key: self._items[key] for key in self._touched if key in self._items}
        self._items = {key: item for key, item in items.items() if key not in self._touched} | kept
        self.is_listed = True

    def put(self, key: _Key, item: _Item) -> None:
        """Take an item from an event; one that is older than what is known is ignored."""
        known = self._items.get(key)
        if known is None or item.sequence >= known.sequence:
            self._items[key] = item
            self._touched.add(key)

    def drop(self, key: _Key) -> None:
        """Forget an item that an event ended."""
        self._items.pop(key, None)
        self._touched.add(key)

    def forget(self) -> None:
        """Know nothing, as at the start."""
        self._items, self._touched, self.is_listed = {}, set(), False

    def items(self) -> dict[_Key, _Item]:
        """Return what is known."""
        return dict(self._items)


def deployments_or_placed(
    wanted: Wanted[DeploymentKey, WantedDeployment], placements: Iterable[ReplicaPlacement]
) -> tuple[WantedDeployment, ...]:
    """Return the wanted deployments; until they were listed once, what is placed counts as wanted.

    An owner that is away at the scheduler's start must not look like one that wants nothing.
    """
    found = wanted.items()
    if not wanted.is_listed:
        kept: dict[DeploymentKey, WantedDeployment] = {}
        # The deployment's own version is the latest placed of those that serve as such.
        for placement in sorted(placements, key=lambda p: (p.routing.role is not Role.SERVING, -p.epoch)):
            owner, version = placement.key.owner, _as_wanted(placement)
            present = kept.setdefault(owner, version)
            if placement.routing.role is Role.SERVING or present.key == version.key or present.companion(version.key):
                continue
            kept[owner] = replace(present, companions=(*present.companions, version))
        found = {**kept, **found}
    return tuple(found.values())


def _as_wanted(placement: ReplicaPlacement) -> WantedDeployment:
    return WantedDeployment(
        placement.key, 1, placement.resources, placement.digest, placement.aliases, routing=placement.routing
    )


def jobs_or_placed(wanted: Wanted[JobKey, WantedJob], placements: Iterable[JobPlacement]) -> tuple[WantedJob, ...]:
    """Return the wanted jobs; until they were listed once, what is placed counts as wanted."""
    found = wanted.items()
    if not wanted.is_listed:
        for p in placements:
            found.setdefault(p.key, WantedJob(p.key, p.resources, p.placed_at, JobState.RUNNING, p.worker, p.epoch))
    return tuple(found.values())
