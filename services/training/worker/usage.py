"""What a job takes of its machine, as its worker sees it from outside."""

from lepton.v1 import training_pb2 as pb
from servicekit.gpus import process_memory_bytes, read_gpus
from services.training.worker.children import Child


class Meter:
    """Adds up what a job's children take, one after the other, by looks at them."""

    def __init__(self) -> None:
        # Asking a driver that is not there would cost the same four times a second, for nothing.
        self._has_gpus = bool(read_gpus())
        self._peak_bytes = 0
        self._peak_gpu_bytes = 0
        self._seconds_before = 0.0
        self._seconds = 0.0

    def begin(self) -> None:
        """Begin to look at the next child."""
        self._seconds_before += self._seconds
        self._seconds = 0.0

    def look(self, child: Child) -> int:
        """Look at the child; return the memory that is its own now, bytes, 0 once it has ended."""
        now = child.memory_bytes()
        self._peak_bytes = max(self._peak_bytes, now)
        # An ended child has computed nothing, as far as can be seen: the last look counts.
        self._seconds = max(self._seconds, child.core_seconds())
        if self._has_gpus:
            self._peak_gpu_bytes = max(self._peak_gpu_bytes, process_memory_bytes(child.pid))
        return now

    def usage(self) -> pb.Usage:
        """Return what was taken so far."""
        return pb.Usage(
            peak_memory_bytes=self._peak_bytes,
            core_seconds=self._seconds_before + self._seconds,
            peak_gpu_memory_bytes=self._peak_gpu_bytes,
        )
