"""Some of ONNX's own backend tests through a whole platform; `make test-onnx-backend` takes all of them."""

import re

from benchmarks.onnx_backend.__main__ import report
from benchmarks.onnx_backend.cases import runnable
from benchmarks.onnx_backend.walk import walk
from tests.support.platform import Platform

# One of each kind: datatypes, ranks, scalars, empty tensors, several outputs, texts, control flow, no input, defaults.
CASES = (
    "test_abs",
    "test_argmax_default_axis_random",
    "test_castlike_DOUBLE_to_FLOAT16",
    "test_constant",
    "test_identity_opt",
    "test_identity_sequence",
    "test_loop11",
    "test_add_uint8",
    "test_nonzero_example",
    "test_reshape_zero_dim",
    "test_sequence_insert_at_back",
    "test_split_zero_size_splits_opset18",
    "test_string_concat",
    "test_top_k",
    "simple_test_strnorm_model_nostopwords_nochangecase",
)


def test_backend_cases_are_answered_as_by_bare_onnx_runtime(platform: Platform) -> None:
    cases = list(runnable("^(" + "|".join(map(re.escape, CASES)) + ")$"))
    outcomes = walk(cases, platform.connect())
    assert {outcome.name for outcome in outcomes} == set(CASES)
    refused = {outcome.name: outcome.why for outcome in outcomes if outcome.kind != "equal"}
    # An optional sequence cannot be asked for over the wire, and says so.
    assert set(refused) == {"test_identity_opt"}, report(outcomes)
    assert all(why.startswith("UNSUPPORTED_TYPE: ") for why in refused.values())
