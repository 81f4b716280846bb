"""Requests that begin like one seen before: the tensors are found without parsing, the checks are made already.

A client sends the same names, datatypes and shapes again and again, and only the tensors' bytes differ; in the wire's
order of fields these come last. So what was parsed and checked once is remembered by the bytes before the tensors (the
request's id, which may differ, is left out), and a request whose bytes begin so takes only a walk over its raw
contents. Whatever does not fit exactly is parsed in full, and refused there if it must be.
"""

import struct
import weakref
from dataclasses import dataclass, field

from services.inference.open_inference import grpc_service_pb2 as pb
from services.inference.serving.batches import Form, Payload, Work
from services.inference.serving.codec import WIRE_TYPES, are_known, element_count, is_base64, timeout_seconds
from services.inference.serving.model import InputSpec, LoadedModel

# Wire tags: field number and type 2, which is bytes with a length.
_NAME, _ID, _RAW_INPUT = 0x0A, 0x1A, 0x3A
_RAW_OUTPUT = b"\x32"
_ONE_BYTE = 0x80
_LENGTH = struct.Struct("<I")
_LONGEST_HEAD_BYTES = 4096
_MOST_HEADS = 16
_MOST_NAMES = 512
_MOST_REPLIES = 64


@dataclass(frozen=True, slots=True)
class Tensor:
    """One input of a head.

    Args:
        place: in the model's order.
        size: its bytes; -1 for texts.
        count: its elements.
        spec: what the model says of it.
    """

    place: int
    size: int
    count: int
    spec: InputSpec


@dataclass(eq=False, slots=True)
class Head:
    """What requests of one kind have in common.

    Args:
        name, version: of the model, as asked for.
        start: the bytes before the id.
        rest: those after it, up to the tensors.
        tensors: in the request's order.
        found_form, rows: what it may share a batch with. The model keeps its forms: a head that kept one would keep the
            model loaded that was taken away.
        generation: of the table when the form was looked up.
        timeout_seconds: that each may take by its parameters; None for no limit of its own.
        is_shared: whether other versions take some of these requests, so that each is to be routed by itself.
    """

    name: str
    version: str
    start: bytes
    rest: bytes
    tensors: tuple[Tensor, ...]
    found_form: weakref.ref[Form]
    rows: int
    generation: int
    timeout_seconds: float | None = None
    is_shared: bool = False
    _reply_start: bytes = b""
    _replies: dict[tuple[tuple[int, ...], ...], bytes] = field(default_factory=dict)

    @property
    def form(self) -> Form | None:
        """What it may share a batch with; None once the model has forgotten it, or is gone itself."""
        return self.found_form()

    def split(self, data: bytes) -> tuple[bytes, int] | None:
        """Return the id's field of a request and where its tensors begin; None where it does not begin so."""
        if not data.startswith(self.start):
            return None
        position = len(self.start)
        request_id = b""
        if data[position] == _ID:
            end = position + 2 + data[position + 1]
            if data[position + 1] >= _ONE_BYTE:
                return None
            request_id, position = data[position:end], end
            if not request_id.isascii():
                # The parser knows whether it is text at all.
                return None
        if not data.startswith(self.rest, position):
            return None
        return request_id, position + len(self.rest)

    def payloads(self, data: bytes, position: int) -> list[Payload] | None:
        """Return a request's inputs in the model's order; None where it is not exactly of this kind.

        Args:
            data: the request.
            position: where its tensors begin.
        """
        found: list[Payload] = [None] * len(self.tensors)
        view = memoryview(data)
        try:
            for tensor in self.tensors:
                if data[position] != _RAW_INPUT:
                    return None
                length = data[position + 1]
                position += 2
                if length >= _ONE_BYTE:
                    length, position = _varint(data, position - 1)
                end = position + length
                if tensor.size < 0:
                    texts = _texts(data, position, end, tensor.count)
                    if not are_known(texts, tensor.spec):
                        return None
                    found[tensor.place] = texts
                elif length == tensor.size:
                    found[tensor.place] = view[position:end]
                else:
                    return None
                position = end
        except (IndexError, ValueError, struct.error):
            # Too short, or no UTF-8: the parser says what is wrong.
            return None
        return found if position == len(data) else None

    def reply(self, work: Work, request_id: bytes) -> bytes:
        """Return an answered request's reply, in the wire's bytes.

        Args:
            work: answered.
            request_id: the id's field, as it came.
        """
        outputs, rows = work.outputs, work.rows
        assert outputs is not None
        # A batch's outputs were checked to have its rows along their first axis; those of a lone run are whole.
        shapes = tuple([(rows, *array.shape[1:]) if outputs.rows else array.shape for array in outputs.arrays])
        described = self._replies.get(shapes)
        if described is None:
            described = self._describe(work.form, shapes)
        parts: list[bytes | memoryview] = [self._reply_start, request_id, described]
        for index in range(len(shapes)):
            raw = outputs.raw(index, work.start, rows)
            length = len(raw)
            parts += (_RAW_OUTPUT, bytes((length,)) if length < _ONE_BYTE else _encoded(length), raw)
        return b"".join(parts)

    def _describe(self, form: Form, shapes: tuple[tuple[int, ...], ...]) -> bytes:
        model = form.model
        if len(self._replies) >= _MOST_REPLIES:
            self._replies.clear()
        reply = pb.ModelInferResponse()
        for name, shape in zip(form.outputs, shapes, strict=True):
            reply.outputs.add(name=name, datatype=model.outputs[name].datatype, shape=shape)
        self._reply_start = pb.ModelInferResponse(model_name=self.name, model_version=model.version).SerializeToString()
        described = self._replies[shapes] = reply.SerializeToString()
        return described


class Heads:
    """The heads seen lately, of all workspaces. Used by one thread."""

    def __init__(self) -> None:
        self._heads: dict[tuple[str, bytes], list[Head]] = {}

    def find(self, workspace: str, data: bytes) -> tuple[Head, bytes, int] | None:
        """Return a request's head, its id's field and where its tensors begin; None where it is to be parsed."""
        key = _key(workspace, data)
        heads = self._heads.get(key) if key is not None else None
        if heads is None:
            return None
        for index, head in enumerate(heads):
            try:
                found = head.split(data)
            except IndexError:
                return None
            if found is not None:
                if index:
                    # The next one is likely of the same kind.
                    heads.insert(0, heads.pop(index))
                return head, *found
        return None

    def learn(
        self, workspace: str, data: bytes, request: pb.ModelInferRequest, form: Form, rows: int, generation: int
    ) -> None:
        """Remember how a request begins that was parsed and found right, if it is of a kind that can be.

        Args:
            workspace: the caller's.
            data: its bytes.
            request: what they say.
            form: what it may share a batch with.
            rows: its own.
            generation: of the table.
        """
        key = _key(workspace, data)
        head = _head_of(data, request, form, rows, generation)
        if key is None or head is None:
            return
        if key not in self._heads and len(self._heads) >= _MOST_NAMES:
            self._heads.clear()
        others = [one for one in self._heads.get(key, []) if (one.start, one.rest) != (head.start, head.rest)]
        self._heads[key] = [head, *others[: _MOST_HEADS - 1]]

    def forget(self, workspace: str, data: bytes, head: Head) -> None:
        """Forget a head that no longer holds: another version answers."""
        key = _key(workspace, data)
        if key is not None and head in (heads := self._heads.get(key, [])):
            heads.remove(head)


def _key(workspace: str, data: bytes) -> tuple[str, bytes] | None:
    if len(data) < 2 or data[0] != _NAME or data[1] >= _ONE_BYTE:
        return None
    return workspace, data[: 2 + data[1]]


def _head_of(data: bytes, request: pb.ModelInferRequest, form: Form, rows: int, generation: int) -> Head | None:
    is_plain = request.raw_input_contents and len(request.raw_input_contents) == len(request.inputs)
    if (
        not is_plain
        # Optional inputs are left out.
        or len(request.inputs) != len(form.model.inputs)
        or any(map(is_base64, request.inputs))
        or any(output.parameters for output in request.outputs)
        or any(text.encode()[_ONE_BYTE:] for text in (request.model_name, request.id))
    ):
        return None
    start = pb.ModelInferRequest(model_name=request.model_name, model_version=request.model_version)
    described = pb.ModelInferRequest()
    described.CopyFrom(request)
    for name in ("model_name", "model_version", "id", "raw_input_contents"):
        described.ClearField(name)
    model = form.model
    tensors = tuple(_tensor(tensor, model) for tensor in request.inputs)
    head = Head(
        request.model_name,
        request.model_version,
        start.SerializeToString(),
        described.SerializeToString(),
        tensors,
        weakref.ref(form),
        rows,
        generation,
        timeout_seconds(request),
    )
    return head if _is_told_apart(head, data, request) else None


def _is_told_apart(head: Head, data: bytes, request: pb.ModelInferRequest) -> bool:
    """Check a new head on the request that it came from: fields in another order, or unknown ones, make it useless."""
    if len(head.start) + len(head.rest) > _LONGEST_HEAD_BYTES:
        return False
    try:
        found = head.split(data)
    except IndexError:
        return False
    return found is not None and head.payloads(data, found[1]) is not None and request.id in ("", _text(found[0]))


def _text(request_id: bytes) -> str:
    return request_id[2:].decode()


def _tensor(tensor: "pb.ModelInferRequest.InferInputTensor", model: LoadedModel) -> Tensor:
    spec = model.inputs[tensor.name]
    count = element_count(tuple(tensor.shape), spec, model)
    size = -1 if spec.datatype == "BYTES" else count * WIRE_TYPES[spec.datatype].itemsize
    return Tensor(list(model.inputs).index(tensor.name), size, count, spec)


def _texts(data: bytes, position: int, end: int, count: int) -> list[str]:
    """Return length-prefixed texts.

    Raises:
        ValueError: there are not as many, or they are no UTF-8.
        struct.error: they end early.
    """
    texts = []
    while position < end:
        start = position + 4
        position = start + _LENGTH.unpack_from(data, position)[0]
        if position > end:
            raise ValueError("a text reaches beyond its tensor")
        texts.append(data[start:position].decode())
    if len(texts) != count or end > len(data):
        raise ValueError("another number of texts")
    return texts


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < _ONE_BYTE:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("a length that cannot be")


def _encoded(length: int) -> bytes:
    found = bytearray()
    while length >= _ONE_BYTE:
        found.append(length & 0x7F | _ONE_BYTE)
        length >>= 7
    found.append(length)
    return bytes(found)
