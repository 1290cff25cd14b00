"""The cosine that matched features have by chance: pairs at or below it are counted apart."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa


def chance_cosines(pairs: pa.Table, summary: Mapping[str, Any]) -> dict[tuple[str, str], float]:
    """For each pair of runs the mean matched cosine of the sign-flip null, or of random directions without it.

    Args:
        pairs: run_a, run_b, null_sign_flip (null: not measured), as *consistency* writes them.
        summary: the summary of *consistency*, of which ``null_isotropic`` is read.
    """
    return {
        (row["run_a"], row["run_b"]): float(
            summary["null_isotropic"] if row["null_sign_flip"] is None else row["null_sign_flip"]
        )
        for row in pairs.select(["run_a", "run_b", "null_sign_flip"]).to_pylist()
    }
