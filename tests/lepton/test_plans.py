"""Execution plans as the SDK shows them."""

import math

import pytest

from lepton import errors
from lepton.plans import candidates_frame, plans_frame, to_tuning
from lepton.v1 import inference_pb2 as pb


def test_wish_is_said_in_words() -> None:
    assert to_tuning() == pb.Tuning()
    wished = to_tuning("within_loss", 0.0, "rows@3")
    assert wished.mode == pb.TUNING_MODE_WITHIN_LOSS
    # Nothing may be lost: that is not the same as no word about it.
    assert wished.HasField("max_quality_loss_points")
    assert wished.dataset == "rows@3"
    with pytest.raises(errors.InvalidArgument, match="off, lossless, within_loss"):
        to_tuning("fast")


def test_plan_is_a_row_with_its_speed_at_the_best_batch() -> None:
    plan = pb.Plan(
        digest="d" * 64,
        name="int8_dynamic",
        batch_rows=8,
        speeds=[
            pb.PlanSpeed(rows=1, plain_rows_per_second=100, rows_per_second=250),
            pb.PlanSpeed(rows=8, plain_rows_per_second=200, rows_per_second=500),
        ],
        quality=pb.PlanQuality(metric="accuracy", points=98.5, loss_points=0.25),
    )
    [row] = plans_frame(pb.Deployment(plans=[plan])).to_dict("records")
    assert (row["plan"], row["rows_per_second"], row["plain_rows_per_second"]) == ("int8_dynamic", 500, 200)
    assert (row["metric"], row["points"], row["loss_points"]) == ("accuracy", 98.5, 0.25)
    [bare] = plans_frame(pb.Deployment(plans=[pb.Plan(name="plain", message="nothing to win")])).to_dict("records")
    assert math.isnan(bare["rows_per_second"])
    assert math.isnan(bare["loss_points"])
    assert plans_frame(pb.Deployment()).empty


def test_candidates_tell_what_was_measured_and_why_they_were_not_taken() -> None:
    plan = pb.Plan(
        candidates=[
            pb.PlanCandidate(name="plain", speedup=1.0, loss_points=0.0, outcome="chosen"),
            pb.PlanCandidate(name="int8_static", outcome="not tried: there are too few rows"),
        ]
    )
    frame = candidates_frame(plan)
    assert frame["plan"].tolist() == ["plain", "int8_static"]
    assert frame["loss_points"].tolist()[0] == 0.0
    assert frame[["speedup", "loss_points"]].iloc[1].isna().all()
