"""Models made elsewhere on a whole platform: uploaded by SDK and command line, deployed, and asked."""

import warnings
from pathlib import Path

import numpy as np
import pytest

import lepton
from lepton import open_inference
from lepton.connection import Connection
from lepton.v1 import common_pb2
from tests.support import foreign_models as foreign
from tests.support.platform import Platform


def _answers(
    connection: Connection, name: str, **inputs: "np.ndarray[tuple[int, ...], np.dtype[np.float32]]"
) -> dict[str, list[object]]:
    specs = [(common_pb2.TensorSpec(name=key, datatype="FP32"), array) for key, array in inputs.items()]
    lepton.Deploy(name, connection=connection).wait(120.0)
    found = open_inference.infer(connection.serving_channel, name, "", specs, 60.0)
    return {key: array.tolist() for key, array in found.items()}


def test_default_export_of_scikit_learn_is_served_with_its_probabilities(platform: Platform, tmp_path: Path) -> None:
    (tmp_path / "clf.onnx").write_bytes(foreign.classifier(("good", "bad")))
    uploaded = platform.lepton("models", "upload", "zipped", str(tmp_path / "clf.onnx"))
    assert "warning: output 'probabilities' is served as a tensor" in uploaded.stderr
    shown = platform.lepton("models", "show", "zipped")
    assert "ZipMap" in shown.stdout
    platform.lepton("deploy", "zipped")
    found = _answers(platform.connect(), "zipped", x=np.zeros((2, 2), np.float32))
    assert found == {"label": [0, 0], "probabilities": [[0.5, 0.5], [0.5, 0.5]]}


def test_model_of_several_files_and_one_with_an_example_are_served(platform: Platform, tmp_path: Path) -> None:
    connection = platform.connect()
    content, files = foreign.external(["big.onnx.data", "more"], width=2048)
    for name, data in {"big.onnx": content, **files}.items():
        (tmp_path / name).write_bytes(data)
    # The second file lies elsewhere, so it is named.
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "more").rename(tmp_path / "elsewhere" / "more")
    refused = platform.lepton("models", "upload", "big", str(tmp_path / "big.onnx"), check=False)
    assert refused.returncode == 1
    assert "more is missing" in refused.stderr
    more = ("--file", str(tmp_path / "elsewhere" / "more"))
    platform.lepton("models", "upload", "big", str(tmp_path / "big.onnx"), *more)
    platform.lepton("deploy", "big@2")
    assert _answers(connection, "big", x=np.zeros((1, 2048), np.float32)) == {"y": [[3.0] * 2048]}

    np.savez(tmp_path / "example.npz", x=np.ones((1, 777), np.float32))
    (tmp_path / "frames.onnx").write_bytes(foreign.of_frames(777))
    example = ("--example", str(tmp_path / "example.npz"))
    uploaded = platform.lepton("models", "upload", "frames", str(tmp_path / "frames.onnx"), *example)
    assert "warning" not in uploaded.stderr
    with pytest.warns(UserWarning, match="sample prediction failed"):
        plain = lepton.ModelVersion.upload("frames", tmp_path / "frames.onnx", connection=connection)
    assert plain.state == "READY"
    assert len(plain.warnings) == 1
    platform.lepton("deploy", "frames@2")
    assert _answers(connection, "frames", x=np.full((1, 777), 3.0, np.float32)) == {"y": [[3.0]]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        array = np.ones((1, 777), np.float32)
        lepton.ModelVersion.upload("frames", tmp_path / "frames.onnx", example={"x": array}, connection=connection)


@pytest.mark.slow
def test_model_of_more_than_two_gigabytes_is_served(platform: Platform, tmp_path: Path) -> None:
    rows, width = 600_000, 1024
    size = 4 * rows * width
    assert size > 1 << 31
    last = np.arange(width, dtype=np.float32)
    with open(tmp_path / "huge.onnx.data", "wb") as file:
        # Zeros that take no room on the disk, and one row that says whether offsets beyond 2 GiB are right.
        file.truncate(size)
        file.seek(size - last.nbytes)
        file.write(last.tobytes())
    (tmp_path / "huge.onnx").write_bytes(foreign.look_up("huge.onnx.data", rows, width))
    connection = platform.connect()
    version = lepton.ModelVersion.upload("huge", tmp_path / "huge.onnx", connection=connection)
    assert (version.state, list(version.message.weight_files)) == ("READY", ["huge.onnx.data"])
    deployment = lepton.Deploy(version, resources={"memory_bytes": 6 << 30}).save()
    deployment.wait(600.0)
    spec = common_pb2.TensorSpec(name="i", datatype="INT64")
    asked = np.array([0, rows - 1], np.int64)
    found = open_inference.infer(connection.serving_channel, "huge", "", [(spec, asked)], 120.0)["y"]
    assert found[0].tolist() == [0.0] * width
    assert found[1].tolist() == last.tolist()
    deployment.delete()
