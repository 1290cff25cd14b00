"""The search for rules: which few clauses together say best where a feature fires.

Clauses are chosen greedily by the F1 score of what they match together: precision is the share of matching tokens on
which the feature fires, recall the share of its activation on them. Only the tokens given count, so the rule of one
half of the text has seen nothing of the other.
"""

import numpy as np
from jaxtyping import Float32, Int64

from sae_core.explaining.attributes import TokenAttributes
from sae_core.explaining.clauses import Clause
from sae_core.explaining.rule_kernels import choose_clauses, make_scratch
from sae_core.explaining.rules import Rule

_MIN_FIRED = 2
"""Tokens on which a feature fires that a clause must match: once is no pattern."""
_MIN_LIFT = 2.0
"""Least ratio of a clause's precision and the frequency of the feature."""


class RuleSearch:
    """Finds the rules of features on some tokens.

    Args:
        attributes: of all tokens of the text.
        tokens: those that were looked at, in one half of the text.
    """

    def __init__(self, attributes: TokenAttributes, tokens: Int64[np.ndarray, " n"]):
        self.attributes, self.n_tokens = attributes, len(tokens)
        self._match_start, self._match_token = _sorted_by_value(attributes, tokens)
        self._scratch = make_scratch(len(attributes), len(attributes.columns))

    def find(
        self, tokens: Int64[np.ndarray, " m"], activations: Float32[np.ndarray, " m"], n_clauses: int
    ) -> Rule | None:
        """The rule of a feature, of at most so many clauses; None if no clause is better than chance.

        Args:
            tokens: those on which it fires, of the tokens that were looked at.
            activations: how much, above zero.
        """
        min_precision = _MIN_LIFT * len(tokens) / max(1, self.n_tokens)
        chosen, sums = choose_clauses(
            tokens,
            activations,
            self.attributes.columns,
            self._match_start,
            self._match_token,
            n_clauses,
            _MIN_FIRED,
            min_precision,
            self._scratch,
        )
        total = float(activations.sum(dtype=np.float64))
        clauses = [
            self._clause(number, mass, fired, total)
            for number, (mass, fired) in zip(chosen.tolist(), sums.tolist(), strict=True)
        ]
        return Rule(tuple(clauses)) if clauses else None

    def _clause(self, number: int, mass: float, fired: float, total: float) -> Clause:
        n_matching = int(self._match_start[number + 1] - self._match_start[number])
        kind, value = self.attributes.kind(number), self.attributes.value(number)
        return Clause(kind, value, mass / n_matching, fired / n_matching, min(1.0, mass / total))


def _sorted_by_value(
    attributes: TokenAttributes, tokens: Int64[np.ndarray, " n"]
) -> tuple[Int64[np.ndarray, " starts"], Int64[np.ndarray, " matches"]]:
    """Where the tokens of each value begin, and the tokens. Each column has later numbers than those before it."""
    start = np.zeros(len(attributes) + 1, np.int64)
    np.cumsum(attributes.counts(tokens), out=start[1:])
    matching = []
    for column in attributes.columns.T:
        values = column[tokens]
        matching.append(tokens[np.argsort(values, kind="stable")[np.count_nonzero(values < 0) :]])
    return start, np.concatenate(matching)
