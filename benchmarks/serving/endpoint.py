"""Who is asked what, over which protocol."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from benchmarks.serving.question import Question, read_json, read_protobuf

Outputs = Mapping[str, "np.ndarray[Any, Any]"]
JSON_PATH = "/predict"


@dataclass
class Endpoint:
    """One server's port and the question put to it.

    Args:
        port: at 127.0.0.1.
        question: what is asked.
        is_grpc: whether it speaks the Open Inference Protocol; else JSON over HTTP/1.1.
        token: sent as a bearer token; empty for none.
        ca: the PEM file that the server's certificate is verified with; None for plaintext.
        path: of the JSON request.
        answers: any of which is right; by default the question's own.
        count_failures: returns the calls that failed so far, by the server's own count; None where it tells none.
        body: the request, serialised.
        reply_bytes: of a right reply with gRPC's frame; set by the first.
    """

    port: int
    question: Question
    is_grpc: bool = True
    token: str = ""
    ca: Path | None = None
    path: str = JSON_PATH
    answers: tuple[Outputs, ...] = ()
    count_failures: Callable[[], int] | None = None
    body: bytes = field(init=False)
    reply_bytes: int = 0

    def __post_init__(self) -> None:
        self.body = self.question.protobuf() if self.is_grpc else self.question.json()
        self.answers = self.answers or (self.question.expected(),)

    @property
    def address(self) -> str:
        """host:port."""
        return f"127.0.0.1:{self.port}"

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with every call."""
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()

    def url(self, method: str) -> str:
        """Return the URL of a gRPC method, or of the JSON request."""
        return f"{'https' if self.ca else 'http'}://{self.address}{method if self.is_grpc else self.path}"

    def credentials(self) -> grpc.ChannelCredentials | None:
        """Return what a client verifies the server with; None for plaintext."""
        return grpc.ssl_channel_credentials(self.ca.read_bytes()) if self.ca else None

    def read(self, reply: bytes) -> Outputs:
        """Return a reply's outputs by name."""
        return read_protobuf(reply) if self.is_grpc else read_json(reply)
