"""What makes features fire: their strongest contexts and the words they fire on, in two disjoint halves of the text.

Place in the flow: held-out shards x SAE -> **feature contexts** -> explanations. One pass over the shards; only
the non-zero codes are looked at, and memory grows with features x contexts and words kept, not with tokens.

Every document belongs to one half, so that run A can be explained from one half of the text and run B from the
other: the same windows on both sides would inflate how alike the explanations are.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Int
from scipy import sparse

from .architectures import Sae
from .config import ExplanationsConfig
from .corpus import ContextSplit
from .progress import Progress, silent
from .shards import Shards
from .words import Words, mix

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
class Evidence:
    """Where features fire. Rows of the sparse matrices are slots: ``2 * i + half`` for the feature ``features[i]``."""

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
    at: sparse.csr_array
    """Weight of each word the feature fires on (2n, n_words)."""
    before: sparse.csr_array
    """Weight of each word that precedes the word it fires on."""
    after: sparse.csr_array


FeatureContexts = Evidence


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


@dataclass
class _Codes:
    """Non-zero codes waiting to be counted: slot, context row, position and activation of each."""

    parts: list[tuple[np.ndarray, ...]] = field(default_factory=list)
    n: int = 0

    def take(self) -> tuple[np.ndarray, ...]:
        parts, self.parts, self.n = self.parts, [], 0
        return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


def collect_contexts(
    sae: Sae,
    held_out: Shards,
    contexts: ContextSplit,
    words: Words,
    config: ExplanationsConfig,
    features: Int[np.ndarray, " n"] | None = None,
    progress: Progress = silent,
) -> Evidence:
    """Run the held-out activations through the SAE once and keep what explains its features.

    Words are weighted by the square of the activation: what a feature fires on weakly says little about it.

    Args:
        held_out: activations in stored order, with the context and position of each.
        contexts: the contexts those were read from.
        words: words of the same contexts.
        features: feature ids of interest, ascending; all of them by default.
    """
    features = np.arange(len(sae.W_dec)) if features is None else np.asarray(features)
    n_slots = N_HALVES * len(features)
    strongest = _Strongest(n_slots, config.n_contexts)
    weights = [_WordWeights(n_slots, len(words)) for _ in range(3)]
    n_fired, n_tokens, codes = np.zeros(n_slots, dtype=np.int64), np.zeros(N_HALVES, dtype=np.int64), _Codes()

    def count() -> None:
        slot, row, position, activation = codes.take()
        strongest.add(slot, row, position, activation)
        for total, word in zip(weights, _words_around(words, contexts, row, position), strict=True):
            total.add(slot, word, activation.astype(np.float64) ** 2)

    done = 0
    for x, row, position in _held_out_blocks(held_out, max(1, _CODE_BLOCK // len(sae.W_dec))):
        half = halves(contexts.document_ids[row, position])
        n_tokens += np.bincount(half[half >= 0], minlength=N_HALVES)
        part = _nonzero_codes(sae, x, features)
        slot, kept = N_HALVES * part[1] + half[part[0]], half[part[0]] >= 0
        slot, token, activation = slot[kept], part[0][kept], part[2][kept]
        n_fired += np.bincount(slot, minlength=n_slots)
        codes.parts.append((slot, row[token], position[token], activation))
        codes.n += len(slot)
        if codes.n > _PENDING_CODES:
            count()
        done += len(row)
        progress(done, held_out.n_tokens, f"{done:,} of {held_out.n_tokens:,} held-out tokens read for explanations")
    count()
    shape = (len(features), N_HALVES, config.n_contexts)
    row, position, activation = (table.reshape(shape) for table in strongest.tables())
    sums = [total.total for total in weights]
    return Evidence(features, n_fired.reshape(-1, N_HALVES), n_tokens, row, position, activation, *sums)


def _held_out_blocks(held_out: Shards, size: int) -> Iterator[tuple[torch.Tensor, np.ndarray, np.ndarray]]:
    """Activations with their context row and position, in blocks of at most so many tokens."""
    for i in range(held_out.n_shards):
        shard = held_out.read(i)
        rows, positions = np.asarray(shard.context_ids, dtype=np.int64), np.asarray(shard.positions, dtype=np.int64)
        for start in range(0, len(rows), size):
            stop = start + size
            yield torch.as_tensor(shard.activations[start:stop]), rows[start:stop], positions[start:stop]


@torch.no_grad()
def _nonzero_codes(sae: Sae, x: torch.Tensor, features: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Token, index into ``features`` and activation of every active code."""
    codes = sae.encode(x.to(sae.W_dec.device, sae.W_dec.dtype))
    if len(features) < codes.shape[1]:
        codes = codes[:, torch.from_numpy(features).to(codes.device)]
    token, feature = torch.nonzero(codes > 0, as_tuple=True)
    return token.cpu().numpy(), feature.cpu().numpy(), codes[token, feature].float().cpu().numpy()


def _words_around(
    words: Words, contexts: ContextSplit, row: np.ndarray, position: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Word at each (context row, position), the word before it and the word after it, within its document; -1: none."""
    rows, at = np.unique(row, return_inverse=True)
    token_ids, documents = np.asarray(contexts.token_ids[rows]), np.asarray(contexts.document_ids[rows])
    word, starts = words.find(token_ids), words.segmenter.starts(token_ids)
    length = token_ids.shape[1]
    column = np.arange(length)
    first = np.maximum.accumulate(np.where(starts, column, 0), axis=1)
    # The start of the next word: scan from the right for the closest start beyond a position.
    following = np.minimum.accumulate(np.where(starts, column, length)[:, ::-1], axis=1)[:, ::-1]
    following = np.pad(following[:, 1:], ((0, 0), (0, 1)), constant_values=length)

    def neighbour(where: np.ndarray) -> np.ndarray:
        column = np.clip(where, 0, length - 1)
        same = (where >= 0) & (where < length) & (documents[at, column] == documents[at, position])
        return np.where(same, word[at, column], -1)

    return word[at, position], neighbour(first[at, position] - 1), neighbour(following[at, position])
