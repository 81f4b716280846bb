"""Predict over a real worker: the port of the Open Inference Protocol, tokens, versions, statuses."""

import contextlib
import math

import pytest

from lepton.v1 import prediction_pb2 as pb
from lepton.v1.prediction_pb2_grpc import PredictionServiceStub
from servicekit.errors import InvalidArgument, LeptonError, NotFound, PermissionDenied, Unauthenticated, Unavailable
from services.inference.open_inference import grpc_service_pb2 as inference_pb
from tests.inference.house import until
from tests.inference.predict.bureau import Bureau
from tests.inference.predict.models import credit_probability, row
from tests.support.credentials import public_channel

RECORD = (1200.0, 12, "car", True)


def application(**changes: object) -> pb.Row:
    amount, months, purpose, urgent = RECORD
    return row(**{"amount": amount, "months": months, "purpose": purpose, "urgent": urgent, **changes})


async def test_row_becomes_a_label_with_probabilities(bureau: Bureau) -> None:
    answer = await bureau.predict("credit", application(creditability="bad", shoe_size=42))
    assert answer.version_number == 1
    assert len(answer.prediction_id) == 32
    (prediction,) = answer.predictions
    assert prediction.label == "good"
    assert math.isclose(prediction.probabilities["good"], credit_probability(*RECORD), abs_tol=1e-6)
    (price,) = (await bureau.predict("prices", row(size=20))).predictions
    assert list(price.values) == [41.0]


async def test_prediction_id_goes_in_the_trailers_too(bureau: Bureau) -> None:
    request = pb.PredictRequest(deployment="credit", rows=[application()])
    async with public_channel(bureau.worker.server.port, bureau.house.credentials) as channel:
        call = PredictionServiceStub(channel).Predict(request, metadata=bureau.who("viewer"))
        answer = await call
        trailers = dict(await call.trailing_metadata())
    assert trailers["lepton-prediction-id"] == answer.prediction_id
    assert str(trailers["lepton-provider"]).endswith("ExecutionProvider")


async def test_version_is_a_number_an_alias_or_the_deployments_own(bureau: Bureau) -> None:
    await bureau.house.developer.promote("credit@1", "champion")
    await bureau.house.deployments.update("credit", "version", version="credit@champion")

    async def is_known() -> bool:
        with contextlib.suppress(NotFound, Unavailable):
            return (await bureau.predict("credit", application(), version="champion")).version_number == 1
        return False

    await until(is_known, "the worker to know the alias")
    for version in ("", "1"):
        assert (await bureau.predict("credit", application(), version=version)).version_number == 1
    with pytest.raises(NotFound):
        await bureau.predict("credit", application(), version="7")
    with pytest.raises(NotFound):
        await bureau.predict("nothing", application())


async def test_wrong_value_is_refused_with_its_place(bureau: Bureau) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        await bureau.predict("credit", application(), application(amount="much"))
    assert refusal.value.reason == "BAD_ROW"
    assert refusal.value.violations == [
        ('rows[1].values["amount"]', "expected a number, or missing, got a text"),
    ]


async def test_refused_and_answered_rows_are_counted(bureau: Bureau) -> None:
    with pytest.raises(InvalidArgument):
        await bureau.predict("credit", application(amount="much"))
    await bureau.predict("credit", *[application()] * 200)
    request = inference_pb.ModelStatisticsRequest(name="credit")
    answer = await bureau.worker.stub.ModelStatistics(request, metadata=bureau.worker.metadata)
    (statistics,) = answer.model_stats
    assert (statistics.inference_count, statistics.inference_stats.fail.count) == (200, 1)


@pytest.mark.parametrize(
    "request_fields", [{}, {"rows": [pb.Row()], "texts": ["a"]}, {"texts": ["a"], "images": [b"a"]}]
)
async def test_request_has_exactly_one_kind_of_input(bureau: Bureau, request_fields: dict[str, object]) -> None:
    request = pb.PredictRequest(deployment="credit", **request_fields)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument) as refusal:
        await bureau.stub.Predict(request, metadata=bureau.who())
    assert refusal.value.reason == "ONE_INPUT"


async def test_tokens_are_asked_for(bureau: Bureau) -> None:
    request = pb.PredictRequest(deployment="credit", rows=[application()])
    with pytest.raises(Unauthenticated):
        await bureau.stub.Predict(request)
    with pytest.raises(NotFound):
        await bureau.stub.Predict(request, metadata=bureau.who("viewer", "other"))
    with pytest.raises(PermissionDenied):
        await anext(bureau.score("any@1", role="viewer"))


async def test_more_rows_than_a_request_takes_are_refused(bureau: Bureau) -> None:
    with pytest.raises(LeptonError) as refusal:
        await bureau.predict("prices", *[row(size=1)] * 10_001)
    assert refusal.value.reason == "FIELD_RULES"
