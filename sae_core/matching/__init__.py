"""The exact one-to-one matching of two dictionaries of features: the first step of *consistency*.

``match`` and its siblings are in ``exact``; what large problems need, without the n x n matrix, is beside it.
"""

from sae_core.matching.directions import rows_with_direction, unit_rows
from sae_core.matching.exact import DENSE_PAIRS, Method, match, match_joint, match_scores
from sae_core.matching.results import JointMatching, Matching

__all__ = [
    "DENSE_PAIRS",
    "JointMatching",
    "Matching",
    "Method",
    "match",
    "match_joint",
    "match_scores",
    "rows_with_direction",
    "unit_rows",
]
