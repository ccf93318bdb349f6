"""A bundle: the folder with an exported model and everything needed to run it.

    manifest.json     labels, input contract, framing, model, sha256 and precision of each file, parity, versions
    model.onnx        FP32
    model.fp16.onnx   optional; strongly typed: layers in FP16, input decoding and softmax in FP32
    model.int8.onnx   optional; symmetric, per channel
    adaptive_*.onnx   optional; the FP32 model in two files, see `edgefuse.adaptive`
    samples.npz       16 real frames and the torch model's outputs, to check every engine that is built

Owns the manifest's format, the metadata of ONNX files, and the checks on opening. Export writes bundles; runtime and
benchmarks read them. Get the path of a file in a bundle from `Bundle.file`, which checks it against the manifest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgefuse import framing
from edgefuse.adaptive import Adaptive
from edgefuse.answers import labels_problem
from edgefuse.contract import NEAREST_OUTPUT, PROBABILITIES_OUTPUT, InputContract, check_batch
from edgefuse.degraded_mode import DegradedMode
from edgefuse.errors import UserError
from edgefuse.io.arrays import read_arrays, write_arrays
from edgefuse.io.files import real_path, sha256_of_file
from edgefuse.io.folder_kinds import MARKERS, not_a
from edgefuse.io.json_files import Optional, check_fields, dumps, parse_json, read_json, with_new_names, write_json
from edgefuse.io.onnx_metadata import read_metadata
from edgefuse.io.text import printable, quoted

FORMAT = 1
MANIFEST_NAME = MARKERS["bundle"]
MODEL_NAME = "model.onnx"
MODEL_NAMES = {"fp32": MODEL_NAME, "fp16": "model.fp16.onnx", "int8": "model.int8.onnx"}
"""Precision -> file name."""
SAMPLES_NAME = "samples.npz"
CONTENTS = ("model*.onnx", "adaptive_*.onnx", SAMPLES_NAME, "model_card.md", "engines", ".lock")
"""The files of a bundle other than its manifest, which lists those with a digest; the author may edit the model card."""
NUM_SAMPLES = 16
DATA_PRECISION = "data"
"""The precision listed for a file that is not a model."""

DYNAMIC_BATCH = "dynamic"
"""What `model.batch_size` of a manifest says where one run takes any number of pairs."""

EXPORT_AGAIN = "export the run again: edgefuse export RUN --out BUNDLE"

_SPEC: Final = {
    "format": object,
    "labels": [str],
    "contract": dict,
    "framing": {"sha256": str},
    "model": {"fusion": Optional(str), "temperature": Optional(float)},
    "files": {str: {"sha256": str, "num_bytes": int, "precision": str}},
    "parity": {str: dict},
    "versions": {str: str},
    "training": {"data": Optional({"train_instances": Optional({str: str})})},
    "engines": Optional(dict),  # `edgefuse_runtime.engines.engine_cache` ignores entries of other versions
    "adaptive": Optional(dict),
    "degraded_mode": Optional({"no_rgb": str, "no_depth": str, "reason": {str: str}, "measured": dict}),
}
_METADATA_OF_ALL = ("edgefuse.labels", "edgefuse.contract", "edgefuse.framing")
"""Keys that every ONNX file of format 1 has. The other keys were added later and are compared only if present."""


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """One file of a bundle: its digest, size in bytes, and precision ("fp32", "fp16", "int8", or "data" for no model)."""

    sha256: str
    num_bytes: int
    precision: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise UserError(f"a file's sha256 is {printable(self.sha256)[:80]!r}: 64 hex digits were expected")
        if self.num_bytes < 0:
            raise UserError(f"a file's size is {self.num_bytes} bytes: 0 or more was expected")
        if self.precision not in (*MODEL_NAMES, DATA_PRECISION):
            known = ", ".join((*MODEL_NAMES, DATA_PRECISION))
            raise UserError(f"a file's precision is {printable(self.precision)[:80]!r}: one of {known} was expected")

    @classmethod
    def of(cls, path: Path, *, precision: str) -> FileEntry:
        """Describe the file at `path` as it is now."""
        return cls(sha256=sha256_of_file(path), num_bytes=path.stat().st_size, precision=precision)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The contents of `manifest.json`.

    Attributes:
        labels: class names in the order of the probabilities.
        contract: what the inputs mean.
        model: fusion kind, backbones, feature width d, `batch_size` (a number, or "dynamic").
        files: file name -> FileEntry.
        parity: file name -> figures of the comparison with the torch model, and how the file was made.
        versions: versions of the packages that wrote the bundle.
        training: data digest, held-out sequences, metrics, seed.
        engines: name of a TensorRT plan -> what it was built from and how (`edgefuse_runtime.engines.engine_cache`).
        framing_sha256: digest of `edgefuse.framing.SPEC` at export.
        degraded_mode: what live reports while a sensor is missing.
        adaptive: what answers from depth alone give; None without the two files for them.
    """

    labels: tuple[str, ...]
    contract: InputContract
    model: dict[str, Any]
    files: dict[str, FileEntry]
    parity: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    engines: dict[str, Any] = field(default_factory=dict)
    framing_sha256: str = field(default_factory=framing.spec_sha256)
    degraded_mode: DegradedMode = field(default_factory=DegradedMode)
    adaptive: Adaptive | None = None

    def __post_init__(self) -> None:
        batch = self.model.get("batch_size", 1)
        if batch != DYNAMIC_BATCH and (not isinstance(batch, int) or isinstance(batch, bool) or batch < 1):
            shown = printable(repr(batch))[:40]
            raise UserError(f"its batch size is {shown}: a number from 1 or {DYNAMIC_BATCH!r} was expected")
        problem = labels_problem(self.labels)
        if problem:
            raise UserError(f"the labels must be distinct and not empty: {problem}")
        for name in self.files:
            parts = PurePosixPath(name).parts
            if not parts or name.startswith("/") or ".." in parts or "\0" in name or str(PurePosixPath(name)) != name:
                raise UserError(f"the file name {printable(name)[:80]!r} is not inside the bundle")

    @property
    def batch_size(self) -> int | None:
        """N of the inputs of its ONNX files; None = any number. Older bundles do not say it and take 1."""
        found = self.model.get("batch_size", 1)
        return None if found == DYNAMIC_BATCH else int(found)

    @property
    def region(self) -> str | None:
        """Region of the training images, as in `--roi`; None if the bundle does not record it."""
        region = (self.training.get("data") or {}).get("region")
        return region if isinstance(region, str) else None

    def to_json(self) -> dict[str, Any]:
        """The manifest as the JSON object written to `manifest.json`."""
        return {
            "format": FORMAT,
            "labels": list(self.labels),
            "contract": self.contract.to_json(),
            "framing": {**framing.SPEC, "sha256": self.framing_sha256},
            "model": self.model,
            "files": {name: vars(entry) for name, entry in self.files.items()},
            "parity": self.parity,
            "versions": self.versions,
            "training": self.training,
            "engines": self.engines,
            "degraded_mode": self.degraded_mode.to_json(),
            **({} if self.adaptive is None else {"adaptive": self.adaptive.to_json()}),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any], *, what: str = "the bundle's manifest") -> Manifest:
        """The inverse of `to_json`.

        Args:
            what: start of every error message.

        Raises:
            UserError: the format is newer or older, a field is missing or has the wrong type, or two fields contradict each other.
        """
        found = value.get("format")
        if isinstance(found, bool) or found != FORMAT:
            newer = isinstance(found, int) and found > FORMAT
            step = "install a newer edgefuse: pip install --upgrade edgefuse" if newer else EXPORT_AGAIN
            shown = printable(repr(found))[:40]
            raise UserError(f"{what} has format {shown}, but this version of edgefuse reads format {FORMAT}: {step}")
        try:
            value = with_new_names(value, {"fallback": "degraded_mode"})
            check_fields(value, _SPEC, what="it")
            manifest = cls(
                labels=tuple(value["labels"]),
                contract=InputContract.from_json(value["contract"]),
                model=value["model"],
                files={
                    name: FileEntry(**{key: entry[key] for key in ("sha256", "num_bytes", "precision")})
                    for name, entry in value["files"].items()
                },
                parity=value["parity"],
                versions=value["versions"],
                training=value["training"],
                engines=value.get("engines") or {},
                framing_sha256=value["framing"]["sha256"],
                degraded_mode=DegradedMode.from_json(value.get("degraded_mode")),
                adaptive=Adaptive.from_json(value.get("adaptive")),
            )
        except UserError as error:
            raise UserError(f"{what} is damaged or was changed: {error}; {EXPORT_AGAIN}") from error
        if manifest.framing_sha256 == framing.spec_sha256() and value["framing"] != _framing(manifest.framing_sha256):
            raise UserError(f"{what} was changed: its framing does not match its sha256; {EXPORT_AGAIN}")
        return manifest


def model_metadata(
    *,
    labels: tuple[str, ...],
    contract: InputContract,
    precision: str,
    temperature: float | None,
    framing_sha256: str | None = None,
) -> dict[str, str]:
    """Metadata for an ONNX file, so that it can be used without its bundle and cannot be mixed up with another one.

    Args:
        precision: "fp32", "fp16" or "int8".
        temperature: divides the logits in the graph; None = unknown.
        framing_sha256: None = this version's.
    """
    return {
        "edgefuse.format": dumps(FORMAT),
        "edgefuse.labels": dumps(list(labels)),
        "edgefuse.contract": dumps(contract.to_json()),
        "edgefuse.framing": dumps(_framing(framing_sha256 or framing.spec_sha256())),
        "edgefuse.precision": dumps(precision),
        **({} if temperature is None else {"edgefuse.temperature": dumps(temperature)}),
    }


def _framing(sha256: str) -> dict[str, Any]:
    return {**framing.SPEC, "sha256": sha256}


@dataclass(frozen=True, kw_only=True, eq=False)
class Samples:
    """Real frames of the training data and the torch FP32 model's outputs for them.

    Attributes:
        rgb, depth: uint8 [16, S, S, 3] and [16, S, S, 2], the contract's inputs.
        probabilities, gate: float32 [16, C] and [16, d].
        nearest_m: float32 [16, 1]; None if the contract's outputs do not have it.
    """

    rgb: NDArray[np.uint8]
    depth: NDArray[np.uint8]
    probabilities: NDArray[np.float32]
    gate: NDArray[np.float32]
    nearest_m: NDArray[np.float32] | None = None


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """An opened bundle: its folder and its checked manifest."""

    folder: Path
    manifest: Manifest = field(repr=False)

    def file(self, name: str = MODEL_NAME) -> Path:
        """Path of a file of the bundle, after checking its bytes against the manifest.

        The metadata of an ONNX file is also compared with the manifest, because a label changed in the manifest changes no digest.

        Raises:
            UserError: the manifest does not list the file, it is missing or outside the bundle, or it differs from the manifest.
        """
        entry = self.manifest.files.get(name)
        if entry is None:
            raise UserError(f"{self.folder} has no file {name!r}; it has {', '.join(self.manifest.files) or 'none'}")
        path = self.folder / name
        try:
            if not path.is_file():
                raise UserError(f"{path} is missing although the manifest lists it: copy the complete bundle again")
            if not real_path(path).is_relative_to(real_path(self.folder)):
                raise UserError(
                    f"{path} is a link to {real_path(path)}, outside the bundle: copy the bundle with the files that its links "
                    f"point to: cp -rL {self.folder} NEW_BUNDLE"
                )
            differs = None
            num_bytes = path.stat().st_size
            if num_bytes != entry.num_bytes:
                differs = f"it has {num_bytes} bytes, the manifest says {entry.num_bytes}"
            elif (found := sha256_of_file(path)) != entry.sha256:
                differs = f"its sha256 is {found[:12]}..., the manifest says {entry.sha256[:12]}..."
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror})") from error
        if differs:
            raise UserError(
                f"{path} is not the file that was exported: {differs}; copy the bundle again, or export again"
            )
        if path.suffix == ".onnx":
            check_metadata(read_metadata(path), self.manifest, precision=entry.precision, where=str(path))
        return path

    def samples(self) -> Samples:
        """The stored frames and the expected outputs.

        Raises:
            UserError: the bundle has none (older version), or they are damaged or belong to another model.
        """
        if SAMPLES_NAME not in self.manifest.files:
            raise UserError(
                f"{self.folder} has no {SAMPLES_NAME}: export the run again: edgefuse export RUN --out {quoted(self.folder)} --force"
            )
        path = self.file(SAMPLES_NAME)
        contract = self.manifest.contract
        samples = Samples(**read_arrays(path, ("rgb", "depth", *contract.outputs)))
        try:
            check_batch(samples.rgb, samples.depth, contract)
            num, widths = len(samples.rgb), {PROBABILITIES_OUTPUT: len(self.manifest.labels), NEAREST_OUTPUT: 1}
            for name in contract.outputs:
                array, width = getattr(samples, name), widths.get(name)
                if array.dtype != np.float32 or array.ndim != 2 or array.shape != (num, width or array.shape[1]):
                    raise UserError(
                        f"{name} is {array.dtype} {list(array.shape)}: float32 [{num}, {width or 'd'}] was expected"
                    )
                if num == 0 or not np.isfinite(array).all():
                    raise UserError(f"{name} is empty, or has NaN or infinity: export the run again")
        except UserError as error:
            raise UserError(f"{path} does not match the manifest: {error}") from error
        return samples


def check_metadata(found: Mapping[str, str], manifest: Manifest, *, precision: str, where: str) -> None:
    """Refuse an ONNX file whose metadata differs from the manifest: one of them was changed after the export.

    Args:
        found: the metadata of the file.
        precision: the file's precision in the manifest.
        where: the file, for the message.

    Raises:
        UserError: they differ, or the file lacks metadata that every exported file has.
    """
    promises = model_metadata(
        labels=manifest.labels,
        contract=manifest.contract,
        precision=precision,
        temperature=manifest.model.get("temperature"),
        framing_sha256=manifest.framing_sha256,
    )
    for key, promised in promises.items():
        name = key.removeprefix("edgefuse.")
        if key not in found:
            if key not in _METADATA_OF_ALL:
                continue
            raise UserError(
                f"{where} has no {name} in its metadata, unlike every exported file: it was changed or replaced; {EXPORT_AGAIN}"
            )
        if parse_json(found[key], what=f"{key} in {where}", spec=object) != parse_json(promised, what=key, spec=object):
            raise UserError(
                f"{where} and the manifest next to it differ in {name}: one of them was changed after the export; {EXPORT_AGAIN}"
            )


def open_bundle(folder: Path) -> Bundle:
    """Read and check a bundle's manifest. Its other files are checked by `Bundle.file`.

    Raises:
        UserError: not a bundle, a newer or older format, or framing that this version does not implement.
    """
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise UserError(not_a("bundle", folder))
    manifest = Manifest.from_json(read_json(path, what="the bundle's manifest"), what=f"the bundle's manifest ({path})")
    if manifest.framing_sha256 != framing.spec_sha256():
        raise UserError(
            f"{folder} was exported with another method of cropping and resizing (framing {manifest.framing_sha256[:12]}..., "
            f"here {framing.spec_sha256()[:12]}...): export the run again with this version of edgefuse"
        )
    return Bundle(folder=folder, manifest=manifest)


def check_file_in_bundle(path: Path) -> None:
    """Check a model file given by its path against the manifest next to it, if that lists it. Other files pass.

    Raises:
        UserError: see `open_bundle` and `Bundle.file`.
    """
    if path.is_file() and (path.parent / MANIFEST_NAME).is_file():
        bundle = open_bundle(path.parent)
        if path.name in bundle.manifest.files:
            bundle.file(path.name)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json` atomically, writable by its owner alone, because it decides which engines are loaded."""
    write_json(folder / MANIFEST_NAME, manifest.to_json(), private=True)


def write_samples(folder: Path, samples: Samples) -> FileEntry:
    """Write `samples.npz` atomically; returns its entry for the manifest."""
    write_arrays(folder / SAMPLES_NAME, **{name: array for name, array in vars(samples).items() if array is not None})
    return FileEntry.of(folder / SAMPLES_NAME, precision=DATA_PRECISION)
