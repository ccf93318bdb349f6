"""lint-onnx with NVIDIA's real parser, that of TensorRT-RTX: its verdicts, and the operator list compared with it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import helper
from onnx_cases import FORMS, all_cases
from test_lint import CAST, FLOAT, RELU, UINT16, graph, node

from edgefuse.errors import MissingPackageError, UserError
from edgefuse_export.onnx.export import ExportSummary, export_run
from edgefuse_export.tensorrt.lint import NotReadyError, Readiness, check_file, check_model, refuse_unready
from edgefuse_export.tensorrt.operator_list import supported
from edgefuse_export.tensorrt.parse import NO_OPERATOR, ask_parser, verdict
from edgefuse_runtime.engines.tensorrt_library import RTX, Library, load_library
from fetching import cannot

WITHOUT_CASE = {"Attention", "Constant", "ImageScaler", "ParametricSoftplus", "RotaryEmbedding", "STFT"} | {
    "ScaledTanh",
    "Scan",
    "Scatter",
    "TensorScatter",
}
"""Operators of the list that no case asks for; the list has what the parser's documentation says."""


@pytest.fixture(scope="module")
def library() -> Library:
    try:
        return load_library(RTX)
    except MissingPackageError as error:
        return cannot(str(error))


def save(model: Any, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def lint(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from edgefuse.app.main import main; main()", "lint-onnx", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_list_agrees_with_the_parser(library: Library, tmp_path: Path) -> None:
    """The cases are ones that the parser does not crash on, so they are asked for in this process."""
    answers, different = set(), []
    for name, type_name, model in all_cases():
        found = verdict(library, save(model, tmp_path / "m.onnx"))
        listed = check_model(model).refusals
        answers.add((name, type_name, not found.refusals))
        if bool(found.refusals) != bool(listed) and name not in supported()["not_in_rtx"]:
            different.append(f"{name} {type_name}: parser {found.refusals}, list {listed}")
    assert not different, "\n".join(different)
    accepted = {(name, type_name) for name, type_name, accepts in answers if accepts}
    assert len(answers) > 1300 and 600 < len(accepted) < len(answers) - 400
    assert {("Conv", "FP16"), ("Loop, Relu", "FP32"), ("Cast", "UINT8")} <= accepted
    assert not {("Transpose", "UINT8"), ("Det", "FP32"), ("Loop, Det", "FP32"), ("Identity", "STRING")} & accepted
    cases = {name.partition(",")[0] for name, *_ in answers}
    assert set(supported()["operators"]) - cases == WITHOUT_CASE and set(FORMS) <= set(supported()["operators"])


def test_what_only_tensorrt_has_is_refused_by_tensorrt_rtx_for_that_reason(library: Library, tmp_path: Path) -> None:
    cases = {name: model for name, type_name, model in all_cases() if type_name == "FP32"}
    assert set(supported()["not_in_rtx"]) == {"NonZero", "RoiAlign"}
    for operator in supported()["not_in_rtx"]:
        (refusal,) = verdict(library, save(cases[operator], tmp_path / "m.onnx")).refusals
        assert "plugin" in refusal.reason and not check_model(cases[operator]).refusals
        (problem,) = check_file(tmp_path / "m.onnx").refusals
        assert problem.what.count("TensorRT itself has a plugin for it") == 1


def test_all_errors_have_node_operator_and_reason(library: Library, tmp_path: Path) -> None:
    model = graph(
        CAST,
        node("Det", "f", "d"),
        node("Unique", "f", "u"),
        node("BitShift", "x x", "b", direction="LEFT"),
        node("Relu", "f", "out"),
        shape=(4, 4),
        output=("out", FLOAT, (4, 4)),
    )
    found = check_file(save(model, tmp_path / "m.onnx"))
    assert found.verdict is not None and found.verdict.parser == library.title
    assert [(one.operator, one.node) for one in found.verdict.refusals] == [
        ("Det", "the_det"),
        ("Unique", "the_unique"),
        ("BitShift", "the_bitshift"),
    ]
    assert {one.reason for one in found.verdict.refusals} == {NO_OPERATOR}
    with pytest.raises(NotReadyError, match=rf"m.onnx \(the ONNX parser of {library.title}\)(.|\n)*the_unique"):
        refuse_unready(found, what="m.onnx")


def test_operators_after_an_error_that_ends_the_parse_are_named_too(library: Library, tmp_path: Path) -> None:
    nodes = (node("Transpose", "x", "t"), node("Cast", "t", "f", to=FLOAT), node("Det", "f", "out"))
    found = check_file(save(graph(*nodes, shape=(4, 4), output=("out", FLOAT, ())), tmp_path / "m.onnx"))
    transpose, det = found.refusals
    assert transpose.where == "Transpose the_transpose" and "first input has type UInt8" in transpose.what
    assert "Cuda" not in transpose.what  # there may be no GPU, which is no fault of the file
    assert det.where == "Det the_det" and NO_OPERATOR in det.what


def test_a_type_that_the_library_lacks_is_named(library: Library, tmp_path: Path) -> None:
    found = check_file(save(graph(CAST, RELU, taken=UINT16), tmp_path / "m.onnx"))
    assert "UINT16" in found.refusals[0].what and found.refusals[0].where == "the file"
    assert [problem.rule for problem in found.broken_rules] == ["hot path"]


def test_a_crash_of_the_parser_is_a_refusal(library: Library, tmp_path: Path) -> None:
    model = graph(CAST, RELU)
    model.graph.node.append(helper.make_node("Add", ["f", "f"], []))  # a node without outputs
    found = check_file(save(model, tmp_path / "m.onnx"))
    assert found.refusals[0].what == "the parser crashed (SIGSEGV) (CRASH)" and library.title in found.against


def test_a_process_that_does_not_start_in_time_is_reported(library: Library, tmp_path: Path) -> None:
    found = ask_parser(save(graph(CAST, RELU), tmp_path / "m.onnx"), timeout_s=0.001)
    assert found == "the process of the parser failed: did not answer within 0.001 s"


def corrupted(content: bytes) -> Sequence[bytes]:
    return [content[: len(content) // 2], content[:-1], content[:10], content.replace(b"Relu", b"Rel\xff")]


def test_damaged_files_never_end_the_command_with_a_traceback(library: Library, tmp_path: Path) -> None:
    whole = graph(CAST, RELU).SerializeToString()
    for content in (*corrupted(whole), b"text\n" * 100, bytes(1000)):
        path = tmp_path / "m.onnx"
        path.write_bytes(content)
        try:
            assert check_file(path).problems
        except UserError as error:
            assert "not an ONNX file" in str(error)


def test_the_command_shows_whose_verdict_is_whose(library: Library, tmp_path: Path) -> None:
    good = save(graph(CAST, RELU), tmp_path / "good.onnx")
    bad = save(graph(node("Transpose", "x", "t"), RELU), tmp_path / "bad.onnx")
    rule = save(graph(CAST, node("Mish", "f", "out")), tmp_path / "rule.onnx")
    result = lint(good, bad, rule)
    assert result.returncode == 1
    lines = result.stdout.splitlines()
    assert lines[:3] == [
        f"{good}: accepted by the ONNX parser of {library.title}; nothing was built",
        "  edgefuse's own rules: no problem",
        "  ready",
    ]
    assert lines[3].startswith(f"{bad}: refused by the ONNX parser of {library.title}")
    assert lines[4].startswith("  parser: Transpose the_transpose: ")
    assert (
        f"{rule}: accepted by" in result.stdout and "    older parser: Mish the_mish: only the newest" in result.stdout
    )
    assert lines[-1] == "  not ready"


def test_the_json_has_the_parser(library: Library, tmp_path: Path) -> None:
    path = save(graph(CAST, RELU, shape=("N", 4), output=("out", FLOAT, ("N", 4))), tmp_path / "m.onnx")
    result = lint(path, "--json")
    found = json.loads(result.stdout)[str(path)]
    assert result.returncode == 0 and found["ready"] is True and found["static"] is False
    assert found["parser"] == {"library": library.title, "accepts": True, "refusals": []}
    assert found["against"] == f"the ONNX parser of {library.title}"
    result = lint(path)
    assert result.returncode == 0 and "ready, once its batch is fixed" in result.stdout


def test_every_file_of_an_export_was_accepted_by_the_parser(library: Library, all_precisions: ExportSummary) -> None:
    parity = all_precisions.bundle.manifest.parity
    assert len(parity) == 3
    for entry in parity.values():
        assert entry["tensorrt"]["parser"] == {"library": library.title, "accepts": True, "refusals": []}


def test_an_export_is_refused_if_the_parser_refuses_a_file(
    library: Library, trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_planted_operator(path: Path) -> Readiness:
        model = onnx.load(str(path))
        model.graph.node.append(node("Det", model.graph.node[-1].output[0], "planted"))
        return check_file(save(model, tmp_path / "planted.onnx"))

    monkeypatch.setattr("edgefuse_export.onnx.export.check_file", with_planted_operator)
    with pytest.raises(NotReadyError, match=rf"model.onnx \(the ONNX parser of {library.title}\)(.|\n)*the_det"):
        export_run(trained_run, tmp_path / "bundle", precisions=("fp32",))
    assert not (tmp_path / "bundle").exists()


def test_without_a_parser_the_list_is_used_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders without an __init__ hide the libraries from the process of the parser."""
    for product in ("tensorrt", "tensorrt_rtx"):
        (tmp_path / "hidden" / product).mkdir(parents=True)
        (tmp_path / "hidden" / product / "__init__.py").write_text("raise ModuleNotFoundError(name=__name__)\n")
    monkeypatch.syspath_prepend(str(tmp_path / "hidden"))
    path = tmp_path / "m.onnx"
    onnx.save(graph(CAST, node("Det", "f", "out"), shape=(4, 4), output=("out", FLOAT, ())), str(path))
    found = check_file(path)
    assert found.verdict is None and found.to_json()["parser"] is None
    assert [problem.rule for problem in found.refusals] == ["operator"]
    for words in ("operator lists of TensorRT 9.2 and 10.15", "no parser was run", "'edgefuse[rtx]'"):
        assert words in found.against
