"""Images become rows: from folders, archives and arrays."""

import base64
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lepton import errors
from lepton.images import encode_images, load_images


def _write(path: Path, grey: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4), grey, dtype=np.uint8)).save(path)


def test_a_folders_names_are_the_labels(tmp_path: Path) -> None:
    _write(tmp_path / "cat" / "b.png", 1)
    _write(tmp_path / "cat" / "a.JPG", 2)
    _write(tmp_path / "dog" / "c.png", 3)
    (tmp_path / "dog" / "notes.txt").write_text("no image")
    found = load_images(tmp_path)
    assert list(found["label"]) == ["cat", "cat", "dog"]
    assert base64.b64decode(found["image"][2]) == (tmp_path / "dog" / "c.png").read_bytes()


def test_labels_may_stand_in_a_csv(tmp_path: Path) -> None:
    _write(tmp_path / "x" / "1.png", 1)
    _write(tmp_path / "x" / "2.png", 2)
    (tmp_path / "labels.csv").write_text("file,label\nx/1.png,ill\nx/2.png,well\n")
    assert list(load_images(tmp_path, tmp_path / "labels.csv")["label"]) == ["ill", "well"]
    (tmp_path / "labels.csv").write_text("file,label\nx/1.png,ill\n")
    with pytest.raises(errors.InvalidArgument, match=r"1 images have no label, x/2.png the first"):
        load_images(tmp_path, tmp_path / "labels.csv")


def test_what_holds_no_labelled_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidArgument, match="holds no PNG"):
        load_images(tmp_path)
    (tmp_path / "a.zip").write_bytes(b"no archive")
    with pytest.raises(errors.InvalidArgument, match="neither a folder nor"):
        load_images(tmp_path / "a.zip")
    _write(tmp_path / "1.png", 1)
    with pytest.raises(errors.InvalidArgument, match="have no label"):
        load_images(tmp_path)


def test_an_array_comes_back_from_its_rows() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 5, 6, 3))
    found = encode_images(pixels, ["a", "b", "c"])
    back = [np.asarray(Image.open(io.BytesIO(base64.b64decode(image)))) for image in found["image"]]
    np.testing.assert_array_equal(back, pixels)


@pytest.mark.parametrize(
    "pixels", [np.full((2, 4, 4), 0.5), np.full((2, 4, 4), 256), np.zeros((2, 4)), np.zeros((3, 4, 4))]
)
def test_arrays_that_are_no_images_are_refused(pixels: "np.ndarray[Any, Any]") -> None:
    with pytest.raises(errors.InvalidArgument):
        encode_images(pixels, ["a", "b"])


def test_what_systems_put_beside_files_is_left_out(tmp_path: Path) -> None:
    _write(tmp_path / "cat" / "i.png", 1)
    for name in ("__MACOSX/cat/._i.png", "cat/._i.png", "cat/.DS_Store", "cat/Thumbs.db", ".hidden/x.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"no image")
    assert list(load_images(tmp_path)["label"]) == ["cat"]
    with zipfile.ZipFile(tmp_path / "mac.zip", "w") as archive:
        for path in sorted(tmp_path.rglob("*")):
            if path.suffix != ".zip":
                archive.write(path, path.relative_to(tmp_path))
    assert list(load_images(tmp_path / "mac.zip")["label"]) == ["cat"]


@pytest.mark.parametrize("ending", ["bmp", "gif", "webp", "tiff"])
def test_other_formats_become_png(tmp_path: Path, ending: str) -> None:
    (tmp_path / "cat").mkdir()
    pixels = np.full((4, 4, 3), 200, dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "cat" / f"a.{ending}", lossless=True)
    found = load_images(tmp_path)
    with Image.open(io.BytesIO(base64.b64decode(found["image"][0]))) as image:
        assert image.format == "PNG"
        assert np.array_equal(np.asarray(image.convert("RGB")), pixels)


def test_images_that_are_not_read_are_counted(tmp_path: Path) -> None:
    _write(tmp_path / "cat" / "a.png", 1)
    for name in ("b.heic", "c.heic", "d.svg"):
        (tmp_path / "cat" / name).write_bytes(b"x")
    with pytest.warns(UserWarning, match=r"left out 3 images .*\(2 .heic, 1 .svg\)"):
        assert len(load_images(tmp_path)) == 1


def test_image_that_cannot_be_converted_is_named(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.bmp").write_bytes(b"BM no image")
    with pytest.raises(errors.InvalidArgument, match=r"cat/a.bmp cannot be read"):
        load_images(tmp_path)
