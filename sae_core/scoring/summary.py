"""The scores of all explanations of a run in a few numbers."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from sae_core.chat.messages import Missing
from sae_core.scoring.chat_scores import ChatScores
from sae_core.scoring.grading import CONSTANT, TaskScores
from sae_core.scoring.results import CHANCE, SCORES, ScoreName, ScoresSummary, ScoreSummary, Task

_UNDEFINED = "not defined for these examples"


def summarise(
    scores: Sequence[dict[Task, TaskScores | Missing]],
    n_rules: int,
    scorer: str | None = None,
    answers: ChatScores | None = None,
) -> ScoresSummary:
    """Median and mean of every score that was asked for, with those missing by reason.

    Args:
        scores: of every explanation in the tasks it was given.
        scorer: digest of the model that answered.
        answers: how its questions went.
    """
    return ScoresSummary(
        n_explanations=len(scores),
        n_rules=n_rules,
        scorer=scorer,
        n_trials=answers.n_trials if answers else 0,
        missing_trials=answers.missing_trials if answers else {},
        scores=[each for name in SCORES if (each := _summarise(name, scores)) is not None],
    )


def _summarise(name: ScoreName, scores: Sequence[dict[Task, TaskScores | Missing]]) -> ScoreSummary | None:
    values: list[float] = []
    missing: Counter[str] = Counter()
    for each in scores:
        of_task = each.get(name.task)
        if isinstance(of_task, Missing):
            missing[of_task.reason] += 1
        elif of_task is not None and name in of_task:
            value = of_task[name]
            if value is None:
                missing[_why(name)] += 1
            else:
                values.append(value)
    if not values and not missing:
        return None
    return ScoreSummary(
        name=str(name),
        task=name.task,
        metric=name.metric,
        negatives=name.negatives,
        chance=CHANCE[name.metric],
        median=float(np.median(values)) if values else None,
        mean=float(np.mean(values)) if values else None,
        n=len(values),
        missing=dict(sorted(missing.items())),
    )


def _why(name: ScoreName) -> str:
    """Why a single score of a task that went well is not defined."""
    if name.negatives is not None:
        return "the other half has no example of this kind"
    if name.metric == "precision":
        return "nothing is predicted"
    return CONSTANT.reason if name.metric == "pearson" else _UNDEFINED
