"""Errors over REST: their HTTP status, reason and when to retry."""

from servicekit.errors import ResourceExhausted, Unavailable
from services.inference.rest.app import to_answer


def test_a_deployment_too_large_for_the_workers_is_unavailable() -> None:
    answer = to_answer(Unavailable("m is not placed", reason="TOO_LARGE", retry_seconds=10.0))
    assert (answer.status, dict(answer.headers)) == (503, {"lepton-reason": "TOO_LARGE", "retry-after": "10"})


def test_a_body_or_an_answer_over_the_limit_is_413() -> None:
    for reason in ("TOO_LARGE", "ANSWER_TOO_LARGE"):
        assert to_answer(ResourceExhausted("more than the limit", reason=reason)).status == 413
