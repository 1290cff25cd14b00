"""Where the features of a run fire on held-out text: codes, examples, words, and the logit lens."""

from sae_core.feature_contexts.collect import collect_contexts
from sae_core.feature_contexts.contexts import (
    ACTIVATING,
    N_HALVES,
    NON_ACTIVATING,
    Example,
    FeatureContexts,
    WordShare,
)
from sae_core.feature_contexts.files import ContextsSummary, read_contexts

__all__ = [
    "ACTIVATING",
    "NON_ACTIVATING",
    "N_HALVES",
    "ContextsSummary",
    "Example",
    "FeatureContexts",
    "WordShare",
    "collect_contexts",
    "read_contexts",
]
