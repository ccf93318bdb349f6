"""Files, JSON, images, arrays and names each have one module (`edgefuse.io`); nothing bypasses it.

Like import-linter's contracts, for calls: each rule names calls that only its own module may make.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from edgefuse.app.main import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("edgefuse", "export", "runtime", "benchmarks")

IO = "edgefuse/io"
RULES: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "images are read and written by edgefuse.io.images": (
        frozenset({"cv2.imread", "cv2.imdecode", "cv2.imwrite", "cv2.imencode", "Image.open"}),
        frozenset({f"{IO}/images.py"}),
    ),
    "JSON is read and written by edgefuse.io.json_files": (
        frozenset({"json.load", "json.loads", "json.dump", "json.dumps"}),
        frozenset(
            {
                f"{IO}/json_files.py",
                "edgefuse/framing.py",  # a digest of a constant
                "export/edgefuse_export/tensorrt/operator_list.py",  # a file of the package
                "export/edgefuse_export/tensorrt/inspect_engine.py",  # the inspector's output, in memory
                "benchmarks/edgefuse_benchmarks/suites/cold_process.py",  # between two processes of the project
                "benchmarks/edgefuse_benchmarks/suites/cold_start.py",
            }
        ),
    ),
    "arrays are read and written by edgefuse.io.arrays": (
        frozenset(
            {"np.load", "np.save", "np.savez", "np.savez_compressed", "np.loadtxt", "np.genfromtxt", "np.fromfile"}
        ),
        frozenset({f"{IO}/arrays.py"}),
    ),
    "files and folders are replaced by edgefuse.io.files": (
        frozenset({"tempfile.mkstemp", "tempfile.mkdtemp", "os.replace", "os.rename", "shutil.move", ".rename"}),
        frozenset({f"{IO}/files.py", f"{IO}/new_files.py", f"{IO}/moves.py", f"{IO}/log_file.py"}),
    ),
    "data sets are walked by edgefuse.data.tree": (
        frozenset({"os.walk", "os.scandir", ".rglob"}),
        frozenset({"edgefuse/data/tree.py", f"{IO}/files.py"}),  # files that it flushes to the disk
    ),
    "text for people is written by edgefuse.io.text": (
        frozenset({"Console", "print", ".write_text"}),
        frozenset(
            {
                f"{IO}/text.py",
                f"{IO}/json_files.py",
                "benchmarks/edgefuse_benchmarks/suites/cold_process.py",  # JSON for another process
                "benchmarks/edgefuse_benchmarks/gpu_report.py",  # a separate script, not the command line
                "benchmarks/edgefuse_benchmarks/gpu_core.py",
                "benchmarks/edgefuse_benchmarks/suites/precision.py",
                "benchmarks/edgefuse_benchmarks/suites/events.py",
                "benchmarks/edgefuse_benchmarks/paper/seed_summary.py",
            }
        ),
    ),
    "versions are collected by edgefuse.io.environment": (
        frozenset(
            {"metadata.version", "importlib.metadata.version", "metadata.distribution", "metadata.distributions"}
        ),
        frozenset({f"{IO}/environment.py"}),
    ),
}


def _calls(source: str) -> set[str]:
    """The calls in a file, as dotted names; a method of any object also as ".name"."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            found.add(name)
            if isinstance(node.func, ast.Attribute):
                found.add("." + node.func.attr)
    return found


def _broken(rule: str) -> list[str]:
    names, allowed = RULES[rule]
    paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    return [
        f"{path.relative_to(ROOT)} calls {name}"
        for path in paths
        if path.relative_to(ROOT).as_posix() not in allowed
        for name in sorted(_calls(path.read_text(encoding="utf-8")) & names)
    ]


@pytest.mark.parametrize("rule", RULES)
def test_nothing_bypasses_the_one_module(rule: str) -> None:
    assert _broken(rule) == []


@pytest.mark.parametrize("rule", RULES)
def test_every_exception_is_needed(rule: str) -> None:
    names, allowed = RULES[rule]
    for path in allowed:
        assert _calls((ROOT / path).read_text(encoding="utf-8")) & names, f"{path} makes none of the calls of the rule"


@pytest.mark.parametrize(
    ("source", "name"), [("cv2.imread('x')", "cv2.imread"), ("a.b.rename(c)", ".rename"), ("print(1)", "print")]
)
def test_a_call_is_found(source: str, name: str) -> None:
    assert name in _calls(source)


NOT_ENGINES = {"asyncio", "subprocess", "job", "server"}
RUNS: dict[str, str] = {
    "runtime/edgefuse_runtime/predict.py": "the one path from a frame to a prediction",
    "runtime/edgefuse_runtime/engines/auto_engine.py": "an engine, by another",
    "benchmarks/edgefuse_benchmarks/suites/soak_faults.py": "an engine that fails on request",
    "runtime/edgefuse_runtime/engines/adaptive.py": "an engine of two files",
    "runtime/edgefuse_runtime/engines/graph.py": "one of these files",
    "runtime/edgefuse_runtime/engines/onnxruntime.py": "an engine",
    "runtime/edgefuse_runtime/engines/openvino.py": "an engine",
    "runtime/edgefuse_runtime/engines/openvino_parity.py": "the reference of another engine",
    "runtime/edgefuse_runtime/engines/tensorrt.py": "an engine",
    "export/edgefuse_export/tensorrt/verify_engine.py": "each place of a new engine's batch",
    "export/edgefuse_export/tensorrt/first_difference.py": "an engine that shows every tensor",
    "export/edgefuse_export/tensorrt/int8_timing.py": "the time of two engines",
    "export/edgefuse_export/ort_reference.py": "a session without the optimiser, to compare with",
    "export/edgefuse_export/onnx/activation_statistics.py": "a session that shows every tensor",
    "export/edgefuse_export/onnx/int8_search.py": "parts of a file, which are no bundles",
    "benchmarks/edgefuse_benchmarks/adaptive/curve.py": "the time of the engine alone",
    "benchmarks/edgefuse_benchmarks/suites/engine.py": "the time of the engine alone",
    "benchmarks/edgefuse_benchmarks/suites/live_reference.py": "the time without the live loop",
    "benchmarks/edgefuse_benchmarks/suites/usual_loop.py": "a loop without edgefuse, to compare with",
    "benchmarks/edgefuse_benchmarks/suites/core_variants.py": "files of the fusion core, which are no bundles",
}
"""Files that use `run` of an engine or of an ONNX Runtime session, and the reason."""


def _runs(source: str) -> set[str]:
    """Every call of a method `run`, and every engine's `run` that is passed on; not those of processes and jobs."""
    nodes = list(ast.walk(ast.parse(source)))
    called = [node.func for node in nodes if isinstance(node, ast.Call)]
    runs = [node for node in nodes if isinstance(node, ast.Attribute) and node.attr == "run"]
    found = {ast.unparse(node) for node in runs if node in called or "engine" in ast.unparse(node.value)}
    return found - {f"{name}.run" for name in NOT_ENGINES}


def test_the_classifier_is_the_only_path_from_a_frame_to_a_prediction() -> None:
    found = {
        path.relative_to(ROOT).as_posix()
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
        if _runs(path.read_text(encoding="utf-8"))
    }
    assert found == set(RUNS)


def test_a_run_is_found_on_any_object() -> None:
    source = (
        "subprocess.run(a); it.run(a, b); time(my_engine.run); self._opened.engine.run(**c); self.run.folder; run(b)"
    )
    assert _runs(source) == {"it.run", "my_engine.run", "self._opened.engine.run"}


OTHER_CALLBACKS = {"say", "on_progress", "listener"}
"""Parameters of older versions: messages go through `logging`, progress through `edgefuse.progress`."""

SPEAKS = re.compile(
    r"edgefuse/console/|edgefuse/app/main\.py|benchmarks/edgefuse_benchmarks/console\.py"
    r"|.*/(commands|\w+_command)\.py"
    r"|edgefuse/io/text\.py"
    r"|benchmarks/edgefuse_benchmarks/(suites/cold_process|suites/events|suites/precision|gpu_report|gpu_core|paper/seed_summary)\.py"  # scripts
)
"""Modules that may print: the console and the commands."""


def _speaking(path: str, source: str) -> list[str]:
    """Parameters and calls with which a library module would print."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.arg) and node.arg in OTHER_CALLBACKS:
            found.append(f"{path} has a parameter {node.arg}")
        elif isinstance(node, ast.Call) and not SPEAKS.match(path):
            name = ast.unparse(node.func)
            if name in ("print", "say", "typer.echo", "sys.stdout.write", "sys.stderr.write"):
                found.append(f"{path} calls {name}")
    return found


def test_the_library_logs_and_reports_progress_in_one_way() -> None:
    sources = {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
    }
    assert [text for path, source in sources.items() for text in _speaking(path, source)] == []


@pytest.mark.parametrize(
    ("path", "source", "found"),
    [
        ("edgefuse/data/check.py", "def f(*, say): say('x')", ["a parameter say", "calls say"]),
        ("edgefuse/data/check.py", "f = lambda on_progress: print(1)", ["a parameter on_progress", "calls print"]),
        ("edgefuse/data/commands.py", "say('done')", []),
    ],
)
def test_speaking_is_found(path: str, source: str, found: list[str]) -> None:
    seen = _speaking(path, source)
    assert len(seen) == len(found) and all(any(text.endswith(words) for text in seen) for words in found)


def test_messages_name_no_command_by_its_old_name() -> None:
    old = [f"edgefuse {entry.name}" for entry in COMMANDS if entry.hidden]
    files = [
        path
        for folder in (*FOLDERS, "docs", "examples")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".md")
    ]
    found = [f"{path.relative_to(ROOT)}: {name}" for path in files for name in old if name in path.read_text("utf-8")]
    assert old and found == []


COMMAND = re.compile(
    r"\b(edgefuse (record|train|evaluate|explain|crossval|reproduce|export|build|lint-onnx|live|demo|data [a-z]+)( .*--(out|camera|roi))?|cp|mv|rm|chmod \S+|chown -R \S+) $"
)
"""A message up to the path in its command."""


def _bare_paths(source: str) -> list[str]:
    """Values after such a text in an f-string that are not quoted for a shell."""
    found = []
    for node in ast.walk(ast.parse(source)):
        text = ""
        for value in node.values if isinstance(node, ast.JoinedStr) else []:
            if isinstance(value, ast.Constant):
                text += str(value.value)
            elif isinstance(value, ast.FormattedValue):
                word = ast.unparse(value.value)
                if COMMAND.search(text) and "quoted" not in word:
                    found.append(word)
                text += "PATH"
    return found


def test_paths_in_commands_are_quoted_for_the_shell() -> None:
    bare = {
        path.relative_to(ROOT).as_posix(): found
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
        if (found := _bare_paths(path.read_text(encoding="utf-8")))
    }
    bare.pop("edgefuse/app/demo.py", None)  # the name of a step
    assert bare == {}


def test_a_bare_path_is_found() -> None:
    source = 'f"next: edgefuse data check {a}, or edgefuse train {quoted(b)} --out {c}, {d}"'
    assert _bare_paths(source) == ["a", "c"]
