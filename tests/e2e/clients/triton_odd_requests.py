"""Requests that unchanged tritonclients send and that say little: ADDRESS REST_ADDRESS CA TOKEN."""

import ssl
import sys

import numpy as np
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http
from tritonclient.utils import InferenceServerException


def main() -> None:
    """Ask by both protocols, and print `conformant` at the end."""
    address, rest_address, ca, token = sys.argv[1:]
    headers = {"authorization": f"Bearer {token}"}
    grpc_client = over_grpc.InferenceServerClient(address, ssl=True, root_certificates=ca)
    http_client = over_http.InferenceServerClient(
        rest_address, ssl=True, ssl_context_factory=lambda: ssl.create_default_context(cafile=ca)
    )
    for module, client in ((over_grpc, grpc_client), (over_http, http_client)):
        for binary in (True, False):
            _tensors(module, client, headers, binary=binary)
        constant = client.infer("no-input", [], headers=dict(headers))
        assert constant.as_numpy("y").tolist() == [1.0, 2.0]
        absent = client.infer("optional", [], headers=dict(headers))
        assert not absent.as_numpy("y")
        _refused(module, client, headers)
    print("conformant")


def _tensors(module: object, client: object, headers: dict, *, binary: bool) -> None:
    arrays = {
        "echo": np.array([[np.inf, -np.inf, np.nan], [0.0, -0.0, 1e38]], np.float32),
        "any-rank": np.arange(4, dtype=np.float32).reshape(1, 2, 2),
        "halves": np.array([[0.5, -np.inf, 65504.0]], np.float16),
        "texts": np.array([["é", "", "c"]], dtype=object),
    }
    empty = {name: array[:0] for name, array in arrays.items()}
    for name, array in [*arrays.items(), *empty.items()]:
        # Twice: the second request is read another way.
        for _ in range(2):
            found = _infer(module, client, headers, name, array, binary=binary).as_numpy("y")
            assert found is not None, (name, array.shape)
            assert found.shape == array.shape, (name, found.shape)
            if array.dtype == object:
                assert [value.decode() if isinstance(value, bytes) else value for value in found.flat] == [*array.flat]
            else:
                assert found.dtype == array.dtype
                assert np.array_equal(found, array, equal_nan=True), (name, found)


def _refused(module: object, client: object, headers: dict) -> None:
    long = np.array(1 << 40, np.int64)
    for asked, statuses, text in (
        (lambda: _infer(module, client, headers, "counting", long, "n", timeout=300_000), ("DEADLINE", "504"), "long"),
        (lambda: _infer(module, client, headers, "failing", np.array([99])), ("INVALID_ARGUMENT", "400"), "operator"),
        (
            lambda: _infer(module, client, headers, "echo", np.ones((1, 3), np.float32), sequence_id=7),
            ("UNI", "501"),
            "",
        ),
        (lambda: _infer(module, client, headers, "echo", np.ones((1, 3), np.float32), priority=1), ("UNI", "501"), ""),
    ):
        try:
            asked()
        except InferenceServerException as error:
            assert any(status in str(error.status()) for status in statuses), (error.status(), error.message())
            assert text in error.message(), error.message()
        else:
            raise AssertionError(f"not refused: {statuses}")


def _infer(
    module: object,
    client: object,
    headers: dict,
    model: str,
    array: np.ndarray,
    name: str = "x",
    *,
    binary: bool = True,
    **options: object,
) -> object:
    datatypes = {"float32": "FP32", "float16": "FP16", "int64": "INT64", "object": "BYTES"}
    tensor = module.InferInput(name, array.shape, datatypes[str(array.dtype)])  # type: ignore[attr-defined]
    outputs = None
    if module is over_http and not binary:
        tensor.set_data_from_numpy(array, binary_data=False)
        outputs = [over_http.InferRequestedOutput("y", binary_data=False)]
    else:
        tensor.set_data_from_numpy(array)
    return client.infer(model, [tensor], outputs=outputs, headers=dict(headers), **options)  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
