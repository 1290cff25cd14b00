"""What makes features fire: their strongest contexts and the words they fire on, in two disjoint halves of the text.

Place in the flow: held-out shards x SAE -> **feature contexts** -> explanations. One pass over the shards; only
the non-zero codes are looked at, and memory grows with features x contexts and words kept, not with tokens.

Every document belongs to one half, so that run A can be explained from one half of the text and run B from the
other: the same windows on both sides would inflate how alike the explanations are.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Int
from scipy import sparse

from sae_core.architectures import Sae
from sae_core.config import ExplanationsConfig
from sae_core.corpus import ContextSplit
from sae_core.progress import Progress, silent
from sae_core.shards import ShardData, Shards
from sae_core.words import Words, mix

N_HALVES = 2
_CODE_BLOCK = 1 << 24
"""Codes (tokens x features) of one block of the pass: 64 MiB in float32."""
_PENDING_CODES = 2_000_000
_WORDS_KEPT = 256
"""Words remembered for a feature and half when there are too many: the heaviest."""
_WORDS_LIMIT = 4_000_000
"""Words remembered for all features together before the light ones are dropped."""


def halves(document_ids: Int[np.ndarray, "*shape"]) -> Int[np.ndarray, "*shape"]:
    """Half of the text, 0 or 1, that a document belongs to; -1 for tokens of no document."""
    return np.where(document_ids < 0, -1, (mix(document_ids) & np.uint64(1)).astype(np.int64))


@dataclass(frozen=True)
class FeatureContexts:
    """Where features fire. Rows of the sparse matrix are slots: ``2 * i + half`` for the feature ``features[i]``."""

    features: Int[np.ndarray, " n"]
    n_fired: Int[np.ndarray, "n 2"]
    """Tokens on which the feature is active, in each half."""
    n_tokens: Int[np.ndarray, " 2"]
    """Tokens looked at, in each half."""
    row: Int[np.ndarray, "n 2 n_contexts"]
    """Contexts of the strongest tokens, one token a context, strongest first; -1 where there are fewer."""
    position: Int[np.ndarray, "n 2 n_contexts"]
    activation: np.ndarray
    """Activation there, float32 (n, 2, n_contexts); 0 where there is none."""
    word_weights: sparse.csr_array
    """Weight of each word the feature fires on (2n, n_words)."""


class _Strongest:
    """The strongest tokens of every slot, at most one of a context."""

    def __init__(self, n_slots: int, n_contexts: int):
        self.n_slots, self.n_contexts = n_slots, n_contexts
        self._kept = np.zeros((4, 0))
        self._pending: list[np.ndarray] = []
        self._n_pending = 0
        self._floor = np.zeros(n_slots)

    def add(self, slot: np.ndarray, row: np.ndarray, position: np.ndarray, activation: np.ndarray) -> None:
        enough = activation > self._floor[slot]
        self._pending.append(np.stack([slot, row, position, activation.astype(np.float64)])[:, enough])
        self._n_pending += int(enough.sum())
        if self._n_pending > _PENDING_CODES:
            self._merge()

    def _merge(self) -> None:
        slot, row, position, activation = np.concatenate([self._kept, *self._pending], axis=1)
        # The strongest token of each (slot, context), the earlier one of equals; then the strongest contexts.
        order = np.lexsort((position, -activation, row, slot))
        fresh = np.ones(len(order), dtype=bool)
        fresh[1:] = (np.diff(slot[order]) != 0) | (np.diff(row[order]) != 0)
        order = order[fresh]
        order = order[np.lexsort((row[order], -activation[order], slot[order]))]
        rank = rank_in_group(slot[order])
        order, rank = order[rank < self.n_contexts], rank[rank < self.n_contexts]
        self._kept = np.stack([slot, row, position, activation])[:, order]
        full = rank == self.n_contexts - 1
        self._floor[slot[order][full].astype(np.int64)] = activation[order][full]
        self._pending, self._n_pending = [], 0

    def tables(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Row, position and activation, each (n_slots, n_contexts)."""
        self._merge()
        slot, rank = self._kept[0].astype(np.int64), rank_in_group(self._kept[0])
        row, position = (np.full((self.n_slots, self.n_contexts), -1, dtype=np.int64) for _ in range(2))
        activation = np.zeros((self.n_slots, self.n_contexts), dtype=np.float32)
        row[slot, rank], position[slot, rank], activation[slot, rank] = self._kept[1:]
        return row, position, activation


def rank_in_group(group: np.ndarray) -> np.ndarray:
    """0, 1, 2, ... within each run of equal values. ([5, 5, 7] gives [0, 1, 0])"""
    if len(group) == 0:
        return np.zeros(0, dtype=np.int64)
    first = np.flatnonzero(np.concatenate([[True], group[1:] != group[:-1]]))
    return np.arange(len(group)) - np.repeat(first, np.diff(np.append(first, len(group))))


@dataclass
class _WordWeights:
    """Sums of weights by slot and word."""

    n_slots: int
    n_words: int
    total: sparse.csr_array = field(init=False)

    def __post_init__(self) -> None:
        self.total = sparse.csr_array((self.n_slots, self.n_words))

    def add(self, slot: np.ndarray, word: np.ndarray, weight: np.ndarray) -> None:
        known = word >= 0
        block = sparse.coo_array((weight[known], (slot[known], word[known])), shape=(self.n_slots, self.n_words))
        self.total = self.total + block.tocsr()
        if self.total.nnz > _WORDS_LIMIT:
            self.total = heaviest(self.total, _WORDS_KEPT)


def heaviest(weights: sparse.csr_array, n: int) -> sparse.csr_array:
    """The n largest entries of each row."""
    row = np.repeat(np.arange(weights.shape[0]), np.diff(weights.indptr))
    order = np.lexsort((weights.indices, -weights.data, row))
    order = np.sort(order[rank_in_group(row[order]) < n])
    return sparse.csr_array((weights.data[order], (row[order], weights.indices[order])), shape=weights.shape)


class _Collector:
    """Counts active codes; those of many blocks at once, since each count costs time of its own."""

    def __init__(self, contexts: ContextSplit, words: Words, n_features: int, n_contexts: int):
        self.contexts, self.words = contexts, words
        self.n_fired = np.zeros(N_HALVES * n_features, dtype=np.int64)
        self.n_tokens = np.zeros(N_HALVES, dtype=np.int64)
        self.strongest = _Strongest(len(self.n_fired), n_contexts)
        self.weights = _WordWeights(len(self.n_fired), len(words))
        self._pending: list[tuple[np.ndarray, ...]] = []

    def add(self, rows: ShardData, token: np.ndarray, feature: np.ndarray, activation: np.ndarray) -> None:
        """Take in the active codes of some tokens: index into ``rows``, feature and activation of each code."""
        self._check(rows)
        row, position = rows.context_ids, rows.positions
        half = halves(self.contexts.document_ids[row, position])
        self.n_tokens += np.bincount(half[half >= 0], minlength=N_HALVES)
        kept = half[token] >= 0
        token, slot, activation = token[kept], N_HALVES * feature[kept] + half[token[kept]], activation[kept]
        self.n_fired += np.bincount(slot, minlength=len(self.n_fired))
        self._pending.append((slot, row[token], position[token], activation))
        if sum(len(part[0]) for part in self._pending) > _PENDING_CODES:
            self._count()

    def _check(self, rows: ShardData) -> None:
        shape = self.contexts.token_ids.shape
        inside = (rows.context_ids < shape[0]) & (rows.positions < shape[1])
        if not inside.all() or (self.contexts.token_ids[rows.context_ids, rows.positions] != rows.token_ids).any():
            raise ValueError(
                "the held-out shards were not read from these contexts: expected the same token in both, got another; "
                "pass the contexts artifact that the activations artifact was made from"
            )

    def _count(self) -> None:
        if self._pending:
            slot, row, position, activation = (np.concatenate(column) for column in zip(*self._pending, strict=True))
            self._pending = []
            self.strongest.add(slot, row, position, activation)
            word = _words_at(self.words, self.contexts, row, position)
            self.weights.add(slot, word, activation.astype(np.float64) ** 2)

    def finish(self, features: np.ndarray) -> FeatureContexts:
        """Everything found."""
        self._count()
        row, position, activation = (
            table.reshape(len(features), N_HALVES, self.strongest.n_contexts) for table in self.strongest.tables()
        )
        n_fired = self.n_fired.reshape(-1, N_HALVES)
        return FeatureContexts(features, n_fired, self.n_tokens, row, position, activation, self.weights.total)


def collect_contexts(
    sae: Sae,
    held_out: Shards,
    contexts: ContextSplit,
    words: Words,
    config: ExplanationsConfig,
    features: Int[np.ndarray, " n"] | None = None,
    progress: Progress = silent,
) -> FeatureContexts:
    """Run the held-out activations through the SAE once and keep what explains its features.

    Words are weighted by the square of the activation: what a feature fires on weakly says little about it.

    Args:
        held_out: activations in stored order, with the context and position of each.
        contexts: the contexts those were read from.
        words: words of the same contexts.
        features: feature ids of interest, ascending; all of them by default.

    Raises:
        ValueError: if the activations are not of these contexts, or have another width than the SAE.
    """
    if held_out.d_in != sae.d_in:
        raise ValueError(
            f"the activations have width {held_out.d_in}, the SAE reads width {sae.d_in}; pass the activations of the "
            "hook it was trained on"
        )
    features = np.arange(sae.d_sae) if features is None else np.asarray(features)
    found = _Collector(contexts, words, len(features), config.n_contexts)
    done = 0
    for rows in held_out.in_order(max(1, _CODE_BLOCK // sae.d_sae)):
        found.add(rows, *_active_codes(sae, rows.activations, features))
        done += len(rows.positions)
        progress(done, held_out.n_tokens, f"{done:,} of {held_out.n_tokens:,} held-out tokens read for explanations")
    return found.finish(features)


@torch.no_grad()
def _active_codes(sae: Sae, x: torch.Tensor, features: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Token, index into ``features`` and activation of every active code."""
    codes = sae.encode(x.to(sae.W_dec.device, sae.W_dec.dtype))
    if len(features) < sae.d_sae:
        codes = codes[:, torch.from_numpy(features).to(codes.device)]
    token, feature = torch.nonzero(codes > 0, as_tuple=True)
    return token.cpu().numpy(), feature.cpu().numpy(), codes[token, feature].float().cpu().numpy()


def _words_at(words: Words, contexts: ContextSplit, row: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Word at each (context row, position); -1 on special tokens."""
    rows, at = np.unique(row, return_inverse=True)
    found: np.ndarray = words.find(np.asarray(contexts.token_ids[rows]))[at, position]
    return found
