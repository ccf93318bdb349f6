"""`PycudaMemory` on a real GPU: copies, mapped memory, capture, launch, and what is left behind."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from gpu_figures import Record

from edgefuse_runtime.engines.cuda_device import Gpu
from edgefuse_runtime.engines.gpu_memory import CaptureError, GpuOutOfMemoryError
from edgefuse_runtime.engines.pycuda_memory import _current_context, open_gpu_memory

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("pycuda")]

NUM_BYTES = 1 << 20


def test_the_properties_are_the_drivers(gpu: Gpu, record_property: Record) -> None:
    found = open_gpu_memory().properties
    for name, value in vars(found).items():
        record_property(name, value)
    assert (found.name, found.compute_capability) == (gpu.name, gpu.compute_capability)
    assert found.total_bytes > 1 << 28


def test_copies_and_a_captured_graph(record_property: Record) -> None:
    with open_gpu_memory() as memory, memory.active():
        rng = np.random.default_rng(0)
        address, stream = memory.allocate(NUM_BYTES), memory.stream()
        source = memory.pinned((NUM_BYTES,), np.uint8, mapped=False).array
        target = memory.pinned((NUM_BYTES,), np.uint8, mapped=False).array

        def there_and_back() -> None:
            memory.to_device(address, source, stream)
            memory.to_host(target, address, stream)

        source[:] = rng.integers(0, 256, NUM_BYTES)
        there_and_back()
        memory.synchronise(stream)
        assert np.array_equal(source, target)
        graph = memory.capture(stream, there_and_back)
        for _ in range(3):
            source[:] = rng.integers(0, 256, NUM_BYTES)
            assert not np.array_equal(source, target)
            before, after = memory.event(), memory.event()
            before.record(stream)
            memory.launch(graph, stream)
            after.record(stream)
            memory.synchronise(stream)
            assert np.array_equal(source, target)
        record_property("there_and_back_ms", after.time_since(before))
        record_property("num_bytes", NUM_BYTES)


def test_a_capture_that_fails_leaves_a_stream_that_works() -> None:
    with open_gpu_memory() as memory, memory.active():
        stream, address = memory.stream(), memory.allocate(16)
        source = memory.pinned((16,), np.uint8, mapped=False).array
        with pytest.raises(CaptureError):
            memory.capture(stream, lambda: memory.synchronise(stream))
        memory.to_device(address, source, stream)
        memory.synchronise(stream)


def test_mapped_memory_has_an_address_of_the_gpus() -> None:
    with open_gpu_memory() as memory, memory.active():
        host = memory.pinned((64,), np.float32, mapped=True)
        target = memory.pinned((64,), np.float32, mapped=False).array
        assert host.device_address
        host.array[:] = np.arange(64)
        stream = memory.stream()
        memory.to_host(target, host.device_address, stream)
        memory.synchronise(stream)
        assert np.array_equal(host.array, target)


def test_no_context_is_left_on_any_thread() -> None:
    before, seen = _current_context(), []

    def use() -> None:
        with memory.active():
            memory.allocate(NUM_BYTES)
        seen.append(_current_context())

    with open_gpu_memory() as memory:
        thread = threading.Thread(target=use)
        thread.start()
        thread.join()
    assert seen == [0] and _current_context() == before


def test_too_much_memory_is_told() -> None:
    memory = open_gpu_memory()
    with memory, memory.active(), pytest.raises(GpuOutOfMemoryError, match="--workspace-mib"):
        memory.allocate(memory.properties.total_bytes * 2)


def test_torch_goes_on_beside_it() -> None:
    """Both use the primary context: closing one must not end the other's."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    if not torch.cuda.is_available():
        pytest.skip(f"torch {torch.__version__} has no CUDA")
    ones = torch.ones(1000, device="cuda")
    with open_gpu_memory() as memory, memory.active():
        memory.allocate(NUM_BYTES)
        assert float(ones.sum()) == 1000.0
    assert float((ones + torch.ones(1000, device="cuda")).sum()) == 2000.0
