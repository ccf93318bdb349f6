"""How code asks for a name that not every version has: hasattr, getattr with a default, and what follows from their answers."""

from __future__ import annotations

import ast
from typing import Any, Protocol

from asking import RefusedError, attribute
from kinds import FOREIGN, TRT, UNKNOWN, Foreign, Text, TrtClass, TrtModule, Unknown, Value, of_trt, told
from signatures import Api

GUARDS = ("getattr", "hasattr", "setattr", "delattr")

Scope = dict[str, Value]


class Evaluates(Protocol):
    """The part of Expressions that is used here."""

    api: Api
    module: Any
    findings: Any

    def value(self, node: ast.expr | None, scope: Scope) -> Value: ...
    def ask(self, node: Any, kind: Any, name: str) -> Value: ...
    def problem(self, node: Any, text: str) -> Value: ...


def guarded(of: Evaluates, node: ast.Call, scope: Scope) -> Value:
    """The call of one of GUARDS. A name must be written there, or be a constant that is."""
    name = node.func.id  # type: ignore[attr-defined]
    owner, wanted = of.value(node.args[0], scope), of.value(node.args[1], scope)
    default: Value = of.value(node.args[2], scope) if len(node.args) > 2 else frozenset()
    kinds = [kind for kind in owner if isinstance(kind, TRT)]
    if not kinds:
        unknown = Unknown() in owner
        return of.problem(node, f"nothing is known of what {name} is asked of: annotate it") if unknown else FOREIGN
    texts = [kind.text for kind in wanted if isinstance(kind, Text)]
    if name in ("setattr", "delattr") or not texts or len(texts) != len(wanted):
        return of.problem(node, f"{name} of {told(kinds[0])} with a name that is not written there cannot be checked")
    found: Value = frozenset()
    for kind in kinds:
        for text in texts:
            if name == "getattr" and len(node.args) == 2:
                found |= of.ask(node, kind, text)
            else:
                asked = has(of, node, kind, text)
                found |= default if asked is None else asked
    return FOREIGN if name == "hasattr" else found | default


def has(of: Evaluates, node: Any, kind: Any, name: str) -> Value | None:
    """A guarded name, noted: some version must have it. None = this one has not."""
    found: Value | None
    try:
        found = attribute(of.api, kind, name)
    except RefusedError:
        # Of a class, a property cannot be asked, but hasattr sees it.
        there = (
            isinstance(kind, TrtClass) and of.api.has_class(kind.name) and of.api.member(kind.name, name) is not None
        )
        found = FOREIGN if there else None
    of.findings.num_asked += 1
    if found is not None:
        of.findings.names.add(name if isinstance(kind, TrtModule) else f"{told(kind)}.{name}")
    of.findings.guarded[(f"{of.module.path}:{node.lineno}", f"{told(kind)}.{name}")] = found is not None
    return found


def holds(of: Evaluates, test: ast.expr, scope: Scope) -> bool | None:
    """Is a condition decided by the version alone? None = no."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        inside = holds(of, test.operand, scope)
        return None if inside is None else not inside
    if isinstance(test, ast.BoolOp):
        parts = [holds(of, part, scope) for part in test.values]
        decisive = isinstance(test.op, ast.Or)
        if decisive in parts:
            return decisive
        return (not decisive) if None not in parts else None
    if isinstance(test, ast.Call) and getattr(test.func, "id", "") == "hasattr" and len(test.args) == 2:
        kinds = [kind for kind in of.value(test.args[0], scope) if isinstance(kind, TRT)]
        texts = [kind.text for kind in of.value(test.args[1], scope) if isinstance(kind, Text)]
        if len(kinds) == len(texts) == 1:
            return has(of, test, kinds[0], texts[0]) is not None
    return None


def narrowed(of: Evaluates, test: ast.expr, scope: Scope, *, outcome: bool) -> Scope:
    """The scope where a condition came out so: `isinstance(x, dict)` makes x plain data."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return narrowed(of, test.operand, scope, outcome=not outcome)
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And) is outcome:
        for part in test.values:
            scope = narrowed(of, part, scope, outcome=outcome)
        return scope
    if not (outcome and isinstance(test, ast.Call) and getattr(test.func, "id", "") == "isinstance"):
        return scope
    name = test.args[0].id if isinstance(test.args[0], ast.Name) else ""
    classes = of.value(test.args[1], scope)
    if name not in scope or of_trt(classes) or classes & UNKNOWN:
        return scope
    return {**scope, name: frozenset(Foreign() if isinstance(kind, Unknown) else kind for kind in scope[name])}
