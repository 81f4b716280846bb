"""What a backend with tritonclient's asyncio client, or its raw stubs, does: ADDRESS CA TOKEN MODEL."""

import asyncio
import sys
from collections.abc import AsyncIterator

import grpc
import numpy as np
import tritonclient.grpc.aio as triton
from triton_client import credit_inputs
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException


async def main() -> None:
    """Ask by the client, down a stream, and by the stubs; print `conformant` at the end."""
    address, ca, token, model = sys.argv[1:]
    headers = {"authorization": f"Bearer {token}"}
    async with triton.InferenceServerClient(address, ssl=True, root_certificates=ca) as client:
        assert await client.is_server_ready(headers)
        assert not await client.is_model_ready("nobody", headers=headers)
        metadata = await client.get_model_metadata(model, headers=headers)
        inputs = credit_inputs(metadata)
        answers = await asyncio.gather(
            *(client.infer(model, inputs, request_id=str(place), headers=headers) for place in range(20))
        )
        assert [answer.get_response().id for answer in answers] == [str(place) for place in range(20)]
        expected = answers[0].as_numpy("probabilities")
        assert all(np.allclose(answer.as_numpy("probabilities"), expected, atol=1e-6) for answer in answers)
        try:
            await client.infer("nobody", inputs, headers=headers)
        except InferenceServerException as error:
            assert "NOT_FOUND" in str(error.status())
        else:
            raise AssertionError("nobody answered")
        await _stream(client, model, inputs, headers)
    await _stubs(address, ca, token, model)
    print("conformant")


async def _stream(client: triton.InferenceServerClient, model: str, inputs: list, headers: dict) -> None:
    async def requests() -> AsyncIterator[dict]:
        for place in range(5):
            name = "nobody" if place == 3 else model
            yield {"model_name": name, "inputs": inputs, "request_id": str(place)}

    told = [pair async for pair in client.stream_infer(requests(), headers=headers)]
    assert [result.get_response().id for result, error in told if error is None] == ["0", "1", "2", "4"]
    assert "nobody" in str(told[3][1])


async def _stubs(address: str, ca: str, token: str, model: str) -> None:
    with open(ca, "rb") as authority:
        credentials = grpc.ssl_channel_credentials(authority.read())
    async with grpc.aio.secure_channel(address, credentials) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        assert (await stub.ServerLive(service_pb2.ServerLiveRequest())).live
        metadata = (("authorization", f"Bearer {token}"),)
        described = await stub.ModelMetadata(service_pb2.ModelMetadataRequest(name=model), metadata=metadata)
        request = service_pb2.ModelInferRequest(model_name=model, id="typed")
        for tensor in described.inputs:
            given = request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=[1, 1])
            if tensor.datatype == "BYTES":
                given.contents.bytes_contents.append(b"no checking account")
            elif tensor.datatype == "FP64":
                given.contents.fp64_contents.append(24.0)
            else:
                given.contents.int64_contents.append(24)
        reply = await stub.ModelInfer(request, metadata=metadata, timeout=120)
        assert (reply.id, reply.model_name) == ("typed", model)
        # A typed request has a typed reply.
        assert not reply.raw_output_contents
        assert all(output.HasField("contents") for output in reply.outputs)
        for unbuilt in (
            stub.SystemSharedMemoryStatus(service_pb2.SystemSharedMemoryStatusRequest(), metadata=metadata),
            stub.TraceSetting(service_pb2.TraceSettingRequest(), metadata=metadata),
            stub.LogSettings(service_pb2.LogSettingsRequest(), metadata=metadata),
        ):
            try:
                await unbuilt
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.UNIMPLEMENTED, error.code()
            else:
                raise AssertionError("answered what is not built")


asyncio.run(main())
