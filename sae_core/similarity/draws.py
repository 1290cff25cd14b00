"""Which matched pairs are looked at where not all are, and what random draws of *similarity* depend on."""

import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int64


def draw_pairs(matches: pa.Table, n_pairs: int, seed: int) -> pa.Table:
    """Matched pairs drawn at random from those alive in both runs, spread evenly over the pairs of runs.

    What is drawn for a pair of runs depends on its own matches, the seed and its share of ``n_pairs`` only, and a
    larger share holds a smaller one. A pair of runs with fewer alive pairs than its share gives them all.

    Args:
        matches: run_a, run_b, feature_a, feature_b, alive_a, alive_b, as *consistency* writes them.

    Returns:
        run_a, run_b, feature_a, feature_b, at most ``n_pairs`` rows.

    Raises:
        ValueError: if it is not known which features are alive.
    """
    require_known(matches, ("alive_a", "alive_b"))
    names = ["run_a", "run_b", "feature_a", "feature_b"]
    groups = run_pairs(matches)
    drawn = [matches.select(names).slice(0, 0)]
    for (run_a, run_b), share in zip(groups, even_shares(n_pairs, len(groups)), strict=True):
        here = matches.filter((pc.field("run_a") == run_a) & (pc.field("run_b") == run_b))
        alive = here.filter(pc.field("alive_a") & pc.field("alive_b")).select(names).sort_by("feature_a")
        rows = draw_rows(alive.num_rows, share, pair_rng(seed, run_a, run_b, "pairs"))
        drawn.append(alive.take(pa.array(rows)))
    return pa.concat_tables(drawn)


def run_pairs(matches: pa.Table) -> list[tuple[str, str]]:
    """The pairs of runs, in the order of their first match."""
    groups = matches.select(["run_a", "run_b"]).group_by(["run_a", "run_b"], use_threads=False).aggregate([])
    return [(row["run_a"], row["run_b"]) for row in groups.to_pylist()]


def even_shares(n: int, n_groups: int) -> list[int]:
    """n things over so many groups; the first ones get one more where it does not come out even."""
    return [n // n_groups + (i < n % n_groups) for i in range(n_groups)]


def draw_rows(n: int, share: int, rng: np.random.Generator) -> Int64[np.ndarray, " m"]:
    """``share`` numbers below n, ascending; all of them when there are fewer. A larger share holds a smaller one."""
    return np.asarray(np.sort(rng.permutation(n)[:share]), np.int64)


def pair_rng(seed: int, run_a: str, run_b: str, purpose: str) -> np.random.Generator:
    """Randomness of two runs for one purpose: what other runs and purposes there are changes nothing."""
    name = hashlib.sha256("\n".join((purpose, run_a, run_b)).encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(name[:8], "little")])


def require_known(matches: pa.Table, columns: Sequence[str]) -> None:
    """Refuse matches of runs that were never evaluated.

    Raises:
        ValueError: if a column has a null.
    """
    for column in columns:
        if matches[column].null_count:
            raise ValueError(
                f"matches lack {column}: expected a value for every pair; evaluate the runs on held-out tokens, so "
                "that consistency knows how often each feature fires"
            )
