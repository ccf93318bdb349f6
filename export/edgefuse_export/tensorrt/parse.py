"""The verdict of NVIDIA's ONNX parser on a file: TensorRT's or TensorRT-RTX's. Nothing is built; TensorRT-RTX needs no GPU.

`ask_parser` asks in a process of its own, because the parser of TensorRT-RTX 1.7.1 crashes on some damaged files, such as one with
a node without outputs (seen). `python -m edgefuse_export.tensorrt.parse FILE` is that process.
"""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from edgefuse.errors import UserError
from edgefuse.io.files import path_or_bytes
from edgefuse.io.json_files import dumps, parse_json
from edgefuse_runtime.engines.tensorrt_library import RTX, TENSORRT, Library, load_library, version_numbers

if TYPE_CHECKING:
    import tensorrt as trt

STRONGLY_TYPED_SINCE = (10, 12)
"""First version in which NVIDIA calls strongly typed networks fully available; TensorRT 11 and TensorRT-RTX have no others."""

TIMEOUT_S = 120.0
"""For one file. A file of 30,000 nodes takes 2.4 s on one core."""

NO_OPERATOR = "the parser has no such operator"


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """One error of the parser.

    Attributes:
        operator: of the node; "" if the error belongs to no node.
        node: its name; "" if it has none.
        code: name of the parser's error code, such as "UNSUPPORTED_NODE".
        reason: the parser's text.
    """

    operator: str = ""
    node: str = ""
    code: str
    reason: str

    def __str__(self) -> str:
        where = f"node {self.node or 'without a name'} ({self.operator})" if self.operator else "the file"
        return f"{where}: {self.reason} ({self.code})"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a parser answered.

    Attributes:
        parser: library and version, such as "TensorRT-RTX 1.7.1.116".
        refusals: none = the parser accepts the file.
    """

    parser: str
    refusals: tuple[Refusal, ...]

    def to_json(self) -> dict[str, Any]:
        """The verdict as a JSON object."""
        return {
            "library": self.parser,
            "accepts": not self.refusals,
            "refusals": [asdict(one) for one in self.refusals],
        }


def is_strongly_typed(library: Library) -> bool:
    """Whether networks get their precision from the types in the ONNX file."""
    return library.product is RTX or version_numbers(library.version)[:2] >= STRONGLY_TYPED_SINCE


def network_flags(library: Library) -> int:
    """The flags of `Builder.create_network`."""
    trt = library.module
    return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED) if is_strongly_typed(library) else 0


def refusals_of(parser: trt.OnnxParser, path: Path) -> tuple[Refusal, ...]:
    """Parse a file into the network of `parser`, and return all errors; none if the parser accepts the file."""
    file = path_or_bytes(path)
    if parser.parse_from_file(file) if isinstance(file, str) else parser.parse(file):
        return ()
    found = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        code = str(error.code()).rpartition(".")[2]  # 10.3's stubs have no `name`
        reason = _readable(error.desc(), error.node_name())
        found.append(Refusal(operator=error.node_operator(), node=error.node_name(), code=code, reason=reason))
    return tuple(found) or (Refusal(code="UNKNOWN", reason="no reason was given"),)


def _readable(text: str, node: str) -> str:
    """The text of an error in one line, without what says nothing about the file."""
    if text.strip() == "false":  # the check of an operator that is never supported: "[8] false"
        return NO_OPERATOR
    lines = [line.strip() for line in text.splitlines()]
    kept = [line for line in lines if line and line != f"Invalid Node - {node}" and "Cuda Runtime" not in line]
    return "; ".join(kept).removeprefix("Assertion failed: ") or text.strip()


def verdict(library: Library, path: Path, *, operators: Sequence[str] = ()) -> Verdict:
    """Parse a file in this process.

    Args:
        operators: of the file. After an error that ends the parse, those that the parser lacks are added.

    Raises:
        UserError: the library does not start on this machine.
    """
    trt = library.module
    logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
    network = _new_builder(library, logger).create_network(network_flags(library))
    parser = trt.OnnxParser(network, logger)
    refusals = refusals_of(parser, path)
    if refusals:
        named = {refusal.operator for refusal in refusals}
        lacking = [name for name in operators if name not in named and not parser.supports_operator(name)]
        refusals += tuple(Refusal(operator=name, code="UNSUPPORTED_NODE", reason=NO_OPERATOR) for name in lacking)
    return Verdict(parser=library.title, refusals=refusals)


def _new_builder(library: Library, logger: trt.Logger) -> trt.Builder:
    trt = library.module
    try:
        return trt.Builder(logger)
    except TypeError as error:  # pybind11's error for a null pointer
        raise UserError(f"{library.title} does not start on this machine: it needs a GPU that it supports") from error


def ask_parser(path: Path, *, operators: Sequence[str] = (), timeout_s: float = TIMEOUT_S) -> Verdict | str:
    """The verdict of TensorRT's parser, or else of TensorRT-RTX's; or, as text, why neither can be asked.

    A crash of the parser, or no answer in time, is a refusal.

    Args:
        operators: the operators of the file.
    """
    command = [sys.executable, "-m", "edgefuse_export.tensorrt.parse", str(path.absolute())]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
    try:
        done = subprocess.run(
            command,
            cwd="/",
            env=environment,
            input=dumps(list(operators)).encode(),
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
        status, answer, noise = done.returncode, done.stdout, done.stderr
    except subprocess.TimeoutExpired as error:
        status, answer, noise = None, error.stdout or b"", b""
    except OSError as error:
        return f"no process for the parser can be started: {error}"
    lines = answer.splitlines()
    messages = noise.decode(errors="replace").strip().splitlines()
    if not lines:
        return f"the process of the parser failed: {messages[-1] if messages else _ended(status, timeout_s)}"
    first = parse_json(lines[0], what="the parser's process")
    if "missing" in first:
        return str(first["missing"])
    if len(lines) == 1:
        crash = Refusal(code="CRASH", reason=f"the parser {_ended(status, timeout_s)}")
        return Verdict(parser=first["library"], refusals=(crash,))
    found = [Refusal(**one) for one in parse_json(lines[1], what="the parser's process")["refusals"]]
    return Verdict(parser=first["library"], refusals=tuple(_with_type(refusal, messages) for refusal in found))


def _ended(status: int | None, timeout_s: float) -> str:
    if status is None:
        return f"did not answer within {timeout_s:g} s"
    if status >= 0:
        return f"ended with status {status}"
    return f"crashed ({signal.Signals(-status).name})"


def _with_type(refusal: Refusal, messages: Sequence[str]) -> Refusal:
    """With the type that the library could not convert: its error lacks it, a line of the library's log has it."""
    found = [line for line in messages if re.match(r"Unsupported ONNX data type", line)]
    return replace(refusal, reason=f"{found[0]}; {refusal.reason}") if found and not refusal.operator else refusal


def _answer(path: Path, operators: Sequence[str], answer: TextIO) -> None:
    """Write JSON lines: the library once it has started, then the verdict; or only why no library starts."""
    reasons = []
    for product in (TENSORRT, RTX):  # TensorRT first: it is what `edgefuse build` uses by default
        try:
            library = load_library(product)
            trt = library.module
            _new_builder(library, trt.Logger(trt.Logger.INTERNAL_ERROR))
        except UserError as error:
            reasons.append(str(error))
            continue
        _write(answer, {"library": library.title})
        _write(answer, verdict(library, path, operators=operators).to_json())
        return
    _write(answer, {"missing": " ".join(reasons)})


def _write(answer: TextIO, value: dict[str, Any]) -> None:
    answer.write(dumps(value) + "\n")
    answer.flush()


def _main() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # the library writes to stdout as well
    operators = parse_json(sys.stdin.buffer.read(), what="the operators", spec=[str])
    _answer(Path(sys.argv[1]), operators, answer)


if __name__ == "__main__":
    _main()
