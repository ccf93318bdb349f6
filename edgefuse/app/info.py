"""What a bundle, run, recording or data set is, as JSON values. Owns the fields of `edgefuse info --json`; its command shows them.

Nothing is loaded into an engine or PyTorch, so it also works on a device. The files of a bundle are compared with their digests.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgefuse.errors import UserError
from edgefuse.io.folder_kinds import kind_of, no_kind
from edgefuse.io.json_files import Optional, read_json

if TYPE_CHECKING:
    from edgefuse.bundle import Bundle

RECORDINGS = (".db3", ".bag")
MAX_FOLDERS = 1000
"""Folders to search for a pair before a folder without `dataset.json` counts as no data set."""

_DATA = Optional(
    {**dict.fromkeys(("num_train", "num_validation", "num_test"), Optional(int)), "roots": Optional([str])}
)
_RUN = {
    "labels": [str],
    "model": {"contract": {"size": int, "near_m": float, "far_m": float, "align": str}},
    "training": Optional(dict),
    "data": _DATA,
    "versions": Optional({str: str}),
    "epochs_done": Optional(int),
    "epoch_kept": Optional(int),
}
_SCORES = Optional({"num_samples": int, "accuracy": float})
_METRICS = dict.fromkeys(("validation", "test"), Optional({"both": _SCORES, "no_rgb": _SCORES, "no_depth": _SCORES}))


def describe(path: Path) -> dict[str, Any]:
    """Everything about `path`; "kind" is "bundle", "run", "recording" or "data set".

    Raises:
        UserError: it is none of these, or its description is damaged.
    """
    if path.is_file() and path.suffix.lower() in RECORDINGS:
        return {"kind": "recording", "path": str(path), **_recording(path)}
    describers = {"bundle": _bundle, "run": _run, "data set": _data_set}
    kind = kind_of(path) or ("data set" if _has_pairs(path) else None)
    if kind is None:
        raise UserError(no_kind(path))
    return {"kind": kind, "path": str(path), **describers[kind](path)}


def _recording(path: Path) -> dict[str, Any]:
    from edgefuse_runtime.cameras.db3_file import DamagedError
    from edgefuse_runtime.cameras.recording_info import describe_recording

    try:
        found = describe_recording(path)
    except DamagedError as error:
        raise UserError(f"{path} is damaged or no recording: {error}") from error
    return {"num_bytes": path.stat().st_size, **found.to_json()}


def _bundle(folder: Path) -> dict[str, Any]:
    from edgefuse.bundle import open_bundle

    bundle = open_bundle(folder)
    manifest = bundle.manifest
    files = [_file(bundle, name) for name in manifest.files]
    return {
        "num_bytes": sum(entry.num_bytes for entry in manifest.files.values()),
        "labels": list(manifest.labels),
        "contract": _contract(vars(manifest.contract)),
        "model": manifest.model,
        "batch_size": manifest.batch_size,
        "region": manifest.region,
        "accuracy": _accuracy_of(manifest.degraded_mode.measured),
        "degraded_mode": {name: getattr(manifest.degraded_mode, name) for name in ("no_rgb", "no_depth")},
        "data": _data(manifest.training.get("data")),
        "files": files,
        "engines": _engines(bundle),
        "cpu_engines": _cpu_engines(bundle),
        "versions": manifest.versions,
        "problems": [file["problem"] for file in files if file["problem"]],
    }


def _file(bundle: Bundle, name: str) -> dict[str, Any]:
    """A file of the bundle, its greatest difference from PyTorch, and why it cannot be used (None if it can)."""
    entry = bundle.manifest.files[name]
    problem = None
    try:
        bundle.file(name)
    except UserError as error:
        problem = str(error)
    together = bundle.manifest.parity.get(name, {}).get("together")
    difference = together.get("max_probability_difference") if isinstance(together, dict) else None
    return {
        "name": name,
        "precision": entry.precision,
        "num_bytes": entry.num_bytes,
        "max_probability_difference": difference if isinstance(difference, float) else None,
        "problem": problem,
    }


def _engines(bundle: Bundle) -> list[dict[str, Any]]:
    from edgefuse_runtime.engines.engine_cache import plan_records

    return [
        {
            "name": record.name,
            "engine": record.key.engine,
            "precision": record.key.precision,
            "library_version": record.key.tensorrt_version,
            "device": record.key.device_name,
            "compute_capability": record.key.compute_capability,
            "batch_size": record.batch_size,
        }
        for record in plan_records(bundle)
    ]


def _cpu_engines(bundle: Bundle) -> dict[str, Any]:
    """Values of `--engine` in the order in which `auto` tries them on this CPU, and the reason for the first."""
    from edgefuse_runtime.engines.measured_times import choose

    choice = choose(bundle, num_threads=None)
    return {"words": list(choice.words), "reason": choice.reasons[choice.words[0]]}


def _run(folder: Path) -> dict[str, Any]:
    """`edgefuse.training.run.open_run` checks more, but needs PyTorch."""
    found = read_json(folder / "run.json", what="the run's description", spec=_RUN)
    metrics_path = folder / "metrics.json"
    metrics = read_json(metrics_path, what="the run's metrics", spec=_METRICS) if metrics_path.is_file() else {}
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")]
    training = found.get("training") or {}
    return {
        "num_bytes": sum(path.stat().st_size for path in files),
        "labels": found["labels"],
        "contract": _contract(found["model"]["contract"]),
        "model": {name: value for name, value in found["model"].items() if name != "contract"},
        "epochs": {
            "done": found.get("epochs_done"),
            "kept": found.get("epoch_kept"),
            "planned": training.get("epochs"),
        },
        "seed": training.get("seed"),
        "accuracy": _accuracy(metrics),
        "data": _data(found.get("data")),
        "files": [{"name": path.name, "num_bytes": path.stat().st_size} for path in files],
        "versions": found.get("versions") or {},
    }


def _data_set(root: Path) -> dict[str, Any]:
    from edgefuse.data.check import count_classes
    from edgefuse.data.dataset import describe as description_of
    from edgefuse.data.dataset import read_pair, scan

    dataset = scan([root], skip_bad=True, may_be_unchecked=True)
    description = description_of(root)
    size = None
    for sample in dataset.samples[:1]:
        try:
            _, depth = read_pair(sample.rgb_path, sample.depth_path)
            size = f"{depth.shape[1]}x{depth.shape[0]}"
        except UserError:
            pass  # `edgefuse data check` reads every pair
    classes = count_classes(dataset)
    paths = [path for sample in dataset.samples for path in (sample.rgb_path, sample.depth_path)]
    return {
        "num_bytes": sum(path.stat().st_size for path in paths),
        "num_pairs": len(dataset.samples),
        "num_sequences": len(set(dataset.groups())),
        "classes": [{"label": one.label, "pairs": one.pairs, "sequences": len(one.sequences)} for one in classes],
        "first_size": size,
        "depth_unit_m": description.depth_unit_m,
        "align": description.align,
        "region": description.region,
        "num_bad": dataset.num_left_out,
        "warnings": list(dataset.warnings),
    }


def _has_pairs(folder: Path) -> bool:
    """Whether there is a file of a pair in the first `MAX_FOLDERS` folders: anything may be given, such as /."""
    from edgefuse.data.dataset import DEPTH_SUFFIX, RGB_SUFFIX
    from edgefuse.data.tree import walk

    folders = itertools.islice(walk(folder), MAX_FOLDERS) if folder.is_dir() else ()
    return any(name.endswith((RGB_SUFFIX, DEPTH_SUFFIX)) for one in folders for name in one.files)


def _contract(value: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value[name] for name in ("size", "near_m", "far_m", "align")}


def _data(data: Any) -> dict[str, Any] | None:
    """Where the pairs were and how many there were in each part; None if it was not recorded."""
    if not isinstance(data, dict):
        return None
    return {name: data.get(name) for name in ("roots", "num_train", "num_validation", "num_test")}


def _accuracy(metrics: Mapping[str, Any]) -> dict[str, Any] | None:
    """Accuracy on the test pairs, or without any on the validation pairs, with both sensors and without each of them."""
    for part in ("test", "validation"):
        scores = metrics.get(part)
        if scores and scores.get("both"):
            by_condition = {
                name: scores[name]["accuracy"] for name in ("both", "no_rgb", "no_depth") if scores.get(name)
            }
            return {"part": part, "num_pairs": scores["both"]["num_samples"], **by_condition}
    return None


def _accuracy_of(measured: Mapping[str, Any]) -> dict[str, Any] | None:
    """The same from the manifest, which has the accuracies that chose the degraded mode."""
    return dict(measured) if isinstance(measured.get("both"), float) else None
