"""Runs the verifying child process, one a model, and reads its verdict."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from typing import TypedDict

from services.registry.domain.versions import Refusal, Tensor, Verdict

_MODEL = "model.onnx"
_REMEDY = ": bring an example of a short request, or have LEPTON_VERIFY_SECONDS of the registry raised"
# How a model grows when it is loaded: the file, its parsed graph, the optimised one and packed weights.
_MODEL_FACTOR = 6


class _TensorAnswer(TypedDict):
    name: str
    datatype: str
    shape: list[int]
    any_rank: bool
    labels: list[str]


class _Answer(TypedDict, total=False):
    warnings: list[str]
    sample_failure: str
    weight_files: list[str]
    digests: dict[str, str]
    inputs: list[_TensorAnswer]
    outputs: list[_TensorAnswer]
    reason: str
    message: str


class ChildVerifier:
    """The verifier port: a limited child process a model.

    Args:
        wall_seconds: once it has the model, it is killed after this.
        memory_bytes: address space that it may take beside six times the model's size.
        parallel: children at a time; more wait.
    """

    def __init__(self, wall_seconds: float, memory_bytes: int = 2 << 30, parallel: int = 2) -> None:
        self._wall_seconds = wall_seconds
        self._memory_bytes = memory_bytes
        self._places = asyncio.Semaphore(parallel)

    async def verify(
        self,
        content: AsyncIterator[bytes],
        size_bytes: int,
        examples: dict[str, str],
        extra_files: Sequence[tuple[str, int, AsyncIterator[bytes]]] = (),
    ) -> Verdict:
        """Hash, load and sample-predict a model with its other files; what goes wrong is the verdict."""
        files = [(_MODEL, size_bytes, content), *extra_files]
        header: dict[str, object] = {"kind": "model", "examples": examples, "files": _listed(files)}
        memory_bytes = self._memory_bytes + _MODEL_FACTOR * sum(size for _, size, _ in files)
        return await self._ask(header, _joined([content for *_, content in files]), memory_bytes)

    async def verify_weights(self, files: Sequence[tuple[str, int, AsyncIterator[bytes]]]) -> Verdict:
        """Read the headers of pretrained weights, and their JSON; what goes wrong is the verdict."""
        header: dict[str, object] = {"kind": "weights", "files": _listed(files)}
        return await self._ask(header, _joined([content for *_, content in files]), self._memory_bytes)

    async def _ask(self, header: dict[str, object], content: AsyncIterator[bytes], memory_bytes: int) -> Verdict:
        async with self._places:
            child = await self._start(memory_bytes)
            try:
                # A pipe, so that plaintext never lies on a disk. The clock starts once the child has something to run.
                await _feed(child, json.dumps(header).encode() + b"\n", content)
                async with asyncio.timeout(self._wall_seconds):
                    assert child.stdout is not None  # opened as a pipe
                    answer = await child.stdout.read()
                    code = await child.wait()
            except TimeoutError:
                return _refused(
                    "VERIFIER_TIMEOUT", f"trying the model took longer than {self._wall_seconds:g} s{_REMEDY}"
                )
            finally:
                # Also where the caller went away: nothing of a call outlives it.
                if child.returncode is None:
                    with contextlib.suppress(ProcessLookupError):
                        child.kill()
                    await child.wait()
        return _verdict(answer, code)

    async def _start(self, memory_bytes: int) -> asyncio.subprocess.Process:
        limits = (str(memory_bytes), str(int(self._wall_seconds) + 1))
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "services.registry.verifier", *limits),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            # Nothing of ours: no token, no key path, no address.
            env={
                "PATH": os.environ.get("PATH", ""),
                "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
                "OMP_NUM_THREADS": "1",
            },
            close_fds=True,
        )


def _listed(files: Sequence[tuple[str, int, AsyncIterator[bytes]]]) -> list[dict[str, object]]:
    return [{"name": name, "size_bytes": size} for name, size, _ in files]


async def _joined(parts: Sequence[AsyncIterator[bytes]]) -> AsyncIterator[bytes]:
    for part in parts:
        async for chunk in part:
            yield chunk


async def _feed(child: asyncio.subprocess.Process, header: bytes, content: AsyncIterator[bytes]) -> None:
    assert child.stdin is not None  # opened as a pipe
    # A child that died reads no more; its end says why.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        child.stdin.write(header)
        async for chunk in content:
            child.stdin.write(chunk)
            await child.stdin.drain()
        child.stdin.close()


def _verdict(out: bytes, code: int) -> Verdict:
    try:
        answer: _Answer = json.loads(out)
    except ValueError:
        return _without_answer(code)
    others = dict(answer.get("digests", {}))
    sha256 = others.pop(_MODEL, "")
    if "reason" in answer:
        return Verdict(refusal=Refusal(answer["reason"], answer["message"]), sha256=sha256, digests=others)
    if "inputs" not in answer:
        return Verdict(digests=others)
    return Verdict(
        _tensors(answer["inputs"]),
        _tensors(answer["outputs"]),
        sha256=sha256,
        digests=others,
        warnings=tuple(answer["warnings"]),
        sample_failure=answer["sample_failure"],
        weight_files=tuple(answer["weight_files"]),
    )


def _without_answer(code: int) -> Verdict:
    if code == -signal.SIGXCPU:
        return _refused("VERIFIER_TIMEOUT", f"trying the model took too much processor time{_REMEDY}")
    if code == -signal.SIGKILL:
        # Not by us: the kernel ends processes like this when a machine or a container runs out of memory.
        return _refused("VERIFIER_OUT_OF_MEMORY", "trying the model took more memory than there is")
    return _refused("VERIFIER_CRASHED", f"trying the model ended its process with code {code}")


def _tensors(answers: list[_TensorAnswer]) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(
            answer["name"],
            answer["datatype"],
            tuple(answer["shape"]),
            labels=tuple(answer["labels"]),
            any_rank=answer["any_rank"],
        )
        for answer in answers
    )


def _refused(reason: str, message: str) -> Verdict:
    return Verdict(refusal=Refusal(reason, message))
