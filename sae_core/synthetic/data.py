"""Samples whose true features are known, as an endless stream: the beginning of the *synthetic* stage.

A stream is made block by block, each from a random generator of its own, so that any sample of it can be had without
those before.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64
from numpy.random import Generator
from torch import Tensor
from torch.nn.functional import embedding_bag

from sae_core.synthetic.dictionaries import gaussian, orthogonalised
from sae_core.synthetic.frequencies import weights
from sae_core.synthetic.structures import firing
from sae_core.synthetic_config import SyntheticConfig

_BLOCK_SAMPLES, _BLOCK_ENTRIES = 16_384, 2**22
"""A block has so many samples, or fewer where they would take more numbers than that. Other values, other samples."""


@dataclass(frozen=True)
class Draw:
    """Samples, and the codes that they are made of: sorted by sample, and by feature within a sample."""

    x: Float32[Tensor, "n d_in"]
    sample: Int64[Tensor, " nnz"]
    """Row of ``x``."""
    feature: Int64[Tensor, " nnz"]
    """True feature that fires on it."""
    value: Float32[Tensor, " nnz"]
    """How strongly."""
    d_gt: int

    def codes(self) -> Float32[Tensor, "n d_gt"]:
        """The codes as a dense matrix."""
        dense = torch.zeros(len(self.x), self.d_gt)
        dense[self.sample, self.feature] = self.value
        return dense

    def counts(self) -> Int64[Tensor, " d_gt"]:
        """Samples on which each feature fires."""
        return torch.bincount(self.feature, minlength=self.d_gt)


def check_firing(config: SyntheticConfig) -> None:
    """Whether features can fire as the settings ask, without making a dictionary.

    Raises:
        ValueError: if not.
    """
    firing(config, weights(config.frequency, config.d_gt), _generator("structure", config.seed))


class SyntheticData:
    """Endless streams of samples ``x = codes @ dictionary + bias + noise`` with a known dictionary.

    The settings decide the dictionary, the bias, how often features fire and which fire together; a stream's own seed
    decides its samples. Nothing but the last block drawn is kept, and no generator of the caller is touched.
    """

    def __init__(self, config: SyntheticConfig):
        """Make the dictionary.

        Raises:
            ValueError: if no features can fire as the settings ask.
        """
        self.config = config
        make = gaussian if config.dictionary == "gaussian" else orthogonalised
        weight = weights(config.frequency, config.d_gt)
        self._firing = firing(config, weight, _generator("structure", config.seed))
        self.dictionary: Float32[Tensor, "d_gt d_in"] = make(
            config.d_gt, config.d_in, _generator("dictionary", config.seed)
        )
        """True features: unit rows."""
        direction = gaussian(1, config.d_in, _generator("bias", config.seed))[0]
        self.bias: Float32[Tensor, " d_in"] = config.bias * direction
        """Added to every sample."""
        self.weights: Float64[Tensor, " d_gt"] = torch.from_numpy(weight)
        """Relative firing frequencies that were asked for; they add up to 1."""
        known = self._firing.probability
        self.probability: Float64[Tensor, " d_gt"] | None = None if known is None else torch.from_numpy(known)
        """Of each feature to fire on a sample; None where no formula gives it."""
        self._n_block = max(1, min(_BLOCK_SAMPLES, int(_BLOCK_ENTRIES / max(config.d_in, self._firing.cells))))
        self._last: tuple[int, int, Draw] | None = None

    def draw(self, n: int, seed: int, start: int = 0) -> Draw:
        """Samples ``start`` to ``start + n`` of the stream ``seed``; a sample does not depend on ``start`` and ``n``.

        Raises:
            ValueError: if ``n`` is not positive, or ``seed`` or ``start`` is negative.
        """
        _check(seed, start, n=n)
        numbers = range(start // self._n_block, (start + n - 1) // self._n_block + 1)
        parts = []
        for number in numbers:
            first = number * self._n_block
            parts.append(_cut(self._kept(seed, number), max(0, start - first), min(self._n_block, start + n - first)))
        offsets = np.cumsum([0, *(len(part.x) for part in parts[:-1])]).tolist()
        return Draw(
            x=torch.cat([part.x for part in parts]),
            sample=torch.cat([part.sample + offset for part, offset in zip(parts, offsets, strict=True)]),
            feature=torch.cat([part.feature for part in parts]),
            value=torch.cat([part.value for part in parts]),
            d_gt=self.config.d_gt,
        )

    def batches(self, batch_size: int, seed: int, start: int = 0) -> Iterator[Float[Tensor, "batch d_in"]]:
        """Batches of the stream ``seed``, without end: batch i has the samples from ``i * batch_size`` on.

        Args:
            start: number of the first batch.

        Raises:
            ValueError: if ``batch_size`` is not positive, or ``seed`` or ``start`` is negative.
        """
        _check(seed, start, batch_size=batch_size)
        return self._batches(batch_size, seed, start)

    def _batches(self, batch_size: int, seed: int, start: int) -> Iterator[Float[Tensor, "batch d_in"]]:
        number, place = divmod(start * batch_size, self._n_block)
        x = self._block(seed, number).x
        while True:
            parts = [x[place : place + batch_size]]
            place += batch_size
            while place >= self._n_block:
                number, place = number + 1, place - self._n_block
                x = self._block(seed, number).x
                parts.append(x[: min(place, self._n_block)])
            yield parts[0] if len(parts) == 1 else torch.cat(parts)

    def _kept(self, seed: int, number: int) -> Draw:
        last = self._last
        if last is None or last[:2] != (seed, number):
            last = self._last = seed, number, self._block(seed, number)
        return last[2]

    def _block(self, seed: int, number: int) -> Draw:
        config, n = self.config, self._n_block
        rng = _generator("samples", config.seed, seed, number)
        sample, feature = (torch.from_numpy(found) for found in self._firing.draw(n, rng))
        value = torch.from_numpy(_magnitudes(config, len(feature), rng))
        starts = torch.searchsorted(sample, torch.arange(n))
        # Each sample is summed by one thread, feature after feature.
        x = embedding_bag(feature, self.dictionary, starts, mode="sum", per_sample_weights=value)
        if config.bias:
            x += self.bias
        if config.noise:
            noise = rng.standard_normal((n, config.d_in), np.float32)
            x += torch.from_numpy(noise).mul_(config.noise / config.d_in**0.5)
        return Draw(x, sample, feature, value, config.d_gt)


def _cut(block: Draw, start: int, end: int) -> Draw:
    first, last = torch.searchsorted(block.sample, torch.tensor([start, end])).tolist()
    return Draw(
        block.x[start:end],
        block.sample[first:last] - start,
        block.feature[first:last],
        block.value[first:last],
        block.d_gt,
    )


def _magnitudes(config: SyntheticConfig, n: int, rng: Generator) -> Float32[np.ndarray, " n"]:
    if config.magnitude == "half_normal":
        return np.abs(rng.standard_normal(n, np.float32))
    if config.magnitude == "exponential":
        return rng.standard_exponential(n, np.float32)
    return np.ones(n, np.float32)


def _generator(what: str, *seeds: int) -> Generator:
    """A random generator for one purpose; the digest keeps different ones apart, where sums of seeds would meet."""
    text = "/".join([what, *map(str, seeds)])
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest(), "little"))


def _check(seed: int, start: int, **sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1: got {size}")
    for name, value in (("seed", seed), ("start", start)):
        if value < 0:
            raise ValueError(f"{name} must not be negative: got {value}")
