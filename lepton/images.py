"""Images as the rows of a dataset: PNG or JPEG files, in base64, with their labels."""

import base64
import io
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from lepton import errors


def read_image(image: "bytes | bytearray | memoryview | str | Path") -> bytes:
    """Return an image's bytes, given as they are or as a file's path.

    Raises:
        WrongType: it is neither.
        OSError: the file cannot be read.
    """
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if not isinstance(image, str | Path):
        raise errors.WrongType(
            f"expected a PNG or JPEG file's path or bytes, got a {type(image).__name__}", reason="BAD_ARGUMENT"
        )
    return Path(image).read_bytes()


_ENDINGS = (".png", ".jpg", ".jpeg")


def load_images(source: str | Path, labels: str | Path | None = None) -> pd.DataFrame:
    """Return a frame of `image` and `label` from a folder or a .zip of PNG and JPEG files, in the order of their names.

    Args:
        source: the folder or archive.
        labels: a CSV whose first column is a file's path in it, and whose second is its label; by default each file's
            label is the folder that it lies in.

    Raises:
        InvalidArgument: there is no image, or one has no label.
    """
    files = dict(_files(Path(source)))
    if not files:
        raise errors.InvalidArgument(f"{source} holds no PNG or JPEG file", reason="NO_IMAGES")
    named = _named(labels) if labels is not None else {path: PurePosixPath(path).parent.name for path in files}
    nameless = [path for path in files if not named.get(path)]
    if nameless:
        raise errors.InvalidArgument(
            f"{len(nameless)} images have no label, {nameless[0]} the first: put them in folders named by labels, "
            "or give a CSV of paths and labels",
            reason="NO_LABEL",
        )
    images = [base64.b64encode(content).decode() for content in files.values()]
    return pd.DataFrame({"image": images, "label": [named[path] for path in files]})


def encode_images(pixels: "np.ndarray[Any, Any]", labels: Sequence[object]) -> pd.DataFrame:
    """Return a frame of `image` and `label` from an array.

    Args:
        pixels: (rows, height, width) or (rows, height, width, 3) whole numbers from 0 to 255.
        labels: (rows,) of them.

    Raises:
        InvalidArgument: the array is of another shape, or holds other values.
        ImportError: Pillow is not installed.
    """
    from PIL import Image

    if pixels.ndim not in (3, 4) or (pixels.ndim == 4 and pixels.shape[3] != 3) or len(pixels) != len(labels):
        raise errors.InvalidArgument(
            f"expected (rows, height, width) or (rows, height, width, 3) and a label a row, got {pixels.shape} and "
            f"{len(labels)} labels",
            reason="BAD_SHAPE",
        )
    whole = pixels.astype(np.uint8)
    if not np.array_equal(whole, pixels):
        raise errors.InvalidArgument("pixels must be whole numbers from 0 to 255: scale them", reason="BAD_PIXELS")
    images = []
    for image in whole:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        images.append(base64.b64encode(file.getvalue()).decode())
    return pd.DataFrame({"image": images, "label": list(labels)})


def _files(source: Path) -> Iterator[tuple[str, bytes]]:
    if source.is_dir():
        for path in sorted(source.rglob("*")):
            if path.suffix.lower() in _ENDINGS:
                yield path.relative_to(source).as_posix(), path.read_bytes()
        return
    try:
        with zipfile.ZipFile(source) as archive:
            for name in sorted(archive.namelist()):
                if PurePosixPath(name).suffix.lower() in _ENDINGS:
                    yield name, archive.read(name)
    except (OSError, zipfile.BadZipFile) as error:
        raise errors.InvalidArgument(f"{source} is neither a folder nor a .zip: {error}", reason="NO_IMAGES") from error


def _named(labels: str | Path) -> dict[str, str]:
    frame = pd.read_csv(labels, dtype=str)
    return dict(zip(frame.iloc[:, 0], frame.iloc[:, 1], strict=True))
