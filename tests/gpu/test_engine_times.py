"""Every engine that this machine has, interleaved on the bundle's frames: the times that `make gpu-report` keeps."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pytest
from gpu_figures import TOLERANCES, Record

from edgefuse.bundle import Bundle
from edgefuse.errors import UserError
from edgefuse.measure import Plan, Variant, measure
from edgefuse_runtime.engines import open_engine
from edgefuse_runtime.engines.cuda_device import Gpu
from edgefuse_runtime.engines.engine import Engine
from edgefuse_runtime.predict import predict_framed

if TYPE_CHECKING:
    from edgefuse.bundle import Samples

pytestmark = pytest.mark.gpu

PLAN = Plan(warmup_s=0.5, min_warmup_calls=50, measure_s=6.0, min_rounds=200, max_rounds=5000)


def test_the_engines_of_this_machine(
    gpu: Gpu, bundle: Bundle, samples: Samples, request: pytest.FixtureRequest, record_property: Record
) -> None:
    bundles = dict.fromkeys(("tensorrt", "rtx", "cuda", "cpu"), bundle)
    for word, fixture in (("tensorrt", "built"), ("rtx", "built_for_rtx")):
        with contextlib.suppress(pytest.skip.Exception, UserError):  # then it is left out, with the reason, below
            bundles[word] = request.getfixturevalue(fixture)
    with ExitStack() as stack:
        engines: dict[str, Engine] = {}
        for word, one in bundles.items():
            try:
                engines[word] = stack.enter_context(open_engine(one, engine=word))
            except UserError as error:
                record_property(f"{word}_left_out", str(error))
        if len(engines) == 1:
            pytest.skip("there is no engine on the GPU to measure")
        variants = [Variant(name=word, call=_calls(engine, samples)) for word, engine in engines.items()]
        series = measure(variants, plan=PLAN, check=partial(_differences, engines, samples))
    for one in series:
        record_property(one.name, {"scope": "engine, one pair with its copies", **asdict(one.summary())})


def _calls(engine: Engine, samples: Samples) -> Callable[[], object]:
    pairs = itertools.cycle([(samples.rgb[i : i + 1], samples.depth[i : i + 1]) for i in range(len(samples.rgb))])
    return lambda: engine.run(*next(pairs))


def _differences(engines: dict[str, Engine], samples: Samples) -> list[str]:
    off = {
        word: float(np.abs(predict_framed(engine, samples.rgb, samples.depth)[0] - samples.probabilities).max())
        for word, engine in engines.items()
    }
    return [f"{word} is {value:.2g} off" for word, value in off.items() if value > TOLERANCES["fp16"]]
