"""Which pre-activations of a batch may be among those that are selected, found a chunk of tokens at a time.

Part of the training stage; ``codes`` selects. Floats that are not negative are ordered as their bits are, so bounds
are given as bits.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int32, Int64
from numpy import ndarray
from torch import Tensor

from sae_core import encoder_products as products
from sae_core.training import selection_kernels as kernels
from sae_core.training.coarse import CoarsePreActivations

LISTED_SHARE = 0.15
"""Share of a chunk's pre-activations above which a product in float32 computes them faster than one by one."""
MORE = 1.3
"""How many times its share of a batch's codes a chunk is asked for, to guess the smallest code of all."""
POSITIVE = 1
"""Bits of the smallest positive float."""


@dataclass(frozen=True)
class Encoder:
    """What makes pre-activations of the tokens of a batch: ``centred rows^T + bias``."""

    centred: Float[Tensor, "batch d_in"]
    rows: Float[Tensor, "d_sae d_in"]
    bias: Float[Tensor, " d_sae"]

    def compute(self, found: "Found", wanted: Bool[ndarray, " n"] | None = None) -> Callable[[], None]:
        """What computes the values of candidates, all or those ``wanted`` when it is called; the rest is prepared."""
        first, order = np.empty(len(self.rows) + 1, np.int64), np.empty(len(found.token), np.int32)
        kernels.order_by_feature(found.feature, first, order)
        marks = np.ones(len(order), np.bool_) if wanted is None else wanted
        parameters = (self.centred.numpy(), self.rows.numpy(), self.bias.numpy())
        return lambda: kernels.compute(*parameters, first, order, found.token, marks, found.value)


@dataclass(frozen=True)
class Found:
    """Some pre-activations, by token, then by feature."""

    token: Int32[ndarray, " n"]
    feature: Int32[ndarray, " n"]
    value: Float32[ndarray, " n"]
    exact: bool
    """Else ``value`` is the most that each can be."""

    @classmethod
    def joined(cls, parts: list["Found"]) -> "Found":
        """Parts of different tokens, in their order; exact if all are."""
        names = ("token", "feature", "value")
        token, feature, value = (np.concatenate([getattr(part, name) for part in parts]) for name in names)
        return cls(token, feature, value, all(part.exact for part in parts))

    def bits(self) -> Int32[ndarray, " n"]:
        """Of the values."""
        return self.value.view(np.int32)

    def where(self, which: Bool[ndarray, " n"] | Int64[ndarray, " places"]) -> "Found":
        """A part of them, or the same in another order."""
        return replace(self, token=self.token[which], feature=self.feature[which], value=self.value[which])

    def first_largest(self, n: int) -> "Found":
        """The n largest, of equal ones the first; all where there are not so many."""
        bits = self.bits()
        if len(bits) <= n:
            return self
        smallest = np.partition(bits, len(bits) - n)[len(bits) - n]
        chosen = bits > smallest
        chosen[np.flatnonzero(bits == smallest)[: n - chosen.sum()]] = True
        return self.where(chosen)


_Room = tuple[Int32[ndarray, "chunk d_sae"], Float32[ndarray, "chunk d_sae"]]


class Chunk:
    """Some tokens of a batch, and their pre-activations: coarse ones where the processor is fast with them."""

    def __init__(self, first: int, encoder: Encoder, coarse: CoarsePreActivations | None, room: _Room):
        """``encoder``: with the tokens of this chunk alone, the first of which is token ``first``."""
        self._first, self._encoder, self._listing = first, encoder, room
        self._coarse = coarse(encoder.centred) if coarse else None
        self.size = len(encoder.centred) * len(encoder.rows)

    @cached_property
    def _pre(self) -> Float32[ndarray, "chunk d_sae"]:
        encoder = self._encoder
        pre: Float32[ndarray, "chunk d_sae"] = products.linear(encoder.centred, encoder.rows, encoder.bias).numpy()
        return pre

    def largest(self, k: int) -> Found:
        """Those that may be among the k largest of their token."""
        if self._coarse and (listed := self._listed(kernels.list_largest, k)):
            return listed
        bound = np.empty(len(self._pre), np.int64)
        kernels.kth_largest(self._pre, k, bound)
        return self._reaching(bound)

    def reaching(self, bound: int) -> Found:
        """Those whose bits may be at least ``bound``, which is positive."""
        if self._coarse and (listed := self._listed(kernels.list_reaching, bound)):
            return listed
        return self._reaching(np.full(len(self._pre), bound))

    def _listed(self, kernel: Callable[..., None], argument: int) -> Found | None:
        """Candidates by a kernel; None where they are too many to be computed one by one."""
        count, (feature, upper) = np.empty(len(self._encoder.centred), np.int64), self._listing
        kernel(self._coarse, argument, count, feature, upper)
        if count.sum() > LISTED_SHARE * self.size:
            return None
        found = self._room(count, exact=False)
        kernels.pack(count, feature, upper, found.feature, found.value)
        return found

    def _reaching(self, bound: Int64[ndarray, " chunk"]) -> Found:
        """Those whose bits are at least the ``bound`` of their token, by a product in float32."""
        count = np.empty(len(bound), np.int64)
        kernels.count_reaching(self._pre, bound, count)
        found = self._room(count, exact=True)
        kernels.select_reaching(self._pre, bound, np.cumsum(count) - count, found.feature, found.value)
        return found

    def _room(self, count: Int64[ndarray, " chunk"], *, exact: bool) -> Found:
        """For so many of each token."""
        token = np.repeat(np.arange(self._first, self._first + len(count), dtype=np.int32), count)
        return Found(token, np.empty(len(token), np.int32), np.empty(len(token), np.float32), exact)

    def guess(self, per_token: float) -> int:
        """Bits that a little more than ``per_token`` pre-activations of a token reach, on average: only a guess."""
        k = min(len(self._encoder.rows), math.ceil(4 * per_token))
        value = np.empty((len(self._encoder.centred), k), np.float32)
        if self._coarse:
            kernels.guess_largest(self._coarse, k, value)
        else:
            value = torch.from_numpy(self._pre).topk(k).values.numpy()
        place = value.size - min(value.size, math.ceil(MORE * per_token * len(value)))
        return max(POSITIVE, int(np.partition(value.view(np.int32).ravel(), place)[place]))


def chunks(encoder: Encoder, size: int) -> Iterator[Chunk]:
    """The tokens of a batch, ``size`` at once; a chunk is valid until the next one."""
    coarse = None
    if products.has_fast_int8():
        coarse = CoarsePreActivations(encoder.rows, encoder.bias, alike=encoder.centred[:size])
    shape = (min(size, len(encoder.centred)), len(encoder.rows))
    room = np.empty(shape, np.int32), np.empty(shape, np.float32)  # of which little is ever touched
    for first in range(0, len(encoder.centred), size):
        yield Chunk(first, replace(encoder, centred=encoder.centred[first : first + size]), coarse, room)
