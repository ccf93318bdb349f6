"""A run: the output folder of a training, readable at any time during the training.

    run.json             labels, model, training configuration, data digest, versions, epochs done, epoch kept, files
    model.safetensors    weights of the last finished epoch (with early stop: of the best)
    samples.npz          framed pairs for parity checks, held-out ones if there are any
    metrics.json         metrics on held-out pairs
    model_card.md        a summary for readers, which the author may complete
    training.png, confusion.png, reliability.png, tensorboard/

`run.json` has the sha256 of the other three files, and one of its own labels, model and files, so that modified or damaged runs are
refused. Before a file is replaced, its new digest is added to `run.json` next to the old one, so that a training killed at any time
leaves a valid run. Runs from before November 2026 have no digests and still open.

Owns the format of the folder; export and evaluation read it with `open_run`.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from edgefuse.contract import check_batch
from edgefuse.errors import UserError, is_out_of_memory
from edgefuse.io.arrays import read_arrays, write_arrays
from edgefuse.io.files import file_replaced, sha256_of_file
from edgefuse.io.folder_kinds import not_a
from edgefuse.io.json_files import Optional, check_fields, dumps, read_json, write_json
from edgefuse.io.text import write_text
from edgefuse.model.classifier import FusionClassifier, ModelConfig, build_classifier, not_finite

RUN_NAME = "run.json"
WEIGHTS_NAME = "model.safetensors"
SAMPLES_NAME = "samples.npz"
METRICS_NAME = "metrics.json"
CARD_NAME = "model_card.md"
CONTENTS = (
    *(WEIGHTS_NAME, SAMPLES_NAME, METRICS_NAME, CARD_NAME),
    *("training.png", "confusion.png", "reliability.png", "tensorboard"),
)
"""Contents of a run folder in addition to `run.json`."""
FORMAT = 1
_OLD_MODULES = {r"\bvotes\b": "auxiliary_heads", r"^look\b": "spatial_gate"}
"""Module names in weights and bundles from before 2026-11-26, as regular expressions, and their present names."""

_CONTRACT = {"size": int, "near_m": float, "far_m": float, "align": str}
_MODEL = {
    "contract": _CONTRACT,
    "num_classes": int,
    **dict.fromkeys(("fusion", "rgb", "depth", "encoding"), Optional(str)),
    **dict.fromkeys(("encoding_revision", "num_features", "num_hidden"), Optional(int)),
    **dict.fromkeys(("depth_window_m", "reach_m", "dropout", "feature_dropout"), Optional(float)),
    **dict.fromkeys(("temperature", "temperature_no_rgb", "temperature_no_depth"), Optional(float)),
    **dict.fromkeys(("auxiliary_heads", "votes", "frame_gate"), Optional(bool)),
}
_DATA = {
    "roots": Optional([str]),
    "digest": Optional(str),
    "train_instances": Optional({str: str}),
    **dict.fromkeys(("num_train", "num_validation", "num_test", "num_left_out"), Optional(int)),
    **dict.fromkeys(("validation_groups", "test_groups"), Optional([str])),
    "people": Optional({str: {str: int}}),
}
_RUN = {
    "labels": [str],
    "model": _MODEL,
    "training": Optional(dict),
    "data": Optional(_DATA),
    "versions": Optional({str: str}),
    "warnings": Optional([str]),
    "epochs_done": Optional(int),
    "epoch_kept": Optional(int),
    "files": Optional({str: [str]}),
    "sha256": Optional(str),
}
_SCORES = {"num_samples": int, "accuracy": float, "confusion": [[int]]}
_METRICS = {
    "history": Optional([dict]),
    "calibration": Optional(dict),
    **dict.fromkeys(
        ("validation", "test"), Optional({"both": _SCORES, "no_rgb": Optional(_SCORES), "no_depth": Optional(_SCORES)})
    ),
    **dict.fromkeys(("untested_classes", "unvalidated_classes"), Optional([str])),
}


class CannotWriteError(UserError):
    """A file of a run could not be written, as on a full disk."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """An opened run.

    Attributes:
        labels: class names in the order of the model's outputs.
        model_config: architecture of the model, including its contract.
        info: everything else in `run.json` (training configuration, data, versions, number of epochs done and kept).
    """

    folder: Path
    labels: tuple[str, ...]
    model_config: ModelConfig
    info: dict[str, Any]

    def build_model(self) -> FusionClassifier:
        """The trained model on the CPU, in eval mode.

        Raises:
            UserError: the weights file is missing, was modified, does not fit, or contains values that are not finite.
        """
        from safetensors.torch import load_file

        path = self.folder / WEIGHTS_NAME
        if not path.is_file():
            raise UserError(f"{path} is missing: the run was stopped before its first epoch ended, train again")
        self._verify(WEIGHTS_NAME)
        model = build_classifier(self.model_config)
        try:
            weights = load_file(path)
            model.load_state_dict({present_module(name): value for name, value in weights.items()})
        except Exception as error:  # safetensors and torch raise many kinds for a damaged or foreign file
            if is_out_of_memory(error):
                raise
            reason = " ".join(str(error).split())[:300]
            raise UserError(
                f"{path} does not fit the model that {RUN_NAME} describes ({reason}): train again"
            ) from error
        if names := not_finite(model):
            raise UserError(
                f"{path} contains values that are not finite ({names[0]}; {len(names)} tensor(s)): train again, "
                "with a smaller learning rate"
            )
        return model.eval()

    def metrics(self) -> dict[str, Any]:
        """The contents of `metrics.json`; empty if there is none, as in an unfinished run.

        Raises:
            UserError: the file is damaged or was modified.
        """
        path = self.folder / METRICS_NAME
        is_unfinished = "files" in self.info and METRICS_NAME not in self.info["files"]
        if not path.is_file() or is_unfinished:
            return {}
        found = read_json(path, what="the run's metrics", spec=_METRICS)
        self._verify(METRICS_NAME)
        for part in ("validation", "test"):
            for condition, scores in (found.get(part) or {}).items():
                _check_scores(scores, what=f"the run's metrics ({path}), {part}.{condition}")
        return found

    def samples(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Framed pairs of the run's data: rgb uint8 [n, S, S, 3], depth uint8 [n, S, S, 2].

        Raises:
            UserError: the file is missing, damaged or modified, or does not fit the input of the model.
        """
        path = self.folder / SAMPLES_NAME
        if not path.is_file():
            raise UserError(f"{path} is missing, and export needs it for its checks: train again")
        self._verify(SAMPLES_NAME)
        arrays = read_arrays(path, ("rgb", "depth"))
        try:
            check_batch(arrays["rgb"], arrays["depth"], self.model_config.contract)
        except (UserError, TypeError) as error:
            raise UserError(f"{path} does not fit the model ({error}): train again") from error
        if not len(arrays["rgb"]) or len(arrays["rgb"]) != len(arrays["depth"]):
            raise UserError(f"{path} has {len(arrays['rgb'])} RGB and {len(arrays['depth'])} depth images: train again")
        return arrays["rgb"], arrays["depth"]

    def copy_card(self, folder: Path) -> None:
        """Copy `model_card.md` into the folder of a bundle; older runs have none."""
        if (self.folder / CARD_NAME).is_file():
            shutil.copyfile(self.folder / CARD_NAME, folder / CARD_NAME)

    def _verify(self, name: str) -> None:
        expected = self.info.get("files", {}).get(name)
        if not expected:  # runs from before November 2026
            return
        found = sha256_of_file(self.folder / name)
        if found not in expected:
            raise UserError(
                f"{self.folder / name} is not the file that the training wrote: its sha256 is {found[:12]}..., {RUN_NAME} has "
                f"{expected[0][:12]}...; copy the run again, or train again"
            )


def open_run(folder: Path) -> Run:
    """Read `run.json`.

    Raises:
        UserError: not a run, another format, or a damaged or modified `run.json`.
    """
    path = folder / RUN_NAME
    if not path.is_file():
        raise UserError(not_a("run", folder))
    info = read_json(path, what="the run's description")
    if info.get("format") != FORMAT:
        raise UserError(
            f"{folder} has run format {info.get('format')!r}, this version of edgefuse reads {FORMAT}: train again"
        )
    check_fields(info, _RUN, what=f"the run's description ({path})")
    try:
        labels, model_config = tuple(info["labels"]), ModelConfig.from_json(info["model"])
    except UserError as error:
        raise UserError(f"the run's description ({path}) cannot be used: {error}; train again") from error
    if len(set(labels)) != model_config.num_classes or len(labels) != model_config.num_classes:
        raise UserError(
            f"the run's description ({path}) has {len(labels)} labels, {len(set(labels))} different ones, for "
            f"{model_config.num_classes} classes: train again"
        )
    info = {name: value for name, value in info.items() if value is not None}
    if info.get("sha256", _seal(info)) != _seal(info):
        raise UserError(
            f"the run's description ({path}) was modified after the training: labels, model or files differ from what it wrote; "
            "copy the run again, or train again"
        )
    return Run(folder=folder, labels=labels, model_config=model_config, info=info)


def write_run(folder: Path, *, labels: tuple[str, ...], model_config: ModelConfig, info: Mapping[str, Any]) -> None:
    """Write `run.json` atomically, with the current digests of the other files."""
    files = {
        name: [sha256_of_file(folder / name)]
        for name in (WEIGHTS_NAME, SAMPLES_NAME, METRICS_NAME)
        if (folder / name).is_file()
    }
    described = {"format": FORMAT, "labels": list(labels), "model": model_config.to_json(), **info, "files": files}
    _write_description(folder, described)


def write_weights(folder: Path, model: nn.Module) -> None:
    """Write the state dict of the model as safetensors, atomically."""
    from safetensors.torch import save_file

    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with _writing(folder / WEIGHTS_NAME), file_replaced(folder / WEIGHTS_NAME) as temporary:
        save_file(state, temporary)
        _add_digest(folder, WEIGHTS_NAME, temporary)


def write_samples(folder: Path, *, rgb: NDArray[np.uint8], depth: NDArray[np.uint8]) -> None:
    """Write framed pairs for later parity checks, atomically."""
    with _writing(folder / SAMPLES_NAME):
        write_arrays(folder / SAMPLES_NAME, rgb=rgb, depth=depth)
        _add_digest(folder, SAMPLES_NAME, folder / SAMPLES_NAME)


def write_metrics(folder: Path, metrics: Mapping[str, Any]) -> None:
    """Write `metrics.json` atomically; it is valid after the next `write_run`."""
    with _writing(folder / METRICS_NAME):
        write_json(folder / METRICS_NAME, metrics)


def write_card(folder: Path, text: str) -> None:
    """Write `model_card.md` atomically. It has no digest, because its last section is for the author to fill in."""
    with _writing(folder / CARD_NAME), file_replaced(folder / CARD_NAME) as temporary:
        write_text(temporary, text)


def present_module(name: str) -> str:
    """The present name of a module, or of one of its weights, in a run or bundle of an older version."""
    for old, present in _OLD_MODULES.items():
        name = re.sub(old, present, name)
    return name


def _add_digest(folder: Path, name: str, path: Path) -> None:
    """Add the digest of the next file `name` to an existing `run.json`, next to the current one: either file is valid."""
    if (folder / RUN_NAME).is_file():
        info = read_json(folder / RUN_NAME, what="the run's description")
        files = info.get("files") or {}
        digests = dict.fromkeys([sha256_of_file(path), *files.get(name, [])[:1]])
        _write_description(folder, {**info, "files": {**files, name: list(digests)}})


def _write_description(folder: Path, info: Mapping[str, Any]) -> None:
    with _writing(folder / RUN_NAME):
        write_json(folder / RUN_NAME, {**info, "sha256": _seal(info)})


def _seal(info: Mapping[str, Any]) -> str:
    """Digest of everything that determines the outputs of a run."""
    return hashlib.sha256(dumps({name: info.get(name) for name in ("labels", "model", "files")}).encode()).hexdigest()


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Convert write errors to one line with the file name; safetensors has its own exception, and NumPy's has no file name."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, UserError, SafetensorError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise CannotWriteError(
            f"{path} cannot be written ({reason}): free space on its disk, or choose another --out"
        ) from error


def _check_scores(scores: Mapping[str, Any], *, what: str) -> None:
    confusion = scores["confusion"]
    num_pairs = sum(map(sum, confusion))
    is_square = all(len(row) == len(confusion) and min(row, default=0) >= 0 for row in confusion)
    if not is_square or num_pairs != scores["num_samples"] or num_pairs < 1 or not 0 <= scores["accuracy"] <= 1:
        raise UserError(
            f"{what} are inconsistent: accuracy, number of samples and confusion matrix do not match; train again"
        )
