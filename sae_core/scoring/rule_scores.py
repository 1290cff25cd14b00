"""Scores of explanations that are rules, by running them.

A rule says of a token how active the feature is expected to be: the largest weight of its clauses that match. Of most
tokens it says 0, so only those that match are looked at: scoring takes time with what rules match, not with the text.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Int64

from sae_core.chat.messages import Missing
from sae_core.explaining.attributes import TokenAttributes
from sae_core.explaining.rules import Rule
from sae_core.feature_contexts.contexts import N_HALVES, FeatureContexts
from sae_core.scoring.formulas import Outcomes, normalised, pearson, pearson_of_sums
from sae_core.scoring.grading import CONSTANT, NEVER_FIRES, NO_NEGATIVES, TaskScores, grade, measure, names_of
from sae_core.scoring.marks import right_marks, wrong_marks
from sae_core.scoring.results import ScoreName, Task
from sae_core.scoring.tasks import TaskExamples

_CORRELATION = ScoreName("text", "pearson")
_OF_YES = [name for name in names_of("text") if name != _CORRELATION]
_ANYTHING = float(np.finfo(np.float32).tiny)
"""Whatever a rule predicts is above."""


class RuleScorer:
    """Runs rules on the tokens looked at.

    Args:
        rules: all that will be scored.
        seed: of the wrong marks.
    """

    def __init__(self, rules: Sequence[Rule], attributes: TokenAttributes, contexts: FeatureContexts, seed: int):
        self._attributes, self._contexts, self._seed = attributes, contexts, seed
        self._half = attributes.text.half
        self._predicted = np.zeros(len(attributes.text), np.float32)
        self._matching = [
            _tokens_by_value(rules, attributes, contexts.looked_at[self._half[contexts.looked_at] == half])
            for half in range(N_HALVES)
        ]

    def score(self, rule: Rule, place: int, half: int, examples: TaskExamples) -> dict[Task, TaskScores | Missing]:
        """Its scores in all tasks but embedding.

        Args:
            place: of the feature among ``contexts.features``.
            half: of the text that it is scored on.
            examples: of that feature and half.
        """
        weights, tokens = self._run(rule, half)
        try:
            return {
                "text": self._score_text(weights, [len(part) for part in tokens], place, half),
                **self._score_examples(place, half, examples),
            }
        finally:
            for part in tokens:
                self._predicted[part] = 0

    def _run(
        self, rule: Rule, half: int
    ) -> tuple[Float32[np.ndarray, " clauses"], list[Int64[np.ndarray, " matching"]]]:
        """Write down the prediction for every token of one half.

        Returns:
            The weights of the clauses and the tokens for which each decides.
        """
        weights, tokens = [], []
        for clause in sorted(rule.clauses, key=lambda clause: -clause.weight):
            number = self._attributes.number(clause.kind, clause.value)
            matching = self._matching[half].get(-1 if number is None else number, np.zeros(0, np.int64))
            fresh = matching[self._predicted[matching] == 0]
            self._predicted[fresh] = clause.weight
            weights.append(clause.weight)
            tokens.append(fresh)
        return np.array(weights, np.float32), tokens

    def _score_text(
        self, weights: Float32[np.ndarray, " clauses"], n_decided: list[int], place: int, half: int
    ) -> TaskScores | Missing:
        """Scores on all tokens of a half that were looked at."""
        code_tokens, activations = self._contexts.codes(place)
        here = self._half[code_tokens] == half
        predicted, truth = self._predicted[code_tokens[here]], activations[here].astype(np.float64)
        n = int(self._contexts.n_tokens[half])
        if not len(truth):
            return NEVER_FIRES
        if len(truth) == n:
            return NO_NEGATIVES
        values, value = np.unique(np.append(weights, np.float32(0)), return_inverse=True)
        counts = np.bincount(value, weights=[*n_decided, n - sum(n_decided)]).astype(np.int64)
        positives = np.bincount(np.searchsorted(values, predicted), minlength=len(values))
        sums = _sums(values.astype(np.float64), counts, predicted.astype(np.float64), truth)
        outcomes = Outcomes(positives, counts - positives, values > 0)
        return measure(outcomes, _OF_YES) | {_CORRELATION: pearson_of_sums(n, *sums)}

    def _score_examples(self, place: int, half: int, examples: TaskExamples) -> dict[Task, TaskScores | Missing]:
        activating = examples.activating
        if not activating.any():
            return dict.fromkeys(("detection", "fuzzing", "simulation"), NEVER_FIRES)
        predicted = self._predicted[examples.tokens]
        strongest = np.maximum.reduceat(predicted, examples.begin)
        largest = float(self._contexts.max_activation[place, half])
        correlation = pearson(predicted, normalised(examples.activations, largest))
        return {
            "detection": grade("detection", strongest, examples.kind, _ANYTHING),
            "fuzzing": self._score_marks(predicted > 0, int(self._contexts.features[place]), examples),
            "simulation": CONSTANT if correlation is None else {ScoreName("simulation", "pearson"): correlation},
        }

    def _score_marks(self, predicted: np.ndarray, feature: int, examples: TaskExamples) -> TaskScores | Missing:
        """Fuzzing: an explanation says yes where it predicts at least half of the marked tokens."""
        activating, right = examples.activating, right_marks(examples)
        wrong = wrong_marks(examples, feature, self._seed)
        share_right, share_wrong = (_share_predicted(predicted, marks, examples) for marks in (right, wrong))
        scores = grade("fuzzing", np.where(activating, share_right, share_wrong), examples.kind)
        if isinstance(scores, Missing):
            return scores
        same = share_wrong[activating & ~np.isnan(share_wrong)]
        values = np.concatenate([share_right[activating], same])
        truth = np.arange(len(values)) < np.count_nonzero(activating)
        return scores | measure(Outcomes.of(values, truth), names_of("fuzzing", "same_text"))


def _sums(
    values: np.ndarray, counts: np.ndarray, predicted: np.ndarray, truth: np.ndarray
) -> tuple[float, float, float, float, float]:
    """Sums of truth and prediction over all tokens, of their squares and of their product.

    Args:
        values, counts: what is predicted, and for how many tokens.
        predicted, truth: of the tokens on which the feature fires.
    """
    products = values * counts, truth * truth, values * values * counts, truth * predicted
    sum_b, sum_aa, sum_bb, sum_ab = (float(each.sum()) for each in products)
    return float(truth.sum()), sum_b, sum_aa, sum_bb, sum_ab


def _share_predicted(predicted: np.ndarray, marks: np.ndarray, examples: TaskExamples) -> np.ndarray:
    """Share of the marked tokens of each example that are predicted; NaN where nothing is marked."""
    n_marks = np.add.reduceat(marks, examples.begin, dtype=np.int64)
    n_predicted = np.add.reduceat(marks & predicted, examples.begin, dtype=np.int64)
    share: np.ndarray = np.divide(n_predicted, n_marks, out=np.full(len(n_marks), np.nan), where=n_marks > 0)
    return share


def _tokens_by_value(
    rules: Sequence[Rule], attributes: TokenAttributes, tokens: Int64[np.ndarray, " n"]
) -> dict[int, Int64[np.ndarray, " matching"]]:
    """For every value of an attribute that a rule speaks of, those of these tokens that have it."""
    clauses = {(clause.kind, clause.value) for rule in rules for clause in rule.clauses}
    numbers = {number for kind, value in clauses if (number := attributes.number(kind, value)) is not None}
    spoken_of = np.zeros(len(attributes) + 1, bool)  # -1, no value, is the last
    spoken_of[list(numbers)] = True
    found: dict[int, np.ndarray] = {}
    for values in attributes.columns[tokens].T:
        kept = np.flatnonzero(spoken_of[values])
        order = kept[np.argsort(values[kept], kind="stable")]
        present, first = np.unique(values[order], return_index=True)
        parts = np.split(tokens[order], first)[1:]
        found.update(zip(present.tolist(), parts, strict=True))
    return found
