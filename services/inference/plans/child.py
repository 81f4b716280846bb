"""Asks a measuring child process: starts it, feeds it, and reads its answer within bounds."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

from google.protobuf.message import DecodeError

from lepton.v1 import inference_pb2 as pb
from servicekit.errors import LeptonError
from services.inference.plans.machine import private_folder
from services.inference.plans.wire import BROKEN, LENGTH, Header, write_header

# Beside the time it was given, which it keeps by itself: to start, to read the rows, and to end the step it is in.
_GRACE_SECONDS = 60.0
_LARGEST_PLAN = 1 << 20
_COMMAND = (sys.executable, "-m", "services.inference.plans")
_KEPT = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG")


class NoAnswer(Exception):
    """The child gave no answer that can be used; its text says why, for people."""


async def ask(
    header: Header, graph: bytes, rows: AsyncGenerator[bytes, None], *, grace_seconds: float = _GRACE_SECONDS
) -> tuple[pb.Plan, bytes]:
    """Return a child's plan, and the graph that it runs; empty where that is the registered one.

    Args:
        header: the question.
        graph: the registered one.
        rows: frames; see `wire`.
        grace_seconds: beside the header's seconds.

    Raises:
        NoAnswer: it crashed, took too long, or what it said makes no sense.
    """
    with private_folder() as folder:
        process = await _start(folder)
        try:
            async with asyncio.timeout(header.seconds + grace_seconds):
                await _feed(process, header, graph, rows)
                assert process.stdout is not None  # opened as a pipe
                answer = await _read(process.stdout, 4 * len(graph) + _LARGEST_PLAN)
                code = await process.wait()
        except TimeoutError as error:
            raise NoAnswer(f"measuring took longer than {header.seconds + grace_seconds:g} s") from error
        finally:
            # Also where the worker stops: nothing of it outlives its question.
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
    return _parse(answer, code)


async def _start(folder: Path) -> asyncio.subprocess.Process:
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return await asyncio.create_subprocess_exec(
        *(*_COMMAND, str(folder)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        # Nothing of ours: no token, no key path, no address. Hashes that are the same each time: so are graphs.
        env={**kept, "TMPDIR": str(folder), "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"},
        close_fds=True,
    )


async def _feed(
    process: asyncio.subprocess.Process, header: Header, graph: bytes, rows: AsyncGenerator[bytes, None]
) -> None:
    pipe = process.stdin
    assert pipe is not None  # opened as a pipe
    # One that has enough rows, or died, reads no more.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        pipe.write(write_header(header))
        pipe.write(graph)
        try:
            async with contextlib.aclosing(rows):
                async for chunk in rows:
                    pipe.write(chunk)
                    await pipe.drain()
        except LeptonError:
            pipe.write(LENGTH.pack(BROKEN))
        await pipe.drain()
        pipe.close()


async def _read(stream: asyncio.StreamReader, most: int) -> bytes:
    parts, size = [], 0
    while chunk := await stream.read(1 << 20):
        parts.append(chunk)
        size += len(chunk)
        if size > most:
            raise NoAnswer("measuring answered with more than a graph")
    return b"".join(parts)


def _parse(answer: bytes, code: int) -> tuple[pb.Plan, bytes]:
    if code == -signal.SIGKILL:
        # Not by us: the kernel ends processes like this when a machine or a container runs out of memory.
        raise NoAnswer("measuring took more memory than there is")
    if code != 0:
        raise NoAnswer(f"measuring ended its process with code {code}")
    head = LENGTH.size
    length = LENGTH.unpack(answer[:head])[0] if len(answer) >= head else _LARGEST_PLAN + 1
    try:
        if length > min(_LARGEST_PLAN, len(answer) - head):
            raise DecodeError
        plan = pb.Plan.FromString(answer[head : head + length])
    except DecodeError as error:
        raise NoAnswer("measuring answered with what is no plan") from error
    if not plan.name:
        raise NoAnswer("measuring answered with what is no plan")
    return plan, answer[head + length :]
