"""Writes a bundle's sample frames and expected outputs for trtexec and Polygraphy, with the commands that compare a file with them.

Owns the two formats:

    rgb.0.bin, gate.0.bin ...    trtexec: the elements of one tensor of one batch, little-endian, without a header. Its
                                 --loadRefOutputs reads the same form as --loadInputs (samples/common/sampleInference.cpp of
                                 TensorRT 11.1); the JSON of --exportOutput is only written
    polygraphy_inputs.json       Polygraphy: a list with one object of arrays a batch; an array is a .npy file in base64
    polygraphy_outputs.json      Polygraphy: what `RunResults.save` writes

Writes both without either tool, on a machine without a GPU.
"""

from __future__ import annotations

import base64
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefuse.bundle import MODEL_NAMES, Bundle, open_bundle
from edgefuse.contract import DEPTH_INPUT, GATE_OUTPUT, PROBABILITIES_OUTPUT, RGB_INPUT
from edgefuse.errors import UserError
from edgefuse.evaluation.compare_outputs import ENGINE_TOLERANCES
from edgefuse.io.arrays import npy_bytes
from edgefuse.io.files import folder_replaced, real_path, refuse_existing
from edgefuse.io.json_files import write_json
from edgefuse.io.text import quoted
from edgefuse_export.tensorrt.build import source_file
from edgefuse_export.tensorrt.build_options import BuildOptions

INPUTS = (RGB_INPUT, DEPTH_INPUT)
POLYGRAPHY_INPUTS, POLYGRAPHY_OUTPUTS = "polygraphy_inputs.json", "polygraphy_outputs.json"

Tensors = dict[str, NDArray[Any]]
"""Name of an input or output -> its array, [N, ...]."""


@dataclass(frozen=True, kw_only=True)
class ReferenceData:
    """What was written.

    Attributes:
        batch_size: N of every tensor. The last batch is filled up with the first frames.
        commands: what runs the file -> the command, for a shell in `folder`.
    """

    folder: Path
    batch_size: int
    num_batches: int
    commands: dict[str, str]


def write_reference(bundle_folder: Path, out: Path, options: BuildOptions) -> ReferenceData:
    """Write the stored frames and the outputs of the PyTorch model for them into the folder `out`.

    Args:
        options: `precision` chooses the file in the commands; `batch_size` is for a bundle with a dynamic batch, None = all
            frames in one batch; `force` replaces a folder that this function wrote.

    Raises:
        UserError: the bundle has no samples or no file of this precision, its batch is another one, or `out` has other files.
    """
    bundle = open_bundle(bundle_folder)
    onnx_path = source_file(bundle, MODEL_NAMES[options.precision], precision=options.precision)
    arrays: Tensors = {name: array for name, array in vars(bundle.samples()).items() if array is not None}
    num_frames = len(arrays[RGB_INPUT])
    batch_size = _batch_size(bundle, options.batch_size) or num_frames
    refuse_existing(out, force=options.force, marker=POLYGRAPHY_INPUTS, contents=(POLYGRAPHY_OUTPUTS, "*.bin"))
    frames = np.arange(-(-num_frames // batch_size) * batch_size).reshape(-1, batch_size) % num_frames
    batches = [{name: array[batch] for name, array in arrays.items()} for batch in frames]
    with folder_replaced(out) as folder:
        for index, batch in enumerate(batches):
            for name, array in batch.items():
                (folder / _raw(name, index)).write_bytes(array.astype(array.dtype.newbyteorder("<")).tobytes())
        write_json(folder / POLYGRAPHY_INPUTS, [_of_polygraphy(_inputs(batch)) for batch in batches])
        write_json(folder / POLYGRAPHY_OUTPUTS, _run_results([_outputs(batch) for batch in batches]))
    return ReferenceData(
        folder=out,
        batch_size=batch_size,
        num_batches=len(batches),
        commands=_commands(
            onnx_path,
            batches[0],
            num_batches=len(batches),
            precision=options.precision,
            is_dynamic=bundle.manifest.batch_size is None,
        ),
    )


def _batch_size(bundle: Bundle, wanted: int | None) -> int | None:
    fixed = bundle.manifest.batch_size
    if wanted is not None and fixed not in (None, wanted):
        raise UserError(
            f"{bundle.folder} takes batches of {fixed}, not of {wanted}: leave --batch out, or export again with --batch {wanted} "
            "or --batch dynamic"
        )
    return wanted if fixed is None else fixed


def _raw(name: str, index: int) -> str:
    return f"{name}.{index}.bin"


def _inputs(batch: Tensors) -> Tensors:
    return {name: batch[name] for name in INPUTS}


def _outputs(batch: Tensors) -> Tensors:
    return {name: array for name, array in batch.items() if name not in INPUTS}


def _of_polygraphy(arrays: Tensors) -> dict[str, Any]:
    """Arrays as polygraphy/json/serde.py of Polygraphy 0.53 encodes them."""
    return {
        name: {"array": base64.b64encode(npy_bytes(array)).decode(), "polygraphy_class": "ndarray"}
        for name, array in arrays.items()
    }


def _run_results(batches: list[Tensors]) -> dict[str, Any]:
    """A RunResults with the outputs of one runner, as polygraphy/comparator/struct.py of Polygraphy 0.53 encodes it."""
    runner = "PyTorch"
    iterations = [
        {
            "outputs": {
                name: {"values": array, "polygraphy_class": "LazyArray"}
                for name, array in _of_polygraphy(outputs).items()
            },
            "runtime": None,
            "runner_name": runner,
            "polygraphy_class": "IterationResult",
        }
        for outputs in batches
    ]
    return {"lst": [[runner, iterations]], "polygraphy_class": "RunResults"}


def _commands(onnx_path: Path, batch: Tensors, *, num_batches: int, precision: str, is_dynamic: bool) -> dict[str, str]:
    """The commands, for a shell in the folder: trtexec would split a path at its commas and colons."""
    model = quoted(real_path(onnx_path))
    limits = ENGINE_TOLERANCES[precision]
    of_output = {PROBABILITIES_OUTPUT: limits.probability, GATE_OUTPUT: limits.gate}
    compare = (
        f"--load-inputs {POLYGRAPHY_INPUTS} --load-outputs {POLYGRAPHY_OUTPUTS} --validate --rtol 0 --atol "
        + " ".join((str(ENGINE_TOLERANCES["fp32"].gate), *(f"{name}:{limit}" for name, limit in of_output.items())))
    )
    shapes = {name: array.shape for name, array in _inputs(batch).items()} if is_dynamic else {}
    polygraphy_shapes = [shlex.quote(f"{name}:[{','.join(map(str, shape))}]") for name, shape in shapes.items()]
    trtexec_shapes = [f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items()]
    pairs = []
    for index in range(num_batches):
        pair = f"--loadInputs={_files(_inputs(batch), index)} --loadRefOutputs={_files(_outputs(batch), index)}"
        pairs.append(f"--refPair={index} {pair}" if num_batches > 1 else pair)  # trtexec refuses --refPair for one pair
    trtexec = (
        f"trtexec --onnx={model} --stronglyTyped --noTF32"
        + (f" --shapes={','.join(trtexec_shapes)}" if shapes else "")
        + f" --accuracyAlgorithm=lInf --accuracyThreshold={max(of_output.values())}"
    )
    tensorrt = " ".join(["--trt --strongly-typed", *(["--input-shapes", *polygraphy_shapes] if shapes else [])])
    return {
        "ONNX Runtime, with Polygraphy": f"polygraphy run {model} --onnxrt {compare}",
        "TensorRT 10.12 or newer, with Polygraphy": f"polygraphy run {model} {tensorrt} {compare}",
        "TensorRT 11.1 or newer, with trtexec": " \\\n    ".join([trtexec, *pairs]),
    }


def _files(tensors: Mapping[str, object], index: int) -> str:
    return ",".join(f"{name}:{_raw(name, index)}" for name in tensors)
