"""Pairs of texts and embeddings against a whole platform: trained, deployed, asked by every way there is."""

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

import lepton
from lepton import errors, open_inference
from lepton.connection import Connection
from tests.support.platform import Platform
from tests.training.families.text.reading import EMBED, TINY, halves, shared_words


@pytest.fixture(scope="module")
def connection(platform: Platform) -> Connection:
    return platform.connect()


@pytest.fixture(scope="module")
def scorer(connection: Connection) -> lepton.Transformer:
    settings: dict[str, Any] = {**TINY, "epochs": 6}
    return lepton.Transformer(name="shared", connection=connection, **settings).fit(_pairs(), target="shared")


def _pairs() -> pd.DataFrame:
    frame: pd.DataFrame = shared_words(300).to_pandas()[["a", "b", "shared"]]
    return frame


def test_pairs_become_numbers(platform: Platform, scorer: lepton.Transformer) -> None:
    assert {"rmse", "mae", "r2", "spearman"} <= set(scorer.metrics)
    deployment = lepton.Deploy(scorer).save()
    asked = _pairs().tail(4)
    predicted = deployment.predict(asked)
    assert list(predicted.columns) == ["shared"]
    assert list(predicted.index) == list(asked.index)
    pairs = list(zip(asked["a"], asked["b"], strict=True))
    alone = deployment.predict_texts(pairs[1:2])
    assert alone["shared"].iloc[0] == pytest.approx(predicted["shared"].iloc[1], rel=1e-5)
    told = platform.lepton(
        *("predict", "shared", "--text", pairs[0][0], "--text-pair", pairs[0][1]),
        *("--text", pairs[1][0], "--text-pair", pairs[1][1], "--json"),
    )
    assert [row["shared"] for row in json.loads(told.stdout)] == pytest.approx(list(predicted["shared"])[:2], rel=1e-5)
    with pytest.raises(errors.InvalidArgument, match="two texts together"):
        deployment.predict_texts(["red green blue"])
    with pytest.raises(KeyError, match="'b'"):
        deployment.predict(asked[["a"]])
    refused = platform.lepton("predict", "shared", "--text", "a", "--text", "b", "--text-pair", "c", check=False)
    assert "one --text-pair for each --text" in refused.stderr


def test_model_of_pairs_is_scored_on_others(scorer: lepton.Transformer) -> None:
    other = shared_words(60, seed=1).to_pandas()[["a", "b", "shared"]]
    assert -1 <= lepton.evaluate(scorer, other)["spearman"] <= 1


@pytest.mark.slow
def test_texts_become_vectors(platform: Platform, connection: Connection) -> None:
    rows = halves(200).to_pandas()
    settings: dict[str, Any] = {**TINY, **EMBED}
    small = lepton.Transformer(name="halves", connection=connection, **settings)
    fitted = small.fit(rows, target="second")
    assert {"recall@1", "recall@10", "mrr", "mean_rank"} == set(fitted.metrics)
    version = fitted.trained_version()
    assert version.message.parity.max_difference < 1e-5
    assert version.signature.task == "embedding"
    deployment = lepton.Deploy(fitted).save()
    asked = rows.tail(5)
    vectors = deployment.embed(asked["first"])
    assert (vectors.dtype, vectors.shape) == (np.float32, (5, 32))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    framed = deployment.predict(asked)
    assert list(framed.columns) == [f"embedding_{place}" for place in range(32)]
    np.testing.assert_allclose(framed.to_numpy(), vectors, atol=1e-5)
    assert list(framed.index) == list(asked.index)
    # By tensors, as the signature has it.
    ids = np.array([[2, 10, 11]], dtype=np.int64)
    inputs = [(spec, ids if spec.name == "input_ids" else np.ones_like(ids)) for spec in version.signature.inputs]
    found = open_inference.infer(connection.serving_channel, "halves", "", inputs, 20.0)
    assert found["embedding"].shape == (1, 32)
    with pytest.raises(errors.InvalidArgument, match="one text at a time"):
        deployment.predict_texts([("a", "b")])
    told = json.loads(platform.lepton("predict", "halves", "--text", asked["first"].iloc[0], "--json").stdout)
    np.testing.assert_allclose(list(told[0].values()), vectors[0], atol=1e-5)
    assert lepton.evaluate(fitted, halves(50, start=3000).to_pandas())["mrr"] > 0
    with pytest.raises(errors.JobFailed, match="no text in 'second'"):
        small.fit(pd.DataFrame({"first": ["a", "b", "c"], "second": ["x", " ", "z"]}), target="second")
