"""The project's modules as the check of names sees them: which name TensorRT, and what their classes and functions declare."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from kinds import (
    FOREIGN,
    NOTHING,
    UNKNOWN,
    Calls,
    Many,
    ProjectClass,
    ProjectFunction,
    ProjectObject,
    Row,
    TrtClass,
    TrtModule,
    TrtObject,
    Value,
    one,
)
from signatures import Api

LIBRARY = "tensorrt"
MODULE_NAME = "trt"
_IMPORTERS = {"require", "import_module", "importorskip", "__import__"}
_MAPPINGS = {"dict", "Mapping", "MutableMapping", "defaultdict", "OrderedDict"}
_SEQUENCES = {"list", "set", "frozenset", "Sequence", "Iterable", "Iterator", "Collection", "Generator", "deque"}


def import_of_library(node: ast.AST) -> bool:
    """Is this `require("tensorrt", ...)`, or another way to import it by its name?"""
    if not isinstance(node, ast.Call) or not node.args:
        return False
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    first = node.args[0]
    return name in _IMPORTERS and isinstance(first, ast.Constant) and first.value == LIBRARY


def names_library(tree: ast.AST) -> bool:
    """Does a module import TensorRT, in any way, or hold its module in a variable or parameter `trt`?"""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and any(alias.name.split(".")[0] == LIBRARY for alias in node.names):
            return True
        if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] == LIBRARY:
            return True
        if import_of_library(node):
            return True
        if isinstance(node, ast.arg) and node.arg == MODULE_NAME and may_be_module(node.annotation):
            return True
        if (
            isinstance(node, ast.AnnAssign)
            and getattr(node.target, "id", "") == MODULE_NAME
            and may_be_module(node.annotation)
        ):
            return True
        if isinstance(node, ast.Assign) and any(getattr(target, "id", "") == MODULE_NAME for target in node.targets):
            return True
    return False


def may_be_module(annotation: ast.expr | None) -> bool:
    """Is something called `trt` TensorRT's module? A command's option --trt is a bool."""
    return annotation is None or any(word in ast.unparse(annotation) for word in ("Any", "ModuleType", "object"))


class Module:
    """One file. Its classes and functions are known by what they declare; bodies are looked at in TensorRT modules alone."""

    def __init__(self, path: str, source: str, project: Project) -> None:
        self.path, self.project = path, project
        self.tree = ast.parse(source)
        self.checked = names_library(self.tree)
        self.scope: dict[str, Value] = {}
        self.classes: list[ProjectClass] = []
        self.functions: list[ProjectFunction] = []

    def read(self) -> None:
        """Fill the scope: imports first, since annotations use them."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                self.scope.update(self.project.imported(node))
        self.scope.update(self.declare(self.tree.body, self.scope, owner=None))

    def declare(self, body: list[Any], scope: dict[str, Value], *, owner: ProjectClass | None) -> dict[str, Value]:
        """The classes and functions of a body."""
        found: dict[str, Value] = {}
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                function = ProjectFunction(node.name, self, node, owner, scope)
                self.functions.append(function)
                found[node.name] = one(function)
                if owner is not None:
                    owner.functions[node.name] = function
            elif isinstance(node, ast.ClassDef):
                found[node.name] = one(self._class(node, scope))
            elif isinstance(node, ast.If):
                found.update(self.declare(node.body, scope, owner=owner))
        return found

    def _class(self, node: ast.ClassDef, scope: dict[str, Value]) -> ProjectClass:
        made = ProjectClass(node.name, self, node)
        self.classes.append(made)
        self.declare(node.body, scope, owner=made)
        return made

    def annotation(self, node: ast.expr | None, scope: dict[str, Value], *, name: str = "") -> Value:
        """What an annotation promises. Any promises nothing; a parameter `trt` is the module."""
        if name.lstrip("_") == MODULE_NAME and may_be_module(node):
            return one(TrtModule())
        if node is None:
            return UNKNOWN
        if isinstance(node, ast.Constant):
            if node.value is None:
                return NOTHING
            return (
                self.annotation(ast.parse(node.value, mode="eval").body, scope)
                if isinstance(node.value, str)
                else FOREIGN
            )
        if isinstance(node, ast.BinOp):
            return self.annotation(node.left, scope) | self.annotation(node.right, scope)
        if isinstance(node, ast.Subscript):
            return self._generic(node, scope)
        if isinstance(node, ast.Name) and node.id in ("Any", "object"):
            return UNKNOWN
        return self._named(node, scope)

    def _named(self, node: ast.expr, scope: dict[str, Value]) -> Value:
        if isinstance(node, ast.Attribute):
            return frozenset(
                TrtObject(f"{kind.name}.{node.attr}") if isinstance(kind, TrtObject) else found
                for kind in self._named(node.value, scope)
                for found in ([TrtObject(node.attr)] if isinstance(kind, TrtModule) else [kind])
            )
        found = scope.get(node.id, self.scope.get(node.id, FOREIGN)) if isinstance(node, ast.Name) else FOREIGN
        instances: list[Any] = []
        for kind in found:
            if isinstance(kind, ProjectClass):
                instances.append(ProjectObject(kind))
            elif isinstance(kind, TrtClass):
                instances.append(TrtObject(kind.name))
            else:
                instances.append(kind)
        return frozenset(instances)

    def _generic(self, node: ast.Subscript, scope: dict[str, Value]) -> Value:
        base = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if base == "Callable":
            return one(Calls(self.annotation(parts[-1], scope)))
        if base == "Literal":
            return FOREIGN
        if base == "type":
            inside = self.annotation(parts[0], scope)
            return frozenset(TrtClass(kind.name) if isinstance(kind, TrtObject) else kind for kind in inside)
        # Any inside a container is what JSON gives; what belongs to TensorRT is to be named there.
        inner = [
            FOREIGN if isinstance(part, ast.Name) and part.id in ("Any", "object") else self.annotation(part, scope)
            for part in parts
        ]
        if base in _MAPPINGS and len(inner) == 2:
            return one(Many(inner[1], inner[0]))
        if base == "tuple" and not (len(parts) == 2 and isinstance(parts[1], ast.Constant)):
            return one(Row(tuple(inner)))
        if base in _SEQUENCES or base == "tuple":
            return one(Many(inner[0]))
        return inner[0] if base in ("Optional", "Final", "ClassVar", "Annotated") else FOREIGN


class Project:
    """The modules by dotted name; those that are only imported are read when they are asked for."""

    def __init__(self, roots: list[Path], api: Api) -> None:
        self.roots, self.api = roots, api
        self.modules: dict[str, Module | None] = {}

    def add(self, name: str, path: str, source: str) -> Module:
        module = self.modules[name] = Module(path, source, self)
        module.read()
        return module

    def module(self, name: str) -> Module | None:
        if name not in self.modules:
            self.modules[name] = None
            for root in self.roots:
                path = root.joinpath(*name.split(".")).with_suffix(".py")
                package = root.joinpath(*name.split("."), "__init__.py")
                for found in (path, package):
                    if found.is_file():
                        return self.add(name, str(found), found.read_text(encoding="utf-8"))
        return self.modules[name]

    def imported(self, node: ast.Import | ast.ImportFrom) -> dict[str, Value]:
        found: dict[str, Value] = {}
        for alias in node.names:
            local = alias.asname or alias.name.split(".")[0]
            source = alias.name if isinstance(node, ast.Import) else node.module or ""
            if source.split(".")[0] == LIBRARY and not getattr(node, "level", 0):
                whole = isinstance(node, ast.Import)
                found[local] = one(TrtModule()) if whole else one(self._of_library(alias.name))
            elif isinstance(node, ast.ImportFrom):
                module = self.module(source)
                found[local] = module.scope.get(alias.name, FOREIGN) if module else FOREIGN
            else:
                found[local] = FOREIGN
        return found

    def _of_library(self, name: str) -> Any:
        if name in self.api.values:
            return TrtObject(self.api.values[name])
        return TrtClass(name)  # that it exists is the check's business
