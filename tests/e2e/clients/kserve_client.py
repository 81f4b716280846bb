"""What a backend with KServe's unchanged client does: run in its own environment with ADDRESS CA TOKEN MODEL."""

import asyncio
import ssl
import sys

import grpc
import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc

_COLUMNS = {
    "number": ("INT64", np.int64, 24),
    "text": ("BYTES", np.object_, "no checking account"),
}


async def main() -> None:
    """Ask for health, readiness and a prediction, and print `conformant` at the end."""
    address, ca, token, model, rest, *columns = sys.argv[1:]
    headers = (("authorization", f"Bearer {token}"),)
    client = InferenceGRPCClient(address, use_ssl=True, root_certificates=ca)
    async with client:
        assert await client.is_server_live(headers=headers)
        assert await client.is_server_ready(headers=headers)
        assert await client.is_model_ready(model, headers=headers)
        inputs = []
        for column in columns:
            name, kind = column.split("=")
            datatype, dtype, value = _COLUMNS[kind]
            inputs.append(InferInput(name, [2, 1], datatype))
            inputs[-1].set_data_from_numpy(np.full((2, 1), value, dtype=dtype), binary_data=True)
        answer = await client.infer(InferRequest(model, inputs, request_id="an id"), headers=headers)
        assert answer.id == "an id"
        outputs = {output.name: output.as_numpy() for output in answer.outputs}
        assert outputs["prediction"].shape == (2, 1)
        assert np.allclose(outputs["probabilities"].sum(axis=1), 1.0, atol=1e-6)
        try:
            await client.infer(InferRequest(model, inputs[1:]), headers=headers)
        except grpc.aio.AioRpcError as error:
            code = error.code()
        else:
            code = grpc.StatusCode.OK
        assert code is grpc.StatusCode.INVALID_ARGUMENT, code
        await _rest(rest, ca, dict(headers), model, inputs, outputs["probabilities"])
    await _stubs(address, ca, headers, model)
    print("conformant")


async def _rest(
    url: str, ca: str, headers: dict[str, str], model: str, inputs: list[InferInput], expected: np.ndarray
) -> None:
    """Ask the same over REST."""
    client = InferenceRESTClient(RESTConfig(protocol="v2", verify=ssl.create_default_context(cafile=ca)))
    assert await client.is_server_live(url, headers=headers)
    assert await client.is_server_ready(url, headers=headers)
    assert await client.is_model_ready(url, model, headers=headers)
    request = InferRequest(model, inputs, request_id="an id")
    answer = await client.infer(url, request, model_name=model, headers=headers)
    assert answer.id == "an id"
    outputs = {output.name: output.as_numpy() for output in answer.outputs}
    assert np.allclose(outputs["probabilities"], expected, atol=1e-6)


async def _stubs(address: str, ca: str, headers: tuple[tuple[str, str], ...], model: str) -> None:
    """Ask by the stubs of KServe's own proto, whose load message has the model's name first."""
    with open(ca, "rb") as authority:
        credentials = grpc.ssl_channel_credentials(authority.read())
    async with grpc.aio.secure_channel(address, credentials) as channel:
        stub = grpc_predict_v2_pb2_grpc.GRPCInferenceServiceStub(channel)
        described = await stub.ModelMetadata(pb.ModelMetadataRequest(name=model), metadata=headers)
        assert described.platform == "onnxruntime_onnx"
        # It is deployed: loading it once more changes nothing.
        await stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name=model), metadata=headers)


asyncio.run(main())
