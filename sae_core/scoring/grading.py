"""Scores of one explanation in one task, from what was predicted for every example."""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float, Int8

from sae_core.chat.messages import Missing
from sae_core.feature_contexts.contexts import ACTIVATING
from sae_core.scoring.formulas import Outcomes
from sae_core.scoring.results import NEGATIVES, SCORES, TASKS, Negatives, ScoreName, Task
from sae_core.scoring.tasks import KINDS

TaskScores = dict[ScoreName, float | None]
"""None where a score is not defined for these examples."""

NEVER_FIRES = Missing("the feature does not fire in the examples of the other half")
NO_NEGATIVES = Missing("the other half has no example without the feature")
CONSTANT = Missing("the prediction is the same everywhere")


def grade(
    task: Task, predicted: Float[np.ndarray, " n"], kind: Int8[np.ndarray, " n"], threshold: float = 0.5
) -> TaskScores | Missing:
    """The scores of a task, against all examples without the feature and against those of each kind.

    Args:
        predicted: probability, share or other number for each example, the larger the likelier the answer is yes.
        kind: index into ``KINDS`` of each example; yes is right for activating ones.
        threshold: from which number on the answer counts as yes.
    """
    values, value = np.unique(predicted, return_inverse=True)
    size = len(KINDS), len(values)
    counts = np.bincount(np.ravel_multi_index((kind, value), size), minlength=size[0] * size[1]).reshape(size)
    positives, yes = counts[: len(ACTIVATING)].sum(axis=0), values >= threshold
    if not positives.any():
        return NEVER_FIRES
    if not counts[len(ACTIVATING) :].any():
        return NO_NEGATIVES
    scores: TaskScores = {}
    for negatives, names in _NAMES[task].items():
        rows = slice(len(ACTIVATING), None) if negatives is None else [KINDS.index(negatives)]
        scores |= measure(Outcomes(positives, counts[rows].sum(axis=0), yes), names)
    return scores


def measure(outcomes: Outcomes, names: Iterable[ScoreName]) -> TaskScores:
    """Some scores of one set of outcomes."""
    return {name: getattr(outcomes, name.metric) for name in names}


def names_of(task: Task, negatives: Negatives | None = None) -> list[ScoreName]:
    """The scores of a task against examples of one kind, or of all."""
    return [name for name in SCORES if (name.task, name.negatives) == (task, negatives)]


_NAMES: dict[Task, dict[Negatives | None, list[ScoreName]]] = {
    task: {negatives: names_of(task, negatives) for negatives in (None, *NEGATIVES[task]) if negatives != "same_text"}
    for task in TASKS
}
