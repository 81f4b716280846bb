"""The ResNet: reads digits, exports what it says, and is the same every time."""

import base64
import io

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from servicekit.errors import InvalidArgument
from services.inference.predict.images import ImageReader
from services.inference.serving.model import InputSpec
from services.training.domain.families import fitting
from services.training.domain.families.catalog import resolve_hyperparameters
from services.training.domain.families.image.model import ImageModel
from services.training.domain.families.model import Run
from services.training.domain.families.parity import measure_parity
from tests.training.families.training import train_any

FEW: dict[str, object] = {"epochs": 1, "image_size": 8, "width": 8, "channels": "grey"}


def encoded(pixels: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]", kind: str = "PNG") -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return base64.b64encode(file.getvalue()).decode()


def digits(rows: int = 1797) -> pa.Table:
    found = load_digits()
    images = [encoded((image * 255 / 16).astype(np.uint8)) for image in found.images[:rows]]
    return pa.table({"image": images, "digit": found.target[:rows]})


@pytest.mark.parametrize(("epochs", "accuracy"), [(4, 0.94), pytest.param(20, 0.985, marks=pytest.mark.slow)])
def test_digits_are_read(epochs: int, accuracy: float) -> None:
    table = digits()
    # Every fifth is set aside: none of it is learned from.
    place = np.arange(table.num_rows)
    learned, judged = table.filter(pa.array(place % 5 != 0)), table.filter(pa.array(place % 5 == 0))
    settings = resolve_hyperparameters("cnn", {"image_size": 16, "channels": "grey", "epochs": epochs})
    schema = fitting.describe("cnn", learned, "digit", settings)
    model = fitting.fit("cnn", schema, learned, Run(settings, 0, lambda _: None, lambda: False))
    assert fitting.evaluate(model, judged).metrics["accuracy"] >= accuracy
    parity = measure_parity(model, model.export(), judged)
    assert parity.max_difference < 1e-5
    assert parity.label_mismatches == 0


def test_serving_reads_an_image_as_training_does() -> None:
    draw = np.random.default_rng(0)
    texts = [encoded(draw.integers(0, 256, (20, 30, 3), dtype=np.uint8), kind) for kind in ("PNG", "JPEG")] * 2
    table = pa.table({"image": texts, "label": list("aabb")})
    model, _ = train_any("cnn", table, "label", {**FEW, "channels": "color"})
    (spec,) = model.inputs()
    reader = ImageReader.load(model.files()["image.json"], {spec.name: InputSpec(spec.name, spec.datatype, spec.shape)})
    (served,) = reader.batches([base64.b64decode(text) for text in texts])
    ((_, trained),) = list(model.feeds(table))
    np.testing.assert_allclose(served["image"], trained["image"], rtol=1e-6, atol=1e-6)


def test_same_rows_and_seed_give_the_same_files_and_another_seed_others() -> None:
    first, again, other = (train_any("cnn", digits(100), "digit", FEW, seed=seed)[0] for seed in (3, 3, 4))
    assert first.files() == again.files()
    assert first.export() == again.export()
    assert first.files()["weights.safetensors"] != other.files()["weights.safetensors"]


def test_last_batch_of_one_row_is_learned_where_images_end_as_one_value() -> None:
    table = digits(33)
    settings = resolve_hyperparameters("cnn", {**FEW, "stages": 4, "batch_size": 32})
    schema = fitting.describe("cnn", table, "digit", settings)
    model = fitting.fit("cnn", schema, table, Run(settings, 0, lambda _: None, lambda: False))
    probabilities = model.predict(table).probabilities
    assert probabilities is not None
    assert np.isfinite(probabilities).all()


def test_stored_model_is_the_same_when_it_is_loaded() -> None:
    model, _ = train_any("cnn", digits(100), "digit", FEW)
    loaded = fitting.load(model.files())
    assert loaded.files() == model.files()
    np.testing.assert_array_equal(loaded.predict(digits(20)).probabilities, model.predict(digits(20)).probabilities)


def test_fine_tune_of_the_last_layer_leaves_the_features() -> None:
    parent, _ = train_any("cnn", digits(100), "digit", FEW)
    before = parent.files()
    child, _ = train_any("cnn", digits(200), "digit", {**FEW, "trainable": "last"}, base=parent)
    assert isinstance(parent, ImageModel)
    assert isinstance(child, ImageModel)
    assert parent.files() == before
    was, now = parent.network.state_dict(), child.network.state_dict()
    changed = {name for name in was if not was[name].equal(now[name])}
    assert {"head.weight", "head.bias"} <= changed
    assert not [name for name in changed if name.endswith("weight") and name != "head.weight"]


@pytest.mark.parametrize("augmentation", ["none", "shift", "flip", "shift_and_flip"])
def test_every_augmentation_trains(augmentation: str) -> None:
    model, held_out = train_any("cnn", digits(60), "digit", {**FEW, "augmentation": augmentation})
    assert np.isfinite(fitting.evaluate(model, held_out).metrics["log_loss"])


def _broken() -> pa.Table:
    table = digits(60)
    images = table.column("image").to_pylist()
    images[3], images[7] = "no image", base64.b64encode(b"\x89PNG\r\n broken").decode()
    return table.set_column(0, "image", pa.array(images))


def test_corrupt_images_are_named() -> None:
    settings = resolve_hyperparameters("cnn", FEW)
    schema = fitting.describe("cnn", _broken(), "digit", settings)
    with pytest.raises(InvalidArgument, match="rows 4, 8;") as refused:
        fitting.readable_rows("cnn", schema, _broken(), settings)
    assert refused.value.reason == "CORRUPT_IMAGES"


def test_corrupt_images_are_skipped_where_that_is_wished() -> None:
    settings = resolve_hyperparameters("cnn", {**FEW, "corrupt_images": "skip"})
    schema = fitting.describe("cnn", _broken(), "digit", settings)
    warnings: list[str] = []
    assert fitting.readable_rows("cnn", schema, _broken(), settings, warnings.append).num_rows == 58
    assert [warning.endswith("rows 4, 8; they were skipped") for warning in warnings] == [True]
    nothing = pa.table({"image": ["x", "y"] * 2, "digit": [0, 0, 1, 1]})
    with pytest.raises(InvalidArgument, match="4 rows"):
        fitting.readable_rows("cnn", schema, nothing, settings)
