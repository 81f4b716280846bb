"""Images to pixels of one size, by Pillow: twice the same, for image.json tells whoever serves the model how.

A table holds an image as text: the PNG or JPEG file in base64.
"""

import base64
import binascii
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from servicekit.errors import InvalidArgument
from services.training.domain.families.frame import Array

_FORMATS = ("PNG", "JPEG")
# As many as a request may have at prediction: a file of a few kilobytes can say that it has billions.
_MOST_PIXELS = 25_000_000
_WIDE_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_NAMED = 5


@dataclass(frozen=True)
class ImageFormat:
    """From an image of any size to a tensor: value = (pixel / 255 - mean) / std.

    Args:
        size: height and width, pixels; images are stretched to it.
        mode: RGB for three channels, L for one (grey).
        mean, std: one a channel.
    """

    size: int
    mode: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def to_json(self) -> bytes:
        """Return image.json, which tells how to read images for this model."""
        described = {
            "size": [self.size, self.size],
            "mode": self.mode,
            "mean": self.mean,
            "std": self.std,
            "fit": "stretch",
            "resample": "bilinear",
        }
        return json.dumps(described, sort_keys=True).encode()

    @classmethod
    def read(cls, content: bytes) -> "ImageFormat":
        """Return what image.json says."""
        found = json.loads(content)
        return cls(found["size"][0], found["mode"], tuple(found["mean"]), tuple(found["std"]))

    def tensor(self, pixels: Array) -> Array:
        """Return (rows, channels, size, size) float32 of (rows, size, size, channels) pixels."""
        values = pixels * np.float32(1 / 255)
        values -= np.array(self.mean, dtype=np.float32)
        values /= np.array(self.std, dtype=np.float32)
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2))


def read_pixels(images: Sequence[str], size: int, mode: str) -> Array:
    """Return (rows, size, size, channels) uint8 pixels of images in base64.

    Raises:
        InvalidArgument: some are no images; it names their rows.
    """
    found = np.zeros((len(images), size, size, 3 if mode == "RGB" else 1), dtype=np.uint8)
    broken = []
    for place, pixels in enumerate(_each(images, size, mode)):
        if pixels is None:
            broken.append(place)
        else:
            found[place] = pixels
    if broken:
        raise broken_images(broken)
    return found


def readable(images: Sequence[str]) -> Array:
    """Return (rows,) whether each is an image."""
    return np.array([pixels is not None for pixels in _each(images, 1, "L")], dtype=bool)


def broken_images(rows: Sequence[int]) -> InvalidArgument:
    """Return the error that names rows, from 0, whose images cannot be read."""
    return InvalidArgument(f"{named(rows)}; drop them, or set corrupt_images='skip'", reason="CORRUPT_IMAGES")


def named(rows: Sequence[int]) -> str:
    """Name rows, from 0, whose images cannot be read, for people."""
    listed = ", ".join(str(row + 1) for row in rows[:_NAMED]) + (", ..." if len(rows) > _NAMED else "")
    return f"{len(rows)} rows hold no PNG or JPEG image in base64 of at most {_MOST_PIXELS:,} pixels: rows {listed}"


def _each(images: Sequence[str], size: int, mode: str) -> Iterator[Array | None]:
    channels = 3 if mode == "RGB" else 1
    for text in images:
        try:
            content = base64.b64decode(text, validate=True)
            with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
                if image.width * image.height > _MOST_PIXELS or image.mode in _WIDE_MODES:
                    yield None
                    continue
                fitted = image.convert(mode).resize((size, size), Image.Resampling.BILINEAR)
        except (binascii.Error, ValueError, OSError, SyntaxError, Image.DecompressionBombError):
            # Decoders fail in a dozen ways on bytes that are none of theirs.
            yield None
            continue
        yield np.asarray(fitted, dtype=np.uint8).reshape(size, size, channels)
