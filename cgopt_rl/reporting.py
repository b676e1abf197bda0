"""What a run tells while it trains: a progress bar, a CSV file, and TensorBoard's files where that is installed."""

from __future__ import annotations

import csv
import importlib.util
import math
import time
from pathlib import Path
from typing import Any, Self

CSV_NAME = "progress.csv"


class Reporter:
    """Takes each round's metrics; a context manager around the training loop.

    Parameters
    ----------
    model : Algorithm
        Knows how many rows of the CSV file belong to it: rows of rounds after the checkpoint that it was loaded from
        are removed, and written again.
    folder : Path, optional
        For the files; without it there are none.
    progress : bool
        Show the bar.
    """

    def __init__(self, model: Any, folder: Path | None, progress: bool) -> None:
        self.model, self.folder, self.progress = model, folder, progress
        self._file: Any = None
        self._writer: Any = None
        self._board: Any = None
        self._bar: Any = None

    def __enter__(self) -> Self:
        if self.folder is not None:
            self._open_csv(self.folder / CSV_NAME)
            self._open_board(self.folder)
        if self.progress:
            self._open_bar()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()

    def report(self, metrics: dict[str, Any]) -> None:
        """Take in the metrics of one round."""
        if self._file is not None:
            if self._writer is None:
                self._writer = csv.DictWriter(self._file, list(metrics), extrasaction="ignore")
                self._writer.writeheader()
            self._writer.writerow({name: _shown(value) for name, value in metrics.items()})
            self._file.flush()
            self.model._log_rows += 1
        if self._board is not None:
            for name, value in metrics.items():
                if isinstance(value, (int, float)) and math.isfinite(value):
                    self._board.add_scalar(name, value, int(metrics["steps"]))
        if self._bar is not None:
            mean, rate = metrics["return_mean"], metrics["steps_per_second"]
            text = f"return {mean:.1f}" if math.isfinite(mean) else "no episode yet"
            self._bar.update(
                self._task, completed=metrics["steps"] - self._start, description=f"{text}, {rate:,.0f} steps/s"
            )

    def _open_csv(self, path: Path) -> None:
        kept: list[list[str]] = []
        if self.model._log_rows and path.is_file():
            with open(path, newline="") as file:
                kept = list(csv.reader(file))[: self.model._log_rows + 1]
        self.model._log_rows = max(0, len(kept) - 1)
        self._file = open(path, "w", newline="")
        if kept:
            csv.writer(self._file).writerows(kept)
            self._writer = csv.DictWriter(self._file, kept[0], extrasaction="ignore")

    def _open_board(self, folder: Path) -> None:
        if importlib.util.find_spec("tensorboard") is None:
            return
        from tensorboard.summary import Writer

        self._board = Writer(str(folder))

    def _open_bar(self) -> None:
        try:
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError('a progress bar needs rich: pip install "cgopt[rl]"') from error
        self._bar = Progress(
            TextColumn(self.model.name),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
        )
        self._start = self.model.steps
        self._task = self._bar.add_task("starting", total=max(1, self.model.goal - self.model.steps))
        self._bar.start()
        self._began = time.monotonic()


def _shown(value: Any) -> Any:
    """A float with the digits that give it back; nothing for one that is not a number."""
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else ""
    return value
