"""ONNX Runtime's CUDA provider with bound buffers and a CUDA graph, against the answers that are stored in the bundle."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from gpu_figures import Record, check_engine

from edgefuse.bundle import MODEL_NAME, Bundle
from edgefuse_runtime.engines import fastest_file, open_engine
from edgefuse_runtime.engines.onnxruntime import OnnxRuntimeEngine

if TYPE_CHECKING:
    from edgefuse.bundle import Samples

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("onnxruntime_cuda")]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_answers_are_the_stored_ones(
    bundle: Bundle, samples: Samples, precision: str, record_property: Record
) -> None:
    file = MODEL_NAME if precision == "fp32" else fastest_file(bundle)
    assert bundle.manifest.files[file].precision == precision
    with open_engine(bundle, engine="cuda", file=file) as engine:
        assert engine.description["provider"] == "CUDAExecutionProvider"
        assert engine.description["launch"] == "CUDA graph"
        check_engine(engine, samples, precision=precision, record=record_property)


def test_a_replayed_graph_sees_the_new_frame(bundle: Bundle, samples: Samples) -> None:
    """Order must not matter: an answer that is one frame late would fit the frame before."""
    with open_engine(bundle, engine="cuda") as engine:
        there = [engine.run(samples.rgb[i : i + 1], samples.depth[i : i + 1]).probabilities for i in range(4)]
        back = [engine.run(samples.rgb[i : i + 1], samples.depth[i : i + 1]).probabilities for i in (3, 2, 1, 0)]
    np.testing.assert_allclose(np.concatenate(there), np.concatenate(back[::-1]), atol=1e-6)


def test_plain_launches_give_the_same(bundle: Bundle, samples: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgefuse.errors import UserError
    from edgefuse_runtime.engines import onnxruntime as module

    new_session = module.new_session

    def without_graph(*args: object, provider_options: dict[str, str] | None = None, **options: object) -> object:
        if provider_options and "enable_cuda_graph" in provider_options:
            raise UserError("no graph in this test")
        return new_session(*args, provider_options=provider_options, **options)  # type: ignore[arg-type]

    rgb, depth = samples.rgb[:1], samples.depth[:1]
    with open_engine(bundle, engine="cuda") as engine:
        replayed = engine.run(rgb, depth)
    monkeypatch.setattr(module, "new_session", without_graph)
    with OnnxRuntimeEngine(bundle, file=fastest_file(bundle), device="cuda") as engine:
        assert engine.description["launch"].startswith("plain")
        plain = engine.run(rgb, depth)
    np.testing.assert_allclose(replayed.probabilities, plain.probabilities, atol=1e-3)
