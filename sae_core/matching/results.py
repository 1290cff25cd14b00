"""What a matching of two dictionaries says: a part of *consistency*."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int64


@dataclass(frozen=True)
class Matching:
    """The best one-to-one matching of the rows of two dictionaries; all indices are row numbers of the inputs."""

    left: Int64[np.ndarray, " n"]
    """Matched rows of the first dictionary, ascending."""
    right: Int64[np.ndarray, " n"]
    """Their partners in the second dictionary."""
    cosine: Float[np.ndarray, " n"]
    """Signed cosine of every matched pair, float64, in [-1, 1]."""
    best_left: Float[np.ndarray, " n_a"]
    """Largest score of each row of the first dictionary with any row of the second; nan for excluded rows. When
    ``stopped``, this and what follows is the largest of the scores that were looked at."""
    best_right: Float[np.ndarray, " n_b"]
    """Largest score of each row of the second dictionary with any row of the first; nan for excluded rows."""
    nearest_left: Int64[np.ndarray, " n_a"]
    """Row of the second dictionary with that score, the first of equals; -1 for excluded rows."""
    nearest_right: Int64[np.ndarray, " n_b"]
    """Row of the first dictionary with that score, the first of equals; -1 for excluded rows."""
    alternative_left: Float[np.ndarray, " n"]
    """Largest score of each matched row of the first dictionary with a row that is not its partner; nan if none."""
    alternative_right: Float[np.ndarray, " n"]
    """The same for the matched rows of the second dictionary."""
    signed: bool
    """Whether the score is the cosine itself instead of its absolute value."""
    gap: float
    """No matching has a mean score above ``mcc + gap`` (0 for scipy; what the certificate leaves open otherwise)."""
    tolerance: float
    """Largest gap that counts as proven."""
    n_excluded_left: int
    """Rows of zeros in the first dictionary: they have no direction and take no part."""
    n_excluded_right: int
    stopped: str | None = None
    """Why the search ended before the proof (a time or memory budget, or a tolerance below rounding); the matching is
    complete and the bound holds all the same. None when it came to its end."""

    @property
    def score(self) -> Float[np.ndarray, " n"]:
        """What the matching maximises: the absolute cosine, or the cosine when signed."""
        return self.cosine if self.signed else np.absolute(self.cosine)

    @property
    def mcc(self) -> float:
        """Mean score over the matched pairs: the mean correlation coefficient, in [0, 1] ([-1, 1] when signed)."""
        return float(self.score.mean())

    @property
    def certified(self) -> bool:
        """Whether no other matching is better by more than the tolerance."""
        return self.gap <= self.tolerance

    @property
    def upper_bound(self) -> float:
        """No matching has a larger mean score; equals ``mcc`` when certified."""
        return self.mcc if self.certified else self.mcc + self.gap

    @property
    def margin_left(self) -> Float[np.ndarray, " n"]:
        """Score of every matched pair minus the best alternative of its left row; nan where there is none."""
        return np.asarray(self.score - self.alternative_left)

    @property
    def margin_right(self) -> Float[np.ndarray, " n"]:
        """Score of every matched pair minus the best alternative of its right row; nan where there is none."""
        return np.asarray(self.score - self.alternative_right)


@dataclass(frozen=True)
class JointMatching:
    """The best one-to-one matching of features by decoder and encoder together, and both cosines of each pair."""

    matching: Matching
    """Its ``cosine`` is the mean of the two; features without a direction in decoder or encoder are excluded."""
    decoder_cosine: Float64[np.ndarray, " n"]
    """Signed cosine of the decoder rows of every matched pair, in [-1, 1]."""
    encoder_cosine: Float64[np.ndarray, " n"]
    """Signed cosine of the encoder columns of every matched pair, in [-1, 1]."""
