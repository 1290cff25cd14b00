"""Marks for *fuzzing*: on the tokens a feature fires on, or on others, as delphi sets them.

A mark is right on tokens of at least 0.3 of the largest activation in the example. Wrong marks are as many as an
activating example has active tokens, on average and rounded up.
"""

import numpy as np
from jaxtyping import Bool

from sae_core.feature_contexts.contexts import MARKED_SHARE
from sae_core.scoring.tasks import TaskExamples, random_keys


def right_marks(examples: TaskExamples) -> Bool[np.ndarray, " tokens"]:
    """Tokens of at least 0.3 of the largest activation in their example; none where the feature does not fire."""
    marks: np.ndarray = examples.activations >= MARKED_SHARE * examples.largest[examples.example]
    marks &= examples.activations > 0
    return marks


def wrong_marks(examples: TaskExamples, feature: int, seed: int) -> Bool[np.ndarray, " tokens"]:
    """Marks for every example on tokens that deserve none, at random.

    Among them, where it may be marked, is the token that the example is about: otherwise the place of a mark in its
    example would tell the wrong from the right ones. An activating example without a token below the threshold has
    no marks.
    """
    if not examples.activating.any():
        raise ValueError("expected activating examples, which say how many tokens to mark, got none")
    n_active = np.bincount(examples.example[examples.activations > 0])
    n_marks = int(np.ceil(n_active.sum() / np.count_nonzero(examples.activating)))
    free: np.ndarray = examples.activations <= MARKED_SHARE * examples.largest[examples.example]
    key = random_keys(seed, feature, examples.tokens)
    key[examples.begin + examples.peak] = 0
    order = np.lexsort((key, ~free, examples.example))
    first = np.empty(len(order), np.int64)
    first[order] = np.arange(len(order)) - np.repeat(examples.begin, examples.length)
    free &= first < n_marks
    return free
