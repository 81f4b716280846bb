"""What a backend with tritonclient's unchanged HTTP client does: ADDRESS (of the REST port) CA TOKEN MODEL."""

import ssl
import sys

import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException


def main() -> None:
    """Ask by JSON and by binary data, and print `conformant` at the end."""
    address, ca, token, model = sys.argv[1:]
    headers = {"authorization": f"Bearer {token}"}
    client = triton.InferenceServerClient(
        address, ssl=True, ssl_context_factory=lambda: ssl.create_default_context(cafile=ca)
    )
    assert client.is_server_live(headers)
    assert client.is_server_ready(headers)
    assert client.is_model_ready(model, headers=headers)
    assert not client.is_model_ready("nobody", headers=headers)
    assert client.get_server_metadata(headers)["name"] == "lepton"
    metadata = client.get_model_metadata(model, headers=headers)
    assert metadata["platform"] == "onnxruntime_onnx"
    assert client.get_model_config(model, headers=headers)["max_batch_size"] > 0
    index = client.get_model_repository_index(headers)
    assert (model, "READY") in {(row["name"], row["state"]) for row in index}

    # The client writes its own headers into the mapping that it is given: a copy for each call.
    binary = client.infer(model, _inputs(metadata, binary=True), request_id="an id", headers=dict(headers))
    assert binary.get_response()["id"] == "an id"
    expected = binary.as_numpy("probabilities")
    assert expected.shape == (2, 2)
    wanted = [
        triton.InferRequestedOutput("probabilities", binary_data=False),
        triton.InferRequestedOutput("prediction", binary_data=True),
    ]
    plain = client.infer(
        model,
        _inputs(metadata, binary=False),
        outputs=wanted,
        headers=dict(headers),
        request_compression_algorithm="gzip",
        response_compression_algorithm="deflate",
    )
    assert np.allclose(plain.as_numpy("probabilities"), expected, atol=1e-6)
    assert np.array_equal(plain.as_numpy("prediction"), binary.as_numpy("prediction"))
    top = [triton.InferRequestedOutput("probabilities", class_count=1)]
    classified = client.infer(model, _inputs(metadata, binary=True), outputs=top, headers=dict(headers))
    assert classified.as_numpy("probabilities").shape == (2, 1)
    asynchronous = client.async_infer(model, _inputs(metadata, binary=True), headers=dict(headers)).get_result()
    assert np.array_equal(asynchronous.as_numpy("probabilities"), expected)
    statistics = client.get_inference_statistics(model, headers=dict(headers))["model_stats"][0]
    assert statistics["inference_stats"]["success"]["count"] >= 1

    _refused(
        lambda: client.infer("nobody", _inputs(metadata, binary=True), headers=dict(headers)), "unknown model: 'nobody'"
    )
    _refused(lambda: client.infer(model, _inputs(metadata, binary=True)[1:], headers=dict(headers)), "every input")
    _refused(lambda: client.infer(model, _inputs(metadata, binary=True)), "token")
    print("conformant")


def _inputs(metadata: dict, *, binary: bool) -> list:
    inputs = []
    for tensor in metadata["inputs"]:
        kinds = {"BYTES": object, "INT64": np.int64, "FP64": np.float64, "BOOL": np.bool_}
        value = "no checking account" if tensor["datatype"] == "BYTES" else 24
        array = np.full((2, 1), value, dtype=kinds[tensor["datatype"]])
        inputs.append(triton.InferInput(tensor["name"], array.shape, tensor["datatype"]))
        inputs[-1].set_data_from_numpy(array, binary_data=binary)
    return inputs


def _refused(ask: object, text: str) -> None:
    try:
        ask()  # type: ignore[operator]
    except InferenceServerException as error:
        assert text in error.message(), error.message()
    else:
        raise AssertionError(f"no error: {text}")


main()
