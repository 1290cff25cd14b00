"""The formulas of *scoring*, as in EleutherAI/delphi (Paulo et al. 2024, arXiv 2410.13928), which scores
explanations by the same tasks.

Where a number is not defined it is None. delphi has 0 there for a rate over no examples and for the precision of a
prediction that is never positive, and NaN for the correlation with a constant.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int64


@dataclass(frozen=True)
class Outcomes:
    """How often each predicted value was right to be high: of every different value, the smallest first."""

    positives: Int64[np.ndarray, " values"]
    """Cases of that value in which yes is right."""
    negatives: Int64[np.ndarray, " values"]
    """Cases of that value in which no is right."""
    yes: Bool[np.ndarray, " values"]
    """Whether a prediction of that value counts as yes."""

    @classmethod
    def of(
        cls, predicted: Float[np.ndarray, " n"], truth: Bool[np.ndarray, " n"], threshold: float = 0.5
    ) -> "Outcomes":
        """Of single predictions, which count as yes from the threshold on."""
        values, value = np.unique(predicted, return_inverse=True)
        counts = [np.bincount(value[part], minlength=len(values)) for part in (truth, ~truth)]
        return cls(counts[0], counts[1], values >= threshold)

    @cached_property
    def confusion(self) -> tuple[int, int, int, int]:
        """True positives, false positives, true negatives, false negatives."""
        hit, false_alarm = int(self.positives[self.yes].sum()), int(self.negatives[self.yes].sum())
        return hit, false_alarm, int(self.negatives.sum()) - false_alarm, int(self.positives.sum()) - hit

    @property
    def precision(self) -> float | None:
        """Share of the predicted positives that are right; None without any."""
        hit, false_alarm, _, _ = self.confusion
        return _share(hit, false_alarm)

    @property
    def recall(self) -> float | None:
        """Share of the positives that are predicted, the true positive rate; None without positives."""
        hit, _, _, miss = self.confusion
        return _share(hit, miss)

    @property
    def balanced_accuracy(self) -> float | None:
        """Mean of the true positive and the true negative rate, in [0, 1]; None without positives or negatives."""
        hit, false_alarm, rejected, miss = self.confusion
        recall, specificity = _share(hit, miss), _share(rejected, false_alarm)
        return None if recall is None or specificity is None else (recall + specificity) / 2

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall, in [0, 1]; None without positives.

        0 where nothing is predicted though there are positives, as the limit of both.
        """
        hit, false_alarm, _, miss = self.confusion
        return 2 * hit / (2 * hit + false_alarm + miss) if hit + miss else None

    @property
    def auc(self) -> float | None:
        """Probability that a positive has a larger value than a negative, ties counted half, in [0, 1].

        None without positives or negatives.
        """
        hit, false_alarm, rejected, miss = self.confusion
        n_pairs = (hit + miss) * (false_alarm + rejected)
        twice_below = 2 * np.cumsum(self.negatives) - self.negatives
        return float((self.positives * twice_below).sum()) / (2 * n_pairs) if n_pairs else None


def _share(part: int, rest: int) -> float | None:
    return part / (part + rest) if part + rest else None


def pearson(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"]) -> float | None:
    """Pearson correlation, in [-1, 1]; None where one of them is constant.

    Over the tokens of all examples in one row, not the mean of a correlation per example.
    """
    if len(a) < 2 or a.min() == a.max() or b.min() == b.max():
        return None
    a, b = a - a.mean(dtype=np.float64), b - b.mean(dtype=np.float64)
    return float(np.clip((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()), -1, 1))


def pearson_of_sums(n: int, sum_a: float, sum_b: float, sum_aa: float, sum_bb: float, sum_ab: float) -> float | None:
    """``pearson`` of two rows of n numbers from their sums, sums of squares and sum of products; None as there."""
    variance_a, variance_b = sum_aa - sum_a**2 / n, sum_bb - sum_b**2 / n
    # What is left of a constant is rounding.
    if variance_a <= 1e-12 * sum_aa or variance_b <= 1e-12 * sum_bb:
        return None
    return float(np.clip((sum_ab - sum_a * sum_b / n) / np.sqrt(variance_a * variance_b), -1, 1))


def normalised(activations: Float[np.ndarray, " n"], largest: float) -> Float[np.ndarray, " n"]:
    """Activations as whole numbers from 0 to 10, rounded up, as delphi shows them to models and compares them."""
    scaled: np.ndarray = np.clip(np.ceil(activations * 10 / max(largest, 1e-6)), 0, 10)
    return scaled
