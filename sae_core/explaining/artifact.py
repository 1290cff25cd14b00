"""The files of an *explanations* artifact: a table of texts, each feature explained twice, and its summary.

Place in the flow: feature contexts -> **explanations** -> scores -> similarity. Run A is compared by what one half of
the text says of a feature, run B by what the other half says.
"""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64

from sae_core.chat.messages import Missing
from sae_core.config import ExplanationsConfig
from sae_core.explaining.explanations import Explainer, Explanation
from sae_core.explaining.table import EXPLANATION_SCHEMA, ExplanationsSummary
from sae_core.feature_contexts import N_HALVES, FeatureContexts
from sae_core.progress import Progress, silent
from sae_core.whole_files import write_whole

TOO_RARE = Missing("fired too rarely")
_N_EXAMPLES = 3
"""Strongest contexts quoted in the table."""
_N_WORDS = 12


def explain_run(
    folder: Path,
    contexts: FeatureContexts,
    explainer: Explainer,
    kind: str,
    config: ExplanationsConfig,
    features: Sequence[int] | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Explain the features of one run; writes ``explanations.parquet`` and ``summary.json``.

    Args:
        kind: of the explainer, for the summary.
        features: the features to explain; by default those of ``draw_features``. One that never fires has no row.

    Returns:
        The ``ExplanationsSummary`` as JSON values.
    """
    drawn = draw_features(contexts.features, config) if features is None else np.unique(np.asarray(features, np.int64))
    places = np.flatnonzero(np.isin(contexts.features, drawn))
    slots = [(place, half) for place in places.tolist() for half in range(N_HALVES)]
    often = [slot for slot in slots if contexts.n_fired[slot] >= config.min_activations]
    found: dict[tuple[int, int], Explanation | Missing] = dict.fromkeys(slots, TOO_RARE)
    found.update(zip(often, explainer.explain(often, progress), strict=True))
    table = _table(contexts, found)
    write_whole(folder / "explanations.parquet", lambda part: pq.write_table(table, part))
    missing = Counter(each.reason for each in found.values() if isinstance(each, Missing))
    summary = ExplanationsSummary(
        explainer=explainer.name,
        kind=kind,
        n_alive=len(contexts.features),
        n_features=len(places),
        n_explanations=len(found) - missing.total(),
        n_missing=missing.total(),
        missing=dict(sorted(missing.items())),
    ).model_dump(mode="json")
    write_whole(folder / "summary.json", lambda part: part.write_text(json.dumps(summary, indent=1)))
    return summary


def draw_features(alive: Int64[np.ndarray, " n"], config: ExplanationsConfig) -> Int64[np.ndarray, " m"]:
    """The features to explain, ascending: all that are alive, or a seeded random sample of them."""
    if config.n_features is None or config.n_features >= len(alive):
        return alive
    return np.sort(np.random.default_rng(config.seed).choice(alive, config.n_features, replace=False))


def _table(contexts: FeatureContexts, found: dict[tuple[int, int], Explanation | Missing]) -> pa.Table:
    fired = contexts.n_fired.sum(axis=1) / max(1, int(contexts.n_tokens.sum()))
    rows = []
    for (place, half), each in found.items():
        text = each if isinstance(each, Explanation) else None
        words = contexts.words(place, half, "now")[:_N_WORDS]
        rows.append(
            {
                "feature": int(contexts.features[place]),
                "half": half,
                "explanation": None if text is None else text.text,
                "missing_reason": each.reason if isinstance(each, Missing) else None,
                "n_activations": int(contexts.n_fired[place, half]),
                "frequency": float(fired[place]),
                "rule": None if text is None or text.rule is None else text.rule.to_json(),
                "prompt_digest": None if text is None else text.prompt_digest,
                "reply": None if text is None else text.reply,
                "words": [word.word for word in words],
                "promoted": contexts.promoted[place],
                "examples": contexts.example_texts(place, half, _N_EXAMPLES),
            }
        )
    return pa.Table.from_pylist(rows, schema=EXPLANATION_SCHEMA)
