"""Every name of TensorRT that the project's source uses, followed through its statements and held against one version."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from asking import RefusedError, assign
from expressions import Expressions, Scope
from findings import Findings
from guards import holds, narrowed
from kinds import (
    FOREIGN,
    NOTHING,
    UNKNOWN,
    Many,
    ProjectClass,
    ProjectFunction,
    ProjectObject,
    TrtModule,
    TrtObject,
    Unknown,
    Value,
    one,
    told,
)
from signatures import Api
from sources import Module, Project, names_library

NUM_ROUNDS = 3
"""What a function returns and what attributes hold is seen in its body; the third round knows what the first two saw."""


class Statements:
    def __init__(self, api: Api, module: Module, findings: Findings) -> None:
        self.api, self.module, self.findings = api, module, findings
        self.of = Expressions(api, module, findings)
        self.later: list[tuple[ProjectFunction, Scope]] = []

    def run_module(self) -> None:
        scope = dict(self.module.scope)
        self.run(self.module.tree.body, scope, None)
        self.module.scope.update({name: value for name, value in scope.items() if name not in self.module.scope})
        while self.later:
            function, outer = self.later.pop()
            self._function(function, outer)

    def _function(self, function: ProjectFunction, outer: Scope) -> None:
        node = function.node
        scope = dict(outer)
        arguments = node.args
        self._annotated(node.returns, outer)
        for arg in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
            self._annotated(arg.annotation, outer)
            scope[arg.arg] = self.module.annotation(arg.annotation, outer, name=arg.arg)
        for arg in (arguments.vararg, arguments.kwarg):
            if arg is not None:
                scope[arg.arg] = one(
                    Many(self.module.annotation(arg.annotation, outer), FOREIGN if arg is arguments.kwarg else None)
                )
        if function.owner is not None and arguments.args and not _is_static(node):
            first = ProjectObject(function.owner) if arguments.args[0].arg == "self" else function.owner
            scope[arguments.args[0].arg] = one(first)
        self.run(node.body, scope, function)

    def _annotated(self, node: ast.expr | None, scope: Scope) -> None:
        """What an annotation names must be there as well: it tells what is asked of the thing."""
        for part in ast.walk(node) if node is not None else ():
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                inner = ast.parse(part.value, mode="eval").body
                self._annotated(ast.fix_missing_locations(ast.copy_location(inner, part)), scope)
            elif isinstance(part, ast.Attribute):
                self.of.value(part, scope)

    def run(self, body: list[Any], scope: Scope, function: ProjectFunction | None) -> bool:
        """Follow statements; the scope changes. Returns whether the end is reached."""
        return all(self._statement(node, scope, function) for node in body)

    def _statement(self, node: Any, scope: Scope, function: ProjectFunction | None) -> bool:
        special = getattr(self, f"_{type(node).__name__.lower()}", None)
        if special is not None:
            return special(node, scope, function) is not False
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self.of.value(child, scope)
        return not isinstance(node, ast.Raise | ast.Continue | ast.Break)

    def _import(self, node: Any, scope: Scope, _function: Any) -> None:
        scope.update(self.module.project.imported(node))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "tensorrt" and not node.level:
            for alias in node.names:
                self.of.ask(node, TrtModule(), alias.name)

    _importfrom = _import

    def _functiondef(self, node: Any, scope: Scope, function: ProjectFunction | None) -> None:
        for default in (*node.args.defaults, *node.args.kw_defaults, *node.decorator_list):
            self.of.value(default, scope)
        known = [one_ for one_ in self.module.functions if one_.node is node]
        made = known[0] if known else ProjectFunction(node.name, self.module, node, None, scope)
        if not known:
            self.module.functions.append(made)
        made.scope = scope
        if made.owner is None:
            scope[node.name] = one(made)
        self.later.append((made, scope))

    _asyncfunctiondef = _functiondef

    def _classdef(self, node: ast.ClassDef, scope: Scope, _function: Any) -> None:
        known = [one_ for one_ in self.module.classes if one_.node is node]
        made = known[0] if known else self.module._class(node, scope)
        made.bases = frozenset().union(*(self.of.value(base, scope) for base in node.bases))
        scope[node.name] = one(made)
        inner = dict(scope)
        for part in node.body:
            if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
                self._attribute_of(
                    made, part.target.id, self.module.annotation(part.annotation, scope, name=part.target.id), sure=True
                )
            self._statement(
                part, inner if not isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef) else scope, None
            )
        self._derived(node, made)

    def _derived(self, node: ast.ClassDef, made: ProjectClass) -> None:
        """What TensorRT calls back must be there under its name: pybind11 never says that an override is misspelt."""
        for base in made.trt_bases():
            if not self.api.has_class(base):
                continue
            theirs = {
                name: member
                for name, member in self.api.members(base).items()
                if member.kind == "method" and not name.startswith("_")
            }
            ours = {name: function for name, function in made.functions.items() if not name.startswith("_")}
            for name in sorted(set(ours) - set(theirs)):
                self.of.problem(ours[name].node, f"{base} has no {name} to override (helpers start with _)")
            if base.startswith("I") and not any(isinstance(kind, ProjectClass) for kind in made.bases):
                for name in sorted(set(theirs) - set(ours)):
                    self.of.problem(node, f"{made.name} lacks {base}.{name}, which TensorRT calls")
            for name in sorted(set(ours) & set(theirs)):
                wanted = [arg[0] for arg in theirs[name].overloads[0]["args"]] if theirs[name].overloads else None
                given = [arg.arg for arg in (*ours[name].node.args.posonlyargs, *ours[name].node.args.args)]
                if wanted is not None and given != wanted:
                    self.of.problem(
                        ours[name].node, f"{base}.{name} takes ({', '.join(wanted)}), not ({', '.join(given)})"
                    )
            init = made.functions.get("__init__")
            if init is not None and "__init__(" not in ast.unparse(init.node.body):  # type: ignore[arg-type]
                self.of.problem(init.node, f"{made.name}.__init__ must call {base}.__init__")

    def _attribute_of(self, of: ProjectClass, name: str, value: Value, *, sure: bool) -> None:
        if sure and Unknown() not in value:
            of.declared.add(name)
            of.attributes[name] = value
        elif name not in of.declared:
            kinds = of.attributes.get(name, frozenset()) | value
            # Any with a value that is known is what the value is.
            known = frozenset(kind for kind in kinds if not isinstance(kind, Unknown))
            of.attributes[name] = known if known - NOTHING else kinds

    def _store(self, node: Any, target: ast.expr, value: Value, scope: Scope) -> None:
        if isinstance(target, ast.Attribute):
            for kind in self.of.value(target.value, scope):
                if isinstance(kind, ProjectObject) and not (kind.of.trt_bases() and self._has(kind.of, target.attr)):
                    self._attribute_of(kind.of, target.attr, value, sure=False)
                elif isinstance(kind, TrtObject | TrtModule):
                    self.findings.num_asked += 1
                    try:
                        assign(self.api, kind, target.attr, value)
                        self.findings.names.add(f"{told(kind)}.{target.attr}")
                    except RefusedError as error:
                        self.of.problem(node, str(error))
                elif isinstance(kind, Unknown):
                    self.of.ask(node, kind, target.attr)
        elif isinstance(target, ast.Subscript):
            self.of.value(target, scope)
        else:
            self.of.bind(target, value, scope)

    def _has(self, of: ProjectClass, name: str) -> bool:
        return any(self.api.has_class(base) and self.api.member(base, name) is not None for base in of.trt_bases())

    def _assign(self, node: ast.Assign, scope: Scope, _function: Any) -> None:
        value = self.of.value(node.value, scope)
        for target in node.targets:
            self._store(node, target, value, scope)

    def _annassign(self, node: ast.AnnAssign, scope: Scope, _function: Any) -> None:
        value = self.of.value(node.value, scope) if node.value is not None else frozenset()
        name = node.target.attr if isinstance(node.target, ast.Attribute) else getattr(node.target, "id", "")
        declared = self.module.annotation(node.annotation, scope, name=name)
        self._annotated(node.annotation, scope)
        if isinstance(node.target, ast.Attribute):
            for kind in self.of.value(node.target.value, scope):
                if isinstance(kind, ProjectObject):
                    self._attribute_of(kind.of, node.target.attr, declared, sure=True)
        known = declared if Unknown() not in declared else (value - NOTHING) or declared
        if isinstance(node.target, ast.Attribute):
            self._store(node, node.target, known, scope)
        else:
            self.of.bind(node.target, known, scope)

    def _augassign(self, node: ast.AugAssign, scope: Scope, _function: Any) -> None:
        for kind in self.of.value(node.target, scope) | self.of.value(node.value, scope):
            if isinstance(kind, TrtObject) and self.api.has_class(kind.name) and self.api.enum(kind.name):
                self.of.problem(node, f"{kind.name} is no number: int(...) makes one of it")

    def _return(self, node: ast.Return, scope: Scope, function: ProjectFunction | None) -> bool:
        value = self.of.value(node.value, scope)
        if function is not None:
            function.returned = (function.returned | value) - frozenset({Unknown()})
        return False

    def _if(self, node: ast.If, scope: Scope, function: ProjectFunction | None) -> bool:
        self.of.value(node.test, scope)
        outcome = holds(self.of, node.test, scope)
        yes = dict(narrowed(self.of, node.test, scope, outcome=True))
        no = dict(narrowed(self.of, node.test, scope, outcome=False))
        reached, left = False, []
        for branch, body, wanted in ((yes, node.body, True), (no, node.orelse, False)):
            if outcome in (None, wanted):
                goes_on = self.run(body, branch, function)
                reached = reached or goes_on
                # What `break` leaves behind is found after the loop.
                if goes_on or not isinstance(body[-1], ast.Return | ast.Raise):
                    left.append(branch)
        scope.update(_joined(left))
        return reached

    def _match(self, node: ast.Match, scope: Scope, function: ProjectFunction | None) -> None:
        value = self.of.value(node.subject, scope)
        branches = [dict(scope) for _ in node.cases]
        for case, branch in zip(node.cases, branches, strict=True):
            for part in ast.walk(case.pattern):
                if isinstance(part, ast.MatchValue):
                    self.of.value(part.value, branch)
                elif isinstance(part, ast.MatchAs | ast.MatchStar) and part.name:
                    branch[part.name] = value
            self.of.value(case.guard, branch)
            self.run(case.body, branch, function)
        scope.update(_joined([scope, *branches]))

    def _global(self, node: ast.Global, scope: Scope, _function: Any) -> None:
        for name in node.names:
            scope.setdefault(name, UNKNOWN)

    def _for(self, node: ast.For, scope: Scope, function: ProjectFunction | None) -> None:
        found = self.of.elements(node.iter, self.of.value(node.iter, scope))
        for _ in range(2):  # what a round leaves, the next one finds
            inner = dict(scope)
            self.of.bind(node.target, found, inner)
            self.run(node.body, inner, function)
            scope.update(_joined([scope, inner]))
        self.run(node.orelse, scope, function)

    def _while(self, node: ast.While, scope: Scope, function: ProjectFunction | None) -> None:
        for _ in range(2):
            self.of.value(node.test, scope)
            inner = dict(scope)
            self.run(node.body, inner, function)
            scope.update(_joined([scope, inner]))
        self.run(node.orelse, scope, function)

    def _with(self, node: ast.With, scope: Scope, function: ProjectFunction | None) -> bool:
        for item in node.items:
            value = self.of.value(item.context_expr, scope)
            entered: Value = frozenset()
            for kind in value:
                enters = kind.of.functions.get("__enter__") if isinstance(kind, ProjectObject) else None
                entered |= self.of.returns(enters) if enters is not None else one(kind)
            if item.optional_vars is not None:
                self._store(node, item.optional_vars, entered or FOREIGN, scope)
        return self.run(node.body, scope, function)

    _asyncfor, _asyncwith = _for, _with

    def _try(self, node: ast.Try, scope: Scope, function: ProjectFunction | None) -> bool:
        before = dict(scope)
        goes_on = [scope] if self.run([*node.body, *node.orelse], scope, function) else []
        for handler in node.handlers:
            self.of.value(handler.type, before)
            inner = {**_joined([before, scope]), **({handler.name: FOREIGN} if handler.name else {})}
            if self.run(handler.body, inner, function):
                goes_on.append(inner)
        scope.update(_joined(goes_on))
        return self.run(node.finalbody, scope, function) and bool(goes_on)

    _trystar = _try


def _joined(scopes: list[Scope]) -> Scope:
    found: Scope = {}
    for scope in scopes:
        for name, value in scope.items():
            found[name] = found.get(name, frozenset()) | value
    return found


def _is_static(node: Any) -> bool:
    return any(getattr(one_, "id", "") == "staticmethod" for one_ in node.decorator_list)


def check(files: dict[str, tuple[str, str]], api: Api, roots: list[Path]) -> Findings:
    """Hold TensorRT modules against one version.

    Args:
        files: dotted name: (path for messages, source).
        roots: folders that hold the project's packages.
    """
    project = Project(roots, api)
    modules = [project.add(name, path, source) for name, (path, source) in files.items()]
    findings = Findings()
    for _ in range(NUM_ROUNDS):
        findings = Findings()
        for module in modules:
            Statements(api, module, findings).run_module()
    return findings


def problems_over(files: dict[str, tuple[str, str]], apis: dict[str, Api], roots: list[Path]) -> list[str]:
    """What is wrong in any version, and guarded names that no version has."""
    found: dict[str, list[str]] = {}
    guarded: dict[tuple[str, str], bool] = {}
    for version, api in apis.items():
        findings = check(files, api, roots)
        for problem in findings.problems:
            found.setdefault(problem, []).append(version)
        for asked, there in findings.guarded.items():
            guarded[asked] = guarded.get(asked, False) or there
    lines = [f"{problem} [TensorRT {', '.join(versions)}]" for problem, versions in found.items()]
    lines += [f"{place}: no version has {name}" for (place, name), there in guarded.items() if not there]
    return sorted(lines)


def trt_modules(root: Path, folders: tuple[str, ...]) -> dict[str, tuple[str, str]]:
    """The project's modules that name TensorRT: dotted name: (path, source)."""
    found = {}
    for folder in folders:
        for path in sorted((root / folder).rglob("*.py")):
            source = path.read_text(encoding="utf-8")
            if names_library(ast.parse(source)):
                # edgefuse/ is itself a package; the other folders hold one.
                base = root if (root / folder / "__init__.py").is_file() else root / folder
                name = ".".join(path.relative_to(base).with_suffix("").parts).removesuffix(".__init__")
                found[name] = (str(path.relative_to(root)), source)
    return found
