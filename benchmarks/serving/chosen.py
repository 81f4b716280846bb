"""A deployment whose execution plan Lepton chooses by itself, judged on the model's own evaluation rows."""

import time
from dataclasses import replace
from typing import Any

from benchmarks.serving.house import House
from benchmarks.serving.load import RunFailed
from benchmarks.serving.question import Question
from lepton.datasets import Dataset
from lepton.deployment import Deploy

# Importing the rows, building and measuring the candidates, on the server's core.
_PATIENCE_SECONDS = 300.0
_LOOK_SECONDS = 0.5


def serve_chosen(house: House, question: Question) -> tuple[Question, str]:
    """Deploy a question's model once more, with the best plan within 0.5 points; return what to ask it, and its plan.

    Raises:
        RunFailed: no plan was chosen in time.
    """
    assert question.evaluation is not None
    asked = replace(question, model=f"{question.model}-chosen", is_class=True)
    rows = Dataset.import_file(
        question.evaluation, name=f"{question.model}-rows", label="label", connection=house.connection
    )
    house.serve(asked)
    deployment = Deploy(asked.model, connection=house.connection)
    deployment.tune("within_loss", max_quality_loss_points=0.5, evaluation_dataset=rows.ref)
    plan = _wait_for_plan(deployment)
    return asked, (
        f"{plan['plan']}, batch {plan['batch_rows']}; {plan['metric']} {plan['points']:.2f}, "
        f"{plan['loss_points']:.2f} below plain"
    )


def _wait_for_plan(deployment: Deploy) -> dict[str, Any]:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline:
        found = deployment.plans()
        if len(found):
            return dict(found.iloc[0])
        time.sleep(_LOOK_SECONDS)
    raise RunFailed(f"no plan was chosen within {_PATIENCE_SECONDS:g} s")
