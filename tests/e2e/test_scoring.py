"""Datasets scored, and predictions of rows, texts and images: by SDK and command line, on a whole platform."""

import json
from pathlib import Path

import pandas as pd

import lepton
from lepton import steps
from tests.inference.predict.models import image_model, png, text_model, tokenizer_file
from tests.support.platform import Platform

CREDIT = Path(__file__).parents[2] / "examples" / "credit" / "german_credit.csv"
PROBABILITIES = ["probability_bad", "probability_good"]


def test_scored_dataset_reads_back_as_what_predict_gives(platform: Platform) -> None:
    connection = platform.connect()
    credit = lepton.Dataset.import_file(CREDIT, name="to-score", label="creditability", connection=connection)
    train, test = credit.transform(steps.drop_missing(), steps.split(0.2, seed=7), name="score-train")
    model = lepton.BoostedTrees(name="scorer", n_estimators=20, connection=connection).fit(train)
    deployment = lepton.Deploy(model).save()
    scored = deployment.score(test)
    assert (scored.message.dataset, scored.message.rows) == ("to-score-test-scored", 200)
    assert (scored.message.parent, scored.message.recipe.steps[0].score.model) == (test.ref, "scorer@1")
    rows = scored.to_pandas()
    predicted = deployment.predict(test.to_pandas())
    pd.testing.assert_frame_equal(rows[PROBABILITIES], predicted[PROBABILITIES])
    assert list(rows["creditability_predicted"]) == list(predicted["creditability"])
    pd.testing.assert_frame_equal(rows[list(test.columns)], test.to_pandas())
    by_rows = deployment.predict_rows(test.head(5).to_dict("records"))
    pd.testing.assert_frame_equal(by_rows, predicted.head(5), check_dtype=False)

    told = platform.lepton(
        *("deployments", "score", "scorer", test.ref, "--output", "by-command", "--column", "purpose", "--json")
    )
    assert [column["name"] for column in json.loads(told.stdout)["columns"]] == [
        *("purpose", "creditability", "probability_bad", "probability_good")
    ]
    record = json.dumps(test.head(1).iloc[0].to_dict(), default=lambda value: value.item())
    (answer,) = json.loads(platform.lepton("predict", "scorer", "--row", record, "--json").stdout)
    assert answer["creditability"] == predicted["creditability"].iloc[0]
    refused = platform.lepton("predict", "scorer", "--row", '{"purpose": 3}', check=False)
    assert refused.returncode == 1
    assert "row 0, column " in refused.stderr


def test_texts_and_images_become_predictions_by_the_files_beside_the_model(platform: Platform, tmp_path: Path) -> None:
    connection = platform.connect()
    (tmp_path / "tokenizer.json").write_bytes(tokenizer_file(8))
    lepton.ModelVersion.upload("e2e-texts", text_model(), files=[tmp_path / "tokenizer.json"], connection=connection)
    texts = lepton.Deploy("e2e-texts", connection=connection).save().predict_texts(["good", "good bad"])
    # The number of tokens, and the sum of their ids.
    assert texts.to_numpy().tolist() == [[1.0, 2.0], [2.0, 5.0]]
    (tmp_path / "model.onnx").write_bytes(image_model())
    (tmp_path / "image.json").write_text('{"size": [4, 4], "scale": 1.0}')
    (tmp_path / "blue.png").write_bytes(png((0, 0, 255)))
    upload = ("models", "upload", "e2e-images", str(tmp_path / "model.onnx"), "--file", str(tmp_path / "image.json"))
    platform.lepton(*upload)
    platform.lepton("deploy", "e2e-images")
    told = platform.lepton("predict", "e2e-images", "--image", str(tmp_path / "blue.png"), "--json")
    assert json.loads(told.stdout) == [{"prediction_0": 0.0, "prediction_1": 0.0, "prediction_2": 255.0}]
