"""A made-up held-out text, and the contexts of features that fire as said, found by brute force."""

import numpy as np
import pyarrow as pa
from transformers import AutoTokenizer

from sae_core.feature_contexts.contexts import EXAMPLE_SCHEMA, N_HALVES, WORD_SCHEMA, FeatureContexts
from sae_core.held_out_text import HeldOutText
from sae_core.words import Segmenter
from tests.tiny import make_model
from tests.tiny_contexts import write_split

BEFORE, AFTER = 6, 3


def made_up_text(folder, n_contexts=60, length=40, n_words=20, seed=0):
    """Contexts of two documents each, of random words; word w is token w + 2."""
    rng = np.random.default_rng(seed)
    token_ids = rng.integers(2, 2 + n_words, size=(n_contexts, length)).astype(np.int32)
    documents = np.repeat(np.arange(2 * n_contexts).reshape(-1, 2), length // 2, axis=1).astype(np.int32)
    token_ids[:, [0, length // 2]], documents[:, [0, length // 2]] = 0, -1
    tokenizer = AutoTokenizer.from_pretrained(make_model(folder / "model"))
    return HeldOutText(write_split(folder / "contexts", token_ids, documents), Segmenter(tokenizer, frozenset({0})))


def contexts_of(text, codes, seed=0):
    """The contexts of features with these codes (tokens, features), with all negatives of every kind found."""
    rng = np.random.default_rng(seed)
    looked_at = np.flatnonzero(text.half >= 0)
    codes = np.where(text.half[:, None] >= 0, codes, 0).astype(np.float32)
    features = np.flatnonzero((codes > 0).any(axis=0))
    per_feature = [np.flatnonzero(codes[:, feature]) for feature in features]
    rows = [
        row
        for feature in features.tolist()
        for half in range(N_HALVES)
        for row in _examples(text, codes[:, feature], feature, half, rng)
    ]
    in_half = [text.half == half for half in range(N_HALVES)]
    return FeatureContexts(
        d_sae=codes.shape[1],
        features=features,
        n_fired=np.stack([(codes[here][:, features] > 0).sum(axis=0) for here in in_half], axis=1),
        n_tokens=np.array([here.sum() for here in in_half]),
        max_activation=np.stack([codes[here][:, features].max(axis=0) for here in in_half], axis=1),
        promoted=[[] for _ in features],
        code_start=np.cumsum([0, *(len(tokens) for tokens in per_feature)]),
        code_token=np.concatenate(per_feature),
        code_activation=np.concatenate([codes[t, f] for f, t in zip(features, per_feature, strict=True)]),
        example_table=pa.Table.from_pylist(rows, schema=EXAMPLE_SCHEMA),
        word_table=pa.Table.from_pylist([], schema=WORD_SCHEMA),
        looked_at=looked_at,
    )


def _examples(text, activation, feature, half, rng):
    """Eight strongest, then 5 quantiles of up to 4; non-activating windows, six of each kind."""
    here = np.flatnonzero(text.half == half)
    firing = here[activation[here] > 0]
    firing = firing[np.argsort(-activation[firing], kind="stable")]
    for token in firing[:8].tolist():
        yield _row(text, activation, feature, half, "strongest", -1, token)
    for quantile, part in enumerate(np.array_split(firing[8:], 5)):
        for token in part[:4].tolist():
            yield _row(text, activation, feature, half, "quantile", quantile, token)
    silent = [token for token in here.tolist() if not activation[slice(*text.window(token, BEFORE, AFTER))].any()]
    for kind in ("random", "same_token", "near"):
        for token in rng.permutation(silent)[:6].tolist():
            yield _row(text, activation, feature, half, kind, -1, token)


def _row(text, activation, feature, half, kind, quantile, token):
    start, stop = text.window(token, BEFORE, AFTER)
    values = activation[start:stop]
    return {
        "feature": feature,
        "half": half,
        "kind": kind,
        "quantile": quantile,
        "start": start,
        "length": stop - start,
        "peak": token - start,
        "activation": float(activation[token]),
        "activations": values.tolist() if values.any() else None,
        "text": "",
    }
