"""The runs of one version of a model, as *model versions* compares them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


class NotComparable(Exception):
    """The dictionaries of two versions cannot be compared; the message says why."""


@dataclass(frozen=True)
class VersionRuns:
    """The runs of one version.

    Raises:
        ValueError: if agreement or frequency are not those of the same runs.
    """

    dictionaries: Mapping[str, Float[np.ndarray, "_ _"]]
    """Decoder of each run by its name, one feature a row. Runs of equal name have equal seeds in both versions."""
    within: Float[np.ndarray, "runs others"]
    """MCC of the runs with each other, in their order; the diagonal is ignored."""
    agreement: Mapping[str, Float[np.ndarray, " _"]]
    """Of every feature of each run the mean absolute cosine with its partners in the other runs; nan without any."""
    frequency: Mapping[str, Float[np.ndarray, " _"]]
    """Share of tokens on which each feature fires; nan when unknown."""

    def __post_init__(self) -> None:
        for what, values in (("agreement", self.agreement), ("frequency", self.frequency)):
            for name, W_dec in self.dictionaries.items():
                if name not in values or values[name].shape != (len(W_dec),):
                    raise ValueError(f"the {what} of {name} must be one number for each of its {len(W_dec)} features")

    @property
    def names(self) -> list[str]:
        """Names of the runs."""
        return list(self.dictionaries)
