"""Every RPC of the contract and of the Open Inference Protocol has its permission."""

import importlib
import pkgutil

import pytest
from google.protobuf.descriptor import ServiceDescriptor

import lepton.v1
from lepton.v1 import options_pb2
from servicekit.rpc.permissions import OPEN_INFERENCE_PERMISSIONS, OPEN_METHODS, method_permissions
from services.inference.open_inference import grpc_service_pb2
from tests.servicekit.rpc.desk import UNDECLARED, declare_undeclared

UNSPECIFIED = options_pb2.PERMISSION_UNSPECIFIED


def contract() -> list[ServiceDescriptor]:
    modules = [
        importlib.import_module(f"lepton.v1.{module.name}")
        for module in pkgutil.iter_modules(lepton.v1.__path__)
        if module.name.endswith("_pb2")
    ]
    return [service for module in modules for service in module.DESCRIPTOR.services_by_name.values()]


def test_contract_holds_the_platforms_services() -> None:
    assert {service.name for service in contract()} == {
        "DataService",
        "TrainingService",
        "RegistryService",
        "InferenceService",
        "PredictionService",
        "SchedulerService",
    }


@pytest.mark.parametrize("service", contract(), ids=lambda service: service.name)
def test_every_rpc_of_the_contract_declares_its_permission(service: ServiceDescriptor) -> None:
    declared = method_permissions([service.full_name])
    paths = [f"/{service.full_name}/{method.name}" for method in service.methods]
    assert [path for path in paths if declared.get(path, UNSPECIFIED) == UNSPECIFIED] == []


@pytest.mark.parametrize("service", contract(), ids=lambda service: service.name)
def test_reads_ask_for_reading_and_mutations_for_more(service: ServiceDescriptor) -> None:
    declared = method_permissions([service.full_name])
    for method in service.methods:
        reads = method.name.startswith(("Get", "List", "Watch", "Preview", "Read", "Download"))
        permission = declared[f"/{service.full_name}/{method.name}"]
        assert (permission == options_pb2.PERMISSION_READ) == reads, method.full_name


def test_every_rpc_of_open_inference_is_open_or_in_the_table() -> None:
    service = grpc_service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    paths = {f"/{service.full_name}/{method.name}" for method in service.methods}
    assert paths <= set(OPEN_INFERENCE_PERMISSIONS) | OPEN_METHODS
    assert not set(OPEN_INFERENCE_PERMISSIONS) & OPEN_METHODS


def test_rpc_that_declares_none_is_unspecified() -> None:
    declare_undeclared()
    assert method_permissions(["lepton.test.Undeclared"])[UNDECLARED] == UNSPECIFIED


def test_nothing_of_the_contract_is_open() -> None:
    assert [method for method in OPEN_METHODS if method.startswith("/lepton.")] == []
