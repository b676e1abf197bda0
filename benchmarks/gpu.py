"""The GPU backend, measured against the device's own rates and CuPy's solver.

    python -m benchmarks.gpu
    python -m benchmarks.gpu --only cg batched
    python -m benchmarks.gpu --only training --minutes 8

* cg: an iteration on a 7-point Laplacian in fp64, beside `cupyx.scipy.sparse.linalg.cg`, from the difference of a long
  and a short solve, taken in turns; the share of the copy bandwidth is by our own count of bytes.
* batched: 100 000 systems of 32 unknowns beside the batched solve on the CPU.
* gauss-newton: a product for the MNIST autoencoder, beside the largest matrix product.
* training: that autoencoder by Hessian-free optimisation, error, time and steps of conjugate gradients, of which it may
  take as many as published runs did (images/mnist_u8.npz in CGOPT_DATA).

The summary comes last, and is written with the device's name to benchmarks/results.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import time
from pathlib import Path

import numpy as np

import cgopt
from cgopt.kernels import gpu

RESULTS = Path(__file__).parent / "results"
SIZES = (784, 1000, 500, 250, 30, 250, 500, 1000, 784)
ROUNDS = 7
# Steps of conjugate gradients by Hessian-free optimisation in Sutskever et al. 2013 (A.6: 25 000 and 225 000 on parts
# of the images, 125 000 on all), which took the training error to 0.69; Martens (2010) has 1.40.
PUBLISHED_STEPS, PUBLISHED = 375_000, "published 1.40 and 0.69"


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
    a = xp.zeros(2**27)
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
    for n in (10_000, 100_000, 1_000_000, 10_000_000):
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
            report["rows"].append({"case": "cg"} | row | {"share_of_copy": share, "times_cupy": ratio})
            wanted = 5.0 if n <= 100_000 else 1.3
            judge(report, f"cg n={A.shape[0]} {form}: at least {wanted} times CuPy", ratio, wanted)
            if n >= 1_000_000:
                judge(report, f"cg n={A.shape[0]} {form}: share of copy bandwidth", share, 0.8)
        del A, solvers, runs


def measure_batched(report):
    xp, m, n = gpu.cupy(), 100_000, 32
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
    report["rows"].append({"case": "batched", "systems": m, "n": n} | times)
    judge(report, "batched: times the CPU's batched solve", times["cpu"] / times["gpu"], 10.0)


def autoencoder():
    units = ["linear" if layer == 4 else "logistic" for layer in range(1, len(SIZES) - 1)]
    return cgopt.nn.MLP(SIZES, units)


def measure_gauss_newton(report):
    xp, samples, network = gpu.cupy(), 20_000, autoencoder()
    rng = np.random.default_rng(0)
    theta = xp.asarray(network.init(0, scheme="sparse", dtype=np.float32))
    X = xp.asarray(rng.random((samples, 784), dtype=np.float32))
    G = cgopt.operators.GaussNewton(network.linearize(theta, X), cgopt.nn.LogisticCrossEntropy(), X)
    v, out = xp.asarray(rng.standard_normal(network.n).astype(np.float32)), xp.empty(network.n, np.float32)
    a = xp.asarray(rng.random((8192, 8192), dtype=np.float32))
    product = xp.empty_like(a)
    times = medians({"product": lambda: G.matvec(v, out=out), "matmul": lambda: xp.matmul(a, a, out=product)})
    # J v: two matrix products for each layer but the first, which has one; J'u the same
    weights = [(i + 1) * o for i, o in itertools.pairwise(SIZES)]
    flops = 4 * samples * (2 * sum(weights) - weights[0])
    rate, peak = flops / times["product"], 2 * 8192**3 / times["matmul"]
    kind = "tf32" if os.environ.get("CUPY_TF32") == "1" else "fp32"
    report["rows"].append({"case": "gauss-newton", "flops_per_second": rate, "matmul": peak, "arithmetic": kind})
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
        print("training: left out, there is no images/mnist_u8.npz in a folder of CGOPT_DATA")
        return
    xp, network = gpu.cupy(), autoencoder()
    X = xp.asarray(images)
    theta = xp.asarray(network.init(0, scheme="sparse", dtype=np.float32))
    objective = cgopt.optimize.NetworkObjective(
        network, cgopt.nn.LogisticCrossEntropy(), X, X, curvature_samples=len(images) // 8
    )
    begun, curve, steps = time.perf_counter(), [], 0

    def error(theta):
        Z = network.forward(theta, X)
        return float(np.sum(np.square(0.5 + 0.5 * np.tanh(0.5 * Z) - X), dtype=np.float64)) / len(images)

    def watch(*, intermediate_result):
        nonlocal steps
        steps += intermediate_result.history[-1]["cg_iterations"]
        if steps > PUBLISHED_STEPS:
            raise StopIteration
        taken = time.perf_counter() - begun
        curve.append([steps, taken, error(intermediate_result.x)])
        print(f"training: {steps} CG steps, {taken:.0f} s, error {curve[-1][2]:.3f}", flush=True)
        if taken > 60.0 * minutes:
            raise StopIteration

    cgopt.optimize.hessian_free(objective, theta, gtol=0.0, maxiter=10**6, callback=watch)
    report["rows"].append({"case": "training", "curve": curve})
    steps, taken, found = curve[-1]
    what = f"training: error of the MNIST autoencoder after {steps} CG steps, {taken:.0f} s ({PUBLISHED})"
    judge(report, what, found, 1.0, below=True)


def judge(report, what, found, wanted, below=False):
    """Hold a figure against its target."""
    met = found <= wanted if below else found >= wanted
    report["targets"].append({"what": what, "found": found, "wanted": wanted, "met": bool(met)})


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
    report = {"config": cgopt.configuration.describe(), "rows": [], "targets": []}
    for case in options.only:
        print(f"measuring {case} ...", flush=True)
        if case == "training":
            measure_training(report, options.minutes)
        else:
            cases[case](report)
    device = gpu.cupy().cuda.runtime.getDeviceProperties(0)["name"].decode().lower().replace(" ", "-")
    file = RESULTS / f"gpu-{device}.json"
    file.write_text(json.dumps(report, indent=1) + "\n")
    print("\n".join(report["config"]))
    for target in report["targets"]:
        verdict = "met   " if target["met"] else "missed"
        print(f"{verdict} {target['what']}: {target['found']:.3g} (wanted {target['wanted']:g})")
    print(f"written to {file}")


if __name__ == "__main__":
    main()
