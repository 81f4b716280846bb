"""A split of a frame is the split that the platform makes of the same rows: recipes replay to the same rows."""

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton import errors
from lepton.frames import Frame, with_lineage
from servicekit.errors import InvalidArgument
from services.data.convert import recipe_from_proto
from services.data.domain.transform import Transform

_GROUPS = st.sampled_from(["a", "b", "c", None])


@settings(deadline=None)
@given(
    st.lists(_GROUPS, min_size=2, max_size=200),
    st.floats(0.01, 0.99),
    st.integers(-(2**63), 2**63 - 1),
    st.booleans(),
)
def test_frame_and_platform_draw_the_same_rows(
    groups: list[str | None], fraction: float, seed: int, is_stratified: bool
) -> None:
    table = pa.table({"id": range(len(groups)), "y": pa.array(groups, pa.string())})
    frame = with_lineage(table.to_pandas(), "d@1", "y")
    try:
        train, test = frame.split(fraction, seed=seed, stratify="y" if is_stratified else None)
    except errors.InvalidArgument as error:
        assert error.reason == "EMPTY_PART"  # noqa: PT017
        with pytest.raises(InvalidArgument, match="one part none"):
            _replayed(table, fraction, seed, is_stratified)
        return
    assert train.lineage is not None
    replayed = Transform(recipe_from_proto(train.lineage.recipe), table.schema)
    for part, frame_part in enumerate((train, test)):
        made = replayed.run(lambda: iter(table.to_batches(max_chunksize=7)), part)
        rows = pa.Table.from_batches(list(made), table.schema)
        assert rows["id"].to_pylist() == list(frame_part["id"])


def _replayed(table: pa.Table, fraction: float, seed: int, is_stratified: bool) -> None:
    from lepton import steps
    from lepton.v1 import data_pb2

    step = steps.split(fraction, seed=seed, stratify="y" if is_stratified else "")
    transform = Transform(recipe_from_proto(data_pb2.Recipe(steps=[step])), table.schema)
    list(transform.run(lambda: iter(table.to_batches())))


@pytest.mark.parametrize(
    "types",
    [{"n": "str"}, {"half": "int64"}, {"n": "bool"}, {"half": "str"}],
)
def test_cast_that_the_platform_would_do_otherwise_is_an_edit(types: dict[str, str]) -> None:
    frame = with_lineage(pd.DataFrame({"n": [1, 2], "half": [1.5, 2.0]}), "d@1", "")
    changed: Frame = frame.astype(types)
    assert changed.lineage is not None
    assert changed.lineage.edited
