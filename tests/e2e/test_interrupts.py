"""Ctrl-C in a real process: the wait ends, what continues is named, and the job can be cancelled."""

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import lepton
from lepton.connection import Connection
from lepton.jobs import Job
from tests.support.platform import Platform, wait_for

# Far more epochs than any machine has time for during the test.
_ENDLESS = {"epochs": "10000", "hidden_units": "16"}
_FIT = """
import lepton
from lepton.models import MLP
MLP(name="pressed-twice", epochs=10000, hidden_units=16).fit("endless@1", target="y")
"""
_IMPORTS = """
import os, signal, sys
class Press:
    def find_spec(self, name, path=None, target=None):
        if name == "lepton.cli.jobs":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Press())
sys.argv = ["lepton", "jobs", "list"]
from lepton.cli import main
main()
"""


@pytest.fixture(scope="module")
def connection(platform: Platform) -> Connection:
    connected = platform.connect()
    generator = np.random.default_rng(0)
    frame = pd.DataFrame({"a": generator.normal(size=400).round(2), "b": generator.normal(size=400).round(2)})
    frame["y"] = (frame["a"] + frame["b"] + generator.normal(size=400)).round(3)
    lepton.Dataset.import_frame(frame, "endless", label="y", connection=connected)
    return connected


def _jobs(connection: Connection, model: str, *states: str) -> list[str]:
    listed = Job.list(model=model, connection=connection)
    return list(listed["name"][listed["state"].isin(states)])


def test_interrupted_train_names_the_job_that_goes_on(platform: Platform, connection: Connection) -> None:
    options = [text for name, value in _ENDLESS.items() for text in ("-p", f"{name}={value}")]
    command = [sys.executable, "-m", "lepton.cli", "train", "mlp", "endless@1", "--model", "pressed-once", *options]
    running = subprocess.Popen(command, env=platform.environment, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: bool(_jobs(connection, "pressed-once", "RUNNING")), 120, "the job to run")
    (name,) = _jobs(connection, "pressed-once", "RUNNING")
    running.send_signal(signal.SIGINT)
    _, told = running.communicate(timeout=120)
    assert running.returncode == 130
    assert told.strip() == (
        f"job {name} continues: `lepton jobs watch {name}` follows it, `lepton jobs cancel {name}` stops it"
    )
    assert _jobs(connection, "pressed-once", "RUNNING") == [name]
    watching = subprocess.Popen(
        [sys.executable, "-m", "lepton.cli", "jobs", "watch", name],
        env=platform.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert watching.stdout is not None
    assert watching.stdout.readline()
    watching.send_signal(signal.SIGINT)
    _, told = watching.communicate(timeout=120)
    assert (watching.returncode, told.count("continues")) == (130, 1)
    assert "Traceback" not in told
    assert platform.lepton("jobs", "cancel", name).returncode == 0
    wait_for(lambda: bool(_jobs(connection, "pressed-once", "CANCELLED")), 120, "the job to stop")


def test_second_press_at_the_prompt_of_a_fit_cancels(platform: Platform, connection: Connection) -> None:
    ours, theirs = pty.openpty()
    running = subprocess.Popen(
        [sys.executable, "-c", _FIT],
        env={**platform.environment, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdin=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    wait_for(lambda: bool(_jobs(connection, "pressed-twice", "RUNNING")), 120, "the job to run")
    running.send_signal(signal.SIGINT)
    told = b""
    while b"Enter leaves it running" not in told:
        told += os.read(ours, 4096)
    running.send_signal(signal.SIGINT)
    while b"is asked to stop" not in told:
        told += os.read(ours, 4096)
    running.wait(timeout=120)
    os.close(ours)
    wait_for(lambda: bool(_jobs(connection, "pressed-twice", "CANCELLED")), 120, "the job to stop")


def test_press_during_imports_is_quiet(platform: Platform) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", _IMPORTS],
        env={**platform.environment, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (130, "")
