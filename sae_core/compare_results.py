"""What ``concord compare`` says, as versioned JSON: the published schema is made from these classes.

A reader that knows version 1 may rely on every field below; fields may be added within a version, none changes its
meaning or goes.
"""

from typing import Literal

from sae_core.config import Result
from sae_core.consistency.results import ConsistencySummary


class Definition(Result):
    """What the numbers are: definitions differ between papers and give different numbers for the same SAEs."""

    mcc: str = (
        "mean absolute cosine of the matched decoder rows, under the one-to-one matching of rows that makes it largest "
        "(linear assignment, exact where certified), over min(n_a, n_b) pairs"
    )
    pw_mcc: str = "mean of mcc over all unordered pairs of dictionaries"
    sign_convention: str = (
        "cosines of matched pairs are signed; mcc takes their absolute value, mcc_signed is its own optimum without it"
    )
    rows: str = "decoder rows scaled to unit length; rows of zeros have no direction and are left out, and counted"
    kappa: str = "(pw_mcc - null) / (1 - null)"
    null_isotropic: str = "dictionaries of independent, uniformly random directions"
    null_sign_flip: str = (
        "the second dictionary of each pair mirrored along a random choice of its principal axes: same Gram matrix"
    )
    source: str = "Song et al. 2025, arXiv 2505.20254, eq. 3"


class ComparedSae(Result):
    """One of the compared SAEs, and where it comes from."""

    name: str
    """How the pairs refer to it."""
    location: str
    """As it was given."""
    format: str
    revision: str | None
    """Commit of a hub repository; None for local files."""
    files: dict[str, str]
    """sha256 of every file that was read."""
    architecture: str | None
    """None when the files tell only the decoder."""
    d_sae: int
    d_in: int
    """Width of the decoder rows."""
    has_encoder: bool


class MatchedFeatures(Result):
    """The matched features of a pair of SAEs, in columns of equal length, ordered by ``feature_a``."""

    feature_a: list[int]
    feature_b: list[int]
    cosine: list[float]
    """Signed cosine of the decoder rows."""


class ComparedPair(Result):
    """Two SAEs under the best one-to-one matching of their decoder rows."""

    a: str
    b: str
    n_matched: int
    mcc: float
    upper_bound: float
    """No matching has a larger mean; equal to ``mcc`` when certified."""
    certified: bool
    mcc_signed: float | None
    """None when it was not asked for, or would have taken too long."""
    null_sign_flip: float | None
    share_negative: float
    """Share of matched pairs with a negative cosine."""
    mmcs_forward: float
    """Mean over a's features of the largest absolute cosine with any feature of b: not one to one."""
    mmcs_backward: float
    matches: MatchedFeatures | None
    """None when they were left out of the JSON."""


class Comparison(Result):
    """Two or more SAEs compared pair by pair."""

    schema_version: Literal["1"] = "1"
    definition: Definition = Definition()
    saes: list[ComparedSae]
    pairs: list[ComparedPair]
    consistency: ConsistencySummary
    versions: dict[str, str]
    """Of this project and the libraries that decide the numbers."""
