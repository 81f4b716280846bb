"""The judge of canaries: what was measured, and what is to be done."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.domain.canary import Verdict, decide, likely_share
from services.inference.domain.measurements import BUCKETS, Measured, bucket_of
from services.inference.domain.release import Canary, CanaryState

_NOW = datetime(2026, 1, 1, tzinfo=UTC)
_CANARY = Canary(
    "m@2", 2, "d", 5.0, (5.0, 25.0, 50.0), 60.0, 100, 0.01, 1.5, 0.0, 10.0, 0.01, CanaryState.RUNNING, "", 1, _NOW, _NOW
)


def measured(
    requests: int, milliseconds: float = 10.0, seconds: float = 100.0, failed: int = 0, **more: Any
) -> Measured:
    """Return the counts of a version whose requests all took as long."""
    buckets = [0] * BUCKETS
    buckets[bucket_of(milliseconds / 1000)] = requests
    errors: Mapping[str, int] = {"MODEL_FAULT": failed} if failed else {}
    return Measured(1, seconds, requests, errors, requests * milliseconds / 1000, tuple(buckets), **more)


_STRICT = replace(_CANARY, min_agreement=0.98)
_TABLE: dict[str, tuple[Canary, Measured, Measured, Verdict, str]] = {
    "as good, its time over": (_CANARY, measured(900), measured(100), Verdict.STEP, "0.00% of 100"),
    "as good, at its last step": (
        replace(_CANARY, percent=50.0),
        measured(900),
        measured(900),
        Verdict.PROMOTE,
        "99th percentile",
    ),
    "too early": (_CANARY, measured(900), measured(100, seconds=59.0), Verdict.WAIT, "59 of 60 s"),
    "too few requests": (_CANARY, measured(900), measured(99), Verdict.WAIT, "99 of 100"),
    "too few of the other": (_CANARY, measured(99), measured(900), Verdict.WAIT, "present version: 99"),
    "no request at all": (_CANARY, Measured(), Measured(), Verdict.WAIT, "0 of 100"),
    "fails as often as the other": (
        _CANARY,
        measured(900, failed=90),
        measured(100, failed=10),
        Verdict.STEP,
        "10.00%",
    ),
    "fails a little more": (_CANARY, measured(1000), measured(1000, failed=10), Verdict.STEP, "1.00%"),
    "fails more": (_CANARY, measured(1000), measured(1000, failed=11), Verdict.ROLL_BACK, "error rate"),
    "fails all of a few": (_CANARY, measured(900), measured(8, failed=8), Verdict.ROLL_BACK, "MODEL_FAULT"),
    "fails one of a few, as chance may": (_CANARY, measured(900), measured(8, failed=1), Verdict.WAIT, "8 of 100"),
    "slower": (_CANARY, measured(900), measured(100, 20.0), Verdict.ROLL_BACK, "latency"),
    "slower, which nobody asks about": (
        replace(_CANARY, max_latency_ratio=0.0),
        measured(900),
        measured(100, 20.0),
        Verdict.STEP,
        "",
    ),
    "slower by what nobody notices": (_CANARY, measured(900, 0.2), measured(100, 0.9), Verdict.STEP, ""),
    "agrees": (_STRICT, measured(900), measured(100, compared=200, agreed=199), Verdict.STEP, "99.50% of answers"),
    "disagrees": (_STRICT, measured(900), measured(100, compared=200, agreed=190), Verdict.ROLL_BACK, "agreement"),
    "disagrees from the first": (_STRICT, measured(9), measured(3, compared=20), Verdict.ROLL_BACK, "agreement"),
    "fails to compare": (
        _STRICT,
        measured(900),
        measured(100, compared=190, agreed=190, compare_failed=10),
        Verdict.ROLL_BACK,
        "95.00% of 200",
    ),
    "not compared enough": (_STRICT, measured(900), measured(100, compared=9, agreed=9), Verdict.WAIT, "9 of 100"),
}


@pytest.mark.parametrize("case", _TABLE)
def test_verdict_and_what_it_says(case: str) -> None:
    canary, incumbent, found, verdict, text = _TABLE[case]
    decision = decide(canary, incumbent, found)
    assert (decision.verdict, text in decision.message) == (verdict, True), decision.message


def test_version_that_cannot_be_loaded_is_taken_back_at_once() -> None:
    decision = decide(_CANARY, measured(900), Measured(), "its digest differs")
    assert decision.verdict is Verdict.ROLL_BACK
    assert "its digest differs" in decision.message


@given(st.integers(0, 500), st.integers(0, 500))
def test_bounds_hold_the_share_and_close_in_on_it(count: int, more: int) -> None:
    whole = count + more
    least, most = likely_share(count, whole)
    assert 0.0 <= least <= most <= 1.0
    if whole:
        assert least - 1e-12 <= count / whole <= most + 1e-12
        narrower = likely_share(count * 10, whole * 10)
        assert narrower[1] - narrower[0] <= most - least + 1e-12
