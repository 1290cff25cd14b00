"""Windows about tokens of the held-out text, and the pool of places that examples without activation come from."""

from dataclasses import dataclass
from functools import cached_property
from typing import no_type_check

import numba
import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int32, Int64, UInt64
from torch import Tensor

from sae_core.config import ContextsConfig
from sae_core.feature_contexts.code_kernels import add_rows
from sae_core.feature_contexts.contexts import N_HALVES, Kind
from sae_core.held_out_text import HeldOutText
from sae_core.kernel_options import SERIAL
from sae_core.words import mix

KINDS: tuple[Kind, ...] = ("strongest", "quantile", "random", "same_token", "near")


def draw_keys(seed: int, kind: Kind, features: Int64[np.ndarray, " n"]) -> UInt64[np.ndarray, "n 2"]:
    """Keys of the draws of each feature and half, which depend on nothing else."""
    slot = N_HALVES * features[:, None] + np.arange(N_HALVES)
    start = mix(np.array([seed])) + np.uint64(KINDS.index(kind))
    keys: np.ndarray = mix(mix(start) + slot.astype(np.uint64))
    return keys


@dataclass(frozen=True)
class TextWindows:
    """The window about every token: so many tokens before and after it, as far as its document goes in its context."""

    text: HeldOutText
    before: int
    after: int

    @cached_property
    def begin(self) -> Int64[np.ndarray, " n"]:
        """First token of the window."""
        begin: np.ndarray = np.maximum(self.text.segment_begin, np.arange(len(self.text)) - self.before)
        return begin

    @cached_property
    def end(self) -> Int64[np.ndarray, " n"]:
        """One past its last token."""
        end: np.ndarray = np.minimum(self.text.segment_end, np.arange(len(self.text)) + self.after + 1)
        return end

    def occurrences(
        self, looked_at: Bool[np.ndarray, " n"]
    ) -> tuple[Int64[np.ndarray, "2 starts"], Int64[np.ndarray, " m"]]:
        """Tokens looked at, by half and token id: where those of each begin, and the tokens."""
        half, ids = self.text.half, self.text.token_ids
        tokens = np.flatnonzero(looked_at)
        n_ids = int(ids.max()) + 1
        key = half[tokens] * np.int64(n_ids) + ids[tokens]
        start = np.searchsorted(np.sort(key), np.arange(N_HALVES * n_ids + 1))
        return (
            np.stack([start[h * n_ids : (h + 1) * n_ids + 1] for h in range(N_HALVES)]),
            tokens[np.argsort(key, kind="stable")],
        )


class Pool:
    """Seeded places whose windows do not overlap, with the mean activation of the language model over each window.

    Places are in the order of their half, then of their token.

    Args:
        n_tokens: tokens of the held-out text that places may be drawn from, from its beginning.
        d_in: width of an activation.
    """

    def __init__(self, windows: TextWindows, n_tokens: int, config: ContextsConfig, d_in: int):
        half = windows.text.half
        candidates = np.flatnonzero(half[:n_tokens] >= 0)
        order = np.random.default_rng(config.seed).permutation(candidates)
        self.token: Int64[np.ndarray, " n"] = np.sort(
            _apart(order, n_tokens, windows.before, windows.after, config.n_pool)
        )
        self.token = self.token[np.argsort(half[self.token], kind="stable")]
        self.bounds = np.searchsorted(half[self.token], np.arange(N_HALVES + 1))
        """Places of half h are ``bounds[h]:bounds[h + 1]``."""
        self.place_of_token: Int32[np.ndarray, " n"] = np.full(len(half), -1, np.int32)
        for place, token in enumerate(self.token):
            self.place_of_token[windows.begin[token] : windows.end[token]] = place
        self._sums = np.zeros((len(self.token), d_in), np.float32)
        self._counts = np.zeros(len(self.token), np.float32)

    def add(self, tokens: Int32[np.ndarray, " n"], x: Float[Tensor, "n d_in"]) -> None:
        """Take in the activations of some tokens."""
        add_rows(self.place_of_token[tokens], x.numpy(), self._sums, self._counts)

    def directions(self) -> Float32[Tensor, "n d_in"]:
        """Mean activations, less their mean over the pool, at unit length (zero where nothing was read)."""
        read = self._counts > 0
        means = self._sums / np.maximum(self._counts, 1)[:, None]
        means[read] -= means[read].mean(axis=0)
        return torch.nn.functional.normalize(torch.from_numpy(means), dim=1)


@numba.njit(**SERIAL)
@no_type_check
def _apart(order, n_tokens, before, after, n_most):
    """The first of distinct tokens whose windows do not overlap.

    Whole windows, whatever the documents: so a token is not more likely because its window is cut short.
    """
    taken = np.zeros(n_tokens + before + after, np.bool_)
    found = np.empty(min(n_most, len(order)), np.int64)
    n = 0
    for token in order:
        if n == len(found):
            break
        # All windows are of one length: of two that overlap, one has its first or last token in the other.
        if not (taken[token] or taken[token + before + after]):
            for i in range(token, token + before + after + 1):
                taken[i] = True
            found[n] = token
            n += 1
    return found[:n]
