"""States, references, digests and checks: pure."""

import hashlib
import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servicekit.errors import FailedPrecondition, InvalidArgument, PermissionDenied
from services.registry.domain.checks import (
    check_artifacts,
    check_claim,
    check_parity,
    check_signature,
    check_verdict,
    tried_beside,
    warnings_of,
)
from services.registry.domain.versions import (
    TRANSITIONS,
    Artifact,
    Refusal,
    Tensor,
    Transition,
    Verdict,
    VersionRef,
    VersionState,
    digest_of,
    next_state,
)
from tests.registry.versions import declare, version


def test_every_state_and_transition_is_in_the_table() -> None:
    assert set(TRANSITIONS) == set(itertools.product(VersionState, Transition))


@pytest.mark.parametrize("transition", Transition)
def test_only_a_pending_version_changes(transition: Transition) -> None:
    assert next_state(VersionState.PENDING, transition) is not VersionState.PENDING
    for state in (VersionState.READY, VersionState.FAILED):
        with pytest.raises(FailedPrecondition):
            next_state(state, transition)


@given(st.from_regex(r"[a-z0-9][a-z0-9_-]{0,62}", fullmatch=True), st.integers(1, 10**18 - 1))
def test_numbers_are_read_back(name: str, number: int) -> None:
    assert VersionRef.parse(f"{name}@{number}") == VersionRef(name, number)


@given(st.text(max_size=80))
def test_any_text_is_a_reference_or_an_invalid_argument(text: str) -> None:
    try:
        ref = VersionRef.parse(text)
    except InvalidArgument:
        return
    which = str(ref.number) if ref.number else ref.alias
    assert text.partition("@")[0] == ref.model
    assert text.partition("@")[2].lstrip("0" if ref.number else "") == which


def test_name_alone_means_neither_number_nor_alias() -> None:
    assert VersionRef.parse("m") == VersionRef("m")
    assert VersionRef.parse("m@3rd") == VersionRef("m", alias="3rd")


def test_digest_does_not_depend_on_the_files_order() -> None:
    files = [Artifact("b.json", "2" * 64, 1), Artifact("a.json", "1" * 64, 1)]
    expected = hashlib.sha256(f"a.json:{'1' * 64}\nb.json:{'2' * 64}\n".encode()).hexdigest()
    assert digest_of(files) == digest_of(reversed(files)) == expected


@given(st.text(max_size=40))
def test_name_with_a_path_or_of_another_kind_is_never_taken(name: str) -> None:
    artifacts = [Artifact("model.onnx", "a" * 64, 1), Artifact(name, "a" * 64, 1)]
    try:
        check_artifacts(artifacts, 10)
    except InvalidArgument:
        return
    assert name.isascii()
    assert not set(name) & set("/\\\0\n ~")
    assert not name.startswith(".")


@pytest.mark.parametrize("name", ["a.py", "w.PKL", "pytorch_model.pt", "x.npz", "lib.so", "b.onnx", "model.onnx.ckpt"])
def test_format_that_may_run_code_is_never_taken(name: str) -> None:
    with pytest.raises(InvalidArgument, match="run code"):
        check_artifacts([Artifact("model.onnx", "a" * 64, 1), Artifact(name, "a" * 64, 1)], 10)


@pytest.mark.parametrize(
    "name", ["model.onnx.data", "model.onnx_data", "w", "onnx__MatMul_12", "layer.0.weight", "a:0"]
)
def test_files_of_weights_have_any_plain_name(name: str) -> None:
    check_artifacts([Artifact("model.onnx", "a" * 64, 1), Artifact(name, "a" * 64, 1)], 10)


def test_graph_beyond_what_protobuf_holds_is_refused_with_what_to_do() -> None:
    with pytest.raises(InvalidArgument, match="external data") as refused:
        check_artifacts([Artifact("model.onnx", "a" * 64, 1 << 31)], 1 << 40)
    assert refused.value.reason == "MODEL_TOO_LARGE"
    check_artifacts([Artifact("model.onnx", "a" * 64, 9), Artifact("w.data", "a" * 64, 5 << 30)], 1 << 40)


def test_failed_sample_refuses_what_was_trained_here_and_warns_of_what_was_not() -> None:
    tried = Verdict(sample_failure="no sample ran", warnings=("an output is left out",), sha256="a" * 64)
    made, uploaded = version(declare("j", 1)), version(declare())
    refusal = check_verdict(made, made.artifacts[0], tried)
    assert refusal is not None
    assert refusal.reason == "SAMPLE_PREDICTION_FAILED"
    assert warnings_of(made, tried) == ()
    assert check_verdict(uploaded, uploaded.artifacts[0], tried) is None
    assert warnings_of(uploaded, tried) == ("no sample ran", "an output is left out")


def test_other_bytes_of_a_file_beside_the_model_are_refused() -> None:
    item = version(declare(files=("model.onnx", "w.data")))
    tried = Verdict(sha256="a" * 64, digests={"w.data": "b" * 64})
    refusal = check_verdict(item, item.artifacts[0], tried)
    assert refusal is not None
    assert refusal.reason == "DIGEST_MISMATCH"
    assert "w.data" in refusal.message


def test_verifier_gets_the_files_that_a_graph_may_read_and_the_example() -> None:
    files = ("model.onnx", "example.json", "image.json", "w.data", "tokens.txt", "w.safetensors")
    assert [item.name for item in tried_beside(version(declare(files=files)))] == [
        "example.json",
        "w.data",
        "w.safetensors",
    ]
    assert tried_beside(version(declare("j", 1, files=files))) == ()


@pytest.mark.parametrize("sha256", ["", "A" * 64, "a" * 63, "g" * 64])
def test_digest_must_be_one(sha256: str) -> None:
    with pytest.raises(InvalidArgument, match="hex"):
        check_artifacts([Artifact("model.onnx", sha256, 1)], 10)


def test_job_is_a_workers_word() -> None:
    check_claim(declare(), is_service=False)
    check_claim(declare("j", 1), is_service=True)
    with pytest.raises(PermissionDenied):
        check_claim(declare("j", 1), is_service=False)


_numbers = st.floats(allow_nan=True, allow_infinity=True)


@given(_numbers, _numbers, st.integers(-5, 5000), st.integers(-5, 10))
def test_parity_gate_opens_for_small_differences_alone(
    difference: float, tolerance: float, rows: int, mismatches: int
) -> None:
    parity = {"max_difference": difference, "tolerance": tolerance, "rows": rows, "label_mismatches": mismatches}
    refusal = check_parity(version(declare("j", 1, parity=parity)), 1e-3)
    is_fine = (
        math.isfinite(difference)
        and 0 <= difference <= 1e-3
        and difference <= tolerance
        and rows > 0
        and 0 <= mismatches <= rows / 1000
    )
    assert (refusal is None) == is_fine


def test_model_made_elsewhere_needs_no_parity() -> None:
    assert check_parity(version(declare()), 1e-3) is None
    assert check_parity(version(declare("j", 1)), 1e-3) == Refusal(
        "PARITY_MISSING", "a model trained here must bring its parity measurement"
    )


def _declared(*tensors: Tensor) -> object:
    inputs = [{"name": item.name, "datatype": item.datatype, "shape": item.shape} for item in tensors]
    return declare(signature={"inputs": inputs})


@pytest.mark.parametrize(
    ("said", "found", "agree"),
    [
        (Tensor("x", "FP32", (-1, 3)), Tensor("x", "FP32", (-1, 3)), True),
        (Tensor("x", "FP32", (-1, 3)), Tensor("x", "FP32", (1, 3)), True),
        (Tensor("x", "FP32", (1, 3)), Tensor("x", "FP32", (-1, 3)), True),
        (Tensor("x", "FP32", (-1, 3)), Tensor("x", "FP32", (-1, 4)), False),
        (Tensor("x", "FP32", (-1, 3)), Tensor("x", "FP32", (-1,)), False),
        (Tensor("x", "FP32", (-1, 3)), Tensor("x", "FP64", (-1, 3)), False),
        (Tensor("x", "FP32", (-1, 3)), Tensor("y", "FP32", (-1, 3)), False),
    ],
)
def test_declared_and_found_inputs_agree(said: Tensor, found: Tensor, agree: bool) -> None:
    refusal = check_signature(_declared(said), Verdict(inputs=(found,)))  # type: ignore[arg-type]
    assert (refusal is None) == agree
    if refusal is not None:
        assert refusal.reason == "SIGNATURE_MISMATCH"


def test_input_that_is_named_twice_or_not_at_all_disagrees() -> None:
    x, y = Tensor("x", "FP32", (1,)), Tensor("y", "FP32", (1,))
    for said in ((x, x), (x,), (x, y, y)):
        assert check_signature(_declared(*said), Verdict(inputs=(x, y))) is not None  # type: ignore[arg-type]


def test_other_bytes_than_declared_are_refused_first() -> None:
    tried = Verdict(refusal=Refusal("NOT_ONNX", "no"), sha256="b" * 64)
    model = Artifact("model.onnx", "a" * 64, 3)
    refusal = check_verdict(version(declare()), model, tried)
    assert refusal is not None
    assert refusal.reason == "DIGEST_MISMATCH"
    same = Verdict(refusal=tried.refusal, sha256="a" * 64)
    assert check_verdict(version(declare()), model, same) == tried.refusal
