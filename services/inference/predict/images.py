"""Images to tensors, as a version's image.json says. Pillow decodes them, within limits that no file can lift."""

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal, Self

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from servicekit.errors import FailedPrecondition, InvalidArgument
from services.inference.serving.model import NUMPY_TYPES, Array, InputSpec, Item

_FILE = "image.json"
_FORMATS = ("PNG", "JPEG")
# An image of a few kilobytes can say that it has billions of pixels: what is decoded is bounded before it is.
_MOST_PIXELS = 25_000_000
_BATCH_IMAGES = 8
# What Pillow calls the modes whose values do not fit eight bits, and would be cut without a word.
_WIDE_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_Side = Annotated[int, Field(ge=1, le=4096)]


class ImageFile(BaseModel):
    """What image.json holds: from an image of any size to a tensor, value = (pixel x scale - mean) / std.

    Args:
        size: height and width of the tensor, pixels.
        mode: RGB for three channels, L for one (grey).
        layout: NCHW for channels before rows, NHWC for channels last.
        mean, std: one a channel.
        scale: what a pixel of 0 to 255 is multiplied with.
        fit: stretch to the size, or crop its middle after the shorter side has become `resize`.
        resize: the shorter side before a crop, pixels; 0 for the least that covers the size.
        resample: nearest, bilinear, bicubic or lanczos.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: tuple[_Side, _Side]
    mode: Literal["RGB", "L"] = "RGB"
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    scale: float = Field(1 / 255, gt=0, le=1)
    fit: Literal["stretch", "crop"] = "stretch"
    resize: int = Field(0, ge=0, le=4096)
    resample: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (0, self.channels):
                raise ValueError(f"{name} has {len(values)} values for {self.channels} channels")
        if not all(np.isfinite(self.mean)) or not all(np.isfinite(value) and value > 0 for value in self.std):
            raise ValueError("mean and std must be finite, and std positive")
        if self.resize and (self.fit != "crop" or self.resize < max(self.size)):
            raise ValueError("resize is for fit 'crop', and at least as large as the size")
        return self

    @property
    def channels(self) -> int:
        """Values a pixel."""
        return 3 if self.mode == "RGB" else 1

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of one image's tensor."""
        height, width = self.size
        return (self.channels, height, width) if self.layout == "NCHW" else (height, width, self.channels)


class ImageReader:
    """Makes a model's one input of images.

    Args:
        file: how.
        spec: of the input.
    """

    takes = "images"

    def __init__(self, file: ImageFile, spec: InputSpec) -> None:
        self._file = file
        self._spec = spec
        # A graph for one image at a time says so.
        self._batch = _BATCH_IMAGES if spec.shape[0] < 0 else 1

    @classmethod
    def load(cls, content: bytes, inputs: Mapping[str, InputSpec]) -> Self:
        """Return the reader of an image.json.

        Raises:
            FailedPrecondition: the file is none, or makes tensors that the model does not take.
        """
        try:
            file = ImageFile.model_validate_json(content)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise _unreadable(f"{where}: {first['msg']}" if where else first["msg"]) from error
        spec = next(iter(inputs.values()))
        if len(inputs) != 1 or not spec.datatype.startswith("FP"):
            raise _unreadable("it is for a model of one input of floats")
        if len(spec.shape) != 4 or any(
            want not in (-1, size) for want, size in zip(spec.shape, (1, *file.shape), strict=True)
        ):
            raise _unreadable(f"it makes images of shape {list(file.shape)}, and the model takes {list(spec.shape)}")
        return cls(file, spec)

    def batches(self, images: Sequence[Item]) -> Iterator[dict[str, Array]]:
        """Yield the input of as many images as run together, in order. Blocks: use a thread.

        Raises:
            InvalidArgument: bytes are no PNG or JPEG image, or it is too large; the violation names it.
        """
        for start in range(0, len(images), self._batch):
            batch = [self._read(start + place, item) for place, item in enumerate(images[start : start + self._batch])]
            yield {self._spec.name: np.stack(batch)}

    def _read(self, index: int, content: Item) -> Array:
        assert isinstance(content, bytes)
        try:
            with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
                _check_size(index, image)
                pixels = self._fitted(image.convert(self._file.mode))
        except InvalidArgument:
            raise
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise _refused(index, f"at most {_MOST_PIXELS:,} pixels", "many more", "IMAGE_TOO_LARGE") from error
        except Exception as error:
            # Decoders fail in a dozen ways on bytes that are none of theirs, and say nothing that helps.
            raise _refused(index, "a PNG or JPEG image", "bytes that are none", "BAD_IMAGE") from error
        return self._tensor(np.asarray(pixels, dtype=np.float32))

    def _fitted(self, image: Image.Image) -> Image.Image:
        height, width = self._file.size
        resample = _RESAMPLING[self._file.resample]
        if self._file.fit == "stretch":
            return image.resize((width, height), resample)
        shorter = self._file.resize / min(image.size)
        factor = shorter or max(width / image.width, height / image.height)
        # Only what the crop keeps is resized: a strip a million pixels long would else become a huge image first.
        kept = (width / factor, height / factor)
        left, top = max((image.width - kept[0]) / 2, 0.0), max((image.height - kept[1]) / 2, 0.0)
        right, bottom = min(left + kept[0], float(image.width)), min(top + kept[1], float(image.height))
        return image.resize((width, height), resample, box=(left, top, right, bottom))

    def _tensor(self, pixels: Array) -> Array:
        values = pixels.reshape(*self._file.size, self._file.channels) * np.float32(self._file.scale)
        if self._file.mean:
            values -= np.array(self._file.mean, dtype=np.float32)
        if self._file.std:
            values /= np.array(self._file.std, dtype=np.float32)
        ordered = values.transpose(2, 0, 1) if self._file.layout == "NCHW" else values
        return np.ascontiguousarray(ordered, dtype=NUMPY_TYPES[self._spec.datatype])


def _check_size(index: int, image: Image.Image) -> None:
    if image.width * image.height > _MOST_PIXELS:
        raise _refused(
            index, f"at most {_MOST_PIXELS:,} pixels", f"{image.width:,} x {image.height:,}", "IMAGE_TOO_LARGE"
        )
    if image.mode in _WIDE_MODES:
        raise _refused(index, "eight bits a channel", f"mode {image.mode}", "BAD_IMAGE")


def _refused(index: int, expected: str, got: str, reason: str) -> InvalidArgument:
    return InvalidArgument(
        f"images[{index}]: expected {expected}, got {got}",
        reason=reason,
        violations=[(f"images[{index}]", f"expected {expected}, got {got}")],
    )


def _unreadable(why: str) -> FailedPrecondition:
    return FailedPrecondition(f"{_FILE}: {why}", reason="PREPROCESSING_UNREADABLE")
