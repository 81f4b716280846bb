"""Images as the rows of a dataset: PNG or JPEG files, in base64, with their labels.

Files of other image formats are converted to PNG. Files that operating systems add are left out.
"""

import base64
import io
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
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
_CONVERTED = (".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".jfif")
# Images that are not read: how many were left out is said.
_UNREAD = (".heic", ".heif", ".avif", ".svg", ".jp2", ".jxl", ".ico", ".psd", ".raw", ".cr2", ".nef", ".dng", ".exr")
_SYSTEM_NAMES = ("__MACOSX", "Thumbs.db", "desktop.ini", "$RECYCLE.BIN", "@eaDir")


def load_images(source: str | Path, labels: str | Path | None = None) -> pd.DataFrame:
    """Return a frame of `image` and `label` from a folder or a .zip of image files, in the order of their names.

    PNG and JPEG files are taken as they are; BMP, GIF (the first picture), WebP, TIFF and PNM files become PNG.
    Hidden files and those of operating systems (__MACOSX, ._x.png, .DS_Store, Thumbs.db) are left out. Images of other
    formats are left out with a warning that counts them.

    Args:
        source: the folder or archive.
        labels: a CSV whose first column is a file's path in it, and whose second is its label; by default each file's
            label is the folder that it lies in.

    Raises:
        InvalidArgument: there is no image, one has no label, or one cannot be converted.
    """
    files = dict(_files(Path(source)))
    if not files:
        raise errors.InvalidArgument(f"{source} holds no PNG, JPEG, BMP, GIF, WebP or TIFF file", reason="NO_IMAGES")
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
    left_out: Counter[str] = Counter()
    for name, read in _entries(source):
        path = PurePosixPath(name)
        ending = path.suffix.lower()
        if _is_of_system(path):
            continue
        if ending in _ENDINGS:
            yield name, read()
        elif ending in _CONVERTED:
            yield name, _as_png(name, read())
        elif ending in _UNREAD:
            left_out[ending] += 1
    if left_out:
        counts = ", ".join(f"{count} {ending}" for ending, count in sorted(left_out.items()))
        warnings.warn(
            f"left out {left_out.total()} images of formats that are not read ({counts}): convert them to PNG or JPEG",
            stacklevel=4,
        )


def _entries(source: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Yield each file's name and what reads it."""
    if source.is_dir():
        for path in sorted(source.rglob("*")):
            if path.is_file():
                yield path.relative_to(source).as_posix(), path.read_bytes
        return
    try:
        with zipfile.ZipFile(source) as archive:
            for entry in sorted(archive.infolist(), key=lambda entry: entry.filename):
                if not entry.is_dir():
                    yield entry.filename, partial(archive.read, entry)
    except (OSError, zipfile.BadZipFile) as error:
        raise errors.InvalidArgument(f"{source} is neither a folder nor a .zip: {error}", reason="NO_IMAGES") from error


def _is_of_system(path: PurePosixPath) -> bool:
    return any(part.startswith(".") or part in _SYSTEM_NAMES for part in path.parts)


def _as_png(name: str, content: bytes) -> bytes:
    """Return an image file's first picture as PNG.

    Raises:
        InvalidArgument: it is no such image, or Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise errors.InvalidArgument(
            f"{name} must be converted, which needs Pillow: install it (pip install pillow), or make it a PNG",
            reason="BAD_IMAGE",
        ) from error
    file = io.BytesIO()
    try:
        with Image.open(io.BytesIO(content)) as image:
            mode = image.mode if image.mode in ("L", "RGB") else "RGB"
            image.convert(mode).save(file, "PNG")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise errors.InvalidArgument(f"{name} cannot be read as an image", reason="BAD_IMAGE") from error
    return file.getvalue()


def _named(labels: str | Path) -> dict[str, str]:
    frame = pd.read_csv(labels, dtype=str)
    return dict(zip(frame.iloc[:, 0], frame.iloc[:, 1], strict=True))
