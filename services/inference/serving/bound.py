"""Runs on a GPU: tensors go through pinned memory into buffers on the device that stay, by ONNX Runtime's IO binding.

Without it each run allocates, copies from pageable memory and waits for each copy. Where a plan says so, runs of a
shape that came before are replayed as one CUDA graph, whose kernels start without the processor's doing.
"""

import threading
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

import numpy as np
import onnxruntime as ort

Array = np.ndarray[Any, Any]
_Key = tuple[tuple[str, ...], tuple[tuple[str, str, tuple[int, ...]], ...]]

_GRAPH_ID = "gpu_graph_id"
_NO_GRAPH = -1
# Shapes whose buffers are kept: each takes device memory.
_MOST_KEPT = 32


class BoundSession:
    """A session with buffers of its own on a device. To its callers an `onnxruntime.InferenceSession`, for threads too.

    Args:
        session: ONNX Runtime's.
        device: where its tensors lie: cuda, or cpu, where the same code has nothing to copy far.
        device_id: which of several.
        captures: whether repeated runs become CUDA graphs; the session must have been opened for it.
    """

    def __init__(self, session: Any, device: str = "cuda", device_id: int = 0, *, captures: bool = False) -> None:
        self._session = session
        self._device = device, device_id
        self._captures = captures
        self._kept: dict[_Key, list[_Binding]] = {}
        self._lock = threading.Lock()
        # A graph is captured and replayed on one stream.
        self._running = threading.Lock() if captures else None
        self._graph_ids = count(1)
        self._pinned = _pinned_memory(device_id) if device == "cuda" else None
        self._outputs = [item.name for item in session.get_outputs()]

    def get_inputs(self) -> Any:
        """Return what it takes."""
        return self._session.get_inputs()

    def get_outputs(self) -> Any:
        """Return what it gives."""
        return self._session.get_outputs()

    def get_providers(self) -> list[str]:
        """Return the execution providers that it took."""
        found: list[str] = self._session.get_providers()
        return found

    def run(self, outputs: Sequence[str] | None, feeds: Mapping[str, Array], options: Any = None) -> list[Array]:
        """Return some outputs, all for None; as InferenceSession does."""
        names = tuple(outputs or self._outputs)
        if any(array.dtype.kind not in "bfiu" for array in feeds.values()):
            # Texts have no place on a device.
            found: list[Array] = self._session.run(list(names), feeds, options)
            return found
        key = names, tuple((name, array.dtype.str, array.shape) for name, array in feeds.items())
        binding = self._take(key)
        try:
            if self._running is None:
                return binding.run(feeds, options)
            with self._running:
                return binding.run(feeds, options)
        finally:
            self._keep(key, binding)

    def _take(self, key: _Key) -> "_Binding":
        with self._lock:
            waiting = self._kept.get(key)
            if waiting:
                return waiting.pop()
        graph_id = next(self._graph_ids) if self._captures else None
        return _Binding(self._session, key, self._device, self._pinned, graph_id)

    def _keep(self, key: _Key, binding: "_Binding") -> None:
        with self._lock:
            # The shape that came last goes last.
            kept = self._kept.pop(key, [])
            self._kept[key] = [*kept, binding]
            while len(self._kept) > _MOST_KEPT:
                del self._kept[next(iter(self._kept))]


class _Binding:
    """The buffers of one shape, for one run at a time."""

    def __init__(self, session: Any, key: _Key, device: tuple[str, int], pinned: Any, graph_id: int | None) -> None:
        self._session = session
        self._names, tensors = key
        self._device = device
        self._graph_id = graph_id
        self._has_run = False
        self._binding = session.io_binding()
        self._inputs: dict[str, tuple[Any, Any]] = {}
        for name, datatype, shape in tensors:
            kind = np.dtype(datatype).type
            value = ort.OrtValue.ortvalue_from_shape_and_type(shape, kind, *device)
            staging = (
                None if pinned is None else ort.OrtValue.ortvalue_from_shape_and_type(shape, kind, memory_info=pinned)
            )
            self._inputs[name] = value, staging
            self._binding.bind_ortvalue_input(name, value)
        for name in self._names:
            self._binding.bind_output(name, *device)

    def run(self, feeds: Mapping[str, Array], options: Any) -> list[Array]:
        for name, array in feeds.items():
            value, staging = self._inputs[name]
            if staging is None:
                # Of an array without axes ascontiguousarray makes one of one axis.
                value.update_inplace(np.ascontiguousarray(array).reshape(array.shape))
            else:
                np.copyto(staging.numpy(), array)
                value.update_inplace(staging)
        self._session.run_with_iobinding(self._binding, self._with_graph(options))
        if self._graph_id is None or self._has_run:
            found: list[Array] = self._binding.copy_outputs_to_cpu()
            return found
        return self._fix_outputs()

    def _with_graph(self, options: Any) -> Any:
        if self._graph_id is None:
            return options
        options = options or ort.RunOptions()
        # The first run tells how large the outputs are; a graph needs them where they are for good.
        options.add_run_config_entry(_GRAPH_ID, str(self._graph_id if self._has_run else _NO_GRAPH))
        return options

    def _fix_outputs(self) -> list[Array]:
        found: list[Array] = self._binding.copy_outputs_to_cpu()
        for name, array in zip(self._names, found, strict=True):
            value = ort.OrtValue.ortvalue_from_shape_and_type(array.shape, array.dtype.type, *self._device)
            self._binding.bind_ortvalue_output(name, value)
        self._has_run = True
        return found


def _pinned_memory(device_id: int) -> Any:
    """Return ONNX Runtime's pinned memory of a GPU; None where it has none that numpy writes in place."""
    for device in ort.get_ep_devices():
        if device.ep_name == "CUDAExecutionProvider" and device.ep_options.get("device_id", "0") == str(device_id):
            found = device.memory_info(ort.OrtDeviceMemoryType.HOST_ACCESSIBLE)
            return found if found is not None and _is_written_in_place(found) else None
    return None


def _is_written_in_place(memory: Any) -> bool:
    value = ort.OrtValue.ortvalue_from_shape_and_type((1,), np.float32, memory_info=memory)
    for number in (1.0, 2.0):
        value.numpy()[0] = number
        if value.numpy()[0] != number:
            return False
    return True
