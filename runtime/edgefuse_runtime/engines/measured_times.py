"""The order in which `auto` tries the engines of the CPU, from times that were measured on this machine.

`edgefuse bench engine BUNDLE --remember` writes them into the bundle's engine cache, for the CPU, the versions of the libraries and
the ONNX files. Without them, INT8 and bfloat16 are not chosen: they may cost accuracy, and on some networks they are slower.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgefuse.bundle import Bundle
from edgefuse.errors import UserError
from edgefuse.io.environment import installed
from edgefuse.io.json_files import parse_json, write_json
from edgefuse_runtime.engines.cpu import cpu_id, usable_cores
from edgefuse_runtime.engines.engine_cache import ENGINES_FOLDER, read_private

DEFAULT_ORDER = ("openvino", "cpu")
EXACT = ("openvino:fp32", "cpu")
"""The engines that compute in FP32."""
MEASURED = (*EXACT, "openvino:bf16", "openvino:int8")
"""Those that `bench engine` measures."""
WORTH = 0.95
"""Largest fraction of the fastest FP32 engine's time for which a lower precision is chosen."""
MEASURE = "edgefuse bench engine BUNDLE --remember measures them"
_SPEC = {"of": {str: str}, "date": str, "p50_ms": {str: {str: float}}}


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The engines of the CPU to try, and why.

    Attributes:
        words: values of `--engine`, best first; the last one is an engine that needs no comparison.
        reasons: word -> why it is at its place.
    """

    words: tuple[str, ...]
    reasons: Mapping[str, str]


def choose(bundle: Bundle, *, num_threads: int | None) -> Choice:
    """The engines of the CPU for a bundle, by the times that were measured on this machine.

    Args:
        num_threads: threads of the engine; None = one per core. Times of another number are used if there are none for it.
    """
    times, reason = _read(bundle, num_threads=num_threads)
    if not times:
        return Choice(words=DEFAULT_ORDER, reasons=dict.fromkeys(DEFAULT_ORDER, f"FP32: {reason}"))
    fastest = min(times[word] for word in EXACT if word in times)
    kept = [word for word in times if word in EXACT or times[word] <= WORTH * fastest]
    words = sorted(kept, key=lambda word: times[word])
    words = words[: words.index("cpu") + 1]
    reasons = {word: f"{reason}: {times[word]:.2f} ms, ONNX Runtime {times['cpu']:.2f} ms" for word in words}
    return Choice(words=tuple(words), reasons=reasons)


def remember_times(bundle: Bundle, p50_ms: Mapping[int, Mapping[str, float]], *, date: str) -> Path:
    """Keep measured times.

    Args:
        p50_ms: number of threads -> value of `--engine` -> milliseconds; "cpu" must be one of them.
        date: of the measurement.

    Raises:
        UserError, OSError: the bundle's folder cannot be written.
    """
    path = _path(bundle)
    path.parent.mkdir(exist_ok=True)
    by_threads = {str(count): dict(times) for count, times in p50_ms.items()}
    write_json(path, {"of": _of(bundle), "date": date, "p50_ms": by_threads}, private=True, follow_links=False)
    return path


def _read(bundle: Bundle, *, num_threads: int | None) -> tuple[dict[str, float], str]:
    """Value of `--engine` -> milliseconds, and when they were measured; or empty, and why there are none."""
    path = _path(bundle)
    try:
        content, _ = read_private(path)
        value = parse_json(content, what=str(path), spec=_SPEC)
    except FileNotFoundError:
        return {}, f"no times were measured on this machine ({MEASURE})"
    except (UserError, OSError) as error:
        return {}, f"{path.name} is ignored ({error})"
    if value["of"] != _of(bundle):
        return {}, f"the times were measured with other versions or files ({MEASURE} again)"
    counts = {int(count): times for count, times in value["p50_ms"].items() if count.isdecimal() and "cpu" in times}
    if not counts:
        return {}, f"{path.name} has no times"
    wanted = num_threads or usable_cores()
    count = min(counts, key=lambda one: (abs(one - wanted), one))
    times = {word: ms for word, ms in counts[count].items() if word in MEASURED}
    when = f"measured here on {value['date'][:10]} with {count} thread{'' if count == 1 else 's'}"
    return times, when


def _path(bundle: Bundle) -> Path:
    return bundle.folder / ENGINES_FOLDER / f"times.{cpu_id()}.json"


def _of(bundle: Bundle) -> dict[str, str]:
    """Everything that the times depend on."""
    files = {name: entry.sha256 for name, entry in bundle.manifest.files.items() if name.endswith(".onnx")}
    return {"cpu": cpu_id(), **installed("onnxruntime"), **installed("openvino"), **files}
