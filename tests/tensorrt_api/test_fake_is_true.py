"""The in-memory TensorRT has no class, method, argument, property or enum member that the real bindings lack.

Names and signatures again: that the stand-in behaves as TensorRT does is nowhere proved.
"""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from bindings import FOLDERS, ROOT, ROOTS
from signatures import Api
from truth import check, trt_modules

from fake_tensorrt import FakeTensorRT
from fake_tensorrt.bound import Setting
from fake_tensorrt.names import VERSIONS

# What the stand-in gives to objects that the real bindings only hand out, never let make.
NOT_MADE = {"ITensor", "ILayer", "INetworkDefinition", "ParserError", "IOptimizationProfile", "ITimingCache"} | {
    *("IBuilderConfig", "ICudaEngine", "EngineInspector", "IExecutionContext", "IHostMemory")
}


def differences(fake: FakeTensorRT, api: Api) -> list[str]:
    """What the stand-in has otherwise than the bindings of its version."""
    found = []
    for name, value in vars(fake.module).items():
        if name.startswith("_"):
            continue
        if isinstance(value, type):
            found += _of_class(name, value, api) if api.has_class(name) else [f"there is no class {name}"]
        elif name not in api.functions and name not in api.values:
            found.append(f"there is no tensorrt.{name}")
        elif name in api.functions and _names(value) != [arg[0] for arg in api.functions[name][0]["args"]]:
            found.append(f"tensorrt.{name} has other arguments")
    return found


def _of_class(name: str, made: type, api: Api) -> list[str]:
    if api.enum(name):
        return [] if api.enum(name) == _numbers(made) else [f"the members of {name} differ"]
    found = []
    # bytearray is how a class in Python gives a buffer, as IHostMemory does; its methods are not the stand-in's.
    members = {
        member: inspect.getattr_static(made, member)
        for member in dir(made)
        if not member.startswith("_") and member not in dir(bytearray)
    }
    if name not in NOT_MADE:
        members["__init__"] = inspect.getattr_static(made, "__init__")
    for member, value in members.items():
        real = api.member(name, member)
        if real is None:
            found.append(f"{name} has no {member}")
        elif isinstance(value, property | Setting):
            settable = isinstance(value, Setting) or value.fset is not None
            if real.kind != "property" or (settable and not real.settable):
                found.append(f"{name}.{member} is no property that can be {'set' if settable else 'read'}")
            elif isinstance(value, Setting) and api.has_class(real.type) and _kind(value) != real.type:
                found.append(f"{name}.{member} is {real.type}, not {value.kind}")
        elif inspect.isfunction(value):
            found += _of_method(name, member, value, real)
    return found


def _of_method(name: str, member: str, value: Any, real: Any) -> list[str]:
    if real.kind != "method":
        return [f"{name}.{member} is no method"]
    given = inspect.signature(value).parameters
    for overload in real.overloads:
        names = [arg[0] for arg in overload["args"]]
        same = list(given) == names[: len(given)]
        # An argument that the stand-in leaves out must have a default in the real one.
        rest = all(arg[2] for arg in overload["args"][len(given) :])
        needed = all(
            arg[2] or given[arg[0]].default is inspect.Parameter.empty for arg in overload["args"] if arg[0] in given
        )
        if same and rest and needed:
            return []
    return [
        f"{name}.{member}({', '.join(given)}) is none of {[[arg[0] for arg in one['args']] for one in real.overloads]}"
    ]


def _names(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def _kind(setting: Setting) -> str:
    return "ILogger.Severity" if setting.kind == "Severity" else setting.kind


def _numbers(made: Any) -> dict[str, int]:
    return {name: int(member) for name, member in made.__members__.items()}


def test_the_versions_are_the_pinned_ones(apis: dict[str, Api]) -> None:
    assert list(VERSIONS) == list(apis)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_fake_has_no_name_that_the_bindings_lack(version: str, apis: dict[str, Api]) -> None:
    fake = FakeTensorRT(version=version)
    assert differences(fake, apis[version]) == []
    severity = fake.module.Logger.Severity
    assert _numbers(severity) == apis[version].enum("ILogger.Severity")


@pytest.mark.parametrize("version", VERSIONS)
def test_the_fake_has_what_the_project_asks_for(version: str, apis: dict[str, Api]) -> None:
    """A name that the stand-in lacks is code that no test of behaviour can reach."""
    fake = FakeTensorRT(version=version)
    names = check(trt_modules(ROOT, FOLDERS), apis[version], ROOTS).names
    lacking = []
    for name in sorted(names):
        asked: object = fake.module
        # The members' own `name` and `value` are not to be had of Python's enum classes.
        for part in name.removesuffix(".name").removesuffix(".value").split("."):
            asked = getattr(asked, part, None)
            if asked is None:
                lacking.append(name)
                break
    assert not lacking, f"tests/fake_tensorrt lacks {', '.join(lacking)}"


def test_drift_is_found(apis: dict[str, Api]) -> None:
    newest = list(VERSIONS)[-1]
    api = apis[newest]
    assert any("BuilderFlag differ" in line for line in differences(FakeTensorRT(version="10.3.0"), api))

    def unknown(self: Any) -> None: ...
    def other_arguments(self: Any, network: Any, settings: Any) -> None: ...
    def needs_more(self: Any, flags: int, more: int) -> None: ...

    for member, value in (
        ("build_everything", unknown),
        ("build_serialized_network", other_arguments),
        ("create_network", needs_more),
        ("max_threads", unknown),
        ("num_DLA_cores", Setting(1, "int")),
    ):
        fake = FakeTensorRT(version=newest)
        setattr(fake.module.Builder, member, value)
        (found,) = differences(fake, api)
        assert member in found
    fake = FakeTensorRT(version=newest)
    fake.module.IGuess = type("IGuess", (), {})  # type: ignore[attr-defined]
    assert differences(fake, api) == ["there is no class IGuess"]
