"""The examples that an explanation is scored on: of the half of the text that did not make it.

Place in the flow: feature contexts + explanations -> **tasks** -> scores. Which examples are chosen depends on the seed
and the feature alone, so explanations of one feature by several explainers are scored on the same ones.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import get_args

import numpy as np
from jaxtyping import Bool, Float32, Int8, Int64, UInt64

from sae_core.config import ScoringConfig
from sae_core.feature_contexts.contexts import ACTIVATING, N_HALVES, FeatureContexts, Kind
from sae_core.words import mix

KINDS: tuple[Kind, ...] = get_args(Kind)
_STRONGEST = KINDS.index("strongest")


@dataclass(frozen=True)
class TaskExamples:
    """Examples of one feature in one half of the text, the activating ones first; their tokens stand in one row."""

    kind: Int8[np.ndarray, " n"]
    """Index into ``KINDS``."""
    start: Int64[np.ndarray, " n"]
    """First token of each, counted over the held-out text."""
    length: Int64[np.ndarray, " n"]
    peak: Int64[np.ndarray, " n"]
    """Offset of the token that each is about."""
    activations: Float32[np.ndarray, " tokens"]
    """Of every token of every example."""

    @property
    def activating(self) -> Bool[np.ndarray, " n"]:
        """Whether the feature fires in it."""
        found: np.ndarray = self.kind < len(ACTIVATING)
        return found

    @cached_property
    def begin(self) -> Int64[np.ndarray, " n"]:
        """Where the tokens of each example begin in the row."""
        begin: np.ndarray = np.cumsum(self.length) - self.length
        return begin

    @cached_property
    def example(self) -> Int64[np.ndarray, " tokens"]:
        """The example that each token is of."""
        return np.repeat(np.arange(len(self.length)), self.length)

    @cached_property
    def tokens(self) -> Int64[np.ndarray, " tokens"]:
        """Each token of the row, counted over the held-out text."""
        tokens: np.ndarray = np.arange(len(self.example)) + np.repeat(self.start - self.begin, self.length)
        return tokens

    @cached_property
    def largest(self) -> Float32[np.ndarray, " n"]:
        """Largest activation of each example."""
        return np.maximum.reduceat(self.activations, self.begin)


class TaskChooser:
    """Chooses from the examples of every feature those that explanations of it are scored on.

    Activating ones are taken in turn from the quantiles, and from the strongest where the quantiles have too few.
    """

    def __init__(self, contexts: FeatureContexts, config: ScoringConfig):
        table = contexts.example_table
        columns = {name: table[name].to_numpy() for name in ("feature", "half", "quantile", "start", "length", "peak")}
        self._start, self._length, self._peak = (columns[name].astype(np.int64) for name in ("start", "length", "peak"))
        named = table["kind"].combine_chunks().dictionary_encode()
        number = np.array([KINDS.index(name) for name in named.dictionary.to_pylist()], np.int8)
        self._kind = number[named.indices.to_numpy()] if len(number) else np.zeros(0, np.int8)
        activations = table["activations"].combine_chunks()
        self._values = activations.values.to_numpy()
        self._values_begin = activations.offsets.to_numpy()[:-1].astype(np.int64)
        slot = N_HALVES * np.searchsorted(contexts.features, columns["feature"]) + columns["half"]
        key = random_keys(config.seed, columns["feature"], self._start + self._peak)
        chosen = _choose(slot, self._kind, columns["quantile"], key, config)
        self._rows = np.flatnonzero(chosen)
        self._slots = np.searchsorted(slot[self._rows], np.arange(N_HALVES * len(contexts.features) + 1))

    def examples(self, place: int, half: int) -> TaskExamples:
        """The chosen examples of one feature in one half of the text; there may be none."""
        slot = N_HALVES * place + half
        rows = self._rows[self._slots[slot] : self._slots[slot + 1]]
        kind, length = self._kind[rows], self._length[rows]
        activations = np.zeros(int(length.sum()), np.float32)
        firing = np.where(kind < len(ACTIVATING), length, 0)
        n = int(firing.sum())  # those without activation come last, and are stored without values
        activations[:n] = self._values[
            np.arange(n) + np.repeat(self._values_begin[rows] - (np.cumsum(firing) - firing), firing)
        ]
        return TaskExamples(kind, self._start[rows], length, self._peak[rows], activations)


def random_keys(seed: int, feature: np.ndarray | int, token: np.ndarray) -> UInt64[np.ndarray, " n"]:
    """A random number for each token (or example, by the token it is about), for this seed and feature."""
    salt = mix(np.atleast_1d(feature).astype(np.uint64) ^ mix(np.array([seed], np.uint64)))
    return mix(token.astype(np.uint64) ^ salt)


def _choose(
    slot: np.ndarray, kind: np.ndarray, quantile: np.ndarray, key: np.ndarray, config: ScoringConfig
) -> Bool[np.ndarray, " rows"]:
    """Rows of the table that are chosen."""
    turn = _rank(slot, kind, quantile, key)
    activating = kind < len(ACTIVATING)
    place = _rank(slot, activating, kind == _STRONGEST, turn, quantile, of=2)
    return np.where(activating, place < config.n_activating, turn < config.n_non_activating)


def _rank(*keys: np.ndarray, of: int | None = None) -> Int64[np.ndarray, " rows"]:
    """Position of each row among those equal in the first ``of`` keys (all but the last), by the other keys."""
    order = np.lexsort(keys[::-1])
    fresh = np.zeros(len(order), bool)
    for key in keys[: len(keys) - 1 if of is None else of]:
        fresh |= np.diff(key[order], prepend=key[order][:1]) != 0
    count = np.arange(len(order))
    rank = np.empty(len(order), np.int64)
    rank[order] = count - np.maximum.accumulate(np.where(fresh, count, 0))
    return rank
