"""The table, the raw numbers and the picture."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import math
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.peers.cases import Group, Row

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

COLOURS = {
    "SciPy": "#4477aa",
    "PyAMG": "#66ccee",
    "PETSc, 1 rank": "#ccbb44",
    "PETSc, 2 ranks": "#ee6677",
    "Eigen, 2 threads": "#228833",
    "cgopt, 8 vectors": "#bbbbbb",
    "curvlinops": "#332288",
    "BackPACK": "#88ccee",
    "torch": "#cc6677",
    "jax": "#ddcc77",
    "numpy.linalg.solve": "#ccbb44",
    "side by side": "#bbbbbb",
    "cgopt.cg(A, B)": "#bbbbbb",
    "target": "black",
}
"""Tol's bright scheme, told apart by the colour-blind; the order is the legend's."""


def machine() -> dict[str, object]:
    """Processor, cores, memory and load of this machine; call it before the run, for the load."""
    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "last-level cache": _last_level_cache(),
        "memory GB": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "settings": " ".join(f"{key}={value}" for key, value in sorted(os.environ.items()) if _tells(key, value)),
        "load average at the start": round(os.getloadavg()[0], 2),
    }


class Bystanders:
    """How much of the processors other programs took while the benchmark ran."""

    def __init__(self) -> None:
        self._start = self._times()

    @staticmethod
    def _times() -> tuple[float, float, float]:
        """Seconds that this machine, then this process with its ended children, was at work; and the clock."""
        try:
            user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
        except OSError:
            return math.nan, 0.0, time.monotonic()
        everyone = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
        return everyone, sum(os.times()[:4]), time.monotonic()

    def share(self) -> float:
        """Others' processor time since the beginning, as a share of all there was; NaN where it is not told."""
        everyone, ours, elapsed = (now - then for now, then in zip(self._times(), self._start, strict=True))
        return max(0.0, everyone - ours) / (elapsed * (os.cpu_count() or 1))


def versions(external: Mapping[str, str]) -> dict[str, str]:
    """Versions of Python, the packages, and the peers that were found."""
    packages = ("cgopt", "numpy", "scipy", "numba", "llvmlite", "pyamg", "matplotlib")
    peers = ("curvlinops-for-pytorch", "backpack-for-pytorch", "torch", "jax")
    found = {name: _version(name) for name in (*packages, *peers)}
    return {"python": platform.python_version()} | found | dict(external)


def write(
    folder: Path,
    stem: str,
    command: str,
    system: Mapping[str, object],
    software: Mapping[str, str],
    groups: Mapping[str, Group],
    seconds: float,
) -> None:
    """Write ``stem.md``, ``stem.json`` and ``stem.png`` into `folder`.

    Parameters
    ----------
    folder : Path
        Created if missing.
    stem : str
        File name without its ending.
    command : str
        What reproduces the run.
    system, software : mapping
        What `machine` and `versions` returned.
    groups : mapping of str to Group
        What was measured.
    seconds : float
        Duration of the run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    header = {
        "command": command,
        "date": date,
        "seconds": round(seconds),
        "machine": system,
        "versions": software,
    }
    raw = header | {"groups": {key: asdict(group) for key, group in groups.items()}}
    (folder / f"{stem}.json").write_text(json.dumps(raw, indent=1, default=float) + "\n")
    drawn = _draw(folder / f"{stem}.png", groups)
    (folder / f"{stem}.md").write_text(_markdown(stem, header, groups, drawn))


def table(group: Group) -> str:
    """The group's rows as a Markdown table."""
    lines = ["| case | contender | median | spread | ratio to cgopt | target | verdict | notes |"]
    lines += ["|---|---|---:|---:|---:|---|---|---|"]
    return "\n".join(lines + [_line(row) for row in group.rows])


def _markdown(stem: str, header: Mapping, groups: Mapping[str, Group], drawn: bool) -> str:
    rows = [row for group in groups.values() for row in group.rows]
    judged = [row for row in rows if row.target is not None]
    missed = [row for row in judged if row.verdict == "missed"]
    unmeasured = [row for row in judged if row.verdict == "not measured"]
    lines = [
        "# cgopt against its peers",
        "",
        f"`{header['command']}`, {header['date']}, {header['seconds']} s. Raw numbers: `{stem}.json`.",
        "",
        "- Machine: " + ", ".join(f"{key} {value}" for key, value in header["machine"].items() if value != "") + ".",
        "- Versions: " + ", ".join(f"{key} {value}" for key, value in header["versions"].items()) + ".",
        "- Method: two threads; contenders take turns in one process or in workers that sleep in between "
        "(A B C A B C ..., one unrecorded round first); medians. The ratio is the contender's median over "
        "cgopt's: above 1, cgopt is faster. The spread is half the interquartile range over the median.",
        f"- Targets: {len(judged) - len(missed) - len(unmeasured)} met, {len(missed)} missed, "
        f"{len(unmeasured)} not measured.",
        *(f"  - missed: {row.case}, {row.contender}: {_value(row)}, asked {_target(row)}" for row in missed),
        "",
    ]
    if drawn:
        lines += [f"![Time of each peer over cgopt's]({stem}.png)", ""]
    for group in groups.values():
        lines += [f"## {group.title}", "", group.method, ""]
        lines += [table(group), ""]
    return "\n".join(lines)


def _line(row: Row) -> str:
    cells = [
        row.case,
        row.contender,
        "" if row.seconds is None else seconds_in_words(row.seconds),
        "" if row.spread is None else f"{row.spread:.0%}",
        "" if row.ratio is None else f"{row.ratio:.3g}",
        _target(row),
        f"**{row.verdict}**" if row.verdict == "missed" else row.verdict,
        " ".join(filter(None, ["" if row.seconds is not None else _value(row), row.note])),
    ]
    return "| " + " | ".join(" ".join(cell.replace("|", "/").split()) for cell in cells) + " |"


def _target(row: Row) -> str:
    if row.target is None:
        return ""
    bound, unit = row.target.bound, row.target.unit
    return {
        "times": f"at least {bound:g}",
        "s": f"under {seconds_in_words(bound)}",
        "share": f"at least {bound:.0%}",
        "rate": f"at least {bound:.0%}",
        "ones": f"at most {bound:g}",
    }[unit]


def _value(row: Row) -> str:
    if row.target is None or row.value is None:
        return ""
    return {
        "times": f"{row.value:.3g}",
        "s": seconds_in_words(row.value),
        "share": f"{row.value:.0%} of the triad",
        "rate": f"{row.value:.0%} of the matrix-multiply rate",
        "ones": f"{row.value:.3g} times one",
    }[row.target.unit]


def seconds_in_words(value: float) -> str:
    for scale, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if abs(value) >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"


def _draw(path: Path, groups: Mapping[str, Group]) -> bool:
    """One horizontal bar per case and peer, its length the ratio to cgopt; targets as vertical marks."""
    # Not at the top: asv imports every module of this folder, and its environments hold no matplotlib.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = []
    for group in groups.values():
        bars = [row for row in group.rows if row.ratio is not None and row.contender != "cgopt"]
        if bars:
            panels.append((group, bars))
    if not panels:
        return False
    columns = [panels[:1], panels[1:]] if len(panels) > 1 else [panels]
    figure = Figure(figsize=(8.5 * len(columns), 1.4 + max(map(_height, columns))), layout="constrained")
    FigureCanvasAgg(figure)
    shown: dict[str, Artist] = {}
    for subfigure, column in zip(np.atleast_1d(figure.subfigures(1, len(columns))), columns, strict=True):
        ratios = [_height([panel]) for panel in column]
        axes = subfigure.subplots(len(column), 1, squeeze=False, gridspec_kw={"height_ratios": ratios})[:, 0]
        for axis, (group, bars) in zip(axes, column, strict=True):
            axis.set_title(group.title, loc="left", fontsize=11)
            shown |= _panel(axis, bars)
    figure.suptitle("Time of each peer over cgopt's time: right of 1, cgopt is faster", fontsize=14)
    names = [name for name in COLOURS if name in shown]
    figure.legend([shown[name] for name in names], names, loc="outside lower center", ncols=len(names))
    figure.savefig(path, dpi=100)
    return True


def _height(panels: Sequence[tuple[Group, Sequence[Row]]]) -> float:
    """Inches that the panels of a column take, one above the other."""
    return sum(0.8 + 0.2 * len(bars) + 0.16 * len({row.case for row in bars}) for _, bars in panels)


def _panel(axis: Axes, bars: Sequence[Row]) -> dict[str, Artist]:
    """Draw one group, a block of bars per case; return what the legend must explain."""
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

    shown: dict[str, Artist] = {}
    position, ticks, labels = 0.0, [], []
    for case in dict.fromkeys(row.case for row in bars):
        rows = [row for row in bars if row.case == case]
        ticks.append(position + (len(rows) - 1) / 2)
        labels.append(case.replace(", ", ",\n", 1))
        for row in rows:
            assert row.ratio is not None
            colour = COLOURS[row.contender]
            shown[row.contender] = axis.barh(position, row.ratio - 1, left=1.0, height=0.85, color=colour)[0]
            axis.annotate(
                f"{row.ratio:.3g}",
                (max(row.ratio, 1.0), position),
                (4, 0),
                textcoords="offset points",
                va="center",
                size=8,
            )
            if row.target is not None and row.target.unit == "times":
                ends = [position - 0.5, position + 0.5]
                shown["target"] = axis.plot([row.target.bound] * 2, ends, color=COLOURS["target"], linewidth=2.0)[0]
            position += 1
        position += 0.8
    values = [row.ratio for row in bars if row.ratio]
    values += [row.target.bound for row in bars if row.target and row.target.unit == "times"]
    axis.set_xscale("log")
    axis.set_xlim(min(0.7, 0.9 * min(values)), max(2.0, 1.7 * max(values)))
    axis.axvline(1.0, color="black", linewidth=0.8)
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_ylim(position - 0.9, -0.9)
    axis.set_yticks(ticks, labels, fontsize=9)
    axis.grid(axis="x", alpha=0.3)
    axis.set_axisbelow(True)
    return shown


def _tells(key: str, value: str) -> bool:
    """Whether a variable of the environment steers BLAS, OpenMP or Numba; paths stay out of the results."""
    return key.startswith(("OPENBLAS_", "MKL_", "OMP_", "GOMP_", "NUMBA_")) and "/" not in value


def cpu_model() -> str:
    """The processor's name, with its family and model where Linux tells them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor()
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    model = fields.get("model name", platform.processor())
    return f"{model} (family {fields['cpu family']}, model {fields['model']})" if "cpu family" in fields else model


def _last_level_cache() -> str:
    sizes = sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"))
    return sizes[-1].read_text().strip() if sizes else "unknown"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed as a package"
