"""Embedding AUC: an explanation should lie nearer to the examples in which its feature fires than to others.

As delphi's embedding scorer, but for its instruction before the explanation, which only embedders tuned to follow
instructions understand.
"""

from collections.abc import Sequence

import numpy as np

from sae_core.chat.messages import Missing
from sae_core.embeddings import Embed, embed_distinct
from sae_core.held_out_text import HeldOutText
from sae_core.progress import Progress, silent
from sae_core.scoring.grading import NEVER_FIRES, TaskScores, grade
from sae_core.scoring.tasks import TaskExamples


def embedding_scores(
    explanations: Sequence[str],
    examples: Sequence[TaskExamples],
    text: HeldOutText,
    embed: Embed,
    progress: Progress = silent,
) -> list[TaskScores | Missing]:
    """The AUC of the cosine of explanation and example, for each explanation. Equal texts are embedded once.

    Args:
        examples: those that each explanation is scored on.
    """
    shown = [_texts(each, text) if each.activating.any() else [] for each in examples]
    row, vectors = embed_distinct([*explanations, *(example for part in shown for example in part)], embed, progress)
    found: list[TaskScores | Missing] = []
    for explanation, texts, each in zip(explanations, shown, examples, strict=True):
        if not texts:
            found.append(NEVER_FIRES)
            continue
        cosine = vectors[[row[example] for example in texts]] @ vectors[row[explanation]]
        found.append(grade("embedding", cosine.astype(np.float64), each.kind))
    return found


def _texts(examples: TaskExamples, text: HeldOutText) -> list[str]:
    stops = examples.start + examples.length
    return [text.text(start, stop).strip() for start, stop in zip(examples.start.tolist(), stops.tolist(), strict=True)]
