"""What *scoring* reports: the scores there are, and how they came out over the explanations of a run.

Light to import, since the report reads it.
"""

from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from sae_core.config import Result

Task = Literal["text", "detection", "fuzzing", "simulation", "embedding"]
"""What an explanation has to tell, always on the half of the text that did not make it. ``text``: on which of all
tokens the feature fires (rules only). ``detection``: in which examples it fires. ``fuzzing``: whether the marks in an
example are on tokens it fires on. ``simulation``: its activation on every token of the examples. ``embedding``: in
which examples it fires, by the cosine of the sentence embeddings of explanation and example."""
TASKS: tuple[Task, ...] = ("text", "detection", "fuzzing", "simulation", "embedding")
Metric = Literal["balanced_accuracy", "precision", "recall", "f1", "auc", "pearson"]
Negatives = Literal["random", "same_token", "near", "same_text"]
"""Against which examples alone; see ``Kind`` of *feature_contexts*. ``same_text``: the activating examples themselves
with wrong marks (fuzzing of rules only; delphi's fuzzing of the type "active")."""

CHANCE: dict[Metric, float | None] = {
    "balanced_accuracy": 0.5,
    "precision": None,
    "recall": None,
    "f1": None,
    "auc": 0.5,
    "pearson": 0.0,
}
"""What an explanation that knows nothing reaches; None where it depends on how often the feature fires."""


@dataclass(frozen=True)
class ScoreName:
    """One number about one explanation."""

    task: Task
    metric: Metric
    negatives: Negatives | None = None
    """None: against examples of all kinds (``same_text`` is never among them)."""

    def __str__(self) -> str:
        """Its column in ``scores.parquet``: ``detection_auc``, ``detection_auc_near``."""
        return "_".join(part for part in (self.task, self.metric, self.negatives) if part)


_METRICS: dict[Task, tuple[Metric, ...]] = {
    "text": ("precision", "recall", "f1", "auc", "pearson"),
    "detection": ("balanced_accuracy", "f1", "auc"),
    "fuzzing": ("balanced_accuracy", "f1", "auc"),
    "simulation": ("pearson",),
    "embedding": ("auc",),
}
_METRICS_BY_NEGATIVES: tuple[Metric, ...] = ("balanced_accuracy", "auc")
NEGATIVES: dict[Task, tuple[Negatives, ...]] = {
    "text": (),
    "detection": ("random", "same_token", "near"),
    "fuzzing": ("random", "same_token", "near", "same_text"),
    "simulation": (),
    "embedding": ("random", "same_token", "near"),
}
"""Kinds of examples without the feature against which each task is scored apart."""


def _names(task: Task) -> list[ScoreName]:
    apart = [metric for metric in _METRICS[task] if metric in _METRICS_BY_NEGATIVES]
    return [ScoreName(task, metric) for metric in _METRICS[task]] + [
        ScoreName(task, metric, negatives) for negatives in NEGATIVES[task] for metric in apart
    ]


SCORES: tuple[ScoreName, ...] = tuple(name for task in TASKS for name in _names(task))
"""All scores, in the order of the columns."""

SCORE_SCHEMA = pa.schema(
    [
        pa.field("feature", pa.int64(), nullable=False),
        pa.field("half", pa.int8(), nullable=False),
        *(pa.field(str(name), pa.float64()) for name in SCORES),
        *(pa.field(f"{task}_missing", pa.string()) for task in TASKS),
    ]
)
"""``scores.parquet``: a row for every explanation; ``half`` is the one that made it, so it was scored on the other. A
score is null where it was not asked for (the feature was not drawn), where the task failed, the reason for which is in
``<task>_missing``, or where it is not defined for these examples alone."""


class ScoreSummary(Result):
    """One score over the explanations of a run."""

    name: str
    """As in ``scores.parquet``, for example ``detection_auc_near``."""
    task: Task
    metric: Metric
    negatives: Negatives | None
    chance: float | None
    """What an explanation that knows nothing reaches."""
    median: float | None
    mean: float | None
    n: int
    """Explanations that have it."""
    missing: dict[str, int]
    """Explanations it was asked for that have none, by reason."""


class ScoresSummary(Result):
    """How well the explanations of one run predict where its features fire."""

    n_explanations: int
    n_rules: int
    """Those that are rules; they were run, the others read by the scorer."""
    scorer: str | None
    """Digest of the model that read the others, and its settings; None without one."""
    n_trials: int
    """Single questions put to the scorer: an example, or an example with marks."""
    missing_trials: dict[str, int]
    """Those without an answer, by reason; the scores are over the rest."""
    scores: list[ScoreSummary]
    """Those that were asked for at least once, in the order of the columns."""

    def score(self, name: str) -> ScoreSummary | None:
        """One score, ``detection_balanced_accuracy`` for example; None if it was not asked for."""
        return next((score for score in self.scores if score.name == name), None)
