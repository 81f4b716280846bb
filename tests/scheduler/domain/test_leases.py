import pytest

from servicekit.errors import Aborted
from services.scheduler.domain.leases import Leases


def test_a_lease_lapses_when_nobody_renews_it() -> None:
    leases = Leases(5)
    leases.grant("w1", 1, now=0)
    leases.grant("w2", 2, now=0)
    leases.renew("w2", 2, now=4)
    assert leases.next_deadline() == 5
    assert leases.lapsed(5) == [("w1", 1)]
    assert leases.lapsed(9) == [("w1", 1), ("w2", 2)]


def test_a_stale_epoch_cannot_renew() -> None:
    leases = Leases(5)
    leases.grant("w1", 1, now=0)
    leases.grant("w1", 2, now=1)
    with pytest.raises(Aborted):
        leases.renew("w1", 1, now=2)
    leases.end("w1")
    with pytest.raises(Aborted):
        leases.renew("w1", 2, now=2)


def test_a_worker_that_is_heard_of_keeps_its_lease_but_not_one_of_its_former_life() -> None:
    leases = Leases(5)
    leases.grant("w1", 2, now=0)
    assert not leases.extend("w1", 1, now=4)
    assert leases.next_deadline() == 5
    assert leases.extend("w1", 2, now=4)
    assert leases.next_deadline() == 9
    assert not leases.extend("stranger", 1, now=4)


def test_grace_is_not_cut_short_by_a_renewal() -> None:
    leases = Leases(5)
    leases.grant("w1", 1, now=0, grace_seconds=10)
    leases.renew("w1", 1, now=1)
    assert leases.lapsed(14) == []


def test_a_process_that_stood_still_blames_nobody() -> None:
    leases = Leases(5)
    leases.grant("w1", 1, now=0)
    leases.postpone(60)
    assert leases.lapsed(64) == []
