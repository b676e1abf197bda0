"""What a new process pays: its imports, and its first solve with an empty and with a full compile cache.

Run as a program this is the child: ``latency.py {dense,sparse,large}`` imports, solves twice and prints seconds
as JSON.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SYSTEMS = {
    "dense": "dense fp64, n = 100",
    "sparse": "CSR fp64, n = 1000 (one thread)",
    "large": "CSR fp64, n = 200 000 (all threads)",
}


def measure(kind: str, repeat: int) -> dict[str, list[dict[str, float]]]:
    """Start children with an empty compile cache and, for each, one more with the cache that it left.

    Parameters
    ----------
    kind : str
        A key of `SYSTEMS`.
    repeat : int
        How many times to start from an empty cache.

    Returns
    -------
    dict
        ``"fresh"`` and ``"later"``: a list of the children's reports each.
    """
    reports: dict[str, list[dict[str, float]]] = {"fresh": [], "later": []}
    for _ in range(repeat):
        with tempfile.TemporaryDirectory(prefix="cgopt-cache-") as cache:
            for name in ("fresh", "later"):
                reports[name].append(_child(kind, cache))
    return reports


def _child(kind: str, cache: str) -> dict[str, float]:
    cgopt = importlib.util.find_spec("cgopt")
    assert cgopt is not None
    assert cgopt.origin is not None
    # The child solves with this process's cgopt, installed or not.
    path = os.pathsep.join(filter(None, [str(Path(cgopt.origin).parent.parent), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"NUMBA_CACHE_DIR": cache, "PYTHONPATH": path}
    command = [sys.executable, __file__, kind]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"a child that solves a {kind} system failed: {done.stderr}")
    return json.loads(done.stdout)


def _report(kind: str) -> dict[str, float]:
    start = time.perf_counter()
    import numba  # noqa: F401
    import numpy as np
    import scipy.sparse as sp
    import scipy.sparse.linalg  # noqa: F401

    others = time.perf_counter()
    import cgopt

    imported = time.perf_counter()
    n = {"dense": 100, "sparse": 1000, "large": 200_000}[kind]
    # Condition number 9: some twenty iterations, a few milliseconds each at most.
    A = sp.diags_array([-1.0, -1.0, 5.0, -1.0, -1.0], offsets=[-30, -1, 0, 1, 30], shape=(n, n)).tocsr()
    if kind == "dense":
        A = A.toarray()
    b = np.ones(n)
    ready = time.perf_counter()
    first = cgopt.cg(A, b, rtol=1e-8)
    solved = time.perf_counter()
    second = cgopt.cg(A, b, rtol=1e-8)
    end = time.perf_counter()
    if first.info != 0 or second.info != 0:
        raise RuntimeError(f"not solved: {first.status}")
    return {
        "import_others": others - start,
        "import_cgopt": imported - others,
        "first_solve": solved - ready,
        "second_solve": end - solved,
    }


if __name__ == "__main__":
    print(json.dumps(_report(sys.argv[1])))
