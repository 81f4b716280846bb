"""Every file of the contract names the package that each language's generator makes of it."""

from importlib import import_module
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from services.inference.open_inference import grpc_service_pb2

PROTOS = sorted((Path(__file__).parents[2] / "protos" / "lepton" / "v1").glob("*.proto"))


@pytest.mark.parametrize("path", PROTOS, ids=lambda path: path.stem)
def test_generators_of_other_languages_find_their_package(path: Path) -> None:
    file = FileDescriptorProto()
    import_module(f"lepton.v1.{path.stem}_pb2").DESCRIPTOR.CopyToProto(file)
    assert file.package == "lepton.v1"
    assert file.options.go_package == "lepton.ai/api/lepton/v1;leptonv1"
    # Not the package of Python: one class per message, no outer class.
    assert file.options.java_package == "ai.lepton.v1"
    assert file.options.java_multiple_files
    assert file.options.csharp_namespace == "Lepton.V1"


def test_the_inference_protocol_keeps_its_wire_name_and_the_classes_of_its_published_file() -> None:
    file = FileDescriptorProto()
    grpc_service_pb2.DESCRIPTOR.CopyToProto(file)
    assert file.package == "inference"
    assert file.options.go_package == "lepton.ai/api/inference;inference"
    assert (file.options.java_package, file.options.java_outer_classname) == ("inference", "GrpcService")
    assert not file.options.java_multiple_files
    assert file.options.csharp_namespace == "Inference"
