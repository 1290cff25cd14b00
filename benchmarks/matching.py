"""Time and memory of the exact matching of two dictionaries: ours against dense solvers.

    python -m benchmarks.matching --sizes 4096 16384 --repeats 3 --threads 1
    python -m benchmarks.matching --methods ours scipy lapx --lapx-python /elsewhere/venv/bin/python

Every measurement is a process of its own, after a small warm-up, and includes everything from the two dictionaries to
the matching (the dense ones: product and solver). The methods take turns in one run, since only the ratio of such
turns means something on a shared machine; medians are reported. CPU time is the process's, all threads; memory is the
growth of the peak resident size over the moment before the call. ``lapx`` needs an environment of its own, with numpy
and lapx, because it installs a module that other solvers also claim.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

METHODS = ("ours", "scipy", "lapx")
KINDS = ("random", "two thirds match")


def dictionaries(n: int, d_in: int, kind: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two float32 dictionaries; of the second kind two thirds of the features recur with cosines of .8 to .99."""
    rng = np.random.default_rng(seed)
    a, b = (rng.standard_normal((n, d_in), dtype=np.float32) for _ in range(2))
    if kind == "two thirds match":
        m = 2 * n // 3
        unit = a[:m] / np.linalg.norm(a[:m], axis=1, keepdims=True)
        other = b[:m] - (b[:m] * unit).sum(axis=1, keepdims=True) * unit
        other /= np.linalg.norm(other, axis=1, keepdims=True)
        cosine = rng.uniform(0.8, 0.99, (m, 1)).astype(np.float32)
        b[:m] = cosine * unit + np.sqrt(1 - cosine**2) * other
        b = b[rng.permutation(n)]
    return a, b


def solver(method: str) -> Callable[[np.ndarray, np.ndarray], float]:
    """A function from two dictionaries to MCC."""
    if method == "ours":
        from sae_core.matching import match

        return lambda a, b: match(a, b, method="sparse").mcc

    def absolute_cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        a, b = (W / np.linalg.norm(W, axis=1, keepdims=True) for W in (a, b))
        cosines = a @ b.T
        return np.abs(cosines, out=cosines)

    if method == "scipy":
        from scipy.optimize import linear_sum_assignment

        def by_scipy(a: np.ndarray, b: np.ndarray) -> float:
            cosines = absolute_cosines(a, b)
            return float(cosines[linear_sum_assignment(cosines, maximize=True)].mean(dtype=np.float64))

        return by_scipy
    import lap

    def by_lapx(a: np.ndarray, b: np.ndarray) -> float:
        cosines = absolute_cosines(a, b)
        _, partner, _ = lap.lapjv(1 - cosines)
        return float(cosines[np.arange(len(a)), partner].mean(dtype=np.float64))

    return by_lapx


def measure(method: str, n: int, d_in: int, kind: str) -> dict[str, float]:
    """One measurement, in this process."""
    solve = solver(method)
    solve(*dictionaries(512, 64, kind))
    a, b = dictionaries(n, d_in, kind)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, cpu = time.perf_counter(), time.process_time()
    mcc = solve(a, b)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) / 1024
    return {"mcc": mcc, "wall_s": wall, "cpu_s": cpu, "memory_mib": grown}


def measure_apart(method: str, n: int, kind: str, options: argparse.Namespace) -> dict[str, float]:
    """One measurement, in a fresh process with a fixed number of threads."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    environment = os.environ | {name: str(options.threads) for name in names} | {"OMP_WAIT_POLICY": "passive"}
    python = options.lapx_python if method == "lapx" else sys.executable
    command = [python, __file__, "--one", method, "--sizes", str(n), "--kinds", kind, "--d-in", str(options.d_in)]
    if method == "ours":
        environment["PYTHONPATH"] = str(Path(__file__).parents[1])
    out = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, float] = json.loads(out.splitlines()[-1])
    return found


def report(rows: Sequence[dict[str, object]]) -> None:
    """A Markdown table."""
    columns = ("n", "kind", "method", "cpu_s", "wall_s", "memory_mib", "mcc")
    print("| " + " | ".join(columns) + " |\n" + "|-" * len(columns) + "|")
    for row in rows:
        cells = [f"{row[c]:.8f}" if c == "mcc" else f"{row[c]:.3g}" if c.endswith("_s") else row[c] for c in columns]
        print("| " + " | ".join(f"{c:.0f}" if isinstance(c, float) else str(c) for c in cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[4096, 16384])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["ours", "scipy"])
    parser.add_argument("--d-in", type=int, default=768)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--lapx-python", default=sys.executable, help="interpreter of an environment with lapx")
    parser.add_argument("--one", choices=METHODS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, options.sizes[0], options.d_in, options.kinds[0])))
        return
    rows: list[dict[str, object]] = []
    for n in options.sizes:
        for kind in options.kinds:
            found: dict[str, list[dict[str, float]]] = {method: [] for method in options.methods}
            for _ in range(options.repeats):
                for method in options.methods:
                    found[method].append(measure_apart(method, n, kind, options))
                    print(f"{n} {kind}, {method}: {found[method][-1]}", file=sys.stderr)
            for method, values in found.items():
                medians = {name: statistics.median(value[name] for value in values) for name in values[0]}
                rows.append({"n": n, "kind": kind, "method": method} | medians)
    report(rows)


if __name__ == "__main__":
    main()
