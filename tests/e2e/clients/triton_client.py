"""What a backend with an unchanged tritonclient does: run in its own environment with ADDRESS CA TOKEN MODEL."""

import queue
import sys

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException


def main() -> None:
    """Ask everything that the protocol has, and print `conformant` at the end."""
    address, ca, token, model = sys.argv[1:]
    headers = {"authorization": f"Bearer {token}"}
    client = triton.InferenceServerClient(address, ssl=True, root_certificates=ca)
    assert client.is_server_live(headers)
    assert client.is_server_ready(headers)
    assert client.is_model_ready(model, headers=headers)
    assert not client.is_model_ready("nobody", headers=headers)
    assert client.get_server_metadata(headers).name == "lepton"
    metadata = client.get_model_metadata(model, headers=headers)
    assert metadata.platform == "onnxruntime_onnx"
    assert all(list(tensor.shape) == [-1, 1] for tensor in metadata.inputs)
    index = client.get_model_repository_index(headers)
    assert (model, metadata.versions[0], "READY") in {(row.name, row.version, row.state) for row in index.models}

    inputs = credit_inputs(metadata)
    answer = client.infer(model, inputs, request_id="an id", headers=headers)
    response = answer.get_response()
    assert response.id == "an id"
    assert response.model_version == metadata.versions[0]
    probabilities = answer.as_numpy("probabilities")
    assert probabilities.shape == (2, 2)
    assert np.allclose(probabilities.sum(axis=1), 1.0, atol=1e-6)
    assert answer.as_numpy("prediction").shape == (2, 1)

    wanted = [triton.InferRequestedOutput("probabilities", class_count=1)]
    top = client.infer(model, inputs, outputs=wanted, headers=headers).as_numpy("probabilities")
    value, place, label = top[0, 0].decode().split(":")
    assert float(value) == round(float(probabilities[0].max()), 6)
    assert label == ("bad", "good")[int(place)]

    compressed = client.infer(model, inputs, headers=headers, compression_algorithm="gzip")
    assert np.array_equal(compressed.as_numpy("probabilities"), probabilities)

    _refused(
        lambda: client.infer("nobody", inputs, headers=headers), "NOT_FOUND", "Request for unknown model: 'nobody'"
    )
    _refused(lambda: client.infer(model, inputs[1:], headers=headers), "INVALID_ARGUMENT", "every input")
    _refused(lambda: client.infer(model, inputs), "UNAUTHENTICATED", "token")
    _refused(lambda: client.infer(model, inputs, headers={"authorization": "Bearer x"}), "UNAUTHENTICATED", "token")
    _refused(lambda: client.get_cuda_shared_memory_status(headers=headers), "UNIMPLEMENTED", "")
    big = triton.InferInput("big", [1 << 20], "FP64")
    big.set_data_from_numpy(np.zeros(1 << 20))
    # 8 MiB, over gRPC's own default: it arrives, and is refused for what it is.
    _refused(lambda: client.infer(model, [big], headers=headers), "INVALID_ARGUMENT", "big")
    config = client.get_model_config(model, headers=headers).config
    assert (config.name, config.max_batch_size > 0) == (model, True)
    assert [list(tensor.dims) for tensor in config.input] == [[1]] * len(inputs)
    assert config.HasField("dynamic_batching")
    statistics = client.get_inference_statistics(model, headers=headers).model_stats[0]
    assert statistics.inference_stats.success.count >= 3
    assert statistics.inference_stats.success.ns > statistics.inference_stats.compute_infer.ns > 0
    assert statistics.execution_count >= 3
    assert statistics.inference_count >= 6
    assert sum(size.compute_infer.count for size in statistics.batch_stats) == statistics.execution_count
    _stream(client, model, inputs, headers)
    print("conformant")


def _stream(client: triton.InferenceServerClient, model: str, inputs: list, headers: dict) -> None:
    """Send three requests down one stream: the second is wrong, and told so in its place."""
    told: queue.Queue = queue.Queue()
    client.start_stream(lambda result, error: told.put((result, error)), headers=headers)
    client.async_stream_infer(model, inputs, request_id="first", enable_empty_final_response=True)
    client.async_stream_infer("nobody", inputs, request_id="second")
    client.async_stream_infer(model, inputs, request_id="third")
    found = [told.get(timeout=120) for _ in range(3)]
    client.stop_stream()
    assert [result.get_response().id for result, _ in (found[0], found[2])] == ["first", "third"]
    assert all(result.get_response().parameters["triton_final_response"].bool_param for result, _ in found[::2])
    assert found[0][0].as_numpy("probabilities").shape == (2, 2)
    assert "unknown model: 'nobody'" in str(found[1][1])


def credit_inputs(metadata: object) -> list:
    """Return two rows for a model of the credit data."""
    inputs = []
    for tensor in metadata.inputs:
        kinds = {"BYTES": object, "INT64": np.int64, "FP64": np.float64, "BOOL": np.bool_}
        value = "no checking account" if tensor.datatype == "BYTES" else 24
        array = np.full((2, 1), value, dtype=kinds[tensor.datatype])
        inputs.append(triton.InferInput(tensor.name, array.shape, tensor.datatype))
        inputs[-1].set_data_from_numpy(array)
    return inputs


def _refused(ask: object, status: str, text: str) -> None:
    try:
        ask()  # type: ignore[operator]
    except InferenceServerException as error:
        status_found, text_found = str(error.status()), error.message()
    else:
        status_found = text_found = "no error"
    assert status in status_found, (status_found, text_found)
    assert text in text_found, (status_found, text_found)


if __name__ == "__main__":
    main()
