"""Handle each result of a live camera or a recording: python examples/live_loop.py BUNDLE realsense"""

import sys

import edgefuse

bundle, camera = sys.argv[1:]
for result in edgefuse.live(bundle, camera=camera):
    if result.probability is None:
        print(f"frame {result.frame}: {result.warning or 'no object'}")
    else:
        print(
            f"frame {result.frame}: {result.label} {result.probability:.2f}, gate {result.gate:.2f}, {result.latency_ms:.1f} ms"
        )
