"""What the gradients in closed form have in common: they run over the codes of a batch. Part of the training stage.

With ``e = x_hat - x`` and ``g = 2 e / batch``, the squared error has the gradient ``W_dec g`` by a code, the sum of
``code * g`` by a decoder row, and the sum of ``g`` by b_dec. What is zero on a token has no part in any of them, and
what is not selected feels nothing, so no product is dense but the encoder's.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int32, Int64, Shaped
from numpy import ndarray
from torch import Tensor

from sae_core.architectures import Moment, Sae, TrainableSae
from sae_core.kernel_options import torch_threads
from sae_core.training import sparse_kernels as kernels
from sae_core.training.autograd import AutogradGradients, BatchNumbers
from sae_core.training.codes import Codes


class ClosedForm(ABC):
    """Gradients of one SAE on a CPU, over the active codes of a batch only; by autograd where most are active."""

    name = "sparse"

    def __init__(self, sae: TrainableSae):
        if not sae.W_enc.T.is_contiguous() or not sae.W_dec.is_contiguous():
            raise ValueError("the sparse step needs W_enc stored feature by feature and W_dec contiguous")
        self._dense = AutogradGradients(sae)

    def __call__(self, x: Float[Tensor, "batch d_in"], moment: Moment) -> BatchNumbers:
        """As the protocol ``Gradients`` says."""
        with torch.no_grad(), torch_threads():
            numbers = self._over_codes(x.contiguous(), moment)
        return self._dense(x, moment) if numbers is None else numbers

    @abstractmethod
    def _over_codes(self, x: Float[Tensor, "batch d_in"], moment: Moment) -> BatchNumbers | None:
        """What ``__call__`` does; None, with gradients as they were, where too many codes are active for that."""


@dataclass(frozen=True)
class Nested:
    """Dictionaries that each reconstruct by themselves: the first features up to some end, the last ends with all."""

    end: Int64[ndarray, " n"]
    weight: Float32[ndarray, " n"]
    """Weights of their errors in the loss."""

    @classmethod
    def whole(cls, sae: Sae, weight: float = 1.0) -> "Nested":
        """The whole dictionary alone."""
        return cls(np.array([sae.d_sae]), np.array([weight], np.float32))


@dataclass(frozen=True)
class Reconstruction:
    """What codes write, compared with what they should."""

    errors: Float64[ndarray, " n"]
    """Of each nested dictionary: squared error summed over d_in, mean over the batch."""
    gradient: Float[Tensor, "n batch d_in"]
    """Of the weighted errors by what the features of dictionary i write that dictionary i - 1 does not have."""
    by_code: Float32[ndarray, " size"]
    """Of the same by each code."""


def reconstruct(
    target: Float[Tensor, "batch d_in"], sae: Sae, codes: Codes, value: Float32[ndarray, " size"], nested: Nested
) -> Reconstruction:
    """How well features write ``target``: what is to be reconstructed, less b_dec.

    Args:
        value: in place of the values of the codes.
    """
    gradient = torch.empty(len(nested.end), *target.shape)
    errors, by_code = np.empty((len(nested.end), len(target)), np.float32), np.empty(len(value), np.float32)
    runs, found = (codes.start, codes.end, codes.feature, value), (gradient.numpy(), by_code, errors)
    kernels.reconstruct(target.numpy(), sae.W_dec.numpy(), *runs, nested.end, nested.weight, *found)
    return Reconstruction(errors.mean(1, dtype=np.float64), gradient, by_code)


@dataclass(frozen=True)
class ByFeature:
    """Codes feature by feature, then token by token: those of feature i lie from ``first[i]`` to ``first[i + 1]``."""

    first: Int64[ndarray, " n"]
    token: Int32[ndarray, " n_active"]
    value: Float32[ndarray, " n_active"]
    gradient: Float32[ndarray, " n_active"]
    """Of the loss by the pre-activation."""

    def counts(self) -> Int64[ndarray, " d_sae"]:
        """Codes of each feature."""
        return np.diff(self.first)


def by_feature(
    codes: Codes, value: Float32[ndarray, " size"], gradient: Float32[ndarray, " size"], d_sae: int
) -> ByFeature:
    """Codes sorted, with ``value`` in place of theirs."""
    first, n_active = np.empty(d_sae + 1, np.int64), int((codes.end - codes.start).sum())
    token, values, gradients = (np.empty(n_active, kind) for kind in (np.int32, np.float32, np.float32))
    kernels.by_feature(codes.start, codes.end, codes.feature, value, gradient, first, token, values, gradients)
    return ByFeature(first, token, values, gradients)


class WeightGradients:
    """Gradients of W_enc and W_dec, and the sums of the gradients by pre-activations, those by the encoder's bias."""

    def __init__(self, sae: Sae):
        """None yet; they take the place of those of the step before, since fresh memory is slow."""
        for weight in (sae.W_enc, sae.W_dec):
            if weight.grad is None or weight.grad.stride() != weight.stride():
                weight.grad = torch.empty_like(weight)
        assert sae.W_enc.grad is not None
        assert sae.W_dec.grad is not None
        self.bias = torch.empty(sae.d_sae)
        self._buffers = (sae.W_enc.grad.T.numpy(), sae.W_dec.grad.numpy(), self.bias.numpy())
        self._has_some = False

    def add(
        self,
        read: Float[Tensor, "batch d_in"],
        codes: ByFeature,
        gradient: Float[Tensor, "n batch d_in"],
        nested: Nested,
    ) -> None:
        """Add those of some codes.

        Args:
            read: what the encoder sees.
            gradient: as in ``Reconstruction``.
        """
        runs = (codes.first, codes.token, codes.value, codes.gradient)
        kernels.weight_gradients(read.numpy(), gradient.numpy(), nested.end, *runs, self._has_some, *self._buffers)
        self._has_some = True


def sums_by_feature(codes: Codes, what: Shaped[ndarray, " size"], d_sae: int) -> Float64[Tensor, " d_sae"]:
    """Sum over the codes of each feature; every entry belongs to a token."""
    return torch.from_numpy(np.bincount(codes.feature, what, d_sae).astype(np.float64))
