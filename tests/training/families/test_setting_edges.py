"""Every hyperparameter that CreateJob takes trains: at the ends of each range, one by one and together, any seed."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from servicekit.errors import InvalidArgument
from services.training.domain.families import fitting
from services.training.domain.families.catalog import FAMILIES, find_family, resolve_hyperparameters
from services.training.domain.families.hyperparameters import Hyperparameter
from services.training.domain.families.model import Progress, Run, Stopped
from tests.inference.predict.models import png

# What a job of the largest may not end on any machine, or needs gigabytes: they are typed errors by other rules.
_TOO_LARGE = {"hidden_units", "hidden_size", "layers", "width", "blocks", "image_size", "max_tokens", "vocabulary"}
_TABULAR = ["linear_regression", "logistic_regression", "boosted_trees", "mlp"]
_REPORTS = 3
# Reasons that the values of a number may give a fit; each says what to change.
_TYPED = {"LOSS_DIVERGED", "BAD_HYPERPARAMETER", "TOO_FEW_ROWS", "NUMBERS_TOO_LARGE"}


def _table(family: str) -> pa.Table:
    draw = np.random.default_rng(0)
    rows = 40
    label = ["a", "b"] * (rows // 2)
    reads = find_family(family).reads
    if reads == "texts":
        return pa.table({"text": [f"a word {row % 7} more" for row in range(rows)], "y": label})
    if reads == "images":
        import base64

        images = [base64.b64encode(png((row % 256, 0, 9))).decode() for row in range(rows)]
        return pa.table({"image": images, "y": label})
    if reads == "series":
        return pa.table({"s": [draw.normal(size=6).tolist() for _ in range(rows)], "y": label})
    value = draw.normal(size=rows)
    columns = {"x": draw.normal(size=rows), "c": ["u", "v", "w", "u"] * (rows // 4)}
    return pa.table({**columns, "y": label if family == "logistic_regression" else value})


def _ends(setting: Hyperparameter) -> list[object]:
    if setting.choices:
        return list(setting.choices)
    return [setting.minimum, setting.maximum if setting.name not in _TOO_LARGE else setting.default]


def _check(family: str, given_settings: Mapping[str, object], seed: int = 0) -> None:
    """Fit until some steps are reported; what does not work is a typed error."""
    told = list[Progress]()
    table = _table(family)
    try:
        resolved = resolve_hyperparameters(family, given_settings)
        schema = fitting.describe(family, table, "y", resolved)
        train, held_out = fitting.hold_out(table, schema.target, seed)
        model = fitting.fit(family, schema, train, Run(resolved, seed, told.append, lambda: len(told) > _REPORTS))
    except InvalidArgument as error:
        if error.reason not in _TYPED:
            raise
        return
    except Stopped:
        return
    assert fitting.evaluate(model, held_out).rows == held_out.num_rows


def _edges(families: list[str]) -> list[tuple[str, str, object]]:
    return [
        (family, setting.name, value)
        for family in families
        for setting in FAMILIES[family].hyperparameters
        for value in _ends(setting)
        # These want other tables.
        if not (setting.name == "task" and value in ("classification", "pair", "embedding"))
    ]


@pytest.mark.parametrize(("family", "name", "value"), _edges(_TABULAR))
def test_each_end_of_each_range_trains(family: str, name: str, value: object) -> None:
    _check(family, {name: value})


@pytest.mark.slow
@pytest.mark.parametrize(("family", "name", "value"), _edges([name for name in FAMILIES if name not in _TABULAR]))
def test_each_end_of_each_range_trains_a_network(family: str, name: str, value: object) -> None:
    _check(family, {name: value})


@given(data=st.data(), family=st.sampled_from(_TABULAR[:3]), seed=st.sampled_from([0, 2**31, 2**32, 2**63 - 1]))
@settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))
def test_ends_together_train_with_any_seed(data: st.DataObject, family: str, seed: int) -> None:
    chosen = {
        setting.name: data.draw(st.sampled_from([*_ends(setting), setting.default]), label=setting.name)
        for setting in FAMILIES[family].hyperparameters
        if setting.name != "task"
    }
    _check(family, chosen, seed)


@pytest.mark.parametrize("family", _TABULAR)
def test_the_largest_seed_trains(family: str) -> None:
    _check(family, {}, 2**63 - 1)


@given(data=st.data(), family=st.sampled_from(sorted(FAMILIES)))
@settings(deadline=None, max_examples=200)
def test_numbers_beyond_a_range_are_refused_with_the_range(data: st.DataObject, family: str) -> None:
    numeric = [setting for setting in FAMILIES[family].hyperparameters if not setting.choices]
    setting = data.draw(st.sampled_from(numeric))
    assert setting.minimum is not None
    assert setting.maximum is not None
    outside = st.one_of(
        st.floats(max_value=setting.minimum, exclude_max=True),
        st.floats(min_value=setting.maximum, exclude_min=True),
        st.integers(max_value=int(setting.minimum) - 1),
        st.integers(min_value=int(setting.maximum) + 1),
        st.just(float("nan")),
    )
    with pytest.raises(InvalidArgument) as refusal:
        resolve_hyperparameters(family, {setting.name: data.draw(outside)})
    assert refusal.value.reason == "BAD_HYPERPARAMETER"
    assert setting.name in refusal.value.message
    assert refusal.value.violations[0][0] == f"spec.hyperparameters[{setting.name!r}]"
