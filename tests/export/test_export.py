from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from export_runs import CONTRACT, LABELS, RUN_FILES, new_model, parity_in_fp32, samples

from edgefuse.bundle import FileEntry, Manifest, open_bundle, write_manifest
from edgefuse.contract import InputContract, Outputs, codes_from_bytes
from edgefuse.degraded_mode import least_above_chance
from edgefuse.errors import UserError
from edgefuse.evaluation.compare_outputs import Tolerance, edge_cases
from edgefuse.model.choices import FUSION_KINDS
from edgefuse.model.classifier import ModelConfig, build_classifier
from edgefuse.training.loop import torch_predictor
from edgefuse.training.run import CARD_NAME, open_run, write_weights
from edgefuse_export.onnx.export import export_run
from edgefuse_export.onnx.fp16 import fp16_from_model
from edgefuse_export.onnx.parity_error import ParityError
from edgefuse_export.onnx.torch_to_onnx import onnx_from_model
from edgefuse_export.ort_reference import reference_session
from edgefuse_runtime.engines import open_engine
from edgefuse_runtime.predict import predict_framed


@pytest.fixture(scope="module")
def run(trained_run: Path) -> Path:
    return trained_run


@pytest.fixture(scope="module")
def bundle_folder(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_run(run, tmp_path_factory.mktemp("bundles") / "bundle").bundle.folder


def test_the_model_card_travels_with_the_bundle(run: Path, bundle_folder: Path) -> None:
    card = (run / CARD_NAME).read_text()
    assert card.startswith("# Model card: run\n") and (bundle_folder / CARD_NAME).read_text() == card
    (bundle_folder / CARD_NAME).write_text(card.replace("- Contact:", "- Contact: me"))
    assert CARD_NAME not in open_bundle(bundle_folder).manifest.files


@pytest.mark.parametrize("fusion", FUSION_KINDS)
def test_every_fusion_keeps_its_outputs_and_the_contracts_names(fusion: str, tmp_path: Path) -> None:
    import onnxruntime

    torch.manual_seed(0)
    model = build_classifier(ModelConfig(contract=CONTRACT, num_classes=3, fusion=fusion)).eval()  # type: ignore[arg-type]
    path = onnx_from_model(model, tmp_path / "m.onnx", contract=CONTRACT, labels=LABELS)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [(i.name, i.type, i.shape) for i in session.get_inputs()] == [
        ("rgb", "tensor(uint8)", [1, 32, 32, 3]),
        ("depth", "tensor(uint8)", [1, 32, 32, 2]),
    ]
    assert [(o.name, o.type, o.shape) for o in session.get_outputs()] == [
        ("probabilities", "tensor(float)", [1, 3]),
        ("gate", "tensor(float)", [1, 128]),
        ("nearest_m", "tensor(float)", [1, 1]),
    ]
    rgb, depth = samples(1)
    expected = torch_predictor(model)(rgb, depth)
    found = session.run(None, {"rgb": rgb, "depth": depth})
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    graph = onnx.load(str(path)).graph
    assert not {o.name for o in graph.output} & {
        i.name for i in graph.initializer
    }  # each is the output of a node, the gate too
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]  # no separate file of weights


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_probabilities_depend_on_the_nearest_surface_through_the_output_alone(precision: str, tmp_path: Path) -> None:
    """Otherwise TensorRT may fuse the minimum with what follows it."""
    model = new_model("spatial", encoding="relative")
    rgb, depth = (torch.from_numpy(array) for array in samples(1))
    more: dict[str, Any] = {}
    if precision == "fp16":
        fp16 = fp16_from_model(model, rgb_NHWC=rgb, depth_NHW2=depth)
        model, more = fp16.model, {"fp32_modules": fp16.fp32_modules}
    graph = onnx.load(str(onnx_from_model(model, tmp_path / "m.onnx", contract=CONTRACT, labels=LABELS, **more))).graph
    (reached,) = ({*node.output} for node in graph.node if node.op_type == "ReduceMin")
    through_output = {"nearest_m"}
    for node in graph.node:  # sorted topologically
        if through_output & set(node.input):
            through_output |= set(node.output)
        if (reached - {"nearest_m"}) & set(node.input):
            reached |= set(node.output)
    assert "probabilities" in through_output and "nearest_m" in reached and "probabilities" not in reached


@pytest.mark.parametrize("name", ["efficientnet_b0", "shufflenet_v2_x0_5"])
def test_any_torchvision_backbone_keeps_its_outputs_and_passes_tensorrts_list(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = ModelConfig(contract=CONTRACT, num_classes=3, fusion="spatial", rgb=name, depth=name, encoding="relative")
    model = build_classifier(config).eval()
    path = onnx_from_model(model, tmp_path / "m.onnx", contract=CONTRACT, labels=LABELS)
    rgb, depth = samples(1)
    found = reference_session(path).run(None, {"rgb": rgb, "depth": depth})
    for a, b in zip(torch_predictor(model)(rgb, depth), found, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_the_manifest_has_the_degraded_mode_and_its_reason(run: Path, bundle_folder: Path) -> None:
    measured = json.loads((run / "metrics.json").read_text())["validation"]
    accuracies = {name: scores["accuracy"] for name, scores in measured.items()}
    degraded_mode = open_bundle(bundle_folder).manifest.degraded_mode
    num_pairs = measured["both"]["num_samples"]
    chance = max(map(sum, measured["both"]["confusion"])) / num_pairs
    assert degraded_mode.measured == {"part": "validation", "num_pairs": num_pairs, "chance": chance, **accuracies}
    for name in ("no_rgb", "no_depth"):
        least = max(0.9 * accuracies["both"], least_above_chance(chance, num_pairs=num_pairs))
        keeps = accuracies[name] >= least - 1e-9
        assert getattr(degraded_mode, name) == ("predict" if keeps else "abstain")


def test_the_manifest_has_the_calibration_of_the_temperature(run: Path, bundle_folder: Path) -> None:
    told = open_bundle(bundle_folder).manifest.training["calibration"]
    assert told == json.loads((run / "metrics.json").read_text())["calibration"]
    assert {"before", "after", "no_rgb", "no_depth"} == set(told["validation"]) and told["temperature"] > 0


def test_a_run_without_metrics_abstains_without_a_sensor(run: Path, tmp_path: Path) -> None:
    copy = copy_bundle(run, tmp_path / "run", names=("run.json", "model.safetensors", "samples.npz"))
    degraded_mode = export_run(copy, tmp_path / "bundle").bundle.manifest.degraded_mode
    assert (degraded_mode.no_rgb, degraded_mode.no_depth, degraded_mode.measured) == ("abstain", "abstain", {})
    assert "calibration" not in open_bundle(tmp_path / "bundle").manifest.training
    (copy / "metrics.json").write_text("{")
    with pytest.raises(UserError, match="metrics.json.* is not valid JSON"):
        export_run(copy, tmp_path / "other")


@pytest.mark.parametrize("temperature", [0.2, 4.0])
def test_the_temperature_is_part_of_the_graph(temperature: float, run: Path, tmp_path: Path) -> None:
    copy = copy_bundle(run, tmp_path / "run", names=RUN_FILES)
    description = json.loads((copy / "run.json").read_text())
    description["model"]["temperature"] = temperature
    del description["sha256"]
    (copy / "run.json").write_text(json.dumps(description))
    summary = export_run(copy, tmp_path / "bundle")
    assert (
        summary.bundle.manifest.model["temperature"] == temperature and not summary.reports["model.onnx"][0].failures()
    )
    rgb, depth = open_run(run).samples()
    model = open_run(run).build_model()
    with torch.inference_mode():
        logits, *_ = model(torch.from_numpy(rgb), torch.from_numpy(depth))
    with open_engine(summary.bundle) as engine:
        found = predict_framed(engine, rgb, depth).probabilities
    np.testing.assert_allclose(found, torch.softmax(logits / temperature, dim=1).numpy(), atol=1e-4)
    np.testing.assert_array_equal(found.argmax(axis=1), logits.numpy().argmax(axis=1))


def test_bytes_are_cast_before_anything_else(bundle_folder: Path) -> None:
    """TensorRT supports UINT8 only as the input of a Cast."""
    graph = onnx.load(str(bundle_folder / "model.onnx")).graph
    first = {node.op_type for node in graph.node if set(node.input) & {"rgb", "depth"}}
    assert first == {"Cast"}


def test_the_file_has_its_contract_without_its_bundle(bundle_folder: Path) -> None:
    properties = {p.key: p.value for p in onnx.load(str(bundle_folder / "model.onnx")).metadata_props}
    assert json.loads(properties["edgefuse.labels"]) == ["blue_near", "red_far", "red_near"]
    assert InputContract.from_json(json.loads(properties["edgefuse.contract"])) == CONTRACT
    assert len(json.loads(properties["edgefuse.framing"])["sha256"]) == 64


def test_files_have_no_paths_of_the_machine_that_exported_them(bundle_folder: Path) -> None:
    content = (bundle_folder / "model.onnx").read_bytes()
    assert b"core" in content and str(Path.cwd()).encode() not in content and b"site-packages" not in content


def test_the_manifest_has_the_comparisons(bundle_folder: Path, run: Path) -> None:
    manifest = open_bundle(bundle_folder).manifest
    cases = manifest.parity["model.onnx"]["cases"]
    names = {case["name"] for case in cases}
    assert {"real samples", "no depth", "depth at its maximum", "black RGB", "white RGB", "depth codes 65535"} <= names
    assert all(case["max_probability_difference"] <= 1e-4 and case["top1_flips"] == 0 for case in cases)
    assert manifest.training["data"]["digest"] == open_run(run).info["data"]["digest"]
    assert manifest.files["model.onnx"].precision == "fp32" and {"torch", "onnx"} <= set(manifest.versions)


def test_over_tolerance_there_is_no_bundle(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ParityError, match="no bundle was written"):
        export_run(run, tmp_path / "b", tolerances={"fp32": Tolerance(probability=-1.0, gate=1.0)})
    assert list(tmp_path.iterdir()) == []


def test_parity_finds_a_model_that_differs() -> None:
    torch.manual_seed(0)
    models = [build_classifier(ModelConfig(contract=CONTRACT, num_classes=3, num_features=16)).eval() for _ in range(2)]
    same, other = (parity_in_fp32(torch_predictor(models[0]), torch_predictor(model), n=6) for model in models)
    assert same.failures() == []
    assert any("real samples: probabilities differ" in failure for failure in other.failures())


def test_parity_finds_nan() -> None:
    def reference(rgb: np.ndarray, depth: np.ndarray) -> Outputs:
        return Outputs(np.full((len(rgb), 2), 0.5, np.float32), np.zeros((len(rgb), 3), np.float32))

    def candidate(rgb: np.ndarray, depth: np.ndarray) -> Outputs:
        found = reference(rgb, depth)
        is_bad = not codes_from_bytes(depth).any()  # fails on these edge cases only
        return found._replace(probabilities=found.probabilities * (np.nan if is_bad else 1))

    report = parity_in_fp32(reference, candidate)
    failing = {failure.split(":")[0] for failure in report.failures()}
    assert failing == {"no depth", "both sensors missing", "all together"}


def test_edge_cases_match_their_names() -> None:
    rgb, depth = samples(1)
    cases = edge_cases(rgb, depth, contract=CONTRACT)
    assert not cases["no depth"][1].any() and (codes_from_bytes(cases["depth codes 65535"][1]) == 65535).all()
    assert (codes_from_bytes(cases["depth at its maximum"][1]) == 2000).all()
    codes = {name: codes_from_bytes(pair[1])[0] for name, pair in cases.items()}
    assert (codes["all depth equal"] == 1100).all()
    (row, column), (rows, columns) = np.argwhere(codes["one valid pixel"])[0], np.nonzero(codes["one valid row"])
    assert np.count_nonzero(codes["one valid pixel"]) == 1 and codes["one valid pixel"][row, column] == 1100
    assert set(rows) == {16} and len(columns) == 32
    alternating = codes["alternating 0, 65535"]
    assert set(alternating[0]) == {0, 65535} and (alternating[1:] != alternating[:-1]).all()
    assert (alternating[:, 1:] != alternating[:, :-1]).all()
    assert not cases["black RGB"][0].any() and (cases["white RGB"][0] == 255).all()
    np.testing.assert_array_equal(cases["no depth"][0], rgb)
    np.testing.assert_array_equal(cases["white RGB"][1], depth)


def test_a_bundle_replaces_another_only_when_forced(run: Path, bundle_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--force"):
        export_run(run, bundle_folder)
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match="did not make it"):
        export_run(run, tmp_path, force=True)
    before = (bundle_folder / "model.onnx").stat().st_mtime_ns
    export_run(run, bundle_folder, force=True)
    assert (bundle_folder / "model.onnx").stat().st_mtime_ns > before


def test_an_exported_bundle_runs(bundle_folder: Path, run: Path) -> None:
    rgb, depth = open_run(run).samples()
    with open_engine(open_bundle(bundle_folder)) as engine:
        found = predict_framed(engine, rgb, depth)
    expected = torch_predictor(open_run(run).build_model())(rgb, depth)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    assert expected.nearest_m is not None and np.ptp(expected.nearest_m) > 0.01


def copy_bundle(source: Path, target: Path, *, names: tuple[str, ...] = ("manifest.json", "model.onnx")) -> Path:
    target.mkdir()
    for name in names:
        (target / name).write_bytes((source / name).read_bytes())
    return target


def test_the_bundle_has_16_frames_and_their_outputs(bundle_folder: Path, run: Path) -> None:
    bundle = open_bundle(bundle_folder)
    assert bundle.manifest.files["samples.npz"].precision == "data"
    found = bundle.samples()
    shapes = {name: (value.dtype.name, value.shape) for name, value in vars(found).items()}
    assert shapes == {
        "rgb": ("uint8", (16, 32, 32, 3)),
        "depth": ("uint8", (16, 32, 32, 2)),
        "probabilities": ("float32", (16, 3)),
        "gate": ("float32", (16, 1)),
        "nearest_m": ("float32", (16, 1)),
    }
    rgb, depth = open_run(run).samples()
    np.testing.assert_array_equal(found.rgb[: len(rgb)], rgb)
    np.testing.assert_array_equal(found.depth[: len(depth)], depth)
    expected = torch_predictor(open_run(run).build_model())(found.rgb, found.depth)
    np.testing.assert_array_equal(found.probabilities, expected[0])
    np.testing.assert_array_equal(found.gate, expected[1])
    np.testing.assert_array_equal(found.nearest_m, expected[2])


def test_samples_that_are_damaged_or_absent_are_refused(bundle_folder: Path, tmp_path: Path) -> None:
    folder = copy_bundle(bundle_folder, tmp_path / "b", names=("manifest.json", "model.onnx", "samples.npz"))
    (folder / "samples.npz").write_bytes(b"PK" + (folder / "samples.npz").read_bytes()[2:-1])
    with pytest.raises(UserError, match="not the file that was exported"):
        open_bundle(folder).samples()
    manifest = open_bundle(folder).manifest
    write_manifest(folder, replace(manifest, files={"model.onnx": manifest.files["model.onnx"]}))
    with pytest.raises(UserError, match=r"has no samples.npz: export the run again"):
        open_bundle(folder).samples()


def test_a_flipped_byte_is_found(bundle_folder: Path, tmp_path: Path) -> None:
    folder = copy_bundle(bundle_folder, tmp_path / "b")
    data = bytearray((folder / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "model.onnx").write_bytes(data)
    with pytest.raises(UserError, match="not the file that was exported"), open_engine(open_bundle(folder)):
        pass


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"format": 2}, "install a newer edgefuse"),
        ({"format": 0}, "export the run again"),
        ({"framing": {"sha256": "0" * 64}}, "another method of cropping"),
        ({"labels": None}, "labels = None, a list was expected"),
        ({"contract": {"size": 32}}, "lacks the field"),
        ({"files": {}}, "has no file 'model.onnx'"),
    ],
)
def test_incompatible_bundles_are_refused(
    change: dict[str, object], word: str, bundle_folder: Path, tmp_path: Path
) -> None:
    folder = copy_bundle(bundle_folder, tmp_path / "b")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, **change}))
    with pytest.raises(UserError, match=word):
        open_bundle(folder).file()


def test_a_manifest_with_another_input_size_is_refused(bundle_folder: Path, tmp_path: Path) -> None:
    folder = copy_bundle(bundle_folder, tmp_path / "b")
    manifest = open_bundle(folder).manifest
    write_manifest(folder, replace(manifest, contract=InputContract(size=64)))
    with (
        pytest.raises(UserError, match="differ in contract"),
        open_engine(open_bundle(folder)),
    ):
        pass


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"labels": ("red_near", "red_far", "blue_near")}, "differ in labels"),
        ({"contract": InputContract(size=32, far_m=9.0)}, "differ in contract"),
    ],
)
def test_a_manifest_that_was_changed_after_the_export_is_refused(
    change: dict[str, object], word: str, bundle_folder: Path, tmp_path: Path
) -> None:
    folder = copy_bundle(bundle_folder, tmp_path / "b")
    write_manifest(folder, replace(open_bundle(folder).manifest, **change))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=word), open_engine(open_bundle(folder)):
        pass


def test_a_folder_that_is_not_a_bundle_is_reported(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="it looks like a run: edgefuse export"):
        open_bundle(run)
    with pytest.raises(UserError, match="not a bundle"):
        open_bundle(tmp_path / "absent")


def test_the_manifest_survives_json(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"123")
    manifest = Manifest(
        labels=("a", "b"),
        contract=CONTRACT,
        model={"fusion": "gated"},
        files={"f": FileEntry.of(tmp_path / "f", precision="fp32")},
        parity={"f": {"cases": []}},
    )
    assert Manifest.from_json(json.loads(json.dumps(manifest.to_json()))) == manifest


def test_a_run_without_weights_is_named(run: Path, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes((run / "run.json").read_bytes())
    with pytest.raises(UserError, match="model.safetensors is missing"):
        export_run(tmp_path, tmp_path / "b")
    write_weights(tmp_path, open_run(run).build_model())
    with pytest.raises(UserError, match="samples.npz is missing"):
        export_run(tmp_path, tmp_path / "b")
