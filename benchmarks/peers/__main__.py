"""``python -m benchmarks.peers``: run the comparison and write its table, numbers and picture."""

from __future__ import annotations

import argparse
import datetime
import shlex
import signal
import sys
import time
from pathlib import Path

import cgopt
from benchmarks.peers import many, profiles, report, solve
from benchmarks.peers.cases import GROUPS as FOUNDATION
from benchmarks.peers.cases import Settings
from benchmarks.peers.external import Peers

RESULTS = Path(__file__).parent.parent / "results"
THREADS = 2
GROUPS = FOUNDATION | {"batched": many.batched, "block": many.block}
SOLVE = "solve"


def main(arguments: list[str] | None = None) -> None:
    """Run what is asked for; only whole runs at full size overwrite ``peers-foundation`` and ``peers-solve``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="smaller systems, three rounds: checks the benchmark itself"
    )
    parser.add_argument("--only", choices=[*GROUPS, SOLVE], help="one group of cases, or the whole solves")
    parser.add_argument("--repeat", type=int, metavar="N", help="rounds per case (9, with --quick 3)")
    parser.add_argument("--output", type=Path, default=RESULTS, metavar="FOLDER", help="where to write (%(default)s)")
    whole = parser.add_argument_group("whole solves")
    whole.add_argument(
        "--limit-seconds", type=float, default=solve.LIMIT_SECONDS, metavar="S", help="for one solve (%(default)g)"
    )
    whole.add_argument("--matrices", metavar="A,B,C", help="these systems only, by name")
    whole.add_argument("--resume", action="store_true", help="keep what has been measured, and measure the rest")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # an orderly end: workers and folders go too
    cgopt.set_num_threads(min(THREADS, cgopt.max_num_threads()))
    with Peers() as peers:
        if options.only != SOLVE:
            _groups(options, peers)
        if options.only in (None, SOLVE):
            _whole_solves(options, peers)


def _groups(options: argparse.Namespace, peers: Peers) -> None:
    """Measure groups of cases and write one report of all of them."""
    settings = Settings(repeat=options.repeat or (3 if options.quick else 9), quick=options.quick)
    machine, bystanders, start = report.machine(), report.Bystanders(), time.perf_counter()
    groups = {}
    for name in [options.only] if options.only else GROUPS:
        print(f"{name} ...", flush=True)
        groups[name] = GROUPS[name](settings, peers)
        print(report.table(groups[name]), flush=True)
    versions = report.versions(peers.versions)
    machine["taken by other programs"] = f"{bystanders.share():.0%} of the processors' time"
    stem = "-".join(filter(None, ["peers", "quick" if options.quick else "foundation", options.only]))
    report.write(options.output, stem, _command(options), machine, versions, groups, time.perf_counter() - start)
    print(f"written: {stem}.md, {stem}.json, {stem}.png")


def _whole_solves(options: argparse.Namespace, peers: Peers) -> None:
    """Measure whole solves, and write the table and the profiles of all that has been measured."""
    print("solve ...", flush=True)
    chosen = options.matrices.split(",") if options.matrices else None
    part = chosen is not None and not options.resume
    stem = "-".join(filter(None, ["peers", "quick" if options.quick else "", SOLVE, "part" if part else ""]))
    header = {
        "command": _command(options),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": report.machine(),
        "versions": report.versions({}),
    }
    path = options.output / f"{stem}.json"
    results = solve.measure(
        path,
        peers,
        header,
        limit=options.limit_seconds,
        chosen=chosen,
        resume=options.resume,
        quick=options.quick,
    )
    if not results["systems"]:
        raise SystemExit("no system was large enough to be measured")
    profiles.write(path, results)
    print("\n".join(profiles.summary(profiles.middle_runs(results))))
    print(f"written: {stem}.md, {stem}.json, {stem}.png")


def _command(options: argparse.Namespace) -> str:
    """What reproduces the numbers; the output folder does not change them, and paths stay out of the results."""
    words = ["--quick"] if options.quick else []
    words += ["--only", options.only] if options.only else []
    words += ["--repeat", str(options.repeat)] if options.repeat else []
    words += ["--limit-seconds", f"{options.limit_seconds:g}"] if options.limit_seconds != solve.LIMIT_SECONDS else []
    words += ["--matrices", options.matrices] if options.matrices else []
    return shlex.join(["python", "-m", "benchmarks.peers", *words])


if __name__ == "__main__":
    main()
