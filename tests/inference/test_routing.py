"""Which version answers: shares, stickiness, growth; and how answers are compared and counted."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servicekit.errors import InvalidArgument
from services.inference.domain.measurements import BUCKETS, Measured, bucket_of, edge_of, total
from services.inference.open_inference import grpc_service_pb2 as pb
from services.inference.serving.agreement import agreeing_rows
from services.inference.serving.codec import sticky_key_of
from services.inference.serving.model import OutputSpec
from services.inference.serving.release_statistics import ReleaseStatistics
from services.inference.serving.routing import Role, Route, Split, point_of, split_of

KEYS = [f"customer-{index}" for index in range(4000)]
POINTS = [point_of("default", "credit", key) for key in KEYS]


def _split(weights: dict[int, float], role: Role = Role.TARGET, serving: int = 1) -> Split:
    """Return a split as the scheduler lays it out: by number, one after the other."""
    routes, start = {serving: Route()}, 0.0
    for number, weight in sorted(weights.items()):
        routes[number] = Route(role, weight, start_percent=start)
        start += weight
    return split_of(routes, dict.fromkeys(routes, 1))


_weights = st.dictionaries(st.integers(2, 6), st.floats(0, 25), min_size=1, max_size=4)


@settings(max_examples=50, deadline=None)
@given(_weights, st.integers(0, 1000))
def test_shares_converge_to_the_weights(weights: dict[int, float], seed: int) -> None:
    split, rng = _split(weights), random.Random(seed)
    chosen = [split.choose(rng.random() * 100) for _ in range(4000)]
    for number, weight in {**weights, 1: 100 - sum(weights.values())}.items():
        # Five standard deviations of a binomial share; and for shares of next to nothing, three requests.
        share, slack = chosen.count(number) / 4000, 5 * (weight / 100 * (1 - min(weight, 100) / 100) / 4000) ** 0.5
        assert abs(share - weight / 100) <= slack + 3 / 4000
    sticky = [split.choose(point) for point in POINTS]
    assert sticky == [split.choose(point_of("default", "credit", key)) for key in KEYS]


@settings(max_examples=50, deadline=None)
@given(st.floats(0, 100), st.floats(0, 100))
def test_a_canary_that_grows_only_takes_keys(one: float, other: float) -> None:
    before, after = (_split({2: weight}, Role.CANARY) for weight in sorted((one, other)))
    for point in POINTS:
        if before.choose(point) == 2:
            assert after.choose(point) == 2


@settings(max_examples=50, deadline=None)
@given(_weights, st.data())
def test_a_share_that_grows_gives_no_key_away(weights: dict[int, float], data: st.DataObject) -> None:
    grown = data.draw(st.sampled_from(sorted(weights)))
    by = data.draw(st.floats(0, 100 - sum(weights.values())))
    before, after = _split(weights), _split({**weights, grown: weights[grown] + by})
    assert all(after.choose(point) == grown for point in POINTS if before.choose(point) == grown)


def test_points_are_spread_evenly_and_differ_by_deployment() -> None:
    counts, _ = np.histogram(POINTS, bins=10, range=(0, 100))
    assert all(abs(count - 400) < 5 * 19 for count in counts)
    assert all(0 <= point < 100 for point in POINTS)
    assert point_of("default", "credit", "a") != point_of("default", "other", "a")
    assert point_of("other", "credit", "a") != point_of("default", "credit", "a")


def test_the_share_of_a_version_that_is_not_loaded_here_goes_to_the_incumbent() -> None:
    routes = {1: Route(), 2: Route(Role.TARGET, 50.0), 3: Route(Role.TARGET, 50.0, start_percent=50.0)}
    split = split_of(routes, {1: 1, 3: 2})
    assert {split.choose(point) for point in POINTS if point < 50} == {1}
    assert {split.choose(point) for point in POINTS if point >= 50} == {3}


@pytest.mark.parametrize(
    ("loaded", "incumbent"),
    [
        ({1: Role.SERVING, 2: Role.CANARY, 3: Role.SHADOW}, 1),
        ({1: Role.STANDBY, 2: Role.SERVING}, 2),
        ({1: Role.STANDBY, 2: Role.CANARY}, 1),
        ({3: Role.TARGET, 2: Role.SHADOW}, 3),
        ({2: Role.SHADOW, 3: Role.CANARY}, None),
        # Two that serve: the latest placed.
        ({1: Role.SERVING, 2: Role.SERVING}, 2),
        ({}, None),
    ],
)
def test_who_answers_for_the_rest(loaded: dict[int, Role], incumbent: int | None) -> None:
    routes = {number: Route(role, 10.0, 50.0) for number, role in loaded.items()}
    split = split_of(routes, {number: number for number in loaded})
    assert split.incumbent == incumbent
    assert {number for number, _ in split.compared} == {
        number for number, role in loaded.items() if role in (Role.SHADOW, Role.CANARY)
    }
    assert all(loaded[number] is not Role.SHADOW for _, _, number in split.shares)


def test_a_sticky_key_is_a_text() -> None:
    request = pb.ModelInferRequest()
    assert sticky_key_of(request) == ""
    request.parameters["lepton_sticky_key"].string_param = "me"
    assert sticky_key_of(request) == "me"
    request.parameters["lepton_sticky_key"].int64_param = 3
    with pytest.raises(InvalidArgument):
        sticky_key_of(request)


def _agree(expected: object, found: object, tolerance: float = 0.0, labels: tuple[str, ...] = ()) -> object:
    outputs = {"y": OutputSpec("y", "", (), labels)}
    return agreeing_rows(outputs, {"y": np.array(expected)}, {"y": np.array(found)}, tolerance)


def test_labels_must_be_equal_classes_most_probable_and_numbers_close() -> None:
    assert _agree([["a"], ["b"], ["c"]], [["a"], ["x"], ["c"]]) == (3, 2)
    assert _agree([[1], [2]], [[1], [3]], tolerance=1.0) == (2, 1)
    assert _agree([[0.6, 0.4], [0.1, 0.9]], [[0.9, 0.1], [0.8, 0.2]], labels=("no", "yes")) == (2, 1)
    assert _agree([[100.0], [100.0], [np.nan], [0.0]], [[100.9], [102.0], [np.nan], [0.0]], tolerance=0.01) == (4, 3)
    assert _agree([[1.0]], [[1.0, 2.0]]) == (1, 0)
    assert _agree(5.0, 5.0) == (1, 1)


def test_embeddings_are_close_as_a_whole() -> None:
    outputs = {"embedding": OutputSpec("embedding", "FP32", (-1, 2))}
    expected = {"embedding": np.array([[1.0, 1e-6], [1.0, 0.0], [1.0, 0.0]])}
    # A number near 0 may be another many times over; another direction may not.
    found = {"embedding": np.array([[1.0, 5e-6], [0.0, 1.0], [0.98, 0.0]])}
    assert agreeing_rows(outputs, expected, found, 0.01) == (3, 1)


def test_where_there_are_labels_probabilities_may_differ() -> None:
    outputs = {"label": OutputSpec("label", "INT64", (-1,)), "p": OutputSpec("p", "FP32", (-1, 2), ("a", "b"))}
    expected = {"label": np.array([0, 1]), "p": np.array([[0.9, 0.1], [0.4, 0.6]])}
    found = {"label": np.array([0, 1]), "p": np.array([[0.6, 0.4], [0.6, 0.4]])}
    assert agreeing_rows(outputs, expected, found, 0.0) == (2, 2)


@given(st.floats(0, 1e4))
def test_a_latency_lies_in_its_bucket(seconds: float) -> None:
    bucket = bucket_of(seconds)
    assert 0 <= bucket < BUCKETS
    assert bucket == BUCKETS - 1 or seconds <= edge_of(bucket) * (1 + 1e-9)
    assert bucket == 0 or seconds > edge_of(bucket - 1) * (1 - 1e-9)


@given(st.lists(st.floats(1e-5, 10), min_size=1, max_size=50), st.sampled_from([0.5, 0.9, 0.99]))
def test_quantiles_are_exact_to_a_fifth_and_sums_are_those_of_the_whole(latencies: list[float], q: float) -> None:
    parts = [ReleaseStatistics(), ReleaseStatistics()]
    for index, seconds in enumerate(latencies):
        parts[index % 2].observe(seconds, "MODEL_FAULT" if index % 3 == 0 else None)
    whole = total(part.measured() for part in parts)
    exact = sorted(latencies)[max(0, int(np.ceil(q * len(latencies))) - 1)]
    assert exact * (1 - 1e-9) <= whole.quantile_seconds(q) <= exact * 1.2
    assert (whole.requests, whole.failed) == (len(latencies), len(latencies[::3]))
    assert whole.mean_seconds == pytest.approx(np.mean(latencies))
    assert whole.slower_than(exact) <= sum(seconds > exact for seconds in latencies)


def test_counts_begin_anew_with_a_window_and_say_why_requests_failed() -> None:
    now = [0.0]
    statistics = ReleaseStatistics(lambda: now[0])
    now[0] = 2.0
    statistics.observe(2.0)
    for reason in ("BAD_TENSOR", "CANCELLED", "INTERNAL"):
        statistics.observe(0.0, reason)
    statistics.compare(10, 9)
    statistics.fail_comparison()
    found = statistics.measured()
    assert (found.requests, found.latency_seconds, found.seconds) == (4, 2.0, 2.0)
    assert found.errors == {"BAD_TENSOR": 1, "CANCELLED": 1, "INTERNAL": 1}
    assert found.agreement == 9 / 11
    statistics.begin(0)
    assert statistics.measured().requests == 4
    statistics.begin(7)
    assert statistics.measured() == Measured(window=7)
