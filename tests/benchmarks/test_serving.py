"""What the serving benchmark relies on to call a figure a figure."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from benchmarks.harness import percentile
from benchmarks.serving import graphs
from benchmarks.serving.load import RunFailed, count_replies
from benchmarks.serving.options import PEERS, ROWS, parse_options
from benchmarks.serving.question import Question, frame, is_same, read_json, read_protobuf
from benchmarks.serving.report import Figure, show_figures
from services.inference.open_inference import grpc_service_pb2 as pb

SUMMARY = """
requests: 1000 total, 1010 started, 1000 done, {succeeded} succeeded, {failed} failed, {failed} errored, 0 timeout
status codes: 1000 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 100.00KB (102400) total, 9.77KB (10004) headers (space savings 95.00%), 48.83KB ({data}) data
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Question:
    return graphs.tiny(tmp_path)


def test_options_name_every_row_and_peer() -> None:
    options = parse_options([])
    assert (options.rows, options.peers, options.tls) == (tuple(ROWS), PEERS, ("off", "on"))
    chosen = parse_options(["--rows", "tiny,swap", "--peers", "none", "--tls", "on"])
    assert (chosen.rows, chosen.peers, chosen.tls) == (("tiny", "swap"), (), ("on",))


def test_unknown_row_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_options(["--rows", "tinny"])
    assert "no tinny: there are tiny, credit" in capsys.readouterr().err


def test_request_is_one_that_the_model_answers(tiny: Question) -> None:
    request = pb.ModelInferRequest.FromString(tiny.protobuf())
    values = np.frombuffer(request.raw_input_contents[0], np.float32).reshape(request.inputs[0].shape)
    outputs = ort.InferenceSession(tiny.onnx).run(None, {request.inputs[0].name: values})
    assert is_same({"probability": outputs[0]}, tiny.expected())


def test_frame_is_grpcs() -> None:
    assert frame(b"abc") == b"\0\0\0\0\3abc"


def test_versions_of_the_tiny_model_answer_differently(tmp_path: Path) -> None:
    first, second = graphs.tiny(tmp_path, seed=0), graphs.tiny(tmp_path, seed=1)
    assert first.protobuf() == second.protobuf()
    assert not is_same(first.expected(), second.expected())


@pytest.mark.slow
def test_cnn_is_of_a_resnet18s_quarter_width(tmp_path: Path) -> None:
    question = graphs.cnn(tmp_path)
    # ResNet-18's convolutions have 11.2 million weights of four bytes; a quarter of its width takes a sixteenth.
    assert 11.2e6 * 4 / 16 < question.onnx.stat().st_size < 11.2e6 * 4 / 15
    assert question.expected()["logits"].shape == (1, 10)
    assert np.isfinite(question.expected()["logits"]).all()


@pytest.mark.parametrize("typed", [False, True])
def test_reply_is_read_raw_and_typed(typed: bool) -> None:
    response = pb.ModelInferResponse()
    number = response.outputs.add(name="p", datatype="FP32", shape=[1, 2])
    text = response.outputs.add(name="label", datatype="BYTES", shape=[1, 1])
    if typed:
        number.contents.fp32_contents.extend([0.25, 0.75])
        text.contents.bytes_contents.append(b"good")
    else:
        response.raw_output_contents.append(np.array([0.25, 0.75], np.float32).tobytes())
        response.raw_output_contents.append(b"\4\0\0\0good")
    expected = {"p": np.array([[0.25, 0.75]], np.float32), "label": np.array([["good"]], dtype=object)}
    assert is_same(read_protobuf(response.SerializeToString()), expected)
    assert not is_same(read_protobuf(response.SerializeToString()), {**expected, "label": np.array(["bad"])})


def test_json_reply_is_read() -> None:
    reply = json.dumps({"outputs": [{"name": "p", "shape": [1, 2], "data": [[0.25, 0.75]]}]}).encode()
    assert is_same(read_json(reply), {"p": np.array([[0.25, 0.75]], np.float32)})


def test_replies_without_bytes_are_errors() -> None:
    whole = SUMMARY.format(succeeded=1000, failed=0, data=50_000)
    assert count_replies(whole, reply_bytes=50, in_flight=32) == (1000, 0)
    half = SUMMARY.format(succeeded=1000, failed=0, data=25_000)
    assert count_replies(half, reply_bytes=50, in_flight=32) == (500, 500)


def test_replies_cut_in_two_at_the_end_are_no_errors() -> None:
    cut = SUMMARY.format(succeeded=1000, failed=0, data=50_000 - 32 * 25)
    assert count_replies(cut, reply_bytes=50, in_flight=32) == (1000, 0)


def test_http_failures_count_whatever_came() -> None:
    failing = SUMMARY.format(succeeded=900, failed=100, data=50_000)
    assert count_replies(failing, reply_bytes=0, in_flight=32) == (900, 100)


def test_no_reply_is_no_run() -> None:
    with pytest.raises(RunFailed, match="counted no reply"):
        count_replies(SUMMARY.format(succeeded=0, failed=0, data=0), reply_bytes=50, in_flight=32)


def test_percentiles_are_by_nearest_rank() -> None:
    assert (percentile(range(100), 50), percentile(range(100), 99), percentile([], 99)) == (50, 99, 0)


def test_report_marks_what_is_quoted_and_what_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    measured = Figure("tiny", "Lepton", "32 in flight", 12_000.0, target=15_000.0)
    quoted = Figure("tiny", "Triton", "32 in flight", 20_700.0, source="quoted")
    lacking = dataclasses.replace(measured, value=None, note="not available")
    show_figures("title", [measured, quoted, lacking])
    *table, line = capsys.readouterr().out.splitlines()
    assert "12,000" in table[2] and "0.8" in table[2]
    assert "quoted" in table[3]
    assert "not available" in table[4]
    assert [figure["value"] for figure in json.loads(line)["figures"]] == [12_000.0, 20_700.0, None]
