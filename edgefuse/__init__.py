"""edgefuse: gated-fusion RGB-D classification, from labelled frames to live predictions.

    import edgefuse

    run = edgefuse.train("mugs", "runs/mugs", recipe=edgefuse.recipes.mobilenet_rgbd(epochs=20))
    bundle = edgefuse.export(run, "bundles/mugs")
    with edgefuse.Classifier("bundles/mugs") as classifier:
        print(classifier(rgb, depth, depth_unit_m=0.001).label)
    for result in edgefuse.live("bundles/mugs", camera="realsense"):
        print(result.label, result.latency_ms)

Importing this package loads nothing else; each name below loads what it needs at its first use. Only training, exporting and
evaluating a run need PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgefuse.app.api import evaluate, export, open_bundle, train
    from edgefuse.contract import InputContract
    from edgefuse.errors import EdgefuseError
    from edgefuse.training import recipe as recipes
    from edgefuse_runtime.classifier import Classifier
    from edgefuse_runtime.live.loop import live
    from edgefuse_runtime.predict import Prediction

__version__ = "0.1.0"

__all__ = [
    "Classifier",
    "EdgefuseError",
    "InputContract",
    "Prediction",
    "evaluate",
    "export",
    "live",
    "open_bundle",
    "recipes",
    "train",
]

_EXPORTS = {
    "Classifier": ("edgefuse_runtime.classifier", "Classifier"),
    "EdgefuseError": ("edgefuse.errors", "EdgefuseError"),
    "InputContract": ("edgefuse.contract", "InputContract"),
    "Prediction": ("edgefuse_runtime.predict", "Prediction"),
    "evaluate": ("edgefuse.app.api", "evaluate"),
    "export": ("edgefuse.app.api", "export"),
    "live": ("edgefuse_runtime.live.loop", "live"),
    "open_bundle": ("edgefuse.app.api", "open_bundle"),
    "recipes": ("edgefuse.training.recipe", None),
    "train": ("edgefuse.app.api", "train"),
}
"""Public name -> its module and its name in that module; None = the module itself."""


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'edgefuse' has no attribute {name!r}; it has {', '.join(__all__)}")
    module, attribute = _EXPORTS[name]
    loaded = importlib.import_module(module)
    return loaded if attribute is None else getattr(loaded, attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
