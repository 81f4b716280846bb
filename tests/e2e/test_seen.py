"""What is seen of jobs, as a user sees it: reports, event files, warnings, and one trace into the log of a child."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from opentelemetry import trace
from tensorboardX.proto.event_pb2 import Event

import lepton
from lepton.connection import Connection
from lepton.errors import DataWarning, NotFound
from lepton.jobs import Job
from lepton.models import MLP, BoostedTrees, LogisticRegression
from tests.support.platform import Platform

CREDIT = Path(__file__).parents[2] / "examples" / "credit" / "german_credit.csv"


@pytest.fixture(scope="module")
def connection(platform: Platform) -> Connection:
    return platform.connect()


@pytest.fixture(scope="module")
def credit(connection: Connection) -> lepton.Dataset:
    return lepton.Dataset.import_file(CREDIT, name="credit-to-see", label="creditability", connection=connection)


@pytest.fixture(scope="module")
def model(credit: lepton.Dataset, connection: Connection) -> MLP:
    return MLP(name="seen", epochs=20, hidden_units=16, connection=connection).fit(credit)


def _events(folder: Path) -> Iterator[Event]:
    """Read a run's event files: records of length, its checksum, an Event, and its checksum."""
    for path in sorted(folder.glob("events.out.tfevents.*")):
        content = path.read_bytes()
        place = 0
        while place < len(content):
            (length,) = struct.unpack_from("<Q", content, place)
            yield Event.FromString(content[place + 12 : place + 12 + length])
            place += length + 16


def _scalars(folder: Path) -> dict[str, list[tuple[int, float, float]]]:
    found: dict[str, list[tuple[int, float, float]]] = {}
    for event in _events(folder):
        for value in event.summary.value:
            if value.HasField("simple_value"):
                found.setdefault(value.tag, []).append((event.step, value.simple_value, event.wall_time))
    return found


def test_report_is_the_models_the_versions_and_the_jobs(model: MLP, platform: Platform, tmp_path: Path) -> None:
    assert model.job is not None
    report = model.report()
    assert report.metrics["roc_auc"] == pytest.approx(model.metrics["roc_auc"], rel=1e-5)
    assert model.trained_version().report().content == model.job.report().content == report.content
    page = tmp_path / "report.html"
    shown = platform.lepton("jobs", "report", model.job.name, "--output", str(page), "--json")
    assert json.loads(shown.stdout)["metrics"] == report.metrics
    text = page.read_text(encoding="utf-8")
    assert text == report.to_html()
    assert f"Evaluation of {model.trained_version().ref}" in text
    assert "http" not in text


def test_evaluation_has_a_report_of_its_own_rows(model: MLP, credit: lepton.Dataset) -> None:
    with pytest.warns(DataWarning, match="say nothing of new rows") as warned:
        evaluation = lepton.evaluate(model, credit)
    assert warned[0].filename == __file__
    report = evaluation.report()
    assert report.content["rows"] == evaluation.rows == 1000
    # A thousand rows are enough to slice.
    assert set(report.slices.columns) >= {"column", "value", "rows", "accuracy", "log_loss", "observed", "excess"}


def test_event_files_hold_the_jobs_metrics(model: MLP, platform: Platform, tmp_path: Path) -> None:
    assert model.job is not None
    folder = model.job.tensorboard(tmp_path)
    assert folder == tmp_path / "seen" / model.job.name
    curves = model.job.curves()
    scalars = _scalars(folder)
    for name in curves.columns:
        known = curves[name].dropna()
        steps, values, _ = zip(*scalars[name], strict=True)
        assert list(steps) == list(known.index)
        assert list(values) == pytest.approx(list(known), rel=1e-6)
        began, ended = (
            model.job.message.start_time.ToNanoseconds() / 1e9,
            model.job.message.end_time.ToNanoseconds() / 1e9,
        )
        assert all(began <= time <= ended + 1 for _, _, time in scalars[name])
    assert scalars["evaluation/accuracy"][0][1] == pytest.approx(model.metrics["accuracy"], rel=1e-6)
    tags = {value.tag: value for event in _events(folder) for value in event.summary.value}
    assert b"| hidden_units | 16 |" in tags["job/text_summary"].tensor.string_val[0]
    assert "_hparams_/session_start_info" in tags
    # Once more, and by the shell, is the same once.
    shown = platform.lepton("jobs", "tensorboard", model.job.name, "--logdir", str(tmp_path), "--json")
    assert json.loads(shown.stdout)["path"] == str(folder)
    assert _scalars(folder) == scalars


def test_running_job_is_followed_into_its_event_file(
    credit: lepton.Dataset, connection: Connection, tmp_path: Path
) -> None:
    spec = MLP(name="followed", epochs=6, hidden_units=16, connection=connection)._fit_spec(credit, None, None, None)
    job = Job.submit(spec, connection=connection)
    folder = job.tensorboard(tmp_path, follow=True)
    assert job.state == "SUCCEEDED"
    assert max(step for step, _, _ in _scalars(folder)["loss"]) == 6


def test_what_looks_wrong_is_warned_of_once_and_printed(connection: Connection, platform: Platform) -> None:
    draw = np.random.default_rng(1)
    bad = draw.random(500) < 0.3
    frame = pd.DataFrame(
        {"x": draw.normal(size=500), "z": draw.normal(size=500) + bad, "closed": bad * 1.5, "bad": bad}
    )
    with pytest.warns(DataWarning, match="column 'closed' alone tells the target 'bad'") as warned:
        fitted = BoostedTrees(name="leaky", n_estimators=50, connection=connection).fit(frame, target="bad")
    assert (len(warned), warned[0].filename) == (1, __file__)
    dataset = fitted.trained_version().message.lineage.dataset
    shown = platform.lepton("train", "logistic_regression", dataset, "--target", "bad", "--json")
    assert "warning: column 'closed' alone tells" in shown.stderr
    job = json.loads(shown.stdout)
    assert "column 'closed' alone tells" in job["warnings"][0]
    # Seen in lists, too.
    assert int(job["usage"]["peak_memory_bytes"]) > 1 << 20
    listed = Job.list(model="leaky", connection=connection)
    assert listed["peak_mib"].iloc[0] > 1
    assert listed["core_seconds"].iloc[0] > 0


def test_one_trace_leads_from_fit_into_the_childs_log(
    credit: lepton.Dataset, connection: Connection, platform: Platform
) -> None:
    trace_id = 0x4BF92F3577B34DA6A3CE929D0E0E4736
    flags = trace.TraceFlags(trace.TraceFlags.SAMPLED)
    user = trace.NonRecordingSpan(trace.SpanContext(trace_id, 0xF067AA0BA902B7, is_remote=False, trace_flags=flags))
    with trace.use_span(user):
        fitted = LogisticRegression(name="traced-log", connection=connection).fit(credit)
    assert fitted.job is not None
    lines = [
        line for path in (platform.home / "logs").glob("training-worker*") for line in path.read_text().splitlines()
    ]
    logged = [json.loads(line) for line in lines if fitted.job.name in line and line.startswith("{")]
    found = {(line["service"], line["event"]) for line in logged if line.get("trace_id") == f"{trace_id:032x}"}
    assert found >= {
        ("training-worker", "job begins"),
        ("training-child", "job begins"),
        ("training-child", "job ends"),
        ("training-worker", "job ended"),
    }
    assert f"{trace_id:032x}" in fitted.report().to_html()


def test_job_without_a_report_says_so(credit: lepton.Dataset, connection: Connection) -> None:
    job = Job.submit(
        LogisticRegression(name="early", connection=connection)._fit_spec(credit, "age_in_years", None, None),
        connection=connection,
    )
    for _ in job.watch():
        pass
    assert job.state == "FAILED"
    with pytest.raises(NotFound, match="has no report"):
        job.report()
