"""The command line against a whole platform."""

import json
import os
from pathlib import Path

from tests.support import onnx_models
from tests.support.platform import Platform

CREDIT = Path(__file__).parents[2] / "examples" / "credit" / "german_credit.csv"


def test_csv_to_prediction_by_commands(platform: Platform) -> None:
    imported = json.loads(
        platform.lepton(*("data", "import", str(CREDIT), "--name", "cli", "--label", "creditability", "--json")).stdout
    )
    assert imported["rows"] == "1000"
    split = platform.lepton("data", "transform", "cli", "--drop-missing", "--split", "0.2", "--seed", "7", "--json")
    assert [row["rows"] for row in json.loads(split.stdout)] == [800, 200]
    trained = platform.lepton(
        *("train", "boosted_trees", "cli-train", "--model", "cli", "--evaluation-dataset", "cli-test"),
        *("-p", "n_estimators=50", "--json"),
    )
    assert json.loads(trained.stdout)["version"] == "cli@1"
    assert json.loads(platform.lepton("models", "promote", "cli@1", "--json").stdout)["name"] == "champion"
    deployed = json.loads(platform.lepton("deploy", "cli@champion", "--json").stdout)
    assert deployed["state"] == "DEPLOYMENT_STATE_READY"
    rows = json.loads(platform.lepton("predict", "cli", str(CREDIT), "--json").stdout)
    assert len(rows) == 1000
    assert set(rows[0]) == {"creditability", "probability_bad", "probability_good"}
    tuned = json.loads(platform.lepton("deployments", "tune", "cli", "lossless", "--json").stdout)
    assert tuned["tuning"]["mode"] == "TUNING_MODE_LOSSLESS"
    assert "TUNING_MODE_LOSSLESS" in platform.lepton("deployments", "show", "cli").stdout
    placements = json.loads(platform.lepton("workers", "placements", "--json").stdout)
    assert {"worker": "inference-worker-1", "kind": "replica", "name": "cli", "number": 1, "waits": ""} in placements


def test_status_names_every_process(platform: Platform) -> None:
    status = json.loads(platform.lepton("status", "--json").stdout)
    assert set(status["services"]) == {
        *("nats", "data", "training", "registry", "scheduler", "inference"),
        *(f"inference-worker-{number + 1}" for number in range(min(os.cpu_count() or 1, 4))),
        "training-worker-1",
    }
    assert all(entry["healthy"] and entry["pid"] for entry in status["services"].values())
    assert Path(status["ca"]).exists()
    assert Path(status["token"]).stat().st_mode & 0o077 == 0


def test_failure_is_one_line_that_says_what_to_do(platform: Platform) -> None:
    failed = platform.lepton("models", "show", "nothing@1", check=False)
    assert failed.returncode == 1
    assert failed.stderr == "error: no model version 'nothing@1'\n"


def test_without_a_platform_the_error_says_how_to_start_one(platform: Platform, tmp_path: Path) -> None:
    elsewhere = Platform(tmp_path, 0, {**platform.environment, "LEPTON_HOME": str(tmp_path)})
    failed = elsewhere.lepton("data", "list", check=False)
    assert failed.returncode == 1
    assert "lepton up" in failed.stderr


def test_second_platform_in_the_same_home_is_refused(platform: Platform) -> None:
    failed = platform.lepton("up", "--detach", check=False)
    assert failed.returncode == 1
    assert "already runs" in failed.stderr


def test_logs_are_json_lines(platform: Platform) -> None:
    lines = platform.lepton("logs", "data", "--lines", "5").stdout.splitlines()
    assert lines
    assert all(json.loads(line)["service"] == "data" for line in lines)


def test_bad_user_files_are_one_line_each(platform: Platform, tmp_path: Path) -> None:
    (tmp_path / "ragged.csv").write_text("a,b\n1,2\n3,4,5\n")
    (tmp_path / "good.csv").write_text("a,b\n1,2\n")
    for arguments, match in (
        ((str(tmp_path / "ragged.csv"),), "ragged.csv"),
        ((str(tmp_path / "good.csv"), "--output", str(tmp_path)), "it is a folder"),
    ):
        failed = platform.lepton("predict", "nothing", *arguments, check=False)
        assert (failed.returncode, len(failed.stderr.splitlines())) == (1, 1), failed.stderr
        assert match in failed.stderr


def test_resources_are_declared_shown_and_kept_and_a_served_version_is_not_deleted(
    platform: Platform, tmp_path: Path
) -> None:
    path = tmp_path / "small.onnx"
    path.write_bytes(onnx_models.linear_model((1.0, 1.0), 0.5))
    platform.lepton("models", "upload", "small", str(path))
    platform.lepton("deploy", "small@1", "--memory", "32MiB", "--replicas", "1")
    # What is not given stays.
    platform.lepton("deploy", "small@1", "--cores", "0.05")
    shown = json.loads(platform.lepton("deployments", "show", "small", "--json").stdout)
    assert shown["declared_resources"] == {"cores": 0.05, "memory_bytes": str(32 << 20)}
    assert shown["resources"] == shown["declared_resources"]
    assert "reserves 0.05 cores, 32 MiB memory (declared)" in platform.lepton("deployments", "show", "small").stdout
    refused = platform.lepton("deploy", "small@1", "--memory", "32MX", check=False)
    assert (refused.returncode, "such as 512MiB or 2GiB" in refused.stderr) == (1, True)
    in_use = platform.lepton("models", "delete", "small@1", check=False)
    assert in_use.returncode == 1
    assert "small@1 is in use: deployment small serves version 1" in in_use.stderr
    forced = platform.lepton("models", "delete", "small@1", "--force", "--json")
    assert json.loads(forced.stdout)["broken"] == ["deployment small serves version 1"]
    platform.lepton("deployments", "delete", "small")
