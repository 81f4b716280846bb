"""What travels with an ONNX file: the files that it reads weights from, found beside it, and an example."""

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lepton import errors
from lepton.model_files import gather, to_artifact, to_example, weight_files
from tests.support import foreign_models as foreign
from tests.support import onnx_models


def test_files_of_weights_are_found_beside_the_model(tmp_path: Path) -> None:
    long = "w" * 127
    content, files = foreign.external(["a.bin", "model.onnx.data", long])
    for name, data in {"big.onnx": content, "other.txt": b"x", **files}.items():
        (tmp_path / name).write_bytes(data)
    found = gather(tmp_path / "big.onnx", [tmp_path / "other.txt"], None)
    assert set(found) == {"model.onnx", "other.txt", *files}
    assert found["model.onnx"] == content
    # What was given by name goes before, and what is missing the registry names.
    given = tmp_path / "sub" / "a.bin"
    given.parent.mkdir()
    given.write_bytes(b"given")
    (tmp_path / long).unlink()
    found = gather(str(tmp_path / "big.onnx"), [given], None)
    assert found["a.bin"] == given
    assert long not in found


def test_names_that_leave_the_folder_are_not_followed() -> None:
    for location in ("../secret", "/etc/hostname", "a/b", ""):
        assert weight_files(foreign.external([location])[0]) == set()
    assert weight_files(onnx_models.linear_model()) == set()


def test_digest_and_size_are_those_of_the_bytes(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000
    (tmp_path / "w").write_bytes(content)
    for given in (content, tmp_path / "w"):
        artifact = to_artifact("w", given)
        assert (artifact.sha256, artifact.size_bytes) == (hashlib.sha256(content).hexdigest(), len(content))


ARRAYS: dict[str, Any] = {
    "x": np.array([[0.1, np.inf]], np.float32),
    "ids": np.array([1, -2], np.int64),
    "mask": np.array(True),
    "t": np.array(["ä", "b"]),
    "half": np.array([0.5], np.float16),
}


@pytest.mark.parametrize("kind", ["mapping", "npz", "json"])
def test_example_becomes_an_open_inference_request(tmp_path: Path, kind: str) -> None:
    given: Any = ARRAYS
    if kind == "npz":
        given = tmp_path / "example.npz"
        np.savez(given, **ARRAYS)
    elif kind == "json":
        given = tmp_path / "request.json"
        given.write_bytes(to_example(ARRAYS))
    found = {item["name"]: item for item in json.loads(to_example(given))["inputs"]}
    assert {name: (item["datatype"], item["shape"]) for name, item in found.items()} == {
        "x": ("FP32", [1, 2]),
        "ids": ("INT64", [2]),
        "mask": ("BOOL", []),
        "t": ("BYTES", [2]),
        "half": ("FP16", [1]),
    }
    assert np.array(found["x"]["data"], np.float32).tolist() == ARRAYS["x"].reshape(-1).tolist()
    assert (found["mask"]["data"], found["t"]["data"]) == ([True], ["ä", "b"])


def test_plain_lists_and_json_of_arrays_are_examples(tmp_path: Path) -> None:
    (tmp_path / "e.json").write_text('{"x": [[1, 2]]}')
    for given in ({"x": [[1, 2]]}, tmp_path / "e.json"):
        (tensor,) = json.loads(to_example(given))["inputs"]
        assert (tensor["datatype"], tensor["shape"], tensor["data"]) == ("INT64", [1, 2], [1, 2])


def test_what_is_no_example_is_refused_and_never_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "objects.npz", x=np.array([{"a": 1}], dtype=object))
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 broken")
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "deep.json").write_text("[" * 200_000)
    with zipfile.ZipFile(tmp_path / "huge.npz", "w") as archive, archive.open("x.npy", "w") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (1 << 50, 2)}
        np.lib.format.write_array_header_1_0(file, header)
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "e.csv").write_text("x")
    names = ("objects.npz", "broken.npz", "broken.json", "deep.json", "huge.npz", "list.json", "e.csv", "missing.npz")
    bad: list[Any] = [
        *(tmp_path / name for name in names),
        {"x": object()},
        {"x": [[1], [2, 3]]},
        {"x": np.array([1j])},
    ]
    for given in bad:
        with pytest.raises(errors.InvalidArgument):
            to_example(given)
