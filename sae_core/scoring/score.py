"""The scores of the explanations of one run, as a table and in summary.

Place in the flow: feature contexts, explanations -> **scores**. An explanation made from one half of the text is
scored on the other. Rules are run; other explanations are read by a model, if there is one; and any explanation can be
compared with the examples by sentence embeddings.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64

from sae_core.chat.messages import ChatModel, Missing
from sae_core.config import ScoringConfig
from sae_core.embeddings import Embed
from sae_core.explaining.attributes import TokenAttributes
from sae_core.explaining.rules import Rule
from sae_core.feature_contexts.contexts import FeatureContexts
from sae_core.held_out_text import HeldOutText
from sae_core.progress import Progress, silent
from sae_core.scoring.chat_scores import ChatScores, Subject, chat_scores
from sae_core.scoring.embedding_scores import embedding_scores
from sae_core.scoring.grading import TaskScores
from sae_core.scoring.results import SCORE_SCHEMA, Task
from sae_core.scoring.rule_scores import RuleScorer
from sae_core.scoring.summary import summarise
from sae_core.scoring.tasks import TaskChooser, TaskExamples, random_keys
from sae_core.whole_files import write_whole

_PROGRESS_EXPLANATIONS = 256


@dataclass
class Explained:
    """An explanation and what it is scored on."""

    place: int
    """Of the feature among those of the contexts."""
    feature: int
    half: int
    """That made it."""
    text: str
    rule: Rule | None
    examples: TaskExamples
    """Of the other half."""
    scores: dict[Task, TaskScores | Missing] = field(default_factory=dict)
    """Filled in task by task."""

    @property
    def scored_on(self) -> int:
        """The half that did not make it."""
        return 1 - self.half


def score_run(
    folder: Path,
    contexts: FeatureContexts,
    text: HeldOutText,
    explanations: pa.Table,
    embed: Embed,
    scorer: ChatModel | None,
    config: ScoringConfig,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Score the explanations of one run; writes ``scores.parquet`` and ``summary.json``.

    Args:
        contexts: of the same run.
        explanations: as ``EXPLANATION_SCHEMA``; those that are missing are not scored.
        embed: sentence embedder.
        scorer: model that reads explanations that are no rule.

    Returns:
        The ``ScoresSummary`` as JSON values.

    Raises:
        ValueError: if an explanation is of a feature that the contexts do not have.
        ChatUnavailable: if too many requests to the scorer failed.
    """
    explained = _read(explanations, contexts, config)
    rules = [each for each in explained if each.rule is not None]
    _score_rules(rules, contexts, text, config, progress)
    read = _draw([each for each in explained if each.rule is None], config.n_scored, config.seed)
    answers = _score_by_reading(read, contexts, text, scorer, config, progress) if scorer and read else None
    embedded = _draw(explained, config.n_embedded, config.seed)
    found = embedding_scores(
        [each.text for each in embedded], [each.examples for each in embedded], text, embed, progress
    )
    for each, scores in zip(embedded, found, strict=True):
        each.scores["embedding"] = scores
    rows = [_row(each) for each in explained]
    table = pa.Table.from_pylist(rows, schema=SCORE_SCHEMA)
    write_whole(folder / "scores.parquet", lambda part: pq.write_table(table, part))
    summary = summarise(
        [each.scores for each in explained], len(rules), scorer.digest if scorer and answers else None, answers
    ).model_dump(mode="json")
    write_whole(folder / "summary.json", lambda part: part.write_text(json.dumps(summary, indent=1)))
    return summary


def _read(explanations: pa.Table, contexts: FeatureContexts, config: ScoringConfig) -> list[Explained]:
    chooser = TaskChooser(contexts, config)
    table = explanations.select(["feature", "half", "explanation", "rule"])
    features = table["feature"].to_numpy()
    if len(unknown := np.setdiff1d(features, contexts.features)):
        raise ValueError(
            f"expected explanations of the {len(contexts.features)} features of these contexts, got one of feature "
            f"{unknown[0]}; score the explanations of a run on the contexts of that run"
        )
    found = []
    for place, row in zip(np.searchsorted(contexts.features, features).tolist(), table.to_pylist(), strict=True):
        if row["explanation"] is not None:
            rule = None if row["rule"] is None else Rule.from_json(row["rule"])
            examples = chooser.examples(place, 1 - row["half"])
            found.append(Explained(place, row["feature"], row["half"], row["explanation"], rule, examples))
    return found


def _draw(explained: Sequence[Explained], n_features: int, seed: int) -> list[Explained]:
    """The explanations of so many features, drawn at random; whether one is drawn before another depends on the seed
    alone, so other explainers' samples have features in common with this one."""
    features: Int64[np.ndarray, " n"] = np.unique(np.array([each.feature for each in explained], np.int64))
    keys = random_keys(seed, 0, features)
    drawn = set(features[np.argsort(keys)[:n_features]].tolist())
    return [each for each in explained if each.feature in drawn]


def _score_rules(
    rules: Sequence[Explained],
    contexts: FeatureContexts,
    text: HeldOutText,
    config: ScoringConfig,
    progress: Progress,
) -> None:
    if not rules:
        return
    runner = RuleScorer([each.rule for each in rules if each.rule], TokenAttributes(text), contexts, config.seed)
    for done, each in enumerate(rules, 1):
        assert each.rule is not None
        each.scores.update(runner.score(each.rule, each.place, each.scored_on, each.examples))
        if done % _PROGRESS_EXPLANATIONS == 0 or done == len(rules):
            progress(done, len(rules), f"{done:,} of {len(rules):,} rules scored")


def _score_by_reading(
    read: Sequence[Explained],
    contexts: FeatureContexts,
    text: HeldOutText,
    scorer: ChatModel,
    config: ScoringConfig,
    progress: Progress,
) -> ChatScores:
    subjects = [
        Subject(each.feature, each.text, float(contexts.max_activation[each.place, each.scored_on]), each.examples)
        for each in read
    ]
    answers = chat_scores(subjects, text, scorer, config.seed, progress)
    for each, scores in zip(read, answers.scores, strict=True):
        each.scores.update(scores)
    return answers


def _row(explained: Explained) -> dict[str, int | float | str | None]:
    row: dict[str, int | float | str | None] = {"feature": explained.feature, "half": explained.half}
    for task, scores in explained.scores.items():
        if isinstance(scores, Missing):
            row[f"{task}_missing"] = scores.reason
        else:
            row |= {str(name): value for name, value in scores.items()}
    return row
