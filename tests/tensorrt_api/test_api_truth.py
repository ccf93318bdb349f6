"""Every name of TensorRT that the project uses exists in the real bindings 10.3, 10.16 and 11.4, with the arguments it is given.

This proves names and signatures. It proves nothing about behaviour: no TensorRT library runs here, and "API-checked" means
no more than this test.

The names come from the project's own source. A file counts when it imports tensorrt in any way (`require("tensorrt", ...)`
and `if TYPE_CHECKING` included) or calls something `trt`. In such a file every attribute, call, assignment, base class and
index is followed: from the module through annotations, assignments and the return types in the docstrings of the bindings.
What cannot be followed fails, so the source keeps to this:

1. What holds the module is called `trt`: a variable, a parameter (`trt: ModuleType`), or an attribute.
2. Parameters, attributes and return values that are TensorRT's are annotated so (`engine: trt.ICudaEngine`), with
   `if TYPE_CHECKING: import tensorrt as trt`. An attribute of anything declared Any fails. Local variables need nothing.
3. What not every version has stands behind `getattr(trt.BuilderFlag, "FP16", None)` or `if hasattr(trt.BuilderFlag, "FP16")`,
   with the name written there; then one version must have it, and the branch is checked in the versions that do.
4. A class derived from TensorRT's overrides what the base has, all of it where the base is an interface (I...), with its
   argument names, and calls the base's `__init__`. Helpers start with an underscore.

Other libraries (pycuda, cuda-bindings, numpy) are not looked at.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
from bindings import FOLDERS, ROOT, ROOTS, pins
from signatures import Api
from truth import check, problems_over, trt_modules

# The snippets' head: what every TensorRT module of the project begins with.
HEAD = """
from __future__ import annotations
from types import ModuleType
from typing import TYPE_CHECKING, Any
from edgefuse.errors import require
if TYPE_CHECKING:
    import tensorrt as trt
"""


def problems_of(source: str, apis: dict[str, Api]) -> list[str]:
    return problems_over({"snippet": ("snippet.py", HEAD + textwrap.dedent(source))}, apis, ROOTS)


def test_every_name_of_tensorrt_is_real(apis: dict[str, Api]) -> None:
    files = trt_modules(ROOT, FOLDERS)
    problems = problems_over(files, apis, ROOTS)
    assert not problems, "\n".join(problems)


def test_the_modules_of_tensorrt_are_found(apis: dict[str, Api]) -> None:
    files = trt_modules(ROOT, FOLDERS)
    expected = {
        "edgefuse_export.tensorrt.plan_from_onnx": ROOT / "export/edgefuse_export/tensorrt/plan_from_onnx.py",
        "edgefuse_runtime.engines.tensorrt": ROOT / "runtime/edgefuse_runtime/engines/tensorrt.py",
    }
    there = {name for name, path in expected.items() if path.is_file()}
    assert there <= set(files)
    for api in apis.values():
        for name in there:
            assert check({name: files[name]}, api, ROOTS).num_asked > 20, f"{name} was not followed"


def test_the_bindings_are_the_pinned_ones(apis: dict[str, Api]) -> None:
    assert list(apis) == list(pins())
    assert [version.split(".")[:2] for version in apis] == [["10", "3"], ["10", "16"], ["11", "4"]]
    flags = {version: set(api.enum("BuilderFlag")) for version, api in apis.items()}
    assert "FP16" in flags["10.3.0"]
    assert "FP16" not in list(flags.values())[-1]


BUILD = """
    def build(path: str) -> bytes | None:
        trt = require("tensorrt", extra="tensorrt")
        logger = trt.Logger(trt.Logger.WARNING)
        builder = trt.Builder(logger)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, logger)
        if not parser.parse_from_file(path):
            raise ValueError([parser.get_error(i).desc() for i in range(parser.num_errors)])
        config = builder.create_builder_config()
        config.set_memory_pool_limit(pool=trt.MemoryPoolType.WORKSPACE, pool_size=1 << 30)
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        profile = builder.create_optimization_profile()
        profile.set_shape("rgb", min=(1, 2), opt=(1, 2), max=(1, 2))
        config.add_optimization_profile(profile)
        plan = builder.build_serialized_network(network, config)
        return None if plan is None else bytes(plan)
"""


def test_good_source_passes(apis: dict[str, Api]) -> None:
    assert problems_of(BUILD, apis) == []


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("builder.create_builder_config()", "builder.new_builder_config()", "Builder has no new_builder_config"),
        ("parser.get_error(i).desc()", "parser.get_error(i).description()", "ParserError has no description"),
        ("pool_size=1 << 30", "size=1 << 30", "takes no argument size here"),
        ("pool_size=1 << 30", "", "lacks the argument pool_size"),
        ('set_shape("rgb", ', 'set_shape("rgb", (1, 2), ', "takes no argument min here"),
        ("profile(profile)", "profile(profile, 3)", "takes 1 arguments (profile), not 2"),
        ("MemoryPoolType.WORKSPACE", "MemoryPoolType.WORKSPACES", "MemoryPoolType has no WORKSPACES"),
        ("trt.MemoryPoolType.WORKSPACE", "trt.DataType.HALF", "takes MemoryPoolType, not DataType"),
        ("trt.ProfilingVerbosity.DETAILED", "trt.DataType.HALF", "takes ProfilingVerbosity, not DataType"),
        ("config.profiling_verbosity", "config.profile_verbosity", "IBuilderConfig has no property profile_verbosity"),
        ("trt.OnnxParser(", "trt.ONNXParser(", "there is no tensorrt.ONNXParser"),
        ("int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)", "trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED", "is no number"),
        ("trt.OnnxParser(network, logger)", "trt.OnnxParser(logger, network)", "takes INetworkDefinition, not Logger"),
        ("trt.Logger.WARNING", "trt.Logger.WARN", "Logger has no WARN"),
        ('"rgb", min', "trt.DataType.HALF, min", "takes str, not DataType"),
        ("parser.num_errors", "parser.num_errors()", "OnnxParser.num_errors is a property"),
        ("builder.create_builder_config()", "trt.IBuilderConfig()", "IBuilderConfig cannot be made"),
    ],
)  # fmt: skip
def test_a_wrong_name_is_found(right: str, wrong: str, said: str, apis: dict[str, Api]) -> None:
    assert BUILD.count(right) == 1
    found = problems_of(BUILD.replace(right, wrong), apis)
    assert len(found) == 1, found
    assert said in found[0]
    assert "10.3.0, 10.16.1.11, 11.4.0.106" in found[0]


@pytest.mark.parametrize(
    ("body", "versions"),
    [
        ("config.set_flag(trt.BuilderFlag.FP16)", "11.4.0.106"),
        ("config.set_flag(trt.BuilderFlag.STRICT_NANS)", "10.3.0"),
        ("config.int8_calibrator", "11.4.0.106"),
        ("trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH", "11.4.0.106"),
    ],
)
def test_a_name_of_some_versions_needs_a_guard(body: str, versions: str, apis: dict[str, Api]) -> None:
    (found,) = problems_of(f"def f(trt: ModuleType, config: trt.IBuilderConfig) -> None:\n    {body}", apis)
    assert found.endswith(f"[TensorRT {versions}]")


@pytest.mark.parametrize(
    "body",
    [
        'flag = getattr(trt.BuilderFlag, "FP16", None)\nif flag is not None:\n    config.set_flag(flag)',
        'if hasattr(trt.BuilderFlag, "FP16"):\n    config.set_flag(trt.BuilderFlag.FP16)',
        'if not hasattr(trt.BuilderFlag, "FP16"):\n    return\nconfig.set_flag(trt.BuilderFlag.FP16)',
        'x = trt.BuilderFlag.FP16 if hasattr(trt.BuilderFlag, "FP16") else None',
        'x = hasattr(trt.BuilderFlag, "FP16") and config.get_flag(trt.BuilderFlag.FP16)',
        'for name in ("FP16", "INT8"):\n    flag = getattr(trt.BuilderFlag, name, None)\n    config.set_flag(flag)',
        'if not hasattr(trt.ILayer, "precision"):\n    return\nlayer.precision = trt.DataType.FLOAT',
        'if hasattr(config, "int8_calibrator"):\n    config.int8_calibrator = None',
    ],
)
def test_guards_are_understood(body: str, apis: dict[str, Api]) -> None:
    head = "def f(trt: ModuleType, config: trt.IBuilderConfig, layer: trt.ILayer) -> None:\n"
    assert problems_of(head + textwrap.indent(body, "    "), apis) == []


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('getattr(trt.BuilderFlag, "FP17", None)', "no version has BuilderFlag.FP17"),
        ('if hasattr(trt, "Bilder"):\n    pass', "no version has tensorrt.Bilder"),
        ('if hasattr(trt.BuilderFlag, "FP16"):\n    config.set_flag(trt.BuilderFlag.FP17)', "BuilderFlag has no FP17"),
        ('if hasattr(trt.BuilderFlag, "FP16"):\n    pass\nconfig.set_flag(trt.BuilderFlag.FP16)', "BuilderFlag has no FP16"),
        ('getattr(trt.BuilderFlag, "FP16")', "BuilderFlag has no FP16"),
        ("getattr(trt.BuilderFlag, chosen, None)", "with a name that is not written there"),
        ("getattr(trt.BuilderFlag, chosen.upper(), None)", "with a name that is not written there"),
        ('setattr(config, "flags", 3)', "with a name that is not written there"),
        ('trt.BuilderFlag["TF32"]', "BuilderFlag has no elements"),
        ("anything.set_flag(3)", "nothing is known of what .set_flag is asked of"),
        ("lost(config)", "lost(thing) is declared Any"),
        ("held = [config]\nheld[0].set_flagg(3)", "IBuilderConfig has no set_flagg"),
        ("for one in [config]:\n    one.set_flagg(3)", "IBuilderConfig has no set_flagg"),
        ("[one.set_flagg(3) for one in (config,)]", "IBuilderConfig has no set_flagg"),
        ('{"a": config}["a"].set_flagg(3)', "IBuilderConfig has no set_flagg"),
        ("sorted([config], key=lambda one: one.set_flagg)", "IBuilderConfig has no set_flagg"),
        ("given().set_flagg(3)", "IBuilderConfig has no set_flagg"),
        ("Holder(config).config.set_flagg(3)", "IBuilderConfig has no set_flagg"),
        ("Holder(config).hidden.set_flagg(3)", "IBuilderConfig has no set_flagg"),
        ("Holder(config).made().set_flagg(3)", "IBuilderConfig has no set_flagg"),
        ("with Holder(config) as entered:\n    entered.set_flagg(3)", "IBuilderConfig has no set_flagg"),
        ("config.reset().again", ""),
        ('type("L", (trt.ILogger,), {})', "derived from with a class statement"),
        ("from tensorrt import Bilder", "there is no tensorrt.Bilder"),
        ("def inner(parser: trt.OnnxParsers) -> None: ...", "there is no tensorrt.OnnxParsers"),
        ("def inner() -> list[trt.ITensors] | None: ...", "there is no tensorrt.ITensors"),
        ('def inner(tensor: "trt.ITensors") -> None: ...', "there is no tensorrt.ITensors"),
        ("kept: dict[str, trt.ITensors] = {}", "there is no tensorrt.ITensors"),
        ("def inner(severity: trt.ILogger.Severities) -> None: ...", "ILogger has no Severities"),
        ("match chosen:\n    case _:\n        config.set_flagg(3)", "IBuilderConfig has no set_flagg"),
        ("while True:\n    if chosen:\n        found = config\n        break\nfound.set_flagg", "IBuilderConfig has no set_flagg"),
        ("try:\n    found = config\nfinally:\n    pass\nfound.set_flagg", "IBuilderConfig has no set_flagg"),
        ("global kept\nkept.set_flagg", "nothing is known of what .set_flagg is asked of"),
        ("def inner() -> None:\n    config.set_flagg(3)", "IBuilderConfig has no set_flagg"),
        ("Record(config)", "Record(held) is declared Any"),
        ("Record(held=config)", "Record(held) is declared Any"),
        ("import tensorrt\ntensorrt.Bilder", "there is no tensorrt.Bilder"),
        ("config.create_timing_cache(b'').serialise()", "ITimingCache has no serialise"),
    ],
)  # fmt: skip
def test_nothing_slips_through(body: str, said: str, apis: dict[str, Api]) -> None:
    source = """
    def lost(thing: Any) -> None: ...
    def given() -> trt.IBuilderConfig: ...

    @dataclass
    class Record:
        held: Any

    class Holder:
        def __init__(self, config: trt.IBuilderConfig) -> None:
            self.config: trt.IBuilderConfig | None = None
            self.hidden: Any = config
        def made(self) -> Any:
            return self.config
        def __enter__(self) -> trt.IBuilderConfig: ...

    def f(trt: ModuleType, config: trt.IBuilderConfig, anything: Any, chosen: str) -> None:
    """
    found = problems_of(textwrap.dedent(source) + textwrap.indent(body, "    "), apis)
    if not said:
        assert found == []
        return
    assert len(found) == 1, found
    assert said in found[0]


MONITOR = """
    def monitor(trt: ModuleType) -> trt.IProgressMonitor:
        class Monitor(trt.IProgressMonitor):
            def __init__(self) -> None:
                trt.IProgressMonitor.__init__(self)
                self.num_done = 0

            def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
                self._show(phase_name)

            def step_complete(self, phase_name: str, step: int) -> bool:
                self.num_done += 1
                return True

            def phase_finish(self, phase_name: str) -> None: ...

            def _show(self, text: str) -> None: ...

        config = trt.Builder(trt.Logger()).create_builder_config()
        config.progress_monitor = Monitor()
        return Monitor()
"""


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("", "", ""),
        ("def phase_start", "def phase_begin", "IProgressMonitor has no phase_begin to override"),
        ("phase_name: str, step: int", "step: int", "step_complete takes (self, phase_name, step), not (self, step)"),
        ("            def phase_finish(self, phase_name: str) -> None: ...", "", "lacks IProgressMonitor.phase_finish"),
        ("trt.IProgressMonitor.__init__(self)", "pass", "must call IProgressMonitor.__init__"),
        ("Monitor(trt.IProgressMonitor)", "Monitor(trt.IProgressMonitors)", "there is no tensorrt.IProgressMonitors"),
        ("config.progress_monitor = Monitor()", "config.int = Monitor()", "IBuilderConfig has no property int"),
        ("config.progress_monitor = Monitor()", "trt.Builder(Monitor())", "takes ILogger, not Monitor"),
    ],
)
def test_derived_classes_fit_their_base(right: str, wrong: str, said: str, apis: dict[str, Api]) -> None:
    found = problems_of(MONITOR.replace(right, wrong) if right else MONITOR, apis)
    assert bool(found) is bool(said), found
    assert any(said in line for line in found) or not said, found


@pytest.mark.parametrize(
    ("source", "counts"),
    [
        ("import tensorrt as t", True),
        ("from tensorrt import Builder", True),
        ('trt = require("tensorrt", extra="tensorrt")', True),
        ('importlib.import_module("tensorrt").Builder', True),
        ("def f(trt: ModuleType): ...", True),
        ("if TYPE_CHECKING:\n    import tensorrt as trt", True),
        ("trt = load()", True),
        ("def export(trt: bool): ...", False),
        ("from edgefuse_runtime.engines.tensorrt import Engine", False),
        ('NAMES = ("tensorrt",)', False),
    ],
)
def test_what_counts_as_a_module_of_tensorrt(source: str, counts: bool, tmp_path: Path) -> None:
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "some.py").write_text(source)
    assert bool(trt_modules(tmp_path, ("export",))) is counts
