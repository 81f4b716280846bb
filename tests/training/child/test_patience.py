"""Neighbours that are away for a while are waited for."""

import pytest

from servicekit.errors import InvalidArgument, Unavailable
from services.training.child.patience import Patience


class _Neighbour:
    """Is away for some calls."""

    def __init__(self, away: int) -> None:
        self.away = away
        self.calls = 0

    async def call(self) -> str:
        self.calls += 1
        if self.calls <= self.away:
            raise Unavailable("restarting")
        return "here"


async def test_answer_comes_once_the_neighbour_is_back() -> None:
    neighbour = _Neighbour(2)
    assert await Patience(10.0, lambda: None)(neighbour.call) == "here"
    assert neighbour.calls == 3


async def test_patience_ends() -> None:
    with pytest.raises(Unavailable):
        await Patience(0.6, lambda: None)(_Neighbour(100).call)


async def test_what_a_repeat_cannot_mend_is_not_repeated() -> None:
    calls = []

    async def call() -> None:
        calls.append(1)
        raise InvalidArgument("wrong")

    with pytest.raises(InvalidArgument):
        await Patience(10.0, lambda: None)(call)
    assert len(calls) == 1


async def test_job_that_is_to_stop_waits_no_longer() -> None:
    class Stopping(Exception):
        pass

    neighbour = _Neighbour(100)

    def check() -> None:
        if neighbour.calls == 1:
            raise Stopping

    with pytest.raises(Stopping):
        await Patience(10.0, check)(neighbour.call)
    assert neighbour.calls == 1
