"""A run: the folder that a training leaves, readable at any moment of it.

    run.json             labels, model, training configuration, data digest, versions, epochs done, epoch kept
    model.safetensors    weights of the last finished epoch (with early stop: of the best)
    samples.npz          framed pairs of the run's data that were not trained on (where there are any), for parity checks
    metrics.json         figures on training's held-out instances
    training.png, confusion.png, tensorboard/

Owns the folder's form; export and evaluation read it through `open_run`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from edgefuse.errors import UserError
from edgefuse.io.arrays import read_arrays, write_arrays
from edgefuse.io.files import file_replaced
from edgefuse.io.json_files import read_json, write_json
from edgefuse.io.kinds import not_a
from edgefuse.model.classifier import FusionClassifier, ModelConfig, build_classifier, not_finite

RUN_NAME = "run.json"
WEIGHTS_NAME = "model.safetensors"
SAMPLES_NAME = "samples.npz"
METRICS_NAME = "metrics.json"
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Run:
    """An opened run.

    Attributes:
        labels: class names in the order of the model's outputs.
        model_config: what the model is made of; its contract too.
        info: everything else in `run.json` (training configuration, data, versions, epochs done and kept).
    """

    folder: Path
    labels: tuple[str, ...]
    model_config: ModelConfig
    info: dict[str, Any]

    def build_model(self) -> FusionClassifier:
        """The trained model on the CPU, in eval mode.

        Raises:
            UserError: the weights file is missing or does not fit, or holds numbers that are not finite.
        """
        from safetensors.torch import load_file

        path = self.folder / WEIGHTS_NAME
        if not path.is_file():
            raise UserError(f"{path} is missing: the run was stopped before its first epoch ended, train again")
        model = build_classifier(self.model_config)
        try:
            model.load_state_dict(load_file(path))
        except Exception as error:  # safetensors and torch raise many kinds for a damaged or foreign file
            raise UserError(
                f"{path} does not fit the model that {RUN_NAME} describes ({error}): train again"
            ) from error
        if spoilt := not_finite(model):
            raise UserError(
                f"{path} holds numbers that are not finite ({spoilt[0]}; {len(spoilt)} tensor(s)): train again, "
                "with a smaller learning rate"
            )
        return model.eval()

    def metrics(self) -> dict[str, Any]:
        """What stands in `metrics.json`; empty where there is none, as in a run that was cut off.

        Raises:
            UserError: the file is damaged.
        """
        path = self.folder / METRICS_NAME
        return read_json(path, what="the run's record of figures") if path.is_file() else {}

    def samples(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Framed pairs of the run's data: rgb uint8 [n, S, S, 3], depth uint8 [n, S, S, 2].

        Raises:
            UserError: the file is missing.
        """
        path = self.folder / SAMPLES_NAME
        if not path.is_file():
            raise UserError(f"{path} is missing: train again, export checks itself on these samples")
        arrays = read_arrays(path, ("rgb", "depth"))
        return arrays["rgb"], arrays["depth"]


def open_run(folder: Path) -> Run:
    """Read a run's description.

    Raises:
        UserError: no run there, or one of another format.
    """
    if not (folder / RUN_NAME).is_file():
        raise UserError(not_a("run", folder))
    info = read_json(folder / RUN_NAME, what="the run's description")
    if info.get("format") != FORMAT:
        raise UserError(
            f"{folder} has run format {info.get('format')!r}, this version of edgefuse reads {FORMAT}: train again"
        )
    try:
        labels, model_config = tuple(info["labels"]), ModelConfig.from_json(info["model"])
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder / RUN_NAME} is incomplete ({error}): train again") from error
    return Run(folder=folder, labels=labels, model_config=model_config, info=info)


def write_run(folder: Path, *, labels: tuple[str, ...], model_config: ModelConfig, info: Mapping[str, Any]) -> None:
    """Write `run.json`, atomically."""
    write_json(folder / RUN_NAME, {"format": FORMAT, "labels": list(labels), "model": model_config.to_json(), **info})


def write_weights(folder: Path, model: nn.Module) -> None:
    """Write the model's state as safetensors, atomically."""
    from safetensors.torch import save_file

    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with file_replaced(folder / WEIGHTS_NAME) as temporary:
        save_file(state, temporary)


def write_samples(folder: Path, *, rgb: NDArray[np.uint8], depth: NDArray[np.uint8]) -> None:
    """Write framed pairs for later parity checks, atomically."""
    write_arrays(folder / SAMPLES_NAME, rgb=rgb, depth=depth)
