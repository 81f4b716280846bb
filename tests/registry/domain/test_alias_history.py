"""Any sequence of promotions, rollbacks and deletions leaves an alias where a plain list of moves says it is."""

import asyncio
import uuid
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from servicekit.database import open_database
from servicekit.errors import Aborted, FailedPrecondition, LeptonError, NotFound
from servicekit.paging import Page
from servicekit.state import State
from services.registry.adapters.repository import SqlRepository
from services.registry.adapters.tables import kit
from services.registry.domain import registry
from services.registry.domain.aliases import Alias
from services.registry.domain.uploads import settle
from services.registry.domain.versions import Verdict
from tests.registry.versions import declare

_VERSIONS = 4
_etags = st.sampled_from(["any", "seen", "stale", "absent"])
_numbers = st.integers(1, _VERSIONS)


class Histories(RuleBasedStateMachine):
    """One alias of a model of the example's own, and the moves that it must have made."""

    runner: asyncio.Runner
    store: State[SqlRepository]

    def __init__(self) -> None:
        super().__init__()
        self.model = f"m{uuid.uuid4().hex}"
        self.moves: list[tuple[int, int]] = []
        self.seen: list[str] = []
        self.deleted: set[int] = set()
        self.runner.run(self._prepare())

    async def _prepare(self) -> None:
        async with self.store.writing() as repository:
            for number in range(1, _VERSIONS + 1):
                await registry.create_version(repository, "w", self.model, declare(), 100)
                await settle(repository, "w", f"{self.model}@{number}", Verdict())

    @property
    def at(self) -> int:
        """Where the alias is; 0 for nowhere."""
        return self.moves[-1][1] if self.moves else 0

    def _etag(self, kind: str) -> str:
        chosen = {"any": "", "absent": "absent", "stale": "0" * 32}
        return chosen.get(kind, self.seen[-1] if self.seen else "1" * 32)

    def _is_current(self, kind: str) -> bool:
        return kind == "any" or (kind == "absent" and not self.at) or (kind == "seen" and bool(self.at))

    @rule(number=_numbers, etag=_etags)
    def promote(self, number: int, etag: str) -> None:
        async def act() -> Alias:
            async with self.store.writing() as repository:
                ref = f"{self.model}@{number}"
                return await registry.promote(repository, "w", ref, "a", self._etag(etag), "me")

        if number in self.deleted:
            self._refused(act(), NotFound)
        elif not self._is_current(etag):
            self._refused(act(), Aborted)
        else:
            self._moved(self.runner.run(act()), number)

    @rule(etag=_etags)
    def roll_back(self, etag: str) -> None:
        async def act() -> Alias:
            async with self.store.writing() as repository:
                return await registry.roll_back(repository, "w", self.model, "a", self._etag(etag), "me")

        if not self.at:
            self._refused(act(), NotFound)
        elif not self._is_current(etag):
            self._refused(act(), Aborted)
        elif not self.moves[-1][0] or self.moves[-1][0] in self.deleted:
            self._refused(act(), FailedPrecondition)
        else:
            self._moved(self.runner.run(act()), self.moves[-1][0])

    @rule(etag=_etags)
    def delete(self, etag: str) -> None:
        async def act() -> None:
            async with self.store.writing() as repository:
                await registry.delete_alias(repository, "w", self.model, "a", self._etag(etag), "me")

        if not self.at:
            self._refused(act(), NotFound)
        elif not self._is_current(etag):
            self._refused(act(), Aborted)
        else:
            self.runner.run(act())
            self.moves.append((self.at, 0))

    @rule(number=_numbers)
    def delete_version(self, number: int) -> None:
        async def act() -> None:
            async with self.store.writing() as repository:
                ref = f"{self.model}@{number}"
                version = await registry.find_version(repository, "w", ref)
                await repository.mark_deleting([version], datetime.now(UTC) + timedelta(hours=1))
                await registry.delete_version(repository, "w", ref)

        if number in self.deleted:
            self._refused(act(), NotFound)
        elif number == self.at:
            self._refused(act(), FailedPrecondition)
        else:
            self.runner.run(act())
            self.deleted.add(number)

    @invariant()
    def history_is_the_models(self) -> None:
        async def look() -> tuple[int, list[tuple[int, int]]]:
            async with self.store.reading() as repository:
                alias = await repository.find_alias("w", self.model, "a")
                moves, _ = await repository.list_moves("w", self.model, "a", Page(1000))
            return alias.number if alias else 0, [(move.from_number, move.to_number) for move in moves]

        assert self.runner.run(look()) == (self.at, self.moves[::-1])

    def _moved(self, alias: Alias, number: int) -> None:
        assert alias.number == number
        if number == self.at:
            assert alias.etag == self.seen[-1]
            return
        assert alias.etag not in self.seen
        self.seen.append(alias.etag)
        self.moves.append((self.at, number))

    def _refused(self, act: Coroutine[Any, Any, object], kind: type[LeptonError]) -> None:
        with pytest.raises(kind):
            self.runner.run(act)


@pytest.fixture
def machine(sqlite_url: str) -> Iterator[type[Histories]]:
    """The machine on a database that its examples share."""
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        database = runner.run(stack.enter_async_context(open_database(sqlite_url, "services.registry.migrations")))

        class OnDatabase(Histories):
            pass

        OnDatabase.runner = runner
        OnDatabase.store = State(database, kit, SqlRepository)
        yield OnDatabase
        runner.run(stack.aclose())


def test_alias_is_where_its_moves_say(machine: type[Histories]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=30, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
