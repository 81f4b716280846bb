"""Releases as a person makes them: by the SDK and by the command."""

import json
from pathlib import Path

import pytest

import lepton
from lepton import errors
from lepton.models import LogisticRegression
from lepton.v1 import common_pb2
from tests.support.platform import Platform, wait_for

CREDIT = Path(__file__).parents[2] / "examples" / "credit" / "german_credit.csv"


def test_versions_are_released_step_by_step_and_taken_back(platform: Platform) -> None:
    connection = platform.connect()
    credit = lepton.Dataset.import_file(CREDIT, name="releases", label="creditability", connection=connection)
    model = LogisticRegression(name="releases", connection=connection).fit(credit)
    again = LogisticRegression(name="releases", c=5.0, connection=connection).fit(credit)
    first, second = model.trained_version().ref, again.trained_version().ref
    deployment = lepton.Deploy(model).save(version=first)
    deployment.wait()
    rows = credit.to_pandas().head(20)

    def answers() -> None:
        for _ in range(5):
            deployment.predict(rows)

    deployment.split({second: 50.0})
    wait_for(lambda: set(deployment.versions()["role"]) == {"serving", "split"}, 120, "both to be placed")
    answers()
    platform.lepton("deployments", "split", "releases")
    deployment.canary(second, steps=(10, 50), step_seconds=1, min_requests=1, max_latency_ratio=0)
    shown = platform.lepton("deployments", "show", "releases").stdout
    assert "canary" in shown
    with pytest.raises(errors.LeptonError):
        deployment.canary("releases@99")

    def promoted() -> bool:
        answers()
        return deployment.status().number == int(second.partition("@")[2])

    wait_for(promoted, 120, "the canary to be promoted")
    back = json.loads(platform.lepton("deployments", "rollback", "releases", "--json").stdout)
    assert int(back["number"]) == int(first.partition("@")[2])
    platform.lepton("deployments", "shadow", "releases", second)

    def compared() -> bool:
        answers()
        frame = deployment.versions()
        return bool((frame[frame["role"] == "shadow"]["compared"] > 0).any())

    wait_for(compared, 120, "answers to be compared")
    deployment.shadow(None)
    deployment.cache(1 << 20)
    assert deployment.status().response_cache_bytes == 1 << 20
    platform.lepton("deployments", "batch", "releases", "off")
    assert deployment.status().batching == common_pb2.BATCHING_OFF
    # A repeat keeps it, unless it says otherwise.
    for batching, expected in ((None, common_pb2.BATCHING_OFF), ("auto", common_pb2.BATCHING_AUTO)):
        again_deployed = lepton.Deploy(model, batching=batching).save(version=deployment.status().version)
        assert again_deployed.status().batching == expected
    bad = platform.lepton("deployments", "split", "releases", "nonsense", check=False)
    assert bad.returncode != 0
    assert "VERSION=PERCENT" in bad.stderr
