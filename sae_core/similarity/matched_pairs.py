"""The matched features of two runs as arrays, and those of them that an explainer was asked for."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float64, Int64

from sae_core.similarity.draws import require_known, run_pairs


@dataclass(frozen=True)
class MatchedPairs:
    """All matched features of two runs."""

    run_a: str
    run_b: str
    left: Int64[np.ndarray, " n"]
    right: Int64[np.ndarray, " n"]
    cosine: Float64[np.ndarray, " n"]
    """Signed."""
    frequency: Float64[np.ndarray, " n"]
    """The smaller of the two features'."""
    frequency_b: Float64[np.ndarray, " n"]
    alive: Bool[np.ndarray, " n"]
    """In both runs."""
    chance: float
    """|cosine| up to which a pair counts as below chance."""

    @property
    def above_chance(self) -> Bool[np.ndarray, " n"]:
        """Pairs whose cosine exceeds chance."""
        return np.asarray(np.abs(self.cosine) > self.chance)

    def rows_of(self, asked: pa.Table | None) -> Int64[np.ndarray, " m"]:
        """Rows of the pairs asked for, ascending.

        Args:
            asked: run_a, run_b, feature_a, feature_b; those of other runs are skipped. None: all.

        Raises:
            ValueError: if a pair asked for is not matched.
        """
        if asked is None:
            return np.arange(len(self.left))
        here = asked.filter((pc.field("run_a") == self.run_a) & (pc.field("run_b") == self.run_b))
        left, right = here["feature_a"].to_numpy(), here["feature_b"].to_numpy()
        order = np.argsort(self.left)  # one-to-one: a feature has one partner at most
        found = order[np.minimum(np.searchsorted(self.left, left, sorter=order), len(order) - 1)]
        wrong = (self.left[found] != left) | (self.right[found] != right)
        if wrong.any():
            i = int(np.flatnonzero(wrong)[0])
            raise ValueError(
                f"expected pairs drawn from these matches: feature {left[i]} of {self.run_a} and {right[i]} of "
                f"{self.run_b} are not matched; draw the pairs again, from the present consistency"
            )
        return np.unique(found)


def read_matches(matches: pa.Table, chance: Mapping[tuple[str, str], float]) -> list[MatchedPairs]:
    """The matched features of every pair of runs.

    Args:
        matches: run_a, run_b, feature_a, feature_b, cosine (signed), alive_a, alive_b, frequency_a, frequency_b.
        chance: the cosine that pairs have by chance, for every pair of runs.

    Raises:
        ValueError: if there is no pair, a frequency is not known, or a pair of runs has no chance level.
    """
    if matches.num_rows == 0:
        raise ValueError("expected at least one matched pair, got none; compute consistency of two or more runs first")
    require_known(matches, ("frequency_a", "frequency_b", "alive_a", "alive_b"))
    found = []
    for run_a, run_b in run_pairs(matches):
        if (run_a, run_b) not in chance:
            raise ValueError(f"no chance level for {run_a} and {run_b}; pass that of every pair of runs of the matches")
        here = matches.filter((pc.field("run_a") == run_a) & (pc.field("run_b") == run_b))
        column = {name: here[name].to_numpy() for name in here.column_names}
        found.append(
            MatchedPairs(
                run_a=run_a,
                run_b=run_b,
                left=column["feature_a"],
                right=column["feature_b"],
                cosine=column["cosine"],
                frequency=np.minimum(column["frequency_a"], column["frequency_b"]),
                frequency_b=column["frequency_b"],
                alive=column["alive_a"].astype(bool) & column["alive_b"].astype(bool),
                chance=chance[run_a, run_b],
            )
        )
    return found
