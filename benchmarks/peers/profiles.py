"""What the raw numbers of whole solves say: summary, table, and performance profiles.

E. Dolan and J. More, Benchmarking optimization software with performance profiles, Math. Program. 91, 2002: for each
contender the share of systems that it solves within a factor tau of the best contender on that system.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.report import COLOURS, seconds_in_words
from benchmarks.peers.solve import (
    AUTO,
    COLD_SECONDS,
    HOPELESS,
    ITERATIVE,
    PEERS,
    REPEAT,
    REPEAT_COLD,
    SHORT_SECONDS,
    SHORTEST_LIMIT,
    SOLVED,
    Run,
    median_run,
)

LIBRARIES = {
    "cgopt": "black",
    "SciPy": COLOURS["SciPy"],
    "PyAMG": COLOURS["PyAMG"],
    "PETSc": COLOURS["PETSc, 2 ranks"],
    "Eigen": COLOURS["Eigen, 2 threads"],
}
STYLES = ["-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)), (0, (8, 3))]

Runs = Mapping[str, Mapping[str, Run]]
"""The median run of every contender, by system."""


def middle_runs(results: Mapping[str, Any]) -> dict[str, dict[str, Run]]:
    """The median run of each contender on each system of the raw numbers."""
    return {
        system: {name: median_run([Run(**run) for run in runs]) for name, runs in entry["runs"].items()}
        for system, entry in results["systems"].items()
    }


def best_seconds(runs: Mapping[str, Run], part: str = "total", names: Sequence[str] = ITERATIVE) -> float:
    """The shortest time (``"total"`` or ``"seconds"``, the solve alone) of iterative contenders; infinite if none."""
    solved = [getattr(runs[name], part) for name in names if runs[name].status == SOLVED]
    return min(solved, default=math.inf)


def ratios(middle: Runs, name: str, part: str = "total", names: Sequence[str] = ITERATIVE) -> np.ndarray:
    """A contender's time over the best's of `names`, per system; infinite where it does not solve it."""
    return np.array(
        [
            getattr(runs[name], part) / best_seconds(runs, part, names) if runs[name].status == SOLVED else math.inf
            for runs in middle.values()
        ]
    )


def charged(runs: Mapping[str, Run], name: str) -> float:
    """A contender's total time; `HOPELESS` times the best one's where it does not solve, or takes longer than that."""
    most = HOPELESS * best_seconds(runs)
    return min(runs[name].total, most) if runs[name].status == SOLVED else most


def geometric_mean(values: list[float]) -> float:
    """Of positive values; NaN of none."""
    return float(np.exp(np.mean(np.log(values)))) if values else math.nan


def against_auto(middle: Runs, name: str) -> tuple[float, float]:
    """Geometric means of a contender's time over that of ``M="auto"``.

    Returns
    -------
    both : float
        Over the systems that both solve.
    all : float
        Over the systems that anybody solves, failures charged as `charged` says.
    """
    both = [
        runs[name].total / runs[AUTO].total
        for runs in middle.values()
        if runs[name].status == runs[AUTO].status == SOLVED
    ]
    everything = [
        charged(runs, name) / charged(runs, AUTO) for runs in middle.values() if best_seconds(runs) < math.inf
    ]
    return geometric_mean(both), geometric_mean(everything)


def summary(middle: Runs) -> list[str]:
    """The figures asked for, as lines of Markdown."""
    others = [AUTO, *(peer.name for peer in PEERS)]
    auto, beside_ours = (ratios(middle, AUTO, names=names) for names in (others, ITERATIVE))
    present = [
        peer.name for peer in PEERS if any(not run[peer.name].status.startswith("absent") for run in middle.values())
    ]
    if not present:
        return ["No peer was found."]
    best_peer = min(present, key=lambda name: against_auto(middle, name)[1])
    both, everything = against_auto(middle, best_peer)
    nobody = [system for system, runs in middle.items() if best_seconds(runs) == math.inf]
    missed = [
        system
        for system, runs in middle.items()
        if runs[AUTO].status != SOLVED and any(runs[name].status == SOLVED for name in present)
    ]
    slow = sorted(zip(auto, middle, strict=True), reverse=True)
    outside = [f"{system} ({ratio:.2g})" for ratio, system in slow if 1.5 < ratio < math.inf]
    return [
        f"- {len(middle)} systems. `{AUTO}` solves {np.isfinite(auto).sum()}; beside the peers' iterative solvers it "
        f"is the fastest on {np.mean(auto <= 1.0):.0%} of the set (asked: 70 %), within 1.5 times the best on "
        f"{np.mean(auto <= 1.5):.0%} (asked: 95 %), within twice on {np.mean(auto <= 2.0):.0%}. Beside our own "
        f"preconditioners as well, each of them taken for the whole set: fastest on {np.mean(beside_ours <= 1.0):.0%}, "
        f"within 1.5 times the best on {np.mean(beside_ours <= 1.5):.0%}.",
        f"- Best single configuration of a peer: {best_peer}. Geometric mean of its time over that of `{AUTO}`: "
        f"{everything:.2f} over the set, {both:.2f} over the systems that both solve (asked: 2).",
        f"- Solved by a peer and not by `{AUTO}`: {', '.join(missed) or 'none'}.",
        f"- Solved by nobody: {', '.join(nobody) or 'none'}.",
        f"- `{AUTO}` takes more than 1.5 times the best of the peers: {', '.join(outside) or 'nowhere'}.",
    ]


def distance(results: Mapping[str, Any]) -> list[str]:
    """How far from each other the cores were that two threads ran on, as a line of Markdown."""
    times = [entry.get("meeting of two threads, seconds") for entry in results["systems"].values()]
    known = np.array([1e9 * seconds for seconds in times if seconds])
    if not known.size:
        return []
    return [
        f"- Two threads of cgopt took {np.median(known):.0f} ns to meet, in the median over the systems "
        f"({known.min():.0f} to {known.max():.0f}); more than 300 on {np.mean(known > 300):.0%}. Cores that share a "
        "cache take some 100. (A virtual machine's cores move: where they lie apart, what threads exchange costs more.)"
    ]


def standings(middle: Runs) -> list[str]:
    """A row for each contender: how much it solves, how often it is fast, its time beside that of ``M="auto"``."""
    lines = [
        f"| contender | solved | fastest | within 1.5 | within 2 | time over `{AUTO}`, both solve | over the set |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    order = sorted(ITERATIVE, key=lambda name: against_auto(middle, name)[1])
    for name in order:
        ratio, (both, everything) = ratios(middle, name), against_auto(middle, name)
        shares = " | ".join(f"{np.mean(ratio <= tau):.0%}" for tau in (1.0, 1.5, 2.0))
        lines.append(f"| {name} | {np.isfinite(ratio).sum()} | {shares} | {both:.2f} | {everything:.2f} |")
    return lines


def table(results: Mapping[str, Any], middle: Runs) -> list[str]:
    """A row for each system: the fastest, ours, and the total times of all."""
    names = list(next(iter(middle.values())))
    lines = [
        f"| system | n | entries | fastest iterative | `{AUTO}` over it | auto chose | {' | '.join(names)} |",
        "|---|---:|---:|---|---:|---|" + "---:|" * len(names),
    ]
    for system, runs in middle.items():
        best = best_seconds(runs)
        fastest = next((n for n in ITERATIVE if runs[n].status == SOLVED and runs[n].total == best), "nobody")
        auto = runs[AUTO]
        over = f"{auto.total / best:.2f}" if auto.status == SOLVED else auto.status
        entry = results["systems"][system]
        cells = [f"**{_cell(runs[name])}**" if name == fastest else _cell(runs[name]) for name in names]
        chose = auto.note.rpartition(", ")[2]
        lines.append(
            f"| {system} | {entry['n']} | {entry['nnz']} | {fastest} | {over} | {chose} | {' | '.join(cells)} |"
        )
    return lines


def _cell(run: Run) -> str:
    if run.status != SOLVED:
        return run.status.split(":")[0]
    return f"{seconds_in_words(run.total)} ({run.iterations})"


def markdown(stem: str, results: Mapping[str, Any]) -> str:
    """The whole page."""
    middle = middle_runs(results)
    return "\n".join(
        [
            "# Whole solves: cgopt against its peers",
            "",
            f"`{results['command']}`, {results['date']}. Raw numbers: `{stem}.json`.",
            "",
            "- Machine: "
            + ", ".join(f"{key} {value}" for key, value in results["machine"].items() if value != "")
            + ".",
            "- Versions: " + ", ".join(f"{key} {value}" for key, value in results["versions"].items()) + ".",
            "- Method: " + _method(results),
            "",
            *summary(middle),
            *distance(results),
            "",
            f"![Performance profiles]({stem}.png)",
            "",
            "## Contenders",
            "",
            *standings(middle),
            "",
            "## Systems: total time (iterations)",
            "",
            *table(results, middle),
            "",
        ]
    )


def _method(results: Mapping[str, Any]) -> str:
    return (
        "two threads, or ranks where the name says so. Right-hand side: the file's own, otherwise A times a seeded "
        f"standard normal vector. Asked: norm(b - A x) <= {results['rtol']:g} norm(b), computed by this benchmark from "
        "the x returned (1 % is let pass: that is what a residual by recurrence misses). A contender that says it "
        "converged and did not is asked once more for a hundredth of the tolerance, and that solve counts. At most "
        f"{results['maxiter']} iterations and {results['limit_seconds']:g} s, set-up included; a contender is also "
        f"ended at {HOPELESS:g} times the best time so far, never before {SHORTEST_LIMIT:g} s. Times are of set-up "
        f"from arrays in memory (for us, a SciPy CSR matrix) plus solve; under {SHORT_SECONDS:g} s the median of "
        f"{REPEAT}, in turns whose order is drawn, under {COLD_SECONDS:g} s of {REPEAT_COLD}, each after an unrecorded "
        "one. "
        f'In the column "over the set" failures, and times beyond it, are charged {HOPELESS:g} '
        "times the best one's time."
    )


def draw(path: Path, results: Mapping[str, Any]) -> None:
    """Two performance profiles side by side: total time, and the solve alone."""
    # Not at the top: asv imports every module of this folder, and its environments hold no matplotlib.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    middle = middle_runs(results)
    figure = Figure(figsize=(15, 6.5), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    for axis, part, title in ((left, "total", "set-up and solve"), (right, "seconds", "solve alone")):
        seen: dict[str, int] = {}
        for name in ITERATIVE:
            library = name.split()[0]
            style = STYLES[seen.get(library, 0)]
            seen[library] = seen.get(library, 0) + 1
            # A step at each system's ratio; flat from the last one that counts to the edge.
            steps = np.sort(ratios(middle, name, part))
            steps = steps[steps <= HOPELESS]
            tau = np.concatenate([[1.0], steps, [HOPELESS]])
            share = np.concatenate([[0], np.arange(1, len(steps) + 1), [len(steps)]]) / len(middle)
            width = 3.5 if name == AUTO else 1.4
            axis.step(tau, share, where="post", color=LIBRARIES[library], linestyle=style, linewidth=width, label=name)
        axis.set_xscale("log")
        axis.set_xlim(1.0, HOPELESS)
        axis.set_ylim(0.0, 1.02)
        axis.set_xticks([1, 1.5, 2, 3, 5, 10, 20], ["1", "1.5", "2", "3", "5", "10", "20"])
        axis.minorticks_off()
        axis.set_xlabel("tau: time over the best iterative contender's")
        axis.set_title(title)
        axis.grid(alpha=0.3)
    left.set_ylabel(f"share of the {len(middle)} systems solved within tau")
    figure.suptitle("Performance profiles (Dolan and More), true relative residual 1e-8", fontsize=14)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=9)
    figure.savefig(path, dpi=100)


def write(path: Path, results: Mapping[str, Any]) -> None:
    """Write the page and the picture beside the raw numbers at `path`."""
    draw(path.with_suffix(".png"), results)
    path.with_suffix(".md").write_text(markdown(path.stem, results))
