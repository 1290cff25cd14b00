"""Small worlds for the tests of similarity: matches, explanations, contexts, an embedder and a judge."""

import re

import numpy as np
import pyarrow as pa

from sae_core.chat.messages import Missing, Reply, Usage
from sae_core.config import SimilarityConfig
from sae_core.explaining.table import EXPLANATION_SCHEMA
from sae_core.feature_contexts.contexts import EXAMPLE_SCHEMA, WORD_SCHEMA, FeatureContexts
from sae_core.similarity.compare import explanation_similarity

RARE = "fired too rarely"


def matches(pairs, run_a="A", run_b="B", frequency=None, alive=None):
    """Pairs of (feature of A, feature of B, cosine)."""
    left, right, cosine = zip(*pairs, strict=True)
    n = len(pairs)
    frequency = np.full(n, 0.1) if frequency is None else np.asarray(frequency, dtype=float)
    alive = np.ones(n, dtype=bool) if alive is None else np.asarray(alive)
    return pa.table(
        {
            "run_a": [run_a] * n, "run_b": [run_b] * n, "feature_a": pa.array(left, pa.int64()),
            "feature_b": pa.array(right, pa.int64()), "cosine": pa.array(cosine, pa.float64()),
            "alive_a": alive, "alive_b": alive, "frequency_a": frequency, "frequency_b": frequency,
        }
    )  # fmt: skip


def explanations(texts):
    """A table from {feature: (half 0, half 1)}; None is missing."""
    rows = [
        {
            "feature": feature, "half": half, "explanation": None if text is None else str(text),
            "missing_reason": RARE if text is None else None, "n_activations": 10, "frequency": 0.1,
            "words": [], "promoted": [], "examples": [],
        }
        for feature, both in texts.items() for half, text in enumerate(both)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=EXPLANATION_SCHEMA)


def contexts(codes, words=None, d_sae=20, looked_at=range(100)):
    """Contexts of one run.

    Args:
        codes: {feature: {token: activation}}; token numbers below 50 are of half 0.
        words: {(feature, half): {word: share}}; by default none.
    """
    features = np.array(sorted(codes), np.int64)
    tokens = [np.array(sorted(codes[f]), np.int64) for f in features]
    values = [np.array([codes[f][t] for t in sorted(codes[f])], np.float32) for f in features]
    looked_at = np.array(looked_at, np.int64)
    rows = [
        {"feature": feature, "half": half, "place": place, "word": word, "share": share, "score": 1.0}
        for (feature, half), shares in sorted((words or {}).items())
        for place in ("now", "before")  # what stands before must not count
        for word, share in (shares.items() if place == "now" else [("before", 1.0)])
    ]
    return FeatureContexts(
        d_sae=d_sae,
        features=features,
        n_fired=np.array([[(t < 50).sum(), (t >= 50).sum()] for t in tokens], np.int64).reshape(-1, 2),
        n_tokens=np.array([(looked_at < 50).sum(), (looked_at >= 50).sum()], np.int64),
        max_activation=np.ones((len(features), 2), np.float32),
        promoted=[[] for _ in features],
        code_start=np.cumsum([0, *map(len, tokens)]).astype(np.int64),
        code_token=np.concatenate([*tokens, np.zeros(0, np.int64)]),
        code_activation=np.concatenate([*values, np.zeros(0, np.float32)]),
        example_table=EXAMPLE_SCHEMA.empty_table(),
        word_table=pa.Table.from_pylist(rows, schema=WORD_SCHEMA),
        looked_at=looked_at,
    )


def embed_angles(texts):
    """Texts are angles in degrees: two texts are as alike as the cosine of their difference."""
    angle = np.deg2rad([float(text) for text in texts])
    return np.stack([np.cos(angle), np.sin(angle)], axis=1) * 3  # not of unit length


class MadeUpJudge:
    """Rates two angles by how near they are, one higher where the first is the smaller; replies may be set."""

    digest = "made up"
    usage = Usage()

    def __init__(self, replies=None):
        self.replies, self.asked = replies or {}, []

    def complete(self, conversations, stop=None, progress=None):
        self.asked.append(list(conversations))
        return [self._reply(*texts_of(one)) for one in conversations]

    def choose(self, conversations, options, progress=None):
        raise AssertionError("a judge writes its rating")

    def _reply(self, first, second):
        if (first, second) in self.replies:
            found = self.replies[first, second]
            return found if isinstance(found, Missing) else Reply(found, True, "")
        near = round(4 * (1 + np.cos(np.deg2rad(float(first) - float(second))))) + 1
        return Reply(str(near + (float(first) < float(second))), True, "")


def texts_of(conversation):
    """The two explanations that a conversation of the prompt *judge* asks about."""
    return re.search(r"First: (.*)\nSecond: (.*)", conversation[-1].content).groups()


def similarity(found, tables, own_contexts=None, config=None, asked=None, chance=0.05, judge=None, **settings):
    """``explanation_similarity`` with made-up angles; one explainer, called lexical, unless tables has several."""
    runs = {run for column in ("run_a", "run_b") for run in found[column].to_pylist()}
    pairs = set(zip(found["run_a"].to_pylist(), found["run_b"].to_pylist(), strict=True))
    several = tables if all(isinstance(table, dict) for table in tables.values()) else {"lexical": tables}
    own_contexts = own_contexts or {run: contexts({}, d_sae=1) for run in runs}
    return explanation_similarity(
        found, own_contexts, several, asked or {}, dict.fromkeys(pairs, chance), embed_angles, judge,
        config or SimilarityConfig(n_permutations=19), **settings,
    )  # fmt: skip
