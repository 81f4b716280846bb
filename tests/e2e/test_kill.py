"""Any one process is killed in the middle of the work: nothing acknowledged is lost, no fact either; nobody is left."""

import asyncio
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import nats
import pandas as pd
import psutil
import pytest

import lepton
from lepton import errors
from lepton.connection import Connection
from lepton.datasets import Dataset
from lepton.jobs import Job
from lepton.models import BoostedTrees, LogisticRegression
from lepton.v1 import data_pb2, training_pb2
from lepton.versions import ModelVersion
from tests.support.platform import Platform, start_platform, wait_for

CREDIT = Path(__file__).parents[2] / "examples" / "credit" / "german_credit.csv"


@pytest.fixture(scope="module")
def hurt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A platform that these tests hurt one after the other; orphans are swept whatever their age."""
    running = start_platform(tmp_path_factory.mktemp("hurt"), LEPTON_ORPHAN_MINUTES="0")
    yield running
    running.lepton("down", check=False)
    assert not _processes_of(running)


@pytest.fixture(scope="module")
def connection(hurt: Platform) -> Connection:
    return hurt.connect()


@pytest.fixture(scope="module")
def credit(connection: Connection) -> Dataset:
    return Dataset.import_file(CREDIT, name="credit", label="creditability", connection=connection)


@pytest.fixture(scope="module")
def served(credit: Dataset, connection: Connection) -> lepton.Deploy:
    deployment = lepton.Deploy(LogisticRegression(name="served", connection=connection).fit(credit)).save()
    deployment.wait()
    return deployment


@pytest.mark.parametrize("process", ["data", "registry", "training", "scheduler", "nats", "training-worker-1"])
def test_job_survives_the_death_of(process: str, hurt: Platform, connection: Connection, credit: Dataset) -> None:
    model = f"survivor-{process}"
    spec = training_pb2.JobSpec(
        kind=training_pb2.JOB_KIND_FIT,
        family="boosted_trees",
        model=model,
        dataset=credit.ref,
        hyperparameters={"n_estimators": "1500", "num_leaves": "31", "min_child_samples": "5"},
    )
    job = Job.submit(spec, connection=connection)
    wait_for(lambda: job.refresh().state == "RUNNING" and job.message.progress > 0.06, 120, "the job to run")
    hurt.kill(process)
    hurt.wait_healthy()
    _wait_done(job)
    # The data service or the registry may have been away when the child needed them: then the job says so.
    if job.state == "FAILED":
        assert job.message.error_reason in ("UNAVAILABLE", "DATASET_AWAY"), job.message
        job = Job.submit(spec, connection=connection)
        _wait_done(job)
    assert job.state == "SUCCEEDED", job.message
    versions = ModelVersion.list(model, connection=connection)
    assert list(versions["state"]).count("READY") == 1
    assert list(versions["number"]) == list(range(len(versions), 0, -1))
    wait_for(lambda: not _orphans(hurt), 120, "children to follow their worker")


@pytest.mark.parametrize("process", ["inference", "scheduler", "nats", "registry"])
def test_predictions_go_on_while_this_is_dead(
    process: str, hurt: Platform, served: lepton.Deploy, credit: Dataset
) -> None:
    rows = credit.to_pandas().head(5)
    expected = served.predict(rows)
    signature = ModelVersion.get("served@1", connection=served.connection).signature
    from lepton import open_inference

    inputs = [(spec, open_inference.column_values(rows[spec.name], spec)) for spec in signature.inputs]
    hurt.kill(process)
    for _ in range(50):
        found = open_inference.infer(served.connection.serving_channel, "served", "", inputs, 5.0)
        assert list(found["prediction"][:, 0]) == list(expected["creditability"])
        time.sleep(0.02)
    hurt.wait_healthy()
    pd.testing.assert_frame_equal(served.predict(rows), expected)


def test_killed_inference_worker_serves_again(hurt: Platform, served: lepton.Deploy, credit: Dataset) -> None:
    rows = credit.to_pandas().head(5)
    expected = served.predict(rows)
    hurt.kill("inference-worker-1")
    hurt.wait_healthy()

    def answers() -> bool:
        try:
            return served.predict(rows).equals(expected)
        except (errors.Unavailable, errors.NotFound):
            return False

    wait_for(answers, 120, "the worker to serve again")


def test_import_cut_by_a_kill_leaves_nothing_and_loses_nothing(hurt: Platform, connection: Connection) -> None:
    kept = Dataset.import_frame(pd.DataFrame({"x": [1, 2]}), "cut", connection=connection)
    half = threading.Event()

    def slow_upload() -> Iterator[data_pb2.ImportDatasetRequest]:
        header = data_pb2.ImportHeader(dataset="cut", format=data_pb2.FILE_FORMAT_CSV)
        yield data_pb2.ImportDatasetRequest(header=header)
        for _ in range(12):
            yield data_pb2.ImportDatasetRequest(chunk=b"a,b\n" + b"1,2\n" * 250_000)
        half.set()
        time.sleep(600)

    failed: list[BaseException] = []

    def run() -> None:
        try:
            connection.data.ImportDataset(slow_upload())
        except errors.LeptonError as error:
            failed.append(error)

    uploading = threading.Thread(target=run, daemon=True)
    uploading.start()
    assert half.wait(120)
    wait_for(lambda: len(_objects(hurt)) > 0, 120, "the upload to reach the disk")
    hurt.kill("data")
    uploading.join(120)
    assert isinstance(failed[0], errors.Unavailable), failed
    hurt.wait_healthy()
    assert Dataset.get("cut", connection=connection).message == kept.message
    again = Dataset.import_frame(pd.DataFrame({"x": [3, 4]}), "cut", connection=connection)
    assert again.message.number == kept.message.number + 1
    # Two objects a version, and none of the upload that was cut.
    versions = sum(_versions(connection).values())
    assert len(_objects(hurt)) == 2 * versions


def test_every_acknowledged_change_has_its_fact_exactly_once(
    hurt: Platform, connection: Connection, served: lepton.Deploy
) -> None:
    BoostedTrees(name="last", n_estimators=50, connection=connection).fit(Dataset.get("credit", connection=connection))
    expected = Counter[str]()
    expected["data.version.created"] = sum(_versions(connection).values())
    expected["registry.version.ready"] = sum(
        list(ModelVersion.list(model, connection=connection)["state"]).count("READY")
        for model in ModelVersion.list_models(connection=connection)["name"]
    )
    jobs = Job.list(limit=1000, connection=connection)
    expected["training.job.succeeded"] = list(jobs["state"]).count("SUCCEEDED")

    def told() -> bool:
        facts = asyncio.run(_facts(hurt))
        assert len({event_id for _, event_id in facts}) == len(facts)
        counts = Counter(subject for subject, _ in facts)
        return all(counts[subject] == number for subject, number in expected.items()) and (
            counts["training.job.queued"] >= len(jobs)
        )

    wait_for(told, 120, "the facts to arrive")


def test_killed_supervisor_leaves_nothing_that_the_next_start_does_not_clean(own_platform: Platform) -> None:
    before = {entry["pid"] for entry in own_platform.status().values()}
    supervisor = next(
        process
        for process in psutil.process_iter(["cmdline"])
        if "lepton.embedded.supervisor" in (process.info["cmdline"] or []) and _home_of(process) == own_platform.home
    )
    supervisor.kill()
    supervisor.wait(120)
    own_platform.lepton("up", "--detach", "--base-port", str(own_platform.base_port))
    after = {entry["pid"] for entry in own_platform.status().values()}
    assert not before & after
    assert not [pid for pid in before if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]


def _wait_done(job: Job) -> None:
    def ended() -> bool:
        try:
            return job.refresh().state in ("SUCCEEDED", "FAILED", "CANCELLED")
        except errors.Unavailable:
            return False

    wait_for(ended, 120, f"job {job.name} to end")


def _versions(connection: Connection) -> dict[str, int]:
    found = {}
    for name in Dataset.list(connection=connection)["name"]:
        request = data_pb2.ListDatasetVersionsRequest(dataset=name)
        found[name] = len(connection.data.ListDatasetVersions(request).versions)
    return found


def _objects(platform: Platform) -> list[Path]:
    return [path for path in (platform.home / "objects" / "data").rglob("*") if path.is_file()]


def _orphans(platform: Platform) -> list[psutil.Process]:
    """Return children of jobs whose worker is gone."""
    return [
        process
        for process in _processes_of(platform)
        if "services.training.child" in process.cmdline() and "worker" not in " ".join(process.parent().cmdline())  # type: ignore[union-attr]
    ]


def _processes_of(platform: Platform) -> list[psutil.Process]:
    return [process for process in psutil.process_iter() if _home_of(process) == platform.home]


def _home_of(process: psutil.Process) -> Path | None:
    try:
        is_ours = "services." in " ".join(process.cmdline()) or "lepton.embedded" in " ".join(process.cmdline())
        return Path(process.environ()["LEPTON_HOME"]) if is_ours else None
    except (psutil.Error, KeyError):
        return None


async def _facts(platform: Platform) -> list[tuple[str, str]]:
    """Return (subject, event id) of every fact in the stream."""
    credentials = platform.home / "credentials"
    client = await nats.connect(
        f"tls://127.0.0.1:{platform.base_port + 22}",
        user="lepton",
        password=(credentials / "nats-password").read_text(),
        tls=ssl.create_default_context(cafile=str(credentials / "ca.pem")),
    )
    try:
        context = client.jetstream()
        count = (await context.stream_info("LEPTON")).state.messages
        subscription = await context.subscribe("lepton.>", ordered_consumer=True)
        messages = [await subscription.next_msg(timeout=120) for _ in range(count)]
    finally:
        await client.close()
    return [(message.subject.split(".", 2)[2], (message.headers or {})["ce-id"]) for message in messages]
