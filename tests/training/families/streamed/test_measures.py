"""What is gathered piece by piece is what the whole table tells; and draws are of the place alone."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servicekit.errors import InvalidArgument
from services.training.domain.families import fitting
from services.training.domain.families.catalog import resolve_hyperparameters
from services.training.domain.families.category_counts import CategoryCounts
from services.training.domain.families.design import Scaling, category_rows, design_matrix, is_common
from services.training.domain.families.encoding import Encoding
from services.training.domain.families.frame import ColumnsSummary, describe_columns, normalize
from services.training.domain.families.model import Stopped
from services.training.domain.families.streamed.draws import Division, Draw, Purpose, drawn_points
from services.training.domain.families.streamed.measures import Moments
from services.training.domain.families.streamed.parted import Designs, Parted
from services.training.domain.families.streamed.rows import TableRows
from services.training.domain.families.streamed.sample import sample
from services.training.domain.families.streamed.shuffled import Shuffled
from services.training.domain.families.target import TargetSummary, describe_target
from tests.training.families.training import inputs_and, mixed

TARGETS = ("value", "is_dear", "grade", "label")


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 90), st.integers(1, 40), st.sampled_from(TARGETS), st.integers(0, 5))
def test_table_is_described_piece_by_piece_as_it_is_whole(rows: int, size: int, target: str, seed: int) -> None:
    table = normalize(inputs_and(mixed(rows, seed), target))
    described = [_outcome(lambda: _whole(table, target)), _outcome(lambda: _in_pieces(table, target, size))]
    assert described[0] == described[1]


def _whole(table: pa.Table, target: str) -> object:
    return describe_target(table, target, classify=None), describe_columns(table, target, 2, knows_all=False)


def _in_pieces(table: pa.Table, target: str, size: int) -> object:
    goal, columns = TargetSummary(target, classify=None), ColumnsSummary(target)
    for start in range(0, table.num_rows, size):
        goal.update(table.slice(start, size))
        columns.update(table.slice(start, size))
    return goal.target(), columns.columns(2, knows_all=False)


def _outcome(describe: object) -> object:
    try:
        return describe()  # type: ignore[operator]
    except InvalidArgument as error:
        return error.reason, error.message


@settings(deadline=None)
@given(st.lists(st.floats(-1e6, 1e6) | st.just(float("nan")), min_size=1, max_size=60), st.integers(1, 20))
def test_moments_are_those_of_all_rows(values: list[float], size: int) -> None:
    numbers = np.array(values).reshape(-1, 1) + 1e4
    moments = Moments(1)
    for start in range(0, len(numbers), size):
        moments.update(numbers[start : start + size])
    whole = Scaling.of(numbers)
    assert np.allclose(moments.scaling().mean, whole.mean, rtol=1e-12)
    # Where all values are the same but for rounding, either may see no spread.
    assert np.allclose(
        moments.spread, np.nan_to_num(np.nanstd(numbers, axis=0)) if moments.count.any() else 0, atol=1e-4
    )


def test_frequent_texts_are_found_among_more_than_can_be_counted() -> None:
    counts = CategoryCounts()
    for start in range(0, 200_000, 10_000):
        rare = [f"only once {place}" for place in range(start, start + 10_000)]
        counts.update(pa.chunked_array([[*rare, *["often"] * 100, *["sometimes"] * 10]]))
    assert counts.most_frequent(2) == ("often", "sometimes")
    assert counts.has_more_than(1000)


def test_draws_are_even_nested_and_independent() -> None:
    places = np.arange(100_000)
    points = drawn_points(places, 7, Purpose.HELD_OUT)
    assert 0 <= points.min() < points.max() < 1
    # Three standard deviations of a fair draw.
    assert np.abs(np.histogram(points, 20, (0, 1))[0] - 5000).max() < 3 * np.sqrt(5000) + 30
    large, small = (Draw(Purpose.HELD_OUT, 7, share).takes(places) for share in (0.2, 0.05))
    assert not (small & ~large).any()
    for other in (drawn_points(places, 8, Purpose.HELD_OUT), drawn_points(places, 7, Purpose.ASIDE)):
        assert abs(np.corrcoef(points, other)[0, 1]) < 0.02
    # Of a place alone, wherever a table is cut.
    assert (drawn_points(places[500:600], 7, Purpose.HELD_OUT) == points[500:600]).all()


def test_rare_classes_are_left_to_learn_from() -> None:
    truth = np.array([0] * 1000 + [1] * 3)
    division = Division((Draw(Purpose.HELD_OUT, 0, 0.9),), common=np.array([True, False]))
    roles = division.roles(np.arange(len(truth)), truth)
    assert roles[truth == 0].sum() > 800
    assert not roles[truth == 1].any()


def test_design_is_that_of_the_whole_table() -> None:
    table = inputs_and(mixed(300), "value")
    schema = fitting.describe("mlp", table, "value", resolve_hyperparameters("mlp", {}))
    parted = Parted(TableRows(table, 37), schema, Division(()))
    measured = parted.measure(50, {})
    encoded = Encoding(schema.columns).encode(normalize(table))
    common = is_common(category_rows(parted.encoding, encoded))
    whole = design_matrix(parted.encoding, encoded, Scaling.of(encoded.numbers), common)
    designs = Designs(parted.encoding, measured.numbers.scaling(), measured.common())
    found = np.concatenate([design for design, _ in designs.passed(parted.parts, 2000)()])
    assert np.allclose(found, whole, rtol=1e-12, atol=1e-12)
    assert (measured.seen(measured.numbers.scaling()) == whole.any(axis=0)).all()
    assert measured.block_counts.tolist() == [50] * 6


@pytest.mark.parametrize("held", [0.0, 0.3])
def test_order_is_a_permutation_that_can_be_drawn_again_from_any_batch(held: float) -> None:
    table = inputs_and(mixed(1000), "value")
    schema = fitting.describe("mlp", table, "value", resolve_hyperparameters("mlp", {}))
    parted = Parted(TableRows(table, 64), schema, Division((Draw(Purpose.HELD_OUT, 3, held),)))
    measured = parted.measure(90, {})
    shuffled = Shuffled(parted, 90, measured.block_counts, 3, seed=5)
    passes = [_places(shuffled, number) for number in (0, 0, 1)]
    assert passes[0] == passes[1] != passes[2]
    expected = sorted(place for part in parted.parts() for place in part.places.tolist())
    assert sorted(passes[0]) == sorted(passes[2]) == expected
    assert len(shuffled) == len(expected)
    # Neighbours come far apart: blocks and windows both mix.
    assert np.abs(np.diff(passes[0])).mean() > 100
    for skipped in (32, 320, 640):
        assert _places(shuffled, 1, skipped) == passes[2][skipped:]
    sizes = [len(group) for group in shuffled.groups(0, 32, 100)]
    assert all(size % 32 == 0 for size in sizes[:-1])
    assert max(sizes) <= 100


def _places(shuffled: Shuffled, number: int, skipped: int = 0) -> list[int]:
    return [place for group in shuffled.groups(number, 32, 100, skipped) for place in group.places.tolist()]


def test_sample_fits_and_begins_with_what_is_held_out() -> None:
    table = normalize(inputs_and(mixed(20_000), "value"))
    source = TableRows(table)
    found = sample(source, 3, table.nbytes // 8)
    assert found.num_rows > 0
    assert found.nbytes <= table.nbytes // 8
    taken = Draw(Purpose.HELD_OUT, 3, 0.1).takes(np.arange(20_000))
    assert sample(source, 3, table.nbytes, 0.1).equals(table.filter(pa.array(taken)))
    assert set(found.column("value").to_pylist()) <= set(
        table.filter(pa.array(Draw(Purpose.HELD_OUT, 3, 0.125).takes(np.arange(20_000)))).column("value").to_pylist()
    )


def test_sample_of_many_pieces_holds_few() -> None:
    table = normalize(inputs_and(mixed(20_000), "value"))
    pieces_of_ten = TableRows(table, 10)
    # Of most pieces nothing is drawn.
    found = sample(pieces_of_ten, 3, table.nbytes, 0.001)
    assert 0 < found.num_rows < 100
    assert found.column(0).num_chunks <= found.num_rows + 1
    # What was kept when the draw was halved is one.
    halved = sample(pieces_of_ten, 3, table.nbytes // 8)
    assert halved.column(0).num_chunks < 500
    assert halved.equals(table.filter(pa.array(_drawn_below(halved.num_rows, len(table)))))


def _drawn_below(count: int, rows: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    points = drawn_points(np.arange(rows), 3, Purpose.HELD_OUT)
    return np.asarray(points < next(0.5**halvings for halvings in range(60) if (points < 0.5**halvings).sum() == count))


def test_sample_of_no_rows_has_the_columns() -> None:
    table = normalize(inputs_and(mixed(50), "value"))
    found = sample(TableRows(table, 10), 3, table.nbytes, 1e-9)
    assert found.num_rows == 0
    assert found.schema == table.schema


def test_sample_stops_where_it_is_told() -> None:
    asked = list[int]()

    def check() -> None:
        asked.append(len(asked))
        if len(asked) > 3:
            raise Stopped

    table = inputs_and(mixed(1000), "value")
    with pytest.raises(Stopped):
        sample(TableRows(table, 10), 3, table.nbytes, check=check)
    assert len(asked) == 4
