"""The groups of cases, the speeds to reach, and how each is measured."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.peers import latency, problems
from benchmarks.peers.contenders import Cgopt, Contender, PyAMG, SciPy, WholeSolve
from benchmarks.peers.external import Peers
from benchmarks.peers.problems import Problem
from benchmarks.peers.timing import Pair, beyond_iterations, per_iteration, spread, take_turns
from benchmarks.peers.triad import Triad

RTOL = 1e-8
BATCH_SECONDS = 0.002
BATCHES = 9
WHOLE_SECONDS = 150.0


@dataclass(frozen=True)
class Settings:
    """How long to measure.

    Attributes
    ----------
    repeat : int
        Rounds per case; whole solves and first solves take at most three.
    quick : bool
        Smaller systems: for checking the benchmark, not for quoting.
    """

    repeat: int
    quick: bool

    @property
    def whole_repeat(self) -> int:
        """Rounds of whole solves and of first solves."""
        return min(self.repeat, 1 if self.quick else 3)


@dataclass(frozen=True)
class Target:
    """A speed to reach: a bound on a row's value.

    Attributes
    ----------
    bound : float
        In the row's unit.
    unit : {"times", "s", "share", "rate", "ones"}
        ``"times"``: ratio to cgopt's time; ``"share"``: of the triad's bandwidth; ``"rate"``: of the
        matrix-multiply rate; ``"ones"``: a block's time over one vector's. Seconds and ones are bounded from
        above, the others from below.
    """

    bound: float
    unit: str

    def met(self, value: float) -> bool:
        """Whether `value` reaches the bound."""
        return value <= self.bound if self.unit in ("s", "ones") else value >= self.bound


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes
    ----------
    case, contender : str
        What was measured, and whose.
    seconds : float or None
        The median; None when the contender is absent or time is not what the row is about.
    spread : float or None
        Half the interquartile range over the median.
    ratio : float or None
        Median over cgopt's median of the same case: above 1, cgopt is faster.
    target : Target or None
        What was asked of this row.
    value : float or None
        What the target is compared with.
    note : str
        Anything else, shown last.
    """

    case: str
    contender: str
    seconds: float | None = None
    spread: float | None = None
    ratio: float | None = None
    target: Target | None = None
    value: float | None = None
    note: str = ""

    @property
    def verdict(self) -> str:
        """``"met"``, ``"missed"``, or nothing when nothing was asked."""
        if self.target is None:
            return ""
        if self.value is None:
            return "not measured"
        return "met" if self.target.met(self.value) else "missed"


@dataclass
class Group:
    """The rows of one group, how they were measured, and every raw timing."""

    title: str
    method: str
    rows: list[Row] = field(default_factory=list)
    raw: dict[str, object] = field(default_factory=dict)

    def add(
        self,
        case: str,
        samples: Mapping[str, Sequence[float]],
        targets: Mapping[str, Target] | None = None,
        notes: Mapping[str, str] | None = None,
        absent: Mapping[str, str] | None = None,
    ) -> None:
        """One row per contender from samples in seconds, with ratios to cgopt; absent peers are named."""
        targets, notes = targets or {}, notes or {}
        medians = {name: statistics.median(values) for name, values in samples.items()}
        for name, median in medians.items():
            # Differences of timings that drown in noise may be negative: no ratio, rather than nonsense.
            ratio = median / medians["cgopt"] if min(median, medians["cgopt"]) > 0 else None
            target, note = targets.get(name), notes.get(name, "")
            value = median if target is not None and target.unit == "s" else ratio
            self.rows.append(Row(case, name, median, spread(samples[name]), ratio, target, value, note))
        for name, reason in (absent or {}).items():
            target = next((target for peer, target in targets.items() if peer.startswith(name)), None)
            self.rows.append(Row(case, name, target=target, note=f"absent: {reason}"))


def small(settings: Settings, peers: Peers) -> Group:
    """Time per iteration of small systems."""
    group = Group(
        "Small systems: time per iteration",
        "Plain CG on a prepared system, no tolerance in reach: each turn times solves with few and with many "
        "iterations, in alternating batches of 2 ms, and divides the difference by the difference of "
        "iterations. Dense: geometric spectrum, condition number 1e11. Sparse: random-graph Laplacian, about "
        "5 entries a row, badly scaled. PETSc runs one rank (two only add messages at these sizes).",
    )
    cases = [(problems.dense_spectrum(n), target) for n, target in ((8, 40), (16, 40), (32, 40), (100, 12))]
    cases += [(problems.sparse_graph(n), target) for n, target in ((8, 40), (16, 40), (32, 40), (100, 30), (1000, 5))]
    for problem, target in cases:
        _progress(problem.name)
        many = problems.iterations_available(problem, rtol=1e-4, most=200)
        few = max(2, many // 5)
        with peers.on(problem, ranks=(1,)) as external:
            contenders = [Cgopt(problem), SciPy(problem), PyAMG(problem), *external]
            pairs = take_turns({c.name: fixed_turn(c, few, many) for c in contenders}, settings.repeat)
        samples = {name: per_iteration(turns, few, many) for name, turns in pairs.items()}
        group.add(problem.name, samples, {"SciPy": Target(target, "times")}, absent=peers.absent)
        group.raw[problem.name] = _raw_pairs(pairs, few, many)
    return group


def large(settings: Settings, peers: Peers) -> Group:
    """Time per iteration, bandwidth and whole solves of systems of 10^6 unknowns."""
    group = Group(
        "Large systems: time per iteration, bandwidth, whole solves",
        "Plain CG, two threads or ranks where the peer can. Per iteration: (T(many) - T(few)) / (many - few) "
        "with no tolerance in reach. Bandwidth: cgopt's own byte count per iteration (write-allocate "
        "included) over its median time per iteration, as a share of a Numba triad a = b + s c on two "
        "threads that takes its turn in the same rounds (32 bytes counted per element, write-allocate "
        f"included; vectors of 64 MB). Whole solves: x0 = 0, true relative residual {RTOL:g} as computed by "
        "this benchmark from every returned x; all precondition the unstructured problem with its diagonal; "
        "set-up (storage format, assembly from arrays in memory) is reported apart, in the notes.",
    )
    few, many = (10, 40) if settings.quick else (10, 60)
    triad = Triad()
    builders: list[Callable[[], Problem]] = [
        lambda: problems.poisson(*((300, 300) if settings.quick else (1000, 1000))),
        lambda: problems.poisson(*((40, 40, 40) if settings.quick else (100, 100, 100))),
        lambda: problems.unstructured(50_000 if settings.quick else 1_000_000),
    ]
    for build in builders:
        problem = build()
        _progress(f"{problem.name}, per iteration")
        with peers.on(problem) as external:
            ours = Cgopt(problem)
            contenders = [ours, SciPy(problem), PyAMG(problem), *external]
            turns: dict[str, Callable[[], Any]] = {c.name: fixed_turn(c, few, many) for c in contenders}
            pairs = take_turns({**turns, "triad": triad.bandwidth}, settings.repeat)
        triads = pairs.pop("triad")
        samples = {name: per_iteration(turns, few, many) for name, turns in pairs.items()}
        targets = {"SciPy": Target(2, "times"), "PETSc, 2 ranks": Target(1, "times")}
        group.add(f"{problem.name}, per iteration", samples, targets, absent=peers.absent)
        group.rows.append(_bandwidth(problem, ours, samples["cgopt"], triads))
        group.raw[problem.name] = {
            "fixed iterations": _raw_pairs(pairs, few, many),
            "triad bytes per second": triads,
            "cgopt bytes per iteration": ours.solver.bytes_per_iteration,
            "cgopt storage": repr(ours.solver),
        }
        if problem.name.startswith("unstructured"):
            problem = problems.with_jacobi(problem)
        _whole_solves(group, problem, settings, peers)
    return group


def right_hand_sides(settings: Settings, peers: Peers) -> Group:
    """Sixteen right-hand sides in one call against sixteen solves one after the other."""
    columns = 16
    group = Group(
        f"(n, {columns}) right-hand sides",
        f"cgopt solves the {columns} systems in one call, the peers one after the other; random normal "
        f"right-hand sides, relative residual {RTOL:g} each. Times are of the solves; the notes tell the "
        "set-up, and the largest true residual as computed here for every contender.",
    )
    bases = [
        problems.poisson(*((100, 100) if settings.quick else (300, 300))),
        problems.with_jacobi(problems.unstructured(10_000 if settings.quick else 60_000)),
    ]
    for base in bases:
        _whole_solves(group, problems.with_columns(base, columns), settings, peers, {"SciPy": Target(4, "times")})
    return group


def overhead(settings: Settings, peers: Peers) -> Group:
    """Fixed cost of `CGSolver.solve` beyond its iterations."""
    group = Group(
        "Fixed overhead of one solve",
        "n = 100, prepared solver: T(few) and T(many) iterations extrapolated to none.",
    )
    for problem in (problems.dense_spectrum(100), problems.sparse_graph(100)):
        few, many = 5, 50
        contenders: list[Contender] = [Cgopt(problem), SciPy(problem)]
        pairs = take_turns({c.name: fixed_turn(c, few, many) for c in contenders}, max(settings.repeat, 9))
        samples = {name: beyond_iterations(turns, few, many) for name, turns in pairs.items()}
        group.add(problem.name, samples, {"cgopt": Target(15e-6, "s")})
        group.raw[problem.name] = _raw_pairs(pairs, few, many)
    return group


def first_solve(settings: Settings, peers: Peers) -> Group:
    """What the first solve costs in a fresh install and in a later process."""
    group = Group(
        "First solve of a process",
        "A child process with an empty compile cache (NUMBA_CACHE_DIR), then another one with the cache that "
        "it left; times exclude the imports. cgopt's import is timed after those of numpy, scipy.sparse, "
        "scipy.sparse.linalg and numba.",
    )
    reports = {kind: latency.measure(kind, settings.whole_repeat) for kind in latency.SYSTEMS}
    for kind, title in latency.SYSTEMS.items():
        for state, name, bound in (("fresh", "empty compile cache", 6.0), ("later", "later process", 1.0)):
            firsts = [report["first_solve"] for report in reports[kind][state]]
            second = statistics.median(report["second_solve"] for report in reports[kind][state])
            group.add(
                f"first solve, {name}, {title}",
                {"cgopt": firsts},
                {"cgopt": Target(bound, "s")},
                {"cgopt": f"the second solve took {second:.2g} s"},
            )
    imports = [report["import_cgopt"] for report in reports["sparse"]["later"]]
    group.add("import cgopt, beyond numpy, scipy and numba", {"cgopt": imports}, {"cgopt": Target(0.3, "s")})
    group.raw = dict(reports)
    return group


def curvature(settings: Settings, peers: Peers) -> Group:
    """Gauss-Newton products of networks."""
    from benchmarks.peers.curvature import products  # which imports this module

    return products(settings)


GROUPS: dict[str, Callable[[Settings, Peers], Group]] = {
    "small": small,
    "large": large,
    "many": right_hand_sides,
    "overhead": overhead,
    "latency": first_solve,
    "curvature": curvature,
}


def fixed_turn(contender: Contender, few: int, many: int) -> Callable[[], Pair]:
    """A turn that times solves with `few` and with `many` iterations.

    Short solves are timed in batches that fill `BATCH_SECONDS`, few and many in alternation, and the medians
    of `BATCHES` batches are kept: a drift within the turn would otherwise swamp iterations of 100 ns beside
    the overhead of a call.
    """
    contender.fixed(few, 1)
    solves = [max(1, round(BATCH_SECONDS / contender.fixed(count, 1))) for count in (few, many)]
    batches = BATCHES if solves[1] > 1 else 1

    def turn() -> Pair:
        # Unrecorded solves first: caches and sleeping threads recover from the other contenders' turns.
        contender.fixed(few, solves[0])
        short, long = [], []
        for _ in range(batches):
            short.append(contender.fixed(few, solves[0]) / solves[0])
            long.append(contender.fixed(many, solves[1]) / solves[1])
        return Pair(statistics.median(short), statistics.median(long))

    return turn


def whole_turn(contender: Contender) -> Callable[[], WholeSolve]:
    """A turn of one whole solve."""
    return lambda: contender.whole(RTOL)


def _whole_solves(
    group: Group,
    problem: Problem,
    settings: Settings,
    peers: Peers,
    targets: Mapping[str, Target] | None = None,
) -> None:
    """Solve `problem` to `RTOL` in turns; the rows are of the solves, set-up goes to the notes."""
    case = f"{problem.name}, whole solve"
    _progress(case)
    with peers.on(problem) as external:
        contenders = [Cgopt(problem), SciPy(problem), PyAMG(problem), *external]
        for contender in contenders:
            contender.whole(0.5)  # unrecorded: compiles, touches memory
        turns = {contender.name: whole_turn(contender) for contender in contenders}
        whole = take_turns(turns, settings.whole_repeat, budget=WHOLE_SECONDS, warm_up=False)
    seconds = {name: [run.seconds for run in runs] for name, runs in whole.items()}
    group.add(case, seconds, targets, _describe(whole), peers.absent)
    group.raw[case] = _raw_solves(whole)


def _progress(case: str) -> None:
    """Say what is being measured: a whole run takes a quarter of an hour."""
    print(f"  {case}", flush=True)


def _bandwidth(problem: Problem, ours: Cgopt, samples: Sequence[float], triads: Sequence[float]) -> Row:
    achieved = ours.solver.bytes_per_iteration / statistics.median(samples)
    share = achieved / statistics.median(triads)
    note = (
        f"{achieved / 1e9:.1f} of {statistics.median(triads) / 1e9:.1f} GB/s; "
        f"{ours.solver.bytes_per_iteration / 1e6:.1f} MB per iteration; {ours.solver!r}"
    )
    return Row(f"{problem.name}, bandwidth", "cgopt", target=Target(0.85, "share"), value=share, note=note)


def _describe(whole: Mapping[str, Sequence[WholeSolve]]) -> dict[str, str]:
    return {
        name: f"{runs[-1].iterations} iterations, "
        f"set-up {statistics.median(run.setup for run in runs):.2g} s, "
        f"true residual {max(run.residual for run in runs):.3e}"
        # Stopping on a recursive residual leaves the true one a hair above.
        f"{'' if max(run.residual for run in runs) < 1.01 * RTOL else ', **not solved**'}"
        for name, runs in whole.items()
    }


def _raw_pairs(pairs: Mapping[str, Iterable[Pair]], few: int, many: int) -> dict[str, object]:
    seconds = {name: [asdict(pair) for pair in turns] for name, turns in pairs.items()}
    return {"few iterations": few, "many iterations": many, "seconds per solve": seconds}


def _raw_solves(whole: Mapping[str, Iterable[WholeSolve]]) -> dict[str, object]:
    return {name: [asdict(run) for run in runs] for name, runs in whole.items()}
