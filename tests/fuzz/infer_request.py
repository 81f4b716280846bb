"""Throws bytes at the parsers of ModelInfer, guided by coverage: `make fuzz SECONDS=60`.

Whatever comes is refused with a typed error or answered; bytes that the fast lane recognises by their beginning say the
same to the parser; and memory stays bounded (libFuzzer's own limit). Found crashes are written to build/fuzz.
"""

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["services.inference"]):
    import numpy as np
    from google.protobuf.message import DecodeError

    from servicekit.errors import InvalidArgument, LeptonError, Unimplemented
    from services.inference.fastlane.heads import Heads
    from services.inference.open_inference import grpc_service_pb2 as pb
    from services.inference.serving.batches import Batch, Work, find_form
    from services.inference.serving.codec import parse_inputs, requested_outputs
    from services.inference.serving.replies import build_reply, to_raw

from tests.inference.models import columns, identity

_MODELS = [identity("FP32"), identity("BYTES"), identity("BOOL"), identity("INT8"), columns("error", nullable=True)]
_HEADS = [Heads() for _ in _MODELS]


def seeds() -> list[bytes]:
    """Return a right request for each model, and have the fast lane learn it."""
    found = []
    for model, heads in zip(_MODELS, _HEADS, strict=True):
        request = pb.ModelInferRequest(model_name=model.deployment, id="an id")
        for spec in model.inputs.values():
            width = 1 if model.deployment == "columns" else 3
            texts = np.full((2, width), "car", dtype=object)
            numbers = np.ones((2, width))
            request.inputs.add(name=spec.name, datatype=spec.datatype, shape=[2, width])
            request.raw_input_contents.append(to_raw(spec.datatype, texts if spec.datatype == "BYTES" else numbers))
        data = request.SerializeToString()
        form, rows = find_form(model, tuple(model.outputs), parse_inputs(request, model))
        heads.learn("default", data, request, form, rows, 0)
        found.append(data)
        typed = pb.ModelInferRequest(model_name=model.deployment)
        typed.inputs.add(name="x", datatype="FP32", shape=[1, 3]).contents.fp32_contents.extend([1.0, 2.0, 3.0])
        typed.outputs.add(name="y").parameters["classification"].int64_param = 2
        found.append(typed.SerializeToString())
    return found


def one(data: bytes) -> None:
    """Try one input on every model; raise where something is wrong."""
    for model, heads in zip(_MODELS, _HEADS, strict=True):
        recognised = heads.find("default", data)
        payloads = recognised[0].payloads(data, recognised[2]) if recognised is not None else None
        try:
            request = pb.ModelInferRequest.FromString(data)
        except DecodeError:
            assert payloads is None, "recognised what is no message"
            return
        try:
            inputs = parse_inputs(request, model)
            names = requested_outputs(request, model)
            arrays = model.run(inputs, names)
            build_reply(request, model, names, arrays)
        except (InvalidArgument, Unimplemented) as error:
            refused: LeptonError | None = error
        else:
            refused = None
        if recognised is None or payloads is None:
            continue
        assert recognised[0].form is not None
        work = Work(recognised[0].form, payloads, recognised[0].rows, lambda _: None, is_checked=False)
        Batch([work]).run()
        assert (work.error is None) == (refused is None), "one path refuses what the other takes"
        if work.error is None:
            for found, array in zip(work.arrays(), arrays, strict=True):
                assert found.shape == array.shape
                assert np.array_equal(found, array, equal_nan=array.dtype.kind == "f")


def main() -> None:
    """Write the seeds, then fuzz as libFuzzer's arguments say."""
    corpus = Path(sys.argv[1])
    corpus.mkdir(parents=True, exist_ok=True)
    for place, data in enumerate(seeds()):
        (corpus / f"seed-{place}").write_bytes(data)
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


main()
