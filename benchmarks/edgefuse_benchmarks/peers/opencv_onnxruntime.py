"""The loop that users write by hand, `edgefuse_benchmarks.suites.usual_loop`, as a peer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from edgefuse_benchmarks.peers.peer import NUM_THREADS, Peer, Source
from edgefuse_benchmarks.suites.usual_loop import usual_loop


@contextmanager
def opencv_onnxruntime(source: Source) -> Iterator[Peer]:
    """OpenCV resizes, NumPy normalises, ONNX Runtime runs the network with float inputs.

    Raises:
        UserError: a package is missing, or the bundle's input decoding cannot be cut off.
    """
    loop = usual_loop(source.bundle, num_threads=NUM_THREADS)
    yield Peer(classify=loop.frame, network=partial(loop.infer, *source.ready()))
