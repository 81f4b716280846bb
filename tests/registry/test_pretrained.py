"""Pretrained weights in the registry: read by the limited child, READY, and nothing that is served or promoted."""

import json
import struct

import numpy as np
import pytest
from safetensors.numpy import save

from lepton.v1 import registry_pb2 as pb
from servicekit.errors import FailedPrecondition, InvalidArgument
from tests.registry.house import GOOD, Client, ref_of

WEIGHTS = save({"a": np.ones((2, 3), np.float32), "b": np.zeros(0, np.int64)})
FILES = {"config.json": b'{"model_type": "bert"}', "tokenizer.json": b"{}", "model.safetensors": WEIGHTS}


def _safetensors(header: object, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


async def test_weights_become_ready_and_are_never_promoted(developer: Client) -> None:
    version = await developer.register("minilm", FILES, pretrained=True, lineage=pb.Lineage(family="transformer"))
    assert (version.state, version.pretrained, version.uploaded) == (pb.VERSION_STATE_READY, True, True), version
    assert (version.lineage.family, len(version.signature.inputs)) == ("transformer", 0)
    assert await developer.download("minilm@1", "model.safetensors") == WEIGHTS
    with pytest.raises(FailedPrecondition, match="fine-tune it first") as refused:
        await developer.promote(ref_of(version))
    assert refused.value.reason == "VERSION_IS_PRETRAINED"


async def test_files_of_a_model_of_ours_are_weights_too(developer: Client) -> None:
    files = {"family.json": b'{"family": "cnn"}', "network.json": b"{}", "weights.safetensors": WEIGHTS}
    version = await developer.register("scans", files, pretrained=True, lineage=pb.Lineage(family="cnn"))
    assert (version.state, version.lineage.family) == (pb.VERSION_STATE_READY, "cnn")


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"config.json": b"{}", "model.safetensors": WEIGHTS}, "WEIGHTS_INCOMPLETE"),
        ({"config.json": b"{}", "tokenizer.json": b"{}"}, "WEIGHTS_INCOMPLETE"),
        ({**FILES, "model.onnx": GOOD}, "ARTIFACT_NOT_ALLOWED"),
        ({**FILES, "pytorch_model.bin": b"x"}, "ARTIFACT_NOT_ALLOWED"),
    ],
)
async def test_what_is_no_set_of_weights_takes_no_number(
    developer: Client, files: dict[str, bytes], reason: str
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await developer.create("minilm", files, pretrained=True)
    assert refused.value.reason == reason


_TENSOR = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("model.safetensors", b"\x80\x04", "too short"),
        ("model.safetensors", b"\xff" * 100, "header cannot be that long"),
        ("model.safetensors", _safetensors(b"not json"), "no JSON"),
        ("model.safetensors", _safetensors({}), "no tensor"),
        ("model.safetensors", _safetensors({"a": {**_TENSOR, "dtype": "PICKLE"}}, b"0000"), "not described"),
        ("model.safetensors", _safetensors({"a": {**_TENSOR, "shape": [2]}}, b"0000"), "size that its shape needs"),
        ("model.safetensors", _safetensors({"a": _TENSOR}, b"0000 and more"), "do not fill"),
        ("model.safetensors", _safetensors({"a": {**_TENSOR, "data_offsets": [4, 8]}}, b"0" * 8), "do not fill"),
        ("config.json", b"[" * 100_000, "no JSON"),
        ("tokenizer.json", b"[]", "no JSON object"),
    ],
)
async def test_weights_that_are_not_what_they_say_are_refused(
    developer: Client, name: str, content: bytes, says: str
) -> None:
    version = await developer.register("minilm", {**FILES, name: content}, pretrained=True)
    assert (version.state, version.error_reason) == (pb.VERSION_STATE_FAILED, "WEIGHTS_UNREADABLE")
    assert says in version.error_message
