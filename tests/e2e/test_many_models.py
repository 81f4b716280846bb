"""Hundreds of small models on two cores, before and after a restart of every worker."""

import time
from pathlib import Path

import pytest

from lepton.connection import Connection
from lepton.deployment import Deploy
from lepton.errors import Unavailable
from lepton.v1 import inference_pb2
from lepton.versions import ModelVersion
from services.inference.open_inference import grpc_service_pb2 as pb
from services.inference.open_inference.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from tests.support import onnx_models
from tests.support.platform import Platform, wait_for

_DEPLOYMENTS = 200


def _answers(connection: Connection, name: str) -> float | None:
    """Return a deployment's answer; None while it says that it is not served yet."""
    request = pb.ModelInferRequest(model_name=name)
    request.inputs.add(name="x", datatype="FP32", shape=[1, 2]).contents.fp32_contents.extend([1.0, 1.0])
    try:
        reply = GRPCInferenceServiceStub(connection.serving_channel).ModelInfer(request)
    except Unavailable:
        return None
    return float(reply.outputs[0].contents.fp32_contents[0])


@pytest.mark.slow
def test_two_hundred_tiny_models_are_served_and_come_back_after_a_restart(
    own_platform: Platform, tmp_path: Path
) -> None:
    platform = own_platform
    connection = platform.connect()
    path = tmp_path / "tiny.onnx"
    path.write_bytes(onnx_models.linear_model((1.0, 1.0), 0.5))
    version = ModelVersion.upload("tiny", path, connection=connection)
    began = time.monotonic()
    deployments = [
        Deploy(version, name=f"tiny-{number}", connection=connection).save() for number in range(_DEPLOYMENTS)
    ]
    for deployment in deployments:
        assert deployment.wait(600.0).state == inference_pb2.DEPLOYMENT_STATE_READY
    print(f"{_DEPLOYMENTS} deployments were ready after {time.monotonic() - began:.1f} s")
    assert {_answers(connection, item.name) for item in deployments} == {2.5}
    # What asks for more than there is waits, and takes nothing from the others.
    Deploy(version, name="large", cores=1000.0, connection=connection).save()
    for process in platform.status():
        if process.startswith("inference-worker"):
            platform.kill(process)
    platform.wait_healthy(600.0)
    wait_for(
        lambda: all(_answers(connection, item.name) == 2.5 for item in deployments), 600.0, "every model to answer"
    )
    assert (
        connection.inference.GetDeployment(inference_pb2.GetDeploymentRequest(name="large")).waiting_reason
        == "TOO_LARGE"
    )
