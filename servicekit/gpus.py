"""NVIDIA's GPUs as their driver tells of them (NVML); none where there is no driver."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Gpu:
    """One GPU now.

    Args:
        utilization: share of the last moments in which a kernel ran, 0 to 1.
        used_bytes, memory_bytes: of its memory, whoever uses it.
    """

    utilization: float
    used_bytes: int
    memory_bytes: int


def read_gpus() -> list[Gpu]:
    """Return the machine's GPUs, in the driver's order."""
    with _nvml() as nvml:
        if nvml is None:
            return []
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        return [_read(nvml, handle) for handle in handles]


def process_memory_bytes(pid: int) -> int:
    """Return how much of the GPUs' memory a process holds; 0 where it holds none, or the driver does not tell."""
    with _nvml() as nvml:
        if nvml is None:
            return 0
        found = 0
        for index in range(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            with contextlib.suppress(nvml.NVMLError):
                for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle):
                    found += (process.usedGpuMemory or 0) if process.pid == pid else 0
        return found


def freest(gpus: list[Gpu]) -> int:
    """Return the index of the GPU with the most free memory; 0 where none is known."""
    free = [gpu.memory_bytes - gpu.used_bytes for gpu in gpus]
    return free.index(max(free)) if free else 0


def _read(nvml: Any, handle: Any) -> Gpu:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    utilization = 0.0
    # A slice of a GPU tells its memory alone.
    with contextlib.suppress(nvml.NVMLError):
        utilization = nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100.0
    return Gpu(utilization, int(memory.used), int(memory.total))


@contextlib.contextmanager
def _nvml() -> Iterator[Any]:
    """Open the driver's library; None where it is not there. Opening it again and again costs little."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield None
        return
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()
