"""Which plans are tried, where."""

from dataclasses import replace

import pytest

from services.inference.domain.tuning import TuningMode
from services.inference.plans.candidates import LEAST_ROWS, GraphFacts, Hardware, find_candidate, worth_trying

_CPU = Hardware("a processor", 4, True, "1.31.1", "CPUExecutionProvider", 1)
_OLD_CPU = replace(_CPU, has_vnni=False)
_GPU = replace(_CPU, provider="CUDAExecutionProvider")

_TRANSFORMER = GraphFacts({"MatMul": 48, "Softmax": 6, "LayerNormalization": 13}, 36)
_OLD_TRANSFORMER = GraphFacts({"MatMul": 48, "Softmax": 6, "ReduceMean": 26, "Sqrt": 13}, 36)
_CNN = GraphFacts({"Conv": 20, "Gemm": 1, "Relu": 17}, 21)
_MLP = GraphFacts({"Gemm": 3, "Relu": 2}, 3)
_TREES = GraphFacts({"TreeEnsemble": 1, "Concat": 1}, 0)
_QUANTIZED = GraphFacts({"MatMulInteger": 3, "DynamicQuantizeLinear": 3, "MatMul": 1}, 1)


@pytest.mark.parametrize(
    ("facts", "hardware", "expected"),
    [
        (_TRANSFORMER, _CPU, ["plain", "fused", "int8_dynamic", "fused_int8_dynamic", "int8_static"]),
        (_OLD_TRANSFORMER, _CPU, ["plain", "fused", "int8_dynamic", "fused_int8_dynamic", "int8_static"]),
        (_CNN, _CPU, ["plain", "extended", "int8_static"]),
        (_CNN, _OLD_CPU, ["plain", "extended", "int8_static", "int8_static_reduced"]),
        (_MLP, _CPU, ["plain", "int8_dynamic", "int8_static"]),
        (_MLP, _OLD_CPU, ["plain", "int8_dynamic", "int8_dynamic_reduced", "int8_static", "int8_static_reduced"]),
        (_TREES, _CPU, ["plain"]),
        (_QUANTIZED, _CPU, ["plain"]),
        (
            _TRANSFORMER,
            _GPU,
            ["plain", "fused", "cuda_graph", "tensorrt", "fp16", "fp16_cuda_graph", "fused_fp16", "tensorrt_fp16"],
        ),
        (_CNN, _GPU, ["plain", "extended", "cuda_graph", "tensorrt", "fp16", "fp16_cuda_graph", "tensorrt_fp16"]),
    ],
)
def test_candidates_follow_from_the_graph_and_the_hardware(
    facts: GraphFacts, hardware: Hardware, expected: list[str]
) -> None:
    tried, _ = worth_trying(facts, hardware, TuningMode.WITHIN_LOSS, LEAST_ROWS)
    assert [candidate.name for candidate in tried] == expected


@pytest.mark.parametrize("facts", [_TRANSFORMER, _CNN, _MLP, _TREES])
@pytest.mark.parametrize("hardware", [_CPU, _OLD_CPU, _GPU])
@pytest.mark.parametrize(("mode", "rows"), [(TuningMode.LOSSLESS, 5000), (TuningMode.WITHIN_LOSS, LEAST_ROWS - 1)])
def test_only_lossless_plans_are_tried_where_quality_is_not_to_be_lost_or_cannot_be_judged(
    facts: GraphFacts, hardware: Hardware, mode: TuningMode, rows: int
) -> None:
    tried, left = worth_trying(facts, hardware, mode, rows)
    assert all(candidate.is_lossless for candidate in tried)
    wanted, _ = worth_trying(facts, hardware, TuningMode.WITHIN_LOSS, LEAST_ROWS)
    # Each that would be tried otherwise is named, with the reason.
    assert {candidate.name for candidate in wanted} == {candidate.name for candidate in tried} | set(left)
    assert all(("lossless" if mode is TuningMode.LOSSLESS else "too few rows") in why for why in left.values())


def test_graph_that_is_quantised_already_says_so() -> None:
    _, left = worth_trying(_QUANTIZED, _CPU, TuningMode.WITHIN_LOSS, LEAST_ROWS)
    assert left["int8_dynamic"] == "not tried: the graph is quantised already"


def test_a_plan_of_other_hardware_is_another() -> None:
    keys = {hardware.key for hardware in (_CPU, _GPU, replace(_CPU, cores=8), replace(_CPU, runtime="2.0.0"))}
    assert len(keys | {replace(_CPU, threads=2).key, replace(_CPU, processor="another").key}) == 6


def test_unknown_candidate_of_a_later_version_is_none() -> None:
    assert find_candidate("int4_sparse") is None
    plain = find_candidate("plain")
    assert plain is not None
    assert not plain.changes_graph
