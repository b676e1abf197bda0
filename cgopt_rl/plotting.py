"""Learning curves over seeds: the interquartile mean of returns against steps, with a bootstrap band."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .evaluation import confidence_interval, interquartile_mean
from .reporting import CSV_NAME

Array = npt.NDArray[Any]
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito's


def read_curve(folder: str | Path, column: str = "return_mean") -> tuple[Array, Array]:
    """Steps and one column of a run's ``progress.csv``; rounds without a value are left out.

    Parameters
    ----------
    folder : path
        What `learn` was given as `log_dir`.
    column : str

    Returns
    -------
    steps, values : (rounds,) float64
    """
    path = Path(folder) / CSV_NAME
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}; a run writes it when it is given log_dir")
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    if rows and column not in rows[0]:
        raise ValueError(f"{path} has no column {column!r}; it has {', '.join(rows[0])}")
    points = [(float(row["steps"]), float(row[column])) for row in rows if row[column] != ""]
    found = np.array(points).reshape(-1, 2)
    return found[:, 0], found[:, 1]


def aggregate(curves: Sequence[tuple[Array, Array]], points: int = 200) -> tuple[Array, Array, Array, Array]:
    """Interquartile mean over runs, and its 95 % bootstrap band, on a common grid of steps.

    Parameters
    ----------
    curves : sequence of (steps, values)
        One for each run. Between its points a curve holds its last value.
    points : int, default 200

    Returns
    -------
    steps, middle, low, high : ndarray
    """
    curves = [curve for curve in curves if curve[0].size]
    if not curves:
        raise ValueError("curves must hold at least one run with a value")
    first, last = max(c[0][0] for c in curves), min(c[0][-1] for c in curves)
    steps = np.linspace(first, max(first, last), points)
    table = np.stack([values[np.searchsorted(x, steps, side="right") - 1] for x, values in curves])
    middle = np.array([interquartile_mean(column) for column in table.T])
    if len(curves) == 1:
        return steps, middle, middle, middle
    band = np.array([confidence_interval(column, resamples=300) for column in table.T])
    return steps, middle, band[:, 0], band[:, 1]


def learning_curves(
    runs: Mapping[str, Sequence[str | Path]], path: str | Path, *, column: str = "return_mean", title: str = ""
) -> None:
    """Draw learning curves into a file.

    Parameters
    ----------
    runs : mapping of str to sequence of paths
        For each label, the folders of its runs (seeds).
    path : path
        Ends in .png, .pdf or .svg.
    column : str, default "return_mean"
    title : str, optional
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError('drawing needs matplotlib: pip install "cgopt[plot]"') from error
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    for k, (label, folders) in enumerate(runs.items()):
        curves = [read_curve(folder, column) for folder in folders]
        color = COLORS[k % len(COLORS)]
        for x, values in curves:
            axes.plot(x, values, color=color, linewidth=0.6, alpha=0.25)
        steps, middle, low, high = aggregate(curves)
        seeds = f" ({len(curves)} seeds)" if len(curves) > 1 else ""
        axes.plot(steps, middle, color=color, linewidth=1.8, label=label + seeds)
        axes.fill_between(steps, low, high, color=color, alpha=0.2, linewidth=0)
    axes.set(xlabel="environment steps", ylabel=column.replace("_", " "))
    axes.set_title(title, fontsize="medium", loc="left")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", frameon=False)
    figure.savefig(path, dpi=150)
