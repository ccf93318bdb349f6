"""What an expression of the project's source is, and every question in it that TensorRT's bindings would not answer."""

from __future__ import annotations

import ast
from typing import Any

from asking import RefusedError, attribute, call, value_of
from findings import Findings
from guards import GUARDS, guarded, holds, narrowed
from kinds import (
    FOREIGN,
    NOTHING,
    TRT,
    UNKNOWN,
    Calls,
    Many,
    ProjectClass,
    ProjectFunction,
    ProjectObject,
    Row,
    Text,
    TrtCallable,
    TrtClass,
    TrtModule,
    TrtObject,
    Unknown,
    Value,
    element,
    of_trt,
    one,
    told,
)
from signatures import Api
from sources import Module, import_of_library

Scope = dict[str, Value]

_SAME_ELEMENTS = {"list", "tuple", "set", "frozenset", "sorted", "reversed", "iter", "deque"}
_ONE_ELEMENT = {"next", "min", "max"}
_PASSES_ON = {"filter", "map", "partial", "reduce", "copy", "deepcopy", "vars"}


class Expressions:
    def __init__(self, api: Api, module: Module, findings: Findings) -> None:
        self.api, self.module, self.findings = api, module, findings

    def problem(self, node: Any, text: str) -> Value:
        self.findings.problems.add(f"{self.module.path}:{node.lineno}: {text}")
        return FOREIGN

    def value(self, node: ast.expr | None, scope: Scope) -> Value:
        """What it is. Every part of it is looked at, whatever comes out."""
        if node is None:
            return NOTHING
        special = getattr(self, f"_{type(node).__name__.lower()}", None)  # _call for ast.Call, and so on
        if special is not None:
            return special(node, scope)  # type: ignore[no-any-return]
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self.value(child, scope)
        return FOREIGN

    def _constant(self, node: ast.Constant, _scope: Scope) -> Value:
        return NOTHING if node.value is None else one(Text(node.value)) if isinstance(node.value, str) else FOREIGN

    def _name(self, node: ast.Name, scope: Scope) -> Value:
        if node.id == "trt" and node.id not in scope:
            return one(TrtModule())
        return scope.get(node.id, FOREIGN)

    def _attribute(self, node: ast.Attribute, scope: Scope) -> Value:
        found: Value = frozenset()
        for kind in self.value(node.value, scope):
            found |= self.ask(node, kind, node.attr)
        return found or FOREIGN

    def ask(self, node: Any, kind: Any, name: str) -> Value:
        """`kind.name`."""
        if isinstance(kind, Unknown):
            return self.problem(
                node, f"nothing is known of what .{name} is asked of: annotate it (docstring of test_api_truth)"
            )
        if isinstance(kind, TRT):
            self.findings.num_asked += 1
            try:
                found = attribute(self.api, kind, name)
            except RefusedError as error:
                return self.problem(node, str(error))
            self.findings.names.add(name if isinstance(kind, TrtModule) else f"{told(kind)}.{name}")
            return found
        if isinstance(kind, ProjectObject | ProjectClass):
            return self._of_project(node, kind, name)
        if isinstance(kind, Many):
            return one(kind) if name in ("copy", "values", "keys", "items", "get", "pop", "append", "add") else FOREIGN
        return FOREIGN

    def _of_project(self, node: Any, kind: Any, name: str) -> Value:
        of = kind.of if isinstance(kind, ProjectObject) else kind
        if name in of.functions:
            function = of.functions[name]
            if any(getattr(one_, "id", "") in ("property", "cached_property") for one_ in function.node.decorator_list):
                return self.returns(function)
            return one(function)
        if name in of.attributes:
            return of.attributes[name]
        for base in of.bases:
            if isinstance(base, ProjectClass) and (name in base.functions or name in base.attributes):
                return self._of_project(node, ProjectObject(base), name)
        for base in of.trt_bases():
            return self.ask(node, TrtObject(base), name)
        return FOREIGN

    def returns(self, function: ProjectFunction) -> Value:
        """What a function of the project gives: what it declares, or where that says nothing, what its body returns."""
        declared = function.module.annotation(function.node.returns, function.scope)
        plain = ast.unparse(function.node.returns) if function.node.returns is not None else ""
        if declared == FOREIGN and "ModuleType" not in plain:
            return FOREIGN
        if Unknown() in declared or "ModuleType" in plain:
            return function.returned or declared
        return declared  # type: ignore[no-any-return]

    def _call(self, node: ast.Call, scope: Scope) -> Value:
        if import_of_library(node):
            return one(TrtModule())
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        if isinstance(node.func, ast.Name) and name in GUARDS and len(node.args) >= 2:
            return guarded(self, node, scope)
        callee = self.value(node.func, scope)
        if isinstance(node.func, ast.Attribute):
            self._no_property(node.func, scope)
        plain = [arg for arg in node.args if not isinstance(arg, ast.Starred | ast.Lambda)]
        args = [self.value(arg, scope) for arg in plain]
        named = {
            word.arg: self.value(word.value, scope) for word in node.keywords if word.arg and not _is_lambda(word.value)
        }
        self._lambdas(node, args, scope)
        open_ended = any(word.arg is None for word in node.keywords)
        for word in (*node.keywords, *node.args):
            if isinstance(word, ast.Starred) or (isinstance(word, ast.keyword) and word.arg is None):
                open_ended = True
                self.value(word.value, scope)
        found: Value = frozenset()
        for kind in callee:
            found |= self._called(node, kind, args, named, name=name, open_ended=open_ended)
        return found or FOREIGN

    def _no_property(self, node: ast.Attribute, scope: Scope) -> None:
        for kind in self.value(node.value, scope):
            if isinstance(kind, TrtObject) and self.api.has_class(kind.name):
                member = self.api.member(kind.name, node.attr)
                if member is not None and member.kind in ("property", "value"):
                    self.problem(node, f"{kind.name}.{node.attr} is a property, not a method")

    def _called(
        self, node: ast.Call, kind: Any, args: list[Value], named: dict[str, Value], *, name: str, open_ended: bool
    ) -> Value:
        if isinstance(kind, TrtClass | TrtCallable):
            self.findings.num_asked += 1
            try:
                return call(self.api, kind, args, named, open_ended=open_ended)
            except RefusedError as error:
                return self.problem(node, str(error))
        if isinstance(kind, TrtModule | TrtObject):
            return self.problem(node, f"{told(kind)} cannot be called")
        if isinstance(kind, ProjectFunction):
            self._hand_over(node, kind, args, named)
            return self.returns(kind)
        if isinstance(kind, ProjectClass):
            if "__init__" in kind.functions:
                self._hand_over(node, kind.functions["__init__"], args, named)
            else:
                fields = [part for part in kind.node.body if isinstance(part, ast.AnnAssign)]
                declared = [(ast.unparse(part.target), part.annotation) for part in fields]
                self._check_handed(node, kind.name, declared, args, named, scope=kind.module.scope, module=kind.module)
            return one(ProjectObject(kind))
        if isinstance(kind, Calls):
            return kind.returns
        if isinstance(kind, Many):  # a method of a container
            return self._of_container(kind, name)
        if isinstance(kind, Unknown):
            return UNKNOWN
        return self._of_foreign(node, name, args)

    def _hand_over(self, node: ast.Call, function: ProjectFunction, args: list[Value], named: dict[str, Value]) -> None:
        """An object of TensorRT must not go where its type is lost."""
        declared = function.node.args
        names = [*declared.posonlyargs, *declared.args]
        if function.owner is not None and names and names[0].arg in ("self", "cls"):
            names = names[1:]
        every = [(arg.arg, arg.annotation) for arg in (*names, *declared.kwonlyargs)]
        plain = args[: len(names)]
        self._check_handed(node, function.name, every, plain, named, scope=function.scope, module=function.module)

    def _check_handed(
        self,
        node: ast.Call,
        to: str,
        declared: list[tuple[str, ast.expr | None]],
        args: list[Value],
        named: dict[str, Value],
        *,
        scope: Scope,
        module: Module,
    ) -> None:
        given = dict(zip((name for name, _ in declared), args, strict=False)) | named
        for name, annotation in declared:
            if of_trt(given.get(name, FOREIGN)) and Unknown() in module.annotation(annotation, scope, name=name):
                self.problem(node, f"{to}({name}) is declared Any, so nothing checks what it asks: annotate it")

    def _of_container(self, kind: Many, name: str) -> Value:
        if name == "items":
            return one(Many(one(Row((kind.keys or FOREIGN, kind.values)))))
        if name == "keys":
            return one(Many(kind.keys or FOREIGN))
        if name == "values":
            return one(Many(kind.values))
        if name in ("get", "pop"):
            return kind.values | NOTHING
        return one(kind) if name == "copy" else FOREIGN

    def _of_foreign(self, node: ast.Call, name: str, args: list[Value]) -> Value:
        first = args[0] if args else FOREIGN
        if name == "type" and len(args) == 3 and of_trt(args[1]):
            return self.problem(
                node, "a class of TensorRT is derived from with a class statement, so that it can be checked"
            )
        if name in _SAME_ELEMENTS:
            return one(Many(element(first) or FOREIGN)) if of_trt(first) else FOREIGN
        if name in _ONE_ELEMENT:
            return element(first) or FOREIGN
        if name == "enumerate":
            return one(Many(one(Row((FOREIGN, element(first) or FOREIGN)))))
        if name == "zip":
            return one(Many(one(Row(tuple(element(arg) or FOREIGN for arg in args)))))
        if name in ("enter_context", "closing", "cast"):
            return args[-1] if args else FOREIGN
        if name in _PASSES_ON and any(of_trt(arg) for arg in args):
            return UNKNOWN
        return FOREIGN

    def _lambdas(self, node: ast.Call, args: list[Value], scope: Scope) -> None:
        """A lambda is handed elements of what stands beside it."""
        inside: Value = frozenset().union(*(element(arg) for arg in args)) or FOREIGN
        for part in (*node.args, *(word.value for word in node.keywords)):
            if isinstance(part, ast.Lambda):
                self.value(part.body, {**scope, **{arg.arg: inside for arg in part.args.args}})

    def _lambda(self, node: ast.Lambda, scope: Scope) -> Value:
        self.value(node.body, {**scope, **{arg.arg: FOREIGN for arg in node.args.args}})
        return FOREIGN

    def _subscript(self, node: ast.Subscript, scope: Scope) -> Value:
        index = self.value(node.slice, scope)
        found: Value = frozenset()
        for kind in self.value(node.value, scope):
            if isinstance(kind, Many):
                found |= one(kind) if isinstance(node.slice, ast.Slice) else kind.values
            elif isinstance(kind, Row):
                at = node.slice.value if isinstance(node.slice, ast.Constant) else None
                found |= (
                    kind.items[at] if isinstance(at, int) and at < len(kind.items) else frozenset().union(*kind.items)
                )
            elif isinstance(kind, TrtObject | TrtClass):
                found |= self._indexed(node, kind, index)
            elif isinstance(kind, Unknown):
                found |= UNKNOWN
        return found or FOREIGN

    def _indexed(self, node: Any, kind: Any, _index: Value) -> Value:
        self.findings.num_asked += 1
        member = self.api.member(kind.name, "__getitem__") if isinstance(kind, TrtObject) else None
        if member is None or not self.api.has_class(kind.name):
            return self.problem(node, f"{kind.name} has no elements")
        return value_of(self.api, member.overloads[0]["returns"]) if member.overloads else FOREIGN

    def elements(self, node: Any, value: Value) -> Value:
        """What a loop over it gives."""
        found: Value = element(value)
        for kind in value:
            if isinstance(kind, TrtObject | TrtClass):
                found |= self._indexed(node, kind, FOREIGN)
            elif isinstance(kind, Unknown):
                found |= UNKNOWN
        return found or FOREIGN

    def bind(self, target: ast.expr, value: Value, scope: Scope) -> None:
        """Assign to names and tuples of names; attributes are the statements' business."""
        if isinstance(target, ast.Name):
            if target.id != "trt" or of_trt(value):
                scope[target.id] = value
        elif isinstance(target, ast.Starred):
            self.bind(target.value, one(Many(element(value) or FOREIGN)), scope)
        elif isinstance(target, ast.Tuple | ast.List):
            rows = [kind for kind in value if isinstance(kind, Row) and len(kind.items) == len(target.elts)]
            others = element(frozenset(kind for kind in value if kind not in rows)) | (value & UNKNOWN)
            for index, part in enumerate(target.elts):
                inside = frozenset().union(*(row.items[index] for row in rows)) | others
                self.bind(part, inside or FOREIGN, scope)

    def _comprehension(self, node: Any, scope: Scope) -> Scope:
        inner = dict(scope)
        for part in node.generators:
            self.bind(part.target, self.elements(part.iter, self.value(part.iter, inner)), inner)
            for test in part.ifs:
                self.value(test, inner)
        return inner

    def _listcomp(self, node: ast.ListComp, scope: Scope) -> Value:
        return one(Many(self.value(node.elt, self._comprehension(node, scope))))

    _setcomp = _generatorexp = _listcomp

    def _dictcomp(self, node: ast.DictComp, scope: Scope) -> Value:
        inner = self._comprehension(node, scope)
        return one(Many(self.value(node.value, inner), self.value(node.key, inner)))

    def _tuple(self, node: ast.Tuple, scope: Scope) -> Value:
        items = [self.value(part.value if isinstance(part, ast.Starred) else part, scope) for part in node.elts]
        if any(isinstance(part, ast.Starred) for part in node.elts):
            pairs = zip(node.elts, items, strict=True)
            inside = [element(item) if isinstance(part, ast.Starred) else item for part, item in pairs]
            return one(Many(frozenset().union(*inside) or FOREIGN))
        return one(Row(tuple(items)))

    def _list(self, node: ast.List, scope: Scope) -> Value:
        found = self._tuple(node, scope)  # type: ignore[arg-type]
        return one(Many(element(found) or FOREIGN))

    _set = _list

    def _dict(self, node: ast.Dict, scope: Scope) -> Value:
        values: Value = frozenset()
        keys: Value = frozenset()
        for key, item in zip(node.keys, node.values, strict=True):
            value = self.value(item, scope)
            values |= element(value) if key is None else value
            keys |= self.value(key, scope) if key is not None else FOREIGN
        return one(Many(values or FOREIGN, keys or FOREIGN))

    def _ifexp(self, node: ast.IfExp, scope: Scope) -> Value:
        outcome = holds(self, node.test, scope)
        self.value(node.test, scope)
        found: Value = frozenset()
        if outcome is not False:
            found |= self.value(node.body, narrowed(self, node.test, scope, outcome=True))
        if outcome is not True:
            found |= self.value(node.orelse, narrowed(self, node.test, scope, outcome=False))
        return found

    def _boolop(self, node: ast.BoolOp, scope: Scope) -> Value:
        """`hasattr(...) and ...`: what comes after is asked only where the name is there."""
        found: Value = frozenset()
        inner = scope
        stops = isinstance(node.op, ast.And)
        for part in node.values:
            found |= self.value(part, inner)
            if holds(self, part, inner) is (not stops):
                break
            inner = narrowed(self, part, inner, outcome=stops)
        return found

    def _binop(self, node: ast.BinOp, scope: Scope) -> Value:
        sides = self.value(node.left, scope) | self.value(node.right, scope)
        for kind in sides:
            if isinstance(kind, TrtObject) and self.api.has_class(kind.name) and self.api.enum(kind.name):
                return self.problem(node, f"{kind.name} is no number: int(...) makes one of it")
        many = [kind for kind in sides if isinstance(kind, Many | Row) and of_trt(one(kind))]
        return frozenset(many) or FOREIGN

    def _namedexpr(self, node: ast.NamedExpr, scope: Scope) -> Value:
        found = self.value(node.value, scope)
        self.bind(node.target, found, scope)
        return found

    def _starred(self, node: ast.Starred, scope: Scope) -> Value:
        return self.value(node.value, scope)

    _await = _starred


def _is_lambda(node: ast.expr) -> bool:
    return isinstance(node, ast.Lambda)
