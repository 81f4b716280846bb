"""The judge of canaries: one pure function from what was measured to what is to be done."""

from dataclasses import dataclass
from enum import Enum

from services.inference.domain.measurements import Measured
from services.inference.domain.release import Canary

# A latency that differs by less is nobody's concern, whatever the ratio.
_NOTICEABLE_SECONDS = 0.001
_QUANTILE = 0.99
# How often a true share lies beyond its bound: with a handful of requests chance alone must not end a canary.
_CHANCE = 0.01


class Verdict(Enum):
    """What is to be done with a canary."""

    WAIT = "WAIT"
    STEP = "STEP"
    PROMOTE = "PROMOTE"
    ROLL_BACK = "ROLL_BACK"


@dataclass(frozen=True)
class Decision:
    """What is to be done, and why, for people."""

    verdict: Verdict
    message: str


def decide(canary: Canary, incumbent: Measured, measured: Measured, trouble: str = "") -> Decision:
    """Return what is to be done with a running canary.

    Once both versions had enough requests, their figures are compared as they are; before, only what is beyond chance
    ends a canary: a version that fails every request need not fail a hundred of them.

    Args:
        canary: what it is held to.
        incumbent: what came of the requests that the deployment's own version took in the canary's window.
        measured: of those that the canary took.
        trouble: why the canary's version cannot be loaded anywhere; empty where it can.
    """
    if trouble:
        return Decision(Verdict.ROLL_BACK, f"version {canary.number} cannot be loaded: {trouble}")
    worse = (
        _worse_errors(canary, incumbent, measured)
        or _worse_latency(canary, incumbent, measured)
        or _worse_agreement(canary, measured)
    )
    if worse:
        return Decision(Verdict.ROLL_BACK, worse)
    if waits := _waits(canary, incumbent, measured):
        where = f"step {canary.step + 1} of {len(canary.steps)} ({canary.percent:g}%)"
        return Decision(Verdict.WAIT, f"{where} waits for {waits}")
    figures = _figures(canary, incumbent, measured)
    return Decision(Verdict.PROMOTE if canary.is_at_last_step else Verdict.STEP, figures)


def _worse_errors(canary: Canary, incumbent: Measured, measured: Measured) -> str:
    allowed = canary.max_error_rate_increase
    if min(incumbent.requests, measured.requests) >= canary.min_requests:
        is_worse = measured.error_rate > incumbent.error_rate + allowed
    else:
        least, _ = likely_share(measured.failed, measured.requests)
        _, most = likely_share(incumbent.failed, incumbent.requests)
        is_worse = least > most + allowed
    if not is_worse:
        return ""
    reasons = ", ".join(sorted(measured.errors, key=lambda reason: -measured.errors[reason])[:3])
    return (
        f"error rate: {measured.error_rate:.2%} of {measured.requests} requests failed ({reasons}), against "
        f"{incumbent.error_rate:.2%} of {incumbent.requests} before; {allowed:.2%} more is allowed"
    )


def _worse_latency(canary: Canary, incumbent: Measured, measured: Measured) -> str:
    if not canary.max_latency_ratio or incumbent.requests < canary.min_requests:
        return ""
    usual = incumbent.quantile_seconds(_QUANTILE)
    bound = max(usual * canary.max_latency_ratio, usual + _NOTICEABLE_SECONDS)
    least, _ = likely_share(measured.slower_than(bound), measured.requests)
    if least <= 1.0 - _QUANTILE:
        return ""
    return (
        f"latency: the 99th percentile is {measured.quantile_seconds(_QUANTILE) * 1000:.3g} ms, against "
        f"{usual * 1000:.3g} ms before; {canary.max_latency_ratio:g} times is allowed"
    )


def _worse_agreement(canary: Canary, measured: Measured) -> str:
    whole = measured.compared + measured.compare_failed
    if not canary.min_agreement or not whole:
        return ""
    if whole >= canary.min_requests:
        is_worse = measured.agreement < canary.min_agreement
    else:
        is_worse = likely_share(measured.agreed, whole)[1] < canary.min_agreement
    if not is_worse:
        return ""
    return (
        f"agreement: {measured.agreement:.2%} of {whole} answers agree with the present version's; at least "
        f"{canary.min_agreement:.2%} must"
    )


def _waits(canary: Canary, incumbent: Measured, measured: Measured) -> str:
    """Return what a canary's step still lacks; empty for nothing."""
    least = canary.min_requests
    if measured.requests < least:
        return f"requests to its version: {measured.requests} of {least}"
    if incumbent.requests < least:
        return f"requests to the present version: {incumbent.requests} of {least}"
    compared = measured.compared + measured.compare_failed
    if canary.min_agreement and compared < least:
        left_out = f" ({measured.compare_dropped} were left out)" if measured.compare_dropped else ""
        return f"answers to compare: {compared} of {least}{left_out}"
    if measured.seconds < canary.step_seconds:
        return f"its time: {measured.seconds:.0f} of {canary.step_seconds:g} s"
    return ""


def _figures(canary: Canary, incumbent: Measured, measured: Measured) -> str:
    found = (
        f"{measured.error_rate:.2%} of {measured.requests} requests failed (before: {incumbent.error_rate:.2%} of "
        f"{incumbent.requests}), 99th percentile {measured.quantile_seconds(_QUANTILE) * 1000:.3g} ms "
        f"(before: {incumbent.quantile_seconds(_QUANTILE) * 1000:.3g} ms)"
    )
    return f"{found}, {measured.agreement:.2%} of answers agree" if canary.min_agreement else found


def likely_share(count: int, whole: int) -> tuple[float, float]:
    """Return bounds of the true share behind a count, each exceeded once in a hundred; 0 and 1 where nothing is known.

    Exact, for what ends a canary early is a handful of requests, where approximations are far too sure.

    Source: Clopper and Pearson, The use of confidence or fiducial limits, Biometrika 26, 1934.
    """
    # Loaded with the first canary: most platforms have none for most of the time.
    from scipy.special import betaincinv

    least = float(betaincinv(count, whole - count + 1, _CHANCE)) if count else 0.0
    most = float(betaincinv(count + 1, whole - count, 1.0 - _CHANCE)) if count < whole else 1.0
    return least, most
