"""A bundle: the folder that a trained model leaves in, and that every other step reads.

    manifest.json     labels, input contract, framing, model, sha256 and precision of each file, parity, versions
    model.onnx        FP32
    model.fp16.onnx   strongly typed: layers in half, input decoding and softmax in FP32; where it was asked for
    model.int8.onnx   symmetric, per channel; where it was asked for
    samples.npz       16 real frames and the torch model's answers, for the check after every engine build

Owns the manifest's form and the checks on opening; export writes bundles, runtime and benchmarks read them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefuse import framing
from edgefuse.contract import InputContract
from edgefuse.errors import UserError
from edgefuse.fallback import Fallback
from edgefuse.io.arrays import read_arrays, write_arrays
from edgefuse.io.files import sha256_of_file
from edgefuse.io.json_files import read_json, write_json

FORMAT = 1
MANIFEST_NAME = "manifest.json"
MODEL_NAME = "model.onnx"
MODEL_NAMES = {"fp32": MODEL_NAME, "fp16": "model.fp16.onnx", "int8": "model.int8.onnx"}
"""Precision -> name of its file."""
SAMPLES_NAME = "samples.npz"
NUM_SAMPLES = 16
DATA_PRECISION = "data"
"""What stands as precision of a file that is no model."""


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """One file of a bundle: its digest, size in bytes, and precision ("fp32", "fp16", "int8", or "data" for no model)."""

    sha256: str
    num_bytes: int
    precision: str

    @classmethod
    def of(cls, path: Path, *, precision: str) -> FileEntry:
        """Describe the file at `path` as it is now."""
        return cls(sha256=sha256_of_file(path), num_bytes=path.stat().st_size, precision=precision)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a bundle says about itself.

    Attributes:
        labels: class names in the order of the probabilities.
        contract: what the inputs mean.
        model: fusion kind, backbones, feature width d.
        files: file name -> FileEntry.
        parity: file name -> figures of the comparison with the torch model, and how the file was made.
        versions: package -> version that wrote the bundle.
        training: data digest, held-out instances, metrics, seed.
        engines: name of a TensorRT plan -> what it was built from and how (`edgefuse_runtime.engines.plans`).
        framing_sha256: digest of `edgefuse.framing.SPEC` at export.
        fallback: what live reports while a sensor is dead.
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
    fallback: Fallback = field(default_factory=Fallback)

    @property
    def region(self) -> str | None:
        """Where the images of the training data were looked at, as `--roi` says it; None in bundles that do not tell."""
        region = (self.training.get("data") or {}).get("region")
        return region if isinstance(region, str) else None

    def to_json(self) -> dict[str, Any]:
        """The manifest as the JSON object that stands in `manifest.json`."""
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
            "fallback": self.fallback.to_json(),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Manifest:
        """The inverse of `to_json`.

        Raises:
            UserError: the format is newer or older, or a field is missing.
        """
        found = value.get("format")
        if found != FORMAT:
            newer = isinstance(found, int) and found > FORMAT
            step = (
                "install a newer edgefuse: pip install --upgrade edgefuse"
                if newer
                else "export the run again: edgefuse export RUN --out BUNDLE"
            )
            raise UserError(f"the bundle has format {found!r}, this version of edgefuse reads format {FORMAT}: {step}")
        try:
            return cls(
                labels=tuple(value["labels"]),
                contract=InputContract.from_json(value["contract"]),
                model=value["model"],
                files={name: FileEntry(**entry) for name, entry in value["files"].items()},
                parity=value["parity"],
                versions=value["versions"],
                training=value["training"],
                engines=value.get("engines", {}),  # bundles from before there were engines have none
                framing_sha256=value["framing"]["sha256"],
                fallback=Fallback.from_json(value.get("fallback")),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"the bundle's manifest is incomplete ({error}): export the run again: edgefuse export RUN --out BUNDLE"
            ) from error


@dataclass(frozen=True, kw_only=True, eq=False)
class Samples:
    """Real frames of the run's data and what the torch FP32 model says of them.

    Attributes:
        rgb, depth: uint8 [16, S, S, 3] and [16, S, S, 2], the contract's inputs.
        probabilities, gate: float32 [16, C] and [16, d].
    """

    rgb: NDArray[np.uint8]
    depth: NDArray[np.uint8]
    probabilities: NDArray[np.float32]
    gate: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """An opened bundle: its folder and its checked manifest."""

    folder: Path
    manifest: Manifest

    def file(self, name: str = MODEL_NAME) -> Path:
        """Path of a file of the bundle, after checking that its bytes are the ones that the manifest describes.

        Raises:
            UserError: the manifest has no such file, it is missing, or its sha256 differs.
        """
        entry = self.manifest.files.get(name)
        if entry is None:
            raise UserError(f"{self.folder} has no file {name!r}; it has {', '.join(self.manifest.files) or 'none'}")
        path = self.folder / name
        if not path.is_file():
            raise UserError(f"{path} is missing although the manifest lists it: copy the whole bundle again")
        found = sha256_of_file(path)
        if found != entry.sha256:
            raise UserError(
                f"{path} is not the file that was exported: its sha256 is {found[:12]}..., the manifest says "
                f"{entry.sha256[:12]}...; copy the bundle again, or export again"
            )
        return path

    def samples(self) -> Samples:
        """The stored frames and the answers that are expected for them.

        Raises:
            UserError: the bundle has none (it is older), or they are damaged.
        """
        if SAMPLES_NAME not in self.manifest.files:
            raise UserError(
                f"{self.folder} has no {SAMPLES_NAME}: export the run again: edgefuse export RUN --out {self.folder} --force"
            )
        return Samples(**read_arrays(self.file(SAMPLES_NAME), ("rgb", "depth", "probabilities", "gate")))


def open_bundle(folder: Path) -> Bundle:
    """Read and check a bundle's manifest; the files are checked when they are asked for.

    Raises:
        UserError: no bundle there, a newer or older format, or framing that this version does otherwise.
    """
    if not folder.is_dir():
        raise UserError(
            f"{folder} is not a bundle (a folder with {MANIFEST_NAME}): make one with edgefuse export RUN --out {folder}"
        )
    if not (folder / MANIFEST_NAME).is_file():
        is_run = (folder / "run.json").is_file()
        step = (
            f"it looks like a run: edgefuse export {folder} --out BUNDLE"
            if is_run
            else "make one with edgefuse export RUN --out BUNDLE"
        )
        raise UserError(f"{folder} is not a bundle: it has no {MANIFEST_NAME}; {step}")
    manifest = Manifest.from_json(read_json(folder / MANIFEST_NAME, what="the bundle's manifest"))
    if manifest.framing_sha256 != framing.spec_sha256():
        raise UserError(
            f"{folder} was made for another way of cropping and resizing (framing {manifest.framing_sha256[:12]}..., "
            f"here {framing.spec_sha256()[:12]}...): export the run again with this version of edgefuse"
        )
    return Bundle(folder=folder, manifest=manifest)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json` into `folder`, atomically."""
    write_json(folder / MANIFEST_NAME, manifest.to_json())


def write_samples(folder: Path, samples: Samples) -> FileEntry:
    """Write `samples.npz` into `folder`, atomically; its entry for the manifest."""
    write_arrays(folder / SAMPLES_NAME, **vars(samples))
    return FileEntry.of(folder / SAMPLES_NAME, precision=DATA_PRECISION)
