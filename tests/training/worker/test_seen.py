"""What is seen of jobs: reports kept by the claim, warnings of their rows, what they take, their trace in the logs."""

import json
from typing import Any

import numpy as np
import pytest

from lepton.v1 import training_pb2
from servicekit.errors import Aborted, DataLoss, InvalidArgument, NotFound, PermissionDenied
from tests.training.house import EVALUATE, FINE_TUNE, SUCCEEDED, House
from tests.training.worker.test_checkpoints import stored

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"


async def _save(house: House, name: str, epoch: int, content: bytes) -> None:
    from servicekit.auth import Identity, act_as

    request = training_pb2.SaveReportRequest(name=name, worker="w", epoch=epoch, content=content)
    with act_as(Identity.for_service("default", "training")):
        await house.workers.stub.SaveReport(request)


async def _report(house: House, name: str, role: str = "viewer", workspace: str = "default") -> bytes:
    person = await house.person(role, workspace)
    request = training_pb2.GetReportRequest(name=name)
    answer: training_pb2.Report = await person.stub.GetReport(request, metadata=person.metadata)
    return answer.content


async def test_report_is_kept_encrypted_and_by_the_claim(house: House) -> None:
    job = await house.people.create()
    with pytest.raises(NotFound, match="no report"):
        await _report(house, job.name)
    await house.workers.start(job.name, 3)
    await _save(house, job.name, 3, b'{"slices": "of an earlier run"}')
    await _save(house, job.name, 3, b'{"slices": "a customer\'s value"}')
    with pytest.raises(Aborted):
        await _save(house, job.name, 2, b"of an older claim")
    with pytest.raises(InvalidArgument, match="too long"):
        await _save(house, job.name, 3, b" " * ((1 << 20) + 1))
    # One object is left, and it does not say what it holds.
    (object_file,) = stored(house)
    assert b"customer" not in object_file.read_bytes()
    done = await house.workers.finish(job.name, 3, version="line@1")
    assert done.has_report
    # Who may look at jobs may look at it; those of other workspaces may not.
    assert await _report(house, job.name) == b'{"slices": "a customer\'s value"}'
    with pytest.raises(NotFound):
        await _report(house, job.name, workspace="other")
    with pytest.raises(PermissionDenied):
        await house.people.stub.SaveReport(
            training_pb2.SaveReportRequest(name=job.name, worker="w", epoch=3, content=b"x"),
            metadata=house.people.metadata,
        )
    object_file.unlink()
    with pytest.raises(DataLoss):
        await _report(house, job.name)


async def test_what_a_job_takes_makes_no_update_and_a_new_start_begins_anew(house: House) -> None:
    job = await house.people.create()
    await house.workers.start(job.name, 1)
    usage = training_pb2.Usage(peak_memory_bytes=5 << 20, core_seconds=1.5)
    told: dict[str, Any] = {"progress": 0.5, "message": "half"}
    await house.workers.report(job.name, 1, **told, usage=usage, warnings=["a column is a copy"])
    seen = await house.people.get(job.name)
    usage.core_seconds = 2.5
    await house.workers.report(job.name, 1, **told, usage=usage)
    later = await house.people.get(job.name)
    assert (later.usage, list(later.warnings)) == (usage, ["a column is a copy"])
    assert later.sequence == seen.sequence
    await house.workers.start(job.name, 2)
    again = await house.people.get(job.name)
    assert (again.HasField("usage"), list(again.warnings)) == (False, [])
    done = await house.workers.finish(job.name, 2, version="line@1", usage=usage, warnings=["rare"])
    assert (done.usage, list(done.warnings)) == (usage, ["rare"])
    updates = [update async for update in house.people.watch(job.name)]
    assert [update.sequence for update in updates] == list(range(1, done.sequence + 1))
    assert updates[-1].usage == usage


async def _rows(house: House, name: str, rows: int = 600, seed: int = 3) -> str:
    """Import two numbers that tell the target somewhat, a column that gives it away, and a rare class."""
    draw = np.random.default_rng(seed)
    x = draw.standard_normal((rows, 2)).round(4)
    bad = x.sum(axis=1) + 0.5 * draw.standard_normal(rows) > 2.6
    columns: dict[str, Any] = {"a": x[:, 0], "b": x[:, 1], "closed": np.where(bad, "yes", "no")}
    return await house.import_table(name, columns | {"y": np.where(bad, "bad", "good")}, "y")


async def test_jobs_of_each_kind_have_reports_warnings_and_usage(
    busy_house: House, capfd: pytest.CaptureFixture[str]
) -> None:
    rows, more = await _rows(busy_house, "leaky"), await _rows(busy_house, "more", 300, 4)
    people = busy_house.people
    async with busy_house.worker():
        spec = training_pb2.JobSpec(
            kind=training_pb2.JOB_KIND_FIT,
            family="boosted_trees",
            model="m",
            dataset=rows,
            hyperparameters={"n_estimators": "50"},
        )
        trace = (*people.metadata, ("traceparent", f"00-{TRACE_ID}-00f067aa0ba902b7-01"))
        queued = await people.stub.CreateJob(training_pb2.CreateJobRequest(spec=spec), metadata=trace)
        fit = await people.ended(queued.name)
        assert (fit.state, fit.version) == (SUCCEEDED, "m@1"), fit
        tuned = await people.ended(
            (
                await people.create(
                    kind=FINE_TUNE, base_version="m@1", dataset=more, evaluation_dataset=more, family=""
                )
            ).name
        )
        scored = await people.ended(
            (await people.create(kind=EVALUATE, base_version="m@1", dataset=rows, family="")).name
        )
    assert (tuned.state, scored.state) == (SUCCEEDED, SUCCEEDED), (tuned, scored)
    leak, rare = fit.warnings
    assert "column 'closed' alone tells the target 'y' (ROC AUC 1.000" in leak
    assert "class 'bad' of 'y' is rare" in rare
    assert any("more@1 is the version that the model was trained on" in text for text in tuned.warnings)
    assert not any("m@1" in text for text in tuned.warnings)
    assert list(scored.warnings) == [
        "leaky@1 is the version that m@1 was trained on: its scores say nothing of new rows"
    ]
    for job, count in ((fit, 60), (tuned, 300), (scored, 600)):
        found = json.loads(await _report(busy_house, job.name))
        assert (found["task"], found["rows"], job.has_report) == ("binary", count, True)
        assert found["metrics"]["accuracy"] == pytest.approx(
            {metric.name: metric.value for metric in job.evaluation.metrics}["accuracy"], rel=1e-5
        )
        assert found["curves"][0]["roc_auc"] > 0.9
        # Its libraries are not its own; no such job ever takes a gigabyte.
        assert 1 << 20 < job.usage.peak_memory_bytes < 1 << 30
        assert 0.01 < job.usage.core_seconds < 60
        assert job.usage.peak_gpu_memory_bytes == 0
    logged = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.startswith("{")]
    of_child = [line for line in logged if line["service"] == "training-child" and line.get("job") == fit.name]
    assert {line["event"] for line in of_child} >= {"job begins", "job ends"}
    # Whoever queued it finds all that its child says under the trace of that call.
    assert {line.get("trace_id") for line in of_child} == {TRACE_ID}
