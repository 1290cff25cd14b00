"""Explanations of an SAE's features, each feature explained twice, from two disjoint halves of the held-out text.

Place in the flow: held-out shards x SAE -> feature contexts -> **explanations** -> similarity. This file chooses what
an explainer gets to see (telling words, words promoted by the logit lens, marked contexts) and writes the table.
"""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int

from sae_core import config as settings
from sae_core.architectures import Sae
from sae_core.config import ExplanationsConfig, LanguageModelConfig, Result
from sae_core.corpus import ContextSplit
from sae_core.explainers import Explainer, FeatureWords, LexicalExplainer, LocalExplainer, Missing, prompt_digest
from sae_core.feature_contexts import N_HALVES, collect_contexts
from sae_core.feature_words import marked_contexts, promoted_words, telling_words
from sae_core.language_models import LanguageModel
from sae_core.progress import Progress, silent
from sae_core.shards import Shards
from sae_core.whole_files import write_whole
from sae_core.words import Segmenter, read_words

TOO_RARE = Missing("fired too rarely")

SCHEMA = pa.schema(
    [
        pa.field("feature", pa.int64(), nullable=False),
        pa.field("half", pa.int8(), nullable=False),
        pa.field("explanation", pa.string()),
        pa.field("missing_reason", pa.string()),
        pa.field("n_activations", pa.int64(), nullable=False),
        pa.field("frequency", pa.float64(), nullable=False),
        pa.field("words", pa.list_(pa.string()), nullable=False),
        pa.field("promoted", pa.list_(pa.string()), nullable=False),
        pa.field("examples", pa.list_(pa.string()), nullable=False),
    ]
)


class ExplanationsSummary(Result):
    """How many features were explained, and what became of the rest."""

    explainer: str
    prompt_sha256: str | None
    """Digest of the prompt of an explainer that is a language model."""
    n_tokens: int
    """Held-out tokens looked at, both halves together."""
    n_alive: int
    """Features that fired on one of them at least."""
    n_features: int
    """Features of the table: those alive, or the sample of them that was asked for."""
    n_explanations: int
    """Explanations found; every feature has two places, one for each half of the text."""
    n_missing: int
    missing: dict[str, int]
    """Places without an explanation, by reason."""


def explain_run(
    folder: Path,
    sae: Sae,
    held_out: Shards,
    contexts: ContextSplit,
    model: LanguageModel,
    config: ExplanationsConfig,
    progress: Progress = silent,
    load_model: Callable[[LanguageModelConfig], LanguageModel] | None = None,
) -> dict[str, Any]:
    """Explain the features of one run; writes ``explanations.parquet`` and ``summary.json``.

    Args:
        held_out: held-out activations that the SAE encodes.
        contexts: the held-out contexts those activations were read from.
        model: the language model whose activations they are; gives the tokenizer and the logit lens.
        load_model: loads the model of a ``local`` explainer; a lexical one needs none.

    Returns:
        The ``ExplanationsSummary`` as JSON values.

    Raises:
        ValueError: if a local explainer is configured and ``load_model`` is not given.
    """
    explainer = build_explainer(config, load_model)
    words = read_words(contexts.token_ids, Segmenter(model.tokenizer, model.special_token_ids))
    evidence = collect_contexts(sae, held_out, contexts, words, config, progress=progress)
    alive = np.flatnonzero(evidence.n_fired.sum(axis=1) > 0)
    chosen = draw_features(alive, config)
    promoted = promoted_words(sae, model, words.segmenter, evidence.features[chosen], explainer.n_words)
    seen = [
        FeatureWords(
            telling_words(evidence, words, feature, half, explainer.n_words, config.min_word_score),
            promoted[i],
            marked_contexts(evidence, contexts, words.segmenter, feature, half, config),
        )
        for i, feature in enumerate(chosen.tolist())
        for half in range(N_HALVES)
    ]
    n_fired = evidence.n_fired[chosen].ravel()
    found = _explain(explainer, seen, n_fired, config.min_activations, progress)
    frequency = np.repeat(evidence.n_fired[chosen].sum(axis=1) / max(1, evidence.n_tokens.sum()), N_HALVES)
    _write_table(
        folder / "explanations.parquet", np.repeat(evidence.features[chosen], N_HALVES), found, seen, n_fired, frequency
    )
    missing = Counter(text.reason for text in found if isinstance(text, Missing))
    summary = ExplanationsSummary(
        explainer=config.explainer.kind,
        prompt_sha256=prompt_digest() if config.explainer.kind == "local" else None,
        n_tokens=int(evidence.n_tokens.sum()),
        n_alive=len(alive),
        n_features=len(chosen),
        n_explanations=len(found) - missing.total(),
        n_missing=missing.total(),
        missing=dict(sorted(missing.items())),
    ).model_dump(mode="json")
    write_whole(folder / "summary.json", lambda part: part.write_text(json.dumps(summary, indent=1)))
    return summary


def build_explainer(
    config: ExplanationsConfig, load_model: Callable[[LanguageModelConfig], LanguageModel] | None = None
) -> Explainer:
    """The configured explainer, with its model loaded where it has one.

    Raises:
        ValueError: if it needs a model and ``load_model`` is not given.
    """
    if isinstance(config.explainer, settings.LexicalExplainer):
        return LexicalExplainer(config.explainer)
    if load_model is None:
        raise ValueError(
            f"the local explainer writes with {config.explainer.model.name}: expected load_model, got None; pass "
            "lambda model: load_language_model(model, store)"
        )
    return LocalExplainer(config.explainer, load_model(config.explainer.model))


def draw_features(alive: Int[np.ndarray, " n"], config: ExplanationsConfig) -> Int[np.ndarray, " m"]:
    """The features to explain, ascending: all that are alive, or a seeded random sample of them."""
    if config.n_features is None or config.n_features >= len(alive):
        return alive
    return np.sort(np.random.default_rng(config.seed).choice(alive, config.n_features, replace=False))


def _explain(
    explainer: Explainer, seen: list[FeatureWords], n_fired: np.ndarray, min_activations: int, progress: Progress
) -> list[str | Missing]:
    found: list[str | Missing] = [TOO_RARE] * len(seen)
    often = np.flatnonzero(n_fired >= min_activations).tolist()
    for i, text in zip(often, explainer.explain([seen[i] for i in often], progress), strict=True):
        found[i] = text
    return found


def _write_table(
    path: Path,
    features: np.ndarray,
    found: list[str | Missing],
    seen: list[FeatureWords],
    n_fired: np.ndarray,
    frequency: np.ndarray,
) -> None:
    columns = {
        "feature": features,
        "half": np.tile(np.arange(N_HALVES), len(features) // N_HALVES),
        "explanation": [None if isinstance(text, Missing) else text for text in found],
        "missing_reason": [text.reason if isinstance(text, Missing) else None for text in found],
        "n_activations": n_fired,
        "frequency": frequency,
        "words": [feature.words for feature in seen],
        "promoted": [feature.promoted for feature in seen],
        "examples": [feature.examples for feature in seen],
    }
    write_whole(path, lambda part: pq.write_table(pa.table(columns, schema=SCHEMA), part))
