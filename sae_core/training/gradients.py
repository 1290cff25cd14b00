"""Gradients of an SAE's loss on one batch: by autograd (the reference), or sparse and much faster on a CPU.

Both fill ``.grad`` and return the same numbers; the tests hold them equal. Part of the training stage.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from numpy import ndarray
from torch import Tensor

from sae_core.architectures import Moment, SparseRule, TrainableSae
from sae_core.architectures.trainable import auxiliary_loss
from sae_core.kernel_options import torch_threads
from sae_core.training import sparse_kernels as kernels
from sae_core.training.codes import Codes, largest, positive


@dataclass(frozen=True)
class BatchNumbers:
    """What a batch says besides its gradients."""

    loss: float
    """What is minimised."""
    error: float
    """Squared error summed over d_in, mean over the batch."""
    l0: float
    """Features active on a token, mean over the batch."""
    fired: Bool[Tensor, " d_sae"]
    """Features active on at least one token."""
    values: Float[Tensor, " n_active"] | None = None
    """The positive codes, in any order, for an SAE that ``observes`` them."""


@runtime_checkable
class Gradients(Protocol):
    """Computes the gradients of one SAE, batch by batch."""

    name: str

    def __call__(self, x: Float[Tensor, "batch d_in"], moment: Moment) -> BatchNumbers:
        """Set ``.grad`` of every parameter to the gradient of the loss on ``x``."""
        ...


class AutogradGradients:
    """Every architecture, every device: the loss and its backward pass."""

    name = "autograd"

    def __init__(self, sae: TrainableSae):
        self._sae = sae

    def __call__(self, x: Float[Tensor, "batch d_in"], moment: Moment) -> BatchNumbers:
        """As the protocol says."""
        self._sae.zero_grad(set_to_none=True)
        loss = self._sae.loss(x, moment)
        loss.total.backward()  # type: ignore[no-untyped-call]
        active = loss.codes.detach() > 0
        values = loss.codes.detach()[active] if self._sae.observes else None
        l0 = float(active.sum()) / len(x)
        return BatchNumbers(float(loss.total.detach()), float(loss.error.detach()), l0, active.any(0), values)


class SparseGradients:
    """SAEs with a ``SparseRule``, on a CPU: only the encoder product is dense, the rest runs over the active codes.

    The loss is that of the SAE, its gradients are in closed form: a code that is zero has none, and for the others
    with g = 2 (x_hat - x) / batch it is ``W_dec g + penalty / batch``.
    """

    name = "sparse"

    def __init__(self, sae: TrainableSae, rule: SparseRule):
        if not sae.W_enc.T.is_contiguous() or not sae.W_dec.is_contiguous():
            raise ValueError("the sparse step needs W_enc stored feature by feature and W_dec contiguous")
        self._sae, self._rule, self._dense = sae, rule, AutogradGradients(sae)
        self._enc_gradient, self._dec_gradient = torch.empty_like(sae.W_dec), torch.empty_like(sae.W_dec)
        self._b_enc_gradient = torch.empty_like(sae.b_enc)

    @torch.no_grad()
    def __call__(self, x: Float[Tensor, "batch d_in"], moment: Moment) -> BatchNumbers:
        """As the protocol says."""
        sae, rule, dead, sparsity_scale = self._sae, self._rule, moment.dead, moment.sparsity_scale
        centred = x - sae.b_dec
        with torch_threads():
            encoder = (sae.W_enc.T, sae.b_enc)
            codes = positive(centred, *encoder) if rule.k is None else largest(centred, *encoder, rule.k)
            if codes is None:
                with torch.enable_grad():
                    return self._dense(x, moment)
            error, gradient, first = self._closed_form(x, centred, codes, rule.penalty * sparsity_scale)
        n_active = int(first[-1])
        loss = error
        if rule.penalty:
            loss += rule.penalty * sparsity_scale * codes.total() / len(x)
        if dead is not None and rule.aux_coefficient > 0:
            loss += self._add_auxiliary(x, gradient * (-len(x) / 2), dead)
        sae.b_dec.grad = gradient.sum(0) - sae.W_enc @ self._b_enc_gradient
        sae.W_enc.grad, sae.W_dec.grad = self._enc_gradient.T, self._dec_gradient
        sae.b_enc.grad = self._b_enc_gradient
        return BatchNumbers(loss, error, n_active / len(x), torch.from_numpy(np.diff(first) > 0))

    def _closed_form(
        self, x: Float[Tensor, "batch d_in"], centred: Float[Tensor, "batch d_in"], codes: Codes, penalty: float
    ) -> tuple[float, Float[Tensor, "batch d_in"], Int64[ndarray, " n"]]:
        """Fill the buffers; the error, its gradient by the reconstruction, and where each feature's codes begin."""
        size = len(codes.value)
        gradient, errors = torch.empty_like(x), np.empty(len(x), np.float32)
        value_gradient = np.empty(size, np.float32)
        b_dec, w_dec = self._sae.b_dec.numpy(), self._sae.W_dec.numpy()
        runs = (codes.start, codes.end, codes.feature, codes.value)
        kernels.reconstruct(x.numpy(), b_dec, w_dec, *runs, penalty, gradient.numpy(), value_gradient, errors)
        first = np.empty(self._sae.d_sae + 1, np.int64)
        token, values, gradients = np.empty(size, np.int32), np.empty(size, np.float32), np.empty(size, np.float32)
        kernels.by_feature(*runs, value_gradient, first, token, values, gradients)
        buffers = (self._enc_gradient.numpy(), self._dec_gradient.numpy(), self._b_enc_gradient.numpy())
        kernels.weight_gradients(centred.numpy(), gradient.numpy(), first, token, values, gradients, *buffers)
        return float(errors.mean(dtype=np.float64)), gradient, first

    def _add_auxiliary(
        self, x: Float[Tensor, "batch d_in"], residual: Float[Tensor, "batch d_in"], dead: Bool[Tensor, " d_sae"]
    ) -> float:
        """Add the gradients of the auxiliary loss, by autograd over the dead features alone; returns the loss."""
        sae = self._sae
        index = dead.nonzero().flatten()
        parts = [sae.W_enc.T[index], sae.W_dec[index], sae.b_enc[index]]
        with torch.enable_grad():
            w_enc, w_dec, b_enc = (part.detach().requires_grad_() for part in parts)
            pre = torch.nn.functional.linear(x - sae.b_dec.detach(), w_enc, b_enc)
            loss = self._rule.aux_coefficient * auxiliary_loss(pre, w_dec, residual, self._rule.aux_k)
            if not loss.requires_grad:  # no variance left in the residual
                return 0.0
            gradients = torch.autograd.grad(loss, (w_enc, w_dec, b_enc))
        for buffer, gradient in zip(
            (self._enc_gradient, self._dec_gradient, self._b_enc_gradient), gradients, strict=True
        ):
            buffer.index_add_(0, index, gradient)
        return float(loss.detach())


def choose_gradients(sae: TrainableSae, reference: bool = False) -> Gradients:
    """The sparse gradients where the architecture has a rule for them and lies on a CPU in float32, else autograd.

    The choice depends on the SAE and its device alone, so that equal runs give equal bits.
    """
    rule = None if reference else sae.sparse_rule()
    if rule is None or sae.W_dec.device.type != "cpu" or sae.W_dec.dtype != torch.float32:
        return AutogradGradients(sae)
    return SparseGradients(sae, rule)
