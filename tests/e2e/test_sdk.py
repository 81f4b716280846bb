"""The SDK against a whole platform: the main job, and what bad input gets."""

import base64
import math
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits

import lepton
from lepton import errors, steps
from lepton.connection import Connection
from lepton.embedded.credentials import issue_token
from lepton.images import encode_images, load_images
from lepton.jobs import Job
from lepton.models import CNN, BoostedTrees, LinearRegression, LogisticRegression, Transformer
from lepton.v1 import training_pb2
from lepton.versions import ModelVersion, rollback
from lepton.workers import list_placements
from tests.support.platform import Platform, wait_for

CREDIT = Path(__file__).parents[2] / "examples" / "credit" / "german_credit.csv"
REVIEWS = Path(__file__).parents[2] / "examples" / "reviews" / "chinese_reviews.csv"


@pytest.fixture(scope="module")
def connection(platform: Platform) -> Connection:
    return platform.connect()


@pytest.fixture(scope="module")
def credit(connection: Connection) -> lepton.Dataset:
    return lepton.Dataset.import_file(CREDIT, name="credit", label="creditability", connection=connection)


@pytest.fixture(scope="module")
def model(credit: lepton.Dataset, connection: Connection) -> LogisticRegression:
    return LogisticRegression(name="credit-sdk", connection=connection).fit(credit)


def test_csv_becomes_a_prediction(credit: lepton.Dataset, connection: Connection) -> None:
    train, test = credit.transform(steps.drop_missing(), steps.split(0.2, seed=7, stratify="creditability"))
    assert (train.message.rows, test.message.rows) == (800, 200)
    fitted = BoostedTrees(name="credit-trees", connection=connection).fit(train, evaluation_data=test)
    assert fitted.metrics["roc_auc"] > 0.75
    rows = test.to_pandas()
    predicted = lepton.Deploy(fitted).save().predict(rows)
    assert list(predicted.columns) == ["creditability", "probability_bad", "probability_good"]
    assert (predicted["creditability"] == rows["creditability"]).mean() > 0.7
    assert np.allclose(predicted[["probability_bad", "probability_good"]].sum(axis=1), 1.0, atol=1e-6)


@pytest.mark.slow
def test_texts_become_predictions(connection: Connection) -> None:
    reviews = pd.read_csv(REVIEWS).head(400)
    small = Transformer(
        name="mood", connection=connection, epochs=4, layers=1, hidden_size=32, vocabulary=500, max_tokens=32
    )
    fitted = small.fit(reviews, target="sentiment")
    assert fitted.trained_version().message.parity.max_difference < 1e-5
    deployment = lepton.Deploy(fitted).save()
    rows = reviews.tail(5)
    predicted = deployment.predict(rows)
    assert list(predicted.columns) == ["sentiment", "probability_negative", "probability_positive"]
    assert list(predicted.index) == list(rows.index)
    alone = deployment.predict_texts([rows["text"].iloc[3]])
    assert alone["probability_positive"].iloc[0] == pytest.approx(predicted["probability_positive"].iloc[3], abs=1e-5)
    with pytest.raises(KeyError, match="one column of texts"):
        deployment.predict(pd.DataFrame({"rows": [1]}))
    further = fitted.fine_tune(reviews, epochs=1, trainable="last")
    assert further.trained_version().message.lineage.parent == fitted.trained_version().ref


def test_images_of_an_archive_become_predictions(tmp_path: Path, connection: Connection) -> None:
    found = load_digits()
    frame = encode_images((found.images * 255 / 16).astype(np.uint8)[:300], list(found.target[:300]))
    with zipfile.ZipFile(tmp_path / "digits.zip", "w") as archive:
        for place, (image, label) in enumerate(zip(frame["image"], frame["label"], strict=True)):
            archive.writestr(f"{label}/{place:04}.png", base64.b64decode(image))
    rows = load_images(tmp_path / "digits.zip")
    assert sorted(set(rows["label"])) == [str(digit) for digit in range(10)]
    small = CNN(name="digits", connection=connection, epochs=6, image_size=8, width=8, channels="grey")
    fitted = small.fit(rows, target="label")
    assert fitted.metrics["accuracy"] > 0.5
    deployment = lepton.Deploy(fitted).save()
    predicted = deployment.predict(rows.tail(5))
    assert list(predicted.columns)[:2] == ["label", "probability_0"]
    alone = deployment.predict_images([base64.b64decode(rows["image"].iloc[-1])])
    assert alone["probability_0"].iloc[0] == pytest.approx(predicted["probability_0"].iloc[-1], abs=1e-5)


def test_version_tells_where_it_came_from(model: LogisticRegression, credit: lepton.Dataset) -> None:
    message = model.trained_version().message
    assert message.lineage.dataset == credit.ref
    assert message.lineage.dataset_digest == credit.message.digest
    assert message.lineage.job == (model.job.name if model.job else "")
    assert {"lightgbm", "scipy", "onnx"} <= set(message.lineage.libraries)
    assert message.parity.max_difference < 1e-5
    assert "<table>" in model._repr_html_()


def test_alias_moves_are_followed_without_a_failed_request(
    model: LogisticRegression, credit: lepton.Dataset, connection: Connection
) -> None:
    second = LogisticRegression(name="credit-sdk", c=0.01, connection=connection).fit(credit).trained_version()
    first = model.trained_version()
    first.promote("champion")
    deployment = lepton.Deploy(first, name="credit-followed").save(version="credit-sdk@champion")
    rows = credit.to_pandas().head(3)
    before = deployment.predict(rows)
    for target in (second, first, second):
        target.promote("champion")
        wait_for(
            lambda wanted=target: (
                deployment.status().number == wanted.message.number  # type: ignore[misc]
                and bool(deployment.predict(rows) is not None)
                and deployment.status().ready_replicas > 0
            ),
            20,
            "the alias to be followed",
        )
    after = deployment.predict(rows)
    assert not np.allclose(before["probability_bad"], after["probability_bad"])
    assert rollback("credit-sdk", "champion", connection=connection).number == first.message.number


@pytest.mark.parametrize(
    ("column", "value", "complaint"),
    [
        ("duration_in_month", math.inf, "expected a whole number, got an infinity"),
        ("duration_in_month", math.nan, "expected a whole number, got a missing value"),
        ("purpose", None, "empty text"),
    ],
)
def test_bad_value_at_prediction_is_refused(
    model: LogisticRegression, credit: lepton.Dataset, column: str, value: float | None, complaint: str
) -> None:
    rows = credit.to_pandas().head(2).astype({column: object})
    rows.loc[0, column] = value
    with pytest.raises(errors.InvalidArgument, match=complaint):
        lepton.Deploy(model).save().predict(rows)


def test_missing_column_at_prediction_is_a_key_error(model: LogisticRegression, credit: lepton.Dataset) -> None:
    with pytest.raises(KeyError, match="purpose"):
        lepton.Deploy(model).save().predict(credit.to_pandas().head(2).drop(columns=["purpose"]))


def test_unknown_category_follows_the_models_rule(credit: lepton.Dataset, connection: Connection) -> None:
    rows = credit.to_pandas().head(1).replace({"purpose": {"radio/television": "spaceship"}})
    tolerant = LogisticRegression(name="tolerant", connection=connection).fit(credit)
    with pytest.warns(errors.UnknownCategoryWarning, match="100% of 'purpose' are unknown"):
        assert len(lepton.Deploy(tolerant).save().predict(rows)) == 1
    strict = LogisticRegression(name="strict", handle_unknown="error", connection=connection).fit(credit)
    with pytest.raises(errors.InvalidArgument, match="a category that training saw"):
        lepton.Deploy(strict).save().predict(rows)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "EMPTY_FILE"),
        ("a,b\n", "EMPTY_FILE"),
        ("a,b\n1,2\n3\n", "RAGGED_ROW"),
        ("a,a\n1,2\n", "DUPLICATE_COLUMN"),
        ("a,b\n1,inf\n", "INFINITE_VALUE"),
        ('a,b\n1,"x\n', "UNTERMINATED_QUOTE"),
    ],
)
def test_broken_file_is_refused_and_changes_nothing(
    connection: Connection, tmp_path: Path, content: str, reason: str
) -> None:
    path = tmp_path / f"{reason.lower().replace('_', '-')}.csv"
    path.write_text(content)
    before = lepton.Dataset.list(connection=connection)
    with pytest.raises(errors.InvalidArgument) as refusal:
        lepton.Dataset.import_file(path, connection=connection)
    assert refusal.value.reason == reason
    pd.testing.assert_frame_equal(lepton.Dataset.list(connection=connection), before)


def test_ragged_row_is_named_by_number(connection: Connection, tmp_path: Path) -> None:
    path = tmp_path / "ragged.csv"
    path.write_text("a,b\n1,2\n3\n")
    with pytest.raises(errors.InvalidArgument, match="row 3"):
        lepton.Dataset.import_file(path, connection=connection)


def test_constant_target_is_refused_before_a_job_is_queued(connection: Connection) -> None:
    frame = pd.DataFrame({"x": range(20), "y": [1.0] * 20})
    with pytest.raises(errors.InvalidArgument, match="constant") as failure:
        LinearRegression(connection=connection).fit(frame, target="y")
    assert failure.value.reason == "TARGET_CONSTANT"


def test_class_seen_once_is_refused_before_a_job_is_queued(connection: Connection) -> None:
    frame = pd.DataFrame({"x": range(21), "y": ["a", "b"] * 10 + ["c"]})
    with pytest.raises(errors.InvalidArgument) as failure:
        LogisticRegression(connection=connection, seed=1).fit(frame, target="y", evaluation_data=frame)
    assert failure.value.reason == "CLASS_SEEN_ONCE"


def test_unknown_target_is_a_key_error(credit: lepton.Dataset, connection: Connection) -> None:
    with pytest.raises(KeyError, match="no column 'nope'"):
        LogisticRegression(connection=connection).fit(credit, target="nope")


def test_unknown_optimizer_lists_the_valid_ones(credit: lepton.Dataset, connection: Connection) -> None:
    with pytest.raises(errors.InvalidArgument, match="adam, sgd"):
        LinearRegression(connection=connection, solver="gradient_descent", optimizer="lbfgs").fit(
            credit, target="credit_amount"
        )


def test_running_job_can_be_cancelled(credit: lepton.Dataset, connection: Connection) -> None:
    spec = training_pb2.JobSpec(
        kind=training_pb2.JOB_KIND_FIT,
        family="boosted_trees",
        model="cancelled",
        dataset=credit.ref,
        hyperparameters={"n_estimators": "10000", "num_leaves": "64", "min_child_samples": "2"},
    )
    job = Job.submit(spec, connection=connection)
    wait_for(lambda: job.refresh().state == "RUNNING" and job.message.progress > 0.06, 120, "the job to run")
    job.cancel()
    with pytest.raises(errors.Cancelled):
        job.wait()


def test_curves_are_the_metrics_of_each_step(model: LogisticRegression) -> None:
    assert model.job is not None
    curves = model.job.curves()
    assert curves.index.name == "step"
    assert curves.index.is_monotonic_increasing
    assert len(curves) >= 1
    assert curves.notna().any().all()


def test_watch_resumes_where_it_left_off(model: LogisticRegression) -> None:
    assert model.job is not None
    every = list(model.job.watch())
    assert [update.sequence for update in every] == list(range(1, len(every) + 1))
    assert every[-1].state == "SUCCEEDED"
    assert list(model.job.watch(after_sequence=every[1].sequence)) == every[2:]


def test_token_of_another_workspace_sees_nothing(platform: Platform, model: LogisticRegression) -> None:
    ref = model.trained_version().ref
    credentials = platform.home / "credentials"
    token = issue_token(credentials, workspace="other", role="admin", subject="eve", days=1)
    with platform.connect(token) as stranger, pytest.raises(errors.NotFound):
        ModelVersion.get(ref, connection=stranger)


def test_viewer_reads_and_cannot_write(platform: Platform, model: LogisticRegression) -> None:
    credentials = platform.home / "credentials"
    token = issue_token(credentials, workspace="default", role="viewer", subject="vera", days=1)
    with platform.connect(token) as viewer:
        assert ModelVersion.get(model.trained_version().ref, connection=viewer).state == "READY"
        with pytest.raises(errors.PermissionDenied, match="role"):
            ModelVersion.get(model.trained_version().ref, connection=viewer).promote("stolen")


@pytest.mark.parametrize(("days", "reason"), [(-1.0, "TOKEN_EXPIRED")])
def test_expired_token_is_refused(platform: Platform, days: float, reason: str) -> None:
    token = issue_token(platform.home / "credentials", workspace="default", role="admin", subject="late", days=days)
    with platform.connect(token) as late, pytest.raises(errors.Unauthenticated) as refusal:
        lepton.Dataset.list(connection=late)
    assert refusal.value.reason == reason


def test_onnx_made_elsewhere_is_served(connection: Connection, model: LogisticRegression) -> None:
    content = model.trained_version().download()
    uploaded = ModelVersion.upload("elsewhere", content, connection=connection)
    assert uploaded.message.uploaded
    with pytest.raises(errors.InvalidArgument) as refusal:
        ModelVersion.upload("elsewhere", content[:-100], connection=connection)
    assert refusal.value.reason in ("NOT_ONNX", "LOAD_FAILED")
    deployment = lepton.Deploy(uploaded).save()
    assert deployment.wait().ready_replicas > 0


def test_replica_that_fits_nowhere_says_so(model: LogisticRegression, connection: Connection) -> None:
    deployment = lepton.Deploy(model, name="too-large", resources={"cores": 1_000.0}).save()
    with pytest.raises(errors.DeadlineExceeded, match="TOO_LARGE"):
        deployment.wait(3.0)
    placements = list_placements(connection=connection)
    row = placements[placements["name"] == "too-large"].iloc[0]
    assert (row["worker"], row["kind"]) == ("", "replica")
    assert row["waits"].startswith("TOO_LARGE: ")
    deployment.delete()
