"""The active codes of held-out tokens, kept in files while the shards are read, then given out feature by feature.

Memory holds one file's codes, or those of a range of features. Files are written whole, so that a killed pass goes on
behind the last of them. Tokens are encoded in groups whose size depends on nothing but the SAE: how many of them make
a file changes no bit.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32, Int32, Int64
from torch import Tensor

from sae_core.architectures import Sae
from sae_core.feature_contexts.code_kernels import count_active, take_active
from sae_core.whole_files import write_whole

_DENSE_CODES = 1 << 22
"""Codes (tokens x features) that are encoded at a time: 16 MiB in float32, which caches and the allocator like."""
_FILE_CODES = 1 << 23
"""Active codes after which a file is written: 96 MiB with their features."""
_RANGE_CODES = 1 << 22
_RANGE_FEATURES = 1024
_INPUTS = "inputs"


def tokens_at_once(d_sae: int) -> int:
    """Tokens that are encoded at a time."""
    return max(1, _DENSE_CODES // d_sae)


@dataclass(frozen=True)
class FeatureCodes:
    """Active codes of some features, one feature behind the other, tokens ascending."""

    features: Int64[np.ndarray, " n"]
    start: Int64[np.ndarray, " starts"]
    """Codes of ``features[i]`` are ``start[i]:start[i + 1]``."""
    token: Int32[np.ndarray, " codes"]
    activation: Float32[np.ndarray, " codes"]


@torch.no_grad()
def encode(
    sae: Sae, x: Float[Tensor, "n d_in"], tokens: Int32[np.ndarray, " n"]
) -> tuple[Int32[np.ndarray, " m"], Int32[np.ndarray, " m"], Float32[np.ndarray, " m"]]:
    """Token, feature and activation of the active codes, in the order of the rows."""
    codes = sae.encode(x.to(sae.W_dec.device, sae.W_dec.dtype)).float().cpu().numpy()
    first = np.zeros(len(codes) + 1, dtype=np.int64)
    np.cumsum(count_active(codes), out=first[1:])
    token, feature = np.empty(first[-1], np.int32), np.empty(first[-1], np.int32)
    activation = np.empty(first[-1], np.float32)
    take_active(codes, tokens, first, token, feature, activation)
    return token, feature, activation


class CodeFiles:
    """Active codes on their way from the order of tokens to that of features.

    A file ``<first row>-<row behind the last>`` holds where the codes of each feature begin (int64, d_sae + 1), the
    tokens (int32) and the activations (float32), one feature behind the other.

    Args:
        folder: made if it is not there.
        inputs: a digest of all that decides the codes; files of other inputs are removed.
    """

    def __init__(self, folder: Path, d_sae: int, inputs: str):
        self.folder, self.d_sae = folder, d_sae
        if not (folder / _INPUTS).exists() or (folder / _INPUTS).read_text() != inputs:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            write_whole(folder / _INPUTS, lambda part: part.write_text(inputs))
        self.n_rows = max((int(path.name.split("-")[1]) for path in self._files()), default=0)
        """Rows whose codes are in files."""
        self._pending: list[tuple[np.ndarray, ...]] = []
        self._n_pending_rows = 0

    def add(self, codes: tuple[np.ndarray, np.ndarray, np.ndarray], n_rows: int) -> None:
        """Take in what ``encode`` gives for the next rows."""
        self._pending.append(codes)
        self._n_pending_rows += n_rows
        if sum(len(token) for token, _, _ in self._pending) >= _FILE_CODES:
            self.finish()

    def finish(self) -> None:
        """Write what is not yet in a file."""
        if self._n_pending_rows == 0:
            return
        token, feature, activation = (np.concatenate(parts) for parts in zip(*self._pending, strict=True))
        order, start = self._by_feature(feature, self.d_sae)
        stop = self.n_rows + self._n_pending_rows

        def write(part: Path) -> None:
            with open(part, "wb") as file:
                for array in (start, token[order], activation[order]):
                    array.tofile(file)

        write_whole(self.folder / f"{self.n_rows:012d}-{stop:012d}", write)
        self.n_rows, self._pending, self._n_pending_rows = stop, [], 0

    def ranges(self) -> Iterator[FeatureCodes]:
        """All features that are active anywhere, in ranges that fit into memory: at least one feature each."""
        counts = sum((np.diff(self._starts(path)) for path in self._files()), np.zeros(self.d_sae, np.int64))
        first = 0
        while first < self.d_sae:
            n_codes = np.cumsum(counts[first : first + _RANGE_FEATURES])
            last = first + max(1, int(np.searchsorted(n_codes, _RANGE_CODES, side="right")))
            if n_codes[last - first - 1]:
                yield self._read(first, last)
            first = last

    def remove(self) -> None:
        """Delete the files."""
        shutil.rmtree(self.folder)

    def _read(self, first: int, last: int) -> FeatureCodes:
        parts = []
        for path in self._files():
            start = self._starts(path)
            n, rest = int(start[last] - start[first]), 8 * len(start)
            token = np.fromfile(path, np.int32, n, offset=rest + 4 * int(start[first]))
            activation = np.fromfile(path, np.float32, n, offset=rest + 4 * int(start[-1] + start[first]))
            parts.append((np.repeat(np.arange(last - first), np.diff(start[first : last + 1])), token, activation))
        feature, token, activation = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        order, start = self._by_feature(feature, last - first)
        active = np.diff(start) > 0
        return FeatureCodes(
            np.arange(first, last)[active],
            np.append(start[:-1][active], start[-1]),
            token[order],
            activation[order],
        )

    def _files(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("*-*") if not path.name.endswith(".part"))

    def _starts(self, path: Path) -> np.ndarray:
        return np.fromfile(path, np.int64, self.d_sae + 1)

    @staticmethod
    def _by_feature(feature: np.ndarray, n_features: int) -> tuple[np.ndarray, np.ndarray]:
        """Order that sorts codes by feature and keeps that of the tokens; where each feature's codes begin then."""
        small = feature.astype(np.uint16) if n_features <= 1 << 16 else feature  # numpy has a radix sort for 16 bits
        start = np.zeros(n_features + 1, dtype=np.int64)
        np.cumsum(np.bincount(feature, minlength=n_features), out=start[1:])
        return np.argsort(small, kind="stable"), start
