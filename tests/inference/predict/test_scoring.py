"""A dataset version scored into a new one: the same answers, provenance, bounded memory, nothing after a failure."""

import contextlib
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton.v1 import data_pb2
from servicekit.errors import DataLoss, InvalidArgument, LeptonError, NotFound, ResourceExhausted, Unavailable
from services.inference.adapters.data_client import IpcStream
from services.inference.open_inference import grpc_service_pb2 as inference_pb
from tests.inference.house import until
from tests.inference.predict.bureau import Bureau
from tests.inference.predict.models import price_model, price_signature, row

_PURPOSES = ("car", "house", None, "a boat")


def applications(count: int) -> dict[str, Any]:
    """Return columns of the credit model, in another order, with the truth and an id beside them."""
    return {
        "id": list(range(count)),
        "urgent": ["true" if index % 3 else "false" for index in range(count)],
        "purpose": [_PURPOSES[index % 4] for index in range(count)],
        "amount": [None if index % 7 == 0 else index * 0.75 for index in range(count)],
        "months": [index % 60 for index in range(count)],
        "creditability": ["good" if index % 2 else "bad" for index in range(count)],
    }


async def test_scored_rows_are_those_that_predict_gives(bureau: Bureau) -> None:
    source = await bureau.data.import_table("people", applications(40_000), label="creditability")
    steps = [step async for step in bureau.score(source, batch_rows=1000)]
    assert [step.rows_total for step in steps] == [40_000] * len(steps)
    assert [step.rows_done for step in steps] == sorted(step.rows_done for step in steps)
    assert [step.HasField("dataset") for step in steps] == [False] * (len(steps) - 1) + [True]
    assert all(step.version_number == 1 for step in steps)
    assert (steps[-1].rows_done, steps[-1].remaining_seconds) == (40_000, 0.0)
    version = steps[-1].dataset
    table = await bureau.read(f"{version.dataset}@{version.number}")
    before = await bureau.read(source)
    assert table.column_names == [
        *before.column_names,
        *("creditability_predicted", "probability_bad", "probability_good"),
    ]
    assert table.select(before.column_names).equals(before)
    for start in (0, 17_000, 39_990):
        rows = table.slice(start, 10).to_pylist()
        names = ("amount", "months", "purpose", "urgent")
        answer = await bureau.predict("credit", *(row(**{name: item[name] for name in names}) for item in rows))
        for item, prediction in zip(rows, answer.predictions, strict=True):
            assert item["creditability_predicted"] == prediction.label
            assert item["probability_good"] == prediction.probabilities["good"]


async def test_new_version_tells_where_it_came_from(bureau: Bureau) -> None:
    source = await bureau.data.import_table("people", applications(10), label="creditability")
    model = await bureau.house.developer.get("credit@1")
    version = await bureau.scored(source, columns=["id", "amount"])
    assert [column.name for column in version.columns] == [
        *("id", "amount", "creditability", "probability_bad", "probability_good")
    ]
    assert (version.parent, version.label) == (source, "")
    score, dropped = version.recipe.steps
    assert (score.score.model, score.score.digest, score.score.deployment) == ("credit@1", model.digest, "credit")
    assert list(score.score.columns) == ["creditability", "probability_bad", "probability_good"]
    assert list(dropped.drop_columns.columns) == ["urgent", "purpose", "months", "creditability"]
    again = await bureau.scored(source, columns=["id", "amount"])
    assert (again.number, again.digest) == (version.number, version.digest)
    request = data_pb2.TransformDatasetRequest(source=source, recipe=version.recipe, dataset="again")
    with pytest.raises(InvalidArgument, match=r"step 1 .score.: a transform cannot ask a model"):
        await bureau.data.data.TransformDataset(request, metadata=bureau.who())


async def test_repeated_request_gets_the_same_version_and_another_payload_is_refused(bureau: Bureau) -> None:
    first = await bureau.data.import_table("flats", {"size": [1, 2, 3]})
    other = await bureau.data.import_table("flats", {"size": [4, 5, 6]})
    versions = [await bureau.scored(first, "prices", request_id="once") for _ in range(2)]
    assert [version.number for version in versions] == [1, 1]
    with pytest.raises(LeptonError) as refusal:
        await bureau.scored(other, "prices", request_id="once")
    assert refusal.value.reason == "REQUEST_ID_REUSED"


async def test_regressor_adds_its_target(bureau: Bureau) -> None:
    source = await bureau.data.import_table("flats", {"size": [10, 20, 30], "street": ["a", "b", "c"]})
    version = await bureau.scored(source, "prices")
    table = await bureau.read(f"scored@{version.number}")
    assert table.to_pydict() == {"size": [10, 20, 30], "street": ["a", "b", "c"], "price": [21.0, 41.0, 61.0]}


async def test_bad_value_deep_in_a_dataset_is_named_and_leaves_no_version(bureau: Bureau) -> None:
    columns = applications(30_000)
    columns["urgent"][29_500] = None
    source = await bureau.data.import_table("people", columns)
    with pytest.raises(InvalidArgument, match="row 29500, column 'urgent'") as refusal:
        await bureau.scored(source, output="half")
    assert refusal.value.violations[0][0] == "dataset row 29500, column 'urgent'"
    assert await bureau.datasets() == ["people"]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"dataset": "short@1"}, "COLUMN_MISSING"),
        ({"dataset": "people@1", "columns": ["nothing"]}, "COLUMN_MISSING"),
        ({"dataset": "texts@1"}, "COLUMN_TYPE_MISMATCH"),
        ({"dataset": "twice@1"}, "COLUMN_TAKEN"),
    ],
)
async def test_dataset_that_does_not_fit_is_refused(bureau: Bureau, fields: dict[str, object], reason: str) -> None:
    columns = applications(20)
    await bureau.data.import_table("people", columns)
    await bureau.data.import_table("short", {"amount": [1, 2]})
    await bureau.data.import_table("texts", {**columns, "months": ["x"] * 20})
    await bureau.data.import_table("twice", {**columns, "probability_bad": [0.5] * 20})
    with pytest.raises(InvalidArgument) as refusal:
        await bureau.scored(**fields)  # type: ignore[arg-type]
    assert refusal.value.reason == reason
    assert "scored" not in await bureau.datasets()


async def test_what_does_not_exist_is_not_found(bureau: Bureau) -> None:
    source = await bureau.data.import_table("people", applications(10))
    for call in (bureau.scored("nobody@1"), bureau.scored(source, "nothing"), bureau.scored(source, version="9")):
        with pytest.raises(NotFound):
            await call


async def test_caller_who_goes_leaves_no_version_and_lets_go_of_the_model(bureau: Bureau) -> None:
    source = await bureau.data.import_table("people", applications(60_000))
    steps = bureau.score(source, batch_rows=16)
    assert (await anext(steps)).rows_done < 60_000
    await steps.aclose()
    await bureau.scored(source, output="whole")
    assert await bureau.datasets() == ["people", "whole"]
    await bureau.house.deployments.delete("credit")

    async def is_gone() -> bool:
        index = await bureau.worker.stub.RepositoryIndex(
            inference_pb.RepositoryIndexRequest(), metadata=bureau.worker.metadata
        )
        return {model.name for model in index.models} == {"prices"}

    # A model stays until the last run on it ends.
    await until(is_gone, "the model to be let go")


async def test_prediction_that_no_table_holds_leaves_no_version(bureau: Bureau) -> None:
    source = await bureau.data.import_table("flats", {"size": [1.0, 1.7e308]})
    with pytest.raises(InvalidArgument) as refusal:
        await bureau.scored(source, "prices")
    assert refusal.value.reason == "INFINITE_VALUE"
    assert await bureau.datasets() == ["flats"]


async def test_data_service_that_goes_away_ends_the_scoring_and_keeps_no_version(bureau: Bureau) -> None:
    source = await bureau.data.import_table("people", applications(60_000))
    steps = bureau.score(source, batch_rows=16)
    await anext(steps)
    await bureau.data.stack.aclose()
    with pytest.raises(Unavailable):
        async for _ in steps:
            """Rows go on until the data service is missed."""
    await bureau.data.start_data()
    assert await bureau.datasets() == ["people"]


async def test_third_scoring_at_a_time_is_told_to_come_back(bureau: Bureau) -> None:
    source = await bureau.data.import_table("people", applications(60_000))
    async with contextlib.AsyncExitStack() as stack:
        for name in ("first", "second"):
            steps = bureau.score(source, output=name, batch_rows=8)
            await stack.enter_async_context(contextlib.aclosing(steps))
            await anext(steps)
        with pytest.raises(ResourceExhausted) as refusal:
            await bureau.scored(source, output="third")
        assert refusal.value.reason == "TOO_MANY_SCORINGS"
        assert refusal.value.retry_seconds


async def test_one_version_answers_for_all_rows_while_another_is_deployed(bureau: Bureau) -> None:
    source = await bureau.data.import_table("flats", {"size": list(range(60_000))})
    steps = bureau.score(source, "prices", batch_rows=64)
    await anext(steps)
    await bureau.house.developer.register("prices", {"model.onnx": price_model()}, signature=price_signature())
    await bureau.house.deployments.update("prices", "version", version="prices@2")
    await bureau.house.deployments.until("prices", 2)
    last = [step async for step in steps][-1]
    assert (last.version_number, last.rows_done) == (1, 60_000)
    assert last.dataset.recipe.steps[0].score.model == "prices@1"


@given(st.lists(st.integers(0, 50), min_size=1, max_size=5), st.integers(1, 2000))
def test_ipc_stream_gives_its_batches_however_it_is_cut(sizes: list[int], piece: int) -> None:
    schema = pa.schema([("x", pa.int64()), ("t", pa.string())])
    batches = [
        pa.record_batch([list(range(size)), [f"row {index}" for index in range(size)]], schema=schema) for size in sizes
    ]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    content = sink.getvalue().to_pybytes()
    stream = IpcStream()
    found = [batch for start in range(0, len(content), piece) for batch in stream.feed(content[start : start + piece])]
    stream.finish()
    assert [batch.to_pydict() for batch in found] == [batch.to_pydict() for batch in batches]
    cut = IpcStream()
    list(cut.feed(content[: len(content) * 2 // 3]))
    with pytest.raises(DataLoss):
        cut.finish()
