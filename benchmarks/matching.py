"""Time and memory of the exact matching of two dictionaries: ours against dense solvers.

    python -m benchmarks.matching --sizes 4096 16384 --repeats 3
    python -m benchmarks.matching --methods ours scipy lapx --lapx-python /elsewhere/venv/bin/python
    python -m benchmarks.matching --methods ours --sizes 262144 --repeats 1 --time-budget 1200

Every measurement is a process of its own, after a small warm-up (which compiles), and includes everything from the two
dictionaries to the matching (the dense ones: product and solver). The methods take turns in one run, since only the
ratio of such turns means something on a shared machine; medians are reported. CPU time is the process's, all threads;
memory is the peak resident size during the call, above that before it, and in all. A method whose matrices do not fit
into the free memory is not run: "-". ``joint`` is ours on decoders and encoders together. ``lapx`` needs an environment
of its own, with numpy and lapx, because it installs a module that other solvers also claim.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

METHODS = ("ours", "joint", "scipy", "lapx")
DENSE_BYTES = 16
"""Memory of one pair for a dense solver: the float32 matrix, its float64 copy, and what the solver adds."""
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


def solver(method: str, time_budget_s: float | None) -> Callable[[np.ndarray, np.ndarray], dict[str, Any]]:
    """A function from two dictionaries to MCC and, where it is known, the upper bound and why the search stopped."""
    if method in ("ours", "joint"):
        from sae_core.matching import match, match_joint

        def by_ours(a: np.ndarray, b: np.ndarray) -> dict[str, Any]:
            if method == "ours":
                found = match(a, b, method="sparse", time_budget_s=time_budget_s)
            else:  # encoders that say the same as the decoders
                found = match_joint(a, a.T, b, b.T, method="sparse", time_budget_s=time_budget_s).matching
            return {"mcc": found.mcc, "upper_bound": found.upper_bound, "stopped": found.stopped}

        return by_ours

    def absolute_cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        a, b = (W / np.linalg.norm(W, axis=1, keepdims=True) for W in (a, b))
        cosines = a @ b.T
        return np.abs(cosines, out=cosines)

    if method == "scipy":
        from scipy.optimize import linear_sum_assignment

        def by_scipy(a: np.ndarray, b: np.ndarray) -> dict[str, Any]:
            cosines = absolute_cosines(a, b)
            return {"mcc": float(cosines[linear_sum_assignment(cosines, maximize=True)].mean(dtype=np.float64))}

        return by_scipy
    import lap

    def by_lapx(a: np.ndarray, b: np.ndarray) -> dict[str, Any]:
        cosines = absolute_cosines(a, b)
        _, partner, _ = lap.lapjv(1 - cosines)
        return {"mcc": float(cosines[np.arange(len(a)), partner].mean(dtype=np.float64))}

    return by_lapx


def resident_mib(field: str) -> float:
    """``VmRSS`` or ``VmHWM`` (the peak) of this process."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line for line in status.splitlines() if line.startswith(field)).split()[1]) / 1024


def measure(method: str, n: int, d_in: int, kind: str, time_budget_s: float | None) -> dict[str, Any]:
    """One measurement, in this process."""
    solver(method, None)(*dictionaries(2048, 64, kind))
    solve = solver(method, time_budget_s)
    a, b = dictionaries(n, d_in, kind)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak counts from here
    before = resident_mib("VmRSS")
    wall, cpu = time.perf_counter(), time.process_time()
    found = solve(a, b)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resident_mib("VmHWM")
    return found | {"wall_s": wall, "cpu_s": cpu, "memory_mib": peak - before, "in_all_mib": peak}


def measure_apart(method: str, n: int, kind: str, options: argparse.Namespace) -> dict[str, Any]:
    """One measurement, in a fresh process with a fixed number of threads."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    environment = os.environ | {name: str(options.threads) for name in names} | {"OMP_WAIT_POLICY": "passive"}
    python = options.lapx_python if method == "lapx" else sys.executable
    command = [python, __file__, "--one", method, "--sizes", str(n), "--kinds", kind, "--d-in", str(options.d_in)]
    if options.time_budget is not None:
        command += ["--time-budget", str(options.time_budget)]
    if method in ("ours", "joint"):
        environment["PYTHONPATH"] = str(Path(__file__).parents[1])
    out = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def fits(method: str, n: int) -> bool:
    """Whether the matrices of a dense method fit into what is free."""
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return method in ("ours", "joint") or DENSE_BYTES * n * n < available


def median(values: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Medians of what is a number, and the first of what is not."""
    return {
        name: statistics.median(value[name] for value in values) if isinstance(first, float) else first
        for name, first in values[0].items()
    }


def report(rows: Sequence[dict[str, Any]]) -> None:
    """A Markdown table."""
    columns = {"n": "", "kind": "", "method": "", "cpu_s": ".1f", "wall_s": ".1f", "memory_mib": ",.0f"}
    columns |= {"in_all_mib": ",.0f", "mcc": ".8f", "upper_bound": ".8f", "stopped": ""}
    print("| " + " | ".join(columns) + " |\n" + "|-" * len(columns) + "|")
    for row in rows:
        cells = ["-" if row.get(name) is None else format(row[name], how) for name, how in columns.items()]
        print("| " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[4096, 16384])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["ours", "scipy"])
    parser.add_argument("--d-in", type=int, default=768)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--time-budget", type=float, help="seconds after which ours stops with a bracket")
    parser.add_argument("--lapx-python", default=sys.executable, help="interpreter of an environment with lapx")
    parser.add_argument("--one", choices=METHODS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        found = measure(options.one, options.sizes[0], options.d_in, options.kinds[0], options.time_budget)
        print(json.dumps(found))
        return
    rows: list[dict[str, Any]] = []
    for n in options.sizes:
        for kind in options.kinds:
            found = {method: [] for method in options.methods}
            for _ in range(options.repeats):
                for method in filter(lambda name: fits(name, n), options.methods):
                    found[method].append(measure_apart(method, n, kind, options))
                    print(f"{n} {kind}, {method}: {found[method][-1]}", file=sys.stderr, flush=True)
            for method, values in found.items():
                rows.append({"n": n, "kind": kind, "method": method} | (median(values) if values else {}))
    report(rows)


if __name__ == "__main__":
    main()
