"""The command line: ``cgopt solve MATRIX`` for a system from a file, ``cgopt demo`` for a comparison.

The exit status is 0 when the tolerance was met, 1 when it was not, 2 when the request or a file is at fault,
and 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import gzip
import math
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np
import scipy.linalg

from . import __version__, preconditioners
from .arrays import Array
from .kernels.cpu import set_num_threads
from .linear import CGResult, CGSolver, IterationState
from .linear.stopping import check_maxiter, check_tolerance
from .operators import MatrixOperator
from .operators.formats import FORMATS

CONVERGED, NOT_CONVERGED, REFUSED, INTERRUPTED = 0, 1, 2, 130
BETWEEN_LINES = 0.25  # seconds between two signs of life

_T = TypeVar("_T")


class Refused(Exception):
    """What is wrong with a request, as a sentence for the user."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments after the program's name; those of the process by default.

    Returns
    -------
    int
        The exit status.
    """
    name = "cgopt"
    try:
        options = _parse(argv)
        name = f"cgopt {options.command}"
        status: int = options.run(options)
        return status
    except Refused as error:
        print(f"{name}: {error}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt as error:
        print(f"{name}: interrupted {error}".rstrip(), file=sys.stderr)
        return INTERRUPTED


# --- what may be asked ----------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Refused(f"{message} (`{self.prog} --help` lists what there is)")


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(
        prog="cgopt",
        description="Conjugate gradients for symmetric positive definite systems.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"cgopt {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND")
    parsers = {"solve": _add_solve(commands), "demo": _add_demo(commands)}

    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments:
        parser.print_help()
        raise Refused(f"which command: {' or '.join(parsers)}?")
    if not arguments[0].startswith("-") and arguments[0] not in parsers:
        raise Refused(_unknown("command", arguments[0], parsers))
    options, rest = parser.parse_known_args(arguments)
    own = parsers[options.command] if hasattr(options, "command") else parser
    if rest:
        option = next((word for word in rest if word.startswith("-")), None)
        if option is None:
            own.error(f"there is one argument too many: {rest[0]!r}")
        raise Refused(_unknown("option", option.partition("=")[0], own._option_string_actions))
    if own is parser:
        parser.error(f"which command: {' or '.join(parsers)}?")
    return options


def _add_solve(commands: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        "solve",
        help="solve a system from a file",
        description="Solve A x = b with A from a file, and say how it went. The exit status is 0 if the true "
        "residual meets the tolerance, 1 if not, 2 if the request or a file is at fault.",
        allow_abbrev=False,
    )
    parser.set_defaults(command="solve", run=_solve)
    parser.add_argument(
        "matrix",
        metavar="MATRIX",
        help="a Matrix Market file (.mtx, .mtx.gz) or .npz file, or its name in the folders of CGOPT_DATA",
    )
    parser.add_argument(
        "--rhs",
        metavar="FILE",
        help="the right-hand side: Matrix Market, .npy, or numbers in a text file; by default the one that "
        "lies with the matrix, otherwise standard-normal numbers, always the same",
    )
    parser.add_argument(
        "--rtol",
        metavar="T",
        type=_tolerance,
        default=1e-8,
        help="converged when |b - A x| <= max(T |b|, ATOL); default %(default)g",
    )
    parser.add_argument("--atol", metavar="ATOL", type=_tolerance, default=0.0, help="see --rtol; default 0")
    parser.add_argument("--maxiter", metavar="K", type=_count, help="iterations allowed; default 10 n")
    parser.add_argument(
        "--preconditioner",
        metavar="NAME",
        type=_one_of("preconditioner", ("none", *preconditioners.NAMES)),
        default="none",
        help=f"one of none, {', '.join(preconditioners.NAMES)}; default none",
    )
    parser.add_argument(
        "--format",
        metavar="NAME",
        type=_one_of("format", FORMATS),
        help=f"storage format, one of {', '.join(FORMATS)}; by default the cheapest is chosen",
    )
    parser.add_argument("--threads", metavar="N", type=_count, help="threads to use; by default all cores")
    parser.add_argument("--save", metavar="X.npy", type=Path, help="write the solution to this file")
    parser.add_argument("--plot", metavar="FILE.png", type=Path, help="draw the residual norms into this file")
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors; the exit status tells")
    return parser


def _add_demo(commands: Any) -> argparse.ArgumentParser:
    from . import demo

    parser: argparse.ArgumentParser = commands.add_parser(
        "demo",
        help="solve a finite-element problem beside SciPy",
        description=demo.__doc__,
        allow_abbrev=False,
    )
    parser.set_defaults(command="demo", run=_demo)
    parser.add_argument(
        "--size",
        metavar="SIZE",
        type=_one_of("size", demo.NODES),
        default="full",
        help=" or ".join(f"{name} ({2 * nodes:,} unknowns)" for name, nodes in demo.NODES.items()) + "; default full",
    )
    parser.add_argument(
        "--output",
        metavar="FILE.png",
        type=Path,
        default=Path("cgopt-demo.png"),
        help="where the picture goes; default %(default)s",
    )
    parser.add_argument("--no-plot", action="store_true", help="draw no picture")
    return parser


def _tolerance(text: str) -> float:
    try:
        return check_tolerance(float(text), "it")
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number that is zero or positive") from None


def _count(text: str) -> int:
    try:
        return check_maxiter(int(text), 0)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number that is zero or positive") from None


def _one_of(kind: str, names: Collection[str]) -> Callable[[str], str]:
    """The converter of an option whose value is one of `names`."""

    def convert(text: str) -> str:
        if text.lower() not in names:
            raise argparse.ArgumentTypeError(_unknown(kind, text, names))
        return text.lower()

    return convert


def _unknown(kind: str, word: str, known: Collection[str]) -> str:
    """The sentence about a word that is not known: the nearest ones, or all if none is near."""
    from .gallery._common import nearest_names

    near = nearest_names(word, known) or f" There are: {', '.join(known)}."
    return f"there is no {kind} {word!r}.{near}"


# --- cgopt solve ----------------------------------------------------------------------------------


def _solve(options: argparse.Namespace) -> int:
    if options.threads is not None:
        _ask(set_num_threads, options.threads)
    if options.save is not None:
        if options.save.suffix != ".npy":
            raise Refused(f"--save writes a NumPy file; name one that ends in .npy, not {str(options.save)!r}")
        check_writable(options.save)
    if options.plot is not None:
        check_picture(options.plot)

    clock = [time.perf_counter()]
    A, b, origin = _system(options.matrix, options.rhs)
    clock.append(time.perf_counter())
    solver = _ask(CGSolver, A, M=options.preconditioner, format=options.format)
    # One iteration loads or compiles the loop, so that the time of the solve is the solve's.
    _ask(solver.solve, b, maxiter=1)
    clock.append(time.perf_counter())
    display = _Display(b, shown=sys.stderr.isatty() and not options.quiet)
    try:
        display.start()
        result = _ask(
            solver.solve,
            b,
            rtol=options.rtol,
            atol=options.atol,
            maxiter=options.maxiter,
            progress=display.update,
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"{display.where}; nothing was saved") from None
    finally:
        display.stop()
    clock.append(time.perf_counter())

    if not options.quiet:
        _report(options, A, solver, result, origin, np.diff(clock))
    if options.save is not None:
        with _writing(options.save), open(options.save, "wb") as file:
            np.save(file, result.x, allow_pickle=False)
    if options.plot is not None:
        with _writing(options.plot):
            _plot(result, max(options.rtol, _share(options.atol, result)), options.plot)
    if not options.quiet:
        for what, path in (("solution", options.save), ("picture", options.plot)):
            if path is not None:
                print(f"The {what} is in {path}.")
    return CONVERGED if result.converged else NOT_CONVERGED


def _ask(function: Callable[..., _T], *args: Any, **options: Any) -> _T:
    """Call the library; what it refuses, the command refuses."""
    try:
        return function(*args, **options)
    except (ValueError, TypeError, OSError, MemoryError) as error:
        raise Refused(_sentence(error)) from error


def _sentence(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:  # of the system, as "[Errno 13] Permission denied: 'x'"
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, MemoryError):
        return f"there is not enough memory. {error}".rstrip()
    return str(error)


def _system(matrix: str, rhs: str | None) -> tuple[Any, Array, str]:
    """A, b, and where b is from."""
    from . import gallery

    A, b = _ask(gallery.load, matrix, return_rhs=True)
    n = A.shape[0]
    if rhs is not None:
        b = _ask(_read_vector, Path(rhs))
        if b.size != n or b.ndim > 2 or n not in b.shape:
            raise Refused(f"the right-hand side in {rhs} has shape {b.shape}; the matrix needs ({n},)")
        return A, b.reshape(n), rhs
    if b is not None:
        return A, b, "the one that lies with the matrix"
    return (
        A,
        np.random.default_rng(0).standard_normal(n),
        "standard normal, seed 0 (none lies with the matrix)",
    )


def _read_vector(path: Path) -> Array:
    """The array in a file: Matrix Market, .npy (nothing is unpickled), or numbers with blanks or commas."""
    name = path.name.removesuffix(".gz")
    try:
        if name.endswith(".mtx"):
            from scipy.io import mmread

            values = mmread(path)
            return values if isinstance(values, np.ndarray) else np.asarray(values.toarray())
        if path.suffix == ".npy":
            with open(path, "rb") as file:
                return np.lib.format.read_array(file, allow_pickle=False)
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="ascii") as text:
            return np.array(text.read().replace(",", " ").split(), dtype=np.float64)
    except (ValueError, EOFError, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} cannot be read as a vector: {error}") from error


def _report(
    options: argparse.Namespace, A: Any, solver: CGSolver, result: CGResult, origin: str, seconds: Array
) -> None:
    operator = solver.operator
    assert isinstance(operator, MatrixOperator)
    load, prepare, solve = seconds
    threads = operator.work.sums.shape[0]
    of = "A" if solver.preconditioner is None else "M A"
    each = f", {1e3 * solve / result.iterations:.3g} ms an iteration" if result.iterations else ""
    rows = [
        (
            "matrix",
            f"{options.matrix}: {A.shape[0]:,} x {A.shape[1]:,}, {A.nnz:,} nonzeros, {operator.dtype}",
        ),
        ("storage", f"{operator.format} ({operator.why}), {operator.nbytes / 1e6:.3g} MB"),
        ("right-hand side", origin),
        ("preconditioner", options.preconditioner),
        ("iterations", f"{result.iterations:,}"),
        ("true residual", f"{_share(result.residual_norm, result):.3g} of |b|, {result.residual_norm:.3g}"),
    ]
    if result.ritz_values.size:
        low, high = result.ritz_values
        rows += [
            ("Ritz values", f"{low:.4g} to {high:.4g}, inside the spectrum of {of}"),
            ("condition", f"at least {result.condition_estimate:.3g} ({of})"),
        ]
    rows += [
        ("time", f"solve {solve:.3g} s{each}, on {threads} thread{'s' if threads > 1 else ''}"),
        ("", f"load {load:.3g} s; prepare {prepare:.3g} s, with loading the kernels or compiling them once"),
    ]
    print(result.status)
    for label, text in rows:
        print(f"  {label:<16} {text}")


def _share(norm: float, result: CGResult) -> float:
    """A norm relative to that of b, where the residual starts."""
    first = float(result.history[0])
    return norm / first if first > 0.0 else norm


def _plot(result: CGResult, goal: float, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    shares = np.array([_share(norm, result) for norm in result.history])
    shown = np.flatnonzero((shares > 0.0) & np.isfinite(shares))
    axes.semilogy(shown, shares[shown], color="#0072B2", marker="." if shown.size < 30 else "")
    drawn = 0.0 < goal < np.inf
    seen = [*shares[shown], *([goal] if drawn else [])]
    if seen:
        axes.set_ylim(min(seen) / 3, 3 * max(seen))
    if drawn:
        axes.axhline(goal, color="#D55E00", linestyle="--", linewidth=1)
        axes.annotate("tolerance", (0, goal), xytext=(0, 4), textcoords="offset points", color="#D55E00")
    axes.set(xlabel="iteration", ylabel="residual norm / norm of b")
    axes.set_title(f"{result.status.name}, {result.iterations:,} iterations", fontsize="medium", loc="left")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


# --- a sign of life -------------------------------------------------------------------------------


class _Display:
    """How far a solve is, on a terminal: rich's bar where rich is installed, otherwise a line of text."""

    def __init__(self, b: Array, *, shown: bool) -> None:
        self.where = "before the first iteration"
        self._norm = float(scipy.linalg.norm(b, check_finite=False))  # does not overflow where it need not
        self._shown = shown
        self._done = 0.0
        self._next = 0.0
        self._bar: Any = None

    def start(self) -> None:
        """Show that there is something to wait for."""
        if not self._shown:
            return
        try:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
        except ModuleNotFoundError:
            return
        columns = BarColumn(bar_width=30), TimeElapsedColumn(), TextColumn("{task.description}")
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task(self.where, total=1.0)
        self._bar.start()

    def update(self, state: IterationState) -> None:
        """Show a state, unless the last one is too fresh."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + BETWEEN_LINES
        share = state.residual_norm / self._norm
        self.where = f"at iteration {state.iteration:,}, residual {share:.2g} of |b|"
        if not self._shown:
            return
        if 0.0 < state.target < self._norm and 0.0 < share < 1.0:  # in digits, of which CG gains about as many each
            self._done = max(self._done, math.log(share) / math.log(state.target / self._norm))
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, description=self.where)
        else:
            print(f"\r{self.where:<60}{self._done:4.0%}", end="", file=sys.stderr, flush=True)

    def stop(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()
        elif self._shown:
            print("\r" + " " * 64 + "\r", end="", file=sys.stderr, flush=True)


# --- files to be written --------------------------------------------------------------------------


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn what the system says of a file that cannot be written into a refusal."""
    try:
        yield
    except OSError as error:
        raise Refused(f"{path} cannot be written: {error.strerror or error}") from error


def check_writable(path: Path) -> None:
    """Find out now that a file cannot be written, and not after the work.

    Raises
    ------
    Refused
    """
    new = not path.exists()
    with _writing(path), open(path, "ab"):
        pass
    if new:
        path.unlink()


def check_picture(path: Path) -> None:
    """Find out now that a picture cannot be drawn or written.

    Raises
    ------
    Refused
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise Refused('drawing needs matplotlib: pip install "cgopt[plot]", or ask for no picture') from error
    known = Figure().canvas.get_supported_filetypes()
    if path.suffix[1:].lower() not in known:
        raise Refused(f"a picture's name ends in .png, .pdf or .svg, not as {str(path)!r} does")
    check_writable(path)


# --- cgopt demo -----------------------------------------------------------------------------------


def _demo(options: argparse.Namespace) -> int:
    from . import demo

    output = None if options.no_plot else options.output
    if output is not None:
        check_picture(output)
    return CONVERGED if demo.run(options.size, output) else NOT_CONVERGED
