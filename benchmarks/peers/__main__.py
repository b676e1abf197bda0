"""``python -m benchmarks.peers``: run the comparison and write its table, numbers and picture."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import time
from pathlib import Path

import cgopt
from benchmarks.peers import report
from benchmarks.peers.cases import GROUPS, Settings
from benchmarks.peers.external import Peers

RESULTS = Path(__file__).parent.parent / "results"
THREADS = 2


def main(arguments: list[str] | None = None) -> None:
    """Run the groups asked for; only a whole run at full size overwrites ``peers-foundation``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="smaller systems, three rounds: checks the benchmark itself"
    )
    parser.add_argument("--only", choices=GROUPS, help="one group of cases")
    parser.add_argument("--repeat", type=int, metavar="N", help="rounds per case (9, with --quick 3)")
    parser.add_argument("--output", type=Path, default=RESULTS, metavar="FOLDER", help="where to write (%(default)s)")
    options = parser.parse_args(arguments)
    settings = Settings(repeat=options.repeat or (3 if options.quick else 9), quick=options.quick)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # an orderly end: workers and folders go too
    cgopt.set_num_threads(min(THREADS, cgopt.max_num_threads()))

    machine, bystanders, start = report.machine(), report.Bystanders(), time.perf_counter()
    groups = {}
    with Peers() as peers:
        for name in [options.only] if options.only else GROUPS:
            print(f"{name} ...", flush=True)
            groups[name] = GROUPS[name](settings, peers)
            print(report.table(groups[name]), flush=True)
        versions = report.versions(peers.versions)
    machine["taken by other programs"] = f"{bystanders.share():.0%} of the processors' time"
    stem = "-".join(filter(None, ["peers", "quick" if options.quick else "foundation", options.only]))
    command = shlex.join(["python", "-m", "benchmarks.peers", *_repeatable(options)])
    report.write(options.output, stem, command, machine, versions, groups, time.perf_counter() - start)
    print(f"written: {stem}.md, {stem}.json, {stem}.png")


def _repeatable(options: argparse.Namespace) -> list[str]:
    """The options that change the numbers; the output folder does not, and paths stay out of the results."""
    words = ["--quick"] if options.quick else []
    words += ["--only", options.only] if options.only else []
    return words + (["--repeat", str(options.repeat)] if options.repeat else [])


if __name__ == "__main__":
    main()
