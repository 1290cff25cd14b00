"""What a measure of similarity has to offer: a number for any two features of two runs, or the reason why not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float64, Int64

from sae_core.progress import Progress

Kind = Literal["embedding", "judge", "words", "activations"]
NEVER_FIRED = "no activation in the held-out text"


@dataclass(frozen=True)
class FeaturePairs:
    """Features of two runs, side by side."""

    run_a: str
    run_b: str
    left: Int64[np.ndarray, " n"]
    """Of the first run."""
    right: Int64[np.ndarray, " n"]


@dataclass(frozen=True)
class Scores:
    """The similarity of every pair."""

    value: Float64[np.ndarray, " n"]
    """nan: missing."""
    reason: np.ndarray
    """(n,) text: why it is missing; None where it is not."""


def missing(reason: np.ndarray) -> Bool[np.ndarray, "..."]:
    """Where there is a reason, in any shape."""
    return np.array([text is not None for text in reason.ravel()], bool).reshape(reason.shape)


@runtime_checkable
class Measure(Protocol):
    """One measure of similarity."""

    name: str
    """As in ``MeasureSummary.measure``."""
    kind: Kind
    explainer: str | None
    costly: bool
    """Whether every number is paid for: it then has one decoy a pair, and partners are not shuffled."""

    def score(self, pairs: Sequence[FeaturePairs], progress: Progress) -> list[Scores]:
        """The similarity of all pairs of features."""
        ...

    def known(self, run: str, features: Int64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Which features of a run can have a similarity with others at all: the ones that may be decoys."""
        ...

    def ceiling(self, used: Mapping[str, Int64[np.ndarray, " _"]]) -> float | None:
        """Mean similarity of a feature with itself between the two halves of the text; None where that says nothing.

        Args:
            used: the features of each run whose similarity is reported.
        """
        ...
