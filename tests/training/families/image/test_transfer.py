"""A CNN begins from the features of another, and learns other classes."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from servicekit.errors import InvalidArgument
from services.training.domain.families import fitting
from services.training.domain.families.bodies import read_body
from services.training.domain.families.catalog import resolve_hyperparameters
from services.training.domain.families.image.model import ImageModel
from services.training.domain.families.model import Model, Run
from services.training.domain.families.parity import measure_parity
from tests.training.families.image.test_cnn import digits
from tests.training.families.training import train_any

SHAPE: dict[str, object] = {"image_size": 8, "channels": "grey", "width": 8}


def _of(table: pa.Table, low: int, high: int) -> pa.Table:
    """Return the rows of some digits, named so that other ones are other classes."""
    rows = table.filter(pc.and_(pc.greater_equal(table["digit"], low), pc.less(table["digit"], high)))
    return rows.set_column(1, "digit", pc.binary_join_element_wise("d", rows["digit"].cast(pa.string()), ""))


def _transferred(files: Mapping[str, bytes], table: pa.Table, settings: Mapping[str, object] | None = None) -> Model:
    resolved = resolve_hyperparameters("cnn", settings or {}, has_body=True)
    schema = fitting.describe("cnn", table, "digit", resolved)
    body = read_body("cnn", files)
    return fitting.fit("cnn", schema, table, Run(resolved, 0, lambda _: None, lambda: False), body=body)


@pytest.fixture(scope="module")
def parent() -> ImageModel:
    """A network that knows 0 to 4."""
    model, _ = train_any("cnn", _of(digits(), 0, 5), "digit", {**SHAPE, "epochs": 8})
    assert isinstance(model, ImageModel)
    return model


def test_few_rows_of_other_digits_are_learned_better_than_from_scratch(parent: ImageModel) -> None:
    others = _of(digits(), 5, 10)
    few, judged = others.slice(0, 30), others.slice(30)
    scratch = resolve_hyperparameters("cnn", {**SHAPE, "epochs": 20})
    schema = fitting.describe("cnn", few, "digit", scratch)
    alone = fitting.fit("cnn", schema, few, Run(scratch, 0, lambda _: None, lambda: False))
    child = _transferred(parent.files(), few, {"epochs": 20})
    found, bare = (fitting.evaluate(model, judged).metrics["accuracy"] for model in (child, alone))
    assert found > bare + 0.05, (found, bare)
    assert child.target.classes == ("d5", "d6", "d7", "d8", "d9")
    parity = measure_parity(child, child.export(), judged)
    assert (parity.max_difference < 1e-5, parity.label_mismatches) == (True, 0)


def test_child_reads_images_as_its_base_does_and_tells_its_shape(parent: ImageModel) -> None:
    before = parent.files()
    child = _transferred(before, _of(digits(200), 5, 10), {"epochs": 1, "trainable": "last"})
    assert isinstance(child, ImageModel)
    assert child.format == parent.format
    shape = {name: child.hyperparameters[name] for name in ("image_size", "channels", "width", "stages", "blocks")}
    assert shape == {name: parent.hyperparameters[name] for name in shape}
    was, now = parent.network.features.state_dict(), child.network.features.state_dict()
    assert all(was[name].equal(now[name]) for name in was if name.endswith("weight"))
    assert child.network.head.out_features == 5
    assert parent.files() == before
    assert fitting.load(child.files()).files() == child.files()


def test_same_rows_and_seed_give_the_same_files(parent: ImageModel) -> None:
    rows = _of(digits(120), 5, 10)
    first, again = (_transferred(parent.files(), rows, {"epochs": 1}).files() for _ in range(2))
    assert first == again


def test_shape_is_the_bases_and_so_is_the_family(parent: ImageModel) -> None:
    with pytest.raises(InvalidArgument, match="width counts only"):
        resolve_hyperparameters("cnn", {"width": 8}, has_body=True)
    with pytest.raises(InvalidArgument, match="of cnn, not transformer") as refused:
        read_body("transformer", parent.files())
    assert refused.value.reason == "FAMILY_MISMATCH"
    assert np.isfinite(parent.format.mean).all()
