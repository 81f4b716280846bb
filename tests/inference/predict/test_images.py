"""Images become tensors as the version's image.json says; what is none, or too much, is refused."""

import contextlib
import io
import json
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lepton.v1 import prediction_pb2 as pb
from lepton.v1 import registry_pb2
from servicekit.errors import FailedPrecondition, InvalidArgument
from services.inference.predict.preprocessing import load_preprocessing
from services.inference.serving.loading import load_model
from services.inference.serving.model import Array, LoadedModel, Preprocessing
from tests.inference.house import FAILED
from tests.inference.predict.bureau import Bureau
from tests.inference.predict.models import image_model, png


def model(**how: Any) -> LoadedModel:
    return load_model("images", registry_pb2.Version(number=1, digest="d"), image_model(**how))


def reader(served: LoadedModel | None = None, **fields: Any) -> Preprocessing:
    content = json.dumps({"size": [2, 2], **fields}).encode()
    found = load_preprocessing({"image.json": content}, (served or model()).inputs)
    assert found is not None
    return found


def tensor(images: list[bytes], **fields: Any) -> Array:
    (batch,) = reader(**fields).batches(images)
    return batch["pixels"]


def test_pixels_are_scaled_shifted_and_divided() -> None:
    found = tensor([png((255, 0, 51))], mean=[0.5, 0.0, 0.1], std=[0.25, 1.0, 0.1])
    assert (found.shape, found.dtype) == ((1, 3, 2, 2), np.float32)
    np.testing.assert_allclose(found[0, :, 0, 0], [2.0, 0.0, 1.0], rtol=1e-5)
    jpeg = tensor([png((200, 200, 200), kind="JPEG")], scale=1.0)
    np.testing.assert_allclose(jpeg, 200, atol=2)


@given(st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=1, max_size=20))
def test_images_keep_their_order(colors: list[tuple[int, ...]]) -> None:
    batches = list(reader(scale=1.0).batches([png(color) for color in colors]))
    assert [tuple(image[:, 0, 0].astype(int)) for batch in batches for image in batch["pixels"]] == colors
    assert all(len(batch["pixels"]) <= 8 for batch in batches)


def test_crop_keeps_the_middle() -> None:
    content = _striped([(255, 0, 0), (0, 255, 0), (0, 0, 255)], 4)
    whole = tensor([content], fit="crop", scale=1.0, resample="nearest")
    np.testing.assert_array_equal(whole[0, 1], 255)
    smaller = tensor([content], fit="crop", resize=8, scale=1.0, resample="nearest")
    np.testing.assert_array_equal(smaller[0, 1], 255)
    assert not np.array_equal(tensor([content], scale=1.0, resample="nearest"), whole)


def test_grey_and_channels_last() -> None:
    served = model(channels=1)
    (batch,) = reader(served, mode="L", scale=1.0).batches([png(77)])
    np.testing.assert_array_equal(batch["pixels"], np.full((1, 1, 2, 2), 77.0))
    with pytest.raises(FailedPrecondition, match="shape"):
        reader(served, mode="L", layout="NHWC")


def test_graph_for_one_image_gets_one_at_a_time() -> None:
    found = reader(model(batch=1), scale=1.0)
    assert [batch["pixels"].shape for batch in found.batches([png(1), png(2), png(3)])] == [(1, 3, 2, 2)] * 3


@pytest.mark.parametrize(
    "fields",
    [
        {"size": [0, 2]},
        {"size": [2]},
        {"mean": [0.5]},
        {"std": [0.0, 1.0, 1.0]},
        {"mean": [float("nan"), 0, 0]},
        {"resize": 8},
        {"layout": "HWC"},
        {"run": "code"},
        {"mode": "L"},
    ],
)
def test_file_that_cannot_be_followed_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(FailedPrecondition) as refusal:
        reader(**fields)
    assert refusal.value.reason == "PREPROCESSING_UNREADABLE"


GOOD = png((1, 2, 3))


@pytest.mark.parametrize(
    "content", [b"", b"GIF89a" + b"\0" * 40, b"<svg/>", GOOD[:40], GOOD[:33], b"\x89PNG\r\n\x1a\n"]
)
def test_bytes_that_are_no_image_are_refused(content: bytes) -> None:
    with pytest.raises(InvalidArgument, match=r"images\[1\]: expected a PNG or JPEG image") as refusal:
        list(reader().batches([GOOD, content]))
    assert (refusal.value.reason, refusal.value.violations[0][0]) == ("BAD_IMAGE", "images[1]")


@given(st.binary(max_size=200), st.integers(8, len(GOOD)))
def test_damaged_images_are_refused_or_read(damage: bytes, place: int) -> None:
    content = GOOD[:place] + damage + GOOD[place + len(damage) :]
    # Any other error would be a fault of ours.
    with contextlib.suppress(InvalidArgument):
        (batch,) = reader().batches([content])
        assert batch["pixels"].shape == (1, 3, 2, 2)


@pytest.mark.parametrize("size", [(5001, 5000), (10_000, 10_000), (60_000, 60_000), (2**31 - 1, 2**31 - 1)])
def test_bomb_is_refused_before_it_is_decoded(size: tuple[int, int]) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        list(reader().batches([_claiming(size)]))
    assert refusal.value.reason == "IMAGE_TOO_LARGE"


async def test_image_becomes_values(bureau: Bureau) -> None:
    description = {"size": [2, 2], "scale": 1.0}
    files = {"model.onnx": image_model(size=2), "image.json": json.dumps(description).encode()}
    await bureau.deploy("colors", files)
    request = pb.PredictRequest(deployment="colors", images=[png((10, 20, 30)), png((1, 2, 3))] * 6)
    answer = await bureau.stub.Predict(request, metadata=bureau.who("viewer"))
    assert [list(item.values) for item in answer.predictions] == [[10.0, 20.0, 30.0], [1.0, 2.0, 3.0]] * 6
    with pytest.raises(InvalidArgument, match="PNG or JPEG"):
        await bureau.stub.Predict(pb.PredictRequest(deployment="colors", images=[b"x"]), metadata=bureau.who())


async def test_file_that_does_not_suit_its_model_keeps_it_from_being_served(bureau: Bureau) -> None:
    files = {"model.onnx": image_model(size=2), "image.json": b'{"size": [3, 3]}'}
    await bureau.house.developer.register("misfit", files)
    await bureau.house.deployments.create("misfit@1")
    deployment = await bureau.house.deployments.until("misfit", 1, FAILED)
    assert "image.json: it makes images of shape [3, 3, 3]" in deployment.message


def _striped(colors: list[tuple[int, int, int]], width: int) -> bytes:
    """Return an image of vertical stripes, each of a width, four pixels high."""
    image = Image.new("RGB", (width * len(colors), 4))
    for place, color in enumerate(colors):
        image.paste(color, (place * width, 0, (place + 1) * width, 4))
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


def _claiming(size: tuple[int, int]) -> bytes:
    """Return a PNG of a few bytes that says it is of a size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
