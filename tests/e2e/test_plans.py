"""A model made elsewhere gets a better plan on a whole platform, judged on what it was evaluated on."""

import numpy as np
import onnx
import pandas as pd
from onnx import TensorProto, helper

import lepton
from lepton.versions import ModelVersion
from tests.inference.plans.graphs import WIDE, labelled, layers
from tests.support.platform import Platform, wait_for

_COLUMNS = [f"column {place}" for place in range(8)]


def _by_column(logits: bytes) -> bytes:
    """Return a graph that takes one column an input, and gives the best class."""
    model = onnx.load_from_string(logits)
    del model.graph.input[:], model.graph.output[:]
    model.graph.input.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 1]) for name in _COLUMNS)
    model.graph.output.append(helper.make_tensor_value_info("label", TensorProto.INT64, ["batch", 1]))
    model.graph.node.insert(0, helper.make_node("Concat", _COLUMNS, ["x"], axis=1))
    model.graph.node.append(helper.make_node("ArgMax", ["logits"], ["label"], axis=1))
    content: bytes = model.SerializeToString()
    return content


def test_uploaded_model_is_tuned_on_the_rows_that_it_was_evaluated_on(platform: Platform) -> None:
    connection = platform.connect()
    logits = layers(inputs=len(_COLUMNS), width=WIDE)
    x, labels = labelled(logits, 400)
    rows = pd.DataFrame(x.astype(np.float64), columns=_COLUMNS).assign(label=labels)
    version = ModelVersion.upload("wide", _by_column(logits), connection=connection)
    dataset = lepton.Dataset.import_frame(rows, name="wide-rows", label="label", connection=connection)
    assert lepton.evaluate(version, dataset)["accuracy"] > 0.99
    deployment = lepton.Deploy(version).save()
    deployment.wait()
    wait_for(lambda: len(deployment.plans()) > 0, 120, "a plan")
    [plan] = deployment.plans().to_dict("records")
    assert plan["precision"] == "int8", deployment.status().plans
    assert plan["metric"] == "accuracy"
    assert plan["loss_points"] <= 0.5
    assert plan["rows_per_second"] > plan["plain_rows_per_second"]
    assert deployment.status().plans[0].quality.dataset == dataset.ref
    predicted = deployment.predict(rows)
    assert (predicted.iloc[:, 0].to_numpy().reshape(-1) == labels).mean() > 0.99
    shown = platform.lepton("deployments", "show", "wide").stdout
    assert "rows a second by batch, plain -> chosen" in shown
    assert "chosen" in shown
