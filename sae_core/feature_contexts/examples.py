"""Which stretches of text stand for a feature: where it is most active, quantiles of the rest, and where it is silent.

Bricken et al. 2023 and delphi (Paulo et al. 2024) show explainers and scorers the same kinds.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int8, Int64
from torch import Tensor

from sae_core.config import ContextsConfig
from sae_core.feature_contexts.codes import FeatureCodes
from sae_core.feature_contexts.contexts import N_HALVES, Kind
from sae_core.feature_contexts.example_kernels import choose_peaks, draw_silent, find_peaks, pool_maxima
from sae_core.feature_contexts.places import KINDS, Pool, TextWindows, draw_keys
from sae_core.feature_contexts.token_kernels import draw_same_token

Grid = Int64[np.ndarray, "slots _"]
"""Tokens, -1 where there are fewer; a row for each feature and half."""


@dataclass(frozen=True)
class Chosen:
    """Examples of a range of features, in the order of the table."""

    slot: Int64[np.ndarray, " n"]
    """``2 * i + half`` for the feature i of the range."""
    kind: Int64[np.ndarray, " n"]
    """Index into ``KINDS``."""
    quantile: Int8[np.ndarray, " n"]
    peak: Int64[np.ndarray, " n"]
    """Token of the held-out text that each is about."""


class ExampleChooser:
    """Chooses examples of features from their codes.

    Args:
        looked_at: tokens whose activations were encoded.
    """

    def __init__(self, windows: TextWindows, pool: Pool, looked_at: Bool[np.ndarray, " n"], config: ContextsConfig):
        self.windows, self.pool, self.config = windows, pool, config
        self._directions = pool.directions()
        self._occurrences = windows.occurrences(looked_at)

    def choose(self, codes: FeatureCodes, n_fired: Int64[np.ndarray, "n 2"]) -> Chosen:
        """Examples of every kind; none of a feature in a half in which it never fires."""
        maxima = np.zeros((len(codes.features), len(self.pool.token)), np.float32)
        pool_maxima(codes.start, codes.token, codes.activation, self.pool.place_of_token, maxima)
        random = self._random(codes, maxima)
        near = self._near(maxima, random)
        peaks, n_strongest = self._peaks(codes), self.config.n_strongest
        column = np.arange(peaks.shape[1] - n_strongest)
        none = np.full(self.config.n_negatives, -1)
        grids: list[tuple[Grid, Kind, np.ndarray]] = [
            (peaks[:, :n_strongest], "strongest", np.full(n_strongest, -1)),
            (peaks[:, n_strongest:], "quantile", column // max(1, self.config.n_per_quantile)),
            (self._tokens(random), "random", none),
            (self._same_token(codes), "same_token", none),
            (self._tokens(near), "near", none),
        ]
        return _in_order(grids, n_fired.reshape(-1) > 0)

    def _peaks(self, codes: FeatureCodes) -> Grid:
        """Tokens of the strongest examples, then of those from each quantile of the others."""
        config, windows = self.config, self.windows
        is_peak = find_peaks(codes.start, codes.token, codes.activation, windows.begin, windows.end)
        feature = np.repeat(np.arange(len(codes.features)), np.diff(codes.start))[is_peak]
        token, activation = codes.token[is_peak].astype(np.int64), codes.activation[is_peak]
        slot = N_HALVES * feature + windows.text.half[token]
        # Positive floats are in the order of their bits; stable, so that equals stay in the order of their tokens.
        order = np.argsort((slot << 32) - activation.view(np.int32), kind="stable")
        start = np.searchsorted(slot[order], np.arange(N_HALVES * len(codes.features) + 1))
        chosen = self._none(codes, config.n_strongest + config.n_quantiles * config.n_per_quantile)
        token = token[order]
        keys = draw_keys(config.seed, "quantile", codes.features).reshape(-1)
        segment = windows.text.segment_begin[token]
        choose_peaks(start, segment, keys, config.n_strongest, config.n_quantiles, config.n_per_quantile, chosen)
        return np.where(chosen >= 0, np.append(token, -1)[chosen], -1)

    def _random(self, codes: FeatureCodes, maxima: Float32[np.ndarray, "n pool"]) -> Grid:
        """Places of the pool where each feature is silent."""
        keys = draw_keys(self.config.seed, "random", codes.features)
        chosen = self._none(codes, self.config.n_negatives).reshape(len(codes.features), N_HALVES, -1)
        for half in range(N_HALVES):
            drawn = chosen[:, half].copy()
            draw_silent(maxima, *self.pool.bounds[half : half + 2], keys[:, half].copy(), drawn)
            chosen[:, half] = drawn
        return chosen.reshape(-1, self.config.n_negatives)

    def _near(self, maxima: Float32[np.ndarray, "n pool"], random: Grid) -> Grid:
        """Silent places of the pool nearest to where each feature fires, the nearest first.

        By the cosine with the mean direction of the places where it fires, each weighted by its largest activation.
        Those drawn as random ones are left out.
        """
        found = np.full((len(maxima), N_HALVES, random.shape[1]), -1)
        taken = random.reshape(len(maxima), N_HALVES, -1)
        for half in range(N_HALVES):
            part = slice(*self.pool.bounds[half : half + 2])
            active, directions = torch.from_numpy(maxima[:, part]), self._directions[part]
            n = min(random.shape[1], len(directions))
            centre = active @ directions
            nearness: Tensor = (centre @ directions.T).masked_fill_(active > 0, -torch.inf)
            nearness[~active.any(dim=1)] = -torch.inf
            row, column = np.nonzero(taken[:, half] >= 0)
            nearness[row, taken[row, half, column] - part.start] = -torch.inf
            best = nearness.topk(n, dim=1)
            found[:, half, :n] = np.where(best.values.isfinite(), best.indices + part.start, -1)
        return found.reshape(len(random), -1)

    def _same_token(self, codes: FeatureCodes) -> Grid:
        """Tokens that each feature fires on elsewhere in the half, in windows where it is silent."""
        keys = draw_keys(self.config.seed, "same_token", codes.features).reshape(-1)
        chosen = self._none(codes, self.config.n_negatives)
        text, windows = self.windows.text, self.windows
        occurrences = (*self._occurrences, windows.begin, windows.end)
        draw_same_token(
            codes.start, codes.token, codes.activation, text.half, text.token_ids, *occurrences, keys, chosen
        )
        return chosen

    def _tokens(self, places: Grid) -> Grid:
        return np.where(places >= 0, np.append(self.pool.token, -1)[places], -1)

    @staticmethod
    def _none(codes: FeatureCodes, n_columns: int) -> Grid:
        return np.full((N_HALVES * len(codes.features), n_columns), -1, dtype=np.int64)


def _in_order(grids: list[tuple[Grid, Kind, np.ndarray]], fires: Bool[np.ndarray, " slots"]) -> Chosen:
    """The examples of all kinds as rows in the order of slots, then kinds, then columns."""
    grid = np.concatenate([np.where(fires[:, None], each, -1) for each, _, _ in grids], axis=1)
    kind = np.concatenate([np.full(each.shape[1], KINDS.index(name)) for each, name, _ in grids])
    quantile = np.concatenate([quantiles for _, _, quantiles in grids]).astype(np.int8)
    slot, column = np.nonzero(grid >= 0)
    return Chosen(slot, kind[column], quantile[column], grid[slot, column])
