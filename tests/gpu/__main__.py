"""Runs the tests of the GPU backend on the device, and writes what came of them under the device's name.

python -m tests.gpu
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import pytest

import cgopt
from cgopt.kernels import gpu

HERE = Path(__file__).parent
RESULTS = HERE.parent.parent / "benchmarks" / "results"


class Outcomes:
    """Leaves the tests that run on a device; how many of them passed, failed, were skipped, and which failed."""

    def __init__(self):
        self.counts, self.failed = Counter(), []

    def pytest_collection_modifyitems(self, items):
        items[:] = [item for item in items if "on_device" in item.fixturenames or on_device(item)]

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or report.outcome != "passed":
            self.counts[report.outcome] += 1
        if report.failed:
            self.failed.append(report.nodeid)


def on_device(item):
    return getattr(item, "callspec", None) is not None and item.callspec.params.get("xp") == "device"


def main():
    reason = gpu.available()
    if reason is not None:
        sys.exit(f"No test was run: {reason}")
    outcomes = Outcomes()
    status = pytest.main(["-q", "-rs", str(HERE), *sys.argv[1:]], plugins=[outcomes])
    config = cgopt.configuration.describe()
    runtime = gpu.cupy().cuda.runtime
    device = runtime.getDeviceProperties(runtime.getDevice())["name"].decode().lower().replace(" ", "-")
    file = RESULTS / f"gpu-tests-{device}.json"
    record = {"config": config, "counts": dict(outcomes.counts), "failed": outcomes.failed}
    file.write_text(json.dumps(record, indent=1) + "\n")
    print("\n".join(config))
    print(", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.counts.items())), "- written to", file)
    sys.exit(int(status))


if __name__ == "__main__":
    main()
