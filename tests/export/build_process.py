"""One `build_engine` with the fake TensorRT in a separate process: python build_process.py BUNDLE PRECISION SECONDS [FLAG].

It waits until FLAG exists, builds for SECONDS, and prints a JSON object; its log goes to standard error.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from engine_scenes import GPU, host_opener

import edgefuse_export.tensorrt.build as tensorrt_module
from edgefuse.bundle import open_bundle
from edgefuse.console.messages import messages_shown
from edgefuse_export.tensorrt.build import BuildOptions, build_engine
from fake_tensorrt import FakeTensorRT


def main(folder: Path, precision: str, build_s: float, flag: Path | None) -> None:
    fake = FakeTensorRT(version="10.16.1.11", device=GPU.name)
    sys.modules["tensorrt"] = fake.module
    tensorrt_module.current_gpu = lambda: GPU  # type: ignore[attr-defined]
    quick = fake.module.Builder.build_serialized_network  # type: ignore[attr-defined]

    def slow(builder: Any, network: Any, config: Any) -> Any:
        time.sleep(build_s)
        return quick(builder, network, config)

    fake.module.Builder.build_serialized_network = slow  # type: ignore[attr-defined]
    print("ready", file=sys.stderr, flush=True)
    while flag is not None and not flag.exists():
        time.sleep(0.02)
    with messages_shown():
        summary = build_engine(
            folder, BuildOptions(precision=precision), open_plan=host_opener(fake, open_bundle(folder))
        )
    print(json.dumps({"built": summary.built, "name": summary.record.name, "num_builds": len(fake.builds)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), Path(sys.argv[4]) if len(sys.argv) > 4 else None)
