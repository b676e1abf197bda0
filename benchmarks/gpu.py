"""The GPU backend, measured against the device's own rates and CuPy's solver.

    python -m benchmarks.gpu
    python -m benchmarks.gpu --only cg batched
    python -m benchmarks.gpu --only training --minutes 8

* cg: an iteration on a 7-point Laplacian in fp64, beside `cupyx.scipy.sparse.linalg.cg`, from the difference of a long
  and a short solve, taken in turns; the share of the copy bandwidth is by our own count of bytes.
* batched: 100 000 systems of 32 unknowns beside the batched solve on the CPU.
* gauss-newton: a product for the MNIST autoencoder, beside the largest matrix product.
* training: that autoencoder by Hessian-free optimisation, error, time and steps of conjugate gradients, of which it may
  take as many as published runs did (images/mnist_u8.npz in CGOPT_DATA). It ends after `--minutes`, or at the target,
  and goes on from there when it is run again; its state is kept in runs/.

Each case is written to benchmarks/results, under the device's name, when it is done; one that fails is named and left
behind. The summary comes last.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import time
import traceback
from pathlib import Path

import numpy as np

import cgopt
from cgopt.arrays import in_host_memory
from cgopt.kernels import gpu

RESULTS = Path(__file__).parent / "results"
STATES = Path("runs")
SIZES = (784, 1000, 500, 250, 30, 250, 500, 1000, 784)
ROUNDS = 7
UNKNOWNS = 10_000, 100_000, 1_000_000, 10_000_000
SYSTEMS, SAMPLES, SIDE, COPIED = 100_000, 20_000, 8192, 2**27
# Steps of conjugate gradients by Hessian-free optimisation in Sutskever et al. 2013 (A.6: 25 000 and 225 000 on parts
# of the images, 125 000 on all), which took the training error to 0.69; Martens (2010) has 1.40.
PUBLISHED_STEPS, PUBLISHED = 375_000, "published 1.40 and 0.69"
TRAINING_TARGET = 1.0
DAMPING = 45.0  # to begin with: Martens 2010


def seconds(run):
    """Time of one call, the device's work included."""
    gpu.cupy().cuda.get_current_stream().synchronize()
    start = time.perf_counter()
    run()
    gpu.cupy().cuda.get_current_stream().synchronize()
    return time.perf_counter() - start


def medians(contenders):
    """Median times of contenders that take turns, after a turn that is not counted."""
    for run in contenders.values():
        run()
    times = {name: [] for name in contenders}
    for _ in range(ROUNDS):
        for name, run in contenders.items():
            times[name].append(seconds(run))
    return {name: statistics.median(taken) for name, taken in times.items()}


def copy_bandwidth():
    """Bytes a second of a copy in device memory, reading and writing counted."""
    xp = gpu.cupy()
    a = xp.zeros(COPIED)
    b = xp.empty_like(a)

    def copy():
        b[...] = a

    return 2 * a.nbytes / medians({"copy": copy})["copy"]


def cupyx_sparse():
    import cupyx.scipy.sparse

    return cupyx.scipy.sparse


def laplacian(n):
    side = max(2, round(n ** (1 / 3)))
    return cupyx_sparse().csr_matrix(cgopt.gallery.poisson((side, side, side)).tocsr())


def measure_cg(report):
    from cupyx.scipy.sparse.linalg import cg as cupy_cg

    xp = gpu.cupy()
    bandwidth = report["copy_bandwidth"] = copy_bandwidth()
    for n in UNKNOWNS:
        A = laplacian(n)
        b = xp.asarray(np.random.default_rng(0).standard_normal(A.shape[0]))
        solvers = {form: cgopt.CGSolver(A, format=form, check=False) for form in ("csr", "dia")}
        few, many = 10, 50  # before convergence on the smallest
        runs = {}
        for count in (few, many):
            runs["cupy", count] = lambda count=count, A=A, b=b: cupy_cg(A, b, rtol=0.0, maxiter=count)
            for form, solver in solvers.items():
                runs[form, count] = lambda count=count, s=solver, b=b: s.solve(b, rtol=0.0, maxiter=count)
        times = medians(runs)
        each = {name: (times[name, many] - times[name, few]) / (many - few) for name in ("cupy", *solvers)}
        for form, solver in solvers.items():
            share = solver.bytes_per_iteration / each[form] / bandwidth
            ratio = each["cupy"] / each[form]
            row = {"n": A.shape[0], "format": form, "microseconds": 1e6 * each[form], "cupy": 1e6 * each["cupy"]}
            report["rows"].append(row | {"share_of_copy": share, "times_cupy": ratio})
            wanted = 5.0 if n <= 100_000 else 1.3
            judge(report, f"cg n={A.shape[0]} {form}: at least {wanted} times CuPy", ratio, wanted)
            if n >= 1_000_000:
                judge(report, f"cg n={A.shape[0]} {form}: share of copy bandwidth", share, 0.8)
        del A, solvers, runs


def measure_batched(report):
    xp, m, n = gpu.cupy(), SYSTEMS, 32
    rng = np.random.default_rng(0)
    B = rng.standard_normal((m, n, n))
    A = B @ B.transpose(0, 2, 1) / n + np.eye(n)
    b = rng.standard_normal((m, n))
    C, c = xp.asarray(A), xp.asarray(b)
    times = medians(
        {
            "cpu": lambda: cgopt.batched_cg(A, b, rtol=1e-6),
            "gpu": lambda: cgopt.batched_cg(C, c, rtol=1e-6),
        }
    )
    report["rows"].append({"systems": m, "n": n, "threads": cgopt.kernels.cpu.get_num_threads()} | times)
    judge(report, "batched: times the CPU's batched solve", times["cpu"] / times["gpu"], 10.0)


def autoencoder():
    units = ["linear" if layer == 4 else "logistic" for layer in range(1, len(SIZES) - 1)]
    return cgopt.nn.MLP(SIZES, units)


def measure_gauss_newton(report):
    xp, samples, network = gpu.cupy(), SAMPLES, autoencoder()
    rng = np.random.default_rng(0)
    theta = xp.asarray(network.init(0, scheme="sparse", dtype=np.float32))
    X = xp.asarray(rng.random((samples, SIZES[0]), dtype=np.float32))
    G = cgopt.operators.GaussNewton(network.linearize(theta, X), cgopt.nn.LogisticCrossEntropy(), X)
    v, out = xp.asarray(rng.standard_normal(network.n).astype(np.float32)), xp.empty(network.n, np.float32)
    a = xp.asarray(rng.random((SIDE, SIDE), dtype=np.float32))
    product = xp.empty_like(a)
    times = medians({"product": lambda: G.matvec(v, out=out), "matmul": lambda: xp.matmul(a, a, out=product)})
    # J v: two matrix products for each layer but the first, which has one; J'u the same
    weights = [(i + 1) * o for i, o in itertools.pairwise(SIZES)]
    flops = 4 * samples * (2 * sum(weights) - weights[0])
    rate, peak = flops / times["product"], 2 * SIDE**3 / times["matmul"]
    kind = "tf32" if os.environ.get("CUPY_TF32") == "1" else "fp32"
    report["rows"].append({"flops_per_second": rate, "matmul": peak, "arithmetic": kind})
    judge(report, f"gauss-newton: share of the {kind} matrix rate", rate / peak, 0.6)


def mnist():
    for folder in os.environ.get("CGOPT_DATA", "").split(os.pathsep):
        file = Path(folder) / "images" / "mnist_u8.npz"
        if folder and file.is_file():
            with np.load(file) as data:
                return data["xtr"].reshape(-1, 784).astype(np.float32) / np.float32(255)
    return None


def measure_training(report, minutes):
    images = mnist()
    if images is None:
        report["left_out"] = "there is no images/mnist_u8.npz in a folder of CGOPT_DATA"
        return
    xp, network = gpu.cupy(), autoencoder()
    X = xp.asarray(images)
    theta = xp.asarray(network.init(0, scheme="sparse", dtype=np.float32))
    objective = cgopt.optimize.NetworkObjective(
        network, cgopt.nn.LogisticCrossEntropy(), X, X, curvature_samples=len(images) // 8
    )
    file, begun = STATES / f"gpu-training-{device_name()}.npz", time.perf_counter()
    record, state = restored(file)
    kept = begun

    def error(theta):
        Z = network.forward(theta, X)
        return float(np.sum(np.square(0.5 + 0.5 * np.tanh(0.5 * Z) - X), dtype=np.float64)) / len(images)

    def watch(*, intermediate_result):
        nonlocal kept, record
        steps, taken, _ = record[-1] if record else (0, 0.0, 0.0)
        steps += intermediate_result.history[-1]["cg_iterations"]
        now = time.perf_counter()
        record.append([steps, taken + now - watch.last, error(intermediate_result.x)])
        watch.last = now
        print(f"training: {steps} CG steps, {record[-1][1]:.0f} s, error {record[-1][2]:.3f}", flush=True)
        over = steps >= PUBLISHED_STEPS or record[-1][2] <= TRAINING_TARGET or now - begun > 60.0 * minutes
        if over or now - kept > 60.0:
            keep(file, record, intermediate_result.state)
            kept = now
        if over:
            raise StopIteration

    watch.last = begun
    if not record or (record[-1][0] < PUBLISHED_STEPS and record[-1][2] > TRAINING_TARGET):
        cgopt.optimize.hessian_free(
            objective, theta, gtol=0.0, maxiter=10**6, damping=DAMPING, callback=watch, state=state
        )
    report["rows"].append({"curve": record})
    steps, taken, found = record[-1]
    what = f"training: error of the MNIST autoencoder after {steps} CG steps, {taken:.0f} s ({PUBLISHED})"
    judge(report, what, found, TRAINING_TARGET, below=True)


def keep(file, record, state):
    """Write the curve and the state of a training, whole or not at all."""
    file.parent.mkdir(exist_ok=True)
    part = file.with_suffix(".part.npz")
    np.savez(part, curve=record, **{name: in_host_memory(v) if gpu.is_array(v) else v for name, v in state.items()})
    part.replace(file)


def restored(file):
    """The curve and the state that were kept, its vectors on the device."""
    if not file.is_file():
        return [], None
    with np.load(file) as kept:
        state = {name: gpu.cupy().asarray(v) if v.ndim else v.item() for name, v in kept.items() if name != "curve"}
        return [[int(steps), *rest] for steps, *rest in kept["curve"].tolist()], state


def judge(report, what, found, wanted, below=False):
    """Hold a figure against its target."""
    met = found <= wanted if below else found >= wanted
    report["targets"].append({"what": what, "found": found, "wanted": wanted, "met": bool(met)})


def device_name():
    runtime = gpu.cupy().cuda.runtime
    return runtime.getDeviceProperties(runtime.getDevice())["name"].decode().lower().replace(" ", "-")


def main():
    cases = {
        "cg": measure_cg,
        "batched": measure_batched,
        "gauss-newton": measure_gauss_newton,
        "training": measure_training,
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=cases, default=list(cases))
    parser.add_argument("--minutes", type=float, default=8.0, help="of training")
    options = parser.parse_args()
    reason = gpu.available()
    if reason is not None:
        sys.exit(f"Nothing measured: {reason}")
    file = RESULTS / f"gpu-{device_name()}.json"
    reports = json.loads(file.read_text()) if file.is_file() else {}
    config = cgopt.configuration.describe()
    for case in options.only:
        print(f"measuring {case} ...", flush=True)
        report = reports[case] = {"config": config, "rows": [], "targets": []}
        try:
            cases[case](report, *([options.minutes] if case == "training" else []))
        except Exception as error:  # the other cases are worth having
            traceback.print_exc()
            report["failed"] = f"{type(error).__name__}: {error}"
        gpu.cupy().get_default_memory_pool().free_all_blocks()
        file.write_text(json.dumps(reports, indent=1) + "\n")
    print("\n".join(config))
    for case in options.only:
        for target in reports[case]["targets"]:
            verdict = "met   " if target["met"] else "missed"
            print(f"{verdict} {target['what']}: {target['found']:.3g} (wanted {target['wanted']:g})")
        for ending in ("left_out", "failed"):
            if ending in reports[case]:
                print(f"{ending.replace('_', ' ')} {case}: {reports[case][ending]}")
    print(f"written to {file}")
    sys.exit(any("failed" in reports[case] for case in options.only))


if __name__ == "__main__":
    main()
