"""Runs the verifying child process, one a model, and reads its verdict."""

import asyncio
import contextlib
import json
import os
import sys

from services.registry.domain.versions import Refusal, Tensor, Verdict

# What ONNX Runtime maps before it has loaded anything, and how a model grows when it is loaded.
_BASE_BYTES = 4 << 30
_MODEL_FACTOR = 6


class ChildVerifier:
    """The verifier port: a limited child process a model.

    Args:
        wall_seconds: after this it is killed.
        parallel: children at a time; more wait.
    """

    def __init__(self, wall_seconds: float, parallel: int = 2) -> None:
        self._wall_seconds = wall_seconds
        self._places = asyncio.Semaphore(parallel)

    async def verify(self, model: bytes, categories: dict[str, str]) -> Verdict:
        """Load and sample-predict a model; what goes wrong is the verdict."""
        async with self._places:
            return await self._run(model, categories)

    async def _run(self, model: bytes, categories: dict[str, str]) -> Verdict:
        memory_bytes = _BASE_BYTES + _MODEL_FACTOR * len(model)
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "services.registry.verifier", str(memory_bytes), str(int(self._wall_seconds) + 1)),
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
        try:
            header = json.dumps({"categories": categories}).encode() + b"\n"
            out, _ = await asyncio.wait_for(child.communicate(header + model), self._wall_seconds)
        except TimeoutError:
            return _refused("VERIFIER_TIMEOUT", f"trying the model took longer than {self._wall_seconds:g} s")
        finally:
            if child.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    child.kill()
                await child.wait()
        return _parsed(out, child.returncode or 0)


def _parsed(out: bytes, code: int) -> Verdict:
    try:
        answer = json.loads(out)
    except ValueError:
        if code == -24:  # SIGXCPU
            return _refused("VERIFIER_TIMEOUT", "trying the model took too much processor time")
        return _refused("VERIFIER_CRASHED", f"trying the model ended its process with code {code}")
    if "reason" in answer:
        return _refused(answer["reason"], answer["message"])
    return Verdict(_tensors(answer["inputs"]), _tensors(answer["outputs"]))


def _tensors(items: list[dict[str, object]]) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(str(item["name"]), str(item["datatype"]), tuple(item["shape"]))  # type: ignore[arg-type]
        for item in items
    )


def _refused(reason: str, message: str) -> Verdict:
    return Verdict(refusal=Refusal(reason, message))
